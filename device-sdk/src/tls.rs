//! TLS towards the broker: which authority to trust, and who the client is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::StartError;
use crate::driver::TlsSettings;

/// TLS 1.2 or 1.3 towards the broker. The files are read once, when the client starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file with the certificates of the authorities to trust; `None` = those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's own certificate chain (PEM) and private key (PEM), for brokers that ask for one.
    pub identity: Option<TlsIdentity>,
    /// The name that the broker's certificate must have; `None` = the host of the address.
    pub server_name: Option<String>,
}

/// A client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsIdentity {
    /// PEM file with the certificate, then those of the authorities between it and the root.
    pub cert_file: PathBuf,
    /// PEM file with the private key (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key_file: PathBuf,
}

impl TlsOptions {
    /// Reads the files.
    pub(crate) fn settings(&self, address: &str) -> Result<TlsSettings, StartError> {
        let bad = |what: String| StartError::Options { what };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = self.server_name.as_deref().unwrap_or(host.trim_matches(['[', ']']));
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|error| bad(format!("TLS server name {name:?} is not allowed: {error}")))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(format!("TLS: {error}")))?;
        let builder = match &self.ca_file {
            Some(file) => builder.with_root_certificates(roots(file)?),
            None => builder.with_platform_verifier().map_err(|error| {
                bad(format!("the system's certificate authorities: {error}; name a CA file"))
            })?,
        };
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(TlsIdentity { cert_file, key_file }) => {
                let key = PrivateKeyDer::from_pem_file(key_file)
                    .map_err(|error| bad(format!("private key {}: {error}", key_file.display())))?;
                builder.with_client_auth_cert(certificates(cert_file)?, key).map_err(|error| {
                    let (cert, key) = (cert_file.display(), key_file.display());
                    bad(format!("certificate {cert} with private key {key}: {error}"))
                })?
            }
        };
        Ok(TlsSettings { connector: Arc::new(config).into(), server_name })
    }
}

fn roots(file: &Path) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| StartError::Options {
            what: format!("certificate authority {}: {error}", file.display()),
        })?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let bad = |what: String| StartError::Options { what: format!("certificate {}: {what}", file.display()) };
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| bad(error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("the file has no CERTIFICATE block".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "no certificate\n").unwrap();
        let missing = dir.path().join("missing.pem");
        let ca = |file: &Path| TlsOptions { ca_file: Some(file.to_owned()), ..TlsOptions::default() };
        let name = TlsOptions { server_name: Some("a b".to_owned()), ..TlsOptions::default() };
        for (options, expected) in [
            (ca(&missing), "missing.pem"),
            (ca(&empty), "no CERTIFICATE block"),
            (name, "\"a b\" is not allowed"),
        ] {
            let error = options.settings("localhost:8883").err().expect("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
