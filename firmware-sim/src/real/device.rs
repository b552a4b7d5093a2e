//! A device in this process: the SDK's client, disk queue, command journal, clock and guard, with a simulated receiver and lock.
//!
//! When its power goes, its link goes silent first and everything else is dropped, without a word to the broker; the files stay as
//! they are then.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use device_sdk::clock::{ClockRules, DeviceClock};
use device_sdk::commands::{Actuator, Command, CommandJournal, CommandRunner, RunnerOptions};
use device_sdk::guard::FixFeed;
use device_sdk::heartbeat::AdaptiveKeepalive;
use device_sdk::{Backoff, Client, Event, Events, Incoming, Options, QoS, QueueError};
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until};
use tracks::Fix;

use super::books::GivenUp;
use super::life::{Life, Senses, lives};
use super::stage::{Stage, session_expiry_s};
use crate::ledger::Fate;
use crate::lock::{self, LOCK, UNLOCK};
use crate::payload;

/// Messages on their way at a time, as on virtual time.
const IN_FLIGHT_MAX: u16 = 64;
/// How exactly a receiver's time arrives: the firmware may be late by that.
const GNSS_ERROR_MS: u64 = 1_500;
/// How long the files of an earlier life may still be in use.
const RELEASE_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether they are.
const RELEASE_LOOK: Duration = Duration::from_millis(20);

/// Lives a device's lives, until the run ends.
pub(super) async fn live(stage: Arc<Stage>, at: u32, boot_ms: u64) {
    let mut senses = Senses::new(&stage.scenario, at + 1, stage.seed);
    for life in lives(&stage.scenario, stage.seed, at + 1, boot_ms) {
        sleep_until(stage.time.at(life.from_ms)).await;
        senses.switch_on();
        match Firmware::boot(&stage, at).await {
            Ok(firmware) => firmware.run(&mut senses, life).await,
            Err(why) => return stage.break_off(format!("device {} cannot start: {why}", at + 1)),
        }
    }
}

/// What runs while there is power.
struct Firmware<'a> {
    stage: &'a Arc<Stage>,
    at: u32,
    id: String,
    client: Client,
    clock: DeviceClock,
    feed: FixFeed,
    listener: AbortHandle,
    /// What earlier lives gave up.
    given_up_before: GivenUp,
}

impl Drop for Firmware<'_> {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Firmware<'_> {
    /// Opens what is on disk, and begins to connect.
    async fn boot(stage: &Arc<Stage>, at: u32) -> Result<Firmware<'_>, String> {
        let id = stage.id(at);
        let dir = stage.data_dir.join(format!("device-{}", at + 1));
        // A thread of the life before may still hold a file: the machine of a real device is off by then.
        let begun = tokio::time::Instant::now();
        let (journal, (client, events)) = loop {
            let opened = CommandJournal::open(&dir.join("commands")).map_err(|error| error.to_string());
            let opened = opened.and_then(|journal| {
                let spawned = Client::spawn(options(stage, at, &id, &dir));
                spawned.map(|client| (journal, client)).map_err(|error| error.to_string())
            });
            match opened {
                Ok(opened) => break opened,
                Err(_) if begun.elapsed() < RELEASE_MAX => sleep(RELEASE_LOOK).await,
                Err(why) => return Err(why),
            }
        };
        let area = lock::area(&stage.rides[at as usize].journey.fence);
        let area = area.ok_or("its fence is no circle")?;
        let guard = lock::guard(&id, area, lock::MARGIN_ACCURACIES);
        let (clock, feed) = (DeviceClock::new(ClockRules::default()), guard.feed());
        let runner_options = RunnerOptions { clock: clock.clone(), guard: Some(Box::new(guard)) };
        let doors = Doors { stage: stage.clone(), at };
        let runner = CommandRunner::with_options(client.clone(), &*id, journal, doors, runner_options);
        let listener = Listener { id: id.clone(), client: client.clone(), runner };
        let has_commands = !stage.scenario.commands.is_empty();
        let listener = tokio::spawn(listener.run(stage.clone(), events, has_commands)).abort_handle();
        let given_up_before = stage.books().given_up.get(&at).copied().unwrap_or_default();
        Ok(Firmware { stage, at, id, client, clock, feed, listener, given_up_before })
    }

    /// Lives until the power goes.
    async fn run(self, senses: &mut Senses, life: Life) {
        let stage = self.stage;
        let every_ms = stage.scenario.fleet.record_every_ms;
        let (ride, made_until_ms) = (&stage.rides[self.at as usize], stage.scenario.duration_s * 1_000);
        let mut ms = life.from_ms.next_multiple_of(1_000);
        while life.to_ms.is_none_or(|to_ms| ms < to_ms) {
            sleep_until(stage.time.at(ms)).await;
            let fix = senses.observe(&stage.scenario, ride, ms);
            self.observe(fix.as_ref());
            if ride.has_arrived(ms / 1_000) && stage.scenario.expect.arrivals_min.is_some() {
                stage.books().arrived.insert(self.at);
            }
            if let Some(fix) = fix.filter(|_| ms <= made_until_ms && ms.is_multiple_of(every_ms)) {
                self.record(ms, &fix).await;
            }
            self.tell_given_up();
            ms += 1_000;
        }
        sleep_until(stage.time.at(life.to_ms.unwrap_or(ms))).await;
        self.tell_given_up();
        // First the link, so that nothing of what the client's end would say is heard.
        stage.ways[self.at as usize].power_cut();
        stage.books().power_cuts += 1;
    }

    /// The receiver speaks: the clock and the guard are told.
    fn observe(&self, fix: Option<&Fix>) {
        let Some(fix) = fix else { return };
        if let Ok(unix_ms) = u64::try_from(fix.ts_ms + self.stage.shift_ms)
            && let Err(error) = self.clock.offer_gnss(unix_ms, GNSS_ERROR_MS)
        {
            tracing::debug!(%error, "a device does not believe its receiver's time");
        }
        self.feed.observe(lock::guard_fix(fix, self.clock.monotonic_ms()));
    }

    /// Makes a record and gives it to the queue; what becomes of that is written down while time goes on.
    async fn record(&self, ms: u64, fix: &Fix) {
        let (stage, at, fleet) = (self.stage.clone(), self.at, &self.stage.scenario.fleet);
        let number = stage.make(at, ms, fix);
        let message = payload::message(fleet, &self.id, stage.today(number, fix));
        let queued = self.client.enqueue_soon(payload::class(fleet), message).await;
        tokio::spawn(async move {
            let accepted = match queued {
                Ok(pending) => pending.wait().await,
                Err(error) => Err(error),
            };
            match accepted {
                Ok(()) => stage.books().ledger.accepted(at, number),
                // The power went first: it may be on disk or not.
                Err(QueueError::Stopped) => {}
                Err(QueueError::Full { .. }) => stage.books().ledger.given_up(at, number, Fate::Refused),
                Err(error) => stage.break_off(format!("device {}: {error}", at + 1)),
            }
        });
    }

    /// Writes down how many records the queue has given up.
    fn tell_given_up(&self) {
        let Some(dropped) = self.client.queue_status().map(|status| status.dropped) else { return };
        let before = self.given_up_before;
        let expired = before.expired + dropped.expired;
        let given_up = GivenUp { expired, dropped: before.dropped + dropped.thinned + dropped.quota };
        if given_up != before {
            self.stage.books().given_up.insert(self.at, given_up);
        }
    }
}

fn options(stage: &Stage, at: u32, id: &str, dir: &Path) -> Options {
    let fleet = &stage.scenario.fleet;
    let file = Some(dir.join("networks.json"));
    let adaptive = || AdaptiveKeepalive { file, ..AdaptiveKeepalive::default() };
    Options {
        username: stage.username.clone(),
        password: stage.password.clone(),
        session_expiry_s: session_expiry_s(&stage.scenario),
        keep_alive_s: fleet.keep_alive_s,
        adaptive_keepalive: fleet.adaptive_keep_alive.then(adaptive),
        manual_ack: true,
        inflight_max: IN_FLIGHT_MAX,
        backoff: Backoff { min_ms: fleet.backoff_min_ms, max_ms: fleet.backoff_max_ms },
        queue: Some(payload::queue(fleet, dir.join("queue"))),
        ..Options::new(stage.ways[at as usize].address().to_string(), id)
    }
}

/// The lock: what it does is held against the truth.
struct Doors {
    stage: Arc<Stage>,
    at: u32,
}

impl Actuator for Doors {
    fn check(&mut self, command: &Command, _now_unix_ms: u64) -> Result<(), String> {
        match command.name.as_str() {
            UNLOCK | LOCK => Ok(()),
            other => Err(format!("there is no command {other:?}")),
        }
    }

    fn execute(&mut self, command: &Command) -> Result<Value, String> {
        self.stage.fired(self.at, command);
        Ok(json!({ "lock": if command.name == UNLOCK { "open" } else { "closed" } }))
    }
}

/// Takes what comes to a device from its broker.
struct Listener {
    id: String,
    client: Client,
    runner: CommandRunner<Doors>,
}

impl Listener {
    async fn run(mut self, stage: Arc<Stage>, mut events: Events, has_commands: bool) {
        let (client, topic) = (self.client.clone(), format!("dev/{}/cmd", self.id));
        // Not awaited before the events are taken: commands of a resumed session may come first, and fill their channel.
        let subscribe = async move { client.subscribe(&[(topic.as_str(), QoS::AtLeastOnce)]).await };
        tokio::pin!(subscribe);
        let mut subscribes = has_commands;
        loop {
            tokio::select! {
                codes = &mut subscribe, if subscribes => {
                    subscribes = false;
                    if let Ok(codes) = codes && codes.iter().any(|code| code.is_failure()) {
                        return stage.break_off(format!("{}: its subscription was refused: {codes:?}", self.id));
                    }
                }
                event = events.next() => match event {
                    Some(Event::Message(incoming)) => self.carry_out(&stage, incoming).await,
                    Some(Event::EntryRefused { topic, id, why }) => {
                        return stage.break_off(format!("the broker refused record {id} on {topic}: {why}"));
                    }
                    Some(other) => tracing::debug!(device = self.id, event = ?other, "a device"),
                    None => return,
                },
            }
        }
    }

    async fn carry_out(&mut self, stage: &Stage, mut incoming: Incoming) {
        let token = incoming.ack.take();
        match self.runner.handle(&incoming).await {
            Ok(_) => {
                if let Some(token) = token {
                    self.client.ack(token);
                }
            }
            // Not acknowledged: it comes again.
            Err(error) => stage.break_off(format!("{}: a command was not taken: {error}", self.id)),
        }
    }
}
