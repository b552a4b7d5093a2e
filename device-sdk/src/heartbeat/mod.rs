//! The heartbeat of the main connection: when to ping, when the connection is dead, and which silence its network survives.
//!
//! A [`Heartbeat`] is a pure state machine: it is told what happens and when, and says what is to be done. It knows no
//! clock, socket, file or randomness. With a fixed Keep Alive it only times PINGREQs. An adaptive one learns: on the
//! way through a carrier's NAT an idle connection is forgotten after a time that nobody tells, so probes on short connections
//! of their own (`$im/probe`) try ever longer silences, and the main connection keeps 0.85 of what two of them survived.
//! docs/keepalive.md tells it for users.

mod known;
mod learner;
mod liveness;
mod probe;
mod round_trip;
mod search;

use std::collections::VecDeque;
use std::path::PathBuf;

use learner::Learner;
use liveness::Liveness;
use round_trip::RoundTrip;

pub use known::{KnownFile, KnownNetwork, NETWORKS_MAX};
pub use learner::Accepted;
use liveness::Sent;
pub use probe::{PROBE_GRACE_MS, PROBE_SETUP_MS, Probe};

/// A silence after which a reset may be the answer of a network that had forgotten the connection, milliseconds.
const RISKY_MS: u64 = 10_000;

/// Learning of the longest heartbeat interval that a network survives, see [`crate::Options::adaptive_keepalive`].
///
/// ```
/// use device_sdk::Options;
/// use device_sdk::heartbeat::AdaptiveKeepalive;
///
/// let mut options = Options::new("broker.example:1883", "truck-7");
/// options.adaptive_keepalive =
///     Some(AdaptiveKeepalive { file: Some("state/networks.json".into()), ..AdaptiveKeepalive::default() });
/// // CONNECT says the longest one; the interval in force is declared as it grows.
/// assert_eq!(options.core_config()?.connect.keep_alive_s, 7_200);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdaptiveKeepalive {
    /// Shortest interval, seconds: the one of an unknown network.
    pub min_s: u16,
    /// Longest silence that is tried, seconds; CONNECT carries it as Keep Alive.
    pub max_s: u16,
    /// Where what was learned is kept over a restart; without it every run of the program learns.
    pub file: Option<PathBuf>,
}

impl Default for AdaptiveKeepalive {
    /// From 15 seconds to 2 hours, without a file.
    fn default() -> Self {
        Self { min_s: 15, max_s: 7_200, file: None }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The other side, or a box on the way, reset it.
    Reset,
    /// Nothing came although it should have.
    Silence,
    /// In any other way.
    Otherwise,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The answer came after the whole silence.
    Survived,
    /// Time was up and no answer had come.
    Silent,
    /// The answer came, but packets had passed meanwhile; the longest silence after them was this, seconds.
    Spoiled {
        /// Whole seconds of silence.
        silent_s: u32,
    },
    /// There was no probe: no connection, or it ended before its time.
    Broken,
    /// The broker refused it.
    Unsupported,
}

/// What a heartbeat wants done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send PINGREQ.
    Ping,
    /// Tell the broker the interval, on `$im/keepalive`.
    Declare {
        /// Seconds.
        interval_s: u32,
    },
    /// Make a probe on a connection of its own; its end is told with [`Heartbeat::probed`].
    StartProbe {
        /// Its name, never used again.
        id: u64,
        /// Its silence, seconds.
        after_s: u32,
    },
    /// End a probe's connection; it is not heard of again.
    StopProbe {
        /// As given.
        id: u64,
    },
    /// The main connection is dead: close it.
    Dead {
        /// How long the broker has been silent, milliseconds.
        silent_ms: u64,
    },
    /// [`Heartbeat::known`] has changed.
    Learned,
}

/// Where a heartbeat stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatStatus {
    /// The name of the network in use, or last used.
    pub net: String,
    /// The longest silence of the connection, milliseconds; 0 = it is not pinged.
    pub interval_ms: u64,
    /// Whether the network's bounds are found.
    pub is_settled: bool,
    /// The silence that was proven on the network, seconds.
    pub proven_s: u32,
    /// Probes under way.
    pub probes: usize,
}

/// The heartbeat of one client, over all its connections.
///
/// ```
/// use device_sdk::heartbeat::{Accepted, Action, Heartbeat};
/// let mut heartbeat = Heartbeat::fixed();
/// heartbeat.connected(0, 40, Accepted { keep_alive_s: 60, ..Accepted::default() });
/// assert_eq!(heartbeat.next_deadline_ms(), Some(60_000));
/// heartbeat.tick(60_000);
/// assert_eq!(heartbeat.poll_action(), Some(Action::Ping));
/// ```
#[derive(Debug)]
pub struct Heartbeat {
    learner: Option<Learner>,
    /// While a connection is up.
    liveness: Option<Liveness>,
    keep_alive_ms: u64,
    net: String,
    declared_s: Option<u32>,
    actions: VecDeque<Action>,
}

impl Heartbeat {
    /// Makes one that keeps the Keep Alive of CONNECT.
    pub fn fixed() -> Self {
        Self {
            learner: None,
            liveness: None,
            keep_alive_ms: 0,
            net: String::new(),
            declared_s: None,
            actions: VecDeque::new(),
        }
    }

    /// Makes one that learns between these bounds, seconds, and begins with what is known.
    ///
    /// ```
    /// use device_sdk::heartbeat::{Accepted, Action, Heartbeat};
    ///
    /// let mut heartbeat = Heartbeat::adaptive(15, 7_200, Vec::new());
    /// heartbeat.connected(0, 40, Accepted { keep_alive_s: 7_200, ..Accepted::default() });
    /// // First it asks whether the broker answers probes at all.
    /// assert_eq!(heartbeat.poll_action(), Some(Action::StartProbe { id: 1, after_s: 1 }));
    /// // Until more is known, the main connection is as silent as the shortest interval.
    /// assert_eq!(heartbeat.status().interval_ms, 15_000);
    /// ```
    pub fn adaptive(min_s: u16, max_s: u16, known: Vec<KnownNetwork>) -> Self {
        Self { learner: Some(Learner::new(min_s.into(), max_s.into(), known)), ..Self::fixed() }
    }

    /// The broker accepted a connection, `round_trip_ms` after it was asked.
    pub fn connected(&mut self, now_ms: u64, round_trip_ms: u64, accepted: Accepted) {
        let mut round_trip = RoundTrip::default();
        round_trip.sample(round_trip_ms);
        self.keep_alive_ms = u64::from(accepted.keep_alive_s) * 1_000;
        self.liveness = Some(Liveness::new(now_ms, round_trip));
        self.declared_s = None;
        self.net.clone_from(&accepted.net);
        if let Some(learner) = &mut self.learner {
            learner.connected(now_ms, accepted);
        }
        self.settle_interval(now_ms);
    }

    /// Something of about so many bytes was sent, other than [`Action::Ping`]. `wants_answer`: the broker owes an
    /// acknowledgement.
    pub fn sent(&mut self, now_ms: u64, bytes: u64, wants_answer: bool) {
        if let Some(liveness) = &mut self.liveness {
            liveness.sent(now_ms, Sent { bytes, wants_answer });
        }
    }

    /// Something came.
    pub fn received(&mut self, now_ms: u64) {
        let Some(liveness) = &mut self.liveness else { return };
        let survived_ms = liveness.received(now_ms);
        if let Some(learner) = &mut self.learner {
            learner.received(now_ms, survived_ms);
            self.settle_interval(now_ms);
        }
    }

    /// The program takes nothing, or takes what comes again.
    pub fn paused(&mut self, now_ms: u64, is_paused: bool) {
        if let Some(liveness) = &mut self.liveness {
            liveness.pause(now_ms, is_paused);
        }
    }

    /// The connection ended. Says whether the next one should be made at once: a network that had only forgotten an idle
    /// connection takes a new one.
    pub fn ended(&mut self, now_ms: u64, ended: Ended) -> bool {
        let Some(liveness) = self.liveness.take() else { return false };
        let risked_ms = match ended {
            Ended::Reset if liveness.is_answer_due(now_ms) => liveness.risked_ms(),
            Ended::Silence => liveness.risked_ms(),
            Ended::Reset | Ended::Otherwise => None,
        };
        if let Some(learner) = &mut self.learner {
            learner.ended(risked_ms);
        }
        self.take_learners_actions(now_ms);
        ended == Ended::Reset && risked_ms.is_some_and(|ms| ms >= RISKY_MS)
    }

    /// A probe ended.
    pub fn probed(&mut self, now_ms: u64, id: u64, outcome: ProbeOutcome) {
        if let Some(learner) = &mut self.learner {
            learner.probed(now_ms, id, outcome);
            self.settle_interval(now_ms);
        }
    }

    /// A deadline of [`Self::next_deadline_ms`] may have passed.
    pub fn tick(&mut self, now_ms: u64) {
        let Some(liveness) = &mut self.liveness else { return };
        if let Some(silent_ms) = liveness.dead_since_ms(now_ms) {
            self.actions.push_back(Action::Dead { silent_ms });
            return;
        }
        if liveness.ping_is_due(now_ms) {
            self.ping(now_ms);
        }
        if let Some(learner) = &mut self.learner {
            learner.tick(now_ms);
            self.settle_interval(now_ms);
        }
    }

    /// Returns the next thing to do, `None` when there is none until something happens.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns when [`Self::tick`] is due.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let liveness = self.liveness.as_ref()?;
        let learner = self.learner.as_ref().and_then(Learner::next_deadline_ms);
        liveness.next_deadline_ms().into_iter().chain(learner).min()
    }

    /// Returns what should be remembered over a restart.
    pub fn known(&self, now_ms: u64) -> Vec<KnownNetwork> {
        self.learner.as_ref().map_or_else(Vec::new, |learner| learner.known(now_ms))
    }

    /// Returns where it stands.
    pub fn status(&self) -> HeartbeatStatus {
        let (is_settled, proven_s) = self.learner.as_ref().map_or((false, 0), Learner::found);
        HeartbeatStatus {
            net: self.net.clone(),
            interval_ms: self.interval_ms(),
            is_settled,
            proven_s,
            probes: self.learner.as_ref().map_or(0, Learner::probes_running),
        }
    }

    fn interval_ms(&self) -> u64 {
        self.learner.as_ref().map_or(self.keep_alive_ms, Learner::interval_ms)
    }

    fn ping(&mut self, now_ms: u64) {
        if let Some(liveness) = &mut self.liveness {
            liveness.pinged(now_ms);
            liveness.sent(now_ms, Sent { bytes: 0, wants_answer: true });
            self.actions.push_back(Action::Ping);
        }
    }

    /// Takes over what the learner wants, and lets the connection keep the interval that it is sure of.
    fn settle_interval(&mut self, now_ms: u64) {
        self.take_learners_actions(now_ms);
        let interval_ms = self.interval_ms();
        let Some(liveness) = &mut self.liveness else { return };
        // [MQTT-3.1.2-20] something goes out within each Keep Alive; after a declaration the broker waits six quarters of it.
        let sending_ms = match (&self.learner, self.keep_alive_ms) {
            (None, keep_alive_ms) => keep_alive_ms,
            (Some(_), 0) => interval_ms * 5 / 4,
            (Some(_), keep_alive_ms) => keep_alive_ms.min(interval_ms * 5 / 4),
        };
        liveness.set_interval(interval_ms, sending_ms);
        let declared_s = u32::try_from(interval_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
        let may_declare = self.learner.as_ref().is_some_and(Learner::may_declare);
        if may_declare && self.declared_s != Some(declared_s) {
            self.declared_s = Some(declared_s);
            self.actions.push_back(Action::Declare { interval_s: declared_s });
        }
    }

    fn take_learners_actions(&mut self, now_ms: u64) {
        let Some(learner) = &mut self.learner else { return };
        let wanted = std::mem::take(&mut learner.actions);
        for action in wanted {
            match action {
                Action::Ping => self.ping(now_ms),
                other => self.actions.push_back(other),
            }
        }
    }
}
