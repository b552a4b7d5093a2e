//! Hands messages to a webhook: one POST an attempt.

use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};

use super::{Attempt, unix_ms};
use crate::{
    config::Webhook,
    retry::{Verdict, judge, parse_retry_after},
    state::Entry,
};

/// The header by which a server recognises a repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// One webhook and its connections.
#[derive(Debug)]
pub(crate) struct WebhookSink {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

impl WebhookSink {
    /// Prepares requests to a webhook.
    ///
    /// # Errors
    /// There are no certificate authorities on this system to check an https address with.
    pub(crate) fn new(webhook: &Webhook) -> Result<WebhookSink, String> {
        // One provider everywhere; that somebody installed it already is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let url = webhook.url.0.clone();
        let mut builder = Client::builder()
            .user_agent(concat!("postrider/", env!("CARGO_PKG_VERSION")))
            .timeout(webhook.timeout)
            // A redirected POST becomes a GET: a wrong address is to be corrected, not followed.
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(1);
        if url.scheme() == "http" {
            // Without TLS no authorities are needed; a system without any is no obstacle.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| chain(&error))?;
        Ok(WebhookSink { client, url, headers: webhook.headers.clone() })
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
        let request = self.client.post(self.url.clone()).headers(headers).body(entry.payload.clone());
        match request.send().await {
            Ok(answer) => {
                let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                judge(
                    answer.status().as_u16(),
                    retry_after.and_then(|value| parse_retry_after(value, unix_ms())),
                )
            }
            Err(error) if error.is_builder() => Verdict::Never { why: chain(&error.without_url()) },
            Err(error) => Verdict::Again { why: chain(&error.without_url()), after_ms: None },
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// An error with its causes: reqwest's own words alone seldom say what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_on_this_host_are_recognised() {
        for (url, want) in [
            ("http://127.0.0.1:80/x", true),
            ("http://localhost/x", true),
            ("http://[::1]:8/x", true),
            ("http://127.0.0.1.example/x", false),
            ("https://hooks.example/x", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), want, "{url}");
        }
    }
}
