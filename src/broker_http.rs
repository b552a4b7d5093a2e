//! One request to a running broker's HTTP port, for commands that ask it something.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The broker has this long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// An answer is at most this long: far above a full list.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Which broker is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct BrokerArgs {
    /// HTTP address of the broker, on this machine
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) http: String,
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// Encodes one segment of a path.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Sends one request and returns the answer's body.
pub(crate) async fn ask(http: &str, method: &str, path: &str) -> anyhow::Result<String> {
    let asked = timeout(ANSWER_MAX, exchange(http, method, path)).await;
    let answer = asked.with_context(|| format!("the broker at {http} does not answer"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    match (status, serde_json::from_str::<Problem>(body)) {
        ("200" | "204", _) => Ok(body.to_owned()),
        (_, Ok(problem)) => bail!("{}", problem.detail),
        _ => bail!("the server at {http} answers {status}: it is no broker, or one of another version"),
    }
}

async fn exchange(http: &str, method: &str, path: &str) -> anyhow::Result<String> {
    let reach = || format!("cannot reach a broker's HTTP port at {http}; --http says where it is");
    let mut stream = TcpStream::connect(http).await.with_context(reach)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {http}\r\nAccept: application/json\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_segment_of_the_path() {
        assert_eq!(percent_encoded("2001:db8::/64"), "2001%3Adb8%3A%3A%2F64");
        assert_eq!(percent_encoded("a b/ü"), "a%20b%2F%C3%BC");
    }
}
