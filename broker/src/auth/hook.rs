//! The HTTP hook: a service that is asked who may come in.
//!
//! The question is a POST of JSON, `{"clientid","username","password","peer","listener","protocol","certificate"}`;
//! the answer `{"result":"allow|deny|ignore","user"?,"groups"?,"acl"?,"limits"?}` with status 200. Answers are
//! remembered for seconds under a fingerprint of the question. A service that fails is left alone for a while.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use engine::Principal;
use protocol::{ByteString, ProtocolVersion, ReasonCode};
use reqwest::{
    Certificate, Client, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{
    breaker::{Breaker, Change},
    claim::{Answer, Claim, Denial, Grant, Proof},
    memory::Memory,
    rules::{LimitsText, OwnRuleText, own_rules},
    secret::{Fingerprint, ProcessKey},
    text_file::{TextFile, read_secret},
    users::{GROUPS_MAX, check_name},
};
use crate::config::{AuthHttp, OnFailure};

/// An answer is at most this long.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The service and what is known of it.
pub(crate) struct Hook {
    client: Client,
    url: Url,
    /// The address without its query, which may be a secret.
    shown_url: String,
    headers: HeaderMap,
    settings: AuthHttp,
    permits: Semaphore,
    breaker: Mutex<Breaker>,
    memory: Mutex<Memory<Answer>>,
    key: Arc<ProcessKey>,
    start: Instant,
}

#[derive(Serialize)]
struct Question<'a> {
    clientid: &'a str,
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    /// A password that is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    password64: Option<String>,
    peer: &'a str,
    listener: &'a str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<&'a str>,
}

#[derive(Deserialize)]
struct Reply {
    result: ReplyResult,
    user: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    acl: Vec<OwnRuleText>,
    #[serde(default)]
    limits: LimitsText,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReplyResult {
    Allow,
    Deny,
    Ignore,
}

impl Hook {
    /// Prepares questions; sends nothing.
    ///
    /// # Errors
    /// A setting is wrong or a file cannot be read.
    pub(crate) fn new(settings: &AuthHttp, key: &Arc<ProcessKey>) -> Result<Self, String> {
        // One provider everywhere; that somebody installed it already is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let url = check_url(&settings.url)?;
        let timeout = Duration::from_millis(u64::from(settings.timeout_ms));
        let mut builder = Client::builder()
            .user_agent(concat!("postrider/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            // A password is never sent where a redirect leads.
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(settings.concurrency_max as usize);
        if url.scheme() == "http" {
            builder = builder.tls_certs_only([]).no_proxy();
        } else if !settings.ca_file.as_os_str().is_empty() {
            let TextFile { text, path } = TextFile::read(&settings.ca_file)?;
            let certificates = Certificate::from_pem_bundle(text.as_bytes()).unwrap_or_default();
            if certificates.is_empty() {
                return Err(format!("{}: it holds no certificate in PEM", path.display()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| format!("auth_http: {}", causes(&error)))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !settings.bearer_token_file.as_os_str().is_empty() {
            let path = &settings.bearer_token_file;
            let token = read_secret(path)?;
            let value = [b"Bearer ", token.expose()].concat();
            let mut value = HeaderValue::from_bytes(&value)
                .map_err(|_| format!("{}: it holds no token on one line", path.display()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut shown_url = url.clone();
        shown_url.set_query(None);
        Ok(Self {
            client,
            url,
            shown_url: shown_url.into(),
            headers,
            permits: Semaphore::new(settings.concurrency_max as usize),
            breaker: Mutex::new(Breaker::new(settings.failures_max, u64::from(settings.rest_s) * 1000)),
            memory: Mutex::new(Memory::new(settings.cache_entries_max as usize)),
            settings: settings.clone(),
            key: Arc::clone(key),
            start: Instant::now(),
        })
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Asks, or remembers.
    pub(crate) async fn check(&self, claim: &Claim) -> Answer {
        let fingerprint = self.fingerprint(claim);
        if let Some(answer) = locked(&self.memory).get(self.now_ms(), &fingerprint) {
            return answer;
        }
        if !locked(&self.breaker).admit(self.now_ms()) {
            return self.without_answer("it is left alone after failures");
        }
        // Who waits for a place waits no longer than for an answer.
        let timeout = Duration::from_millis(u64::from(self.settings.timeout_ms));
        let permit = tokio::time::timeout(timeout, self.permits.acquire()).await;
        let answer = match &permit {
            Ok(Ok(_)) => self.ask(claim).await,
            _ => Err("too many questions wait for it".to_owned()),
        };
        match answer {
            Ok(answer) => {
                if locked(&self.breaker).answered() == Change::Closed {
                    tracing::info!(url = self.shown_url, "the authentication hook answers again");
                }
                let settings = &self.settings;
                let for_s = match &answer {
                    Answer::Allow(_) => settings.allow_cache_s,
                    Answer::Deny(_) | Answer::Ignore => settings.deny_cache_s,
                };
                let for_ms = u64::from(for_s) * 1000;
                locked(&self.memory).put(self.now_ms(), fingerprint, answer.clone(), for_ms);
                answer
            }
            Err(error) => {
                tracing::warn!(url = self.shown_url, error, "the authentication hook gave no answer");
                if locked(&self.breaker).failed(self.now_ms()) == Change::Opened {
                    let rest_s = self.settings.rest_s;
                    tracing::error!(
                        url = self.shown_url,
                        rest_s,
                        "the authentication hook is not asked for a while"
                    );
                }
                self.without_answer("it gave no answer")
            }
        }
    }

    fn without_answer(&self, why: &str) -> Answer {
        match self.settings.on_failure {
            OnFailure::Next => Answer::Ignore,
            OnFailure::Deny => {
                let what = "who may come in cannot be found out now, try again later";
                let denial = Denial::unavailable(ReasonCode::ServerUnavailable, what);
                Answer::Deny(Denial { why: format!("the authentication hook: {why}"), ..denial })
            }
        }
    }

    /// Everything that the service is told, but the port: so an answer is only remembered for the same question.
    fn fingerprint(&self, claim: &Claim) -> Fingerprint {
        let optional =
            |bytes: Option<&[u8]>| [&[u8::from(bytes.is_some())][..], bytes.unwrap_or_default()].concat();
        let host = claim.address.rsplit_once(':').map_or(&claim.address[..], |(host, _)| host);
        self.key.fingerprint(&[
            b"hook",
            claim.client_id.as_bytes(),
            &optional(claim.username.as_ref().map(|name| &name.as_bytes()[..])),
            &zeroize::Zeroizing::new(optional(claim.password.as_ref().map(|password| password.expose()))),
            &optional(claim.certificate.as_ref().map(|name| &name.as_bytes()[..])),
            host.as_bytes(),
            claim.listener.as_bytes(),
            protocol_name(claim.version).as_bytes(),
        ])
    }

    async fn ask(&self, claim: &Claim) -> Result<Answer, String> {
        let password = claim.password.as_ref().map(|password| std::str::from_utf8(password.expose()));
        let question = Question {
            clientid: &claim.client_id,
            username: claim.username.as_deref(),
            password: password.and_then(Result::ok),
            password64: claim
                .password
                .as_ref()
                .filter(|_| password.is_some_and(|text| text.is_err()))
                .map(|password| BASE64.encode(password.expose())),
            peer: &claim.address,
            listener: &claim.listener,
            protocol: protocol_name(claim.version),
            certificate: claim.certificate.as_deref(),
        };
        let body = serde_json::to_vec(&question).map_err(|_| "the question is no JSON".to_owned())?;
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let mut answer = request.send().await.map_err(|error| causes(&error.without_url()))?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("status {}, expected 200", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| causes(&error.without_url()))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        let reply: Reply =
            serde_json::from_slice(&body).map_err(|error| format!("the answer is wrong: {error}"))?;
        reply.judge(claim)
    }
}

impl Reply {
    fn judge(self, claim: &Claim) -> Result<Answer, String> {
        let user = match self.result {
            ReplyResult::Ignore => return Ok(Answer::Ignore),
            ReplyResult::Deny if claim.has_credentials() => {
                return Ok(Answer::Deny(Denial::credentials("the authentication hook denies it")));
            }
            ReplyResult::Deny => {
                return Ok(Answer::Deny(Denial::not_authorized("the authentication hook denies it")));
            }
            ReplyResult::Allow => self.user.map(ByteString::from).or_else(|| claim.username.clone()),
        };
        if let Some(user) = &user {
            check_name(user).map_err(|what| format!("the answer's user: {what}"))?;
        }
        if self.groups.len() > GROUPS_MAX {
            return Err(format!(
                "the answer has {} groups, at most {GROUPS_MAX} are taken",
                self.groups.len()
            ));
        }
        let groups = self.groups.into_iter().map(ByteString::from).collect();
        let rules = own_rules(self.acl).map_err(|what| format!("the answer's acl: {what}"))?.into();
        let principal = Principal { user, groups, rules, limits: self.limits.limits() };
        Ok(Answer::Allow(Box::new(Grant { principal, proof: Proof::Hook, expires_unix_ms: None })))
    }
}

/// Checks the address of the service.
///
/// # Errors
/// It is none.
pub(crate) fn check_url(text: &str) -> Result<Url, String> {
    let wrong = |what: &str| format!("auth_http.url {what}, expected http://HOST/PATH or https://HOST/PATH");
    let url = Url::parse(text).map_err(|error| wrong(&format!("is no URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is not of HTTP"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has a secret in it (put a token into auth_http.bearer_token_file)"));
    }
    Ok(url)
}

fn protocol_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V311 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error with its causes: reqwest's own words alone seldom say what happened.
fn causes(error: &dyn std::error::Error) -> String {
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
#[path = "hook_tests.rs"]
mod tests;
