//! A message for people as sinks see it: read once from the outbox entry, so that every sink says the same in its channel's form.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::state::Entry;

/// How much a message matters; the order is that of urgency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look at it.
    #[default]
    Warning,
    /// Somebody must act now.
    Critical,
}

impl Severity {
    /// The word in JSON and TOML.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }

    /// What a message of this kind is, when it does not say so itself.
    pub(crate) fn of_kind(kind: &str) -> Severity {
        if kind == "route_deviation" { Severity::Warning } else { Severity::Info }
    }
}

/// One message for people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    /// The idempotency key: the same however often it is sent.
    pub(crate) id: String,
    /// When it happened, milliseconds since the Unix epoch.
    pub(crate) ts_ms: u64,
    /// What it is about, for instance `route_deviation`.
    pub(crate) kind: String,
    pub(crate) severity: Severity,
    pub(crate) device: Option<String>,
    /// A few words for a headline.
    pub(crate) title: String,
    /// What people read.
    pub(crate) text: String,
    /// The rule that told it, if one did.
    pub(crate) rule: Option<String>,
    /// The alert that it is about, if it is about one.
    pub(crate) alert: Option<String>,
    /// What it says of its alert: `raised`, `repeated`, `escalated`, `ended`.
    pub(crate) phase: Option<String>,
    /// The whole message, for sinks that pass it on as data.
    pub(crate) json: String,
}

#[derive(Default, Deserialize)]
struct Post {
    #[serde(default)]
    ts: Option<u64>,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    severity: Option<Severity>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    rule: Option<String>,
    #[serde(default)]
    alert: Option<String>,
    #[serde(default)]
    phase: Option<String>,
}

impl Notice {
    /// Reads an entry. What its JSON does not say is taken from the entry itself, so that nothing in an outbox is unreadable.
    pub(crate) fn of(entry: &Entry) -> Notice {
        let value: Value = serde_json::from_str(&entry.payload).unwrap_or_default();
        let post: Post = serde_json::from_value(value).unwrap_or_default();
        let words = entry.kind.replace('_', " ");
        let title = post.title.unwrap_or_else(|| match &post.device {
            Some(device) => format!("{device}: {words}"),
            None => words,
        });
        Notice {
            id: entry.id.clone(),
            ts_ms: post.ts.unwrap_or(entry.created_ms),
            kind: entry.kind.clone(),
            severity: post.severity.unwrap_or_else(|| Severity::of_kind(&entry.kind)),
            text: post.text.unwrap_or_else(|| title.clone()),
            device: post.device,
            rule: post.rule,
            alert: post.alert,
            phase: post.phase,
            title,
            json: entry.payload.clone(),
        }
    }
}

impl Notice {
    /// Whether it says that its alert is over.
    pub(crate) fn has_ended(&self) -> bool {
        self.phase.as_deref() == Some("ended")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::state::Target;

    /// An entry for a sink, as an alert makes it.
    pub(crate) fn entry(payload: &str) -> Entry {
        Entry {
            no: 1,
            target: Target::Sink("test".into()),
            id: "ev-1".into(),
            kind: "route_deviation".into(),
            created_ms: 5,
            payload: payload.into(),
            topic: None,
            expires_at_ms: None,
        }
    }

    #[test]
    fn a_notice_says_what_the_message_says_and_fills_in_what_it_does_not() {
        let whole = Notice::of(&entry(
            r#"{"ts":7,"device":"truck-7","severity":"critical","title":"Off route","text":"truck-7 is off"}"#,
        ));
        assert_eq!((whole.ts_ms, whole.severity), (7, Severity::Critical));
        assert_eq!((whole.title.as_str(), whole.text.as_str()), ("Off route", "truck-7 is off"));
        let sparse = Notice::of(&entry(r#"{"device":"truck-7"}"#));
        assert_eq!((sparse.ts_ms, sparse.severity), (5, Severity::Warning));
        assert_eq!(sparse.text, "truck-7: route deviation");
        assert_eq!(Notice::of(&entry("no json")).text, "route deviation");
    }
}
