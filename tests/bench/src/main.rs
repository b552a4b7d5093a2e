//! Compares postrider with other brokers and with a bare relay: CPU time a message, memory a connection, latency.
//!
//! The broker's CPU time is what is compared, not messages per second: it says the same on a machine that
//! others use too, where wall time says nothing. Servers take turns within each round, the median of the
//! rounds is told.

mod clients;
mod flow;
mod frame;
mod peers;
mod plot;
mod relay;
mod report;
mod rows;
mod servers;
mod store;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use protocol::ProtocolVersion;

use crate::{
    peers::Peers,
    report::{Figure, Report},
    rows::Row,
    servers::{Programs, ServerKind},
};

/// Compare postrider with other brokers and a bare relay on this machine
#[derive(Debug, Parser)]
struct Args {
    /// The postrider binary, a release build
    #[arg(long, value_name = "FILE", required_unless_present_any = ["list", "relay"])]
    postrider: Option<PathBuf>,
    /// The mosquitto binary
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/mosquitto")]
    mosquitto: PathBuf,
    /// The nats-server binary
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/nats-server")]
    nats: PathBuf,
    /// Where `tests/bench/peers/install` put the other brokers
    #[arg(long, value_name = "FOLDER", default_value = "target/peers")]
    peers: PathBuf,
    /// Write results.md and results.svg into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Only rows whose name contains one of these
    #[arg(long, value_name = "TEXT", num_args = 1..)]
    rows: Vec<String>,
    /// Only these servers
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "relay,mosquitto,postrider")]
    servers: Vec<ServerKind>,
    /// Rounds; the median is told
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Most seconds of one measurement
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// Most messages delivered in one measurement
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    messages: u64,
    /// MQTT version the clients speak: 3.1.1 or 5
    #[arg(long, value_name = "VERSION", default_value = "3.1.1", value_parser = version)]
    mqtt: ProtocolVersion,
    /// Measure the store instead: durable publishes, and a queue of many messages in many sessions
    #[arg(long)]
    store: bool,
    /// Sessions of the queue that `--store` fills
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    sessions: u64,
    /// Messages in each of them
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    queued: u64,
    /// List the rows and end
    #[arg(long)]
    list: bool,
    /// Be the bare relay with this pattern; the benchmark starts itself so
    #[arg(long, hide = true)]
    relay: Option<relay::Pattern>,
}

fn version(text: &str) -> Result<ProtocolVersion, String> {
    match text {
        "3.1.1" | "3" | "311" => Ok(ProtocolVersion::V311),
        "5" | "5.0" => Ok(ProtocolVersion::V5),
        other => Err(format!("{other:?} is neither 3.1.1 nor 5")),
    }
}

/// What bounds one measurement.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    seconds: f64,
    messages: u64,
    version: ProtocolVersion,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(pattern) = args.relay {
        return relay::run(pattern);
    }
    let rows: Vec<Row> = rows::all()
        .into_iter()
        .filter(|row| args.rows.is_empty() || args.rows.iter().any(|text| row.name.contains(text.as_str())))
        .collect();
    ensure!(!rows.is_empty(), "no row's name contains any of {:?}; --list shows them", args.rows);
    if args.list {
        rows.iter().for_each(|row| println!("{}", row.name));
        return Ok(());
    }
    ensure!(
        args.seconds > 0.0 && args.seconds <= 600.0,
        "--seconds {} is not between 0 and 600",
        args.seconds
    );
    let postrider = args.postrider.context("--postrider is needed")?;
    if args.store {
        servers::raise_file_limit();
        let load = store::Load { sessions: args.sessions, queued: args.queued, seconds: args.seconds };
        return store::run(&postrider, load);
    }
    let peers = Peers { folder: args.peers, mosquitto: args.mosquitto, nats: args.nats };
    let programs = Programs::new(postrider, peers, &args.servers)?;
    servers::raise_file_limit();
    let bounds = Bounds { seconds: args.seconds, messages: args.messages, version: args.mqtt };
    let mut report = Report::default();
    for round in 1..=args.rounds {
        for (at, row) in rows.iter().enumerate() {
            for kind in args.servers.iter().copied().filter(|kind| row.is_for(*kind)) {
                let outcome = row.measure(&programs, kind, bounds);
                report_progress(round, row, kind, &outcome);
                report.add(at, row, kind, outcome);
            }
        }
    }
    let text = report.markdown(&rows, &args.servers, &programs, bounds, args.rounds);
    print!("{text}");
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        std::fs::write(folder.join("results.md"), text)?;
        std::fs::write(folder.join("results.svg"), plot::svg(&report.bars(&rows, &args.servers)))?;
    }
    report.check()
}

fn report_progress(round: u32, row: &Row, kind: ServerKind, outcome: &Result<Vec<Figure>>) {
    match outcome {
        Ok(figures) => {
            for Figure { value, unit, count, wall_s, shares, .. } in figures {
                let shares = shares.map_or(String::new(), |[server, load]| {
                    format!("; cores busy: server {server:.2}, load {load:.2}")
                });
                eprintln!(
                    "round {round}: {}: {kind}: {value:.2} {unit} ({count} in {wall_s:.2} s{shares})",
                    row.name
                );
            }
        }
        Err(error) => eprintln!("round {round}: {}: {kind}: FAILED: {error:#}", row.name),
    }
}
