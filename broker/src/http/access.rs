//! Who asks over HTTP, and with which role.
//!
//! The same users as over MQTT: a name and password (Basic) or a token (Bearer) are judged by the same [`Auth`], and
//! who guesses is slowed and banned as there. Where nothing knows users, who asks from this machine is its operator,
//! but for web pages that a browser here has open.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
    },
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use engine::Principal;
use protocol::{ByteString, ProtocolVersion, ReasonCode};
use tokio::sync::{mpsc, oneshot};

use super::{ask, problem::problem};
use crate::{
    Config,
    auth::{Auth, Claim, Denial, Pending, Secret, Verdict},
    limits::Admission,
    runtime::Ask,
};

/// Bytes of an `Authorization` header.
const AUTHORIZATION_BYTES_MAX: usize = 16 * 1024;

/// Judges who asks.
#[derive(Clone)]
pub(super) struct Access {
    auth: Auth,
    pub(super) ask: mpsc::Sender<Ask>,
    admin_groups: Vec<ByteString>,
    /// Whether who asks from this machine may be an operator without a name.
    local_operator: bool,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody on the broker's own machine, where nothing knows users.
    Local,
    /// A user; `is_admin` with the role that operators have.
    User { user: ByteString, principal: Box<Principal>, is_admin: bool },
}

impl Caller {
    /// Whether it may do what concerns others.
    pub(super) fn is_operator(&self) -> bool {
        matches!(self, Self::Local | Self::User { is_admin: true, .. })
    }

    /// The user that asks, if it has a name.
    pub(super) fn user(&self) -> Option<&ByteString> {
        match self {
            Self::Local => None,
            Self::User { user, .. } => Some(user),
        }
    }
}

/// What a request says of who sends it.
#[derive(Debug)]
struct Credentials {
    user: Option<ByteString>,
    secret: Secret,
}

impl Access {
    pub(super) fn new(config: &Config, auth: Auth, ask: mpsc::Sender<Ask>) -> Self {
        let admin_groups = config.http.admin_groups.iter().map(|group| group.as_str().into()).collect();
        Self { auth, ask, admin_groups, local_operator: config.http.local_operator }
    }

    /// Finds out who asks, or says what is answered instead.
    pub(super) async fn caller(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
    ) -> Result<Caller, Box<Response>> {
        if headers.contains_key(ORIGIN) && !is_same_origin(headers) {
            return Err(refuse(StatusCode::FORBIDDEN, "pages of other web sites may not ask this"));
        }
        let Some(authorization) = headers.get(AUTHORIZATION) else { return self.nobody(peer, headers) };
        let Some(credentials) = parse(authorization) else {
            let detail =
                "the Authorization header is neither Basic with a name and password nor Bearer with a token";
            return Err(Box::new(unauthorized(detail)));
        };
        let address = peer.ip().to_canonical();
        self.wait_for_turn(address, credentials.user.as_ref()).await?;
        let claim = Claim {
            client_id: ByteString::new(),
            username: credentials.user.clone(),
            password: Some(credentials.secret),
            certificate: None,
            certificate_is_user: false,
            version: ProtocolVersion::V5,
            address: peer.to_string(),
            listener: "http".to_owned(),
            anonymous_allowed: false,
        };
        let verdict = match self.auth.begin(claim) {
            Pending::Now(verdict) => verdict,
            Pending::Later(verdict) => verdict.await.unwrap_or_else(|_| {
                let what = "the broker could not find out who asks";
                Verdict::Deny(Denial::unavailable(ReasonCode::ServerUnavailable, what))
            }),
        };
        match verdict {
            Verdict::Allow(grant) => self.let_in(address, grant.principal).await,
            Verdict::Deny(denial) => Err(Box::new(self.deny(peer, credentials.user, denial).await)),
        }
    }

    /// Who says nothing of itself: the operator of this machine, if nothing here knows users.
    fn nobody(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<Caller, Box<Response>> {
        if self.auth.has_authenticators() {
            let detail = "say who asks: HTTP Basic with a user's name and password, or a Bearer token";
            return Err(Box::new(unauthorized(detail)));
        }
        if self.is_local(peer, headers) {
            return Ok(Caller::Local);
        }
        let detail = match self.local_operator {
            true => "without users this is answered on the broker's own machine only, and to no web page",
            false => "nothing here knows users, and http.local_operator is off: nobody may ask this",
        };
        Err(refuse(StatusCode::FORBIDDEN, detail))
    }

    /// Whether somebody asks on this machine itself, as far as can be seen: a proxy here that does not say that it is
    /// one looks the same.
    fn is_local(&self, peer: SocketAddr, headers: &HeaderMap) -> bool {
        let is_here = peer.ip().to_canonical().is_loopback() && !is_forwarded(headers);
        self.local_operator && is_here && !headers.contains_key(ORIGIN) && is_named_here(headers)
    }

    /// Lets an operator through, and who asks on this machine even where users are known: operators who were banned
    /// themselves must be able to end that.
    pub(super) async fn operator(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Box<Response>> {
        if !headers.contains_key(AUTHORIZATION) && self.is_local(peer, headers) {
            return Ok(());
        }
        match self.caller(peer, headers).await? {
            caller if caller.is_operator() => Ok(()),
            _ => Err(refuse(StatusCode::FORBIDDEN, "this needs a group of http.admin_groups")),
        }
    }

    async fn let_in(&self, address: IpAddr, principal: Principal) -> Result<Caller, Box<Response>> {
        let Some(user) = principal.user.clone() else {
            return Err(refuse(StatusCode::FORBIDDEN, "clients without a user may not ask this"));
        };
        // Only for the limits: nobody waits for it.
        let _ = self.ask.try_send(Ask::LoggedIn { address, user: user.clone() });
        let is_admin = principal.groups.iter().any(|group| self.admin_groups.contains(group));
        Ok(Caller::User { user, principal: Box::new(principal), is_admin })
    }

    async fn deny(&self, peer: SocketAddr, user: Option<ByteString>, denial: Denial) -> Response {
        let Denial { reason, what, why } = denial;
        let reason_code = reason as u8;
        tracing::info!(peer = %peer, user = user.as_deref(), reason_code, why, "http request not let in");
        match reason {
            ReasonCode::BadUserNameOrPassword => {
                let address = peer.ip().to_canonical();
                // A guess that is not counted would be free.
                let _ = self.ask.send(Ask::LoginFailed { address, user }).await;
                unauthorized(&what)
            }
            ReasonCode::ServerBusy | ReasonCode::ServerUnavailable => {
                problem(StatusCode::SERVICE_UNAVAILABLE, &what)
            }
            _ => unauthorized(&what),
        }
    }

    /// Waits as long as somebody who guessed has to; refuses who is banned.
    async fn wait_for_turn(&self, address: IpAddr, user: Option<&ByteString>) -> Result<(), Box<Response>> {
        let mut was_slowed = false;
        loop {
            let (answer, admission) = oneshot::channel();
            let question = Ask::MayLogIn { address, user: user.cloned(), answer };
            let admission = ask(&self.ask, question, admission).await;
            match admission.map_err(|what| refuse(StatusCode::SERVICE_UNAVAILABLE, what.trim_end()))? {
                Admission::Refuse { what, .. } => return Err(refuse(StatusCode::TOO_MANY_REQUESTS, &what)),
                // There may be a ban when the time is over.
                Admission::Delay { ms } if !was_slowed => {
                    was_slowed = true;
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                Admission::Delay { .. } | Admission::Admit => return Ok(()),
            }
        }
    }
}

fn parse(authorization: &HeaderValue) -> Option<Credentials> {
    let (scheme, rest) = authorization.as_bytes().split_at_checked(7)?;
    if authorization.len() > AUTHORIZATION_BYTES_MAX {
        return None;
    }
    if scheme.eq_ignore_ascii_case(b"bearer ") {
        let token = rest.trim_ascii();
        return (!token.is_empty()).then(|| Credentials { user: None, secret: Secret::from(token) });
    }
    let rest =
        authorization.as_bytes().split_at_checked(6).filter(|(s, _)| s.eq_ignore_ascii_case(b"basic "))?.1;
    let decoded = zeroize::Zeroizing::new(STANDARD.decode(rest.trim_ascii()).ok()?);
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = std::str::from_utf8(&decoded[..colon]).ok().filter(|user| !user.is_empty())?;
    Some(Credentials { user: Some(user.into()), secret: Secret::from(&decoded[colon + 1..]) })
}

fn refuse(status: StatusCode, detail: &str) -> Box<Response> {
    Box::new(problem(status, detail))
}

/// Answers 401; a browser asks for a name and password then.
fn unauthorized(detail: &str) -> Response {
    let mut response = problem(StatusCode::UNAUTHORIZED, detail);
    let schemes = HeaderValue::from_static("Basic realm=\"postrider\", charset=\"UTF-8\", Bearer");
    response.headers_mut().insert(WWW_AUTHENTICATE, schemes);
    response
}

/// Says whether a page of this very server asks.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let origin = text(ORIGIN).and_then(|origin| origin.split_once("://"));
    origin.zip(text(HOST)).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host))
}

/// Says whether a proxy brings the request: its own address says nothing of who asks. One that does not say so cannot be
/// told apart from somebody here.
fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name))
}

/// Says whether the client asked for this machine and not for a name that somebody let point to it.
fn is_named_here(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn credentials(header: &str) -> Option<(Option<String>, Vec<u8>)> {
        let parsed = parse(&HeaderValue::from_str(header).unwrap())?;
        Some((parsed.user.map(|user| user.to_string()), parsed.secret.expose().to_vec()))
    }

    #[test]
    fn credentials_are_a_name_and_password_or_a_token() {
        let basic = |text: &str| format!("bAsIc {}", STANDARD.encode(text));
        assert_eq!(credentials(&basic("bob:se:cret")), Some((Some("bob".into()), b"se:cret".to_vec())));
        assert_eq!(credentials(&basic("bob:")), Some((Some("bob".into()), Vec::new())));
        assert_eq!(credentials("Bearer a.b.c"), Some((None, b"a.b.c".to_vec())));
        for wrong in [&basic(":x"), &basic("bob"), "Basic !!!", "Bearer ", "Digest x", "", "é"] {
            assert_eq!(credentials(wrong), None, "{wrong}");
        }
        let long = format!("Bearer {}", "x".repeat(AUTHORIZATION_BYTES_MAX));
        assert_eq!(credentials(&long), None);
    }

    #[test]
    fn secrets_of_requests_are_not_shown() {
        let shown = format!("{:?}", parse(&HeaderValue::from_static("Bearer hidden.token.here")));
        assert!(!shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn only_pages_of_this_server_are_of_its_origin() {
        for (origin, host, same) in [
            ("http://localhost:8080", "localhost:8080", true),
            ("http://evil.example", "localhost:8080", false),
            ("null", "localhost:8080", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            headers.insert(ORIGIN, origin.parse().unwrap());
            assert_eq!(is_same_origin(&headers), same, "{origin}");
        }
    }

    #[test]
    fn what_a_proxy_brings_is_not_of_this_machine() {
        assert!(!is_forwarded(&HeaderMap::new()));
        for name in ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"] {
            let mut headers = HeaderMap::new();
            headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("192.0.2.1"));
            assert!(is_forwarded(&headers), "{name}");
        }
    }

    #[test]
    fn this_machine_is_named_by_localhost_or_an_address() {
        for (host, here) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("example.com:8080", false),
            ("127.0.0.1.example.com", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            assert_eq!(is_named_here(&headers), here, "{host}");
        }
        assert!(!is_named_here(&HeaderMap::new()));
    }
}
