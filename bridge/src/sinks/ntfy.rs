//! Hands messages to ntfy, a push service that anybody may run (its documentation: "Publishing", headers).

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::http::Http;
use crate::{
    config::{Secret, SecretUrl, SinkRule},
    notice::{Notice, Severity},
    outbox::{Attempt, Verdict},
    state::Entry,
};

/// Longest message, bytes: ntfy makes an attachment of what is longer.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4_096;

/// What ntfy is told in the configuration (`type = "ntfy"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ntfy {
    /// The topic's address, for instance `https://ntfy.sh/my-fleet`. Whoever knows it can read it.
    pub url: SecretUrl,
    /// An access token of a server that asks for one.
    #[serde(default)]
    pub token: Option<Secret>,
}

/// One ntfy topic and its connections.
#[derive(Debug)]
pub(crate) struct NtfySink {
    http: Http,
    url: SecretUrl,
    authorization: Option<HeaderValue>,
}

impl NtfySink {
    /// Prepares requests to a topic.
    ///
    /// # Errors
    /// As [`Http::new`], or the token has characters that no header may have.
    pub(crate) fn new(rule: &SinkRule, ntfy: &Ntfy) -> Result<NtfySink, String> {
        let authorization = match &ntfy.token {
            Some(token) => {
                let mut value: HeaderValue = format!("Bearer {}", token.0)
                    .parse()
                    .map_err(|_| "token has characters that no header may have".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(NtfySink { http: Http::new(rule, &ntfy.url.0)?, url: ntfy.url.clone(), authorization })
    }
}

impl Attempt for NtfySink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        let notice = Notice::of(entry);
        let mut headers = HeaderMap::new();
        // Titles are UTF-8; ntfy reads raw bytes of a header as such.
        if let Ok(title) = HeaderValue::from_bytes(notice.title.as_bytes()) {
            headers.insert("title", title);
        }
        headers.insert("priority", HeaderValue::from_static(priority(notice.severity)));
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        let text = super::markup::cut_bytes(&notice.text, MESSAGE_BYTES_MAX);
        match self.http.post(&self.url.0, headers, text).await {
            Ok(answer) => answer.verdict(),
            Err(verdict) => verdict,
        }
    }
}

fn priority(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "3",
        Severity::Warning => "4",
        Severity::Critical => "5",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{notice::tests::entry, sinks::tests::Stub};

    #[tokio::test]
    async fn a_message_has_its_title_its_priority_and_the_token() {
        let stub = Stub::start().await;
        let settings = Ntfy { url: stub.url("/fleet"), token: Some(Secret("t0k3n".into())) };
        let mut sink = NtfySink::new(&stub.rule(), &settings).unwrap();
        let alert = entry(r#"{"device":"truck-7","text":"truck-7 is 183 m off","severity":"critical"}"#);
        let (verdict, request) = tokio::join!(sink.attempt(&alert), stub.answer("200 OK", "{}"));
        assert_eq!(verdict, Verdict::Delivered);
        assert_eq!(request.body, "truck-7 is 183 m off");
        for line in ["post /fleet http/1.1", "title: truck-7: route deviation", "priority: 5"] {
            assert!(request.head.contains(line), "{}", request.head);
        }
        assert!(request.head.contains("authorization: bearer t0k3n"), "{}", request.head);
    }
}
