//! A server for tests of sinks: each request is answered with what the test says, and shown to it.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::config::{SecretUrl, SinkKind, SinkRule};

/// Nothing here takes long; a test that hangs must fail.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that answers each request with the next of the answers it is given.
pub(crate) struct Stub {
    pub(crate) listener: TcpListener,
}

/// What a request had in it.
#[derive(Debug)]
pub(crate) struct Request {
    /// Request line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) at: Instant,
}

impl Stub {
    pub(crate) async fn start() -> Stub {
        Stub { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The address of a path on it.
    pub(crate) fn url(&self, path: &str) -> SecretUrl {
        SecretUrl(format!("http://127.0.0.1:{}{path}", self.port()).parse().unwrap())
    }

    /// A rule for a sink that speaks to it.
    pub(crate) fn rule(&self) -> SinkRule {
        let kind = SinkKind::Webhook(super::webhook::Webhook {
            url: self.url("/"),
            headers: Default::default(),
            secret: None,
            format: Default::default(),
        });
        SinkRule::new("test", kind)
    }

    /// Takes one request on a connection of its own and answers with a status line (and headers) and a body.
    pub(crate) async fn answer(&self, status: &str, body: &str) -> Request {
        let work = async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            request
        };
        tokio::time::timeout(PATIENCE, work).await.expect("a request in time")
    }
}

/// Reads one request.
pub(crate) async fn read_request(stream: &mut TcpStream) -> Request {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |n| n.parse().unwrap()) {
                return Request { head, body: body.to_owned(), at: Instant::now() };
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "cut: {text}");
    }
}
