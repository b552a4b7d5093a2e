//! `postrider bridge`: watches vehicles, tells people, takes commands back; `check` and `try` say what a configuration would do.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use bridge::{Bridge, Config, StartError, Told, Trial, record};

use crate::{
    signals::Signals,
    terminal::{misused, say, start_log},
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

/// Longest record that is read, bytes.
const RECORD_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Runs the bridge until SIGTERM or Ctrl-C, or one of its other commands.
pub(crate) async fn run(args: BridgeArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::Check { config }) => check(&config),
        Some(Command::Try { config, device, json, file }) => try_record(&config, &device, json, &file),
        None => serve(args).await,
    }
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
