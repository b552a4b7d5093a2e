//! Small proxies as the RFCs describe them: HTTP CONNECT with Basic authentication, and SOCKS5 with a password.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Base64 of `truck:open sesame`.
const BASIC: &str = "dHJ1Y2s6b3BlbiBzZXNhbWU=";

/// What a proxy was asked for.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Starts an HTTP proxy for the user `truck`; all names lead to one address.
pub(crate) async fn http(leads_to: String) -> (SocketAddr, Asked) {
    let (listener, asked) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Asked::default());
    let (address, noted) = (listener.local_addr().unwrap(), asked.clone());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.strip_prefix("CONNECT ").unwrap().split_once(" HTTP/1.1\r\n").unwrap().0;
            noted.0.lock().unwrap().push(target.to_owned());
            assert!(head.contains(&format!("\r\nHost: {target}\r\n")), "{head}");
            let answer = if head.contains(&format!("\r\nProxy-Authorization: Basic {BASIC}\r\n")) {
                "HTTP/1.1 200 Connection established\r\n\r\n"
            } else {
                "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"yard\"\r\n\r\n"
            };
            client.write_all(answer.as_bytes()).await.unwrap();
            if answer.contains("200") {
                forward(client, &leads_to);
            }
        }
    });
    (address, asked)
}

/// Starts a SOCKS5 proxy for the user `truck`, or for everybody; all names lead to one address.
pub(crate) async fn socks(leads_to: String, wants_login: bool) -> (SocketAddr, Asked) {
    let (listener, asked) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Asked::default());
    let (address, noted) = (listener.local_addr().unwrap(), asked.clone());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            // A client that gives up in the middle is what some tests are about.
            let Some(target) = greet(&mut client, wants_login).await else { continue };
            noted.0.lock().unwrap().push(target.clone());
            if target.starts_with("forbidden.test") {
                client.write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                continue;
            }
            // The bound address as a name, the longest form there is.
            client.write_all(&[5, 0, 0, 3, 4, b'y', b'a', b'r', b'd', 0, 80]).await.unwrap();
            forward(client, &leads_to);
        }
    });
    (address, asked)
}

/// RFC 1928, sections 3 and 4; RFC 1929. Returns what the client wants to be connected to.
async fn greet(client: &mut TcpStream, wants_login: bool) -> Option<String> {
    let [version, count] = [client.read_u8().await.ok()?, client.read_u8().await.ok()?];
    assert_eq!(version, 5);
    let mut methods = vec![0; usize::from(count)];
    client.read_exact(&mut methods).await.ok()?;
    let method = if wants_login { 2 } else { 0 };
    if !methods.contains(&method) {
        client.write_all(&[5, 0xff]).await.ok()?;
        return None;
    }
    client.write_all(&[5, method]).await.ok()?;
    if wants_login {
        assert_eq!(client.read_u8().await.ok()?, 1);
        let (user, password) = (text(client).await?, text(client).await?);
        let is_right = (user.as_str(), password.as_str()) == ("truck", "open sesame");
        client.write_all(&[1, u8::from(!is_right)]).await.ok()?;
        if !is_right {
            return None;
        }
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await.ok()?;
    assert_eq!(request[..3], [5, 1, 0]);
    let host = match request[3] {
        1 => {
            let mut address = [0; 4];
            client.read_exact(&mut address).await.ok()?;
            IpAddr::from(address).to_string()
        }
        4 => {
            let mut address = [0; 16];
            client.read_exact(&mut address).await.ok()?;
            IpAddr::from(address).to_string()
        }
        3 => text(client).await?,
        other => panic!("address type {other}"),
    };
    let port = client.read_u16().await.ok()?;
    Some(format!("{host}:{port}"))
}

/// Bytes after their number.
async fn text(client: &mut TcpStream) -> Option<String> {
    let mut bytes = vec![0; usize::from(client.read_u8().await.ok()?)];
    client.read_exact(&mut bytes).await.ok()?;
    String::from_utf8(bytes).ok()
}

fn forward(mut client: TcpStream, to: &str) {
    let to = to.to_owned();
    tokio::spawn(async move {
        let mut broker = TcpStream::connect(to).await.unwrap();
        // The connection ends when either side does.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
    });
}
