//! Hands messages to a webhook: one POST an attempt, the message's own JSON.

use std::collections::BTreeMap;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::http::Http;
use crate::{
    config::{Secret, SecretUrl, SinkRule},
    outbox::{Attempt, Verdict},
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
}

impl Webhook {
    /// The headers as they are sent.
    ///
    /// # Errors
    /// A name or a value that no header may have.
    pub(crate) fn header_map(&self) -> Result<HeaderMap, String> {
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
}

impl WebhookSink {
    /// Prepares requests to a webhook.
    ///
    /// # Errors
    /// As [`Http::new`] and [`Webhook::header_map`].
    pub(crate) fn new(rule: &SinkRule, webhook: &Webhook) -> Result<WebhookSink, String> {
        let http = Http::new(rule, &webhook.url.0)?;
        Ok(WebhookSink { http, url: webhook.url.clone(), headers: webhook.header_map()? })
    }
}

impl Attempt for WebhookSink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let id = HeaderValue::from_str(&entry.id).expect("derived ids are letters, digits and dashes");
        headers.insert(IDEMPOTENCY_KEY, id);
        // What is configured wins.
        headers.extend(self.headers.clone());
        match self.http.post(&self.url.0, headers, entry.payload.clone()).await {
            Ok(answer) => answer.verdict(),
            Err(verdict) => verdict,
        }
    }
}
