//! Listeners of the binary: certificates from `postrider certs`, foreign clients, and connections that come to no good.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use protocol::ProtocolVersion;

use crate::broker_process::{Broker, Build, postrider};
use crate::raw_client::PATIENCE;

/// Runs `postrider certs` in a directory.
fn certs(dir: &Path, args: &[&str]) -> Output {
    postrider(Build::Test).arg("certs").args(args).current_dir(dir).output().expect("the binary runs")
}

fn made(dir: &Path, args: &[&str]) -> String {
    let output = certs(dir, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The lines that the command tells to put into the configuration, on a free port, with full paths.
fn told_config(told: &str, dir: &Path) -> String {
    let lines =
        told.lines().skip_while(|line| !line.contains("[[listener]]")).take_while(|line| !line.is_empty());
    let config = lines.map(str::trim).collect::<Vec<_>>().join("\n");
    let config = config.replace(":8883\"", ":0\"");
    config.replace("\"certs/", &format!("\"{}/certs/", dir.display()))
}

/// The arguments that the command tells for a client, with the port that it is.
fn told_arguments(told: &str, client: &str, listen: &str) -> Vec<String> {
    let line = told.lines().map(str::trim).find(|line| line.starts_with(client)).expect("a command to try");
    let port = listen.rsplit_once(':').expect("HOST:PORT").1;
    let words = line.split(' ').skip(1).map(|word| word.trim_matches('\''));
    words.map(|word| if word == "8883" { port.to_owned() } else { word.to_owned() }).collect()
}

#[test]
fn what_the_certs_command_tells_to_do_works() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for devices in [&[][..], &["--device", "truck-1", "--device", "truck-2"]] {
        let told = made(dir.path(), &[&["--force"], devices].concat());
        let broker = Broker::start_configured(&told_config(&told, dir.path()));
        let listen = broker.listener("tls");
        // Retained, so that it is there whenever the subscriber comes.
        let published = Command::new("mosquitto_pub")
            .args(told_arguments(&told, "mosquitto_pub", listen))
            .args(["-r", "-q", "1"])
            .current_dir(dir.path())
            .status()
            .expect("mosquitto_pub is installed");
        assert!(published.success());
        let received = Command::new("mosquitto_sub")
            .args(told_arguments(&told, "mosquitto_sub", listen))
            .args(["-C", "1", "-W", "60", "-V", "5", "-F", "%t %p %P"])
            .current_dir(dir.path())
            .output()
            .expect("mosquitto_sub is installed");
        let received = String::from_utf8_lossy(&received.stdout);
        assert!(received.starts_with("try/this hello "), "{received}");
        // The last device published: its certificate is its user.
        assert_eq!(received.contains("im-from:truck-2"), !devices.is_empty(), "{received}");
    }
}

#[test]
fn certificates_are_never_overwritten_unless_told_so_and_keys_are_for_their_owner_only() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    made(dir.path(), &["--host", "broker.example", "--device", "truck-1"]);
    let read = |name: &str| fs::read(dir.path().join("certs").join(name)).expect("it was made");
    let names = ["ca.crt", "ca.key", "server.crt", "server.key", "truck-1.crt", "truck-1.key"];
    let before = names.map(read);
    for name in names {
        let mode =
            fs::metadata(dir.path().join("certs").join(name)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, if name.ends_with(".key") { 0o600 } else { 0o644 }, "{name}");
    }
    for args in
        [&[][..], &["--device", "truck-1"], &["--device", "truck-2", "--device", "truck-1"], &["--host", "a"]]
    {
        let output = certs(dir.path(), args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains("already there: remove them, or use --force"), "{error}");
    }
    assert_eq!(names.map(read), before);
    assert!(!dir.path().join("certs/truck-2.crt").exists(), "nothing is written when something is wrong");

    // One more device, by the same authority.
    made(dir.path(), &["--device", "truck-2"]);
    assert_eq!(names.map(read), before);
    for device in ["truck-1", "truck-2"] {
        let verified = Command::new("openssl")
            .args([
                "verify",
                "-purpose",
                "sslclient",
                "-CAfile",
                "certs/ca.crt",
                &format!("certs/{device}.crt"),
            ])
            .current_dir(dir.path())
            .output()
            .expect("openssl is installed");
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
    fs::remove_file(dir.path().join("certs/ca.key")).expect("it is there");
    let output = certs(dir.path(), &["--device", "truck-3"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there without certs/ca.key"));
    made(dir.path(), &["--force"]);
    assert_ne!(read("ca.crt"), before[0]);
}

const LISTENERS: &str = r#"
[mqtt]
handshake_timeout_s = 2
connect_timeout_s = 2
[abuse]
loopback = "nothing"
[[listener]]
name = "tls"
transport = "tls"
listen = "127.0.0.1:0"
certificate = "DIR/certs/server.crt"
key = "DIR/certs/server.key"
[[listener]]
name = "wss"
transport = "wss"
listen = "127.0.0.1:0"
certificate = "DIR/certs/server.crt"
key = "DIR/certs/server.key"
[[listener]]
name = "ws"
transport = "ws"
listen = "127.0.0.1:0"
[[listener]]
name = "proxied"
listen = "127.0.0.1:0"
proxy_protocol = true
anonymous = true
[[listener]]
name = "unix"
transport = "unix"
listen = "DIR/mqtt.sock"
"#;

fn start_all(dir: &Path) -> Broker {
    made(dir, &[]);
    Broker::start_configured(&LISTENERS.replace("DIR", &dir.display().to_string()))
}

#[test]
fn openssl_agrees_with_us_about_tls() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broker = start_all(dir.path());
    for (version, expected) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3"), ("-tls1_1", "")] {
        let mut client = Command::new("openssl")
            .args(["s_client", "-connect", broker.listener("tls"), "-servername", "localhost", version])
            .args(["-CAfile", "certs/ca.crt", "-verify_return_error", "-verify_hostname", "localhost"])
            .args(["-alpn", "mqtt", "-brief"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl is installed");
        // CONNECT of 3.1.1 with client id "a", and DISCONNECT: the broker's answer is CONNACK and the end.
        let packets = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
        let mut stdin = client.stdin.take().expect("it is piped");
        let _ = stdin.write_all(packets);
        let mut connack = [0; 4];
        let read = client.stdout.take().expect("it is piped").read_exact(&mut connack);
        drop(stdin);
        let output = client.wait_with_output().expect("it ends with its input");
        let told = String::from_utf8_lossy(&output.stderr);
        if expected.is_empty() {
            assert!(read.is_err(), "TLS 1.1 is served: {told}");
            continue;
        }
        assert_eq!(connack, [0x20, 2, 0, 0], "{told}");
        assert!(told.contains(&format!("Protocol version: {expected}")), "{told}");
        assert!(told.contains("Verification: OK"), "{told}");
    }
}

/// What a connection that comes to no good begins with.
const BEGINNINGS: [&[u8]; 7] = [
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x16\x03\x01\x00\x05hello",
    b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"PROXY TCP4 1.2.3.4 ",
    b"\x10\xff\xff\xff\x7f\x00\x04MQTT",
];

fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the broker runs").count()
}

/// Opens connections, says something, and leaves in one way or another.
fn come_to_no_good(connect: &dyn Fn() -> Box<dyn Connection>, count: usize) {
    let mut open = Vec::new();
    for i in 0..count {
        let mut stream = connect();
        // The broker may have enough of it before all is said.
        let _ = stream.write_all(BEGINNINGS[i % BEGINNINGS.len()]);
        match i % 3 {
            0 => drop(stream),
            1 => stream.reset(),
            // Stays, until the broker ends it.
            _ => open.push(stream),
        }
        if open.len() == 50 {
            open.clear();
        }
    }
}

trait Connection: Read + Write {
    /// Leaves without a goodbye.
    fn reset(self: Box<Self>);
}

impl Connection for TcpStream {
    fn reset(self: Box<Self>) {
        // Unread or unsent data makes the end a reset.
        let _ = self.shutdown(std::net::Shutdown::Read);
    }
}

impl Connection for UnixStream {
    fn reset(self: Box<Self>) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

#[test]
fn thousands_of_connections_that_come_to_no_good_leave_no_descriptor_behind() {
    const EACH: usize = 2_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broker = start_all(dir.path());
    let mut client = broker.client("witness", ProtocolVersion::V5);
    let before = open_descriptors(broker.pid());
    for name in ["mqtt", "tls", "wss", "ws", "proxied", "http", "unix"] {
        if name == "unix" {
            let path = dir.path().join("mqtt.sock");
            come_to_no_good(&|| Box::new(UnixStream::connect(&path).expect("the broker listens")), EACH);
            continue;
        }
        let address: SocketAddr = match name {
            "mqtt" => broker.address(),
            "http" => broker.http(),
            name => broker.listener(name).parse().expect("an address"),
        };
        let connect =
            || -> Box<dyn Connection> { Box::new(TcpStream::connect(address).expect("the broker listens")) };
        come_to_no_good(&connect, EACH);
    }
    let deadline = Instant::now() + PATIENCE;
    while open_descriptors(broker.pid()) > before {
        let open = open_descriptors(broker.pid());
        assert!(Instant::now() < deadline, "{open} descriptors are open, {before} were before");
        std::thread::sleep(Duration::from_millis(20));
    }
    client.publish_accepted("still/here", "yes");
}
