//! The probes of an adaptive heartbeat: short connections beside the main one, each a client of its own that asks the
//! broker for a message after a silence and waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::QoS;
use protocol::im::IM_NET;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use crate::client::Core;
use crate::heartbeat::{
    Action, HeartbeatStatus, KnownFile, KnownNetwork, PROBE_GRACE_MS, PROBE_SETUP_MS, Probe, ProbeOutcome,
};
use crate::{Client, Event, Events, Options};

/// Where the heartbeat stands, for the handles.
pub(super) type SharedStatus = Arc<Mutex<HeartbeatStatus>>;

struct Running {
    id: u64,
    /// Part of the client identifier: the least that is free.
    slot: usize,
    task: AbortHandle,
}

/// The probes under way, and the file of what was learned.
pub(super) struct Probes {
    /// Those of the main client, where the network and the way are the ones in use; `None` without an adaptive heartbeat.
    options: Option<Options>,
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
            options: adaptive.map(|_| options.clone()),
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
        let probe = Probe { id, after_s };
        let options = probe.options(options, slot);
        let ends = self.ends.clone();
        let task = tokio::spawn(async move {
            let outcome = run(options, probe).await;
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

async fn run(options: Options, probe: Probe) -> ProbeOutcome {
    let Ok((client, mut events)) = Client::spawn(options) else { return ProbeOutcome::Broken };
    let setup = Duration::from_millis(PROBE_SETUP_MS);
    let outcome = match timeout(setup, ask(&client, &mut events, probe)).await {
        Ok(Ok(())) => {
            let limit = Duration::from_secs(probe.after_s.into()) + Duration::from_millis(PROBE_GRACE_MS);
            timeout(limit, hear(&mut events, probe)).await.unwrap_or(ProbeOutcome::Silent)
        }
        Ok(Err(outcome)) => outcome,
        Err(_) => ProbeOutcome::Broken,
    };
    // It has stopped at worst.
    let _ = client.disconnect().await;
    outcome
}

/// Begins the silence.
async fn ask(client: &Client, events: &mut Events, probe: Probe) -> Result<(), ProbeOutcome> {
    if !matches!(events.next().await, Some(Event::Connected { .. })) {
        return Err(ProbeOutcome::Broken);
    }
    let granted = client.subscribe(&[(&probe.filter(), QoS::AtMostOnce)]).await;
    Probe::subscribed(&granted.map_err(|_| ProbeOutcome::Broken)?)?;
    Probe::asked(&client.publish(probe.request()).await)
}

/// Waits for its end.
async fn hear(events: &mut Events, probe: Probe) -> ProbeOutcome {
    loop {
        match events.next().await {
            Some(Event::Message(message)) => {
                if let Some(outcome) = probe.heard(&message) {
                    return outcome;
                }
            }
            Some(Event::Disconnected { .. } | Event::Refused { .. }) | None => return ProbeOutcome::Broken,
            Some(_) => {}
        }
    }
}
