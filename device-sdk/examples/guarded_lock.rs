//! A lock behind the guard: what a dispatcher reads while a truck comes to its yard, and an approved command at the end.
//!
//! `cargo run -p postrider-device-sdk --example guarded_lock`

use std::error::Error;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use device_sdk::clock::{Clock, ClockRules, Reading, TimeSource};
use device_sdk::commands::{Arrival, Command, CommandDesk, CommandJournal, LastLook, Taken};
use device_sdk::guard::{Approvers, Area, GuardFix, GuardRules, LockGuard, Position, approval_text};
use serde_json::json;

const YARD: Position = Position { lat: 60.17, lon: 24.94 };
const START_UNIX_MS: u64 = 1_800_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32])?;
    let mut approvers = Approvers::default();
    approvers.add("ann", key.public_key().as_ref())?;
    let rules = GuardRules::inside(Area::circle(YARD, 60.0)?);
    let guard = LockGuard::new("truck-7", ["unlock"], rules).approved_by(approvers);
    let feed = guard.feed();
    let dir = tempfile::tempdir()?;
    let mut desk = CommandDesk::new(CommandJournal::open(dir.path())?, Some(Box::new(guard)));
    let mut clock = Clock::new(ClockRules { sources_min: 2, ..ClockRules::default() });

    // Ten seconds of driving towards the yard, then it stands; a command every ten seconds.
    for second in 0..=60_u64 {
        let (monotonic_ms, unix_ms) = (second * 1_000, START_UNIX_MS + second * 1_000);
        let left_m = 10_u64.saturating_sub(second) as f64 * 12.0;
        let position = Position { lat: YARD.lat - left_m / 111_195.0, ..YARD };
        let speed_mps = Some(if second < 10 { 12.0 } else { 0.0 });
        feed.observe(GuardFix { monotonic_ms, position, accuracy_m: 5.0, speed_mps });
        if second == 5 {
            for source in [TimeSource::Gnss, TimeSource::Broker] {
                clock.offer(Reading { source, monotonic_ms, unix_ms, error_ms: 100 })?;
            }
        }
        if !second.is_multiple_of(10) {
            continue;
        }
        let now = clock.now(monotonic_ms);
        let payload = approved(&key, second, unix_ms + 20_000)?;
        let arrival = Arrival { payload: &payload, expires_in_ms: None };
        let mut always = |_: &Command, _: u64| Ok(());
        if let Taken::Run(running) = desk.take(arrival, &now, &mut always)?
            && let LastLook::Fire(running) = desk.last_look(running, &now, &mut always)?
        {
            println!("  the bolt moves");
            desk.end(running, Ok(json!({ "lock": "open" })), &now)?;
        }
        while let Some(report) = desk.poll_report() {
            let why = report.result.reason.as_deref().unwrap_or("");
            println!("{second:2} s  {}: {:?} {why}", report.result.id, report.result.status);
            desk.told(&report)?;
        }
    }
    Ok(())
}

fn approved(key: &Ed25519KeyPair, number: u64, expires_at: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    let (id, nonce) = (format!("c{number}"), format!("n{number}"));
    let mut command =
        Command { id, name: "unlock".to_owned(), args: json!({ "door": 1 }), expires_at: Some(expires_at) };
    let signature = key.sign(approval_text("truck-7", &command, "ann", &nonce).as_bytes());
    let signature: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    command.args["approval"] = json!({ "approver": "ann", "nonce": nonce, "signature": signature });
    Ok(serde_json::to_vec(&command)?)
}
