//! Where messages go, one file a channel: how it is spoken to, and what its answers mean.
//!
//! A sink tries once and says what came of it; when and how often is the outbox's. It keeps nothing that must not be lost.

pub(crate) mod broker;
mod guard;
mod http;
pub(crate) mod ntfy;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod webhook;

use self::{ntfy::NtfySink, webhook::WebhookSink};
use crate::{
    config::{SinkKind, SinkRule},
    outbox::{Attempt, Verdict},
    state::Entry,
};

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
