//! A truck with its connection: the body ticks, the SDK carries.
//!
//! Fixes go through the SDK's disk queue to `dev/{id}/telemetry/gps` at QoS 1. Commands from `dev/{id}/cmd` go through the
//! SDK's command runner to the lock, are acknowledged when they are answered, and a lock that changed is reported, retained,
//! on `dev/{id}/state/reported`.
//!
//! Simulated time runs faster than real time while the truck is on its way, and then as fast: a parked truck shares
//! its time with the people who send it commands. It starts so far in the past that it never is ahead of real time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use device_sdk::commands::{CommandJournal, CommandRunner, Handled, JournalError, Status};
use device_sdk::{
    Client, Event, Events, Incoming, Message, Options, QoS, QueueError, QueueOptions, StartError, TlsOptions,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tracks::LatLon;

use crate::body::{Body, TICK_MS, Tick};
use crate::lock::{Lock, LockRules};
use crate::plan::PlannedTruck;

/// The most bytes of a truck's telemetry on disk: days at a fix a second.
const QUEUE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long the broker keeps the session of a truck that is away, in seconds.
const SESSION_EXPIRY_S: u32 = 24 * 3_600;
/// How long a truck that is stopped may take to say goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// Where trucks connect to and where they keep what they must not lose.
#[derive(Debug, Clone)]
pub struct Link {
    /// Broker as `host:port`.
    pub address: String,
    /// TLS to it; `None` = plain TCP.
    pub tls: Option<TlsOptions>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// A directory with one directory a truck.
    pub data_dir: PathBuf,
    /// How many simulated seconds pass in a real one on the way.
    pub speedup: f64,
    /// Whether the truck stays connected after its arrival.
    pub stay: bool,
}

/// Something that a truck did.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Which truck.
    pub truck: Arc<str>,
    /// What.
    pub step: Step,
}

/// What a truck did.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It is connected.
    Connected,
    /// It is not, or an attempt failed.
    Disconnected {
        /// Why, for people.
        why: String,
    },
    /// It is here. Left out when nobody takes the progress fast enough.
    Position {
        /// Simulated time, milliseconds since the Unix epoch.
        ts_ms: i64,
        /// What its receiver says.
        position: LatLon,
        /// What its receiver says, in metres a second.
        speed_mps: f64,
        /// How far it has really driven, in metres.
        driven_m: f64,
        /// How far its drive is, in metres.
        length_m: f64,
    },
    /// It leaves its route on purpose.
    DetourBegins,
    /// It is back on its route.
    DetourEnds,
    /// It has arrived for good.
    Arrived {
        /// Simulated time, milliseconds since the Unix epoch.
        ts_ms: i64,
        /// Where it really is.
        position: LatLon,
    },
    /// A command has ended.
    Command {
        /// Its id.
        id: String,
        /// How.
        status: Status,
    },
    /// Its lock has changed.
    Lock {
        /// Whether it is open now.
        is_open: bool,
    },
    /// Something is wrong; it goes on.
    Trouble {
        /// What, for people.
        what: String,
    },
}

/// What became of a truck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TruckReport {
    /// Which truck.
    pub id: Arc<str>,
    /// Fixes that are safe on disk or with the broker.
    pub fixes_queued: u64,
    /// Fixes that the queue did not take.
    pub fixes_refused: u64,
    /// Whether it arrived for good.
    pub arrived: bool,
    /// Whether its lock is open.
    pub lock_is_open: bool,
}

/// Why a truck cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TruckError {
    /// The SDK refuses its options or its queue.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The journal of its commands cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// A truck that is connected, or will be.
pub struct Truck {
    id: Arc<str>,
    body: Body,
    lock: Lock,
    client: Client,
    stay: bool,
    tick_every: Duration,
    /// Simulated time, milliseconds since the Unix epoch.
    ts_ms: i64,
    progress: mpsc::Sender<Progress>,
    report: TruckReport,
    listener: tokio::task::JoinHandle<()>,
}

impl Truck {
    /// Opens the truck's queue and journal and begins to connect. Must be called inside a tokio runtime.
    ///
    /// `progress` gets what happens. Nothing but positions is left out: whoever keeps the receiver must take it, or the truck
    /// waits.
    ///
    /// # Errors
    /// The queue or the journal is locked by another process, corrupt or not accessible, or the address is none.
    pub fn start(
        plan: PlannedTruck,
        link: &Link,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Truck, TruckError> {
        let PlannedTruck { id, fence, journey_ms, body, .. } = plan;
        let dir = link.data_dir.join(&*id);
        let journal = CommandJournal::open(&dir.join("commands"))?;
        let (client, events) = Client::spawn(Options {
            username: link.username.clone(),
            password: link.password.clone(),
            session_expiry_s: SESSION_EXPIRY_S,
            // A command is acknowledged when it has been answered, not when it has been received.
            manual_ack: true,
            queue: Some(QueueOptions::new(dir.join("queue"), QUEUE_BYTES_MAX)),
            tls: link.tls.clone(),
            ..Options::new(link.address.clone(), &*id)
        })?;
        let lock = Lock::new(LockRules::inside(fence));
        let runner = CommandRunner::new(client.clone(), &*id, journal, lock.clone());
        let listener = Listener {
            id: id.clone(),
            client: client.clone(),
            lock: lock.clone(),
            lock_was_open: lock.is_open(),
            runner,
            progress: progress.clone(),
        };
        let tick_every = Duration::from_millis(TICK_MS).div_f64(link.speedup);
        let report = TruckReport {
            id: id.clone(),
            fixes_queued: 0,
            fixes_refused: 0,
            arrived: false,
            lock_is_open: false,
        };
        Ok(Truck {
            id,
            body,
            lock,
            client,
            stay: link.stay,
            tick_every,
            ts_ms: start_ts_ms(now_unix_ms(), journey_ms, link.speedup),
            progress,
            report,
            listener: tokio::spawn(listener.run(events)),
        })
    }

    /// Drives until the truck has arrived and all is sent, or until `stop` becomes true or its sender is gone.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> TruckReport {
        tokio::select! {
            () = self.drive() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        let goodbye = async {
            if self.client.disconnect().await.is_err() {
                tracing::debug!(truck = %self.id, "the client had stopped before");
            }
            // Ends with the client's events, after the command in hand.
            if let Err(error) = (&mut self.listener).await {
                tracing::error!(truck = %self.id, %error, "the listener of a truck broke off");
            }
        };
        if timeout(GOODBYE_MAX, goodbye).await.is_err() {
            tracing::warn!(truck = %self.id, "a truck did not end in time, its listener is stopped");
            self.listener.abort();
        }
        self.report.lock_is_open = self.lock.is_open();
        self.report
    }

    async fn drive(&mut self) {
        self.lock.observe(self.ts_ms, None);
        if let Err(error) = self.client.enqueue(state_message(&self.id, &self.lock)).await {
            self.tell(Step::Trouble { what: format!("the state was not queued: {error}") }).await;
        }
        let mut every = ticking(self.tick_every);
        let mut was_on_detour = false;
        loop {
            every.tick().await;
            let ts_ms = self.ts_ms;
            let tick = self.body.tick(ts_ms);
            self.ts_ms += TICK_MS as i64;
            self.lock.observe(ts_ms, tick.fix.as_ref());
            if !self.send_fix(&tick).await {
                return;
            }
            if tick.is_on_detour != was_on_detour {
                was_on_detour = tick.is_on_detour;
                self.tell(if was_on_detour { Step::DetourBegins } else { Step::DetourEnds }).await;
            }
            if tick.is_finished && !self.report.arrived {
                self.report.arrived = true;
                self.tell(Step::Arrived { ts_ms, position: tick.truth.position }).await;
                if !self.stay {
                    self.client.queue_drained().await;
                    return;
                }
                every = ticking(Duration::from_millis(TICK_MS));
            }
        }
    }

    /// Queues the fix of a tick; false when the client has stopped.
    async fn send_fix(&mut self, tick: &Tick) -> bool {
        let Some(fix) = &tick.fix else {
            return true;
        };
        let payload = serde_json::to_vec(fix).expect("a fix is numbers and words with fixed keys");
        let message = Message::new(format!("dev/{}/telemetry/gps", self.id), payload).qos(QoS::AtLeastOnce);
        match self.client.enqueue(message).await {
            Ok(()) => self.report.fixes_queued += 1,
            Err(QueueError::Stopped) => return false,
            Err(error) => {
                self.report.fixes_refused += 1;
                // The first tells it; a full queue refuses one a second.
                if self.report.fixes_refused == 1 {
                    self.tell(Step::Trouble { what: format!("a fix was not queued: {error}") }).await;
                }
            }
        }
        let step = Step::Position {
            ts_ms: fix.ts_ms,
            position: fix.position(),
            speed_mps: fix.speed_mps.unwrap_or(0.0),
            driven_m: tick.driven_m,
            length_m: tick.length_m,
        };
        // The next position is as good; what nobody takes in time is left out.
        let _ = self.progress.try_send(Progress { truck: self.id.clone(), step });
        true
    }

    async fn tell(&self, step: Step) {
        tell(&self.progress, &self.id, step).await;
    }
}

/// Takes what comes to a truck from its broker.
struct Listener {
    id: Arc<str>,
    client: Client,
    lock: Lock,
    lock_was_open: bool,
    runner: CommandRunner<Lock>,
    progress: mpsc::Sender<Progress>,
}

impl Listener {
    async fn run(mut self, mut events: Events) {
        let (client, topic) = (self.client.clone(), format!("dev/{}/cmd", self.id));
        // Not awaited before the events are taken: commands of a resumed session may come first, and fill their channel.
        let subscribe = async move { client.subscribe(&[(topic.as_str(), QoS::AtLeastOnce)]).await };
        tokio::pin!(subscribe);
        let mut subscribed = false;
        loop {
            tokio::select! {
                answer = &mut subscribe, if !subscribed => {
                    subscribed = true;
                    let refused = match answer {
                        Ok(reasons) => reasons.iter().find(|reason| **reason as u8 >= 0x80).map(|reason| reason.text().to_owned()),
                        Err(error) => Some(error.to_string()),
                    };
                    if let Some(why) = refused {
                        self.tell(Step::Trouble { what: format!("no commands will come: {why}") }).await;
                    }
                }
                event = events.next() => match event {
                    Some(event) => self.take(event).await,
                    None => return,
                },
            }
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Connected { .. } => self.tell(Step::Connected).await,
            Event::Disconnected { why, .. } => self.tell(Step::Disconnected { why }).await,
            Event::Refused { why, .. } => {
                self.tell(Step::Disconnected { why: format!("refused: {why}") }).await
            }
            Event::SubscriptionRefused { filter, reason } => {
                let what = format!("no commands will come: {filter} was refused: {}", reason.text());
                self.tell(Step::Trouble { what }).await;
            }
            Event::EntryRefused { topic, why, .. } => {
                self.tell(Step::Trouble { what: format!("the broker refused a message to {topic}: {why}") })
                    .await;
            }
            Event::EntriesDropped { class, reason, count, .. } => {
                let what = format!("{count} {} entries were dropped: {reason:?}", class.name());
                self.tell(Step::Trouble { what }).await;
            }
            Event::Message(incoming) => self.take_message(incoming).await,
        }
    }

    async fn take_message(&mut self, mut incoming: Incoming) {
        let ack = incoming.ack.take();
        match self.runner.handle(&incoming).await {
            Ok(Handled::Ended { id, status }) => {
                // The lock first: it is what the command was for.
                self.report_lock().await;
                self.tell(Step::Command { id, status }).await;
            }
            Ok(Handled::Repeated { id, status }) => {
                tracing::debug!(truck = %self.id, id, ?status, "a command came again and was answered again");
            }
            Ok(Handled::Malformed { why }) => {
                self.tell(Step::Trouble { what: format!("no command: {why}") }).await
            }
            Ok(Handled::NotACommand) => {}
            Err(error) => {
                // Not acknowledged, so that it comes again.
                self.tell(Step::Trouble { what: format!("a command was not taken: {error}") }).await;
                return;
            }
        }
        if let Some(token) = ack {
            self.client.ack(token);
        }
    }

    async fn report_lock(&mut self) {
        let is_open = self.lock.is_open();
        if is_open == self.lock_was_open {
            return;
        }
        self.lock_was_open = is_open;
        if let Err(error) = self.client.enqueue(state_message(&self.id, &self.lock)).await {
            self.tell(Step::Trouble { what: format!("the lock's state was not queued: {error}") }).await;
        }
        self.tell(Step::Lock { is_open }).await;
    }

    async fn tell(&self, step: Step) {
        tell(&self.progress, &self.id, step).await;
    }
}

async fn tell(progress: &mpsc::Sender<Progress>, truck: &Arc<str>, step: Step) {
    // Whoever has dropped the receiver does not want to know.
    let _ = progress.send(Progress { truck: truck.clone(), step }).await;
}

fn state_message(id: &str, lock: &Lock) -> Message {
    Message::new(format!("dev/{id}/state/reported"), lock.report().to_string())
        .qos(QoS::AtLeastOnce)
        .retain(true)
}

fn ticking(every: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + every, every);
    // After a pause no burst: simulated time lags behind, and never runs ahead.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// When a journey must begin in simulated time so that it ends at the real time of its end.
fn start_ts_ms(now_ms: i64, journey_ms: u64, speedup: f64) -> i64 {
    now_ms - (journey_ms as f64 * (1.0 - 1.0 / speedup)).ceil() as i64
}

fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sped_up_journey_is_never_ahead_of_real_time_and_ends_with_it() {
        for speedup in [1.0, 1.5, 20.0, 100.0] {
            let (now_ms, journey_ms) = (1_800_000_000_000, 900_000);
            let start = start_ts_ms(now_ms, journey_ms, speedup);
            let ahead_ms =
                |passed_ms: i64| start + passed_ms - (now_ms + (passed_ms as f64 / speedup) as i64);
            assert!((0..=900).all(|s| ahead_ms(1_000 * s) <= 0), "{speedup}");
            assert!(ahead_ms(900_000) >= -1, "{speedup}");
        }
    }
}
