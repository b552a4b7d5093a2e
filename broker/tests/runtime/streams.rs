//! Certificates for a test, and the client's side of TLS and WebSocket.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use broker::config::{ClientCertificateMode, HostPort, ListenAddress, ListenerConfig, TlsVersion, Transport};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};

use crate::harness::{Stream, dial};

/// An authority, and a directory with what it signed.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, for a client.
pub(crate) struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    /// Makes an authority and a server's certificate.
    pub(crate) fn new() -> Self {
        let mut ca = params("a test authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { dir: tempfile::tempdir().unwrap(), ca };
        authority.write("ca.crt", &authority.ca.pem());
        authority.sign_server("server");
        authority
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a file in its place in one step.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// Gives the server a new key and certificate.
    pub(crate) fn sign_server(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name).signed_by(&key, &self.ca).unwrap();
        self.write("server.key", &key.serialize_pem());
        self.write("server.crt", &certificate.pem());
    }

    /// Signs a client's certificate.
    pub(crate) fn sign(&self, name: &str, serial: u64) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        Pair {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    /// Revokes these.
    pub(crate) fn revoke(&self, serials: &[u64]) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.write("ca.crl", &list.signed_by(&self.ca).unwrap().pem().unwrap());
    }

    /// A listener with the server's certificate, on a free port.
    pub(crate) fn listener(&self, transport: Transport) -> ListenerConfig {
        let has_certificate = transport.is_tls();
        ListenerConfig {
            certificate: has_certificate.then(|| self.path("server.crt")),
            key: has_certificate.then(|| self.path("server.key")),
            ..listener(transport)
        }
    }

    /// One that asks clients for a certificate.
    pub(crate) fn mutual(&self, mode: ClientCertificateMode) -> ListenerConfig {
        ListenerConfig {
            client_certificate: mode,
            client_ca: Some(self.path("ca.crt")),
            ..self.listener(Transport::Tls)
        }
    }

    /// A client that trusts the authority.
    pub(crate) fn client(&self, pair: Option<&Pair>) -> ClientConfig {
        self.client_of(pair, TlsVersion::V13)
    }

    /// One that speaks this version only.
    pub(crate) fn client_of(&self, pair: Option<&Pair>, version: TlsVersion) -> ClientConfig {
        let version = match version {
            TlsVersion::V12 => &rustls::version::TLS12,
            TlsVersion::V13 => &rustls::version::TLS13,
        };
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        match pair {
            Some(Pair { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        }
    }

    /// Connects by TLS; what is wrong is seen at the first read or write.
    pub(crate) fn tls(&self, addr: SocketAddr) -> Tls {
        tls(addr, self.client(None))
    }
}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn tls(addr: SocketAddr, config: ClientConfig) -> Tls {
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), dial(addr))
}

/// A listener on a free port, named after its transport.
pub(crate) fn listener(transport: Transport) -> ListenerConfig {
    ListenerConfig {
        name: transport.to_string(),
        transport,
        listen: ListenAddress::Ip(HostPort::new("127.0.0.1", 0)),
        ..ListenerConfig::default()
    }
}

pub(crate) fn unix_listener(dir: &Path) -> ListenerConfig {
    let listen = ListenAddress::Unix(dir.join("mqtt.sock"));
    ListenerConfig { name: "unix".to_owned(), listen, ..listener(Transport::Unix) }
}

/// A client's WebSocket: what is written goes out as binary frames of at most `frame_bytes` bytes.
pub(crate) struct WebSocket<S> {
    stream: S,
    frame_bytes: usize,
    /// Payload that came and was not read.
    payload: Vec<u8>,
    /// Control frames that came: opcode and payload.
    pub(crate) control: Vec<(u8, Vec<u8>)>,
}

pub(crate) const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\n\r\n";

impl<S: Stream> WebSocket<S> {
    /// Does the opening handshake.
    pub(crate) fn open(mut stream: S, frame_bytes: usize) -> Self {
        stream.write_all(UPGRADE.as_bytes()).unwrap();
        stream.flush().unwrap();
        let answer = read_head(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let answer = answer.to_lowercase();
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        assert!(answer.contains("sec-websocket-protocol: mqtt\r\n"), "{answer}");
        Self { stream, frame_bytes, payload: Vec::new(), control: Vec::new() }
    }

    /// Sends one frame.
    pub(crate) fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.stream.write_all(&frame(first, payload)).unwrap();
        self.stream.flush().unwrap();
    }

    /// Reads one frame; says whether there was one.
    pub(crate) fn read_frame(&mut self) -> io::Result<bool> {
        let mut head = [0; 2];
        if let Err(error) = self.stream.read_exact(&mut head) {
            return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(false) } else { Err(error) };
        }
        assert_eq!(head[1] & 0x80, 0, "a server masks nothing");
        let mut length = [0; 8];
        let bytes = match head[1] {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        self.stream.read_exact(&mut length[8 - bytes..])?;
        let len = if bytes == 0 { usize::from(head[1]) } else { u64::from_be_bytes(length) as usize };
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload)?;
        match head[0] {
            // [MQTT-6.0.0-1]
            0x82 => self.payload.extend_from_slice(&payload),
            other => self.control.push((other, payload)),
        }
        Ok(true)
    }
}

impl<S: Stream> Read for WebSocket<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.payload.is_empty() {
            if !self.read_frame()? {
                return Ok(0);
            }
        }
        let len = buf.len().min(self.payload.len());
        buf[..len].copy_from_slice(&self.payload[..len]);
        self.payload.drain(..len);
        Ok(len)
    }
}

impl<S: Stream> Write for WebSocket<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let frames: Vec<u8> = buf.chunks(self.frame_bytes).flat_map(|piece| frame(0x82, piece)).collect();
        self.stream.write_all(&frames)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A masked frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0xa1, 0x5c, 0x03, 0xff];
    let mut out = vec![first];
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// Reads to the empty line that ends a head of HTTP, or to the end.
pub(crate) fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
