//! Telegram, through a bot (Bot API: `sendMessage`, "Making requests").

use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    channel::{Channel, Request, headed, quota, settings, transient},
    http::Answer,
    markup,
};
use crate::{
    config::{Secret, SecretUrl},
    notice::{Notice, Severity},
    outbox::Verdict,
};

/// Longest message after its markup was read, characters.
const MESSAGE_CHARS_MAX: usize = 4_096;
/// Longest text, bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 3_600;

/// What Telegram is told in the configuration (`type = "telegram"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telegram {
    /// The bot's token, as BotFather gave it.
    pub token: Secret,
    /// The chat, a number or a channel's `@name`.
    pub chat: ChatId,
    /// A Bot API server of one's own.
    #[serde(default = "api")]
    pub url: SecretUrl,
}

/// A chat as the Bot API names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(untagged)]
pub enum ChatId {
    /// A person, a group or a channel.
    Number(i64),
    /// A public channel.
    Name(String),
}

fn api() -> SecretUrl {
    SecretUrl(Url::parse("https://api.telegram.org").expect("it is one"))
}

impl Telegram {
    fn method(&self, name: &str) -> Url {
        let mut url = self.url.0.clone();
        url.set_path(&format!("/bot{}/{name}", self.token.0));
        url
    }
}

impl Channel for Telegram {
    fn request(&self, notice: &Notice, _now_ms: u64) -> Request {
        let title = markup::html(&markup::cut_chars(&notice.title, 256));
        let room = MESSAGE_CHARS_MAX - 300;
        let text = headed(&title, &markup::html(&markup::cut_chars(&notice.text, room)), |title| {
            format!("<b>{title}</b>")
        });
        let body = json!({
            "chat_id": self.chat,
            "text": text,
            "parse_mode": "HTML",
            "disable_notification": notice.severity == Severity::Info,
            "link_preview_options": { "is_disabled": true },
        });
        Request::post(self.method("sendMessage"), body)
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        let json = answer.json();
        if json.get("ok").and_then(Value::as_bool) == Some(true) {
            return Verdict::Delivered;
        }
        let words: String =
            json.get("description").and_then(Value::as_str).unwrap_or_default().chars().take(200).collect();
        let why = format!("the server answered {}: {words}", answer.status);
        let parameter =
            |name| json.get("parameters").and_then(|parameters| parameters.get(name)).and_then(Value::as_i64);
        if let Some(chat) = parameter("migrate_to_chat_id") {
            return settings(format!("{why}: configure chat = {chat}"));
        }
        match answer.status {
            429 => quota(
                why,
                parameter("retry_after").and_then(|s| u64::try_from(s).ok()).map(|s| s.saturating_mul(1_000)),
            ),
            400 if words.contains("chat not found") || words.contains("PEER_ID_INVALID") => settings(why),
            // 403: the bot was blocked or thrown out of the chat.
            401 | 403 | 404 => settings(why),
            500..=599 => transient(why),
            _ => answer.verdict(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn telegram() -> Telegram {
        Telegram { token: Secret("1:T0K3N".into()), chat: ChatId::Number(-5), url: api() }
    }

    #[test]
    fn a_message_is_html_and_what_is_critical_makes_a_sound() {
        let request = telegram().request(&notice(), 0);
        assert_eq!(request.url.as_str(), "https://api.telegram.org/bot1:T0K3N/sendMessage");
        assert_eq!(
            (&request.body["chat_id"], &request.body["disable_notification"]),
            (&(-5).into(), &false.into())
        );
        assert_eq!(request.body["text"], "<b>truck_7 &lt;left&gt;</b>\nit is *183 m* off &amp; away");
        assert!(!format!("{:?}", telegram()).contains("T0K3N"));
    }

    #[test]
    fn its_errors_are_told_apart() {
        for (status, body, want) in [
            (200, r#"{"ok":true,"result":{}}"#, ("delivered", None)),
            (
                429,
                r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 31","parameters":{"retry_after":31}}"#,
                ("quota", Some(31_000)),
            ),
            (400, r#"{"ok":false,"description":"Bad Request: chat not found"}"#, ("settings", None)),
            (
                400,
                r#"{"ok":false,"description":"Bad Request: group chat was upgraded to a supergroup chat","parameters":{"migrate_to_chat_id":-100}}"#,
                ("settings", None),
            ),
            (400, r#"{"ok":false,"description":"Bad Request: message text is empty"}"#, ("never", None)),
            (
                403,
                r#"{"ok":false,"description":"Forbidden: bot was blocked by the user"}"#,
                ("settings", None),
            ),
            (401, r#"{"ok":false,"description":"Unauthorized"}"#, ("settings", None)),
            (502, "", ("transient", None)),
        ] {
            assert_eq!(word(&telegram().judge(&answer(status, body))), want, "{body}");
        }
    }
}
