//! Hands messages to a webhook: one POST an attempt, the message's own JSON.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::http::Http;
use crate::{
    config::{Secret, SecretUrl, SinkRule},
    notice::Notice,
    outbox::{Attempt, Verdict, unix_ms},
    state::Entry,
};

/// The header by which a server recognises a repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a webhook is told in the configuration (`type = "webhook"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where messages are POSTed.
    pub url: SecretUrl,
    /// Sent with every request; the values are taken as secrets.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// The key of signatures as Standard Webhooks make them, `whsec_` and base64.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// What the body is.
    #[serde(default)]
    pub format: WebhookFormat,
}

/// What the body of a webhook's request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookFormat {
    /// The message's own JSON.
    #[default]
    Json,
    /// A CloudEvent with the message's JSON as its data (CloudEvents 1.0, structured mode).
    CloudEvents,
}

/// What CloudEvents' `type` begins with.
const TYPE_PREFIX: &str = "org.postrider.";

/// Reads the key of a signature.
fn signing_key(secret: &Secret) -> Result<hmac::Key, String> {
    let text = secret.0.strip_prefix("whsec_").unwrap_or(&secret.0);
    match STANDARD.decode(text) {
        Ok(bytes) if (24..=64).contains(&bytes.len()) => Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
        Ok(bytes) => Err(format!("secret stands for {} bytes, it must be 24 to 64", bytes.len())),
        Err(_) => Err("secret is no base64, it must be like \"whsec_MfKQ…\"".to_owned()),
    }
}

/// Signs a request (Standard Webhooks 1.0, "Signature scheme"): HMAC-SHA256 of id, time and body, joined by dots.
fn sign(key: &hmac::Key, id: &str, timestamp_s: u64, body: &str) -> String {
    let signed = hmac::sign(key, format!("{id}.{timestamp_s}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(signed))
}

impl Webhook {
    /// Checks what can be checked without a connection.
    ///
    /// # Errors
    /// A header or the secret cannot be one.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.header_map()?;
        self.secret.as_ref().map(signing_key).transpose().map(drop)
    }

    /// The headers as they are sent.
    ///
    /// # Errors
    /// A name or a value that no header may have.
    fn header_map(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name: HeaderName =
                name.parse().map_err(|_| format!("headers: {name:?} is no header name"))?;
            let mut value: HeaderValue = value.0.parse().map_err(|_| {
                format!("headers: the value of {name} has characters that no header may have")
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

/// One webhook and its connections.
#[derive(Debug)]
pub(crate) struct WebhookSink {
    http: Http,
    url: SecretUrl,
    headers: HeaderMap,
    key: Option<hmac::Key>,
    format: WebhookFormat,
}

impl WebhookSink {
    /// Prepares requests to a webhook.
    ///
    /// # Errors
    /// As [`Http::new`] and [`Webhook::header_map`].
    pub(crate) fn new(rule: &SinkRule, webhook: &Webhook) -> Result<WebhookSink, String> {
        let http = Http::new(rule, &webhook.url.0)?;
        let key = webhook.secret.as_ref().map(signing_key).transpose()?;
        Ok(WebhookSink {
            http,
            url: webhook.url.clone(),
            headers: webhook.header_map()?,
            key,
            format: webhook.format,
        })
    }
}

impl Attempt for WebhookSink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        let mut headers = HeaderMap::new();
        let (content_type, body) = match self.format {
            WebhookFormat::Json => ("application/json", entry.payload.clone()),
            WebhookFormat::CloudEvents => ("application/cloudevents+json", cloud_event(entry)),
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let id = HeaderValue::from_str(&entry.id).expect("derived ids are letters, digits and dashes");
        headers.insert(IDEMPOTENCY_KEY, id.clone());
        if let Some(key) = &self.key {
            // The time of this attempt: a receiver refuses old ones, and knows a repeat by its id.
            let now_s = unix_ms() / 1_000;
            let signature = sign(key, &entry.id, now_s, &body);
            headers.insert("webhook-id", id);
            headers.insert("webhook-timestamp", HeaderValue::from(now_s));
            headers.insert("webhook-signature", HeaderValue::try_from(signature).expect("base64 is ASCII"));
        }
        // What is configured wins.
        headers.extend(self.headers.clone());
        match self.http.post(&self.url.0, headers, body).await {
            Ok(answer) => answer.verdict(),
            Err(verdict) => verdict,
        }
    }
}

/// Wraps a message; the bridge is its source, the device its subject.
fn cloud_event(entry: &Entry) -> String {
    let notice = Notice::of(entry);
    let data: serde_json::Value = serde_json::from_str(&entry.payload).unwrap_or_default();
    let mut event = serde_json::json!({
        "specversion": "1.0",
        "id": entry.id,
        "source": "/postrider/bridge",
        "type": format!("{TYPE_PREFIX}{}", notice.kind),
        "time": crate::trial::rfc3339(notice.ts_ms),
        "datacontenttype": "application/json",
        "data": data,
    });
    if let Some(device) = notice.device {
        event["subject"] = device.into();
    }
    event.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{notice::tests::entry, sinks::tests::Stub};

    #[test]
    fn a_signature_is_the_one_of_the_specifications_example() {
        let key = signing_key(&Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into())).unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signature = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        for (secret, want) in [("whsec_!", "no base64"), ("whsec_AAAA", "stands for 3 bytes")] {
            let why = signing_key(&Secret(secret.into())).unwrap_err();
            assert!(why.contains(want), "{why}");
        }
    }

    #[tokio::test]
    async fn a_signed_cloud_event_has_the_message_as_its_data() {
        let stub = Stub::start().await;
        let webhook = Webhook {
            url: stub.url("/events"),
            headers: BTreeMap::new(),
            secret: Some(Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into())),
            format: WebhookFormat::CloudEvents,
        };
        let mut sink = WebhookSink::new(&stub.rule(), &webhook).unwrap();
        let alert = entry(r#"{"ts":1795694400000,"device":"truck-7","text":"left"}"#);
        let (verdict, request) = tokio::join!(sink.attempt(&alert), stub.answer("200 OK", ""));
        assert_eq!(verdict, Verdict::Delivered);
        for line in [
            "content-type: application/cloudevents+json",
            "webhook-id: ev-1",
            "webhook-signature: v1,",
            "idempotency-key: ev-1",
        ] {
            assert!(request.head.contains(line), "{line}: {}", request.head);
        }
        let event: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!(
            (&event["type"], &event["subject"]),
            (&"org.postrider.route_deviation".into(), &"truck-7".into())
        );
        assert_eq!(
            (&event["time"], &event["data"]["text"]),
            (&"2026-11-26T12:00:00Z".into(), &"left".into())
        );
    }
}
