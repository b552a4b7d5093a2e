//! Discord, through a webhook (its documentation: "Execute Webhook", "Rate Limits").

use serde::Deserialize;
use serde_json::json;

use super::{
    channel::{Channel, Request, quota},
    http::Answer,
    markup,
};
use crate::{
    config::SecretUrl,
    notice::{Notice, Severity},
    outbox::Verdict,
};

/// Longest description of an embed, characters; escaped it may be twice as long as it was.
const DESCRIPTION_CHARS_MAX: usize = 4_096;
/// Longest title of an embed, characters.
const TITLE_CHARS_MAX: usize = 256;
/// Longest text, bytes: even when every character must be escaped nothing is cut.
pub(crate) const TEXT_BYTES_MAX: usize = DESCRIPTION_CHARS_MAX / 2;

/// What Discord is told in the configuration (`type = "discord"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discord {
    /// The webhook's address, `https://discord.com/api/webhooks/…`.
    pub url: SecretUrl,
}

impl Channel for Discord {
    fn request(&self, notice: &Notice, _now_ms: u64) -> Request {
        let mut url = self.url.0.clone();
        // Only then is the answer about the message and not about the request.
        url.query_pairs_mut().append_pair("wait", "true");
        let colour = match notice.severity {
            Severity::Info => 0x2e_8b_57,
            Severity::Warning => 0xe6_9f_00,
            Severity::Critical => 0xd6_27_28,
        };
        let body = json!({
            "embeds": [{
                "title": markup::cut_chars(&markup::markdown(&notice.title), TITLE_CHARS_MAX),
                "description": markup::cut_chars(&markup::markdown(&notice.text), DESCRIPTION_CHARS_MAX),
                "color": colour,
            }],
            // A text that names everyone does not call them.
            "allowed_mentions": { "parse": [] },
        });
        Request::post(url, body)
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        if answer.status == 429 {
            let after_s = answer.json().get("retry_after").and_then(serde_json::Value::as_f64);
            // Seconds with a fraction; the header, in whole seconds, is as good when there is none.
            let after_ms =
                after_s.filter(|s| (0.0..=86_400.0).contains(s)).map(|s| (s * 1_000.0).ceil() as u64);
            return quota("the server answered 429".to_owned(), after_ms.or(answer.retry_after_ms));
        }
        answer.verdict()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn discord() -> Discord {
        Discord { url: SecretUrl("https://discord.com/api/webhooks/1/T0K3N".parse().unwrap()) }
    }

    #[test]
    fn a_message_is_escaped_calls_nobody_and_waits_for_its_answer() {
        let request = discord().request(&notice(), 0);
        assert_eq!(request.url.query(), Some("wait=true"));
        let embed = &request.body["embeds"][0];
        assert_eq!((&embed["title"], &embed["color"]), (&"truck\\_7 \\<left\\>".into(), &0xd6_27_28.into()));
        assert_eq!(embed["description"], "it is \\*183 m\\* off & away");
        assert_eq!(request.body["allowed_mentions"]["parse"], serde_json::json!([]));
    }

    #[test]
    fn its_errors_are_told_apart() {
        for (status, body, want) in [
            (200, "{}", ("delivered", None)),
            (400, r#"{"code":50035}"#, ("never", None)),
            (404, r#"{"code":10015,"message":"Unknown Webhook"}"#, ("settings", None)),
            (429, r#"{"retry_after":64.57,"global":false}"#, ("quota", Some(64_570))),
            (429, r#"{"retry_after":-1}"#, ("quota", None)),
            (502, "", ("transient", None)),
        ] {
            assert_eq!(word(&discord().judge(&answer(status, body))), want, "{body}");
        }
    }
}
