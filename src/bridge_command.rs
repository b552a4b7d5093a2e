//! `postrider bridge`: watches vehicles, tells people, takes commands back; `check` and `try` say what a configuration would do.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use bridge::{Bridge, Config, Reply, Request, StartError, Told, Trial, Which, record};

use crate::{
    signals::Signals,
    terminal::{aligned, misused, say, start_log},
};
use tracing_subscriber::EnvFilter;

/// Watch vehicles on their routes, tell people in a conversation and through other channels, and take their commands
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BridgeArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration, TOML; configs/bridge.toml is a commented example
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// The broker, instead of the file's broker.address
    #[arg(long, value_name = "HOST:PORT")]
    broker: Option<String>,
    /// Where unsent messages are kept, instead of the file's store.data_dir
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or per module as in postrider_bridge=debug
    #[arg(long, value_name = "FILTER", default_value = "info", env = "POSTRIDER_LOG")]
    log: String,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Read a configuration and say what it means
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// List, send again or drop messages that were given up, in the outbox of a bridge that runs or not
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Say what a recorded track would have sent to whom; nothing is sent
    Try {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Whose track it is, where the record does not say
        #[arg(long, value_name = "ID", default_value = "truck-1")]
        device: String,
        /// Print each message as JSON, one a line
        #[arg(long)]
        json: bool,
        /// The record: GPX with times, or a JSON object a line, a fix or a message as `mosquitto_sub -F %J` prints it
        file: PathBuf,
    },
}

#[derive(Debug, clap::Subcommand)]
enum DeadLetters {
    /// List them, the oldest first
    List {
        #[command(flatten)]
        outbox: OutboxArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send some again
    Replay(WhichArgs),
    /// Forget some
    Drop(WhichArgs),
}

#[derive(Debug, clap::Args)]
struct OutboxArgs {
    /// The bridge's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where its unsent messages are kept, instead of the file's store.data_dir
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct WhichArgs {
    #[command(flatten)]
    outbox: OutboxArgs,
    /// All of them
    #[arg(long, conflicts_with = "numbers")]
    all: bool,
    /// Their numbers, as `list` shows them
    #[arg(required_unless_present = "all")]
    numbers: Vec<u64>,
}

impl WhichArgs {
    fn which(&self) -> Which {
        if self.all { Which::All } else { Which::Numbers(self.numbers.clone()) }
    }
}

/// Longest record that is read, bytes.
const RECORD_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Runs the bridge until SIGTERM or Ctrl-C, or one of its other commands.
pub(crate) async fn run(args: BridgeArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::Check { config }) => check(&config),
        Some(Command::Try { config, device, json, file }) => try_record(&config, &device, json, &file),
        Some(Command::DeadLetters(command)) => dead_letters(command).await,
        None => serve(args).await,
    }
}

async fn dead_letters(command: DeadLetters) -> anyhow::Result<ExitCode> {
    let (outbox, request, as_json) = match command {
        DeadLetters::List { outbox, json } => (outbox, Request::List, json),
        DeadLetters::Replay(args) => {
            let which = args.which();
            (args.outbox, Request::Replay(which), false)
        }
        DeadLetters::Drop(args) => {
            let which = args.which();
            (args.outbox, Request::Drop(which), false)
        }
    };
    let mut config = match Config::load(&outbox.config) {
        Ok(config) => config,
        Err(error) => return Ok(misused(&error.to_string())),
    };
    if let Some(dir) = outbox.data_dir {
        config.data_dir = dir;
    }
    let reply = bridge::dead_letters(config, &request).await?;
    if request == Request::List {
        return list(&reply, as_json);
    }
    let done = if matches!(request, Request::Drop(_)) { "dropped" } else { "in the outbox again" };
    say(&format!("{} {done}", reply.done))?;
    let numbers = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    if !reply.unknown.is_empty() {
        eprintln!("postrider: no dead letter has the number {}", numbers(&reply.unknown));
    }
    if !reply.without_sink.is_empty() {
        eprintln!(
            "postrider: {} went to sinks that are not configured any more",
            numbers(&reply.without_sink)
        );
    }
    let all_done = reply.unknown.is_empty() && reply.without_sink.is_empty();
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(reply: &Reply, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        say(&serde_json::to_string(&reply.letters)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["NO", "SINK", "GIVEN UP", "WHY", "TEXT"].map(str::to_owned);
    let rows = reply.letters.iter().map(|letter| {
        [
            letter.no.to_string(),
            letter.sink.clone(),
            bridge::utc(letter.at_ms),
            letter.why.clone(),
            letter.text.clone(),
        ]
    });
    for line in aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>()) {
        say(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => return Ok(misused(&error.to_string())),
    };
    say(&banner(&config))?;
    for rule in config.rules.iter() {
        let to = if rule.to.is_empty() { "all sinks".to_owned() } else { rule.to.join(", ") };
        say(&format!("rule {}: {} of {} to {to}", rule.name, rule.source, rule.devices))?;
    }
    if config.rules.is_empty() {
        say("no rules: all that is seen is told to the conversation and all sinks")?;
    }
    say(&format!("{} is in order", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn try_record(config: &Path, device: &str, json: bool, file: &Path) -> anyhow::Result<ExitCode> {
    let config = match Config::load(config) {
        Ok(config) => config,
        Err(error) => return Ok(misused(&error.to_string())),
    };
    let records = match read_record(file, device) {
        Ok(records) => records,
        Err(why) => return Ok(misused(&format!("{}: {why}", file.display()))),
    };
    let mut trial = Trial::new(config, records.first().map_or(0, |record| record.at_ms));
    let show = |told: Vec<Told>| -> anyhow::Result<usize> {
        for told in &told {
            say(&if json { to_json(told) } else { to_line(told) })?;
        }
        Ok(told.len())
    };
    let mut count = 0;
    for record in &records {
        count += show(trial.message(record.at_ms, &record.topic, &record.payload))?;
    }
    count += show(trial.finish())?;
    let counts = trial.counts();
    eprintln!(
        "{} messages: {} fixes believed, {} rejected, {} of devices that no [[vehicle]] is for; {} alerts, {} events suppressed; {count} messages would have been sent",
        records.len(),
        counts.fixes,
        counts.fixes_rejected,
        counts.fixes_unwatched,
        counts.alerts,
        counts.alerts_suppressed
    );
    Ok(ExitCode::SUCCESS)
}

fn read_record(file: &Path, device: &str) -> Result<Vec<record::Recorded>, String> {
    let bytes = std::fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(format!("it has {bytes} bytes, the limit is {RECORD_BYTES_MAX}"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))?;
    record::read(&text, device).map_err(|error| error.to_string())
}

fn to_line(told: &Told) -> String {
    let at = bridge::utc(told.at_ms);
    format!("{at}  {:8}  {:12}  {}", told.severity.as_str(), told.to, told.text)
}

fn to_json(told: &Told) -> String {
    serde_json::json!({ "at": told.at_ms, "to": told.to, "message": told.json }).to_string()
}

/// Runs the bridge until SIGTERM or Ctrl-C.
async fn serve(args: BridgeArgs) -> anyhow::Result<ExitCode> {
    let path = args.config.context("the command line has no --config")?;
    let mut config = match Config::load(&path) {
        Ok(config) => config,
        Err(error) => return Ok(misused(&error.to_string())),
    };
    if let Some(address) = args.broker {
        config.broker.address = address;
    }
    if let Some(dir) = args.data_dir {
        config.data_dir = dir;
    }
    let filter = EnvFilter::try_new(&args.log).with_context(|| {
        format!("--log {:?} is no log filter, try info or postrider_bridge=debug", args.log)
    })?;
    start_log(filter);
    // From the start, so that a signal at any moment ends the bridge in order.
    let mut signals = Signals::new().context("cannot listen for signals")?;
    say(&banner(&config))?;
    let mut bridge = match Bridge::start(config) {
        Ok(bridge) => bridge,
        Err(error @ StartError::Client(_)) => return Ok(misused(&error.to_string())),
        Err(error) => return Err(error).context("cannot start the bridge"),
    };
    tokio::select! {
        _ = signals.next() => {}
        ended = bridge.ended() => {
            ended?;
            return Ok(ExitCode::FAILURE);
        }
    }
    let counts = bridge.stop().await?;
    say(&format!(
        "bridge stopped: {} fixes, {} alerts, {} commands, {} messages delivered, {} given up",
        counts.fixes, counts.alerts, counts.commands, counts.delivered, counts.dead_letters
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn banner(config: &Config) -> String {
    let names = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!(
        "bridge to {} as {:?}: vehicles {}; conversation {}; commands {}; sinks {}; outbox in {}",
        config.broker.address,
        config.broker.client_id,
        names(config.vehicles.iter().map(|rule| rule.devices.to_string()).collect()),
        config.dispatch_topic,
        names(config.commands.iter().map(|rule| format!("/{}", rule.name)).collect()),
        names(config.sinks.iter().map(|sink| sink.name.clone()).collect()),
        config.data_dir.display(),
    )
}
