//! The head of an HTTP answer: what a proxy says to CONNECT, and a broker to the request for a WebSocket.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest head that is read.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Status and header lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Names in lower case, values without space around them.
    headers: Vec<(String, String)>,
}

impl Head {
    /// Returns the first header of this name, which is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let status_line = lines.next().unwrap_or_default();
        let mut words = status_line.split(' ');
        let status = match (words.next(), words.next()) {
            (Some("HTTP/1.1" | "HTTP/1.0"), Some(code)) if code.len() == 3 => code.parse::<u16>().ok(),
            _ => None,
        };
        let shown: String = status_line.chars().take(64).collect();
        let status = status.ok_or_else(|| format!("the answer is no HTTP: {shown:?}"))?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Ok(Self { status, headers: headers.collect() })
    }
}

/// Reads a head and not a byte more: what follows belongs to another protocol.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Head> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(io::Error::other(format!("its answer is longer than {HEAD_BYTES_MAX} bytes")));
        }
        head.push(stream.read_u8().await?);
    }
    Head::parse(&String::from_utf8_lossy(&head)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_is_read_to_its_end_and_no_further() {
        let mut bytes = &b"HTTP/1.1 101 Switching Protocols\r\nA: b:c \r\nX-Y:\r\n\r\nrest"[..];
        let head = read(&mut bytes).await.unwrap();
        assert_eq!((head.status, head.header("a"), head.header("x-y")), (101, Some("b:c"), Some("")));
        assert_eq!(bytes, b"rest");
    }

    #[tokio::test]
    async fn what_is_no_head_is_refused() {
        let long = [&b"HTTP/1.1 200 OK\r\n"[..], &[b'a'; HEAD_BYTES_MAX]].concat();
        for (bytes, expected) in [
            (&b"\x05\x00\r\n\r\n"[..], "is no HTTP"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "is no HTTP"),
            (b"HTTP/2 200\r\n\r\n", "is no HTTP"),
            (b"HTTP/1.1 200 OK\r\n", "unexpected end of file"),
            (&long, "longer than 16384 bytes"),
        ] {
            let error = read(&mut &*bytes).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
