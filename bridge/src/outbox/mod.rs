//! The tasks that bring messages to their targets, one a target, in order: when, how often, and when no more.
//!
//! A target's task is given entries that are durable, tries each until it knows what became of it, and says so. It keeps nothing of its
//! own: when it is dropped in the middle, its entries are still in the journal and are sent again with the same ids.

mod digest;
mod late;
mod retry;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use self::retry::{Next, Pauses};
pub(crate) use self::{
    digest::digest,
    late::told_late,
    retry::{Cause, Verdict, judge, parse_retry_after},
};
use crate::{
    config::OutboxSettings,
    core::Outcome,
    state::{Entry, Target},
};

/// What a target's task says of an entry, which names the target.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) entry: Entry,
    pub(crate) outcome: Outcome,
}

/// How a target is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// The shortest time between two attempts, milliseconds.
    pub(crate) spacing_ms: u64,
    /// Whether messages are given up when they are too old; the conversation's wait for the broker as long as it takes.
    pub(crate) ages: bool,
    /// How many messages may be under way before what became of the first is durable. A crash sends them again, so it is 1 where a
    /// repeat cannot be recognised.
    pub(crate) window: usize,
}

/// The wall clock, milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// One way to hand over a message.
pub(crate) trait Attempt: Send {
    /// Tries once.
    fn attempt(&mut self, entry: &Entry) -> impl Future<Output = Verdict> + Send;
}

/// Hands over what comes in `entries` until that ends.
pub(crate) async fn serve(
    target: Target,
    mut sink: impl Attempt,
    service: Service,
    settings: OutboxSettings,
    mut entries: mpsc::Receiver<Entry>,
    settled: mpsc::Sender<Settled>,
) {
    let start = Instant::now();
    let monotonic_ms = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut pauses = Pauses::new(settings, service.spacing_ms, monotonic_ms());
    while let Some(entry) = entries.recv().await {
        let mut attempts = 0_u32;
        let outcome = loop {
            let age_ms = if service.ages { unix_ms().saturating_sub(entry.created_ms) } else { 0 };
            match pauses.next(age_ms, monotonic_ms()) {
                Next::In(0) => {}
                Next::In(wait_ms) => {
                    sleep(Duration::from_millis(wait_ms)).await;
                    continue;
                }
                Next::TooOld => {
                    let limit_s = settings.age_max_s;
                    let why =
                        format!("after {attempts} attempts it would be older than {limit_s} s at the next");
                    break Outcome::Dead { why };
                }
            }
            attempts += 1;
            let was_down = pauses.is_down();
            let verdict = sink.attempt(&told_late(&entry, unix_ms())).await;
            match verdict {
                Verdict::Delivered | Verdict::Never { .. } => {
                    pauses.answered(monotonic_ms());
                    if was_down {
                        tracing::info!(?target, "the sink answers again");
                    }
                    break match verdict {
                        Verdict::Never { why } => Outcome::Dead { why },
                        _ => Outcome::Delivered,
                    };
                }
                Verdict::Again { cause, why, after_ms } => {
                    let pause_ms = pauses.failed(monotonic_ms(), cause, after_ms, fastrand::u64(..));
                    let id = entry.id.as_str();
                    if cause == Cause::Settings {
                        tracing::error!(
                            ?target,
                            id,
                            attempts,
                            pause_ms,
                            why,
                            "the sink's settings do not work"
                        );
                    } else if pauses.is_down() && !was_down {
                        tracing::error!(
                            ?target,
                            id,
                            pause_ms,
                            why,
                            "the sink is down: it is tried with one message now and then"
                        );
                    } else {
                        tracing::warn!(?target, id, attempts, pause_ms, ?cause, why, "not delivered yet");
                    }
                }
            }
        };
        if settled.send(Settled { entry, outcome }).await.is_err() {
            return;
        }
    }
}
