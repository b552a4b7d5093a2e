//! The gateway's memory over a long run, while its broker comes and goes.
//!
//! Half a minute by default. The run that docs/gateway.md tells of:
//!
//! ```sh
//! cargo build --profile gateway -p postrider-gateway
//! POSTRIDER_TEST_GROWTH_S=900 POSTRIDER_TEST_GATEWAY=target/gateway/postrider-gateway \
//!     cargo test --test system do_not_make_it_grow -- --nocapture
//! ```

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use protocol::{ProtocolVersion, QoS};

use super::gateway::{Running, Vehicle, gateway};
use crate::broker_process::{Broker, Build};
use crate::raw_client::RawClient;

const SECONDS: &str = "POSTRIDER_TEST_GROWTH_S";
const GATEWAY: &str = "POSTRIDER_TEST_GATEWAY";
/// Looks at the memory over the whole run.
const LOOKS: u32 = 15;
/// The broker goes once in so many looks, for one of them.
const GOES_EVERY: u32 = 3;
/// What a run may need in its last third above what it needed in its second: buffers that a larger backlog has filled once.
const GROWTH_KB_MAX: u64 = 512;

/// What is resident, and how much of it is the program's own and not its files'.
fn resident_kb(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the gateway runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the field is there");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    (field("VmRSS:"), field("RssAnon:"))
}

#[test]
fn twenty_fixes_a_second_and_a_broker_that_comes_and_goes_do_not_make_it_grow() {
    let seconds: u32 = std::env::var(SECONDS).map_or(30, |text| text.parse().expect("seconds"));
    let mut broker = Broker::start_with(Build::Release, None);
    let vehicle = Vehicle::with_a_fix_every(50);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let config = folder.path().join("gateway.toml");
    let text = format!(
        "device = \"truck-7\"\ndata_dir = \"data\"\n[broker]\naddress = \"{}\"\n[gps]\npath = {:?}\n[lock]\npath = {:?}\n\
         fence = {{ lat = 60.1708, lon = 24.9375, radius_m = 80 }}\n",
        broker.address(),
        vehicle.gps,
        vehicle.lock,
    );
    std::fs::write(&config, text).expect("it can be written");
    let program = std::env::var_os(GATEWAY).map_or_else(gateway, Into::into);
    let child = Command::new(program).arg(&config).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let running = Running(child.expect("the gateway starts"));
    let began = Instant::now();
    let mut anonymous_kb = Vec::new();
    for look in 1..=LOOKS {
        let until = began + Duration::from_secs(seconds.into()) * look / LOOKS;
        thread::sleep(until.saturating_duration_since(Instant::now()));
        let (all_kb, own_kb) = resident_kb(running.0.id());
        let is_away = look % GOES_EVERY == 0;
        println!(
            "{:>4} s: {all_kb} KB resident, {own_kb} KB of it its own{}",
            began.elapsed().as_secs(),
            if is_away { ", the broker goes" } else { "" }
        );
        anonymous_kb.push(own_kb);
        if is_away {
            broker.kill();
        } else if look % GOES_EVERY == 1 && look > 1 {
            broker.return_to_its_address();
        }
    }
    // What was recorded meanwhile comes.
    broker.return_to_its_address();
    let mut office = RawClient::connect(broker.address(), "office", ProtocolVersion::V5);
    office.subscribe("dev/truck-7/telemetry/gps", QoS::AtLeastOnce);
    office.acknowledging().receive_where("a position", |packet| match packet {
        protocol::Packet::Publish(publish) => Some(publish.payload.len()),
        _ => None,
    });
    let third = anonymous_kb.len() / 3;
    let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
    let (before, after) = (most(&anonymous_kb[third..2 * third]), most(&anonymous_kb[2 * third..]));
    assert!(after <= before + GROWTH_KB_MAX, "it has grown from {before} to {after} KB: {anonymous_kb:?}");
}
