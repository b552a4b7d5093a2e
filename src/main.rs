//! The `postrider` binary: the command line of every part.
//!
//! Exit codes: 0 done, 1 failed, 2 used or configured wrongly.

mod bans_command;
mod bridge_command;
mod broker_http;
mod certs_command;
mod config_command;
mod connection_args;
mod demo;
mod passwd_command;
mod pub_command;
mod serve;
mod set_aside_command;
mod signals;
mod sim;
mod sub_command;
mod sub_format;
mod terminal;
mod tls_args;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The messaging broker for devices and vehicles: MQTT with the delivery guarantees of instant messaging.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Config(config_command::Args),
    Passwd(passwd_command::Args),
    Certs(certs_command::Args),
    Pub(pub_command::PubArgs),
    Sub(sub_command::SubArgs),
    Bridge(bridge_command::BridgeArgs),
    Bans(bans_command::BansArgs),
    SetAside(set_aside_command::SetAsideArgs),
    Sim(sim::SimArgs),
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Config(args) => config_command::run(args),
        Command::Passwd(args) => passwd_command::run(args),
        Command::Certs(args) => certs_command::run(args),
        Command::Pub(args) => block_on(pub_command::run(args)),
        Command::Sub(args) => block_on(sub_command::run(args)),
        Command::Bridge(args) => block_on(bridge_command::run(args)),
        Command::Bans(args) => block_on(bans_command::run(args)),
        Command::SetAside(args) => block_on(set_aside_command::run(args)),
        Command::Sim(args) => block_on(sim::run(args)),
        Command::Demo(args) => block_on(demo::run(args)),
    }
}

/// Runs a command that is a client: one thread is enough.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|executor| executor.block_on(command));
    match result {
        Ok(code) => code,
        Err(error) if terminal::is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postrider: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
