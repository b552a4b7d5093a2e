//! WeCom, through a group's robot (its documentation: "消息推送配置说明", "全局错误码").

use serde::Deserialize;
use serde_json::json;

use super::{
    channel::{Channel, Request, code, quota, settings, transient},
    http::Answer,
    markup,
};
use crate::{
    config::SecretUrl,
    notice::{Notice, Severity},
    outbox::Verdict,
};

/// Longest Markdown of a message, bytes; the headline needs some.
pub(crate) const TEXT_BYTES_MAX: usize = 3_500;

/// What WeCom is told in the configuration (`type = "wecom"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeCom {
    /// The robot's address with its `key`.
    pub url: SecretUrl,
}

impl Channel for WeCom {
    fn request(&self, notice: &Notice, _now_ms: u64) -> Request {
        let colour = match notice.severity {
            Severity::Info => "info",
            Severity::Warning | Severity::Critical => "warning",
        };
        // Its Markdown has no escapes: what would be a tag or a mention is taken apart.
        let plain = |text: &str| text.replace('<', "＜").replace('>', "＞");
        let title = plain(&markup::cut_bytes(&notice.title, 200));
        let text = plain(&markup::cut_bytes(&notice.text, TEXT_BYTES_MAX));
        let content = markup::cut_bytes(&format!("<font color=\"{colour}\">{title}</font>\n{text}"), 4_096);
        Request::post(
            self.url.0.clone(),
            json!({ "msgtype": "markdown", "markdown": { "content": content } }),
        )
    }

    fn judge(&self, answer: &Answer) -> Verdict {
        let Some((number, why)) = code(answer, "errcode", "errmsg") else { return answer.verdict() };
        match number {
            0 => Verdict::Delivered,
            45_009 | 45_033 => quota(why, Some(60_000)),
            -1 => transient(why),
            93_000 | 93_004 | 93_008 | 40_001 | 40_014 => settings(why),
            _ => Verdict::Never { why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::{answer, notice, word};

    fn wecom() -> WeCom {
        WeCom {
            url: SecretUrl("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=T0K3N".parse().unwrap()),
        }
    }

    #[test]
    fn a_message_has_its_colour_and_no_tags_of_its_own() {
        let body = wecom().request(&notice(), 0).body;
        let want = "<font color=\"warning\">truck_7 ＜left＞</font>\nit is *183 m* off & away";
        assert_eq!(body["markdown"]["content"], want);
        let mut long = notice();
        long.text = "<".repeat(5_000);
        assert!(wecom().request(&long, 0).body["markdown"]["content"].as_str().unwrap().len() <= 4_096);
    }

    #[test]
    fn its_errors_are_told_apart() {
        for (body, want) in [
            (r#"{"errcode":0,"errmsg":"ok"}"#, ("delivered", None)),
            (r#"{"errcode":45009,"errmsg":"api freq out of limit"}"#, ("quota", Some(60_000))),
            (r#"{"errcode":93000,"errmsg":"invalid webhook url"}"#, ("settings", None)),
            (r#"{"errcode":-1,"errmsg":"system busy"}"#, ("transient", None)),
            (r#"{"errcode":40058,"errmsg":"markdown.content exceed max length 4096"}"#, ("never", None)),
        ] {
            assert_eq!(word(&wecom().judge(&answer(200, body))), want, "{body}");
        }
    }
}
