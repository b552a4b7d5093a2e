//! One connection: its state, what the broker allows on it, and whether it is alive.

use protocol::{ConnAckProperties, ProtocolVersion, QoS};

/// Where the connection stands.
#[derive(Debug)]
pub(super) enum Link {
    /// None.
    Down,
    /// CONNECT was sent.
    AwaitingConnAck { deadline_ms: u64 },
    /// Accepted.
    Up(Up),
}

#[derive(Debug)]
pub(super) struct Up {
    pub(super) limits: Limits,
    pub(super) liveness: Liveness,
}

impl Link {
    pub(super) fn up(limits: Limits, liveness: Liveness) -> Self {
        Self::Up(Up { limits, liveness })
    }
}

/// What the broker takes, from CONNACK.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) version: ProtocolVersion,
    /// Most QoS 1/2 publishes without their last acknowledgement [MQTT-3.3.4-7].
    pub(super) inflight_max: usize,
    /// Largest packet [MQTT-3.2.2-15].
    pub(super) packet_bytes_max: Option<u32>,
    pub(super) qos_max: QoS,
    pub(super) retain: bool,
}

impl Limits {
    pub(super) fn new(properties: &ConnAckProperties, inflight_max: u16, version: ProtocolVersion) -> Self {
        let theirs = properties.receive_maximum.map_or(u16::MAX, |max| max.get());
        Self {
            version,
            inflight_max: usize::from(inflight_max.min(theirs)),
            packet_bytes_max: properties.packet_bytes_max.map(|max| max.get()),
            qos_max: properties.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            retain: properties.retain_available.unwrap_or(true),
        }
    }
}

/// Shortest and longest wait for an answer to PINGREQ; in between, half the Keep Alive.
const PING_TIMEOUT_MS_MIN: u64 = 1_500;
const PING_TIMEOUT_MS_MAX: u64 = 10_000;

/// Decides when to ping and when the link is dead.
///
/// Pings when nothing was sent *or* nothing was received for a Keep Alive: a client that only publishes at QoS 0
/// would otherwise never notice a dead link.
#[derive(Debug)]
pub(super) struct Liveness {
    keep_alive_ms: u64,
    last_sent_ms: u64,
    last_received_ms: u64,
    /// When the oldest unanswered PINGREQ was sent.
    pinged_ms: Option<u64>,
    /// The program does not take what came, so that silence says nothing about the link.
    paused: bool,
}

impl Liveness {
    pub(super) fn new(now_ms: u64, keep_alive_s: u16) -> Self {
        Self {
            keep_alive_ms: u64::from(keep_alive_s) * 1000,
            last_sent_ms: now_ms,
            last_received_ms: now_ms,
            pinged_ms: None,
            paused: false,
        }
    }

    pub(super) fn sent(&mut self, now_ms: u64) {
        self.last_sent_ms = now_ms;
    }

    pub(super) fn received(&mut self, now_ms: u64) {
        self.last_received_ms = now_ms;
        self.pinged_ms = None;
    }

    pub(super) fn pause(&mut self, now_ms: u64, paused: bool) {
        if self.paused && !paused {
            self.received(now_ms);
        }
        self.paused = paused;
    }

    fn ping_due_ms(&self) -> u64 {
        let heard_ms =
            if self.paused || self.pinged_ms.is_some() { self.last_sent_ms } else { self.last_received_ms };
        self.last_sent_ms.min(heard_ms).saturating_add(self.keep_alive_ms)
    }

    fn dead_ms(&self) -> Option<u64> {
        let timeout_ms = (self.keep_alive_ms / 2).clamp(PING_TIMEOUT_MS_MIN, PING_TIMEOUT_MS_MAX);
        self.pinged_ms.filter(|_| !self.paused).map(|pinged_ms| pinged_ms.saturating_add(timeout_ms))
    }

    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        if self.keep_alive_ms == 0 {
            return None;
        }
        let ping_ms = self.ping_due_ms();
        Some(self.dead_ms().map_or(ping_ms, |dead_ms| dead_ms.min(ping_ms)))
    }

    /// Returns how long the broker has been silent, if that is too long.
    pub(super) fn dead_since_ms(&self, now_ms: u64) -> Option<u64> {
        self.dead_ms()
            .filter(|dead_ms| now_ms >= *dead_ms)
            .map(|_| now_ms.saturating_sub(self.last_received_ms))
    }

    /// Says whether a PINGREQ is due, and takes it as sent.
    pub(super) fn ping_is_due(&mut self, now_ms: u64) -> bool {
        let due = self.keep_alive_ms > 0 && now_ms >= self.ping_due_ms();
        if due {
            self.pinged_ms.get_or_insert(now_ms);
        }
        due
    }
}
