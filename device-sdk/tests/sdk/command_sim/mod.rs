//! Commands in a simulated world: thousands of seeds, and bugs planted that they must find.
//!
//! A seed is a truck on its way, a receiver that is noisy, silent or spoofed, clocks that are wrong one at a time, a broker that
//! sends commands twice, late and in another order, somebody who replays old ones, and a device that loses its power or is killed at
//! every step. The device is the SDK's own [`CommandDesk`](device_sdk::commands::CommandDesk), guard, clock and journal on a simulated disk;
//! only the few lines that `CommandRunner` adds on a thread are written again in `device`.
//!
//! Faults that are in: any one clock wrong by anything; a leap of at least 60 m for up to 28 s; power cuts inside of any disk
//! operation. Out, since no device can tell them: two clocks that lie alike, a spoof within the noise or of more than the settling time.

mod device;
mod oracle;
mod sender;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use oracle::Verdict;
use world::Sim;

/// What is wrong with a device on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// The actuator fires before the journal knows.
    ActuatorBeforeJournal,
    /// After a restart nobody puts the guard back.
    GuardGoneAfterRestart,
    /// Expiry by whatever clock spoke last.
    ExpiryByWrongClock,
    /// One clock is enough, and what was certain before is forgotten.
    BelievesAnyClock,
    /// Used approvals are not noted.
    NonceForgotten,
    /// Approvals are not asked for.
    ApprovalIgnored,
    /// No second look after the flash has written.
    NoLastLook,
    /// The journal does not outlive the power.
    JournalInMemory,
    /// The message is acknowledged before the command is taken.
    AckBeforeTaken,
    /// A result counts as told when it is sent.
    ToldWhenSent,
    /// The result goes out before it is durable.
    ResultBeforeDurable,
    /// A leap is believed at once.
    LeapBelieved,
    /// A place is taken for exact.
    NoMargin,
    /// A fix of any age will do.
    StaleFix,
    /// A command that was rejected is tried again when it comes again.
    RejectedRunsAgain,
}

const PLANTED: [Planted; 15] = [
    Planted::ActuatorBeforeJournal,
    Planted::GuardGoneAfterRestart,
    Planted::ExpiryByWrongClock,
    Planted::BelievesAnyClock,
    Planted::NonceForgotten,
    Planted::ApprovalIgnored,
    Planted::NoLastLook,
    Planted::JournalInMemory,
    Planted::AckBeforeTaken,
    Planted::ToldWhenSent,
    Planted::ResultBeforeDurable,
    Planted::LeapBelieved,
    Planted::NoMargin,
    Planted::StaleFix,
    Planted::RejectedRunsAgain,
];

/// Seeds of a run without `POSTRIDER_COMMAND_SEEDS`.
const SEEDS: u64 = 1_000;
/// Seeds within which a planted bug must be found.
const SEEDS_TO_FIND: u64 = 3_000;

fn seeds() -> u64 {
    std::env::var("POSTRIDER_COMMAND_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn no_seed_unlocks_twice_late_or_outside_and_every_command_ends() {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let seeds = seeds();
    let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
        let run = |worker: u64| {
            let mut sum = Verdict::default();
            for seed in (worker..seeds).step_by(workers as usize) {
                let one = catch_unwind(AssertUnwindSafe(|| Sim::run(seed, Planted::Nothing)));
                let one = one.unwrap_or_else(|_| panic!("seed {seed}: see the panic above"));
                if let Some(what) = one.violations.first() {
                    panic!(
                        "seed {seed}: {what}\nagain: POSTRIDER_COMMAND_SEED={seed} cargo test -p postrider-device-sdk one_seed -- --nocapture"
                    );
                }
                sum.add(&one);
            }
            sum
        };
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || run(worker))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut sum = Verdict::default();
    verdicts.iter().for_each(|one| sum.add(one));
    println!("{seeds} seeds: {sum}");
    // The world must really have been rough, and the lock really have opened.
    let least = seeds / 4;
    assert!(sum.opened > least && sum.crashes > seeds && sum.spoofs > least, "{sum}");
    assert!(sum.repeated > seeds && sum.expired > least && sum.rejected > least, "{sum}");
}

#[test]
fn one_seed_is_one_run() {
    let seed = std::env::var("POSTRIDER_COMMAND_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let (first, second) = (Sim::run(seed, Planted::Nothing), Sim::run(seed, Planted::Nothing));
    assert_eq!(first.to_string(), second.to_string(), "the same seed, the same run");
    assert!(first.violations.is_empty(), "{:?}", first.violations);
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for planted in PLANTED {
        let found = (0..SEEDS_TO_FIND).find_map(|seed| {
            let verdict = Sim::run(seed, planted);
            verdict.violations.into_iter().next().map(|what| (seed, what))
        });
        match found {
            Some((seed, what)) => println!("{planted:?}: seed {seed}: {what}"),
            None => missed.push(planted),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_TO_FIND} seeds: {missed:?}");
}
