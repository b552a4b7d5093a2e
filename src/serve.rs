//! `postrider serve`: runs the broker until it is told to end.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use broker::{Broker, Config, Listening, Recovered, RunningBroker, StartError};

use crate::{
    config_command::Settings,
    signals::{Hangups, Signals},
    terminal::{misused, start_log},
};

/// Run the broker
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: Settings,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> ExitCode {
    let loaded = match args.settings.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    // `load` has tried the filter.
    start_log(tracing_subscriber::EnvFilter::new(&loaded.config.log.filter));
    broker::raise_file_limit(loaded.config.mqtt.connections_max);
    let executor = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(executor) => executor,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    executor.block_on(serve(loaded.config))
}

/// Signals closer together than this are one.
const ONE_WISH: std::time::Duration = std::time::Duration::from_millis(500);

async fn serve(config: Config) -> ExitCode {
    // Before anything is started, so that no signal finds the process without its handler.
    let (mut signals, mut hangups) = match Signals::new().and_then(|signals| Ok((signals, Hangups::new()?))) {
        Ok(both) => both,
        Err(error) => return fail(&format!("cannot listen to signals: {error}")),
    };
    let data_dir = config.store.data_dir.display().to_string();
    // Reading a large store takes its time, and a signal must be heard meanwhile.
    let starting = tokio::task::spawn_blocking(|| Broker::start(config));
    let mut broker = tokio::select! {
        started = starting => match started {
            Ok(Ok(broker)) => broker,
            Ok(Err(error @ StartError::Configuration(_))) => return misused(&error.to_string()),
            Ok(Err(error)) => return fail(&error.to_string()),
            Err(error) => return fail(&format!("the start failed: {error}")),
        },
        // The store is as it was: the executor's end would wait for the reading, so the process ends here.
        signal = signals.next() => {
            eprintln!("postrider: stopped by {signal} while starting");
            std::process::exit(1);
        }
    };
    if let Err(error) = announce(&broker, &data_dir) {
        tracing::warn!(%error, "cannot write to stdout");
    }
    let signal = loop {
        tokio::select! {
            error = broker.failed() => return fail(&error.to_string()),
            signal = signals.next() => break signal,
            () = hangups.next() => {
                tracing::info!("SIGHUP: reading users, keys, rules and certificates again");
                broker.reload();
            }
        }
    };
    tracing::info!(signal, "stopping; once more stops at once");
    let again = async {
        // A supervisor may signal the process and then its group: that is one wish, not two.
        while let Ok(_same) = tokio::time::timeout(ONE_WISH, signals.next()).await {}
        signals.next().await
    };
    tokio::select! {
        result = broker.stop() => match result {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error.to_string()),
        },
        // What is acknowledged is in the store: an abrupt end loses nothing.
        signal = again => fail(&format!("stopped at once by a second {signal}")),
    }
}

/// Tells people and scripts where the broker is. The `listening` lines are a stable format.
fn announce(broker: &RunningBroker, data_dir: &str) -> io::Result<()> {
    let Recovered { sessions, messages, retained, log_bytes, took_ms, .. } = broker.recovered();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "postrider: store {data_dir}: {sessions} sessions, {messages} queued and {retained} retained messages \
         from {log_bytes} bytes in {took_ms} ms"
    )?;
    for Listening { name, transport, address } in broker.listeners() {
        match name.as_str() {
            "mqtt" => writeln!(out, "postrider: mqtt listening on {address}")?,
            name => writeln!(out, "postrider: listener {name} ({transport}) listening on {address}")?,
        }
    }
    match broker.http_addr() {
        Some(addr) => writeln!(out, "postrider: http listening on {addr}")?,
        None => writeln!(out, "postrider: http is off")?,
    }
    out.flush()
}

fn fail(what: &str) -> ExitCode {
    eprintln!("postrider: {what}");
    ExitCode::FAILURE
}
