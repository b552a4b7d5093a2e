//! `postrider-gateway FILE`: what runs in the vehicle.
//!
//! Positions of a GPS receiver go through the disk queue to `dev/{device}/telemetry/gps`, commands from `dev/{device}/cmd` to a lock,
//! behind a guard. `postrider-gateway --check FILE` reads the configuration and says what is wrong with it.

mod actuator;
mod boot;
mod config;
mod gateway;
mod state;
mod update;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use device_sdk::ota::Slot;

use config::Config;

const USAGE: &str = "usage: postrider-gateway [--check] FILE\n\nconfigs/gateway.toml shows every setting.";

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .init();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let done = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["--check", file] => read(file).map(|_| println!("{file} is in order")),
        [boot::SLOT, slot, file] if boot::slot(slot).is_some() => {
            read(file).and_then(|config| run(config, boot::slot(slot)))
        }
        [file] if !file.starts_with('-') => read(file).and_then(|config| match &config.update {
            Some(update) => boot::start(update, file).map(|never| match never {}),
            None => run(config, None),
        }),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postrider-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(file: &str) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?;
    Config::parse(&text, Path::new(file).parent().unwrap_or(Path::new("."))).with_context(|| file.to_owned())
}

fn run(config: Config, slot: Option<Slot>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Disk and lock: nobody waits for more than these.
        .max_blocking_threads(4)
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(gateway::run(config, slot))
}
