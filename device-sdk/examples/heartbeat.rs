//! Keeps one idle connection with an adaptive heartbeat and prints what it learns, a line a change.
//!
//! `heartbeat ADDRESS MIN_S MAX_S HOLD_S`: ends `HOLD_S` seconds after the bounds are found. `scripts/heartbeat-netns` runs it behind
//! a NAT of the kernel.

use std::time::{Duration, Instant};

use device_sdk::heartbeat::AdaptiveKeepalive;
use device_sdk::{Client, Event, Options};

/// Longest run, seconds.
const RUN_S_MAX: u64 = 3_600;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, min_s, max_s, hold_s] = &arguments[..] else {
        return Err("usage: heartbeat ADDRESS MIN_S MAX_S HOLD_S".into());
    };
    let hold = Duration::from_secs(hold_s.parse()?);
    let mut options = Options::new(address.clone(), "idle-device");
    options.adaptive_keepalive =
        Some(AdaptiveKeepalive { min_s: min_s.parse()?, max_s: max_s.parse()?, file: None });
    let (client, mut events) = Client::spawn(options)?;
    let started = Instant::now();
    let (mut drops, mut shown, mut settled) = (0, client.heartbeat(), None);
    let mut look = tokio::time::interval(Duration::from_millis(200));
    while started.elapsed().as_secs() < RUN_S_MAX {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Disconnected { why, retry_in_ms }) => {
                    drops += 1;
                    println!("at_s={:.1} drop={drops} retry_in_ms={retry_in_ms} why={why}", started.elapsed().as_secs_f64());
                }
                Some(_) => {}
                None => return Err("the client has stopped".into()),
            },
            _ = look.tick() => {}
        }
        let now = client.heartbeat();
        if now != shown {
            println!(
                "at_s={:.1} interval_s={:.2} proven_s={} probes={} settled={} drops={drops}",
                started.elapsed().as_secs_f64(),
                now.interval_ms as f64 / 1_000.0,
                now.proven_s,
                now.probes,
                now.is_settled
            );
            settled = now.is_settled.then(|| settled.unwrap_or_else(Instant::now));
            shown = now;
        }
        if settled.is_some_and(|settled: Instant| settled.elapsed() >= hold) {
            break;
        }
    }
    client.disconnect().await?;
    Ok(())
}
