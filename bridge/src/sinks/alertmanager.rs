//! Prometheus Alertmanager, through its API v2 (`POST /api/v2/alerts`; clients send alerts as Prometheus does).

use serde::Deserialize;
use serde_json::{Value, json};

use super::channel::{Channel, Request};
use crate::{config::SecretUrl, notice::Notice, trial::rfc3339};

/// Longest text, bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1_024;
/// How long an alert whose end is not told lasts there, milliseconds.
const LASTS_MS: u64 = 30 * 24 * 3_600_000;
/// How long a message lasts there that is no alert with an end, milliseconds.
const ONCE_LASTS_MS: u64 = 3_600_000;

/// What Alertmanager is told in the configuration (`type = "alertmanager"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alertmanager {
    /// The server, `http://127.0.0.1:9093`.
    pub url: SecretUrl,
}

impl Channel for Alertmanager {
    fn request(&self, notice: &Notice, now_ms: u64) -> Request {
        let mut url = self.url.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v2", "alerts"]);
        }
        // Labels are the alert's identity there: the same ones end it. What differs between two messages of one alert is an annotation.
        let name = notice.rule.as_deref().unwrap_or(&notice.kind);
        let mut labels =
            json!({ "alertname": name, "severity": notice.severity.as_str(), "source": "postrider" });
        if let Some(device) = &notice.device {
            labels["device"] = device.as_str().into();
        }
        labels["alert_id"] = notice.alert.as_deref().unwrap_or(&notice.id).into();
        let ends_ms = match (&notice.alert, notice.has_ended()) {
            (_, true) => now_ms,
            (Some(_), false) => now_ms + LASTS_MS,
            (None, false) => now_ms + ONCE_LASTS_MS,
        };
        let alert = json!({
            "labels": labels,
            "annotations": { "summary": notice.title, "description": notice.text },
            "startsAt": rfc3339(notice.ts_ms.min(now_ms)),
            "endsAt": rfc3339(ends_ms),
        });
        Request::post(url, Value::Array(vec![alert]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::notice;

    #[test]
    fn an_alert_has_the_same_labels_when_it_begins_and_when_it_ends() {
        let sink = Alertmanager { url: SecretUrl("http://127.0.0.1:9093/".parse().unwrap()) };
        let now_ms = 1_795_694_460_000;
        let begun = sink.request(&notice(), now_ms);
        assert_eq!(begun.url.as_str(), "http://127.0.0.1:9093/api/v2/alerts");
        let mut ended = notice();
        ended.phase = Some("ended".to_owned());
        ended.text = "over".to_owned();
        let ended = sink.request(&ended, now_ms).body;
        assert_eq!(begun.body[0]["labels"], ended[0]["labels"]);
        assert_eq!(
            (&begun.body[0]["startsAt"], &ended[0]["endsAt"]),
            (&"2026-11-26T12:00:00Z".into(), &"2026-11-26T12:01:00Z".into())
        );
        assert_eq!(begun.body[0]["labels"]["alertname"], "off-route");
    }
}
