//! What a client brings, and what becomes of it.

use engine::Principal;
use protocol::{ByteString, ProtocolVersion, ReasonCode};

use super::secret::{Fingerprint, Secret};

/// What a client brings to be let in.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) client_id: ByteString,
    pub(crate) username: Option<ByteString>,
    pub(crate) password: Option<Secret>,
    /// The identity of a verified certificate.
    pub(crate) certificate: Option<ByteString>,
    /// Whether the listener takes it for the user, and asks for nothing else.
    pub(crate) certificate_is_user: bool,
    pub(crate) version: ProtocolVersion,
    /// Where the client is, for the hook and the log.
    pub(crate) address: String,
    /// The listener's name.
    pub(crate) listener: String,
    /// Whether clients that bring nothing may come in by this listener.
    pub(crate) anonymous_allowed: bool,
}

impl Claim {
    /// Says whether it brings anything that can be checked.
    pub(crate) fn has_credentials(&self) -> bool {
        self.username.is_some() || self.password.is_some()
    }
}

/// What somebody says of a claim.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Come in.
    Allow(Box<Grant>),
    /// Stay out.
    Deny(Denial),
    /// I do not know; ask the next one.
    Ignore,
}

/// What the chain says of a claim.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Come in.
    Allow(Box<Grant>),
    /// Stay out.
    Deny(Denial),
}

/// A client that may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Who it is and what it may.
    pub(crate) principal: Principal,
    /// What proved it.
    pub(crate) proof: Proof,
    /// When it ends, milliseconds since the Unix epoch.
    pub(crate) expires_unix_ms: Option<u64>,
}

impl Grant {
    /// A client without a name.
    pub(crate) fn anonymous() -> Self {
        Self { principal: Principal::default(), proof: Proof::None, expires_unix_ms: None }
    }
}

/// What proved who a client is; looked at again when files change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nothing: it is anonymous.
    None,
    /// A certificate.
    Certificate,
    /// What the users file has of the user.
    Password(Fingerprint),
    /// A token signed by this key.
    Token(Fingerprint),
    /// The hook said so.
    Hook,
}

/// A client that may not come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The reason code.
    pub(crate) reason: ReasonCode,
    /// What the client is told.
    pub(crate) what: String,
    /// What the log is told: it may say whether the user exists, the client may not know.
    pub(crate) why: String,
}

impl Denial {
    /// The credentials are wrong; which of them is only for the log.
    pub(crate) fn credentials(why: impl Into<String>) -> Self {
        let what = "user name or password is wrong".to_owned();
        Self { reason: ReasonCode::BadUserNameOrPassword, what, why: why.into() }
    }

    /// The client is known, or says nothing of itself, and may not come in.
    pub(crate) fn not_authorized(what: impl Into<String>) -> Self {
        let what = what.into();
        Self { reason: ReasonCode::NotAuthorized, why: what.clone(), what }
    }

    /// The broker cannot say.
    pub(crate) fn unavailable(reason: ReasonCode, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { reason, why: what.clone(), what }
    }
}
