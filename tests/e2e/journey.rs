//! A truck drives, people see it, are warned, and unlock it: broker, bridge and simulator as processes of their
//! own, with the broker killed on the way; and the demo, which tells the same story in one process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use protocol::ProtocolVersion::V5;
use protocol::QoS;
use serde_json::Value;

use crate::broker_process::{Broker, Build, postrider};
use crate::raw_client::{Next, RawClient, message};

/// The whole story takes half a minute; a busy machine may need more.
const STORY_PATIENCE: Duration = Duration::from_secs(240);

const ROUTES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/firmware-sim/routes/helsinki.geojson");

/// A process that ends with the test.
struct Part(Child);

impl Part {
    fn start(mut command: Command, log: &Path) -> Self {
        let out = std::fs::File::create(log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stderr(out.try_clone().expect("the same file"))
            .stdout(out)
            .spawn()
            .expect("the binary starts");
        Self(child)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A webhook's receiver: answers 204 to every POST and passes its body on.
fn webhook() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/alerts", listener.local_addr().expect("an address"));
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || serve_posts(connection, &sender));
        }
    });
    (url, receiver)
}

fn serve_posts(connection: std::net::TcpStream, sender: &mpsc::Sender<Value>) -> Option<()> {
    let mut answers = connection.try_clone().ok()?;
    let mut requests = BufReader::new(connection);
    loop {
        let (mut length, mut key) = (0, None);
        loop {
            let mut line = String::new();
            requests.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
            let Some((name, value)) = line.trim().split_once(':') else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok()?,
                "idempotency-key" => key = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        requests.read_exact(&mut body).ok()?;
        answers.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()?;
        let alert: Value = serde_json::from_slice(&body).ok()?;
        assert_eq!(key.as_deref(), alert["id"].as_str(), "Idempotency-Key is the alert's id");
        sender.send(alert).ok()?;
    }
}

fn bridge(broker: &Broker, dir: &Path, url: &str) -> Part {
    let config = format!(
        "[[vehicle]]\ndevice = \"truck-1\"\nroute_file = {ROUTES:?}\nroute_name = \"route-1\"\n\
         fence = {{ name = \"Harbour depot\", lat = 60.171202, lon = 24.950738, radius_m = 60.0 }}\n\
         [[webhook]]\nurl = {url:?}\n[[command]]\nname = \"unlock\"\n"
    );
    let file = dir.join("bridge.toml");
    std::fs::write(&file, config).expect("a configuration");
    let mut command = postrider(Build::Release);
    command.arg("bridge").arg("--config").arg(file).args(["--broker", &broker.address().to_string()]);
    command.arg("--data-dir").arg(dir.join("bridge"));
    Part::start(command, &dir.join("bridge.log"))
}

fn truck(broker: &Broker, dir: &Path) -> Part {
    let mut command = postrider(Build::Release);
    command.args([
        "sim",
        "--devices",
        "1",
        "--detour",
        "1",
        "--speedup",
        "25",
        "--seed",
        "7",
        "--route",
        ROUTES,
    ]);
    command.args(["--broker", &broker.address().to_string()]).arg("--data-dir").arg(dir.join("sim"));
    Part::start(command, &dir.join("sim.log"))
}

/// Someone who reads and writes in `im/dispatch`, and comes back when the broker does.
struct Dispatcher<'a> {
    broker: &'a Broker,
    client: RawClient,
}

impl<'a> Dispatcher<'a> {
    fn join(broker: &'a Broker) -> Self {
        let (mut client, present) = broker.durable("dispatcher", V5);
        if !present {
            client.subscribe("im/dispatch", QoS::AtLeastOnce);
        }
        Self { broker, client: client.acknowledging() }
    }

    /// Waits for a message of this kind in the conversation.
    fn hear(&mut self, kind: &str, log_dir: &Path) -> Value {
        let begin = Instant::now();
        while begin.elapsed() < STORY_PATIENCE {
            let packet = match self.client.next_within(Duration::from_secs(1)) {
                Next::Packet(protocol::Packet::Publish(publish)) => publish,
                Next::Packet(_) | Next::Nothing => continue,
                Next::Closed => panic!("the broker {} closed", self.broker.address()),
            };
            let Ok(said) = serde_json::from_slice::<Value>(&packet.payload) else { continue };
            if said["kind"] == kind {
                return said;
            }
        }
        let log = |name| std::fs::read_to_string(log_dir.join(name)).unwrap_or_default();
        panic!("nothing of kind {kind}\n--- bridge\n{}\n--- sim\n{}", log("bridge.log"), log("sim.log"));
    }
}

#[test]
fn a_truck_is_seen_warned_about_and_unlocked_across_processes_and_a_crash() {
    let mut broker = Broker::start_with(Build::Release, None);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (url, alerts) = webhook();
    // The session of the dispatcher is there before anything happens.
    drop(Dispatcher::join(&broker));
    let _bridge = bridge(&broker, dir.path(), &url);
    let _truck = truck(&broker, dir.path());

    let mut dispatcher = Dispatcher::join(&broker);
    let deviation = dispatcher.hear("route_deviation", dir.path());
    assert_eq!(deviation["device"], "truck-1");
    drop(dispatcher);

    // Bridge, truck and dispatcher all come back by themselves, and nothing of the story is lost.
    broker.crash_and_return();
    let mut dispatcher = Dispatcher::join(&broker);
    dispatcher.hear("back_on_route", dir.path());
    let arrived = dispatcher.hear("arrived", dir.path());
    assert_eq!(arrived["fence"], "Harbour depot");

    // In the fence it still rolls for a while: until it stands the lock refuses for just that reason.
    loop {
        dispatcher.client.send_publish(message("im/dispatch", "/unlock truck-1", QoS::AtLeastOnce));
        let result = dispatcher.hear("command_result", dir.path());
        assert_eq!(result["request"]["from"], "anon:dispatcher", "{result}");
        let command = &result["command"];
        if command["status"] == "done" {
            break;
        }
        assert_eq!(command["status"], "rejected", "{result}");
        assert!(command["reason"].as_str().is_some_and(|why| why.contains("speed")), "{result}");
    }
    let receipt = dispatcher.hear("command_receipt", dir.path());
    assert_eq!(receipt["device"], "truck-1", "{receipt}");

    // The webhook was told the same alerts, each once however often it was tried.
    let mut told: Vec<(String, String)> = Vec::new();
    while told.len() < 3 {
        let alert = alerts.recv_timeout(STORY_PATIENCE).expect("a POST");
        let of = |name: &str| alert[name].as_str().expect("text").to_owned();
        if !told.iter().any(|(id, _)| *id == of("id")) {
            told.push((of("id"), of("kind")));
        }
    }
    let kinds: Vec<&str> = told.iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["route_deviation", "back_on_route", "arrived"]);
}

#[test]
fn the_demo_tells_its_story_to_the_end_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut command = postrider(Build::Release);
    command.args(["demo", "--once"]).current_dir(dir.path());
    let mut demo = Part::start(command, log.path());
    let begin = Instant::now();
    let status = loop {
        match demo.0.try_wait().expect("a child can be waited for") {
            Some(status) => break status,
            None if begin.elapsed() > STORY_PATIENCE + Duration::from_secs(30) => {
                panic!("the demo does not end")
            }
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    let story = std::fs::read_to_string(log.path()).expect("the story");
    assert!(status.success(), "{status}:\n{story}");
    for step in ["route deviation", "back on route", "arrived", "/unlock truck-1", "unlock done", "delivered"]
    {
        assert!(story.contains(step), "no {step:?} in:\n{story}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("the directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_route_file_that_is_no_route_is_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let files: [(&str, &[u8]); 6] = [
        ("no.geojson", b"{\"type\":\"Nonsense\"}"),
        ("point.geojson", b"{\"type\":\"Feature\",\"properties\":{},\"geometry\":{\"type\":\"Point\",\"coordinates\":[1,2]}}"),
        ("empty.gpx", b""),
        ("cut.gpx", b"<?xml version=\"1.0\"?><gpx version=\"1.1\"><trk><trkseg><trkpt lat=\"1\""),
        ("bytes.gpx", b"\xff\xfe\x00\x01"),
        ("far.geojson", b"{\"type\":\"LineString\",\"coordinates\":[[24.9,60.1],[24.9,600.1]]}"),
    ];
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        let output = postrider(Build::Test)
            .args(["sim", "--broker", "127.0.0.1:0", "--route"])
            .arg(&path)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{name} must be refused");
        assert!(err.contains(name) && !err.contains("panicked"), "{name} must be named: {err}");
    }
}
