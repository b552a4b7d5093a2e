//! PagerDuty, through its Events API v2 ("Send an alert event", "Events API errors").

use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    channel::{Channel, Request},
    markup,
};
use crate::{
    config::{Secret, SecretUrl},
    notice::{Notice, Severity},
};

/// Longest summary, characters.
const SUMMARY_CHARS_MAX: usize = 1_024;
/// Longest text, bytes: all of it is in the details, whose request has 512 KB at most.
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1_024;

/// What PagerDuty is told in the configuration (`type = "pagerduty"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagerDuty {
    /// The integration key of the service.
    pub routing_key: Secret,
    /// Another address of the API, for instance that of the EU.
    #[serde(default = "api")]
    pub url: SecretUrl,
}

fn api() -> SecretUrl {
    SecretUrl(Url::parse("https://events.pagerduty.com/v2/enqueue").expect("it is one"))
}

impl Channel for PagerDuty {
    fn request(&self, notice: &Notice, _now_ms: u64) -> Request {
        // An alert that ended resolves what it opened; without an alert each message is an incident of its own.
        let key = notice.alert.as_deref().unwrap_or(&notice.id);
        let severity = match notice.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        };
        let details: Value = serde_json::from_str(&notice.json).unwrap_or_default();
        let body = json!({
            "routing_key": self.routing_key.0,
            "event_action": if notice.has_ended() { "resolve" } else { "trigger" },
            "dedup_key": key,
            "payload": {
                "summary": markup::cut_chars(&notice.text, SUMMARY_CHARS_MAX),
                "source": notice.device.as_deref().unwrap_or("postrider"),
                "severity": severity,
                "timestamp": crate::trial::rfc3339(notice.ts_ms),
                "class": notice.kind,
                "custom_details": details,
            },
        });
        Request::post(self.url.0.clone(), body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn pagerduty() -> PagerDuty {
        PagerDuty { routing_key: Secret("R0UT3".into()), url: api() }
    }

    #[test]
    fn an_alert_is_opened_and_resolved_under_its_id() {
        let opened = pagerduty().request(&notice(), 0).body;
        assert_eq!((&opened["event_action"], &opened["dedup_key"]), (&"trigger".into(), &"al-1".into()));
        assert_eq!(
            (&opened["payload"]["severity"], &opened["payload"]["source"]),
            (&"critical".into(), &"truck_7".into())
        );
        assert_eq!(opened["payload"]["timestamp"], "2026-11-26T12:00:00Z");
        let mut ended = notice();
        ended.phase = Some("ended".to_owned());
        assert_eq!(pagerduty().request(&ended, 0).body["event_action"], "resolve");
    }

    #[test]
    fn its_errors_are_told_apart() {
        for (status, want) in [(202, "delivered"), (400, "never"), (429, "quota"), (500, "transient")] {
            assert_eq!(word(&pagerduty().judge(&answer(status, "{}"))).0, want, "{status}");
        }
    }
}
