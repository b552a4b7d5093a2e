//! Vectors: bytes in, bytes expected, as data in `tests/vectors/`, run against the engine in memory and against
//! the running broker over each transport.
//!
//! `format` and `bytes` read the files, `runner` plays them, `memory` and `sockets` are where they are played.

mod bytes;
mod format;
mod memory;
mod runner;
mod sockets;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use protocol::ProtocolVersion;
use rustls::version::{TLS12, TLS13};

use self::format::Vector;
use self::memory::Memory;
use self::sockets::Sockets;
use crate::broker_process::Broker;
use crate::transport::{Door, make_certificate, trusting};

/// Vectors that run at the same time against one process: most of them wait for answers, some for time.
const AT_ONCE: usize = 24;

/// Reads every vector, in the order of files and lines.
fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the folder of the vectors")
        .map(|entry| entry.expect("a file of the vectors").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "vec"))
        .collect();
    files.sort();
    let mut vectors = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a vector file is text");
        let name = path.file_stem().expect("a file has a name").to_string_lossy();
        vectors.extend(format::parse(&name, &text).unwrap_or_else(|e| panic!("{e}")));
    }
    assert!(vectors.len() > 100, "only {} vectors were found", vectors.len());
    vectors
}

/// Returns the length of the packet at the start of `bytes`, if it is there as a whole.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            let whole = 2 + at + length;
            return (bytes.len() >= whole).then_some(whole);
        }
    }
    None
}

/// One way to run a vector.
#[derive(Clone)]
struct Run<'a> {
    vector: &'a Vector,
    version: ProtocolVersion,
    /// Which value of the vector's variable.
    value: Option<usize>,
    /// The run's own part of topics and client ids.
    token: String,
}

impl Run<'_> {
    fn at(&self, place: &mut dyn runner::Place) -> Result<(), String> {
        let Self { vector, version, value, token } = self;
        runner::run(vector, *version, *value, token, place).map_err(|what| {
            let value = value.map(|v| format!(", value {}", v + 1)).unwrap_or_default();
            format!("{}.vec: {} ({version:?}{value}): {what}", vector.file, vector.name)
        })
    }

    fn lets_time_pass(&self) -> bool {
        self.vector.steps.iter().any(|s| matches!(s.action, format::Action::Pass { .. }))
    }
}

/// Every vector in each of its versions, with each value of its variable.
fn runs(vectors: &[Vector]) -> Vec<Run<'_>> {
    let mut runs = Vec::new();
    for vector in vectors {
        let values: Vec<_> = match &vector.over {
            None => vec![None],
            Some((_, values)) => (0..values.len()).map(Some).collect(),
        };
        for version in &vector.versions {
            for value in &values {
                let token = format!("v{:04}", runs.len());
                runs.push(Run { vector, version: *version, value: *value, token });
            }
        }
    }
    runs
}

fn each_vector_is_answered_in_memory(piece_bytes_max: usize) {
    let vectors = vectors();
    let mut wrong = Vec::new();
    for run in runs(&vectors).into_iter().filter(|run| !run.vector.process_only) {
        wrong.extend(run.at(&mut Memory::new(piece_bytes_max)).err());
    }
    assert!(wrong.is_empty(), "{} of the vectors fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_engine_in_memory_answers_every_vector() {
    each_vector_is_answered_in_memory(usize::MAX);
}

#[test]
fn packets_that_arrive_byte_by_byte_are_answered_alike() {
    each_vector_is_answered_in_memory(1);
}

/// A broker and the way into it.
struct Target {
    door: Door,
    /// Ends when the target is dropped.
    _broker: Broker,
    /// What the broker was configured with lives as long as it.
    _dir: tempfile::TempDir,
}

/// Starts a broker with the listener that the test is about; `None` is the plain one.
fn target(listener: Option<fn(&Path) -> String>, door: fn(&Broker, &Path) -> Door) -> Target {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broker = match listener {
        None => Broker::start(),
        Some(config) => Broker::start_configured(&config(dir.path())),
    };
    Target { door: door(&broker, dir.path()), _broker: broker, _dir: dir }
}

/// A listener named "way" on a port, with a certificate where its transport needs one.
fn listener(transport: &str, dir: &Path) -> String {
    let mut config =
        format!("[[listener]]\nname = \"way\"\ntransport = {transport:?}\nlisten = \"127.0.0.1:0\"\n");
    if ["tls", "wss"].contains(&transport) {
        make_certificate(dir);
        let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
        config.push_str(&format!("certificate = {certificate:?}\nkey = {key:?}\n"));
    }
    config
}

fn way(broker: &Broker) -> SocketAddr {
    broker.listener("way").parse().expect("an address")
}

/// Runs every vector against a process, those that need it against one of their own.
fn each_vector_is_answered_at(start: impl Fn() -> Target + Sync) {
    let vectors = vectors();
    let mut waiting: Vec<_> = runs(&vectors).into_iter().filter(|run| !run.vector.memory_only).collect();
    // The last are taken first: those that let time pass do it while the others work.
    waiting.sort_by_key(Run::lets_time_pass);
    let waiting = Mutex::new(waiting);
    let wrong = Mutex::new(Vec::new());
    let common = start();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no thread panics with it").pop();
                    let Some(run) = next else { return };
                    let result = if run.vector.alone {
                        let own = start();
                        run.at(&mut Sockets::new(&own.door))
                    } else {
                        run.at(&mut Sockets::new(&common.door))
                    };
                    wrong.lock().expect("no thread panics with it").extend(result.err());
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no thread panics with it");
    assert!(wrong.is_empty(), "{} of the vectors fail:\n{}", wrong.len(), wrong.join("\n"));
}

// [MQTT-4.2.0-1], [MQTT-7.1.1-1] (3.1.1)
#[test]
fn the_broker_answers_every_vector_over_tcp() {
    each_vector_is_answered_at(|| target(None, |broker, _| Door::Tcp(broker.address())));
}

#[test]
fn the_broker_answers_every_vector_over_a_unix_socket() {
    let listener = |dir: &Path| {
        let path = dir.join("mqtt.sock");
        format!("[[listener]]\nname = \"local\"\ntransport = \"unix\"\nlisten = {path:?}\n")
    };
    each_vector_is_answered_at(|| {
        target(Some(listener), |broker, _| Door::Unix(broker.listener("local").into()))
    });
}

#[test]
fn the_broker_answers_every_vector_over_tls() {
    each_vector_is_answered_at(|| {
        target(Some(|dir| listener("tls", dir)), |broker, dir| Door::Tls(way(broker), trusting(dir, &TLS13)))
    });
}

// [MQTT-6.0.0-2], [MQTT-6.0.0-2] (3.1.1)
#[test]
fn the_broker_answers_every_vector_over_websocket() {
    each_vector_is_answered_at(|| {
        target(Some(|dir| listener("ws", dir)), |broker, _| Door::WebSocket(way(broker)))
    });
}

// [MQTT-6.0.0-2], [MQTT-6.0.0-2] (3.1.1)
#[test]
fn the_broker_answers_every_vector_over_secure_websocket() {
    each_vector_is_answered_at(|| {
        target(Some(|dir| listener("wss", dir)), |broker, dir| {
            Door::SecureWebSocket(way(broker), trusting(dir, &TLS12))
        })
    });
}

#[test]
fn vectors_have_names_of_their_own() {
    let vectors = vectors();
    let mut names: Vec<_> = vectors.iter().map(|v| (&v.file, &v.name)).collect();
    names.sort();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
