//! What the gateway does: one task, in which events of the receiver, of the broker and of the lock meet.

use anyhow::Context as _;
use device_sdk::clock::DeviceClock;
use device_sdk::commands::{CommandJournal, CommandRunner, Handled, RunnerOptions};
use device_sdk::guard::{FixFeed, GuardFix, Position};
use device_sdk::serial::{Gps, GpsEvent, GpsFix, LockState};
use device_sdk::{Class, Client, Event, Incoming, Message, QoS};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::actuator::LockActuator;
use crate::config::{COMMANDS_WAITING_MAX, Config};

/// How exactly a receiver's time arrives over a serial line: it speaks for up to a second after its fix.
const GNSS_ERROR_MS: u64 = 1_500;
/// Range error of one satellite's signal in a street, one standard deviation: an accuracy where only HDOP is said.
const UERE_M: f64 = 5.0;
/// The dilution of precision that is assumed where a receiver says none.
const HDOP_UNKNOWN: f64 = 2.0;

type Runner = CommandRunner<LockActuator>;

/// Runs until the process is told to end.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal).into_iter();
    let mut next_signal = || ends.next().context("there are two signals")?.context("signals cannot be taken");
    let (mut terminate, mut interrupt): (Signal, Signal) = (next_signal()?, next_signal()?);

    let (client, mut events) = Client::spawn(config.options()?)?;
    let clock = config.clock();
    let feed = FixFeed::default();
    let (state, mut states) = watch::channel(None);
    let (commands, waiting) = mpsc::channel(COMMANDS_WAITING_MAX);
    if let Some(lock) = &config.lock {
        let journal =
            CommandJournal::open(&config.data_dir.join("commands")).context("the journal of commands")?;
        let guard = lock.guard(&config.device)?.fed_by(feed.clone());
        let options = RunnerOptions { clock: clock.clone(), guard: Some(Box::new(guard)) };
        let actuator = LockActuator::new(lock.line(), state);
        let runner = CommandRunner::with_options(client.clone(), &config.device, journal, actuator, options);
        tokio::spawn(run_commands(runner, client.clone(), waiting));
        // Kept and renewed by the client, whatever the connection does.
        let (client, topic) = (client.clone(), format!("dev/{}/cmd", config.device));
        tokio::spawn(async move {
            match client.subscribe(&[(&topic, QoS::AtLeastOnce)]).await {
                Ok(codes) if codes.iter().any(|code| code.is_failure()) => {
                    tracing::error!(
                        topic,
                        ?codes,
                        "the broker refuses the subscription: no commands will come"
                    );
                }
                Ok(_) => {}
                Err(error) => tracing::error!(topic, %error, "not subscribed: no commands will come"),
            }
        });
    }
    let gateway = Gateway { device: config.device.clone(), client: client.clone(), clock, feed };
    let mut gps = Gps::spawn(config.gps());
    tracing::info!(device = config.device, "the gateway runs");
    loop {
        tokio::select! {
            event = gps.next() => gateway.gps(event.context("the reader of the receiver has ended")?).await,
            event = events.next() => gateway.event(event.context("the client has ended")?, &commands).await,
            changed = states.changed(), if config.lock.is_some() => {
                changed.context("the commands' task has ended")?;
                let state: Option<LockState> = *states.borrow_and_update();
                gateway.report(state).await;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("the gateway ends");
    // What is in the queue is sent when it runs again.
    client.disconnect().await.context("the goodbye to the broker")
}

/// Carries commands out one by one, beside everything else.
async fn run_commands(mut runner: Runner, client: Client, mut waiting: mpsc::Receiver<Incoming>) {
    while let Some(incoming) = waiting.recv().await {
        match runner.handle(&incoming).await {
            Ok(handled) => {
                if let Handled::Ended { id, status } = &handled {
                    tracing::info!(id, ?status, "a command has ended");
                }
                if let Some(token) = incoming.ack {
                    client.ack(token);
                }
            }
            // Not acknowledged: it comes again.
            Err(error) => tracing::error!(%error, "a command was not taken"),
        }
    }
}

struct Gateway {
    device: String,
    client: Client,
    clock: DeviceClock,
    feed: FixFeed,
}

impl Gateway {
    async fn gps(&self, event: GpsEvent) {
        match event {
            GpsEvent::Fix(fix) => self.fix(&fix).await,
            GpsEvent::NoFix => {}
            GpsEvent::Found { baud } => {
                tracing::info!(baud, "the GPS receiver is there");
                self.event_of("gps", json!({ "state": "found", "baud": baud })).await;
            }
            GpsEvent::Lost { why } => {
                tracing::warn!(why, "the GPS receiver is lost");
                self.event_of("gps", json!({ "state": "lost", "why": why })).await;
            }
        }
    }

    async fn fix(&self, fix: &GpsFix) {
        let accuracy_m = fix.accuracy_m.unwrap_or_else(|| fix.hdop.unwrap_or(HDOP_UNKNOWN) * UERE_M);
        self.feed.observe(GuardFix {
            monotonic_ms: self.clock.monotonic_ms(),
            position: Position { lat: fix.lat, lon: fix.lon },
            accuracy_m,
            speed_mps: fix.speed_mps,
        });
        if let Err(error) = u64::try_from(fix.ts_unix_ms)
            .map_err(|_| "it is before 1970".to_owned())
            .and_then(|ts| self.clock.offer_gnss(ts, GNSS_ERROR_MS).map_err(|error| error.to_string()))
        {
            tracing::warn!(error, ts = fix.ts_unix_ms, "the receiver's time is not believed");
        }
        let topic = format!("dev/{}/telemetry/gps", self.device);
        match serde_json::to_vec(fix) {
            Ok(payload) => self.enqueue(Class::Track, topic, payload).await,
            Err(error) => tracing::error!(%error, "a fix cannot be written"),
        }
    }

    async fn event_of(&self, kind: &str, mut what: serde_json::Value) {
        what["ts"] = self.clock.moment().label_unix_ms().into();
        self.enqueue(
            Class::Event,
            format!("dev/{}/event/{kind}", self.device),
            what.to_string().into_bytes(),
        )
        .await;
    }

    async fn enqueue(&self, class: Class, topic: String, payload: Vec<u8>) {
        // Positions share their write with others: nobody stands still for it.
        let accepted = self.client.enqueue_soon(class, Message::new(topic, payload)).await;
        if let Err(error) = accepted {
            tracing::error!(%error, ?class, "the queue does not take it");
        }
    }

    async fn event(&self, event: Event, commands: &mpsc::Sender<Incoming>) {
        match event {
            Event::Message(incoming) => {
                // There is room for all that the broker may send; what another says that sends more is not acknowledged.
                if let Err(error) = commands.try_send(incoming) {
                    tracing::warn!(%error, "a command must wait until the broker sends it again");
                }
            }
            Event::Connected { session_present } => tracing::info!(session_present, "connected"),
            Event::Disconnected { why, retry_in_ms } => tracing::warn!(why, retry_in_ms, "not connected"),
            Event::Refused { why, reason, retry_in_ms } => {
                tracing::error!(
                    why,
                    reason = reason.text(),
                    retry_in_ms,
                    "the broker refuses the connection"
                );
            }
            other => tracing::warn!(event = ?other, "the client says"),
        }
    }

    /// Says where the lock stands on `dev/{device}/state/reported`, retained.
    async fn report(&self, state: Option<LockState>) {
        let Some(state) = state else { return };
        let reported = json!({ "lock": state.to_string(), "at": self.clock.moment().label_unix_ms() });
        let message =
            Message::new(format!("dev/{}/state/reported", self.device), reported.to_string()).retain(true);
        if let Err(error) = self.client.enqueue_as(Class::Event, message).await {
            tracing::error!(%error, "the lock's state was not reported");
        }
    }
}
