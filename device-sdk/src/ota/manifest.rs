//! What a release is, and who says so.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, ED25519_PUBLIC_KEY_LEN, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::hex;

/// Largest signed manifest, JSON bytes.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024;
/// What is signed begins with this, so that no signature for something else is taken for one.
const PURPOSE: &str = "postrider-ota-1\n";
/// Most keys.
const KEYS_MAX: usize = 16;

/// A release of the firmware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Counts releases; only a higher one than the device has is taken.
    pub release: u64,
    /// What people call it: `1.4.2`.
    pub name: String,
    /// Which devices it is for.
    pub model: String,
    /// Bytes of the image.
    pub size: u64,
    /// SHA-256 of the image, 64 hexadecimal digits.
    pub sha256: String,
    /// Where the image is: a URL, or whatever the device's [`Source`](super::Source) makes of it.
    pub url: String,
}

/// A manifest as it travels: its text, letter for letter what was signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedManifest {
    /// The JSON text of a [`Manifest`].
    pub manifest: String,
    /// Name of the key.
    pub key: String,
    /// Ed25519 over `postrider-ota-1`, a line feed, and the text; 128 hexadecimal digits.
    pub signature: String,
}

/// The public keys that may sign releases, by name: a new one can be shipped before the old one is retired.
///
/// ```
/// use device_sdk::ota::{ManifestError, ReleaseKeys};
/// let mut keys = ReleaseKeys::default();
/// assert!(matches!(keys.add("2026", b"too short"), Err(ManifestError::Key { bytes: 9, .. })));
/// let signed = br#"{"manifest":"{}","key":"2025","signature":"00"}"#;
/// assert!(matches!(keys.verify(signed), Err(ManifestError::UnknownKey { .. })));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ReleaseKeys {
    keys: BTreeMap<String, Vec<u8>>,
}

/// Why a manifest is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is no signed manifest.
    #[error("the manifest cannot be read: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// The device does not know the key.
    #[error("the manifest is signed with key {key:?}, which this device does not know")]
    UnknownKey {
        /// Its name, cut to 64 characters.
        key: String,
    },
    /// The signature is wrong.
    #[error("the signature by key {key:?} is wrong")]
    Signature {
        /// The key's name.
        key: String,
    },
    /// The key is none.
    #[error("release key {key:?} has {bytes} bytes, an Ed25519 key has {ED25519_PUBLIC_KEY_LEN}")]
    Key {
        /// Its name.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// The list is full.
    #[error("there are {KEYS_MAX} release keys already")]
    TooMany,
}

impl SignedManifest {
    /// Returns the bytes that a release key signs for a manifest's text.
    ///
    /// ```
    /// use device_sdk::ota::SignedManifest;
    /// assert_eq!(SignedManifest::signed_bytes("{}"), b"postrider-ota-1\n{}");
    /// ```
    pub fn signed_bytes(manifest: &str) -> Vec<u8> {
        [PURPOSE.as_bytes(), manifest.as_bytes()].concat()
    }
}

impl ReleaseKeys {
    /// Adds the 32 bytes of an Ed25519 public key.
    ///
    /// # Errors
    /// The key is none, or the list is full.
    pub fn add(&mut self, name: impl Into<String>, public_key: &[u8]) -> Result<(), ManifestError> {
        let key = name.into();
        if public_key.len() != ED25519_PUBLIC_KEY_LEN {
            return Err(ManifestError::Key { key, bytes: public_key.len() });
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(ManifestError::TooMany);
        }
        self.keys.insert(key, public_key.to_vec());
        Ok(())
    }

    /// Reads the JSON of a [`SignedManifest`] and checks its signature before anything in it counts.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn verify(&self, json: &[u8]) -> Result<Manifest, ManifestError> {
        let malformed = |what: String| ManifestError::Malformed { what };
        if json.len() > MANIFEST_BYTES_MAX {
            return Err(malformed(format!(
                "it has {} bytes, at most {MANIFEST_BYTES_MAX} are taken",
                json.len()
            )));
        }
        let signed: SignedManifest =
            serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        let Some(key) = self.keys.get(&signed.key) else {
            return Err(ManifestError::UnknownKey { key: signed.key.chars().take(64).collect() });
        };
        let signature = hex::decode(&signed.signature)
            .ok_or_else(|| malformed("its signature is not hexadecimal".to_owned()))?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(&SignedManifest::signed_bytes(&signed.manifest), &signature)
            .map_err(|_| ManifestError::Signature { key: signed.key })?;
        let manifest: Manifest =
            serde_json::from_str(&signed.manifest).map_err(|error| malformed(error.to_string()))?;
        if hex::decode(&manifest.sha256).is_none_or(|digest| digest.len() != 32) {
            return Err(malformed("its sha256 is not 64 hexadecimal digits".to_owned()));
        }
        Ok(manifest)
    }
}
