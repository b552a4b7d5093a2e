//! DingTalk, through a group's robot (its documentation: "自定义机器人接入", "自定义机器人安全设置").

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;

use super::{
    channel::{Channel, Request, code, quota, settings, transient},
    http::Answer,
    markup,
};
use crate::{
    config::{Secret, SecretUrl},
    notice::Notice,
    outbox::Verdict,
};

/// Longest text, bytes: a request has 20,000 at most, and escaped it may be twice as long.
pub(crate) const TEXT_BYTES_MAX: usize = 8_000;
/// How long a robot is silent that was spoken to too often, milliseconds.
const BANNED_MS: u64 = 10 * 60_000;

/// What DingTalk is told in the configuration (`type = "dingtalk"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DingTalk {
    /// The robot's address with its `access_token`.
    pub url: SecretUrl,
    /// The secret of a robot that wants signatures (`SEC…`).
    #[serde(default)]
    pub secret: Option<Secret>,
}

/// Signs a time: HMAC-SHA256 of it and the secret, with the secret as the key; base64.
pub(crate) fn sign(timestamp_ms: u64, secret: &Secret) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes());
    STANDARD.encode(hmac::sign(&key, format!("{timestamp_ms}\n{}", secret.0).as_bytes()))
}

impl Channel for DingTalk {
    fn request(&self, notice: &Notice, now_ms: u64) -> Request {
        let mut url = self.url.0.clone();
        if let Some(secret) = &self.secret {
            let signature = sign(now_ms, secret);
            url.query_pairs_mut()
                .append_pair("timestamp", &now_ms.to_string())
                .append_pair("sign", &signature);
        }
        let title = markup::markdown(&markup::cut_chars(&notice.title, 128));
        let text = markup::markdown(&markup::cut_bytes(&notice.text, TEXT_BYTES_MAX));
        // A line ends in its Markdown where there is an empty one.
        let text = format!("### {title}\n\n{}", text.replace('\n', "\n\n"));
        let body = json!({ "msgtype": "markdown", "markdown": { "title": notice.title, "text": text } });
        Request::post(url, body)
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        let Some((number, why)) = code(answer, "errcode", "errmsg") else { return answer.verdict() };
        match number {
            0 => Verdict::Delivered,
            // Over 20 in a minute; the robot is silent for ten minutes.
            130_101 | 660_026 => quota(why, Some(BANNED_MS)),
            -1 => transient(why),
            // No such token, no right to speak; a keyword, a signature or an address is missing.
            300_001 | 300_005 | 310_000 | 400_013 | 400_101 | 400_102 | 400_105 | 400_106 => settings(why),
            _ => Verdict::Never { why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn dingtalk() -> DingTalk {
        let url = SecretUrl("https://oapi.dingtalk.com/robot/send?access_token=T0K3N".parse().unwrap());
        DingTalk { url, secret: Some(Secret("SECabc".into())) }
    }

    #[test]
    fn a_message_is_signed_and_escaped() {
        let request = dingtalk().request(&notice(), 1_795_694_400_000);
        let pairs: Vec<_> = request.url.query_pairs().collect();
        assert_eq!(pairs[0], ("access_token".into(), "T0K3N".into()));
        assert_eq!(pairs[1], ("timestamp".into(), "1795694400000".into()));
        assert_eq!(pairs[2], ("sign".into(), sign(1_795_694_400_000, &Secret("SECabc".into())).into()));
        assert_eq!(
            request.body["markdown"]["text"],
            "### truck\\_7 \\<left\\>\n\nit is \\*183 m\\* off & away"
        );
    }

    #[test]
    fn its_errors_are_told_apart() {
        for (body, want) in [
            (r#"{"errcode":0,"errmsg":"ok"}"#, ("delivered", None)),
            (
                r#"{"errcode":130101,"errmsg":"send too fast, exceed 20 times per minute"}"#,
                ("quota", Some(600_000)),
            ),
            (r#"{"errcode":310000,"errmsg":"sign not match"}"#, ("settings", None)),
            (r#"{"errcode":300001,"errmsg":"token is not exist"}"#, ("settings", None)),
            (r#"{"errcode":-1,"errmsg":"系统繁忙"}"#, ("transient", None)),
            (r#"{"errcode":40035,"errmsg":"缺少参数 json"}"#, ("never", None)),
        ] {
            assert_eq!(word(&dingtalk().judge(&answer(200, body))), want, "{body}");
        }
    }
}
