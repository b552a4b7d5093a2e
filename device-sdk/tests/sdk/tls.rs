//! The tokio driver over TLS: a real TLS server that asks for a client certificate stands before the scripted broker.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use device_sdk::{Client, Event, Options, TlsIdentity, TlsOptions};
use protocol::Packet;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::tcp_peer::{Listener, qos1, soon};

/// A TLS server before the scripted broker.
struct Door {
    address: String,
    /// Its key, as a device pins it.
    pin: String,
    /// The certificates that clients showed, in the order of their connections.
    shown: mpsc::UnboundedReceiver<Vec<u8>>,
}

fn pin(key: &KeyPair) -> String {
    format!("sha256/{}", STANDARD.encode(digest(&SHA256, &key.subject_public_key_info())))
}

/// An authority and what it signed, on disk for the client.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap(), key)
    }

    /// Gives the device another certificate; returns it.
    fn renew(&self, dir: &Path) -> Vec<u8> {
        let (cert, key) = self.sign("device");
        std::fs::write(dir.join("cert"), cert.pem()).unwrap();
        std::fs::write(dir.join("key"), key.serialize_pem()).unwrap();
        cert.der().to_vec()
    }

    fn write(&self, dir: &Path) -> TlsOptions {
        let (ca_file, cert_file, key_file) = (dir.join("ca"), dir.join("cert"), dir.join("key"));
        std::fs::write(&ca_file, self.0.pem()).unwrap();
        self.renew(dir);
        let identity = Some(TlsIdentity { cert_file, key_file });
        TlsOptions {
            ca_file: Some(ca_file),
            identity,
            server_name: Some("broker.test".to_owned()),
            ..TlsOptions::default()
        }
    }

    /// Takes TLS off and hands the bytes on.
    async fn serve_before(&self, broker: &Options) -> Door {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let (cert, key) = self.sign("broker.test");
        let pin = pin(&key);
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, broker) = (listener.local_addr().unwrap().to_string(), broker.address.clone());
        let (showing, shown) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut tls) = acceptor.accept(stream).await else { continue };
                let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
                // Most tests do not look.
                let _ = showing.send(certificates.first().map(|cert| cert.to_vec()).unwrap_or_default());
                let mut plain = TcpStream::connect(&broker).await.unwrap();
                // The connection ends when either side does.
                let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
            }
        });
        Door { address, pin, shown }
    }
}

#[tokio::test]
async fn messages_of_any_size_pass_a_tls_connection_with_a_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, listener) = (Authority::new("ours"), Listener::new().await);
    let options = listener.options();
    let Door { address, .. } = authority.serve_before(&options).await;
    let options = Options { address, tls: Some(authority.write(dir.path())), ..options };
    let (client, _events) = Client::spawn(options).unwrap();
    let mut connection = listener.session(false).await;
    let payloads: Vec<String> = [0, 1, 16_383, 16_384, 16_385, 700_000].map(|bytes| "x".repeat(bytes)).into();
    let publishing = tokio::spawn({
        let payloads = payloads.clone();
        async move {
            for payload in payloads {
                soon("the acknowledgement", client.publish(qos1(&payload))).await.unwrap();
            }
            soon("the end", client.disconnect()).await.unwrap();
        }
    });
    for payload in payloads {
        let publish = connection.publish().await;
        assert!(publish.payload == payload.as_bytes(), "{} bytes came as another payload", payload.len());
        connection.puback(&publish).await;
    }
    assert!(matches!(connection.try_packet().await, Some(Packet::Disconnect(_))));
    publishing.await.unwrap();
}

#[tokio::test]
async fn a_broker_that_cannot_prove_who_it_is_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, listener) = (Authority::new("ours"), Listener::new().await);
    let Door { address, .. } = authority.serve_before(&listener.options()).await;
    let good = authority.write(dir.path());
    let stranger = tempfile::tempdir().unwrap();
    let other_ca =
        TlsOptions { ca_file: Authority::new("theirs").write(stranger.path()).ca_file, ..good.clone() };
    let other_name = TlsOptions { server_name: Some("else.test".to_owned()), ..good };
    for (tls, expected) in [(other_ca, "UnknownIssuer"), (other_name, "not valid for name")] {
        let options = Options { address: address.clone(), tls: Some(tls), ..listener.options() };
        let (_client, mut events) = Client::spawn(options).unwrap();
        let Some(Event::Disconnected { why, .. }) = soon("the failure", events.next()).await else {
            panic!("no failed connection");
        };
        assert!(why.contains("TLS handshake") && why.contains(expected), "{why}");
    }
}

#[tokio::test]
async fn only_a_broker_with_a_pinned_key_is_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, listener) = (Authority::new("ours"), Listener::new().await);
    let Door { address, pin: own, .. } = authority.serve_before(&listener.options()).await;
    let (tls, others) = (authority.write(dir.path()), [(); 2].map(|()| pin(&KeyPair::generate().unwrap())));

    let wrong = TlsOptions { pins: others.to_vec(), ..tls.clone() };
    let options = Options { address: address.clone(), tls: Some(wrong), ..listener.options() };
    let (client, mut events) = Client::spawn(options).unwrap();
    let Some(Event::Disconnected { why, .. }) = soon("the failure", events.next()).await else {
        panic!("no failed connection");
    };
    let said = format!("the broker's key is {own}, pinned is {} or {}", others[0], others[1]);
    assert!(why.contains(&said), "{why}");
    drop((client, events));

    // One of several is enough: the next key is pinned before the broker has it.
    let right = TlsOptions { pins: vec![others[0].clone(), own], ..tls };
    let options = Options { address, tls: Some(right), ..listener.options() };
    let (client, _events) = Client::spawn(options).unwrap();
    let mut connection = listener.session(false).await;
    let publishing = tokio::spawn(async move { client.publish(qos1("through")).await });
    let publish = connection.publish().await;
    connection.puback(&publish).await;
    soon("the acknowledgement", publishing).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_at_the_next_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, listener) = (Authority::new("ours"), Listener::new().await);
    let options = listener.options();
    let Door { address, mut shown, .. } = authority.serve_before(&options).await;
    let tls = authority.write(dir.path());
    let options = Options { address, tls: Some(tls), ..options };
    let (_client, _events) = Client::spawn(options).unwrap();
    let connection = listener.session(false).await;
    let first = soon("the first certificate", shown.recv()).await.unwrap();
    let renewed = authority.renew(dir.path());
    assert_ne!(first, renewed);
    drop(connection);
    let _connection = listener.session(true).await;
    let second = soon("the second certificate", shown.recv()).await.unwrap();
    assert!(second == renewed, "the old certificate was shown again");
}
