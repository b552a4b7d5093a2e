//! `postrider sim`: simulated trucks that run the real device SDK, against a broker or through a scenario.

mod drive;
mod own_broker;
mod real;
mod run;
mod shard_broker;
mod usage;

use std::process::ExitCode;

/// Drive simulated trucks that run the real device SDK against a broker, or run a scenario to its verdict
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SimArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    drive: drive::DriveArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(run::RunArgs),
}

/// Runs a scenario, or a fleet until a signal, its duration, or the last arrival.
pub(crate) async fn run(args: SimArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::Run(args)) => run::run(&args).await,
        None => drive::run(args.drive).await,
    }
}
