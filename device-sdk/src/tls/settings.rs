//! What rustls is told: built of the options' files, and built anew when they have changed.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::pins::{Pinned, Pins};
use super::{IdentityPem, TlsIdentity, TlsOptions};
use crate::StartError;

/// TLS as the options want it, kept up to date with the files.
#[derive(Debug)]
pub(crate) struct TlsSettings {
    options: TlsOptions,
    pins: Pins,
    provider: Arc<CryptoProvider>,
    /// The system's authorities, which take long to read.
    system: Option<Arc<dyn ServerCertVerifier>>,
    current: Mutex<Current>,
}

/// What the last connection used.
#[derive(Debug)]
struct Current {
    material: Material,
    config: Arc<ClientConfig>,
}

/// What the files and the program gave: the same material makes the same configuration, and keeps its resumption.
#[derive(PartialEq, Eq, Debug)]
struct Material {
    authorities: Option<Vec<u8>>,
    identity: Option<IdentityPem>,
}

impl TlsSettings {
    /// Reads the files for the first time.
    pub(crate) fn new(options: &TlsOptions) -> Result<Self, StartError> {
        Self::try_new(options).map_err(|what| StartError::Options { what })
    }

    fn try_new(options: &TlsOptions) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        if let Some(name) = &options.server_name {
            server_name(name)?;
        }
        let pins = Pins::parse(&options.pins)?;
        let system: Option<Arc<dyn ServerCertVerifier>> = match options.ca_file {
            Some(_) => None,
            None => {
                let verifier = rustls_platform_verifier::Verifier::new(provider.clone());
                Some(Arc::new(verifier.map_err(|error| {
                    format!("the system's certificate authorities: {error}; name a CA file")
                })?))
            }
        };
        let material = read(options)?;
        let config = configure(options, &pins, &provider, system.as_ref(), &material)?;
        let current = Mutex::new(Current { material, config });
        Ok(Self { options: options.clone(), pins, provider, system, current })
    }

    /// Returns the configuration for the next connection; reads the files, so it is for a thread that may wait.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed = read(&self.options).and_then(|material| {
            if material == current.material {
                return Ok(None);
            }
            let system = self.system.as_ref();
            let config = configure(&self.options, &self.pins, &self.provider, system, &material)?;
            Ok(Some(Current { material, config }))
        });
        match renewed {
            Ok(None) => {}
            Ok(Some(renewed)) => *current = renewed,
            Err(error) => tracing::warn!(error, "TLS goes on with the certificates it had"),
        }
        current.config.clone()
    }

    /// Begins TLS on a connection to a host.
    #[cfg(feature = "ota")]
    pub(crate) async fn connect(
        self: Arc<Self>,
        host: &str,
        tcp: tokio::net::TcpStream,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
        let server_name = self.server_name(host).map_err(std::io::Error::other)?;
        let config = tokio::task::spawn_blocking(move || self.config()).await?;
        tokio_rustls::TlsConnector::from(config).connect(server_name, tcp).await
    }

    /// Returns the name that the broker at a host must prove.
    pub(crate) fn server_name(&self, host: &str) -> Result<ServerName<'static>, String> {
        server_name(self.options.server_name.as_deref().unwrap_or(host))
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned())
        .map_err(|error| format!("TLS server name {name:?} is not allowed: {error}"))
}

fn read(options: &TlsOptions) -> Result<Material, String> {
    let bytes = |what: &str, file: &Path| {
        fs::read(file).map_err(|error| format!("{what} {}: {error}", file.display()))
    };
    let text = |what: &str, file: &Path| {
        String::from_utf8(bytes(what, file)?).map_err(|_| format!("{what} {} is no text", file.display()))
    };
    let authorities = options.ca_file.as_deref().map(|file| bytes("certificate", file)).transpose()?;
    let identity = match (&options.identity_source, &options.identity) {
        (Some(source), _) => {
            Some((source.0)().map_err(|error| format!("the client's certificate: {error}"))?)
        }
        (None, Some(TlsIdentity { cert_file, key_file })) => Some(IdentityPem {
            certificates: text("certificate", cert_file)?,
            key: text("private key", key_file)?,
        }),
        (None, None) => None,
    };
    Ok(Material { authorities, identity })
}

fn configure(
    options: &TlsOptions,
    pins: &Pins,
    provider: &Arc<CryptoProvider>,
    system: Option<&Arc<dyn ServerCertVerifier>>,
    material: &Material,
) -> Result<Arc<ClientConfig>, String> {
    let verifier: Arc<dyn ServerCertVerifier> = match (&material.authorities, system) {
        (Some(pem), _) => {
            let file = shown(options.ca_file.as_deref(), "authorities");
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem, &file)? {
                roots.add(certificate).map_err(|error| format!("certificate authority {file}: {error}"))?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| format!("certificate authority {file}: {error}"))?
        }
        (None, Some(system)) => system.clone(),
        (None, None) => return Err("TLS has no certificate authorities".to_owned()),
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Pinned::over(verifier, pins));
    let Some(IdentityPem { certificates: pem, key }) = &material.identity else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let identity = options.identity.as_ref().filter(|_| options.identity_source.is_none());
    let cert_file = shown(identity.map(|identity| identity.cert_file.as_path()), "of the program");
    let key_file = shown(identity.map(|identity| identity.key_file.as_path()), "of the program");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| format!("private key {key_file}: {error}"))?;
    let config = builder
        .with_client_auth_cert(certificates(pem.as_bytes(), &cert_file)?, key)
        .map_err(|error| format!("certificate {cert_file} with private key {key_file}: {error}"))?;
    Ok(Arc::new(config))
}

fn shown(file: Option<&Path>, otherwise: &str) -> String {
    file.map_or_else(|| otherwise.to_owned(), |file| file.display().to_string())
}

fn certificates(pem: &[u8], file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|error| format!("certificate {file}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("certificate {file}: the file has no CERTIFICATE block"));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IdentitySource;

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        fs::write(&empty, "no certificate\n").unwrap();
        let missing = dir.path().join("missing.pem");
        let ca = |file: &Path| TlsOptions { ca_file: Some(file.to_owned()), ..TlsOptions::default() };
        let name = TlsOptions { server_name: Some("a b".to_owned()), ..TlsOptions::default() };
        let pin = TlsOptions { pins: vec!["sha256/short".to_owned()], ..TlsOptions::default() };
        let none = IdentitySource::new(|| Err("the module is locked".to_owned()));
        let source = TlsOptions { identity_source: Some(none), ..TlsOptions::default() };
        for (options, expected) in [
            (ca(&missing), "missing.pem"),
            (ca(&empty), "no CERTIFICATE block"),
            (name, "\"a b\" is not allowed"),
            (pin, "\"sha256/short\""),
            (source, "the client's certificate: the module is locked"),
        ] {
            let error = TlsSettings::new(&options).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn renewed_files_are_used_and_unusable_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (cert_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let write = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            fs::write(&cert_file, made.cert.pem()).unwrap();
            fs::write(&key_file, made.signing_key.serialize_pem()).unwrap();
        };
        write("first");
        let identity = Some(TlsIdentity { cert_file: cert_file.clone(), key_file: key_file.clone() });
        let ca_file = Some(cert_file.clone());
        let settings = TlsSettings::new(&TlsOptions { ca_file, identity, ..TlsOptions::default() }).unwrap();
        let first = settings.config();
        assert!(Arc::ptr_eq(&first, &settings.config()), "what did not change keeps its sessions");
        // The new certificate is there, its key not yet.
        let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
        fs::write(&cert_file, other.cert.pem()).unwrap();
        assert!(Arc::ptr_eq(&first, &settings.config()));
        fs::write(&key_file, other.signing_key.serialize_pem()).unwrap();
        assert!(!Arc::ptr_eq(&first, &settings.config()));
    }

    #[test]
    fn a_key_in_memory_is_never_shown() {
        let pem = IdentityPem { certificates: "c".to_owned(), key: "hunter2".to_owned() };
        let source = IdentitySource::new(|| Err(String::new()));
        assert!(!format!("{pem:?} {source:?}").contains("hunter2"));
        assert_eq!(source, source.clone());
    }
}
