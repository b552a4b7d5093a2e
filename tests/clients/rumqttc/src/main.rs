//! Checks a running broker with rumqttc, in MQTT 3.1.1 and 5.0.
//!
//! Prints `ok NAME` or `FAIL NAME why` a check; exits 1 after a FAIL.

mod checks;
mod client;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use url::Url;

/// Where the broker is and who comes.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// mqtt://, mqtts://, ws:// or wss:// with host and port.
    url: Url,
    /// The authority that the broker's certificate is from.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The client's certificate.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    key: Option<PathBuf>,
    /// The user.
    #[arg(long, requires = "password")]
    user: Option<String>,
    /// The user's password.
    #[arg(long)]
    password: Option<String>,
    /// The user that the broker must know the client as.
    #[arg(long)]
    identity: Option<String>,
    /// Runs checks whose name has this in it.
    #[arg(long, default_value = "")]
    only: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if checks::run(&Args::parse()).await { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
