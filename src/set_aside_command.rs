//! `postrider set-aside`: messages that ended a client's connections, and what becomes of them.
//!
//! Asks the broker's HTTP port as an operator.

use std::process::ExitCode;

use anyhow::Context;
use serde::Deserialize;

use crate::broker_http::{BrokerArgs, ask, percent_encoded};
use crate::terminal::{aligned, say};

/// List, replay or drop messages that a running broker set aside because they ended a client's connections
#[derive(Debug, clap::Args)]
pub(crate) struct SetAsideArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what was set aside at a client, the oldest first
    List {
        #[command(flatten)]
        broker: BrokerArgs,
        /// The client id
        client: String,
        /// Print JSON, as the broker gives it
        #[arg(long)]
        json: bool,
    },
    /// Give a message to the client again
    Replay(MessageArgs),
    /// Forget a message
    Drop(MessageArgs),
}

#[derive(Debug, clap::Args)]
struct MessageArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// The client id
    client: String,
    /// The message's number, as `list` shows it
    message: u64,
}

#[derive(Deserialize)]
struct List {
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    message: u64,
    topic: String,
    seq: Option<u64>,
    id: Option<String>,
    from: Option<String>,
    qos: u8,
    bytes: u64,
}

/// Runs the command.
pub(crate) async fn run(args: SetAsideArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { broker, client, json } => {
            let body = ask(&broker, "GET", &path_of(&client)).await?;
            if json {
                say(&body)?;
                return Ok(ExitCode::SUCCESS);
            }
            let List { messages } =
                serde_json::from_str(&body).context("the answer is no list of messages")?;
            if messages.is_empty() {
                say("nothing is set aside")?;
            } else {
                table(&messages).iter().try_for_each(|line| say(line))?;
            }
        }
        Command::Replay(MessageArgs { broker, client, message }) => {
            let path = format!("{}/{message}/replay", path_of(&client));
            ask(&broker, "POST", &path).await?;
            say(&format!("message {message} goes to {} again", client.escape_debug()))?;
        }
        Command::Drop(MessageArgs { broker, client, message }) => {
            let path = format!("{}/{message}", path_of(&client));
            ask(&broker, "DELETE", &path).await?;
            say(&format!("message {message} is forgotten"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path_of(client: &str) -> String {
    format!("/api/v1/clients/{}/set-aside", percent_encoded(client))
}

/// Aligns the messages below their names.
fn table(messages: &[Message]) -> Vec<String> {
    let head = ["MESSAGE", "TOPIC", "SEQ", "ID", "FROM", "QOS", "BYTES"].map(str::to_owned);
    let text = |text: &Option<String>| text.as_deref().unwrap_or("-").escape_debug().to_string();
    let row = |m: &Message| {
        let seq = m.seq.map_or("-".to_owned(), |seq| seq.to_string());
        let topic = m.topic.escape_debug().to_string();
        [
            m.message.to_string(),
            topic,
            seq,
            text(&m.id),
            text(&m.from),
            m.qos.to_string(),
            m.bytes.to_string(),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(messages.iter().map(row)).collect();
    aligned(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stand_in_columns_and_their_names_are_escaped() {
        let message = Message {
            message: 7,
            topic: "im/\x1b[m".to_owned(),
            seq: Some(3),
            id: None,
            from: Some("ann".to_owned()),
            qos: 1,
            bytes: 12,
        };
        let expected = [
            "MESSAGE  TOPIC        SEQ  ID  FROM  QOS  BYTES",
            r"7        im/\u{1b}[m  3    -   ann   1    12",
        ];
        assert_eq!(table(&[message]), expected);
    }
}
