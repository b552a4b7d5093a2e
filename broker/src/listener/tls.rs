//! The TLS side of a listener: its certificate, whom it trusts, and how a client's certificate names it.
//!
//! What is in force is swapped as a whole: a handshake uses what it found at its begin, connections keep what
//! they were made with. Nothing here is written to a log but names of files.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

use rustls::{
    DEFAULT_VERSIONS, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate, prelude::X509Certificate};

use crate::{
    config::{ClientCertificateMode, Identity, ListenerConfig, TlsVersion, Transport},
    peer::ClientCertificate,
};

/// A certificate file is at most this long.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The longest name of a client that is taken from a certificate.
const IDENTITY_BYTES_MAX: usize = 256;

/// A certificate that ends sooner is told about.
const EXPIRES_SOON_S: i64 = 14 * 24 * 60 * 60;

/// TLS of one listener.
pub(crate) struct Tls {
    listener: ListenerConfig,
    current: RwLock<Arc<ServerConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("listener", &self.listener.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files that the listener names.
    ///
    /// # Errors
    /// What is wrong with which, and what to do.
    pub(crate) fn load(listener: &ListenerConfig) -> Result<Self, String> {
        let (config, _holds) = server_config(listener)?;
        Ok(Self { listener: listener.clone(), current: RwLock::new(Arc::new(config)) })
    }

    /// Reads them again: handshakes from now on use what is in them. Says what that is.
    ///
    /// # Errors
    /// What is wrong; what was in force stays.
    pub(crate) fn reload(&self) -> Result<String, String> {
        let (config, holds) = server_config(&self.listener)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        Ok(holds)
    }

    /// Returns what new handshakes use.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Names the client of a connection whose handshake is done, if it showed a certificate.
    ///
    /// # Errors
    /// Its certificate does not name it as the listener asks.
    pub(crate) fn identify(&self, session: &ServerConnection) -> Result<Option<ClientCertificate>, String> {
        let Some(leaf) = session.peer_certificates().and_then(|chain| chain.first()) else { return Ok(None) };
        let identity = identity(leaf, self.listener.identity)?;
        Ok(Some(ClientCertificate { identity }))
    }
}

/// The files whose change is a reason to read them again.
pub(crate) fn files(listener: &ListenerConfig) -> Vec<PathBuf> {
    let ListenerConfig { certificate, key, client_ca, client_crl, .. } = listener;
    [certificate, key, client_ca].into_iter().flatten().chain(client_crl).cloned().collect()
}

fn server_config(listener: &ListenerConfig) -> Result<(ServerConfig, String), String> {
    let missing = |what: &str| format!("`{what}` is not set");
    let certificate = listener.certificate.as_deref().ok_or_else(|| missing("certificate"))?;
    let key = listener.key.as_deref().ok_or_else(|| missing("key"))?;
    let chain = read_certificates(certificate)?;
    let holds = describe(&chain[0], certificate)?;
    let signer = read_key(key)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let signer = provider.key_provider.load_private_key(signer).map_err(|error| {
        format!(
            "{}: a kind of key that is not served ({error}); use ECDSA P-256, RSA or Ed25519",
            key.display()
        )
    })?;
    let pair = CertifiedKey::new(chain, signer);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            return Err(format!(
                "{} is not the private key of {}: name the key that the certificate was made with",
                key.display(),
                certificate.display()
            ));
        }
    }
    let versions: &[&SupportedProtocolVersion] = match listener.tls_min {
        TlsVersion::V12 => DEFAULT_VERSIONS,
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("TLS versions: {error}"))?;
    let builder = match client_verifier(listener, &provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
    // A client that offers none of these and offers others wants to speak something else.
    config.alpn_protocols = match listener.transport {
        Transport::Wss => vec![b"http/1.1".to_vec()],
        _ => vec![b"mqtt".to_vec()],
    };
    // Stateless, so that resuming costs the broker no memory. The keys are new ones at each reload: nobody resumes
    // past authorities or revocations that have changed.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("no session tickets: {error}"))?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok((config, holds))
}

fn client_verifier(
    listener: &ListenerConfig,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let path = match (&listener.client_ca, listener.client_certificate) {
        (_, ClientCertificateMode::None) => return Ok(None),
        (Some(path), _) => path,
        (None, _) => return Err("`client_ca` is not set".to_owned()),
    };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        describe(&certificate, path)?;
        roots.add(certificate).map_err(|error| {
            format!("{}: a certificate that cannot be an authority: {error}", path.display())
        })?;
    }
    let mut revoked = Vec::new();
    for path in &listener.client_crl {
        revoked.extend(read_revocations(path)?);
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .with_crls(revoked)
        .only_check_end_entity_revocation();
    if listener.client_certificate == ClientCertificateMode::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(Some).map_err(|error| format!("`client_ca` and `client_crl`: {error}"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error| {
        format!("cannot read {}: {error}; `postrider certs` makes certificates for a trial", path.display())
    };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{}: {bytes} bytes are no certificate file", path.display()));
    }
    fs::read(path).map_err(failed)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => {
            Err(format!("{} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", path.display()))
        }
        Err(error) => Err(format!("{} is no PEM file: {error}", path.display())),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    // The error of a key file must not repeat what is in it.
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if bytes.windows(9).any(|word| word == b"ENCRYPTED") => format!(
            "{} is encrypted: take the passphrase off (openssl pkey -in OLD -out NEW) and guard it by permissions",
            path.display()
        ),
        _ => format!("{} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)", path.display()),
    })
}

fn read_revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let bytes = read(path)?;
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateRevocationListDer::from(bytes)]);
    }
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        Ok(_) => Err(format!("{} holds no revocation list (-----BEGIN X509 CRL-----)", path.display())),
        Err(error) => Err(format!("{} is no PEM file: {error}", path.display())),
    }
}

/// Says whose a certificate is and until when; warns when that is soon or past.
fn describe(der: &CertificateDer<'_>, path: &Path) -> Result<String, String> {
    let (_, certificate) = parse_x509_certificate(der)
        .map_err(|error| format!("{}: no certificate: {error}", path.display()))?;
    let validity = certificate.validity();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let (from, to) = (validity.not_before, validity.not_after);
    let file = path.display();
    match Age::of(now, from.timestamp(), to.timestamp()) {
        Age::Good => {}
        Age::Expired => {
            tracing::warn!(%file, expired = %to, "certificate has expired: clients refuse it, put a new one in its place");
        }
        Age::Unborn => {
            tracing::warn!(%file, %from, "certificate is not valid yet: look at this machine's clock");
        }
        Age::Late => {
            tracing::warn!(%file, expires = %to, "certificate expires soon: put a new one in its place");
        }
    }
    Ok(format!("certificate of {} until {to}", certificate.subject()))
}

/// How far a certificate is through its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Unborn,
    Good,
    Late,
    Expired,
}

impl Age {
    /// Judges by seconds since the Unix epoch.
    fn of(now_s: i64, from_s: i64, to_s: i64) -> Self {
        match now_s {
            now if now > to_s => Self::Expired,
            now if now < from_s => Self::Unborn,
            now if to_s - now < EXPIRES_SOON_S => Self::Late,
            _ => Self::Good,
        }
    }
}

/// Takes the client's name out of its certificate, whose signature is verified.
fn identity(der: &[u8], kind: Identity) -> Result<String, String> {
    let (_, certificate) =
        parse_x509_certificate(der).map_err(|error| format!("a client certificate that is none: {error}"))?;
    let name = match kind {
        Identity::Cn => common_name(&certificate)?,
        Identity::San => alternative_name(&certificate)?,
    };
    checked_identity(name)
}

/// Lets a name be one that can stand in logs, topics and rules.
pub(super) fn checked_identity(name: String) -> Result<String, String> {
    if name.is_empty() || name.len() > IDENTITY_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "a client certificate with a name of {} bytes; 1 to {IDENTITY_BYTES_MAX} without control characters are taken",
            name.len()
        ));
    }
    Ok(name)
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<String, String> {
    let mut names = certificate.subject().iter_common_name();
    // Of two, an authority may have checked the other one.
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err("a client certificate without exactly one common name".to_owned());
    };
    name.as_str()
        .map(str::to_owned)
        .map_err(|_| "a client certificate whose common name is no text".to_owned())
}

fn alternative_name(certificate: &X509Certificate<'_>) -> Result<String, String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let name = names.iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => Some(*name),
        _ => None,
    });
    name.map(str::to_owned).ok_or_else(|| "a client certificate without an alternative name".to_owned())
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
