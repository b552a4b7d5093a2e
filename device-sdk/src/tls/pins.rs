//! Pinned keys: the broker's own public key must be one that the device was given.
//!
//! This comes on top of the certificate's check, never instead of it. Only the key of the broker's own certificate
//! counts: other certificates that it sends along prove nothing.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Most keys that can be named.
const PINS_MAX: usize = 16;
/// What a pin begins with; curl writes two slashes.
const PREFIX: &str = "sha256/";

/// Hashes of the keys that are allowed; empty = any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins(Vec<[u8; 32]>);

impl Pins {
    /// Reads pins as options write them.
    pub(super) fn parse(texts: &[String]) -> Result<Self, String> {
        if texts.len() > PINS_MAX {
            return Err(format!("{} pins are given, the limit is {PINS_MAX}", texts.len()));
        }
        let read = |base64: &str| -> Option<[u8; 32]> { STANDARD.decode(base64).ok()?.try_into().ok() };
        let parse = |text: &String| {
            let base64 = text.strip_prefix(PREFIX);
            // A second slash may as well be the first character of the base64.
            let hash = base64.and_then(|base64| read(base64).or_else(|| read(base64.strip_prefix('/')?)));
            hash.ok_or_else(|| {
                let shown: String = text.chars().take(80).collect();
                format!("pin {shown:?} is not {PREFIX} and the base64 of 32 bytes")
            })
        };
        texts.iter().map(parse).collect::<Result<Vec<_>, _>>().map(Self)
    }
}

fn shown(hash: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(hash))
}

/// Checks the certificate as another verifier does, and its key too.
#[derive(Debug)]
pub(super) struct Pinned {
    certificates: Arc<dyn ServerCertVerifier>,
    pins: Pins,
}

impl Pinned {
    /// Puts the check of keys over the check of certificates, if there are pins.
    pub(super) fn over(
        certificates: Arc<dyn ServerCertVerifier>,
        pins: &Pins,
    ) -> Arc<dyn ServerCertVerifier> {
        if pins.0.is_empty() { certificates } else { Arc::new(Self { certificates, pins: pins.clone() }) }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.certificates.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let hash = digest(&SHA256, &key);
        if self.pins.0.iter().any(|pin| pin == hash.as_ref()) {
            return Ok(verified);
        }
        let allowed: Vec<String> = self.pins.0.iter().map(|pin| shown(pin)).collect();
        let key = shown(hash.as_ref());
        Err(Error::General(format!("the broker's key is {key}, pinned is {}", allowed.join(" or "))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.certificates.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.certificates.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.certificates.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.certificates.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_as_curl_and_hpkp_write_them() {
        let pin = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let both = [format!("sha256/{pin}"), format!("sha256//{pin}")];
        let pins = Pins::parse(&both).unwrap();
        assert_eq!(pins.0[0], pins.0[1]);
        assert_eq!(shown(&pins.0[0]), both[0]);
        let slash = "/7DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let both_of_it = [format!("sha256/{slash}"), format!("sha256//{slash}")];
        let pins = Pins::parse(&both_of_it).unwrap();
        assert_eq!((pins.0[0], shown(&pins.0[1])), (pins.0[1], both_of_it[0].clone()));
        for text in [pin, "sha256/", "sha1/47DEQpj8HBSa", &both[0][..40]] {
            let error = Pins::parse(&[text.to_owned()]).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        let error = Pins::parse(&vec![both[0].clone(); PINS_MAX + 1]).unwrap_err();
        assert!(error.contains("17 pins"), "{error}");
    }
}
