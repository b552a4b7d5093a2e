//! One request to a running broker's HTTP port, for commands that ask it something.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The broker has this long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// An answer is at most this long: far above a full list.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A password or token is at most this long.
const SECRET_BYTES_MAX: u64 = 16 * 1024;

/// Which broker is asked, and by whom.
#[derive(clap::Args)]
pub(crate) struct BrokerArgs {
    /// HTTP address of the broker. What is said there is not encrypted: on this machine, or through a tunnel
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    http: String,
    /// User to ask as, of a group in http.admin_groups; where the broker knows no users, none is needed
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// File whose first line is the user's password; - reads it from stdin
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Token to ask with; others on this machine can see it while the command runs
    #[arg(long, conflicts_with_all = ["user", "token_file"])]
    token: Option<String>,
    /// File whose first line is the token; - reads it from stdin
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    token_file: Option<PathBuf>,
}

/// Takes `HOST:PORT`, or what a browser would be given for it.
fn address(given: &str) -> Result<String, String> {
    let address = given.strip_prefix("http://").unwrap_or(given).trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok() => {
            Ok(address.to_owned())
        }
        _ => Err(format!("{given:?} is no HOST:PORT, such as 127.0.0.1:8080")),
    }
}

/// Without secrets.
impl std::fmt::Debug for BrokerArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerArgs")
            .field("http", &self.http)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl BrokerArgs {
    /// Makes the header that says who asks, empty for nobody.
    fn authorization(&self) -> anyhow::Result<String> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(file)) => Some(first_line(file)?),
            (None, None) => None,
        };
        if let Some(token) = token {
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                bail!("the token is empty or has characters that no token has");
            }
            return Ok(format!("Authorization: Bearer {token}\r\n"));
        }
        let Some((user, file)) = self.user.as_ref().zip(self.password_file.as_ref()) else {
            return Ok(String::new());
        };
        if user.contains(':') {
            bail!("a user's name has no colon over HTTP");
        }
        let credentials = STANDARD.encode(format!("{user}:{}", first_line(file)?));
        Ok(format!("Authorization: Basic {credentials}\r\n"))
    }
}

/// Reads the first line of a file, or of stdin for `-`.
fn first_line(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().take(SECRET_BYTES_MAX).read_to_string(&mut text),
        _ => std::fs::File::open(file).and_then(|open| open.take(SECRET_BYTES_MAX).read_to_string(&mut text)),
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
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
pub(crate) async fn ask(broker: &BrokerArgs, method: &str, path: &str) -> anyhow::Result<String> {
    let (http, authorization) = (&broker.http, broker.authorization()?);
    let asked = timeout(ANSWER_MAX, exchange(http, method, path, &authorization)).await;
    let answer = asked.with_context(|| format!("the broker at {http} does not answer"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    match (status, serde_json::from_str::<Problem>(body)) {
        ("200" | "204", _) => Ok(body.to_owned()),
        ("401", Ok(problem)) if authorization.is_empty() => {
            bail!("{} (--user with --password-file, or --token-file)", problem.detail)
        }
        (_, Ok(problem)) => bail!("{}", problem.detail),
        _ => bail!("the server at {http} answers {status}: it is no broker, or one of another version"),
    }
}

async fn exchange(http: &str, method: &str, path: &str, authorization: &str) -> anyhow::Result<String> {
    let reach = || format!("cannot reach a broker's HTTP port at {http}; --http says where it is");
    let mut stream = TcpStream::connect(http).await.with_context(reach)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {http}\r\n{authorization}Accept: application/json\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        broker: BrokerArgs,
    }

    fn args(line: &[&str]) -> Result<BrokerArgs, clap::Error> {
        <Line as clap::Parser>::try_parse_from(["x"].iter().chain(line)).map(|line| line.broker)
    }

    #[test]
    fn an_address_is_taken_as_a_browser_shows_it_and_nothing_else() {
        for given in ["localhost:8080", "http://localhost:8080", "http://localhost:8080/"] {
            assert_eq!(args(&["--http", given]).unwrap().http, "localhost:8080", "{given}");
        }
        for wrong in ["localhost", "https://localhost:8080", "localhost:80800", ":8080", "http://"] {
            assert!(args(&["--http", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_asks_says_so_by_a_password_or_a_token_and_neither_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "hid:den\nmore\n").unwrap();
        let file = secret.to_str().unwrap();
        let header = |line: &[&str]| args(line).unwrap().authorization();
        assert_eq!(header(&[]).unwrap(), "");
        let basic = STANDARD.encode("boss:hid:den");
        let boss = ["--user", "boss", "--password-file", file];
        assert_eq!(header(&boss).unwrap(), format!("Authorization: Basic {basic}\r\n"));
        assert_eq!(header(&["--token-file", file]).unwrap(), "Authorization: Bearer hid:den\r\n");
        assert_eq!(header(&["--token", "a.b"]).unwrap(), "Authorization: Bearer a.b\r\n");
        for line in [&boss[..], &["--token", "hid:den"]] {
            assert!(!format!("{:?}", args(line).unwrap()).contains("hid"), "{line:?}");
        }
        for wrong in [
            &["--token", "a b"][..],
            &["--token", "a\r\nX: y"],
            &["--token", ""],
            &["--user", "a:b", "--password-file", file],
        ] {
            assert!(header(wrong).is_err(), "{wrong:?}");
        }
        let missing = header(&["--token-file", "/nowhere/at/all"]).unwrap_err();
        assert!(format!("{missing:#}").contains("/nowhere/at/all"));
        for wrong in
            [&["--user", "boss"][..], &["--password-file", file], &["--token", "a", "--token-file", file]]
        {
            assert!(args(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_is_one_segment_of_the_path() {
        assert_eq!(percent_encoded("2001:db8::/64"), "2001%3Adb8%3A%3A%2F64");
        assert_eq!(percent_encoded("a b/ü"), "a%20b%2F%C3%BC");
    }
}
