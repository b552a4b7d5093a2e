//! `postrider demo`: the whole system in one process, and its story in the terminal.
//!
//! Broker, bridge and trucks are the real ones, joined by MQTT over loopback. What the terminal shows, and
//! what counts for `--once`, is only what a dispatcher's own MQTT client received from the broker.

mod dispatcher;
mod story;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use bridge::config::{CommandRule, DevicePattern, FenceRule, VehicleRule};
use broker::{Broker, RunningBroker, StartError, config::HostPort};
use firmware_sim::{
    fleet,
    plan::{DetourChoice, FleetOptions, PlannedTruck, TruckOverride},
};
use tokio::sync::{mpsc, oneshot};

use crate::signals::Signals;
use crate::terminal::{is_reader_gone, say};
use dispatcher::Dispatcher;
use story::Story;

/// Show broker, bridge and a few trucks at work in one process
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// End after the story; exit code 0 only if every step of it happened
    #[arg(long)]
    once: bool,
    /// Simulated seconds in a real one while trucks drive
    #[arg(long, default_value_t = 15.0, value_name = "N")]
    speedup: f64,
    /// Where all chance comes from
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Seconds after which --once gives the story up
    #[arg(long, default_value_t = 240, value_name = "SECONDS")]
    timeout: u64,
}

/// The truck that arrives and is unlocked.
const TANKER: &str = "truck-1";
/// The truck that leaves its route.
const WANDERER: &str = "truck-2";
const TRUCKS: u32 = 3;
/// The usual MQTT port; another one is taken when it is in use.
const PORT: u16 = 1883;

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    // From the start, so that a signal at any moment leaves no directory behind.
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let dir =
        tempfile::Builder::new().prefix("postrider-demo-").tempdir().context("cannot make a directory")?;
    let broker = start_broker(dir.path())?;
    let address = mqtt_addr(&broker)?.to_string();

    let options = FleetOptions {
        devices: TRUCKS,
        speedup: args.speedup,
        seed: args.seed,
        overrides: vec![TruckOverride { number: 2, detour: DetourChoice::Clear, ..TruckOverride::default() }],
        ..FleetOptions::new(address.as_str(), dir.path().join("trucks"))
    };
    let plan = options.plan()?;
    let bridge = bridge::Bridge::start(bridge_config(&address, &dir.path().join("bridge"), &plan))?;
    let mut dispatcher = Dispatcher::connect(&address).await?;
    bridge.ready().await;
    introduce(&broker, &plan, args.speedup)?;

    let (progress, mut ignored) = mpsc::channel(fleet::PROGRESS_QUEUED);
    let (stop, stopped) = oneshot::channel::<()>();
    // The story is told by what comes over MQTT, not by what the simulator says of itself.
    tokio::spawn(async move { while ignored.recv().await.is_some() {} });
    let fleet = tokio::spawn(async move {
        fleet::run_planned(&options, plan, progress, async { drop(stopped.await) }).await
    });

    let mut story = Story::new(TANKER, WANDERER, TRUCKS);
    let end = tokio::select! {
        result = tell(&mut dispatcher, &mut story, args.once) => result.map(|()| None),
        () = tokio::time::sleep(Duration::from_secs(args.timeout)), if args.once => Ok(Some("time is up")),
        _ = signals.next() => Ok(Some("stopped")),
    };
    drop(stop);
    let fleet = fleet.await.context("the trucks broke off")?;
    dispatcher.leave().await;
    bridge.stop().await?;
    broker.stop().await?;
    fleet?;
    let why = match end {
        Err(error) if is_reader_gone(&error) => return Ok(ExitCode::SUCCESS),
        end => end?,
    };
    if story.is_over() {
        say(&format!("\nThe story is complete: {} of {} steps.", story.done(), story.done()))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!(
        "\nThe story is not complete ({}). What did not happen:",
        why.unwrap_or("the trucks ended")
    ))?;
    for step in story.missing() {
        say(&format!("  - {step}"))?;
    }
    Ok(if args.once { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Shows what comes and lets the story go on, until it is over (`once`) or for ever.
async fn tell(dispatcher: &mut Dispatcher, story: &mut Story, once: bool) -> anyhow::Result<()> {
    let mut was_over = false;
    loop {
        let heard = dispatcher.hear().await?;
        for line in story.hear(&heard) {
            say(&line)?;
        }
        while let Some(text) = story.next_words() {
            say(&story::line("dispatcher", &format!("writes into im/dispatch: {text}")))?;
            dispatcher.write(&text).await?;
        }
        if story.is_over() && once {
            return Ok(());
        }
        if story.is_over() && !std::mem::replace(&mut was_over, true) {
            say("\nThat was the story; everything keeps running until Ctrl-C.\n")?;
        }
    }
}

fn start_broker(dir: &std::path::Path) -> anyhow::Result<RunningBroker> {
    let mut config = broker::Config::default();
    config.store.data_dir = dir.join("broker");
    config.mqtt.listen = HostPort::new("127.0.0.1", PORT);
    match Broker::start(config.clone()) {
        Err(StartError::Bind(_)) => {
            config.mqtt.listen = HostPort::new("127.0.0.1", 0);
            Ok(Broker::start(config)?)
        }
        started => Ok(started?),
    }
}

/// The bridge watches each truck on the route that its plan has.
fn bridge_config(address: &str, dir: &std::path::Path, plan: &[PlannedTruck]) -> bridge::Config {
    let mut config = bridge::Config::new(address, "bridge", dir);
    let rule = |truck: &PlannedTruck| VehicleRule {
        devices: DevicePattern::Exactly(truck.id.to_string()),
        corridor: Some(Arc::new(truck.route.corridor())),
        fence: Some(FenceRule {
            name: format!("the end of {}", truck.route.name),
            area: truck.arrival.clone(),
        }),
    };
    config.vehicles = plan.iter().map(rule).collect();
    config.commands = vec![CommandRule { name: "unlock".into(), ttl_s: bridge::config::COMMAND_TTL_S }];
    config
}

fn mqtt_addr(broker: &RunningBroker) -> anyhow::Result<std::net::SocketAddr> {
    broker.mqtt_addr().context("the broker does not listen for MQTT")
}

fn introduce(broker: &RunningBroker, plan: &[PlannedTruck], speedup: f64) -> anyhow::Result<()> {
    let address = mqtt_addr(broker)?;
    let port = address.port();
    say(&format!(
        "postrider demo: a broker, a bridge and {} trucks on real roads of Helsinki, {speedup} times as fast",
        plan.len()
    ))?;
    say("(roads: OpenStreetMap contributors, ODbL 1.0)")?;
    say(
        "Each truck's clock starts in the past and meets ours when it arrives; until then alerts say how old they are.\n",
    )?;
    for truck in plan {
        let km = truck.route.line.length_m() / 1000.0;
        let detour = if truck.detour.is_some() { ", and will leave it on the way" } else { "" };
        say(&format!("  {} drives {}, {km:.1} km{detour}", truck.id, truck.route.name))?;
    }
    say(&format!("\nmqtt: listening on {address}"))?;
    if let Some(http) = broker.http_addr() {
        say(&format!("http: listening on {http} (/healthz, /readyz, /metrics)"))?;
    }
    say("\nLook in from another terminal:")?;
    say(&format!("  mosquitto_sub -p {port} -t 'im/#' -v                       # what people see"))?;
    say(&format!("  mosquitto_sub -p {port} -t 'dev/+/telemetry/gps' -v        # what the trucks send"))?;
    say(&format!(
        "  postrider sub -p {port} -t 'im/dispatch' -v                # the same, with our own client"
    ))?;
    say(&format!("  postrider pub -p {port} -i you -q 1 -t im/dispatch -m '/unlock truck-3'\n"))?;
    Ok(())
}
