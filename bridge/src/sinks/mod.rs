//! The tasks that hand messages to their targets, one a target, one message at a time.
//!
//! A sink is given an entry, tries until it knows what became of it, and says so; the outbox then gives it the next. It
//! keeps nothing of its own: when it is dropped in the middle, the entry is still in the outbox and is sent again with
//! the same id.

pub(crate) mod broker;
mod http;
pub(crate) mod ntfy;
#[cfg(test)]
pub(crate) mod stub;
pub(crate) mod webhook;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use self::{ntfy::NtfySink, webhook::WebhookSink};
use crate::{
    config::{OutboxSettings, SinkKind, SinkRule},
    core::Outcome,
    retry::{Next, Pauses, Verdict},
    state::{Entry, Target},
};

/// What a sink says of an entry.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) target: Target,
    pub(crate) entry: Entry,
    pub(crate) outcome: Outcome,
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

/// A sink of any type.
#[derive(Debug)]
pub(crate) enum AnySink {
    Webhook(WebhookSink),
    Ntfy(NtfySink),
}

impl AnySink {
    /// Makes a sink ready; nothing is sent.
    ///
    /// # Errors
    /// What its type says of its settings.
    pub(crate) fn new(rule: &SinkRule) -> Result<AnySink, String> {
        Ok(match &rule.kind {
            SinkKind::Webhook(webhook) => AnySink::Webhook(WebhookSink::new(rule, webhook)?),
            SinkKind::Ntfy(ntfy) => AnySink::Ntfy(NtfySink::new(rule, ntfy)?),
        })
    }
}

impl Attempt for AnySink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        match self {
            AnySink::Webhook(sink) => sink.attempt(entry).await,
            AnySink::Ntfy(sink) => sink.attempt(entry).await,
        }
    }
}

/// The start of a text that has at most so many bytes, cut between characters.
fn cut_bytes(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Hands over what comes in `entries` until that ends. The age limit holds for sinks (`ages`); the conversation's
/// messages wait for the broker as long as it takes.
pub(crate) async fn run(
    target: Target,
    mut sink: impl Attempt,
    settings: OutboxSettings,
    ages: bool,
    mut entries: mpsc::Receiver<Entry>,
    settled: mpsc::Sender<Settled>,
) {
    let mut pauses = Pauses::new(settings);
    let start = Instant::now();
    let monotonic_ms = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    while let Some(entry) = entries.recv().await {
        let mut attempts = 0_u32;
        let outcome = loop {
            let age_ms = if ages { unix_ms().saturating_sub(entry.created_ms) } else { 0 };
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
            match sink.attempt(&entry).await {
                Verdict::Delivered => {
                    pauses.succeeded();
                    break Outcome::Delivered;
                }
                Verdict::Never { why } => break Outcome::Dead { why },
                Verdict::Again { why, after_ms } => {
                    let pause_ms = pauses.failed(monotonic_ms(), after_ms, fastrand::u64(..));
                    tracing::warn!(?target, id = entry.id, attempts, pause_ms, why, "not delivered yet");
                }
            }
        };
        if settled.send(Settled { target: target.clone(), entry, outcome }).await.is_err() {
            return;
        }
    }
}
