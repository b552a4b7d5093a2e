//! The connections of the HTTP port: how many there are, how long one may take to ask, and who makes room.
//!
//! A connection either waits for its client or answers it. One that waits costs its client nothing, so when the port is
//! full one more ends the one that has waited longest; those that answer are never ended for another.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{ConnectInfo, Request},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

use super::bans::HttpPeer;

/// Open HTTP connections.
const CONNECTIONS_MAX: usize = 256;

/// A connection that neither reads nor writes for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Serves `app` on `listener` for ever; a client has `head_max` for the head of a request, the wait for it included.
pub(super) async fn serve(mut listener: TcpListener, app: Router, head_max: Duration) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let waiting = Arc::new(Waiting::default());
    loop {
        // Axum's own listener waits when the process is out of file descriptors.
        let (stream, address) = axum::serve::Listener::accept(&mut listener).await;
        if permits.available_permits() == 0 {
            waiting.end_first();
        }
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        let idle = Idle { stream, sleep: Box::pin(tokio::time::sleep(IDLE_MAX)), _permit: permit };
        tokio::spawn(connection(idle, address, app.clone(), head_max, Arc::clone(&waiting)));
    }
}

async fn connection(idle: Idle, address: SocketAddr, app: Router, head_max: Duration, waiting: Arc<Waiting>) {
    let seat = Arc::new(Seat { waiting, turn: Mutex::default(), end: Arc::default() });
    seat.wait();
    let app = TowerToHyperService::new(app);
    let answer = service_fn(|request: Request<Incoming>| {
        let answering = Answering::begin(&seat);
        let (app, mut request) = (app.clone(), request.map(Body::new));
        request.extensions_mut().insert(ConnectInfo(HttpPeer(address)));
        async move {
            let response = app.call(request).await?;
            Ok::<_, Infallible>(response.map(|inner| Answer { inner, _answering: answering }))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_max);
    tokio::select! {
        result = http.serve_connection(TokioIo::new(idle), answer).with_upgrades() => {
            if let Err(error) = result {
                tracing::debug!(peer = %address, %error, "http connection ended");
            }
        }
        () = seat.end.notified() => {
            tracing::debug!(peer = %address, "http connection closed: the port is full, and it waited longest");
        }
    }
}

/// The connections that wait for their clients, in the order in which they began to.
#[derive(Debug, Default)]
struct Waiting(Mutex<Turns>);

#[derive(Debug, Default)]
struct Turns {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

impl Waiting {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        // What is inside is whole after each step, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, end: &Arc<Notify>) -> u64 {
        let mut turns = self.turns();
        let turn = turns.next;
        turns.next += 1;
        turns.waiting.insert(turn, Arc::clone(end));
        turn
    }

    fn leave(&self, turn: u64) {
        self.turns().waiting.remove(&turn);
    }

    fn end_first(&self) {
        if let Some((_, end)) = self.turns().waiting.pop_first() {
            end.notify_one();
        }
    }
}

/// One connection's place among those that wait.
#[derive(Debug)]
struct Seat {
    waiting: Arc<Waiting>,
    /// Its place while it waits.
    turn: Mutex<Option<u64>>,
    end: Arc<Notify>,
}

impl Seat {
    fn turn(&self) -> MutexGuard<'_, Option<u64>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        *self.turn() = Some(self.waiting.enter(&self.end));
    }

    fn stop_waiting(&self) {
        if let Some(turn) = self.turn().take() {
            self.waiting.leave(turn);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

/// A request that is being answered; its connection waits again when this is dropped.
#[derive(Debug)]
struct Answering(Arc<Seat>);

impl Answering {
    fn begin(seat: &Arc<Seat>) -> Self {
        seat.stop_waiting();
        Self(Arc::clone(seat))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// The body of an answer, which is being given until it is dropped.
struct Answer {
    inner: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A connection that fails when nothing happens on it.
pub(super) struct Idle {
    stream: TcpStream,
    sleep: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Idle {
    /// Gives the socket away; its place is free.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Puts the limit off when something happened; fails when it is reached.
    fn check<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.sleep.as_mut().reset(Instant::now() + IDLE_MAX);
            return polled;
        }
        match self.sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Idle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.check(cx, polled)
    }
}

impl AsyncWrite for Idle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.check(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const ENOUGH: Duration = Duration::from_secs(600);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    async fn serving(app: Router, head_max: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, app, head_max));
        address
    }

    async fn asking(address: SocketAddr, what: &str) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(what.as_bytes()).await.unwrap();
        client
    }

    async fn read_all(mut client: TcpStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    fn get_once(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    }

    #[test]
    fn a_full_port_ends_who_waits_longest_and_nobody_who_is_answered() {
        run(async {
            let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (tell, wait) = (Arc::clone(&asked), Arc::clone(&answer));
            let slow = get(async move || {
                tell.notify_one();
                wait.notified().await;
                "late"
            });
            let app = Router::new().route("/slow", slow).route("/", get(async || "here"));
            let address = serving(app, ENOUGH).await;
            let answered = asking(address, &get_once("/slow")).await;
            asked.notified().await;
            // One more than there is room for, some of which have begun to ask.
            let mut idle = Vec::new();
            for n in 0..CONNECTIONS_MAX {
                idle.push(asking(address, ["", "GET /"][n % 2]).await);
            }
            let last = asking(address, &get_once("/")).await;
            assert!(read_all(last).await.ends_with("here"));
            for gone in idle.drain(..2) {
                assert_eq!(read_all(gone).await, "");
            }
            // The others keep their places: each may still ask.
            for (n, mut kept) in idle.into_iter().enumerate() {
                kept.write_all(&get_once("/").as_bytes()[["", "GET /"][n % 2].len()..]).await.unwrap();
                assert!(read_all(kept).await.ends_with("here"), "{n}");
            }
            answer.notify_one();
            assert!(read_all(answered).await.ends_with("late"));
        });
    }

    #[test]
    fn a_request_that_does_not_come_whole_ends_its_connection() {
        run(async {
            let address = serving(Router::new(), Duration::from_millis(20)).await;
            for begun in ["", "GET", "GET / HTTP/1.1\r\nHost: a\r\n"] {
                assert_eq!(read_all(asking(address, begun).await).await, "", "{begun:?}");
            }
        });
    }
}
