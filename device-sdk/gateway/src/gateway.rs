//! What the gateway does: one task, in which events of the receiver, of the broker and of the lock meet.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use device_sdk::clock::DeviceClock;
use device_sdk::commands::{CommandJournal, CommandRunner, Handled, RunnerOptions};
use device_sdk::guard::{FixFeed, GuardFix, Position};
use device_sdk::ota::Slot;
use device_sdk::serial::{Gps, GpsEvent, GpsFix, LockState};
use device_sdk::twin::{Twin, TwinRunner};
use device_sdk::{Class, Client, Event, Incoming, Message, QoS};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::actuator::LockActuator;
use crate::config::{COMMANDS_WAITING_MAX, Config, Update};
use crate::state::{State, Wish};
use crate::update::{self, News, UpdateTask};

/// How exactly a receiver's time arrives over a serial line: it speaks for up to a second after its fix.
const GNSS_ERROR_MS: u64 = 1_500;
/// Range error of one satellite's signal in a street, one standard deviation: an accuracy where only HDOP is said.
const UERE_M: f64 = 5.0;
/// The dilution of precision that is assumed where a receiver says none.
const HDOP_UNKNOWN: f64 = 2.0;

/// The longest wait for a command that is being carried out when the gateway ends.
const LAST_COMMAND_WITHIN: Duration = Duration::from_secs(30);

type Runner = CommandRunner<LockActuator>;

/// Runs until the process is told to end, or another image is to run. The slot is the one it was started from.
pub(crate) async fn run(config: Config, slot: Option<Slot>) -> anyhow::Result<()> {
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt()].map(signal).into_iter();
    let mut next_signal = || ends.next().context("there are two signals")?.context("signals cannot be taken");
    let (mut terminate, mut interrupt): (Signal, Signal) = (next_signal()?, next_signal()?);

    let (client, mut events) = Client::spawn(config.options()?)?;
    let clock = config.clock();
    let feed = FixFeed::default();
    let (state, mut states) = watch::channel(None);
    let (commands, waiting) = mpsc::channel(COMMANDS_WAITING_MAX);
    let command_task = match &config.lock {
        Some(lock) => {
            let guard = lock.guard(&config.device)?.fed_by(feed.clone());
            let journal =
                CommandJournal::open(&config.data_dir.join("commands")).context("the journal of commands")?;
            let options = RunnerOptions { clock: clock.clone(), guard: Some(Box::new(guard)) };
            let actuator = LockActuator::new(lock.line(), state);
            let runner =
                CommandRunner::with_options(client.clone(), &config.device, journal, actuator, options);
            subscribe(&client, runner.topic());
            Some(tokio::spawn(run_commands(runner, client.clone(), waiting)))
        }
        None => None,
    };
    let twin = Twin::open(&config.data_dir.join("twin")).context("the twin")?;
    let twin = Arc::new(TwinRunner::new(client.clone(), &config.device, twin));
    subscribe(&client, twin.topic());
    let (is_connected, connected) = watch::channel(false);
    let (wishes, mut news) = match (&config.update, slot) {
        (Some(update), Some(slot)) => {
            let (wishes, news) = take_updates(update, slot, &clock, &twin, connected)?;
            (Some(wishes), Some(news))
        }
        _ => (None, None),
    };
    let state = State::new(twin, config.twin.interval_s, wishes).await;
    let mut gateway = Gateway {
        device: config.device.clone(),
        client: client.clone(),
        clock,
        feed,
        state,
        sent: None,
        is_connected,
    };
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
            Some(told) = next_news(&mut news) => match told {
                News::State { firmware, end } => gateway.state.updated(firmware, end).await,
                News::Restart => {
                    tracing::info!("another image is to run: the gateway ends to be started again");
                    break;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("the gateway ends");
    drop(commands);
    finish_commands(command_task).await;
    // What is in the queue is sent when it runs again.
    client.disconnect().await.context("the goodbye to the broker")
}

/// Subscribes beside everything else; the client keeps and renews it, whatever the connection does.
fn subscribe(client: &Client, topic: String) {
    let client = client.clone();
    tokio::spawn(async move {
        match client.subscribe(&[(&topic, QoS::AtLeastOnce)]).await {
            Ok(codes) if codes.iter().any(|code| code.is_failure()) => {
                tracing::error!(topic, ?codes, "the broker refuses the subscription: nothing will come");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(topic, %error, "not subscribed: nothing will come"),
        }
    });
}

/// Begins the task that updates; what it says comes by the receiver.
fn take_updates(
    update: &Update,
    slot: Slot,
    clock: &DeviceClock,
    twin: &Arc<TwinRunner>,
    is_connected: watch::Receiver<bool>,
) -> anyhow::Result<(watch::Sender<Wish>, mpsc::Receiver<News>)> {
    let updater = Arc::new(Mutex::new(update::open(update, slot, clock)?));
    let (wishes, wished) = watch::channel(None);
    let (news, told) = mpsc::channel(4);
    let task = UpdateTask {
        updater,
        tls: update.tls(),
        clock: clock.clone(),
        twin: twin.clone(),
        is_connected,
        wishes: wished,
        news,
    };
    tokio::spawn(task.run());
    Ok((wishes, told))
}

async fn next_news(news: &mut Option<mpsc::Receiver<News>>) -> Option<News> {
    match news {
        Some(news) => news.recv().await,
        None => std::future::pending().await,
    }
}

/// Lets the command that is being carried out come to its end: cut off, nobody would know how far it came.
async fn finish_commands(task: Option<JoinHandle<()>>) {
    let Some(task) = task else { return };
    if tokio::time::timeout(LAST_COMMAND_WITHIN, task).await.is_err() {
        tracing::warn!("a command has not come to its end: it will be told as failed");
    }
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
    state: State,
    /// The interval, by the receiver's time, of which a position was sent last.
    sent: Option<i64>,
    is_connected: watch::Sender<bool>,
}

impl Gateway {
    async fn gps(&mut self, event: GpsEvent) {
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

    async fn fix(&mut self, fix: &GpsFix) {
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
        // One of each interval; intervals of the receiver's time, so that none comes late by a little.
        let interval_ms = self.state.interval_s().saturating_mul(1_000);
        let sends = i64::try_from(interval_ms).ok().and_then(|ms| fix.ts_unix_ms.checked_div(ms));
        if sends.is_some() && sends == self.sent {
            return;
        }
        self.sent = sends;
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

    async fn event(&mut self, event: Event, commands: &mpsc::Sender<Incoming>) {
        match event {
            Event::Message(incoming) => {
                match self.state.take(&incoming).await {
                    Ok(false) => {}
                    Ok(true) => return incoming.ack.into_iter().for_each(|token| self.client.ack(token)),
                    // Not acknowledged: it comes again.
                    Err(error) => return tracing::error!(%error, "a wish was not taken"),
                }
                // There is room for all that the broker may send; what another says that sends more is not acknowledged.
                if let Err(error) = commands.try_send(incoming) {
                    tracing::warn!(%error, "a command must wait until the broker sends it again");
                }
            }
            Event::Connected { session_present } => {
                self.is_connected.send_replace(true);
                tracing::info!(session_present, "connected");
            }
            Event::Disconnected { why, retry_in_ms } => {
                self.is_connected.send_replace(false);
                tracing::warn!(why, retry_in_ms, "not connected");
            }
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

    /// Says in the twin where the lock stands.
    async fn report(&self, state: Option<LockState>) {
        let Some(state) = state else { return };
        let at = self.clock.moment().label_unix_ms();
        self.state.report(json!({ "lock": state.to_string(), "at": at })).await;
    }
}
