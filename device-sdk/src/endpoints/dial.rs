//! Dialling: the ways of the book, raced over real sockets, with what each needs between TCP and MQTT.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::ReasonCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::book::{Book, Referral, Way};
use super::memory::{Memory, MemoryFile};
use super::race::{Failure, Pace, Runner, race};
use super::{Carrier, Endpoint, Proxy, ReachOptions};
#[cfg(feature = "tls")]
use crate::{StartError, TlsOptions, tls::TlsSettings};

/// Failures that are told of one race.
const FAILURES_TOLD_MAX: usize = 8;

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A stream over which MQTT can begin.
pub(crate) enum Stream {
    /// TCP alone, whose halves need no lock.
    Tcp(TcpStream),
    /// Something over it.
    Layered(Box<dyn Duplex>),
}

/// A stream being opened, and then where it leads.
pub(crate) type Dialing = Pin<Box<dyn Future<Output = io::Result<(Stream, Endpoint)>> + Send>>;

/// What lies between TCP and MQTT.
#[derive(Debug)]
pub(crate) struct Layers {
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<TlsSettings>>,
    pub(crate) proxy: Option<Proxy>,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// No CONNACK came.
    Unanswered,
    /// The broker refused it.
    Refused,
    /// It had been accepted.
    Lost,
}

/// Opens connections to one broker, and learns from what became of them.
#[derive(Debug)]
pub(crate) struct Dialer {
    book: Book,
    layers: Arc<Layers>,
    pace: Pace,
    file: Option<MemoryFile>,
    saving: Option<JoinHandle<()>>,
    started: Instant,
    in_use: Option<Endpoint>,
    /// For the program to look at.
    shown: Arc<Mutex<Option<Endpoint>>>,
}

impl Dialer {
    /// Reads what is remembered.
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        layers: Layers,
        reach: &ReachOptions,
        network: String,
        limit_ms: u64,
    ) -> Self {
        let memory = reach.memory_file.as_deref().map_or_else(Memory::default, Memory::read);
        Self {
            book: Book::new(endpoints, reach.ladder.clone(), memory, network),
            layers: Arc::new(layers),
            pace: Pace {
                address: Duration::from_millis(reach.address_delay_ms),
                step: Duration::from_millis(reach.ladder.step_ms),
                limit: Duration::from_millis(limit_ms),
            },
            file: reach.memory_file.clone().map(MemoryFile::new),
            saving: None,
            started: Instant::now(),
            in_use: None,
            shown: Arc::default(),
        }
    }

    /// Returns where the way in use can be read.
    pub(crate) fn shown(&self) -> Arc<Mutex<Option<Endpoint>>> {
        self.shown.clone()
    }

    /// Opens a connection to the broker by the best way there is.
    pub(crate) fn dial(&self) -> Dialing {
        let ways = self.book.ways(self.now_ms(), unix_ms());
        Box::pin(dial(ways, self.layers.clone(), self.pace))
    }

    /// A connection is open.
    pub(crate) fn opened(&mut self, way: Endpoint) {
        self.in_use = Some(way);
    }

    /// The broker accepted it.
    pub(crate) fn accepted(&mut self) {
        let Some(way) = self.in_use.clone() else { return };
        if self.book.accepted(&way, unix_ms()) {
            self.save();
        }
        self.show(Some(way));
    }

    /// It ended after so long, perhaps because the broker referred to another server.
    pub(crate) fn ended(
        &mut self,
        how: &Ended,
        lasted: Duration,
        reference: Option<(ReasonCode, Option<String>)>,
    ) -> Option<Referral> {
        let way = self.in_use.take()?;
        self.show(None);
        self.book.ended(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX));
        if let Some((reason, reference)) = reference {
            let (referral, is_news) = self.book.refer(&way, reason, reference.as_deref(), self.now_ms());
            if is_news {
                self.save();
            }
            return Some(referral);
        }
        match how {
            Ended::Unanswered => self.book.unanswered(&way),
            Ended::Refused => self.book.refused(&way),
            Ended::Lost => {}
        }
        None
    }

    /// The device is on another network, perhaps; says whether that is so.
    pub(crate) fn set_network(&mut self, network: &str) -> bool {
        self.book.set_network(network)
    }

    /// Waits until what is remembered is on disk.
    pub(crate) async fn saved(&mut self) {
        if let Some(saving) = self.saving.take() {
            // A panic in it has been told by the runtime.
            let _ = saving.await;
        }
    }

    fn save(&mut self) {
        if let Some(file) = &mut self.file {
            let work = file.saving(self.book.memory());
            self.saving = Some(tokio::task::spawn_blocking(work));
        }
    }

    fn show(&self, way: Option<Endpoint>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// By the device's clock, which may be wrong: it orders memories and nothing else.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

async fn dial(ways: Vec<Way>, layers: Arc<Layers>, pace: Pace) -> io::Result<(Stream, Endpoint)> {
    let prepared = Arc::new(Prepared::new(&ways, &layers).await?);
    let runner = |way: &Way| match &layers.proxy {
        Some(proxy) => Runner { host: proxy.host().to_owned(), port: proxy.port(), step: way.step },
        None => Runner { host: way.endpoint.host.clone(), port: port(&way.endpoint), step: way.step },
    };
    let runners = ways.iter().map(runner).collect();
    let connect = |at: usize, address| {
        let (endpoint, prepared) = (ways[at].endpoint.clone(), prepared.clone());
        async move { prepared.connect(&endpoint, address).await }
    };
    match race(runners, pace, look_up, connect).await {
        Ok((at, stream)) => Ok((stream, ways[at].endpoint.clone())),
        Err(failures) => Err(io::Error::other(told(&ways, &failures))),
    }
}

fn port(endpoint: &Endpoint) -> u16 {
    endpoint.port.expect("the ways of a ladder have ports")
}

async fn look_up(host: String) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in tokio::net::lookup_host((host, 0)).await? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    Ok(addresses)
}

/// Says who was tried and what came of it.
fn told(ways: &[Way], failures: &[Failure]) -> String {
    let mut text = "cannot connect to ".to_owned();
    for (at, Failure { runner, address, error }) in failures.iter().take(FAILURES_TOLD_MAX).enumerate() {
        let endpoint = &ways[*runner].endpoint;
        let separator = if at == 0 { "" } else { "; " };
        // Writing to a string cannot fail.
        let _ = match address {
            Some(address) if address.ip().to_string() != endpoint.host => {
                write!(text, "{separator}{endpoint} at {address}: {error}")
            }
            _ => write!(text, "{separator}{endpoint}: {error}"),
        };
    }
    if failures.len() > FAILURES_TOLD_MAX {
        let _ = write!(text, "; and {} more", failures.len() - FAILURES_TOLD_MAX);
    }
    text
}

/// What all attempts of one race need.
struct Prepared {
    #[cfg_attr(not(feature = "proxy"), expect(dead_code, reason = "only a proxy lies below TLS"))]
    layers: Arc<Layers>,
    #[cfg(feature = "tls")]
    tls: Option<(Arc<TlsSettings>, Arc<rustls::ClientConfig>)>,
}

impl Prepared {
    #[cfg(feature = "tls")]
    async fn new(ways: &[Way], layers: &Arc<Layers>) -> io::Result<Self> {
        let (layers, mut tls) = (layers.clone(), None);
        if ways.iter().any(|way| way.endpoint.carrier.is_secure()) {
            let known = layers.tls.clone();
            // It reads files.
            let reading = tokio::task::spawn_blocking(move || {
                let settings = match known {
                    Some(settings) => settings,
                    // A plain broker referred to one with TLS.
                    None => Arc::new(TlsSettings::new(&TlsOptions::default())?),
                };
                let config = settings.config();
                Ok::<_, StartError>((settings, config))
            });
            tls = Some(reading.await?.map_err(io::Error::other)?);
        }
        Ok(Self { layers, tls })
    }

    #[cfg(not(feature = "tls"))]
    async fn new(_ways: &[Way], layers: &Arc<Layers>) -> io::Result<Self> {
        Ok(Self { layers: layers.clone() })
    }

    async fn connect(&self, endpoint: &Endpoint, address: SocketAddr) -> io::Result<Stream> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        #[cfg(feature = "proxy")]
        let tcp = match &self.layers.proxy {
            Some(proxy) => {
                let mut tcp = tcp;
                proxy.open(&mut tcp, &endpoint.host, port(endpoint)).await?;
                tcp
            }
            None => tcp,
        };
        match endpoint.carrier {
            Carrier::Tcp => Ok(Stream::Tcp(tcp)),
            Carrier::Tls => self.encrypt(tcp, endpoint).await,
            Carrier::WebSocket => frame(tcp, endpoint).await,
            Carrier::SecureWebSocket => match self.encrypt(tcp, endpoint).await? {
                Stream::Tcp(_) => Err(lacking("tls")),
                Stream::Layered(stream) => frame(stream, endpoint).await,
            },
        }
    }

    #[cfg(feature = "tls")]
    async fn encrypt(&self, tcp: TcpStream, endpoint: &Endpoint) -> io::Result<Stream> {
        let Some((settings, config)) = &self.tls else { return Err(lacking("tls")) };
        let server_name = settings.server_name(&endpoint.host).map_err(io::Error::other)?;
        let mut config = config.clone();
        let protocol = match endpoint.carrier {
            // RFC 7301's registry has "mqtt".
            Carrier::Tls if endpoint.with_alpn => Some(b"mqtt".to_vec()),
            Carrier::SecureWebSocket => Some(b"http/1.1".to_vec()),
            _ => None,
        };
        if let Some(protocol) = protocol {
            Arc::make_mut(&mut config).alpn_protocols = vec![protocol];
        }
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(server_name, tcp)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("TLS handshake: {error}")))?;
        Ok(Stream::Layered(Box::new(stream)))
    }

    #[cfg(not(feature = "tls"))]
    async fn encrypt(&self, _tcp: TcpStream, _endpoint: &Endpoint) -> io::Result<Stream> {
        Err(lacking("tls"))
    }
}

#[cfg(feature = "websocket")]
async fn frame(stream: impl Duplex + 'static, endpoint: &Endpoint) -> io::Result<Stream> {
    let socket = super::web_socket::open(stream, endpoint, port(endpoint)).await?;
    Ok(Stream::Layered(Box::new(socket)))
}

#[cfg(not(feature = "websocket"))]
async fn frame(_stream: impl Duplex + 'static, _endpoint: &Endpoint) -> io::Result<Stream> {
    Err(lacking("websocket"))
}

fn lacking(feature: &str) -> io::Error {
    io::Error::other(format!("this build of the device SDK lacks its feature {feature:?}"))
}
