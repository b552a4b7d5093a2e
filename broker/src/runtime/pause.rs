//! Connections that wait: for their rate, or because the answer to their CONNECT is slowed.
//!
//! One that waits keeps the packet it waits with; nothing more is read or decoded for it until its time has
//! come. Invariant: every connection with a held packet has an entry in `pauses`, due in a second at most, so
//! that the entries of connections that have gone never pile up.

use std::cmp::Reverse;

use bytes::BytesMut;
use engine::{ConnId, Input, Now};
use protocol::{Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode};

use super::Core;

/// A waiting connection is looked at again after this at most.
const LOOK_AGAIN_MS: u64 = 1_000;

/// A packet that waits.
#[derive(Debug)]
pub(super) enum Held {
    /// A CONNECT whose answer is slowed.
    Connect {
        /// The packet.
        connect: Box<Connect>,
        /// Until then.
        until_ms: u64,
    },
    /// A PUBLISH that came before its rate allows it.
    Publish {
        /// The packet.
        publish: Box<Publish>,
        /// Its length.
        bytes: u64,
        /// What [`Throttle::take`](crate::limits::Throttle::take) charged it to.
        charged: u8,
    },
}

impl Core {
    /// Keeps a packet for later; the connection is not read until then.
    pub(super) fn hold(&mut self, now: Now, id: ConnId, held: Held, wait_ms: u64) {
        let Some(connection) = self.connection(id) else { return };
        connection.held = Some(held);
        let due_ms = now.monotonic_ms + wait_ms.clamp(1, LOOK_AGAIN_MS);
        self.pauses.push(Reverse((due_ms, id)));
        self.turn.raise();
    }

    /// Gives a PUBLISH to the engine when the rates allow it; else it waits, or is refused.
    pub(super) fn publish(&mut self, now: Now, id: ConnId, publish: Publish, bytes: u64, charged: u8) {
        let Some(connection) = self.connection(id) else { return };
        let version = connection.version();
        let over = connection.throttle.as_ref().and_then(|t| t.take(now.monotonic_ms, bytes, charged).err());
        let Some(over) = over else {
            return self.input(now, Input::Packet { conn: id, packet: Packet::Publish(publish) });
        };
        // Only MQTT 5 has an answer that says so. QoS 0 has none, and what is sent again may have been taken
        // before: they wait, as everything of 3.1.1 does.
        if version == ProtocolVersion::V311 || publish.qos == QoS::AtMostOnce || publish.dup {
            self.counts.paused += 1;
            let held = Held::Publish { publish: Box::new(publish), bytes, charged: over.charged };
            // Its silence is ours.
            self.input(now, Input::Reading { conn: Some(id), paused: true });
            return self.hold(now, id, held, over.wait_ms);
        }
        self.counts.rate_refused += 1;
        let Some(connection) = self.connection(id) else { return };
        let is_far_over =
            connection.throttle.as_ref().is_some_and(|throttle| throttle.is_far_over(now.monotonic_ms));
        if is_far_over {
            self.counts.rate_ended += 1;
            let reason = ReasonCode::MessageRateTooHigh;
            let what = format!("{}, and it goes on far above that", over.what);
            return self.input(now, Input::End { conn: id, reason, what });
        }
        let (publish, reason) = (Box::new(publish), ReasonCode::QuotaExceeded);
        self.input(now, Input::Refused { conn: id, publish, reason, what: over.what });
    }

    /// Returns when a waiting connection is to be looked at.
    pub(super) fn next_pause_ms(&self) -> Option<u64> {
        self.pauses.peek().map(|Reverse((due_ms, _))| *due_ms)
    }

    /// Goes on with the connections whose time has come.
    pub(super) fn pauses_due(&mut self, now: Now) {
        // What is pushed meanwhile is due later.
        while let Some(&Reverse((due_ms, id))) = self.pauses.peek()
            && due_ms <= now.monotonic_ms
        {
            self.pauses.pop();
            self.go_on(now, id);
        }
    }

    fn go_on(&mut self, now: Now, id: ConnId) {
        self.lanes.begin_slice();
        let Some(connection) = self.connection(id).filter(|connection| connection.is_reading()) else {
            return;
        };
        match connection.held.take() {
            None => return,
            Some(Held::Connect { connect, until_ms }) if until_ms > now.monotonic_ms => {
                let wait_ms = until_ms - now.monotonic_ms;
                return self.hold(now, id, Held::Connect { connect, until_ms }, wait_ms);
            }
            Some(Held::Connect { connect, .. }) => self.connect_later(now, id, connect),
            Some(Held::Publish { publish, bytes, charged }) => {
                self.input(now, Input::Reading { conn: Some(id), paused: false });
                self.publish(now, id, *publish, bytes, charged);
            }
        }
        let Some(connection) = self.connection(id).filter(|connection| connection.may_read()) else { return };
        let cut = std::mem::take(&mut connection.cut);
        if !cut.is_empty() {
            self.take_in(now, id, cut);
        }
        if let Some(connection) = self.connection(id) {
            connection.wake();
        }
    }

    /// Decodes what has come of a connection and keeps what is left.
    pub(super) fn take_in(&mut self, now: Now, id: ConnId, mut buf: BytesMut) {
        let read_whole = buf.len();
        let has_more = self.decode(now, id, &mut buf);
        let Some(connection) = self.connection(id).filter(|connection| connection.is_reading()) else {
            return;
        };
        if !buf.is_empty() {
            // Packets share the memory of what they were read with: what is left gets its own.
            connection.cut = if buf.len() < read_whole { BytesMut::from(&buf[..]) } else { buf };
            connection.has_more = has_more;
        }
        if has_more {
            self.wait_for_slice(id);
        }
        self.account(id);
    }
}
