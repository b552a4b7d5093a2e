//! How tests reach a broker: TCP, a Unix socket, and what runs over them.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::raw_client::PATIENCE;
use crate::web_socket::WebSocket;

/// A byte stream to a broker.
pub(crate) trait Stream: Read + Write + Send {
    /// Sets how long a read waits.
    fn set_read_patience(&self, patience: Duration);
    /// Ends the client's half as a lost network does: nothing above the socket says goodbye.
    fn end_writing(&self);
}

impl Stream for TcpStream {
    fn set_read_patience(&self, patience: Duration) {
        self.set_read_timeout(Some(patience)).expect("a duration above 0");
    }

    fn end_writing(&self) {
        // It fails only when the broker has closed already.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for UnixStream {
    fn set_read_patience(&self, patience: Duration) {
        self.set_read_timeout(Some(patience)).expect("a duration above 0");
    }

    fn end_writing(&self) {
        // It fails only when the broker has closed already.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn set_read_patience(&self, patience: Duration) {
        self.sock.set_read_patience(patience);
    }

    fn end_writing(&self) {
        self.sock.end_writing();
    }
}

/// Where a broker is reached, and by which transport.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// Plain TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// TLS; the certificate is for `localhost`.
    Tls(SocketAddr, Arc<ClientConfig>),
    /// WebSocket at `/mqtt`.
    WebSocket(SocketAddr),
    /// WebSocket over TLS.
    SecureWebSocket(SocketAddr, Arc<ClientConfig>),
}

/// The path of WebSocket listeners.
const PATH: &str = "/mqtt";

impl Door {
    /// Opens a connection, its handshakes done.
    pub(crate) fn open(&self) -> Box<dyn Stream> {
        match self {
            Self::Tcp(address) => Box::new(connect_tcp(*address)),
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .unwrap_or_else(|e| panic!("cannot connect to {}: {e}", path.display()));
                stream.set_write_timeout(Some(PATIENCE)).expect("a duration above 0");
                Box::new(stream)
            }
            Self::Tls(address, config) => connect_tls(*address, config),
            Self::WebSocket(address) => Box::new(WebSocket::connect(Box::new(connect_tcp(*address)), PATH)),
            Self::SecureWebSocket(address, config) => {
                Box::new(WebSocket::connect(connect_tls(*address, config), PATH))
            }
        }
    }
}

impl From<SocketAddr> for Door {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

pub(crate) fn connect_tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"));
    stream.set_nodelay(true).expect("a TCP socket takes TCP_NODELAY");
    stream.set_read_timeout(Some(PATIENCE)).expect("a duration above 0");
    stream.set_write_timeout(Some(PATIENCE)).expect("a duration above 0");
    stream
}

fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Box<dyn Stream> {
    let name = ServerName::try_from("localhost").expect("a valid name");
    let mut stream = connect_tcp(address);
    let mut connection = ClientConnection::new(config.clone(), name).expect("a configuration that is right");
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).unwrap_or_else(|e| panic!("no TLS with {address}: {e}"));
    }
    Box::new(StreamOwned::new(connection, stream))
}

/// Makes a certificate for `localhost` and its key in a directory: `server.crt` and `server.key`.
pub(crate) fn make_certificate(dir: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(dir.join("server.crt"), made.cert.pem()).expect("a file for the certificate");
    fs::write(dir.join("server.key"), made.signing_key.serialize_pem()).expect("a file for the key");
}

/// Trusts the certificate that [`make_certificate`] made, and speaks one version of TLS.
pub(crate) fn trusting(dir: &Path, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let certificate = rustls::pki_types::CertificateDer::from_pem_file(dir.join("server.crt"));
    roots.add(certificate.expect("a certificate in PEM")).expect("a certificate that can be trusted");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version that is served")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Says whether an error is the end of a connection rather than of the test's patience.
pub(crate) fn is_end(error: &io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
