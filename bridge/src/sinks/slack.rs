//! Slack, through an incoming webhook (its documentation: "Sending messages using incoming webhooks", "Rate limits").

use serde::Deserialize;
use serde_json::json;

use super::{
    channel::{Channel, Request, headed},
    markup,
};
use crate::{
    config::SecretUrl,
    notice::{Notice, Severity},
};

/// Longest text, bytes: escaped it stays below Slack's 40,000 characters.
pub(crate) const TEXT_BYTES_MAX: usize = 7_500;

/// What Slack is told in the configuration (`type = "slack"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// The webhook's address, `https://hooks.slack.com/services/…`.
    pub url: SecretUrl,
}

impl Channel for Slack {
    fn request(&self, notice: &Notice, _now_ms: u64) -> Request {
        let text = markup::slack(&markup::cut_bytes(&notice.text, TEXT_BYTES_MAX));
        let text = headed(&markup::slack(&notice.title), &text, |title| format!("*{title}*"));
        let colour = match notice.severity {
            Severity::Info => "good",
            Severity::Warning => "warning",
            Severity::Critical => "danger",
        };
        let body = json!({
            "attachments": [{ "color": colour, "fallback": notice.text, "text": text, "mrkdwn_in": ["text"] }],
        });
        Request::post(self.url.0.clone(), body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn slack() -> Slack {
        Slack { url: SecretUrl("https://hooks.slack.com/services/T0K3N".parse().unwrap()) }
    }

    #[test]
    fn a_message_is_escaped_and_has_its_colour() {
        let body = slack().request(&notice(), 0).body;
        let attachment = &body["attachments"][0];
        assert_eq!(attachment["text"], "*truck_7 &lt;left&gt;*\nit is *183 m* off &amp; away");
        assert_eq!(attachment["color"], "danger");
    }

    #[test]
    fn its_errors_are_told_apart() {
        for (status, body, want) in [
            (200, "ok", "delivered"),
            (400, "invalid_payload", "never"),
            (403, "action_prohibited", "settings"),
            (404, "no_service", "settings"),
            (410, "channel_is_archived", "settings"),
            (429, "rate_limited", "quota"),
            (500, "rollup_error", "transient"),
        ] {
            assert_eq!(word(&slack().judge(&answer(status, body))).0, want, "{body}");
        }
    }
}
