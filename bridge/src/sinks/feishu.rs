//! Feishu (Lark), through a group's robot (its documentation: "自定义机器人使用指南").

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;

use super::{
    channel::{Channel, Request, code, headed, quota, settings, transient},
    http::Answer,
    markup,
};
use crate::{
    config::{Secret, SecretUrl},
    notice::Notice,
    outbox::Verdict,
};

/// Longest text, bytes: a request has 20 KB at most, and JSON may write a character as two.
pub(crate) const TEXT_BYTES_MAX: usize = 9_000;

/// What Feishu is told in the configuration (`type = "feishu"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feishu {
    /// The robot's address.
    pub url: SecretUrl,
    /// The secret of a robot that wants signatures.
    #[serde(default)]
    pub secret: Option<Secret>,
}

/// Signs a time: HMAC-SHA256 of nothing, with the time and the secret as the key; base64.
pub(crate) fn sign(timestamp_s: u64, secret: &Secret) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, format!("{timestamp_s}\n{}", secret.0).as_bytes());
    STANDARD.encode(hmac::sign(&key, b""))
}

impl Channel for Feishu {
    fn request(&self, notice: &Notice, now_ms: u64) -> Request {
        let text = markup::cut_bytes(&notice.text, TEXT_BYTES_MAX);
        // `<at user_id="all">` in a text would call everybody.
        let text = headed(&notice.title, &text, str::to_owned).replace("<at", "<\u{200b}at");
        let mut body = json!({ "msg_type": "text", "content": { "text": text } });
        if let Some(secret) = &self.secret {
            let now_s = now_ms / 1_000;
            body["timestamp"] = now_s.to_string().into();
            body["sign"] = sign(now_s, secret).into();
        }
        Request::post(self.url.0.clone(), body)
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        let said = code(answer, "code", "msg").or_else(|| code(answer, "StatusCode", "StatusMessage"));
        let Some((number, why)) = said else { return answer.verdict() };
        match number {
            0 => Verdict::Delivered,
            11_232 | 11_233 => quota(why, answer.retry_after_ms),
            // No such robot; a signature, an address or a keyword does not fit.
            19_001 | 19_002 | 19_021 | 19_022 | 19_024 => settings(why),
            _ if answer.status >= 500 => transient(why),
            _ => Verdict::Never { why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn feishu() -> Feishu {
        let url = SecretUrl("https://open.feishu.cn/open-apis/bot/v2/hook/T0K3N".parse().unwrap());
        Feishu { url, secret: Some(Secret("abc".into())) }
    }

    #[test]
    fn a_message_is_signed_and_calls_nobody() {
        let mut all = notice();
        all.text = "<at user_id=\"all\">".to_owned();
        let body = feishu().request(&all, 1_795_694_400_999).body;
        assert_eq!(body["timestamp"], "1795694400");
        assert_eq!(body["sign"], sign(1_795_694_400, &Secret("abc".into())).as_str());
        assert!(!body["content"]["text"].as_str().unwrap().contains("<at"), "{body}");
    }

    #[test]
    fn its_errors_are_told_apart() {
        for (body, want) in [
            (r#"{"code":0,"msg":"success"}"#, "delivered"),
            (r#"{"StatusCode":0,"StatusMessage":"success"}"#, "delivered"),
            (r#"{"code":11232,"msg":"frequency limited"}"#, "quota"),
            (r#"{"code":19021,"msg":"sign match fail or timestamp is not within one hour"}"#, "settings"),
            (r#"{"code":19024,"msg":"Key Words Not Found"}"#, "settings"),
            (r#"{"code":9499,"msg":"Bad Request"}"#, "never"),
        ] {
            assert_eq!(word(&feishu().judge(&answer(200, body))).0, want, "{body}");
        }
    }
}
