//! Measures what the log costs: `cargo run --release -p postrider-storage --example log_speed -- DIR`.
//!
//! Prints CPU and wall time a record for groups of several sizes, and the time of a sync. It ends by itself
//! and leaves nothing in the directory.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use storage::{Durability, Log, LogConfig};

const RECORD_BYTES: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("name a directory to measure in")?;
    let dir = PathBuf::from(dir).join("log-speed");
    println!("{RECORD_BYTES}-byte records");
    println!("durability  group  records  CPU µs/record  wall µs/record  commit p50 ms  p99 ms  bytes/byte");
    for durability in [Durability::Power, Durability::Process] {
        for (group, groups) in [(1, 2_000), (16, 1_000), (128, 500), (1024, 500), (16_384, 50)] {
            measure(&dir, durability, group, groups)?;
            fs::remove_dir_all(&dir)?;
        }
    }
    measure_replay(&dir)?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

fn measure(dir: &Path, durability: Durability, group: usize, groups: usize) -> Result<(), Box<dyn Error>> {
    let mut log = Log::open(dir, LogConfig { durability, ..LogConfig::default() })?;
    let record = [7; RECORD_BYTES];
    let mut commits = Vec::with_capacity(groups);
    let (wall, cpu) = (Instant::now(), cpu_time()?);
    for _ in 0..groups {
        for _ in 0..group {
            log.append(&record)?;
        }
        let started = Instant::now();
        log.commit()?;
        commits.push(started.elapsed());
    }
    let (wall, cpu) = (wall.elapsed(), cpu_time()? - cpu);
    commits.sort_unstable();
    let records = group * groups;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / records as f64;
    let at = |share: usize| commits[groups * share / 100].as_secs_f64() * 1e3;
    println!(
        "{:<10} {group:>6} {records:>8} {:>14.3} {:>15.3} {:>14.3} {:>7.3} {:>11.3}",
        format!("{durability:?}"),
        each(cpu),
        each(wall),
        at(50),
        at(99),
        log.bytes() as f64 / (records * RECORD_BYTES) as f64,
    );
    Ok(())
}

fn measure_replay(dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut log = Log::open(dir, LogConfig { durability: Durability::Process, ..LogConfig::default() })?;
    for _ in 0..1_000 {
        for _ in 0..1_000 {
            log.append(&[7; RECORD_BYTES])?;
        }
        log.commit()?;
    }
    drop(log);
    let started = Instant::now();
    let log = Log::open(dir, LogConfig::default())?;
    let opened = started.elapsed();
    let started = Instant::now();
    let records = log.replay()?.filter(Result::is_ok).count();
    println!("{records} records: opened and checked in {opened:?}, replayed in {:?}", started.elapsed());
    Ok(())
}

/// CPU time of this thread, which is the only one.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split_whitespace().next().ok_or("schedstat is empty")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}
