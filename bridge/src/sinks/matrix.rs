//! Matrix, through its client-server API (v1.11: `PUT /rooms/{roomId}/send/{eventType}/{txnId}`, "Standard error response", "Rate limiting").

use reqwest::{Method, Url};
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

/// Longest text, bytes: an event has 65,536 at most, the text is in it twice and may be escaped.
pub(crate) const TEXT_BYTES_MAX: usize = 9_000;

/// What Matrix is told in the configuration (`type = "matrix"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// The homeserver, `https://matrix.example.org`.
    pub url: SecretUrl,
    /// The access token of the account that speaks; it must be in the room.
    pub token: Secret,
    /// The room's id, `!abc:example.org`.
    pub room: String,
}

impl Channel for Matrix {
    fn request(&self, notice: &Notice, _now_ms: u64) -> Request {
        let text = markup::cut_bytes(&notice.text, TEXT_BYTES_MAX);
        let title = markup::cut_bytes(&notice.title, 500);
        let html =
            headed(&markup::html(&title), &markup::html(&text), |title| format!("<strong>{title}</strong>"));
        let body = json!({
            // A notice disturbs nobody; only a text rings.
            "msgtype": if notice.severity == Severity::Info { "m.notice" } else { "m.text" },
            "body": headed(&title, &text, str::to_owned),
            "format": "org.matrix.custom.html",
            "formatted_body": html.replace('\n', "<br>"),
        });
        Request { method: Method::PUT, url: self.send(&notice.id), token: Some(self.token.clone()), body }
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        if (200..300).contains(&answer.status) {
            return Verdict::Delivered;
        }
        let json = answer.json();
        let word = |key| json.get(key).and_then(Value::as_str).unwrap_or_default();
        let error: String = word("error").chars().take(200).collect();
        let why = format!("the server answered {} {}: {error}", answer.status, word("errcode"));
        match word("errcode") {
            "M_LIMIT_EXCEEDED" => {
                quota(why, answer.retry_after_ms.or(json.get("retry_after_ms").and_then(Value::as_u64)))
            }
            "M_FORBIDDEN" | "M_UNKNOWN_TOKEN" | "M_MISSING_TOKEN" | "M_NOT_FOUND" | "M_USER_DEACTIVATED" => {
                settings(why)
            }
            "M_TOO_LARGE" | "M_BAD_JSON" | "M_NOT_JSON" | "M_INVALID_PARAM" => Verdict::Never { why },
            _ if answer.status >= 500 => transient(why),
            _ => answer.verdict(),
        }
    }
}

impl Matrix {
    /// The address of one message: a transaction id that was used before gives the event of then.
    fn send(&self, id: &str) -> Url {
        let mut url = self.url.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend([
                "_matrix",
                "client",
                "v3",
                "rooms",
                &self.room,
                "send",
                "m.room.message",
                id,
            ]);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn matrix() -> Matrix {
        let url = SecretUrl("https://matrix.example.org/".parse().unwrap());
        Matrix { url, token: Secret("syt_T0K3N".into()), room: "!abc:example.org".into() }
    }

    #[test]
    fn a_message_goes_to_its_room_under_its_own_id_as_text_and_html() {
        let request = matrix().request(&notice(), 0);
        let want =
            "https://matrix.example.org/_matrix/client/v3/rooms/!abc:example.org/send/m.room.message/ev-1";
        assert_eq!((request.method.as_str(), request.url.as_str()), ("PUT", want));
        assert_eq!(request.body["body"], "truck_7 <left>\nit is *183 m* off & away");
        let html = "<strong>truck_7 &lt;left&gt;</strong><br>it is *183 m* off &amp; away";
        assert_eq!(
            (&request.body["formatted_body"], &request.body["msgtype"]),
            (&html.into(), &"m.text".into())
        );
    }

    #[test]
    fn its_errors_are_told_apart() {
        for (status, body, want) in [
            (200, r#"{"event_id":"$1"}"#, ("delivered", None)),
            (
                429,
                r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests","retry_after_ms":2000}"#,
                ("quota", Some(2_000)),
            ),
            (403, r#"{"errcode":"M_FORBIDDEN","error":"User not in room"}"#, ("settings", None)),
            (
                401,
                r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed."}"#,
                ("settings", None),
            ),
            (413, r#"{"errcode":"M_TOO_LARGE","error":"event too large"}"#, ("never", None)),
            (502, "<html>", ("transient", None)),
        ] {
            assert_eq!(word(&matrix().judge(&answer(status, body))), want, "{body}");
        }
    }
}
