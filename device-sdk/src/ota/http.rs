//! An image on an HTTP server, in ranges: one small request a part, so that it goes on at any byte.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::fetch::Source;
use crate::tls::TlsSettings;
use crate::{StartError, TlsOptions};

/// Most bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// How long one part may take.
const PART_WITHIN: Duration = Duration::from_secs(60);

/// A source that asks an HTTP server for ranges of bytes (RFC 9110, 206), over TLS for `https`.
///
/// Plain `http` is no danger to the image, whose digest is signed; it tells others what the device downloads.
///
/// ```
/// use device_sdk::TlsOptions;
/// use device_sdk::ota::HttpSource;
///
/// let tls = TlsOptions::default(); // the system's authorities
/// # let tls = TlsOptions { ca_file: None, ..tls };
/// let source = HttpSource::new("http://images.example/gateway-2/42.img", &tls)?;
/// # drop(source);
/// assert!(HttpSource::new("ftp://images.example/42.img", &tls).is_err());
/// # Ok::<(), device_sdk::StartError>(())
/// ```
pub struct HttpSource {
    address: String,
    host: String,
    path: String,
    /// With the name that the server must prove.
    tls: Option<(Arc<TlsSettings>, String)>,
}

impl HttpSource {
    /// Makes the source of a URL: `http://` or `https://`, a host, maybe a port and a path.
    ///
    /// # Errors
    /// The URL is none, or a TLS file cannot be read.
    pub fn new(url: &str, tls: &TlsOptions) -> Result<Self, StartError> {
        let bad = |what: &str| StartError::Options { what: format!("image URL {url:?} {what}") };
        let (is_tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(bad("is neither http:// nor https://")),
        };
        let path_at = rest.find('/').unwrap_or(rest.len());
        let (host, path) = rest.split_at(path_at);
        if host.is_empty() || host.contains('@') || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("has no plain host and path"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
            !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':')
        });
        let address = match (has_port, is_tls) {
            (true, _) => host.to_owned(),
            (false, true) => format!("{host}:443"),
            (false, false) => format!("{host}:80"),
        };
        let tls = if is_tls {
            let name = address.rsplit_once(':').map_or(&*address, |(name, _)| name).trim_matches(['[', ']']);
            let settings = TlsSettings::new(tls)?;
            settings.server_name(name).map_err(|what| StartError::Options { what })?;
            Some((Arc::new(settings), name.to_owned()))
        } else {
            None
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { address, host: host.to_owned(), path: path.to_owned(), tls })
    }

    async fn part(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let tcp = TcpStream::connect(&self.address).await?;
        match &self.tls {
            None => self.ask(tcp, offset, bytes_max).await,
            Some((settings, name)) => {
                let stream = settings.clone().connect(name, tcp).await?;
                self.ask(stream, offset, bytes_max).await
            }
        }
    }

    async fn ask(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        offset: u64,
        bytes_max: usize,
    ) -> io::Result<Bytes> {
        let last = offset + bytes_max as u64 - 1;
        let (path, host) = (&self.path, &self.host);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={offset}-{last}\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut received = BytesMut::with_capacity(bytes_max.min(64 * 1024) + 1024);
        let (head_bytes, length) = loop {
            if let Some(head) = head(&received, offset, bytes_max)? {
                break head;
            }
            if received.len() >= HEAD_BYTES_MAX {
                return Err(wrong(format!("its head has more than {HEAD_BYTES_MAX} bytes")));
            }
            if stream.read_buf(&mut received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let mut body = received.split_off(head_bytes);
        while body.len() < length {
            match stream.read_buf(&mut body).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if body.is_empty() => return Err(error),
                // A link that breaks says no goodbye of TLS.
                Err(_) => break,
            }
        }
        // What came is good even if the rest did not: the whole image is checked.
        body.truncate(length);
        if body.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(body.freeze()) }
    }
}

impl Source for HttpSource {
    async fn read(&mut self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        match timeout(PART_WITHIN, self.part(offset, bytes_max)).await {
            Ok(part) => part,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no part of the image within {} s", PART_WITHIN.as_secs()),
            )),
        }
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server's answer: {what}"))
}

/// Reads the head of an answer: its bytes and those of the part behind it, `None` while it is not whole.
fn head(received: &[u8], offset: u64, bytes_max: usize) -> io::Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let status = response.parse(received).map_err(|error| wrong(error.to_string()))?;
    let httparse::Status::Complete(head_bytes) = status else { return Ok(None) };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    if header("transfer-encoding").is_some() {
        return Err(wrong("it comes in chunks, a range must have a length".to_owned()));
    }
    let length: Option<usize> = header("content-length").and_then(|length| length.parse().ok());
    match response.code {
        Some(206) => {
            let from = header("content-range")
                .and_then(|range| range.strip_prefix("bytes ")?.split_once('-'))
                .and_then(|(from, _)| from.parse::<u64>().ok());
            if from != Some(offset) {
                let range = header("content-range").unwrap_or("no Content-Range");
                return Err(wrong(format!("{range:?} instead of the bytes from {offset} on")));
            }
        }
        // Who does not know ranges sends all of it: good for its beginning.
        Some(200) if offset == 0 => {}
        Some(200) => return Err(wrong("it sends no ranges".to_owned())),
        code => return Err(wrong(format!("status {}", code.unwrap_or(0)))),
    }
    let length = length.ok_or_else(|| wrong("it says no length".to_owned()))?;
    Ok(Some((head_bytes, length.min(bytes_max))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_others_refused() {
        let table = [
            ("http://127.0.0.1:8080/fw/1.bin?x=1", "127.0.0.1:8080", "/fw/1.bin?x=1"),
            ("http://[::1]:80/a", "[::1]:80", "/a"),
            ("http://example.com", "example.com:80", "/"),
            ("http://[::1]/a", "[::1]:80", "/a"),
        ];
        for (url, address, path) in table {
            let source = HttpSource::new(url, &TlsOptions::default()).unwrap();
            assert_eq!((source.address.as_str(), source.path.as_str()), (address, path), "{url}");
        }
        for url in ["ftp://x/", "http:///a", "http://user@host/", "http://host/a b", "http://h/\r\nX: y"] {
            assert!(HttpSource::new(url, &TlsOptions::default()).is_err(), "{url}");
        }
    }

    #[test]
    fn answers_that_are_not_the_part_asked_for_are_refused() {
        let part = |text: &str| head(text.as_bytes(), 5, 100);
        let good = "HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-9/20\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(part(good).unwrap(), Some((good.len(), 5)));
        assert_eq!(part(&good[..20]).unwrap(), None);
        let wrong = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "no ranges"),
            ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "status 404"),
            ("HTTP/1.1 206 P\r\nContent-Range: bytes 0-9/20\r\nContent-Length: 10\r\n\r\n", "from 5 on"),
            ("HTTP/1.1 206 P\r\nContent-Range: bytes 5-9/20\r\n\r\n", "no length"),
            ("HTTP/1.1 206 P\r\nTransfer-Encoding: chunked\r\n\r\n", "in chunks"),
            ("SSH-2.0\r\n\r\n", "the server's answer"),
        ];
        for (text, expected) in wrong {
            let error = part(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
