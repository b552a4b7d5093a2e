//! `postrider bans`: who is kept out of a running broker, and letting them in again.
//!
//! Asks the broker's HTTP port, which answers this on its own machine only.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::terminal::say;

/// The broker has this long to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// An answer is at most this long: far above a full list.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// List who is banned from a running broker, or let somebody in again
#[derive(Debug, clap::Args)]
pub(crate) struct BansArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the bans in force, the newest first
    List {
        #[command(flatten)]
        broker: BrokerArgs,
        /// Print JSON, as the broker gives it
        #[arg(long)]
        json: bool,
    },
    /// End a ban now
    Lift {
        #[command(flatten)]
        broker: BrokerArgs,
        /// What is banned
        kind: Kind,
        /// The address, client id or user name, as `list` shows it
        key: String,
    },
}

#[derive(Debug, clap::Args)]
struct BrokerArgs {
    /// HTTP address of the broker, on this machine
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    http: String,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    Address,
    Client,
    User,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Client => "client",
            Self::User => "user",
        }
    }
}

#[derive(Deserialize)]
struct BanList {
    bans: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    kind: String,
    key: String,
    reason: String,
    since: u64,
    left_s: u64,
    refused: u64,
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// Runs the command.
pub(crate) async fn run(args: BansArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { broker, json } => {
            let body = ask(&broker.http, "GET", "/api/v1/bans").await?;
            if json {
                say(&body)?;
                return Ok(ExitCode::SUCCESS);
            }
            let BanList { bans } = serde_json::from_str(&body).context("the answer is no list of bans")?;
            if bans.is_empty() {
                say("nobody is banned")?;
            } else {
                table(&bans).iter().try_for_each(|line| say(line))?;
            }
        }
        Command::Lift { broker, kind, key } => {
            let path = format!("/api/v1/bans/{}/{}", kind.as_str(), percent_encoded(&key));
            ask(&broker.http, "DELETE", &path).await?;
            say(&format!("{} {key} is let in again", kind.as_str()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Aligns the bans below their names.
fn table(bans: &[Ban]) -> Vec<String> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let head = ["KIND", "WHO", "WHY", "SINCE", "LEFT", "REFUSED"].map(str::to_owned);
    let row = |ban: &Ban| {
        let since = format!("{} ago", seconds(now_ms.saturating_sub(ban.since) / 1000));
        let who = ban.key.escape_debug().to_string();
        [ban.kind.clone(), who, ban.reason.clone(), since, seconds(ban.left_s), ban.refused.to_string()]
    };
    let rows: Vec<_> = std::iter::once(head).chain(bans.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn seconds(all_s: u64) -> String {
    match all_s {
        0..120 => format!("{all_s} s"),
        120..7_200 => format!("{} min", all_s / 60),
        _ => format!("{} h", all_s / 3600),
    }
}

/// Encodes one segment of a path.
fn percent_encoded(text: &str) -> String {
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
async fn ask(http: &str, method: &str, path: &str) -> anyhow::Result<String> {
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
        "{method} {path} HTTP/1.1\r\nHost: {http}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
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

    #[test]
    fn bans_stand_in_columns_and_their_names_are_escaped() {
        let ban = |key: &str, left_s| Ban {
            kind: "client".to_owned(),
            key: key.to_owned(),
            reason: "connects again and again".to_owned(),
            since: u64::MAX,
            left_s,
            refused: 3,
        };
        let expected = [
            "KIND    WHO        WHY                       SINCE    LEFT   REFUSED",
            "client  a          connects again and again  0 s ago  119 s  3",
            r"client  b\u{1b}[m  connects again and again  0 s ago  5 min  3",
        ];
        assert_eq!(table(&[ban("a", 119), ban("b\x1b[m", 300)]), expected);
        assert_eq!(seconds(86_400), "24 h");
    }
}
