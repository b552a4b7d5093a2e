//! SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677), for enhanced authentication (MQTT 5.0 section 4.12).
//!
//! Pure: what a client sends goes in, what it is to be sent comes out. Channel binding is not offered, and
//! passwords are taken as the UTF-8 they are, without SASLprep.
//!
//! ```text
//! First --client-first--> Final --client-final--> Done(user) | refused
//! ```

use std::{fmt, num::NonZeroU32};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac, pbkdf2};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::secret::{ProcessKey, random};

/// The name of the method.
pub(crate) const METHOD: &str = "SCRAM-SHA-256";

/// Iterations for new passwords: the client does them, and it may be a small device. RFC 7677 asks for 4,096.
pub(crate) const ITERATIONS: u32 = 15_000;

/// Iterations that are taken from a users file.
const ITERATIONS_MIN: u32 = 4_096;
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_BYTES: usize = 16;
const SALT_BYTES_MAX: usize = 64;
const NONCE_BYTES: usize = 18;
/// A message of the client is at most this long.
const MESSAGE_BYTES_MAX: usize = 4_096;

/// What is kept of a password for SCRAM; who has it can be taken for the broker, not for the user.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl Credentials {
    /// Derives them from a password, with a new salt.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new(password: &[u8], iterations: u32) -> Result<Self, String> {
        Ok(Self::with_salt(password, iterations, random::<SALT_BYTES>()?.to_vec()))
    }

    fn with_salt(password: &[u8], iterations: u32, salt: Vec<u8>) -> Self {
        let mut salted = [0; 32];
        let rounds = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password, &mut salted);
        let stored_key = sha256(&sign(&salted, b"Client Key"));
        let server_key = sign(&salted, b"Server Key");
        zeroize::Zeroize::zeroize(&mut salted);
        Self { iterations, salt, stored_key, server_key }
    }

    /// Makes credentials that nobody has, for a user that does not exist: the same ones at every try, as a real
    /// user's are.
    fn of_nobody(user: &str, key: &ProcessKey, iterations: u32) -> Self {
        let salt = key.fingerprint(&[b"salt", user.as_bytes()])[..SALT_BYTES].to_vec();
        let stored_key = key.fingerprint(&[b"key", user.as_bytes()]);
        Self { iterations, salt, stored_key, server_key: stored_key }
    }

    /// Reads `SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY`, all in base64, as PostgreSQL writes it.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "is no SCRAM credential such as SCRAM-SHA-256$15000:SALT$STOREDKEY:SERVERKEY".to_owned();
        let rest = text.strip_prefix(METHOD).and_then(|rest| rest.strip_prefix('$')).ok_or_else(wrong)?;
        let (head, keys) = rest.split_once('$').ok_or_else(wrong)?;
        let (iterations, salt) = head.split_once(':').ok_or_else(wrong)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or_else(wrong)?;
        let iterations: u32 = iterations.parse().map_err(|_| wrong())?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(format!(
                "has {iterations} iterations, allowed are {ITERATIONS_MIN} to {ITERATIONS_MAX}"
            ));
        }
        let salt = BASE64.decode(salt).map_err(|_| wrong())?;
        if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(wrong());
        }
        let key = |text: &str| -> Result<[u8; 32], String> {
            BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)
        };
        Ok(Self { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    pub(crate) fn iterations(&self) -> u32 {
        self.iterations
    }
}

impl fmt::Display for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|bytes| BASE64.encode(bytes));
        write!(f, "{METHOD}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// Why an exchange fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramError {
    /// The client's message is none, or not the one that follows.
    #[error("the SCRAM message is wrong: {0}")]
    Message(&'static str),
    /// The user is unknown or the password wrong: which of them is for nobody to know.
    #[error("user name or password is wrong")]
    Credentials,
}

/// Where credentials of users come from.
pub(crate) trait Lookup {
    /// Returns the credentials of a user who may come in.
    fn credentials(&self, user: &str) -> Option<Credentials>;

    /// Returns the key for users that do not exist, and the iterations that most users have.
    fn of_nobody(&self) -> (&ProcessKey, u32);
}

/// One exchange.
pub(crate) struct Exchange {
    step: Step,
    user: Option<String>,
}

enum Step {
    First,
    Final(Box<Challenged>),
    Done,
}

/// What was agreed before the client's proof.
struct Challenged {
    user: String,
    is_known: bool,
    credentials: Credentials,
    /// The header that the final message repeats in base64.
    gs2_header: String,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

/// What to do after a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Send this and wait for the next message.
    Challenge(String),
    /// The user proved the password; send this with the success.
    Success {
        /// Who it is.
        user: String,
        /// The broker's own proof.
        server_final: String,
    },
}

impl Exchange {
    /// Begins one.
    pub(crate) fn new() -> Self {
        Self { step: Step::First, user: None }
    }

    /// Returns the user that the client says it is, once it has.
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Says whether nothing was received yet.
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self.step, Step::First)
    }

    /// Takes the client's next message. After an error, or a success, the exchange is over.
    ///
    /// # Errors
    /// The client is refused.
    pub(crate) fn receive(&mut self, message: &[u8], lookup: &impl Lookup) -> Result<Progress, ScramError> {
        let nonce =
            random::<NONCE_BYTES>().map_err(|_| ScramError::Message("the system has no random numbers"))?;
        self.receive_with(message, lookup, &BASE64.encode(nonce))
    }

    fn receive_with(
        &mut self,
        message: &[u8],
        lookup: &impl Lookup,
        server_nonce: &str,
    ) -> Result<Progress, ScramError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ScramError::Message("it is too long"));
        }
        let message = std::str::from_utf8(message).map_err(|_| ScramError::Message("it is not UTF-8"))?;
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::First => {
                let challenged = Challenged::new(message, lookup, server_nonce)?;
                let server_first = challenged.server_first.clone();
                self.user = Some(challenged.user.clone());
                self.step = Step::Final(Box::new(challenged));
                Ok(Progress::Challenge(server_first))
            }
            Step::Final(challenged) => challenged.finish(message),
            Step::Done => Err(ScramError::Message("the exchange is over")),
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange")
    }
}

impl Challenged {
    /// Reads `n,,n=USER,r=NONCE`.
    fn new(message: &str, lookup: &impl Lookup, server_nonce: &str) -> Result<Self, ScramError> {
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ScramError::Message("the first one must be n,,n=USER,r=NONCE"));
        };
        match flag {
            // "y": the client could bind to the channel and sees that this broker does not offer it.
            "n" | "y" => {}
            _ => return Err(ScramError::Message("channel binding is not offered")),
        }
        let gs2_header = format!("{flag},{authzid},");
        let mut attributes = bare.split(',');
        let user = attributes.next().and_then(|part| part.strip_prefix("n="));
        let user = user.ok_or(ScramError::Message("the user name n= is missing"))?;
        let user = name(user).ok_or(ScramError::Message("the user name is empty or has a bad = in it"))?;
        if !authzid.is_empty() && authzid.strip_prefix("a=").and_then(name).as_ref() != Some(&user) {
            return Err(ScramError::Message("nobody may act for another user"));
        }
        let client_nonce = attributes.next().and_then(|part| part.strip_prefix("r="));
        let client_nonce = client_nonce
            .filter(|nonce| !nonce.is_empty() && nonce.bytes().all(|b| (0x21..0x7f).contains(&b)))
            .ok_or(ScramError::Message("the nonce r= is missing or not printable"))?;
        let known = lookup.credentials(&user);
        let is_known = known.is_some();
        let credentials = known.unwrap_or_else(|| {
            let (key, iterations) = lookup.of_nobody();
            Credentials::of_nobody(&user, key, iterations)
        });
        let nonce = format!("{client_nonce}{server_nonce}");
        let salt = BASE64.encode(&credentials.salt);
        let server_first = format!("r={nonce},s={salt},i={}", credentials.iterations);
        let client_first_bare = bare.to_owned();
        Ok(Self { user, is_known, credentials, gs2_header, nonce, client_first_bare, server_first })
    }

    /// Reads `c=BINDING,r=NONCE,p=PROOF` and checks the proof.
    fn finish(self, message: &str) -> Result<Progress, ScramError> {
        let wrong = ScramError::Message("the final one must be c=BINDING,r=NONCE,p=PROOF");
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or_else(|| wrong.clone())?;
        let mut attributes = without_proof.split(',');
        let binding =
            attributes.next().and_then(|part| part.strip_prefix("c=")).ok_or_else(|| wrong.clone())?;
        let nonce =
            attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or_else(|| wrong.clone())?;
        if binding != BASE64.encode(&self.gs2_header) {
            return Err(ScramError::Message("the channel binding is not the one of the first message"));
        }
        if nonce != self.nonce {
            return Err(ScramError::Message("the nonce is not the one that was agreed"));
        }
        let proof: [u8; 32] =
            BASE64.decode(proof).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(wrong)?;
        let auth_message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let client_signature = sign(&self.credentials.stored_key, auth_message.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(client_signature).for_each(|(byte, signature)| *byte ^= signature);
        let is_right = verify_slices_are_equal(&sha256(&client_key), &self.credentials.stored_key).is_ok();
        if !(is_right && self.is_known) {
            return Err(ScramError::Credentials);
        }
        let server_signature = sign(&self.credentials.server_key, auth_message.as_bytes());
        Ok(Progress::Success {
            user: self.user,
            server_final: format!("v={}", BASE64.encode(server_signature)),
        })
    }
}

/// Undoes the escapes of a user name: `=2C` is a comma, `=3D` an equals sign.
fn name(escaped: &str) -> Option<String> {
    let mut pieces = escaped.split('=');
    let mut name = pieces.next()?.to_owned();
    for piece in pieces {
        let (escape, rest) = piece.split_at_checked(2)?;
        name.push(match escape {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        name.push_str(rest);
    }
    (!name.is_empty()).then_some(name)
}

fn sign(key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes")
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The users of the test vector in RFC 7677 section 3.
    struct Rfc(ProcessKey);

    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

    impl Lookup for Rfc {
        fn credentials(&self, user: &str) -> Option<Credentials> {
            let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
            (user == "user").then(|| Credentials::with_salt(b"pencil", 4096, salt))
        }

        fn of_nobody(&self) -> (&ProcessKey, u32) {
            (&self.0, 4096)
        }
    }

    fn rfc() -> Rfc {
        Rfc(ProcessKey::from_secret(b"test"))
    }

    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    #[test]
    fn the_test_vector_of_rfc_7677_is_met() {
        let mut exchange = Exchange::new();
        let challenge = exchange.receive_with(FIRST.as_bytes(), &rfc(), SERVER_NONCE).unwrap();
        let expected =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(challenge, Progress::Challenge(expected.to_owned()));
        let success = exchange.receive_with(FINAL.as_bytes(), &rfc(), "").unwrap();
        let server_final = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned();
        assert_eq!(success, Progress::Success { user: "user".to_owned(), server_final });
        assert!(exchange.receive_with(FINAL.as_bytes(), &rfc(), "").is_err(), "an exchange has one end");
    }

    #[test]
    fn a_wrong_proof_and_an_unknown_user_are_refused_alike() {
        for first in [FIRST, "n,,n=nobody,r=rOprNGfwEbeRWgbNEkqO"] {
            let mut exchange = Exchange::new();
            let Ok(Progress::Challenge(challenge)) =
                exchange.receive_with(first.as_bytes(), &rfc(), SERVER_NONCE)
            else {
                panic!("{first} is challenged");
            };
            assert!(challenge.ends_with(",i=4096"), "{challenge}");
            let proof = FINAL.replace("p=dHzb", "p=AAAA");
            let refused = exchange.receive_with(proof.as_bytes(), &rfc(), "");
            assert_eq!(refused, Err(ScramError::Credentials), "{first}");
        }
    }

    #[test]
    fn an_unknown_user_is_challenged_with_the_same_salt_each_time() {
        let salt = |user: &str| {
            let first = format!("n,,n={user},r=abc");
            match Exchange::new().receive(first.as_bytes(), &rfc()).unwrap() {
                Progress::Challenge(text) => text.split(",s=").nth(1).unwrap().to_owned(),
                Progress::Success { .. } => panic!("a challenge is due"),
            }
        };
        assert_eq!(salt("nobody"), salt("nobody"));
        assert_ne!(salt("nobody"), salt("somebody"));
        assert_eq!(salt("nobody").len(), salt("user").len());
    }

    #[test]
    fn a_first_message_that_is_wrong_is_refused() {
        for message in [
            "",
            "n",
            "n,,",
            "n,,r=abc",
            "n,,n=,r=abc",
            "n,,n=a=b,r=abc",
            "n,,n=user",
            "n,,n=user,r=",
            "n,,n=user,r=a b",
            "p=tls-unique,,n=user,r=abc",
            "n,a=admin,n=user,r=abc",
            "n,,m=ext,n=user,r=abc",
        ] {
            let refused = Exchange::new().receive(message.as_bytes(), &rfc());
            assert!(matches!(refused, Err(ScramError::Message(_))), "{message}: {refused:?}");
        }
        assert!(Exchange::new().receive(&[0xff], &rfc()).is_err());
        assert!(Exchange::new().receive(&[b'n'; MESSAGE_BYTES_MAX + 1], &rfc()).is_err());
    }

    #[test]
    fn a_final_message_that_is_wrong_is_refused() {
        for message in [
            "",
            "c=biws",
            "c=eSws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzb",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        ] {
            let mut exchange = Exchange::new();
            exchange.receive_with(FIRST.as_bytes(), &rfc(), SERVER_NONCE).unwrap();
            let refused = exchange.receive_with(message.as_bytes(), &rfc(), "");
            assert!(matches!(refused, Err(ScramError::Message(_))), "{message}: {refused:?}");
        }
    }

    #[test]
    fn names_are_unescaped() {
        assert_eq!(name("a=2Cb=3Dc").as_deref(), Some("a,b=c"));
        for wrong in ["", "a=", "a=2", "a=2c", "a=41"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn credentials_are_written_and_read_the_same_and_not_shown() {
        let credentials = Credentials::new(b"secret", ITERATIONS).unwrap();
        let text = credentials.to_string();
        assert_eq!(Credentials::parse(&text).as_ref(), Ok(&credentials));
        assert!(!format!("{credentials:?}").contains(&BASE64.encode(credentials.server_key)));
        for wrong in
            ["", "SCRAM-SHA-256$", "SCRAM-SHA-1$4096:aaaa$aaaa:aaaa", &text.replace("$15000:", "$1:")]
        {
            assert!(Credentials::parse(wrong).is_err(), "{wrong}");
        }
    }
}
