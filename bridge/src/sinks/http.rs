//! HTTP as sinks speak it: TLS verified, no redirects, bounded answers, and errors that never show an address's secrets.

use reqwest::{
    Client, Method, Url,
    header::{HeaderMap, RETRY_AFTER},
    redirect,
};

use super::guard;
use crate::config::SinkRule;
use crate::outbox::{Cause, Verdict, judge, parse_retry_after, unix_ms};

/// The most of an answer that is read, bytes: enough for every documented error object.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What names a proxy.
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The most of a server's words that are repeated, characters.
const WORDS_CHARS_MAX: usize = 200;

/// One sink's connections to one server.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: Client,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The pause it asks for in `Retry-After`, milliseconds.
    pub(crate) retry_after_ms: Option<u64>,
    /// The first bytes of its body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Judges it by the status; the reason of a failure ends with the server's own words.
    pub(crate) fn verdict(&self) -> Verdict {
        let mut verdict = judge(self.status, self.retry_after_ms);
        if let Verdict::Again { why, .. } | Verdict::Never { why } = &mut verdict
            && let Some(words) = self.words()
        {
            *why = format!("{why}: {words}");
        }
        verdict
    }

    /// Reads the body as JSON; `null` if it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The start of a body that is text, on one line.
    fn words(&self) -> Option<String> {
        let text = std::str::from_utf8(&self.body).ok()?;
        let printable = text.chars().filter(|c| !c.is_control());
        let words: String = printable.take(WORDS_CHARS_MAX).collect();
        (!words.trim().is_empty()).then(|| words.trim().to_owned())
    }
}

impl Http {
    /// Prepares connections of a sink to the server of an address.
    ///
    /// # Errors
    /// The address is one that this sink may not lead to, or there are no certificate authorities on this system to check https with.
    pub(crate) fn new(rule: &SinkRule, url: &Url) -> Result<Http, String> {
        guard::check(url)?;
        // One provider everywhere; that somebody installed it already is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("postrider/", env!("CARGO_PKG_VERSION")))
            .timeout(rule.timeout)
            // A redirected POST becomes a GET: a wrong address is to be corrected, not followed.
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(1);
        if url.scheme() == "http" {
            // Without TLS no authorities are needed; a system without any is no obstacle.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(url) {
            builder = builder.no_proxy();
        }
        // Through a proxy it is the proxy that resolves names, and that says where one may go.
        if !PROXIES.iter().any(|name| std::env::var_os(name).is_some()) || is_loopback(url) {
            builder = builder.dns_resolver(guard::Guarded { private: rule.private });
        }
        let client = builder.build().map_err(|error| chain(&error))?;
        Ok(Http { client })
    }

    /// POSTs a body, see [`Http::request`].
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, Verdict> {
        self.request(Method::POST, url, headers, body).await
    }

    /// Sends a request and reads the answer; what kept it from an answer is the error.
    ///
    /// # Errors
    /// No answer came: the verdict says whether it may come later.
    pub(crate) async fn request(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, Verdict> {
        let failed = |error: reqwest::Error| {
            let is_ours = error.is_builder();
            let why = chain(&error.without_url());
            if is_ours {
                Verdict::Never { why }
            } else {
                Verdict::Again { cause: Cause::Transient, why, after_ms: None }
            }
        };
        let request = self.client.request(method, url.clone()).headers(headers).body(body);
        let mut answer = request.send().await.map_err(failed)?;
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after_ms = retry_after.and_then(|value| parse_retry_after(value, unix_ms()));
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        // A body that breaks off does not change what the status said.
        while let Ok(Some(chunk)) = answer.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - body.len())]);
            if body.len() == ANSWER_BYTES_MAX {
                break;
            }
        }
        Ok(Answer { status, retry_after_ms, body })
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
    fn the_reason_of_a_failure_has_the_words_of_the_server() {
        let answer = |body: &str| Answer { status: 400, retry_after_ms: None, body: body.into() };
        let never = |why: &str| Verdict::Never { why: why.to_owned() };
        assert_eq!(answer("bad\n topic").verdict(), never("the server answered 400: bad topic"));
        assert_eq!(answer("\n").verdict(), never("the server answered 400"));
        assert_eq!(
            answer(&"x".repeat(999)).verdict(),
            never(&format!("the server answered 400: {}", "x".repeat(200)))
        );
    }

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
