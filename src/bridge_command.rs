//! `postrider bridge`: watches vehicles, tells people, takes commands back.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use bridge::{Bridge, Config, StartError};

use crate::{
    signals::Signals,
    terminal::{misused, say, start_log},
};
use tracing_subscriber::EnvFilter;

/// Watch vehicles on their routes, tell people in a conversation and through other channels, and take their commands
#[derive(Debug, clap::Args)]
pub(crate) struct BridgeArgs {
    /// The configuration, TOML; configs/bridge.toml is a commented example
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
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

/// Runs the bridge until SIGTERM or Ctrl-C.
pub(crate) async fn run(args: BridgeArgs) -> anyhow::Result<ExitCode> {
    let mut config = match Config::load(&args.config) {
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
