//! Channels that take one HTTP request a message, with JSON in it and in the answer.

use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde_json::Value;

use super::http::{Answer, Http};
use crate::{
    config::{Secret, SinkRule},
    notice::Notice,
    outbox::{Attempt, Cause, Verdict, unix_ms},
    state::Entry,
};

/// What one channel makes of a message, and of the answers to it. Pure: the time is an argument.
pub(super) trait Channel: Send + Sync {
    /// The request that tells a message. What is wrong with it is never the message's fault.
    fn request(&self, notice: &Notice, now_ms: u64) -> Request;

    /// What an answer means.
    fn judge(&self, answer: &Answer) -> Verdict {
        answer.verdict()
    }
}

/// One HTTP request with JSON in it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) token: Option<Secret>,
    pub(super) body: Value,
}

impl Request {
    /// A POST without a token.
    pub(super) fn post(url: Url, body: Value) -> Request {
        Request { method: Method::POST, url, token: None, body }
    }
}

/// A channel and its connections.
pub(crate) struct ChannelSink {
    http: Http,
    channel: Box<dyn Channel>,
}

impl std::fmt::Debug for ChannelSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelSink").finish_non_exhaustive()
    }
}

impl ChannelSink {
    /// Prepares requests to the server of a channel's address.
    ///
    /// # Errors
    /// As [`Http::new`].
    pub(super) fn new(
        rule: &SinkRule,
        url: &Url,
        channel: impl Channel + 'static,
    ) -> Result<ChannelSink, String> {
        Ok(ChannelSink { http: Http::new(rule, url)?, channel: Box::new(channel) })
    }
}

impl Attempt for ChannelSink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        let request = self.channel.request(&Notice::of(entry), unix_ms());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &request.token {
            let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", token.0)) else {
                return settings("the token has characters that no header may have".to_owned());
            };
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        match self.http.request(request.method, &request.url, headers, request.body.to_string()).await {
            Ok(answer) => self.channel.judge(&answer),
            Err(verdict) => verdict,
        }
    }
}

/// It waits for the quota, `after_ms` if the channel says how long.
pub(super) fn quota(why: String, after_ms: Option<u64>) -> Verdict {
    Verdict::Again { cause: Cause::Quota, why, after_ms }
}

/// It waits for the network or the server.
pub(super) fn transient(why: String) -> Verdict {
    Verdict::Again { cause: Cause::Transient, why, after_ms: None }
}

/// It waits for somebody to mend the configuration.
pub(super) fn settings(why: String) -> Verdict {
    Verdict::Again { cause: Cause::Settings, why, after_ms: None }
}

/// What a channel with a code in the body of its answer said: the code, and its words.
pub(super) fn code(answer: &Answer, code: &str, words: &str) -> Option<(i64, String)> {
    let json = answer.json();
    let number = json.get(code)?.as_i64()?;
    let said: String =
        json.get(words).and_then(Value::as_str).unwrap_or_default().chars().take(200).collect();
    Some((number, format!("the server answered {code} {number}: {said}")))
}

/// Headline and text as one, where a channel has no place for a headline; a text that begins with it is not told it twice.
pub(super) fn headed(title: &str, text: &str, strong: impl Fn(&str) -> String) -> String {
    if text.starts_with(title) { text.to_owned() } else { format!("{}\n{text}", strong(title)) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{notice::tests::entry, sinks::tests::Stub};

    /// An answer with a status and a JSON body.
    pub(in crate::sinks) fn answer(status: u16, body: &str) -> Answer {
        Answer { status, retry_after_ms: None, body: body.as_bytes().to_vec() }
    }

    /// A verdict in one word, with the pause that was asked for.
    pub(in crate::sinks) fn word(verdict: &Verdict) -> (&'static str, Option<u64>) {
        match verdict {
            Verdict::Delivered => ("delivered", None),
            Verdict::Never { .. } => ("never", None),
            Verdict::Again { cause: Cause::Quota, after_ms, .. } => ("quota", *after_ms),
            Verdict::Again { cause: Cause::Transient, after_ms, .. } => ("transient", *after_ms),
            Verdict::Again { cause: Cause::Settings, after_ms, .. } => ("settings", *after_ms),
        }
    }

    /// A message that is critical and has characters which markups give a meaning.
    pub(in crate::sinks) fn notice() -> Notice {
        Notice::of(&entry(
            r#"{"ts":1795694400000,"device":"truck_7","severity":"critical","title":"truck_7 <left>","text":"it is *183 m* off & away","alert":"al-1","rule":"off-route","phase":"raised"}"#,
        ))
    }

    struct Echo(Url);

    impl Channel for Echo {
        fn request(&self, notice: &Notice, _: u64) -> Request {
            let body = serde_json::json!({ "text": notice.text });
            Request { token: Some(Secret("s3cret".into())), ..Request::post(self.0.clone(), body) }
        }
    }

    #[tokio::test]
    async fn a_message_is_one_request_with_json_and_the_token() {
        let stub = Stub::start().await;
        let url = stub.url("/hook").0;
        let mut sink = ChannelSink::new(&stub.rule(), &url, Echo(url.clone())).unwrap();
        let alert = entry(r#"{"text":"hello"}"#);
        let (verdict, request) = tokio::join!(sink.attempt(&alert), stub.answer("200 OK", "{}"));
        assert_eq!((verdict, request.body.as_str()), (Verdict::Delivered, r#"{"text":"hello"}"#));
        assert!(request.head.contains("authorization: bearer s3cret"), "{}", request.head);
        assert!(request.head.contains("content-type: application/json"), "{}", request.head);
    }
}
