//! The SDK's adaptive heartbeat against the real broker, behind a box that forgets idle connections as a carrier's NAT
//! does. `scripts/heartbeat-netns` does the same behind a NAT of the kernel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use device_sdk::heartbeat::AdaptiveKeepalive;
use device_sdk::{Client, Event, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::broker_process::Broker;

/// Longest wait for what takes half a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// What meets a client's packet on a forgotten connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Reset,
    Silence,
}

/// Stands between clients and the broker; connections idle for `timeout_ms` are forgotten.
async fn forgetful_box(broker: SocketAddr, timeout_ms: Arc<AtomicU64>, mode: Mode) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let broker = TcpStream::connect(broker).await.expect("the broker is there");
            tokio::spawn(pass(client, broker, timeout_ms.clone(), mode));
        }
    });
    address
}

async fn pass(mut client: TcpStream, mut broker: TcpStream, timeout_ms: Arc<AtomicU64>, mode: Mode) {
    let mut passed = Instant::now();
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    loop {
        let (count, is_up) = tokio::select! {
            count = client.read(&mut up) => (count.unwrap_or(0), true),
            count = broker.read(&mut down) => (count.unwrap_or(0), false),
        };
        let is_forgotten = passed.elapsed() >= Duration::from_millis(timeout_ms.load(Ordering::Relaxed));
        match (is_forgotten, is_up) {
            (_, true) if count == 0 => return,
            (true, true) if mode == Mode::Reset => {
                client.set_zero_linger().expect("a socket option");
                return;
            }
            (true, _) => {
                // From here on nothing passes; the ends are held until the client gives up.
                while client.read(&mut up).await.is_ok_and(|count| count > 0) {}
                return;
            }
            (false, _) if count == 0 => return,
            (false, true) => broker.write_all(&up[..count]).await.expect("the broker reads"),
            // The client may have gone.
            (false, false) => {
                if client.write_all(&down[..count]).await.is_err() {
                    return;
                }
            }
        }
        passed = Instant::now();
    }
}

/// Learns a timeout of 5.5 s, then meets one of 2 s.
async fn learn(broker: SocketAddr, mode: Mode) {
    let timeout_ms = Arc::new(AtomicU64::new(5_500));
    let address = forgetful_box(broker, timeout_ms.clone(), mode).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("networks.json");
    let options = || {
        let mut options = Options::new(address.to_string(), format!("idle-{mode:?}"));
        options.adaptive_keepalive =
            Some(AdaptiveKeepalive { min_s: 1, max_s: 600, file: Some(file.clone()) });
        options
    };
    let (client, mut events) = Client::spawn(options()).expect("good options");
    assert!(matches!(events.next().await, Some(Event::Connected { .. })));
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while !client.heartbeat().is_settled {
        tokio::select! {
            event = events.next() => panic!("{mode:?}: the main connection is at no risk: {event:?}"),
            _ = look.tick() => {}
        }
    }
    let status = client.heartbeat();
    assert_eq!((status.proven_s, status.interval_ms), (5, 4_250), "{mode:?}");
    client.disconnect().await.expect("it runs");

    // The next run knows it from the file, and no probe is made.
    let (client, mut events) = Client::spawn(options()).expect("good options");
    assert!(matches!(events.next().await, Some(Event::Connected { .. })));
    let idle = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
    assert!(idle.is_err(), "{mode:?}: two idle intervals are survived: {idle:?}");
    assert_eq!((client.heartbeat().interval_ms, client.heartbeat().probes), (4_250, 0));

    timeout_ms.store(2_000, Ordering::Relaxed);
    match (mode, events.next().await) {
        (Mode::Reset, Some(Event::Disconnected { retry_in_ms: _, why })) => {
            assert!(why.contains("reset") || why.contains("failed") || why.contains("forgotten"), "{why}");
        }
        (Mode::Silence, Some(Event::Disconnected { why, .. })) => assert!(why.contains("silent"), "{why}"),
        (_, other) => panic!("{mode:?}: {other:?}"),
    }
    assert!(matches!(events.next().await, Some(Event::Connected { .. })));
    assert!(client.heartbeat().interval_ms < 4_250, "a bound in doubt is not kept");
}

#[test]
fn an_idle_client_learns_what_its_network_forgets_without_losing_its_connection() {
    let broker = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let both =
        async { tokio::join!(learn(broker.address(), Mode::Reset), learn(broker.address(), Mode::Silence)) };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, both).await.expect("both end in time") });
}
