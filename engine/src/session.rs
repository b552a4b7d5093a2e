//! One session: what a client left here, connected or not (MQTT 5.0 section 4.1).
//!
//! Owns the queue, what is in flight and the packet ids of both directions. Knows nothing of routes,
//! connections' sockets or the log: the shard asks it and writes what happened.
//!
//! ```text
//! a message at this session:
//!   waiting (queue) --packet id--> sent --PUBACK----------------------> ended
//!                                    |---PUBREC--> released --PUBCOMP--> ended
//!                                    `---PUBREC >= 0x80----------------> ended
//! ```
//! Invariants: every in-flight entry has its own packet id; `window_used` counts the entries sent on the
//! current connection; in-flight entries stand in the order of their first sending.

use std::collections::VecDeque;

use bytestring::ByteString;
use protocol::{PacketId, QoS, SubscribeOptions, Will};
use rustc_hash::FxHashMap;

use crate::ConnId;
use crate::message::{Delivery, MsgNo};
use crate::record::SessionNo;

/// One subscription of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) options: SubscribeOptions,
    pub(crate) identifier: Option<u32>,
}

/// How far a message in flight has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlightState {
    /// PUBLISH is out, or to be sent again.
    Sent,
    /// PUBREC came; PUBREL is out, or to be sent again.
    Released,
}

/// A message with a packet id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) packet_id: PacketId,
    pub(crate) delivery: Delivery,
    pub(crate) state: FlightState,
    /// Whether it went out on the current connection.
    pub(crate) on_this_connection: bool,
}

/// A client's QoS 2 publish between PUBREC and PUBREL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) seq: Option<u64>,
    pub(crate) id: ByteString,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) no: SessionNo,
    pub(crate) client_id: ByteString,
    pub(crate) user: ByteString,
    /// Session Expiry Interval in force, seconds; `u32::MAX` = never.
    pub(crate) expiry_s: u32,
    /// Whether the log knows the session.
    pub(crate) durable: bool,
    pub(crate) conn: Option<ConnId>,
    /// When the connection ended, on both clocks; `None` while connected. The monotonic one may be negative:
    /// before this process began.
    pub(crate) disconnected: Option<(i64, u64)>,
    pub(crate) will: Option<Box<Will>>,
    /// When a will that waits is due, monotonic.
    pub(crate) will_due_ms: Option<i64>,
    pub(crate) subscriptions: FxHashMap<ByteString, Subscription>,
    pub(crate) queue: VecDeque<Delivery>,
    pub(crate) queue_bytes: usize,
    queued_at_most_once: usize,
    pub(crate) in_flight: VecDeque<InFlight>,
    pub(crate) window_used: usize,
    pub(crate) incoming: FxHashMap<PacketId, Incoming>,
    next_packet_id: u16,
}

impl Session {
    pub(crate) fn new(no: SessionNo, client_id: ByteString, user: ByteString) -> Self {
        Self {
            no,
            client_id,
            user,
            expiry_s: 0,
            durable: false,
            conn: None,
            disconnected: None,
            will: None,
            will_due_ms: None,
            subscriptions: FxHashMap::default(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            queued_at_most_once: 0,
            in_flight: VecDeque::new(),
            window_used: 0,
            incoming: FxHashMap::default(),
            next_packet_id: 1,
        }
    }

    /// Puts a message at the end of the queue.
    pub(crate) fn push_waiting(&mut self, delivery: Delivery) {
        self.queue_bytes += delivery.message.bytes();
        self.queued_at_most_once += usize::from(delivery.qos == QoS::AtMostOnce);
        self.queue.push_back(delivery);
    }

    /// Takes the oldest waiting message.
    pub(crate) fn pop_waiting(&mut self) -> Option<Delivery> {
        self.remove_waiting_at(0)
    }

    /// Takes a certain waiting message out.
    pub(crate) fn remove_waiting(&mut self, no: MsgNo) -> Option<Delivery> {
        let at = self.queue.iter().position(|d| d.message.no == no)?;
        self.remove_waiting_at(at)
    }

    /// Takes out what goes first when the queue is full: the oldest of QoS 0, else the oldest.
    pub(crate) fn remove_least_wanted(&mut self) -> Option<Delivery> {
        let at_most_once = match self.queued_at_most_once {
            0 => None,
            _ => self.queue.iter().position(|d| d.qos == QoS::AtMostOnce),
        };
        self.remove_waiting_at(at_most_once.unwrap_or(0))
    }

    fn remove_waiting_at(&mut self, at: usize) -> Option<Delivery> {
        let delivery = self.queue.remove(at)?;
        self.queue_bytes -= delivery.message.bytes();
        self.queued_at_most_once -= usize::from(delivery.qos == QoS::AtMostOnce);
        Some(delivery)
    }

    /// Gives a free packet id. [MQTT-2.2.1-3] none that is in flight is given again.
    pub(crate) fn take_packet_id(&mut self) -> Option<PacketId> {
        if self.in_flight.len() >= usize::from(u16::MAX) {
            return None;
        }
        let mut met_one = false;
        loop {
            let id = PacketId::new(self.next_packet_id);
            self.next_packet_id = self.next_packet_id.wrapping_add(1);
            let Some(id) = id else { continue };
            // Ids are given in a circle and in-flight entries stand in that order, so the first taken one
            // that the circle meets is the oldest; only behind it the others must be looked at.
            met_one |= self.in_flight.front().is_some_and(|f| f.packet_id == id);
            if !met_one || !self.in_flight.iter().any(|f| f.packet_id == id) {
                return Some(id);
            }
        }
    }

    /// Puts a message in flight; the window counts it when it is sent now.
    pub(crate) fn push_in_flight(&mut self, packet_id: PacketId, delivery: Delivery, sent_now: bool) {
        self.window_used += usize::from(sent_now);
        let state = FlightState::Sent;
        self.in_flight.push_back(InFlight { packet_id, delivery, state, on_this_connection: sent_now });
        if packet_id.get() >= self.next_packet_id {
            self.next_packet_id = packet_id.get().wrapping_add(1);
        }
    }

    pub(crate) fn in_flight_mut(&mut self, packet_id: PacketId) -> Option<&mut InFlight> {
        self.in_flight.iter_mut().find(|f| f.packet_id == packet_id)
    }

    /// Ends an in-flight message.
    pub(crate) fn end_in_flight(&mut self, packet_id: PacketId) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|f| f.packet_id == packet_id)?;
        let ended = self.in_flight.remove(at)?;
        self.window_used -= usize::from(ended.on_this_connection);
        Some(ended)
    }

    /// Forgets what was sent on the old connection: all in flight must go out again
    /// ([MQTT-4.4.0-1]).
    pub(crate) fn start_connection(&mut self, conn: ConnId) {
        self.conn = Some(conn);
        self.disconnected = None;
        self.will_due_ms = None;
        self.window_used = 0;
        for entry in &mut self.in_flight {
            entry.on_this_connection = false;
        }
    }

    /// Messages waiting or in flight.
    pub(crate) fn held(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }
}
