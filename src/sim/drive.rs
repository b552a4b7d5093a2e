//! `postrider sim --devices N`: a seeded fleet of simulated trucks against any broker.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use firmware_sim::{
    fleet,
    plan::{DetourChoice, FleetOptions, TruckOverride},
    route,
    truck::{Progress, Step},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    signals::Signals,
    terminal::{misused, say},
    tls_args::TlsArgs,
};

/// What drives against a broker.
#[derive(Debug, clap::Args)]
pub(super) struct DriveArgs {
    /// How many trucks: truck-1, truck-2 ...
    #[arg(long, default_value_t = 1, value_name = "N")]
    devices: u32,
    /// GeoJSON or GPX file with the routes, given out in turn; without it the built-in roads of Helsinki
    #[arg(long, value_name = "FILE")]
    route: Option<PathBuf>,
    /// Where all chance comes from: the same seed gives the same places and the same GPS noise
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The broker
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "HOST:PORT", env = "POSTRIDER_BROKER")]
    broker: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// User name of all trucks
    #[arg(long, short = 'u', value_name = "NAME")]
    username: Option<String>,
    /// Password of all trucks
    #[arg(long, short = 'P', env = "POSTRIDER_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Names are this and a number
    #[arg(long, default_value = "truck-", value_name = "NAME")]
    prefix: String,
    /// Where the trucks keep their queues and command journals
    #[arg(long, default_value = "./postrider-sim", value_name = "DIR")]
    data_dir: PathBuf,
    /// Simulated seconds in a real one while trucks drive, 1 to 100
    #[arg(long, default_value_t = 1.0, value_name = "N")]
    speedup: f64,
    /// Drives of each truck: there, back, there ...
    #[arg(long, default_value_t = 1, value_name = "N")]
    trips: u32,
    /// Trucks (by number) that leave their route on the way
    #[arg(long, value_name = "NUMBER")]
    detour: Vec<u32>,
    /// End when all have arrived, instead of staying connected for commands
    #[arg(long)]
    leave: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// Print no positions
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the fleet until a signal, its duration, or (with --leave) the last arrival.
pub(super) async fn run(args: DriveArgs) -> anyhow::Result<ExitCode> {
    let routes = match &args.route {
        Some(path) => match route::load(path) {
            Ok(routes) => routes,
            Err(error) => return Ok(misused(&error.to_string())),
        },
        None => route::builtin(),
    };
    let detours = args.detour.iter().map(|&number| TruckOverride {
        number,
        detour: DetourChoice::Clear,
        ..TruckOverride::default()
    });
    let options = FleetOptions {
        devices: args.devices,
        prefix: args.prefix,
        seed: args.seed,
        routes,
        tls: args.tls.options(),
        username: args.username,
        password: args.password.map(String::into_bytes),
        speedup: args.speedup,
        trips: args.trips,
        stay: !args.leave,
        duration_max: args.duration.map(Duration::from_secs),
        overrides: detours.collect(),
        ..FleetOptions::new(args.broker, args.data_dir)
    };
    let plan = match options.plan() {
        Ok(plan) => plan,
        Err(error) => return Ok(misused(&error.to_string())),
    };
    let (trucks, address, seed, speedup) = (plan.len(), &options.address, options.seed, options.speedup);
    say(&format!("{trucks} devices, broker {address}, seed {seed}, {speedup} times as fast"))?;
    for truck in &plan {
        let km = truck.route.line.length_m() / 1000.0;
        say(&format!("  {} drives {}, {km:.1} km", truck.id, truck.route.name))?;
    }
    let (progress, received) = mpsc::channel(fleet::PROGRESS_QUEUED);
    let (showing, reader_gone) = oneshot::channel();
    let shown = tokio::spawn(show(received, args.quiet, showing));
    let mut signals = Signals::new()?;
    let stop = async {
        tokio::select! {
            _ = signals.next() => {}
            _ = reader_gone => {}
        }
    };
    let report = fleet::run_planned(&options, plan, progress, stop).await?;
    shown.await?;
    for truck in &report.trucks {
        let place = if truck.arrived { "arrived" } else { "on its way" };
        let lock = if truck.lock_is_open { "open" } else { "closed" };
        let (safe, refused) = (truck.fixes_queued, truck.fixes_refused);
        say(&format!("{}: {safe} fixes safe, {refused} refused, {place}, lock {lock}", truck.id))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what happens until the fleet ends or nobody reads any more; `showing` is dropped then.
async fn show(mut progress: mpsc::Receiver<Progress>, quiet: bool, showing: oneshot::Sender<()>) {
    while let Some(Progress { truck, step }) = progress.recv().await {
        if matches!(step, Step::Position { .. }) && quiet {
            continue;
        }
        if say(&format!("{truck}: {}", words(step))).is_err() {
            break;
        }
    }
    drop(showing);
}

fn words(step: Step) -> String {
    match step {
        Step::Position { position, speed_mps, driven_m, length_m, .. } => format!(
            "{:.5} {:.5}, {:.0} km/h, {:.1} of {:.1} km",
            position.lat,
            position.lon,
            speed_mps * 3.6,
            driven_m / 1000.0,
            length_m / 1000.0
        ),
        Step::Connected => "connected".to_owned(),
        Step::Disconnected { why } => format!("not connected: {why}"),
        Step::DetourBegins => "leaves its route".to_owned(),
        Step::DetourEnds => "is back on its route".to_owned(),
        Step::Arrived { .. } => "arrived".to_owned(),
        Step::Command { id, status } => format!("command {id} ended: {status:?}"),
        Step::Lock { is_open } => format!("lock {}", if is_open { "open" } else { "closed" }),
        Step::Trouble { what } => what,
    }
}
