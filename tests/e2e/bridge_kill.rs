//! The bridge is killed again and again while twenty sinks flap: no alert is lost, none comes twice to whoever can tell repeats, and to the others at most one
//! a kill.
//!
//! `POSTRIDER_TEST_BRIDGE_KILLS` (12) and `POSTRIDER_TEST_BRIDGE_KILL_MS` (1000) make it longer: 120 kills every 5000 ms are ten minutes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use protocol::{ProtocolVersion::V5, QoS};

use crate::broker_process::{Broker, Build, postrider};
use crate::raw_client::message;

/// What is left after the last kill takes seconds; a busy machine may need more.
const PATIENCE: Duration = Duration::from_secs(180);
/// Sinks that know a repeat by its key, and as many that do not.
const SINKS_EACH: usize = 10;
/// One alert every so often.
const ALERT_EVERY: Duration = Duration::from_millis(25);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// What a sink has taken: by alert number, the keys it came under and how often without counting repeats of a key.
#[derive(Default)]
struct Taken {
    times: HashMap<u64, Vec<String>>,
}

/// A server that refuses, breaks off or answers, by chance.
struct Sink {
    url: String,
    knows_repeats: bool,
    taken: Arc<Mutex<Taken>>,
}

impl Sink {
    fn start(knows_repeats: bool, seed: u64) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let taken = Arc::new(Mutex::new(Taken::default()));
        let shared = Arc::clone(&taken);
        thread::spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            // A connection that its client gave up before it was accepted is no end.
            for connection in listener.incoming().flatten() {
                let (taken, seed) = (Arc::clone(&shared), rng.u64(..));
                thread::spawn(move || {
                    serve(connection, knows_repeats, &taken, fastrand::Rng::with_seed(seed))
                });
            }
        });
        Sink { url, knows_repeats, taken }
    }

    fn config(&self, name: &str) -> String {
        let kind = if self.knows_repeats { "webhook" } else { "ntfy\"\nquota = \"none" };
        format!("[[sink]]\nname = {name:?}\ntype = \"{kind}\"\nurl = {:?}\n", self.url)
    }
}

fn serve(
    connection: TcpStream,
    knows_repeats: bool,
    taken: &Mutex<Taken>,
    mut rng: fastrand::Rng,
) -> Option<()> {
    let mut answers = connection.try_clone().ok()?;
    let mut requests = BufReader::new(connection);
    loop {
        let (mut length, mut key) = (0, String::new());
        loop {
            let mut line = String::new();
            requests.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
            match line.trim().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().ok()?
                }
                Some((name, value)) if name.eq_ignore_ascii_case("idempotency-key") => {
                    key = value.trim().to_owned()
                }
                Some(_) => {}
                None if line.trim().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        requests.read_exact(&mut body).ok()?;
        match rng.u8(..100) {
            0..20 => {
                answers.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").ok()?;
                continue;
            }
            20..25 => return None,
            _ => {}
        }
        let text = String::from_utf8_lossy(&body);
        let after = text.split("alert number ").nth(1)?;
        let number: String = after.chars().take_while(char::is_ascii_digit).collect();
        {
            let mut taken = taken.lock().expect("no thread panics with it");
            let keys = taken.times.entry(number.parse().ok()?).or_default();
            if !(knows_repeats && keys.contains(&key)) {
                keys.push(key);
            }
        }
        // Taken, and the answer does not get through: only a key can tell the repeat.
        if knows_repeats && rng.u8(..100) < 5 {
            return None;
        }
        answers.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}

/// The bridge's process, killed when it is dropped.
struct Bridge(Child);

impl Bridge {
    fn start(broker: &Broker) -> Bridge {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(broker.dir().join("bridge.log"));
        let log = log.expect("a log file");
        let mut command = postrider(Build::Release);
        command.arg("bridge").arg("--config").arg(broker.dir().join("bridge.toml"));
        command.args(["--broker", &broker.address().to_string(), "--log", "warn"]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Bridge(command.spawn().expect("the binary starts"))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configure(broker: &Broker, sinks: &[Sink]) {
    let mut config = "[outbox]\nretry_min_ms = 5\nretry_max_ms = 100\n".to_owned();
    let names: Vec<_> = (0..sinks.len()).map(|at| format!("sink-{at}")).collect();
    for (sink, name) in sinks.iter().zip(&names) {
        config += &sink.config(name);
    }
    config += &format!(
        "[[rule]]\nname = \"door\"\ntopic = \"dev/+/event/door\"\ntext = \"alert number {{{{ payload.n }}}}\"\nto = {names:?}\n"
    );
    std::fs::write(broker.dir().join("bridge.toml"), config).expect("a configuration");
}

fn alert(n: u64) -> protocol::Publish {
    message(&format!("dev/truck-{}/event/door", n % 7), format!("{{\"n\":{n}}}"), QoS::AtLeastOnce)
}

/// Publishes until it is told to stop; returns how many were acknowledged, numbered from 1.
fn publish(broker: &Broker, stop: &AtomicBool) -> u64 {
    let mut client = broker.client("trucks", V5);
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        last += 1;
        client.publish(alert(last)).expect("an acknowledgement");
        thread::sleep(ALERT_EVERY);
    }
    last
}

/// Waits until the bridge's session is at the broker: an alert with the number 0 goes round.
fn wait_for_session(broker: &Broker, sinks: &[Sink]) {
    let begin = Instant::now();
    let mut client = broker.client("first", V5);
    let is_there = |sink: &Sink| sink.taken.lock().expect("no thread panics with it").times.contains_key(&0);
    while !sinks.iter().all(is_there) {
        assert!(begin.elapsed() < PATIENCE, "the bridge tells nothing");
        client.publish(alert(0)).expect("an acknowledgement");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn alerts_survive_every_kill_of_the_bridge_and_flapping_sinks() {
    let kills = number("POSTRIDER_TEST_BRIDGE_KILLS", 12);
    let every = Duration::from_millis(number("POSTRIDER_TEST_BRIDGE_KILL_MS", 1_000));
    let broker = Broker::start_with(Build::Release, None);
    let sinks: Vec<_> = (0..2 * SINKS_EACH).map(|at| Sink::start(at < SINKS_EACH, at as u64)).collect();
    configure(&broker, &sinks);
    let mut bridge = Bridge::start(&broker);
    wait_for_session(&broker, &sinks);
    let stop = AtomicBool::new(false);
    let (last, _bridge) = thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(&broker, &stop));
        for _ in 0..kills {
            thread::sleep(every);
            drop(bridge);
            bridge = Bridge::start(&broker);
        }
        stop.store(true, Ordering::Relaxed);
        (publisher.join().expect("the publisher"), bridge)
    });
    let begin = Instant::now();
    for (at, sink) in sinks.iter().enumerate() {
        let missing = || -> Vec<u64> {
            let taken = sink.taken.lock().expect("no thread panics with it");
            (1..=last).filter(|n| !taken.times.contains_key(n)).collect()
        };
        while !missing().is_empty() {
            let log = || std::fs::read_to_string(broker.dir().join("bridge.log")).unwrap_or_default();
            let said = || -> Vec<String> { log().lines().rev().take(20).map(str::to_owned).collect() };
            assert!(
                begin.elapsed() < PATIENCE,
                "sink {at} never got {:?} of {last}; the newest lines: {:#?}",
                missing(),
                said()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
    let mut doubled_most = 0;
    for (at, sink) in sinks.iter().enumerate() {
        let taken = sink.taken.lock().expect("no thread panics with it");
        let doubled: usize = (1..=last).map(|n| taken.times[&n].len() - 1).sum();
        let allowed = if sink.knows_repeats { 0 } else { kills as usize };
        assert!(doubled <= allowed, "sink {at} got {doubled} of {last} alerts twice in {kills} kills");
        doubled_most = doubled_most.max(doubled);
    }
    println!(
        "{last} alerts to {} sinks over {kills} kills: none lost, {doubled_most} twice at most at a sink that knows no repeats",
        sinks.len()
    );
}
