//! Runs the deeds: so many at a time, on one thread, so that the witness and the broker keep theirs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::deeds::{DEEDS, Door};

/// Hostile connections at a time.
const AT_A_TIME: usize = 200;

/// Within this a connection must have ended: the broker's own timeouts are 2 s.
pub(super) const END_WITHIN: Duration = Duration::from_secs(60);

/// A broker that would wait for longer is left after this, so that it gets as many connections in a second.
pub(super) const LEAVE_AFTER: Duration = Duration::from_secs(2);

/// One attack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attack {
    pub(super) broker: SocketAddr,
    pub(super) tls: SocketAddr,
    pub(super) web_socket: SocketAddr,
    pub(super) proxy: SocketAddr,
    pub(super) seed: u64,
    pub(super) connections: usize,
    pub(super) silent: usize,
    /// How long a connection may last.
    pub(super) end_within: Duration,
    /// Only deeds whose name has this in it.
    pub(super) only: &'static str,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) ended: usize,
    pub(super) by_deed: BTreeMap<&'static str, usize>,
    /// Connections that the broker did not end in time, by number and deed.
    pub(super) unended: Vec<(usize, &'static str)>,
}

impl Attack {
    /// Makes all connections and waits until each has ended. The thread that does it gets the time that nobody else
    /// wants: what the witness feels is the broker's doing then, and not a generator's that shares its processors.
    pub(super) fn run(self) -> Done {
        let attack = std::thread::spawn(move || {
            rustix::process::nice(19).expect("everybody may be nicer");
            self.run_here()
        });
        attack.join().expect("the attack ends")
    }

    fn run_here(self) -> Done {
        let executor =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
        executor.block_on(self.run_all())
    }

    async fn run_all(self) -> Done {
        let permits = Arc::new(Semaphore::new(AT_A_TIME));
        let (mut running, mut done) = (JoinSet::new(), Done::default());
        let total = self.connections + self.silent;
        for number in 0..total {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("never closed");
            // The silent ones come between the others.
            let is_silent = number * self.silent / total != (number + 1) * self.silent / total;
            running.spawn(async move {
                let ended = if is_silent { self.pass_by(number).await } else { self.misbehave(number).await };
                drop(permit);
                ended
            });
            while let Some(ended) = running.try_join_next() {
                done.add(ended.expect("a deed does not panic"));
            }
        }
        while let Some(ended) = running.join_next().await {
            done.add(ended.expect("a deed does not panic"));
        }
        done
    }

    fn address(self, door: Door) -> SocketAddr {
        match door {
            Door::Tcp => self.broker,
            Door::Tls => self.tls,
            Door::WebSocket => self.web_socket,
            Door::Proxy => self.proxy,
        }
    }

    /// Connects and leaves; every other one so that the broker's answer is a reset.
    async fn pass_by(self, number: usize) -> Ended {
        let stream = TcpStream::connect(self.broker).await;
        if let (Ok(stream), 0) = (&stream, number % 2) {
            let _ = stream.set_zero_linger();
        }
        Ended { number, deed: "comes and goes", in_time: true }
    }

    async fn misbehave(self, number: usize) -> Ended {
        let mut rng = Rng::with_seed(self.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let deeds: Vec<_> = DEEDS.iter().filter(|(name, ..)| name.contains(self.only)).collect();
        let &(deed, door, act) = deeds[rng.usize(..deeds.len())];
        let done = timeout(self.end_within, async {
            let Ok(stream) = TcpStream::connect(self.address(door)).await else { return };
            let _ = stream.set_nodelay(true);
            let mut peer = Peer { stream, number };
            act(&mut peer, rng).await;
        });
        Ended { number, deed, in_time: done.await.is_ok() }
    }
}

struct Ended {
    number: usize,
    deed: &'static str,
    in_time: bool,
}

impl Done {
    fn add(&mut self, ended: Ended) {
        self.ended += 1;
        *self.by_deed.entry(ended.deed).or_default() += 1;
        if !ended.in_time {
            self.unended.push((ended.number, ended.deed));
        }
    }
}

/// A hostile client's socket. The broker may close it at any time: that is no error here.
pub(super) struct Peer {
    stream: TcpStream,
    /// The connection's number, for names of its own.
    pub(super) number: usize,
}

impl Peer {
    /// Sends bytes; says whether the connection still takes them. Answers are read meanwhile, so that neither side
    /// waits for the other for ever.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        let (mut read, mut write) = self.stream.split();
        let mut answers = [0; 16 * 1024];
        let mut sending = std::pin::pin!(write.write_all(bytes));
        loop {
            tokio::select! {
                sent = &mut sending => return sent.is_ok(),
                got = read.read(&mut answers) => if !matches!(got, Ok(1..)) { return false },
            }
        }
    }

    /// Sends bytes and reads nothing; gives up when the broker takes no more of them.
    pub(super) async fn send_deaf(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(Duration::from_millis(500), self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Reads until something comes; says whether it did.
    pub(super) async fn answered(&mut self) -> bool {
        let mut answer = [0; 16 * 1024];
        matches!(self.stream.read(&mut answer).await, Ok(1..))
    }

    /// Reads until the broker closes.
    pub(super) async fn until_closed(&mut self) {
        let mut answer = [0; 16 * 1024];
        while matches!(self.stream.read(&mut answer).await, Ok(1..)) {}
    }

    /// Does nothing for a while.
    pub(super) async fn idle(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Leaves without a word.
    pub(super) async fn close(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}
