//! A device and a broker with a simulated link between them, over real sockets.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Both {
    proxy: Proxy,
    network: Arc<Network>,
    listener: TcpListener,
}

async fn network(links: Links) -> Both {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = Arc::new(Network {
        time: Timebase::now(),
        nat_timeout_ms: AtomicU64::new(links.nat_timeout_s * 1_000),
        links,
        broker: Arc::new(watch::Sender::new(listener.local_addr().unwrap())),
        connects_per_s: 0,
        counts: Mutex::default(),
    });
    Both { proxy: Proxy::open(network.clone(), 1).await.unwrap(), network, listener }
}

fn plain() -> Links {
    Links { delay_ms: 0, jitter_ms: 0, loss_percent: 0.0, ..Links::default() }
}

impl Both {
    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.proxy.address()).await.unwrap()
    }

    async fn accept(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.expect("the broker is reached").unwrap().0
    }

    /// A connection on which a byte has gone up.
    async fn connected(&self) -> (TcpStream, TcpStream) {
        let mut device = self.dial().await;
        device.write_all(b"!").await.unwrap();
        let mut broker = self.accept().await;
        assert_eq!(read(&mut broker, 1).await.unwrap(), b"!");
        (device, broker)
    }
}

async fn read(socket: &mut TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    timeout(PATIENCE, socket.read_exact(&mut bytes)).await.expect("something comes")?;
    Ok(bytes)
}

/// Nothing comes and nobody is told anything, for a while.
async fn is_silent(socket: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(150), socket.read_u8()).await.is_err()
}

#[tokio::test]
async fn everything_arrives_whole_and_in_order_after_its_delay() {
    let links = Links { delay_ms: 30, jitter_ms: 20, loss_percent: 1.0, ..plain() };
    let both = network(links).await;
    let begun = Instant::now();
    let (device, mut broker) = both.connected().await;
    assert!(begun.elapsed() >= Duration::from_millis(90), "two ways to open it, one for the byte");
    let bytes: Vec<u8> = (0..300_000u32).map(|at| (at / 7) as u8).collect();
    let (mut read_half, mut write_half) = device.into_split();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        write_half.write_all(&sent).await.unwrap();
        write_half
    });
    assert!(read(&mut broker, bytes.len()).await.unwrap() == bytes);
    broker.write_all(b"thanks").await.unwrap();
    let mut answer = [0; 6];
    timeout(PATIENCE, read_half.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"thanks");
    // Ended in order: the other end sees it after everything else.
    drop((sending.await.unwrap(), read_half));
    assert!(timeout(PATIENCE, broker.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_rate_is_kept() {
    let both = network(Links { bytes_per_s: 50_000, ..plain() }).await;
    let (mut device, mut broker) = both.connected().await;
    let begun = Instant::now();
    device.write_all(&[7; 25_000]).await.unwrap();
    read(&mut broker, 25_000).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_cut_is_told_to_both_ends_or_to_none() {
    let both = network(plain()).await;
    let (mut device, mut broker) = both.connected().await;
    both.proxy.cut(OutageMode::Reset);
    for socket in [&mut device, &mut broker] {
        assert_eq!(read(socket, 1).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    let (mut device, mut broker) = both.connected().await;
    both.proxy.cut(OutageMode::Silent);
    // What is written vanishes, in both directions.
    device.write_all(b"up").await.unwrap();
    broker.write_all(b"down").await.unwrap();
    assert!(is_silent(&mut device).await && is_silent(&mut broker).await);
    // A device that has lost its power is gone; the broker is not told.
    let (device, mut broker) = both.connected().await;
    both.proxy.power_cut();
    drop(device);
    assert!(is_silent(&mut broker).await);
}

#[tokio::test]
async fn without_signal_what_is_sent_waits_and_who_gives_up_is_never_heard() {
    let both = network(plain()).await;
    let (mut device, mut broker) = both.connected().await;
    both.proxy.no_signal_until(both.network.time.now_ms() + 700);
    device.write_all(b"later").await.unwrap();
    let mut given_up = both.dial().await;
    given_up.write_all(b"CONNECT").await.unwrap();
    drop(given_up);
    assert!(is_silent(&mut broker).await);
    assert_eq!(read(&mut broker, 5).await.unwrap(), b"later");
    assert!(both.network.time.now_ms() >= 700);
    // The next to be accepted is the next to dial.
    let (mut next, mut broker) = both.connected().await;
    broker.write_all(b"you").await.unwrap();
    assert_eq!(read(&mut next, 3).await.unwrap(), b"you");
}

#[tokio::test]
async fn a_carrier_that_forgets_resets_who_sends_or_nobody() {
    for nat in [OutageMode::Reset, OutageMode::Silent] {
        let both = network(Links { nat_timeout_s: 1, nat, ..plain() }).await;
        let (mut device, mut broker) = both.connected().await;
        // Longer than the carrier remembers.
        assert!(timeout(Duration::from_millis(1_200), device.read_u8()).await.is_err());
        device.write_all(b"x").await.unwrap();
        match nat {
            OutageMode::Reset => assert!(read(&mut device, 1).await.is_err()),
            OutageMode::Silent => assert!(is_silent(&mut device).await),
        }
        assert!(is_silent(&mut broker).await, "{nat:?}");
    }
}

#[tokio::test]
async fn attempts_are_counted_and_refused_when_the_network_refuses_them() {
    let both = network(plain()).await;
    both.proxy.refused_until(both.network.time.now_ms() + 60_000);
    let mut device = both.dial().await;
    assert!(read(&mut device, 1).await.is_err());
    assert_eq!(both.network.counts().stats.dials, 1);
    assert_eq!(both.network.counts().stats.connects, 0);
}
