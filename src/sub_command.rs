//! `postrider sub`: subscribes and prints like `mosquitto_sub`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use device_sdk::{Client, Event, Events, Incoming, SubscribeFilter, SubscribeOptions};

use crate::connection_args::{ConnectionArgs, Side, qos};
use crate::signals::Signals;
use crate::sub_format::Format;

/// Subscribes and prints what arrives, as `mosquitto_sub` does.
///
/// A message is acknowledged when it is printed, so that with -c what was not printed comes again. MQTT 5 unless -V
/// says otherwise. Exit codes: 0 done or stopped by a signal, 1 failed, 27 the time of -W is over.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct SubArgs {
    /// Topic filter to subscribe to; may be repeated.
    #[arg(short = 't', long = "topic", required_unless_present = "unsubscribe")]
    pub(crate) topics: Vec<String>,

    /// Highest QoS to receive at.
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,

    /// Exit after this many messages.
    #[arg(short = 'C', long)]
    pub(crate) count: Option<u64>,

    /// Exit after this many seconds, with exit code 27.
    #[arg(short = 'W', long)]
    pub(crate) timeout: Option<u64>,

    /// Print the topic before each message.
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,

    /// Do not print retained messages.
    #[arg(short = 'R', long)]
    pub(crate) no_retained: bool,

    /// Print only retained messages, and exit at the first that is not.
    #[arg(long, conflicts_with = "no_retained")]
    pub(crate) retained_only: bool,

    /// Print no line end after a message.
    #[arg(short = 'N', long)]
    pub(crate) no_newline: bool,

    /// Filter of messages not to print; may be repeated.
    #[arg(short = 'T', long)]
    pub(crate) filter_out: Vec<String>,

    /// How to print a message: %t topic, %p payload, %x %X payload in hex, %l its length, %q QoS, %r retain,
    /// %j %J as JSON, %I time (ISO 8601, UTC), %U time (Unix), %P user properties, %C content type, %D correlation data,
    /// %E expiry, %F payload format, %R response topic, %S subscription identifiers, %%; \n, \t, \\ and the like.
    #[arg(short = 'F', long, conflicts_with = "verbose")]
    pub(crate) format: Option<String>,

    /// Exit once the broker has answered the subscriptions.
    #[arg(short = 'E', long)]
    pub(crate) exit_after_subscribe: bool,

    /// Filter to unsubscribe from, in a session kept with -c; may be repeated.
    #[arg(short = 'U', long)]
    pub(crate) unsubscribe: Vec<String>,

    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// mosquitto's exit code for the end of -W.
const TIMED_OUT: u8 = 27;

/// Runs the command.
///
/// # Errors
/// None: what fails is printed (unless `--quiet`) and becomes the exit code.
pub(crate) async fn run(args: SubArgs) -> anyhow::Result<ExitCode> {
    match subscribe(&args).await {
        Ok(code) => Ok(code),
        Err(error) => Ok(args.connection.fail(&error)),
    }
}

async fn subscribe(args: &SubArgs) -> anyhow::Result<ExitCode> {
    let format = match &args.format {
        Some(format) => Format::parse(format)?,
        None if args.verbose => Format::parse("%t %p")?,
        None => Format::parse("%p")?,
    };
    let properties = args.connection.properties(Side::Subscriber)?;
    let mut options = args.connection.options("postrider-sub", &properties)?;
    options.manual_ack = true;
    // From the start, so that a signal at any moment ends the session properly.
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let limit = args.timeout.map(Duration::from_secs);
    let timeout = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };

    let mut client = None;
    let result = tokio::select! {
        result = session(args, options, &properties.subscribe, &format, &mut client) => result,
        _ = signals.next() => Ok(ExitCode::SUCCESS),
        () = timeout => {
            if !args.connection.quiet {
                eprintln!("Timed out");
            }
            Ok(ExitCode::from(TIMED_OUT))
        }
    };
    if let Some(client) = client {
        // A connection that is lost already needs no DISCONNECT.
        let _ = client.disconnect().await;
    }
    result
}

async fn session(
    args: &SubArgs,
    options: device_sdk::Options,
    user_properties: &[(String, String)],
    format: &Format,
    client_slot: &mut Option<Client>,
) -> anyhow::Result<ExitCode> {
    let (client, mut events) = args.connection.connect(options).await?;
    let client = client_slot.insert(client);
    if !args.unsubscribe.is_empty() {
        let filters: Vec<&str> = args.unsubscribe.iter().map(String::as_str).collect();
        let reasons = client.unsubscribe(&filters).await?;
        for (filter, reason) in filters.iter().zip(reasons) {
            args.connection.note(format_args!("unsubscribed {filter}: {}", reason.text()));
        }
    }
    let requested = async {
        if !args.topics.is_empty() {
            request(args, client, user_properties).await?;
        }
        Ok::<_, anyhow::Error>(args.exit_after_subscribe)
    };
    // Messages may come before the answer, and must be taken for the answer to be read.
    let mut printer = Printer { args, format, left: args.count, out: io::stdout() };
    tokio::pin!(requested);
    let early = tokio::select! {
        exit = &mut requested => exit?.then_some(ExitCode::SUCCESS),
        code = printer.print(client, &mut events) => Some(code?),
    };
    match early {
        Some(code) => Ok(code),
        None => printer.print(client, &mut events).await,
    }
}

async fn request(
    args: &SubArgs,
    client: &Client,
    user_properties: &[(String, String)],
) -> anyhow::Result<()> {
    let options = SubscribeOptions { qos: qos(args.qos), ..SubscribeOptions::default() };
    let filters: Vec<SubscribeFilter> =
        args.topics.iter().map(|topic| SubscribeFilter { filter: topic.as_str().into(), options }).collect();
    let properties: Vec<(&str, &str)> =
        user_properties.iter().map(|(name, value)| (&**name, &**value)).collect();
    let reasons = client.subscribe_with(filters, &properties).await?;
    let mut granted = 0;
    for (topic, reason) in args.topics.iter().zip(reasons) {
        let code = reason as u8;
        if reason.is_failure() {
            args.connection
                .warn(format_args!("the broker refused {topic:?}: {} (0x{code:02x})", reason.text()));
        } else {
            granted += 1;
            args.connection.note(format_args!("subscribed {topic}: {} (0x{code:02x})", reason.text()));
        }
    }
    if granted == 0 {
        bail!("the broker refused all subscriptions");
    }
    Ok(())
}

/// Prints messages until there were enough.
struct Printer<'a, W> {
    args: &'a SubArgs,
    format: &'a Format,
    left: Option<u64>,
    out: W,
}

impl<W: Write> Printer<'_, W> {
    async fn print(&mut self, client: &Client, events: &mut Events) -> anyhow::Result<ExitCode> {
        while let Some(event) = events.next().await {
            match event {
                Event::Message(message) => {
                    if let Some(code) = self.message(client, message)? {
                        return Ok(code);
                    }
                }
                Event::Connected { .. } => self.args.connection.note(format_args!("connected again")),
                Event::Disconnected { why, .. } | Event::Refused { why, .. } => {
                    self.args.connection.warn(format_args!("{why}; trying again"));
                }
                Event::SubscriptionRefused { filter, reason } => {
                    self.args
                        .connection
                        .warn(format_args!("the broker refused {filter:?}: {}", reason.text()));
                }
                Event::EntryRefused { .. } | Event::EntriesDropped { .. } => {}
            }
        }
        bail!("the client ended")
    }

    /// Returns an exit code when this was the last message.
    fn message(&mut self, client: &Client, mut message: Incoming) -> anyhow::Result<Option<ExitCode>> {
        let token = message.ack.take();
        let ends = self.args.retained_only && !message.retain;
        let hidden = (self.args.no_retained && message.retain)
            || self.args.filter_out.iter().any(|filter| protocol::filter_matches(filter, &message.topic));
        if !ends && !hidden {
            match self.write(&message) {
                Ok(()) => {}
                // Who reads our output has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Some(ExitCode::SUCCESS));
                }
                Err(error) => return Err(error).context("cannot write to stdout"),
            }
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        if let Some(token) = token {
            client.ack(token);
        }
        Ok((ends || self.left == Some(0)).then_some(ExitCode::SUCCESS))
    }

    fn write(&mut self, message: &Incoming) -> io::Result<()> {
        let mut line = Vec::new();
        if let Err(what) = self.format.render(message, &mut line) {
            self.args.connection.warn(format_args!("message on {}: {what}", message.topic));
            return Ok(());
        }
        if !self.args.no_newline {
            line.push(b'\n');
        }
        self.out.write_all(&line)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: SubArgs,
    }

    fn parse(line: &str) -> Result<SubArgs, String> {
        Line::try_parse_from(line.split_whitespace()).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn mosquittos_flags_are_understood() {
        Line::command().debug_assert();
        let args = parse("sub -h example -t a/+ -t b -q 1 -C 5 -W 3 -v -R -N -V mqttv311 -i me -c").unwrap();
        assert_eq!((args.topics.len(), args.count, args.timeout), (2, Some(5), Some(3)));
        assert!(parse("sub -t a -F %t -x -1 -i me -c -D im-from-seq=first").is_ok());
        assert!(parse("sub -U a -i me -c -E").is_ok());
    }

    #[test]
    fn lines_that_cannot_work_are_refused() {
        for line in ["sub", "sub -t a -v -F %t", "sub -t a -q 7", "sub -t a -c", "sub -t a -V 6"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
