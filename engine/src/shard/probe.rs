//! The probe: a silence that a client asks for, and the message that ends it (docs/protocol.md section 7).
//!
//! Meanwhile the broker starts no PUBLISH on the connection: what must be delivered waits as it does for a
//! slow connection, and QoS 0 is dropped as it is there. Nothing of a probe is stored.

use protocol::QoS;
use protocol::im::{PROBE_PREFIX, ProbeRequest, ProbeResult, probe_topic};

use super::Shard;
use super::accept::Refused;
use super::queue::Way;
use crate::message::{Delivery, Origin};
use crate::planted::Planted;
use crate::route::SessionKey;
use crate::timers::Deadline;
use crate::{ConnId, Now};

/// Failed requests remembered until the probe is over; what is more is not told.
const ERRORS_MAX: usize = 16;

/// A probe that is pending.
#[derive(Debug)]
pub(super) struct Probe {
    id: String,
    after_s: u32,
    /// Whether packets were exchanged since it began.
    pub(super) spoiled: bool,
    /// What could not be done meanwhile, and why: to be told afterwards.
    errors: Vec<(String, String)>,
}

impl Shard {
    /// `$im/probe`: begins a silence.
    pub(super) fn begin_probe(&mut self, now: Now, conn: ConnId, payload: &[u8]) -> Result<(), Refused> {
        let ProbeRequest { id, after_s } = ProbeRequest::parse(payload).map_err(Refused::request)?;
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        if c.is_silent {
            return Err(Refused::request("a probe is pending on this connection".to_owned()));
        }
        c.is_silent = self.config.planted != Some(Planted::PublishedDuringProbe);
        c.path().probe = Some(Probe { id, after_s, spoiled: false, errors: Vec::new() });
        let due_ms = now.monotonic_ms + u64::from(after_s) * 1000;
        self.timers.set(Deadline::Probe(conn), due_ms);
        Ok(())
    }

    /// Ends the silence: the result first, then what waited for it.
    pub(super) fn probe_due(&mut self, now: Now, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let Some(probe) = c.path.as_mut().and_then(|path| path.probe.take()) else { return };
        c.is_silent = false;
        if !probe.spoiled {
            c.path().end_silence(u64::from(probe.after_s));
        }
        let key = c.session;
        self.tell_probe(now, key, &probe);
        for (request, error) in probe.errors {
            self.tell_error(now, key, &request, &error);
        }
        self.drain(now, key);
    }

    fn tell_probe(&mut self, now: Now, key: SessionKey, probe: &Probe) {
        let topic = probe_topic(&probe.id);
        let subscriptions = &self.sessions[key].subscriptions;
        let every = format!("{PROBE_PREFIX}+");
        let heard: Vec<_> = [&topic, &every].into_iter().filter_map(|f| subscriptions.get(f)).collect();
        if heard.is_empty() {
            return;
        }
        let subscription_identifiers = heard.iter().filter_map(|s| s.identifier).collect();
        let result = ProbeResult { id: probe.id.clone(), at: now.unix_ms, spoiled: probe.spoiled };
        let payload = serde_json::to_vec(&result).expect("a probe's result is JSON");
        let message = self.own_message(now, topic.into(), payload.into(), QoS::AtMostOnce);
        if let Way::Send(conn) = self.way(key, QoS::AtMostOnce, false) {
            let origin = Origin::Subscriptions;
            let qos = QoS::AtMostOnce;
            let delivery = Delivery { message, qos, retain: false, origin, subscription_identifiers };
            self.send_at_most_once(now, key, conn, delivery);
        }
    }

    /// Keeps an error for the end of the session's probe; says whether there is one.
    pub(super) fn tell_after_probe(&mut self, key: SessionKey, request: &str, error: &str) -> bool {
        let conn = self.sessions[key].conn.and_then(|conn| self.conns.get_mut(&conn));
        let path = conn.filter(|c| c.is_silent).and_then(|c| c.path.as_mut());
        let Some(probe) = path.and_then(|path| path.probe.as_mut()) else { return false };
        if probe.errors.len() < ERRORS_MAX {
            probe.errors.push((request.to_owned(), error.to_owned()));
        }
        true
    }
}
