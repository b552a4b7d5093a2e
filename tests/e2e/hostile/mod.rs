//! Thousands of clients that each do one bad thing, while a witness pair goes on as if they were not there.
//!
//! What must hold is asserted: the witness loses nothing and stays in order, every hostile connection ends within
//! its time, memory stays bounded, descriptors come back, and the broker serves on. What depends on the machine, the
//! witness's latency at rest and under attack, is printed for docs/benchmarks.md: run it alone with `--nocapture`.
//! `POSTRIDER_TEST_HOSTILE` sets another number of connections, `POSTRIDER_TEST_SEED` another seed and
//! `POSTRIDER_TEST_DEED` a part of the name of the only deeds to do. With `SYSTEM_TEST_PEER=mosquitto` mosquitto is attacked,
//! at its one door, and nothing is asked of it but that the witness loses nothing: for its numbers.

mod attack;
mod deeds;
mod door_deeds;
mod process;
pub(super) mod witness;

use std::time::{Duration, Instant};

use protocol::{ProtocolVersion, QoS};

use self::{
    attack::{Attack, END_WITHIN, LEAVE_AFTER},
    process::{Process, metric},
    witness::{Summary, Witness},
};
use crate::broker_process::{Broker, Build};
use crate::transport::make_certificate;

/// Connections that do one bad thing each.
const CONNECTIONS: usize = 10_000;

/// Connections that come and go without a word, on top: what they hold must come back.
const SILENT: usize = 10_000;

/// Chance is a function of this and of a connection's number.
const SEED: u64 = 0x5eed_0003;

/// How long the witness is measured at rest.
const REST: Duration = Duration::from_secs(4);

/// A broker whose bounds are small enough to be reached here.
const CONFIG: &str = r#"
[mqtt]
connect_timeout_s = 2
handshake_timeout_s = 2
handshakes_max = 100
close_timeout_s = 2
packet_bytes_max = 262144
unsent_bytes_high = 131072
unsent_bytes_low = 32768
unsent_bytes_max = 4194304
[session]
sessions_max = 2000
expiry_max_s = 5
[queue]
messages_max = 1000
bytes_max = 1048576
[retained]
messages_max = 1000
bytes_max = 4194304
[limits]
buffers_bytes_max = 67108864
unconnected_max = 500
[log]
filter = "error"
[[listener]]
name = "web"
transport = "ws"
listen = "127.0.0.1:0"
[[listener]]
name = "behind-proxy"
listen = "127.0.0.1:0"
proxy_protocol = true
[auth]
anonymous = "allow"
"#;

/// Memory the broker may have at most, over what it had before the attack: the bounds above, each twice for
/// what the allocator keeps.
const MEMORY_MAX: u64 = 400 * 1024 * 1024;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn ten_thousand_hostile_clients_disturb_nobody() {
    let connections = number("POSTRIDER_TEST_HOSTILE", CONNECTIONS as u64) as usize;
    let seed = number("POSTRIDER_TEST_SEED", SEED);
    let certificates = tempfile::tempdir().expect("a temporary directory");
    make_certificate(certificates.path());
    let dir = certificates.path().display();
    let tls = format!(
        "[[listener]]\nname = \"tls\"\ntransport = \"tls\"\nlisten = \"127.0.0.1:0\"\n\
         certificate = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"\n"
    );
    let broker = Broker::start_with(Build::Release, Some(&format!("{CONFIG}{tls}")));
    let process = Process::of(broker.pid());
    let witness = Witness::start(broker.address());
    let rest = witness.measure_for(REST);
    let (sockets, memory) = (process.sockets(), process.memory_bytes());

    let started = Instant::now();
    let only = std::env::var("POSTRIDER_TEST_DEED").unwrap_or_default().leak();
    let silent = if only.is_empty() { SILENT } else { 0 };
    let listener = |name| match broker.is_peer() {
        true => broker.address(),
        false => broker.listener(name).parse().expect("an address"),
    };
    let attack = Attack {
        broker: broker.address(),
        tls: listener("tls"),
        web_socket: listener("web"),
        proxy: listener("behind-proxy"),
        seed,
        connections,
        silent,
        end_within: if broker.is_peer() { LEAVE_AFTER } else { END_WITHIN },
        only,
    };
    let done = attack.run();
    let took = started.elapsed();
    let attacked = witness.stop();

    report(&rest, &attacked, took, &done, process.memory_peak_bytes());
    assert_eq!(attacked.lost, 0, "the witness lost messages");
    if broker.is_peer() {
        return;
    }
    assert!(done.unended.is_empty(), "seed {seed:#x}: not ended in time: {:?}", done.unended);
    let peak = process.memory_peak_bytes();
    assert!(peak < memory + MEMORY_MAX, "memory went from {memory} to {peak} bytes");
    // Two sockets are the witness's, which has left.
    process.wait_for_sockets(sockets - 2);
    assert_eq!(metric(broker.http(), "postrider_sockets"), 0);
    assert_eq!(metric(broker.http(), "postrider_buffered_bytes"), 0);
    serves_on(&broker);
}

/// Somebody new is served as if nothing had been.
fn serves_on(broker: &Broker) {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut reader = broker.client("after-reader", version);
        reader.subscribe("after/#", QoS::ExactlyOnce);
        let mut writer = broker.client("after-writer", version);
        writer.publish_accepted("after/it", "all");
        reader.expect_message("after/it", "all");
    }
}

fn report(rest: &Summary, attacked: &Summary, took: Duration, done: &attack::Done, peak: u64) {
    let ratio = attacked.p99.as_secs_f64() / rest.p99.as_secs_f64().max(1e-9);
    println!(
        "hostile: {} connections in {:.1} s, memory at most {} MB",
        done.ended,
        took.as_secs_f64(),
        peak >> 20
    );
    for (deed, count) in &done.by_deed {
        println!("hostile:   {count:>6} {deed}");
    }
    println!("hostile: witness at rest      {rest}");
    println!("hostile: witness under attack {attacked}");
    println!("hostile: p99 ratio {ratio:.2}");
}
