//! Microsoft Teams, through a webhook of its Workflows (its documentation: "Create incoming webhooks with Workflows", adaptive cards 1.4).

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

/// Longest text, bytes: a card has 28 KB at most, and escaped it may be twice as long.
pub(crate) const TEXT_BYTES_MAX: usize = 12_000;

/// What Teams is told in the configuration (`type = "teams"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teams {
    /// The webhook's address.
    pub url: SecretUrl,
}

impl Channel for Teams {
    fn request(&self, notice: &Notice, _now_ms: u64) -> Request {
        let colour = match notice.severity {
            Severity::Info => "Good",
            Severity::Warning => "Warning",
            Severity::Critical => "Attention",
        };
        let text = markup::markdown(&markup::cut_bytes(&notice.text, TEXT_BYTES_MAX));
        let block = |text: String, weight: &str, colour: &str| json!({ "type": "TextBlock", "text": text, "weight": weight, "color": colour, "wrap": true });
        // A line ends in a card where there is an empty one.
        let card = json!({
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [
                block(markup::markdown(&notice.title), "Bolder", colour),
                block(text.replace('\n', "\n\n"), "Default", "Default"),
            ],
        });
        let body = json!({
            "type": "message",
            "attachments": [{ "contentType": "application/vnd.microsoft.card.adaptive", "content": card }],
        });
        Request::post(self.url.0.clone(), body)
    }

    /// The connectors of before say 200 and tell in the text what came of it.
    fn judge(&self, answer: &Answer) -> Verdict {
        let text = String::from_utf8_lossy(&answer.body);
        if answer.status == 200 && text.contains("HTTP error 429") {
            return quota("the connector answered 429".to_owned(), answer.retry_after_ms);
        }
        if answer.status == 200 && text.contains("delivery failed with error") {
            return super::channel::transient(format!(
                "the connector answered: {}",
                markup::cut_chars(&text, 200)
            ));
        }
        answer.verdict()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn teams() -> Teams {
        Teams { url: SecretUrl("https://x.logic.azure.com/T0K3N".parse().unwrap()) }
    }

    #[test]
    fn a_message_is_a_card_with_its_colour() {
        let body = teams().request(&notice(), 0).body;
        let card = &body["attachments"][0]["content"];
        assert_eq!((&card["type"], &card["body"][0]["color"]), (&"AdaptiveCard".into(), &"Attention".into()));
        assert_eq!(card["body"][0]["text"], "truck\\_7 \\<left\\>");
        assert_eq!(card["body"][1]["text"], "it is \\*183 m\\* off & away");
    }

    #[test]
    fn its_errors_are_told_apart_also_where_they_are_a_200() {
        for (status, body, want) in [
            (202, "", "delivered"),
            (200, "1", "delivered"),
            (
                200,
                "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429",
                "quota",
            ),
            (200, "Webhook message delivery failed with error: HTTP error 502", "transient"),
            (400, "Bad payload received by generic incoming webhook.", "never"),
            (401, "", "settings"),
            (429, "", "quota"),
        ] {
            assert_eq!(word(&teams().judge(&answer(status, body))).0, want, "{body}");
        }
    }
}
