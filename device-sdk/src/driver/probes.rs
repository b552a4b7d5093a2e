//! The probes of an adaptive heartbeat: short connections beside the main one, each a client of its own that asks the
//! broker for a message after a silence and waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::im::{self, IM_NET, ProbeRequest, ProbeResult, probe_topic};
use protocol::{QoS, ReasonCode};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::client::Core;
use crate::heartbeat::{Action, HeartbeatStatus, KnownFile, KnownNetwork, ProbeOutcome};
use crate::{Client, Event, Events, Message, Options, PublishError, ReachOptions};

/// Longest time for connection, SUBSCRIBE and request.
const SETUP_TIMEOUT_MS: u64 = 20_000;
/// How much later than its silence an answer may come: twice the shortest wait for a ping's.
const GRACE_MS: u64 = 4_000;
/// What the Keep Alive of a probe's connection is above its silence, so that the broker ends what the network forgot.
const KEEP_ALIVE_ABOVE_S: u16 = 60;

/// Where the heartbeat stands, for the handles.
pub(super) type SharedStatus = Arc<Mutex<HeartbeatStatus>>;

struct Running {
    id: u64,
    /// Part of the client identifier: the least that is free, so that the broker sees few.
    slot: usize,
    task: AbortHandle,
}

/// The probes under way, and the file of what was learned.
pub(super) struct Probes {
    /// What a probe's client is made of; `None` without an adaptive heartbeat.
    options: Option<Options>,
    client_id: String,
    file: Option<KnownFile>,
    saves: u64,
    saving: Option<JoinHandle<()>>,
    status: SharedStatus,
    running: Vec<Running>,
    ended: mpsc::UnboundedReceiver<(u64, ProbeOutcome)>,
    // One message a probe, of which few are under way: the channel is bounded by them.
    ends: mpsc::UnboundedSender<(u64, ProbeOutcome)>,
}

impl Probes {
    pub(super) fn new(options: &Options, status: SharedStatus) -> Self {
        let (ends, ended) = mpsc::unbounded_channel();
        let adaptive = options.adaptive_keepalive.as_ref();
        Self {
            options: adaptive.map(|_| probe_options(options)),
            client_id: options.client_id.clone(),
            file: adaptive.and_then(|adaptive| adaptive.file.clone()).map(KnownFile::new),
            saves: 0,
            saving: None,
            status,
            running: Vec::new(),
            ended,
            ends,
        }
    }

    /// Reads what earlier runs learned.
    pub(super) fn known(&self) -> Vec<KnownNetwork> {
        self.file.as_ref().map_or_else(Vec::new, KnownFile::load)
    }

    /// Probes go the way of the main connection.
    pub(super) fn way_is(&mut self, address: &str) {
        if let Some(options) = &mut self.options {
            address.clone_into(&mut options.address);
        }
    }

    /// Probes tell the broker the network, as the main connection does.
    pub(super) fn network_is(&mut self, network: &str) {
        if let Some(options) = &mut self.options {
            options.user_properties.retain(|(name, _)| name != IM_NET);
            options.user_properties.push((IM_NET.to_owned(), network.to_owned()));
        }
    }

    pub(super) fn act(&mut self, action: Action, core: &Core, now_ms: u64) {
        match action {
            Action::StartProbe { id, after_s } => self.start(id, after_s),
            Action::StopProbe { id } => {
                if let Some(at) = self.running.iter().position(|running| running.id == id) {
                    self.running.swap_remove(at).task.abort();
                }
            }
            Action::Learned => self.save(core.known_networks(now_ms)),
            // The core does these itself.
            Action::Ping | Action::Declare { .. } | Action::Dead { .. } => {}
        }
    }

    fn start(&mut self, id: u64, after_s: u32) {
        let Some(options) = &self.options else { return };
        let slot = (1..).find(|slot| self.running.iter().all(|running| running.slot != *slot));
        let slot = slot.expect("few probes are under way");
        let mut options = options.clone();
        if !self.client_id.is_empty() {
            options.client_id = format!("{}-probe{slot}", self.client_id);
        }
        let keep_alive_s = u16::try_from(after_s).unwrap_or(u16::MAX);
        options.keep_alive_s = keep_alive_s.saturating_add(KEEP_ALIVE_ABOVE_S);
        let ends = self.ends.clone();
        let task = tokio::spawn(async move {
            let outcome = probe(options, id, after_s).await;
            tracing::debug!(after_s, ?outcome, "a probe has ended");
            // The driver may have gone.
            let _ = ends.send((id, outcome));
        });
        self.running.push(Running { id, slot, task: task.abort_handle() });
    }

    /// Waits for the end of a probe. May be cancelled without loss.
    pub(super) async fn next(&mut self) -> (u64, ProbeOutcome) {
        loop {
            let Some((id, outcome)) = self.ended.recv().await else { return std::future::pending().await };
            // One that was stopped may have ended before.
            if let Some(at) = self.running.iter().position(|running| running.id == id) {
                self.running.swap_remove(at);
                return (id, outcome);
            }
        }
    }

    /// Shows the handles where the heartbeat stands.
    pub(super) fn show(&self, core: &Core) {
        if self.options.is_some() {
            let status = core.heartbeat_status();
            let mut shown = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            if *shown != status {
                tracing::debug!(
                    interval_ms = status.interval_ms,
                    is_settled = status.is_settled,
                    "heartbeat"
                );
                *shown = status;
            }
        }
    }

    fn save(&mut self, known: Vec<KnownNetwork>) {
        let Some(file) = self.file.clone() else { return };
        self.saves += 1;
        let number = self.saves;
        self.saving = Some(tokio::task::spawn_blocking(move || file.save(number, &known)));
    }

    /// Waits until what was learned last is kept.
    pub(super) async fn saved(&mut self) {
        if let Some(saving) = self.saving.take() {
            // It does not panic, and nobody aborts it.
            let _ = saving.await;
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for running in &self.running {
            running.task.abort();
        }
    }
}

/// The options of the main client without what makes it one: its session, will, queue and learning.
fn probe_options(options: &Options) -> Options {
    Options {
        clean_start: true,
        session_expiry_s: 0,
        adaptive_keepalive: None,
        will: None,
        manual_ack: false,
        queue: None,
        received_dir: None,
        // The address in use is a full one, which stands for one way.
        reach: ReachOptions { alternatives: Vec::new(), memory_file: None, ..options.reach.clone() },
        ..options.clone()
    }
}

async fn probe(options: Options, id: u64, after_s: u32) -> ProbeOutcome {
    let Ok((client, mut events)) = Client::spawn(options) else { return ProbeOutcome::Broken };
    let setup = Duration::from_millis(SETUP_TIMEOUT_MS);
    let outcome = match timeout(setup, ask(&client, &mut events, id, after_s)).await {
        Ok(Ok(())) => {
            let limit = Duration::from_secs(after_s.into()) + Duration::from_millis(GRACE_MS);
            timeout(limit, hear(&mut events, id)).await.unwrap_or(ProbeOutcome::Silent)
        }
        Ok(Err(outcome)) => outcome,
        Err(_) => ProbeOutcome::Broken,
    };
    // It has stopped at worst.
    let _ = client.disconnect().await;
    outcome
}

/// Begins the silence.
async fn ask(client: &Client, events: &mut Events, id: u64, after_s: u32) -> Result<(), ProbeOutcome> {
    if !matches!(events.next().await, Some(Event::Connected { .. })) {
        return Err(ProbeOutcome::Broken);
    }
    let id = id.to_string();
    let granted = client.subscribe(&[(&probe_topic(&id), QoS::AtMostOnce)]).await;
    if granted.map_err(|_| ProbeOutcome::Broken)?.first().is_none_or(|code| code.is_failure()) {
        return Err(ProbeOutcome::Unsupported);
    }
    let request = ProbeRequest { id, after_s };
    let payload = serde_json::to_vec(&request).expect("a string and a number are JSON");
    let message = Message::new(im::PROBE_TOPIC, payload).qos(QoS::AtLeastOnce);
    match client.publish(message).await {
        // "No matching subscribers" is what a broker says that forwards it like any other message.
        Ok(published) if published.reason == ReasonCode::NoMatchingSubscribers => {
            Err(ProbeOutcome::Unsupported)
        }
        Ok(_) => Ok(()),
        Err(PublishError::Refused { .. }) => Err(ProbeOutcome::Unsupported),
        Err(_) => Err(ProbeOutcome::Broken),
    }
}

/// Waits for its end.
async fn hear(events: &mut Events, id: u64) -> ProbeOutcome {
    let topic = probe_topic(&id.to_string());
    loop {
        match events.next().await {
            Some(Event::Message(message)) if message.topic == topic => {
                return match serde_json::from_slice::<ProbeResult>(&message.payload) {
                    // Nobody knows when; nothing is proven.
                    Ok(result) if result.spoiled => ProbeOutcome::Spoiled { silent_s: 0 },
                    Ok(_) => ProbeOutcome::Survived,
                    Err(_) => ProbeOutcome::Unsupported,
                };
            }
            Some(Event::Disconnected { .. } | Event::Refused { .. }) | None => return ProbeOutcome::Broken,
            Some(_) => {}
        }
    }
}
