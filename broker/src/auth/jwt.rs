//! JSON Web Tokens in the password (RFC 7519): HS256, RS256 and ES256.
//!
//! Each key is of one algorithm and checks no other, whatever the token says: neither `none` nor a public key
//! used as a secret gets in. Time is an argument.

use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use base64::{
    Engine,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use engine::{Principal, SessionLimits};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use protocol::ByteString;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    claim::{Answer, Claim, Denial, Grant, Proof},
    rules::{OwnRuleText, own_rules},
    secret::{Fingerprint, ProcessKey},
    text_file::{TextFile, read_secret},
    users::{GROUPS_MAX, check_name},
};
use crate::config::AuthJwt;

/// A longer password is no token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Keys of a set; that is also how many signatures a token without `kid` is checked against.
const KEYS_MAX: usize = 32;

/// RFC 7518 section 3.2: as long as the hash.
const SECRET_BYTES_MIN: usize = 32;

/// RFC 7518 section 3.3: 2,048 bits.
const RSA_MODULUS_BYTES_MIN: usize = 256;

/// A key and the one algorithm that it is for.
struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    fingerprint: Fingerprint,
}

/// The keys in force.
pub(crate) struct Keys(Vec<Key>);

/// Checks tokens.
pub(crate) struct Tokens {
    settings: AuthJwt,
    required: Vec<(String, String)>,
    keys: ArcSwap<Keys>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl Keys {
    /// Reads the key files that are set.
    ///
    /// # Errors
    /// One cannot be read or holds no key that can be used; the message names the file.
    pub(crate) fn read(settings: &AuthJwt, process_key: &ProcessKey) -> Result<Self, String> {
        let mut keys = Vec::new();
        let in_file = |path: &Path, what: String| format!("{}: {what}", path.display());
        let AuthJwt { secret_file, public_key_file, jwks_file, .. } = settings;
        if is_set(secret_file) {
            let secret = read_secret(secret_file)?;
            let key =
                Key::secret(secret.expose(), None, process_key).map_err(|what| in_file(secret_file, what))?;
            keys.push(key);
        }
        if is_set(public_key_file) {
            let TextFile { text, .. } = TextFile::read(public_key_file)?;
            let key = Key::pem(&text, process_key).map_err(|what| in_file(public_key_file, what))?;
            keys.push(key);
        }
        if is_set(jwks_file) {
            let TextFile { text, .. } = TextFile::read(jwks_file)?;
            keys.extend(parse_jwks(&text, process_key).map_err(|what| in_file(jwks_file, what))?);
        }
        Ok(Self(keys))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

fn parse_jwks(text: &str, process_key: &ProcessKey) -> Result<Vec<Key>, String> {
    let Jwks { keys: set } = serde_json::from_str(text).map_err(|error| {
        // The message may repeat a value, and a value may be a secret.
        format!("it is no JSON Web Key Set {{\"keys\": [...]}}: wrong at line {}", error.line())
    })?;
    if set.len() > KEYS_MAX {
        return Err(format!("{} keys, at most {KEYS_MAX} are taken", set.len()));
    }
    let mut keys = Vec::new();
    for (i, jwk) in set.into_iter().enumerate() {
        match Key::jwk(jwk, process_key) {
            Ok(key) => keys.push(key),
            // A set may have keys for other uses.
            Err(Unusable::Other(why)) => tracing::info!(key = i + 1, why, "a key of the set is not used"),
            Err(Unusable::Wrong(what)) => return Err(format!("key {}: {what}", i + 1)),
        }
    }
    if keys.is_empty() {
        return Err("it has no key for RS256, ES256 or HS256".to_owned());
    }
    Ok(keys)
}

/// Why a key of a set is not used.
enum Unusable {
    /// It is for something else.
    Other(String),
    /// It is wrong.
    Wrong(String),
}

impl Key {
    fn new(
        algorithm: Algorithm,
        key: DecodingKey,
        kid: Option<String>,
        material: &[&[u8]],
        process_key: &ProcessKey,
    ) -> Self {
        let name = format!("{algorithm:?}");
        let mut parts = vec![name.as_bytes()];
        parts.extend(material);
        let fingerprint = process_key.fingerprint(&parts);
        Self { kid, algorithm, key, fingerprint }
    }

    fn secret(secret: &[u8], kid: Option<String>, process_key: &ProcessKey) -> Result<Self, String> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!("the secret has {} bytes, HS256 needs {SECRET_BYTES_MIN}", secret.len()));
        }
        Ok(Self::new(Algorithm::HS256, DecodingKey::from_secret(secret), kid, &[secret], process_key))
    }

    fn pem(text: &str, process_key: &ProcessKey) -> Result<Self, String> {
        let bytes = text.as_bytes();
        if text.contains("PRIVATE KEY") {
            return Err("it holds a private key; put the public one here, and keep that one away".to_owned());
        }
        let rsa = DecodingKey::from_rsa_pem(bytes).map(|key| (Algorithm::RS256, key));
        let key = rsa.or_else(|_| DecodingKey::from_ec_pem(bytes).map(|key| (Algorithm::ES256, key)));
        let (algorithm, key) =
            key.map_err(|_| "it is no PEM file with an RSA or P-256 public key".to_owned())?;
        Ok(Self::new(algorithm, key, None, &[bytes], process_key))
    }

    fn jwk(jwk: Jwk, process_key: &ProcessKey) -> Result<Self, Unusable> {
        let wrong = |what: &str| Unusable::Wrong(what.to_owned());
        let Jwk { kty, kid, alg, usage, crv, n, e, x, y, k } = jwk;
        if usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err(Unusable::Other("it is not for signatures".to_owned()));
        }
        let expected = match (kty.as_str(), crv.as_deref()) {
            ("RSA", _) => "RS256",
            ("EC", Some("P-256")) => "ES256",
            ("oct", _) => "HS256",
            (kty, crv) => return Err(Unusable::Other(format!("kty {kty:?} crv {crv:?} is not served"))),
        };
        if let Some(alg) = alg.filter(|alg| alg != expected) {
            return Err(Unusable::Other(format!("alg {alg:?} is not served")));
        }
        match (expected, n.zip(e), x.zip(y), k) {
            ("RS256", Some((n, e)), _, _) => {
                let modulus = decode(&n).ok_or_else(|| wrong("`n` is no base64url"))?;
                if modulus.iter().skip_while(|byte| **byte == 0).count() < RSA_MODULUS_BYTES_MIN {
                    return Err(wrong("the RSA key is shorter than 2048 bits"));
                }
                let key =
                    DecodingKey::from_rsa_components(&n, &e).map_err(|_| wrong("`e` is no base64url"))?;
                Ok(Self::new(Algorithm::RS256, key, kid, &[n.as_bytes(), e.as_bytes()], process_key))
            }
            ("ES256", _, Some((x, y)), _) => {
                let is_point = [&x, &y].into_iter().all(|c| decode(c).is_some_and(|bytes| bytes.len() == 32));
                let key = DecodingKey::from_ec_components(&x, &y).ok().filter(|_| is_point);
                let key = key.ok_or_else(|| wrong("`x` and `y` are no point of P-256 in base64url"))?;
                Ok(Self::new(Algorithm::ES256, key, kid, &[x.as_bytes(), y.as_bytes()], process_key))
            }
            ("HS256", _, _, Some(k)) => {
                let secret = decode(&k).ok_or_else(|| wrong("`k` is no base64url"))?;
                Self::secret(&secret, kid, process_key).map_err(Unusable::Wrong)
            }
            _ => Err(wrong("its numbers are missing (RSA: n, e; EC: x, y; oct: k)")),
        }
    }
}

impl Tokens {
    /// Makes a checker with the keys of the files that are set.
    ///
    /// # Errors
    /// A key file or a setting is wrong.
    pub(crate) fn new(settings: &AuthJwt, process_key: &ProcessKey) -> Result<Self, String> {
        let keys = Keys::read(settings, process_key)?;
        let required = settings.required_claims.iter().map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("auth_jwt.required_claims has {pair:?}, expected \"NAME=VALUE\"")),
        });
        let required = required.collect::<Result<_, _>>()?;
        Ok(Self { settings: settings.clone(), required, keys: ArcSwap::from_pointee(keys) })
    }

    /// Says whether the settings name a key.
    pub(crate) fn are_set(settings: &AuthJwt) -> bool {
        [&settings.secret_file, &settings.public_key_file, &settings.jwks_file].into_iter().any(|p| is_set(p))
    }

    /// Puts other keys in force.
    pub(crate) fn replace(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
    }

    /// Says whether tokens of this key are still taken.
    pub(crate) fn has_key(&self, fingerprint: &Fingerprint) -> bool {
        self.keys.load().0.iter().any(|key| key.fingerprint == *fingerprint)
    }

    /// Checks the token in the password; what has not the shape of one is for others.
    pub(crate) fn check(&self, claim: &Claim, now_unix_ms: u64) -> Answer {
        let Some(password) = claim.password.as_ref().filter(|p| p.expose().len() <= TOKEN_BYTES_MAX) else {
            return Answer::Ignore;
        };
        let Some(token) = Token::parse(password.expose()) else { return Answer::Ignore };
        let checked = self.signature(&token).and_then(|(claims, fingerprint)| {
            let grant = self.grant(claim, &claims, now_unix_ms / 1000)?;
            Ok(Grant { proof: Proof::Token(fingerprint), ..grant })
        });
        match checked {
            Ok(grant) => Answer::Allow(Box::new(grant)),
            Err(denial) => Answer::Deny(denial),
        }
    }

    /// Returns the claims once a key vouches for them.
    fn signature(&self, token: &Token<'_>) -> Result<(Map<String, Value>, Fingerprint), Denial> {
        let header = &token.header;
        if header.crit.is_some() {
            // RFC 7515 section 4.1.11: what must be understood and is not makes the token invalid.
            return Err(Denial::credentials("the token has critical headers"));
        }
        let keys = self.keys.load();
        let is_candidate = |key: &&Key| {
            let same_kid = header.kid.is_none() || key.kid.is_none() || key.kid == header.kid;
            header.alg == format!("{:?}", key.algorithm) && same_kid
        };
        let mut candidates = keys.0.iter().filter(is_candidate);
        let signs = |key: &&Key| {
            crypto::verify(token.signature, token.signed, &key.key, key.algorithm).unwrap_or(false)
        };
        let Some(key) = candidates.find(signs) else {
            return Err(Denial::credentials("no key vouches for the token"));
        };
        let claims = decode(token.claims).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let claims = claims.ok_or_else(|| Denial::credentials("the token's claims are no JSON object"))?;
        Ok((claims, key.fingerprint))
    }

    /// Judges claims that are true.
    fn grant(&self, claim: &Claim, claims: &Map<String, Value>, now_s: u64) -> Result<Grant, Denial> {
        let settings = &self.settings;
        let refused = |what: String| Denial::not_authorized(what);
        let leeway_s = f64::from(settings.leeway_s);
        // RFC 7519 section 2: a NumericDate may have a fraction.
        let time = |name: &str| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0);
                seconds.map(Some).ok_or_else(|| refused(format!("the token's {name} is no time")))
            }
        };
        let expires_s = time("exp")?;
        match expires_s {
            Some(expires_s) if now_s as f64 >= expires_s + leeway_s => {
                return Err(refused("the token has expired".to_owned()));
            }
            None if settings.expiry_required => return Err(refused("the token has no exp".to_owned())),
            _ => {}
        }
        if time("nbf")?.is_some_and(|begins_s| (now_s as f64) < begins_s - leeway_s) {
            return Err(refused("the token is not valid yet".to_owned()));
        }
        let holds = |name: &str, wanted: &str| match claims.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(items)) => items.iter().any(|item| item.as_str() == Some(wanted)),
            Some(Value::Number(number)) => number.to_string().as_str() == wanted,
            Some(Value::Bool(flag)) => wanted == if *flag { "true" } else { "false" },
            _ => false,
        };
        let is_issuer = claims.get("iss").and_then(Value::as_str) == Some(&settings.issuer);
        if !settings.issuer.is_empty() && !is_issuer {
            return Err(refused("the token is of another issuer".to_owned()));
        }
        if !settings.audience.is_empty() && !holds("aud", &settings.audience) {
            return Err(refused("the token is for another audience".to_owned()));
        }
        for (name, value) in &self.required {
            let username = claim.username.as_deref().unwrap_or_default();
            let wanted = value.replace("%c", &claim.client_id).replace("%u", username);
            if !holds(name, &wanted) {
                return Err(refused(format!("the token's {name} is not what is required")));
            }
        }
        let principal = self.principal(claim, claims)?;
        let expires_unix_ms = expires_s
            .filter(|_| settings.end_at_expiry)
            .map(|seconds| ((seconds + leeway_s) * 1000.0) as u64);
        // `check` puts the key in.
        Ok(Grant { principal, proof: Proof::None, expires_unix_ms })
    }

    fn principal(&self, claim: &Claim, claims: &Map<String, Value>) -> Result<Principal, Denial> {
        let settings = &self.settings;
        let refused = |what: String| Denial::not_authorized(what);
        let user = claims.get(&settings.user_claim).and_then(Value::as_str);
        let user = user.ok_or_else(|| refused(format!("the token has no {}", settings.user_claim)))?;
        check_name(user).map_err(|what| refused(format!("the token's {}: {what}", settings.user_claim)))?;
        if settings.username_must_match && claim.username.as_ref().is_some_and(|name| *name != *user) {
            return Err(refused("the token is of another user".to_owned()));
        }
        let groups = match claims.get(&settings.groups_claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(group)) => vec![ByteString::from(group.as_str())],
            Some(Value::Array(groups)) if groups.len() <= GROUPS_MAX => {
                let groups = groups.iter().map(|group| group.as_str().map(ByteString::from));
                let groups = groups.collect::<Option<_>>();
                groups
                    .ok_or_else(|| refused(format!("the token's {} are no names", settings.groups_claim)))?
            }
            Some(_) => {
                let what = format!("the token's {} are no list of {GROUPS_MAX} names", settings.groups_claim);
                return Err(refused(what));
            }
        };
        let rules = match claims.get(&settings.acl_claim).filter(|_| !settings.acl_claim.is_empty()) {
            None => Vec::new(),
            Some(rules) => {
                let rules = Vec::<OwnRuleText>::deserialize(rules).map_err(|error| error.to_string());
                let rules = rules.and_then(own_rules);
                rules.map_err(|what| refused(format!("the token's {}: {what}", settings.acl_claim)))?
            }
        };
        let (groups, rules, limits) = (groups.into(), rules.into(), SessionLimits::default());
        Ok(Principal { user: Some(user.into()), groups, rules, limits })
    }
}

/// A text with the shape of a token.
struct Token<'a> {
    header: Header,
    signed: &'a [u8],
    claims: &'a str,
    signature: &'a str,
}

impl<'a> Token<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let is_base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if header.is_empty() || !claims.bytes().chain(signature.bytes()).all(is_base64url) {
            return None;
        }
        let header = serde_json::from_slice(&decode(header)?).ok()?;
        Some(Self { header, signed: signed.as_bytes(), claims, signature })
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
