//! `postrider bans`: who is kept out of a running broker, and letting them in again.
//!
//! Asks the broker's HTTP port, as an operator where the broker knows users.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Deserialize;

use crate::broker_http::{BrokerArgs, ask, percent_encoded};
use crate::terminal::{aligned, say};

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

/// Runs the command.
pub(crate) async fn run(args: BansArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { broker, json } => {
            let body = ask(&broker, "GET", "/api/v1/bans").await?;
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
            ask(&broker, "DELETE", &path).await?;
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
    aligned(&rows)
}

fn seconds(all_s: u64) -> String {
    match all_s {
        0..120 => format!("{all_s} s"),
        120..7_200 => format!("{} min", all_s / 60),
        _ => format!("{} h", all_s / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
