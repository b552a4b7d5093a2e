//! `postrider pub`: publishes like `mosquitto_pub`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use device_sdk::{Client, Event, Events, Message, Pending, PublishProperties, Published};
use tokio::sync::mpsc;

use crate::connection_args::{ConnectionArgs, Side, qos};

/// Publishes messages, as `mosquitto_pub` does, and ends when the broker has acknowledged them.
///
/// At QoS 1 and 2 the exit code is 0 only if the broker accepted every message. MQTT 5 unless -V says otherwise.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true)]
#[group(id = "payload", required = true, multiple = false, args = ["message", "file", "stdin_file", "stdin_line", "null_message"])]
pub(crate) struct PubArgs {
    /// Topic to publish to.
    #[arg(short = 't', long)]
    pub(crate) topic: String,

    /// Delivery guarantee: 0 at most once, 1 at least once, 2 exactly once.
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,

    /// Let the broker retain the message.
    #[arg(short = 'r', long)]
    pub(crate) retain: bool,

    /// The message.
    #[arg(short = 'm', long, allow_hyphen_values = true)]
    pub(crate) message: Option<String>,

    /// Send a file's content as one message.
    #[arg(short = 'f', long)]
    pub(crate) file: Option<PathBuf>,

    /// Send all of stdin as one message.
    #[arg(short = 's', long)]
    pub(crate) stdin_file: bool,

    /// Send each line of stdin as a message.
    #[arg(short = 'l', long)]
    pub(crate) stdin_line: bool,

    /// Send an empty message.
    #[arg(short = 'n', long)]
    pub(crate) null_message: bool,

    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// Largest payload: what MQTT can say, less the largest topic.
const PAYLOAD_BYTES_MAX: u64 = 268_435_455 - 65_536 - 64;
/// Lines read ahead of the connection.
const LINES_AHEAD_MAX: usize = 64;
/// Publishes without acknowledgement that are kept track of.
const PENDING_MAX: usize = 1_000;
/// Connections that may break one after another without any message getting through.
const FRUITLESS_RECONNECTS_MAX: u32 = 5;

/// Runs the command.
///
/// # Errors
/// None: what fails is printed (unless `--quiet`) and becomes the exit code.
pub(crate) async fn run(args: PubArgs) -> anyhow::Result<ExitCode> {
    match publish_all(&args).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(args.connection.fail(&error)),
    }
}

async fn publish_all(args: &PubArgs) -> anyhow::Result<()> {
    let properties = args.connection.properties(Side::Publisher)?;
    // A missing file is told before anything is sent.
    let whole = whole_payload(args)?;
    let options = args.connection.options("postrider-pub", &properties)?;
    let (client, mut events) = args.connection.connect(options).await?;
    let result = tokio::select! {
        result = send(args, &client, whole, &properties.publish) => result,
        why = gives_up(args, &mut events) => Err(why),
    };
    // A connection that is lost already needs no DISCONNECT.
    let _ = client.disconnect().await;
    result
}

async fn send(
    args: &PubArgs,
    client: &Client,
    whole: Option<Vec<u8>>,
    properties: &PublishProperties,
) -> anyhow::Result<()> {
    let message = |payload: Vec<u8>| Message {
        properties: properties.clone(),
        ..Message::new(args.topic.clone(), payload).qos(qos(args.qos)).retain(args.retain)
    };
    let Some(payload) = whole else { return send_lines(args, client, message).await };
    let published = client.publish(message(payload)).await?;
    note(args, &published);
    Ok(())
}

async fn send_lines(
    args: &PubArgs,
    client: &Client,
    message: impl Fn(Vec<u8>) -> Message,
) -> anyhow::Result<()> {
    let mut lines = stdin_lines();
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut failed = 0_u64;
    let mut settle = |args: &PubArgs, result| match result {
        Ok(published) => note(args, &published),
        Err(error) => {
            failed += 1;
            args.connection.warn(format_args!("{error}"));
        }
    };
    while let Some(line) = lines.recv().await {
        pending.push_back(client.submit(message(line?)).await?);
        if pending.len() >= PENDING_MAX
            && let Some(oldest) = pending.pop_front()
        {
            settle(args, oldest.wait().await);
        }
    }
    for pending in pending {
        settle(args, pending.wait().await);
    }
    if failed > 0 { Err(anyhow!("{failed} messages were not published")) } else { Ok(()) }
}

/// Reads stdin on a thread of its own: it may be a terminal, and the process may end before its next line.
fn stdin_lines() -> mpsc::Receiver<anyhow::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD_MAX);
    std::thread::spawn(move || {
        let mut stdin = BufReader::new(std::io::stdin());
        while let Some(line) = next_line(&mut stdin).transpose() {
            let failed = line.is_err();
            if sender.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

fn next_line(stdin: &mut impl BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let count = stdin.take(PAYLOAD_BYTES_MAX + 2).read_until(b'\n', &mut line).context("reading stdin")?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    check_size(line.len() as u64, "a line of stdin")?;
    Ok((count > 0).then_some(line))
}

/// Returns the one message's payload, `None` when lines are to be read.
fn whole_payload(args: &PubArgs) -> anyhow::Result<Option<Vec<u8>>> {
    if args.stdin_line {
        return Ok(None);
    }
    if let Some(message) = &args.message {
        return Ok(Some(message.clone().into_bytes()));
    }
    if let Some(path) = &args.file {
        return read_file(path).map(Some);
    }
    if args.stdin_file {
        return read_all(std::io::stdin(), "stdin").map(Some);
    }
    Ok(Some(Vec::new()))
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {name}"))?;
    read_all(file, &name)
}

fn read_all(source: impl Read, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut payload = Vec::new();
    source
        .take(PAYLOAD_BYTES_MAX + 1)
        .read_to_end(&mut payload)
        .with_context(|| format!("cannot read {name}"))?;
    check_size(payload.len() as u64, name)?;
    Ok(payload)
}

fn check_size(bytes: u64, name: &str) -> anyhow::Result<()> {
    if bytes > PAYLOAD_BYTES_MAX {
        bail!("{name} has more than {PAYLOAD_BYTES_MAX} bytes, no MQTT message can");
    }
    Ok(())
}

/// Returns when reconnecting has turned out to lead nowhere.
async fn gives_up(args: &PubArgs, events: &mut Events) -> anyhow::Error {
    let mut fruitless = 0;
    while let Some(event) = events.next().await {
        match event {
            Event::Disconnected { why, .. } | Event::Refused { why, .. } => {
                fruitless += 1;
                if fruitless >= FRUITLESS_RECONNECTS_MAX {
                    return anyhow!("gave up after {fruitless} lost connections: {why}");
                }
                args.connection.warn(format_args!("{why}; trying again"));
            }
            Event::Connected { .. } => args.connection.note(format_args!("connected again")),
            _ => {}
        }
    }
    anyhow!("the client ended")
}

fn note(args: &PubArgs, published: &Published) {
    let answer = match args.qos {
        0 => "written",
        1 => "PUBACK",
        _ => "PUBCOMP",
    };
    let seq = published.seq.map(|seq| format!(", im-seq {seq}")).unwrap_or_default();
    let id = published.id.as_ref().map(|id| format!(", im-id {id}")).unwrap_or_default();
    let duplicate = if published.duplicate { ", a duplicate" } else { "" };
    let code = published.reason as u8;
    args.connection
        .note(format_args!("{answer}: {} (0x{code:02x}){seq}{id}{duplicate}", published.reason.text()));
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PubArgs,
    }

    fn parse(line: &str) -> Result<PubArgs, String> {
        Line::try_parse_from(line.split_whitespace()).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn mosquittos_flags_are_understood() {
        Line::command().debug_assert();
        let args =
            parse("pub -h example -p 1884 -t a -q 2 -r -m hi -V 311 -i me -c -u u -P p -D a=b").unwrap();
        assert_eq!((args.connection.host.as_str(), args.connection.port), ("example", Some(1884)));
        assert_eq!((args.qos, args.retain, args.message.as_deref()), (2, true, Some("hi")));
        assert!(parse("pub -t a -l -D publish user-property k v -d").is_ok());
        assert!(parse("pub -t a -m -5").is_ok());
    }

    #[test]
    fn lines_that_cannot_work_are_refused() {
        for line in [
            "pub -t a",
            "pub -m x",
            "pub -t a -m x -n",
            "pub -t a -m x -q 3",
            "pub -t a -m x -P p",
            "pub -t a -n -c",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn lines_end_at_line_feeds_and_the_last_needs_none() {
        let mut stdin = &b"a\n\nb c"[..];
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut stdin).unwrap() {
            lines.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(lines, ["a", "", "b c"]);
    }
}
