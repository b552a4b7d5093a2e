//! Bytes that nobody may see: passwords, tokens, keys.

use std::fmt;

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

/// Secret bytes: overwritten when they are dropped, and never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes; whoever takes them keeps them secret.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

/// A fingerprint of secrets: says whether they are the same, and nothing else.
pub(crate) type Fingerprint = [u8; 32];

/// A key of this process alone: its fingerprints mean nothing to anybody else, so they may be kept where the
/// secrets themselves may not.
pub(crate) struct ProcessKey(hmac::Key);

impl ProcessKey {
    /// Makes a new one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new() -> Result<Self, String> {
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?)))
    }

    /// Makes one that is the same again for the same secret.
    pub(crate) fn from_secret(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// Returns the fingerprint of a list of texts; which text ends where is part of it.
    pub(crate) fn fingerprint(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes")
    }
}

impl fmt::Debug for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Returns random bytes that nobody can guess.
///
/// # Errors
/// The system gives none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random numbers".to_owned())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        let secret = Secret::from(&b"hunter2"[..]);
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert_eq!(secret.expose(), b"hunter2");
        assert_eq!(secret, Secret::from(&b"hunter2"[..]));
        assert_ne!(secret, Secret::from(&b"hunter3"[..]));
    }

    #[test]
    fn a_fingerprint_tells_where_its_parts_end_and_which_key_made_it() {
        let key = ProcessKey::new().unwrap();
        assert_eq!(key.fingerprint(&[b"ab", b"c"]), key.fingerprint(&[b"ab", b"c"]));
        assert_ne!(key.fingerprint(&[b"ab", b"c"]), key.fingerprint(&[b"a", b"bc"]));
        assert_ne!(key.fingerprint(&[b"a"]), ProcessKey::new().unwrap().fingerprint(&[b"a"]));
    }
}
