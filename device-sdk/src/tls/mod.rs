//! TLS towards the broker: which authority to trust, which keys, and who the client is.

#[cfg(feature = "tls")]
mod pins;
#[cfg(feature = "tls")]
mod settings;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "tls")]
pub(crate) use settings::TlsSettings;

/// TLS 1.2 or 1.3 towards the broker.
///
/// The files are read again before each connection: a certificate that was renewed, and an authority that was replaced,
/// come into use without a restart. Files that cannot be used (half written, say) are told in the log, and the last
/// good ones stay in use.
///
/// ```no_run
/// use device_sdk::{Client, Options, TlsIdentity, TlsOptions};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = TlsOptions {
///     ca_file: Some("ca.pem".into()),
///     identity: Some(TlsIdentity { cert_file: "device.pem".into(), key_file: "device.key".into() }),
///     // The broker's key, and the one that lies in the safe for when this one must be replaced.
///     pins: vec![
///         "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(),
///         "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
///     ],
///     ..TlsOptions::default()
/// };
/// let options = Options { tls: Some(tls), ..Options::new("mqtts://broker.example", "truck-7") };
/// let (client, events) = Client::spawn(options)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file with the certificates of the authorities to trust; `None` = those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's own certificate chain (PEM) and private key (PEM), for brokers that ask for one.
    pub identity: Option<TlsIdentity>,
    /// Gives the client's certificate and key instead of files; `None` = `identity`.
    pub identity_source: Option<IdentitySource>,
    /// The name that the broker's certificate must have; `None` = the host connected to.
    pub server_name: Option<String>,
    /// Keys that the broker may have, besides being certified for its name: `sha256/` and the base64 of the SHA-256 of
    /// the public key (its SubjectPublicKeyInfo), as curl and HPKP write it. Name a second one whose private key is kept
    /// offline: a fleet that knows one key only is lost with it. Empty = any key.
    pub pins: Vec<String>,
}

/// A client certificate and its key.
///
/// ```
/// use device_sdk::{Options, TlsIdentity, TlsOptions};
/// let identity = TlsIdentity { cert_file: "device.pem".into(), key_file: "device.key".into() };
/// let tls = TlsOptions { identity: Some(identity), ..TlsOptions::default() };
/// let options = Options { tls: Some(tls), ..Options::new("mqtts://broker.example", "truck-7") };
/// # drop(options);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// PEM file with the certificate, then those of the authorities between it and the root.
    pub cert_file: PathBuf,
    /// PEM file with the private key (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key_file: PathBuf,
}

/// A client certificate and its key, in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityPem {
    /// The certificate, then those of the authorities between it and the root, as PEM.
    pub certificates: String,
    /// The private key (PKCS #8, PKCS #1 or SEC 1), as PEM, not encrypted.
    pub key: String,
}

impl fmt::Debug for IdentityPem {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityPem").field("certificates", &self.certificates).field("key", &"***").finish()
    }
}

/// Asks the program for the client's certificate and key before each connection, for those that are renewed over the
/// network or kept in a secure element.
///
/// It runs on a thread that may wait. When it fails, the identity used last goes on being used.
///
/// ```
/// use device_sdk::{IdentityPem, IdentitySource, TlsOptions};
/// let source = IdentitySource::new(|| {
///     let certificates = std::fs::read_to_string("device.pem").map_err(|error| error.to_string())?;
///     let key = std::fs::read_to_string("device.key").map_err(|error| error.to_string())?;
///     Ok(IdentityPem { certificates, key })
/// });
/// let tls = TlsOptions { identity_source: Some(source), ..TlsOptions::default() };
/// ```
#[derive(Clone)]
pub struct IdentitySource(AskIdentity);

type AskIdentity = Arc<dyn Fn() -> Result<IdentityPem, String> + Send + Sync>;

impl IdentitySource {
    /// Makes a source of a function that returns the identity, or why there is none.
    pub fn new(ask: impl Fn() -> Result<IdentityPem, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl PartialEq for IdentitySource {
    /// Says whether both are clones of one source.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for IdentitySource {}

impl fmt::Debug for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentitySource(..)")
    }
}
