//! A SUBSCRIBE or UNSUBSCRIBE that comes in parts: what came of them, and the one answer to all.

use protocol::{AckProperties, Packet, PacketId, ReasonCode, SubAck, UnsubAck};

use super::answer::reason_string;
use super::{Shard, Wait};
use crate::retained::Allowance;
use crate::{ConnId, Now};

/// What came of the parts so far.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) reasons: Vec<ReasonCode>,
    /// Why the first filter was refused.
    pub(super) why: Option<String>,
    pub(super) allowance: Allowance,
    /// The newest record of the parts, 0 = they have none.
    ticket: u64,
}

impl Asked {
    /// What the answer waits for: the parts before may have records of their own.
    fn wait(&self) -> Wait {
        if self.ticket == 0 { Wait::Record } else { Wait::Ticket(self.ticket) }
    }
}

impl Shard {
    /// Returns what came of the parts before, or begins; `None` if the answer could not be sent.
    pub(super) fn begin_asked(
        &mut self,
        now: Now,
        conn: ConnId,
        packet_id: PacketId,
        filters: usize,
    ) -> Option<Box<Asked>> {
        let c = self.conns.get_mut(&conn)?;
        if let Some(asked) = c.asked.take() {
            return Some(asked);
        }
        // Retained messages overtake nothing, and nothing comes after the answer to an UNSUBSCRIBE.
        let key = c.session;
        self.fan_out_to(now, key);
        if self.refuse_unanswerable(now, conn, packet_id, filters) {
            return None;
        }
        let allowance = Allowance {
            compared: self.config.retained_compared_max,
            found: self.config.retained_per_subscribe_max,
        };
        Some(Box::new(Asked { reasons: Vec::with_capacity(filters), why: None, allowance, ticket: 0 }))
    }

    pub(super) fn answer_subscribe(
        &mut self,
        conn: ConnId,
        packet_id: PacketId,
        asked: Box<Asked>,
        filters_left: usize,
    ) {
        let Some(asked) = self.keep_asked(conn, asked, filters_left) else { return };
        let wait = asked.wait();
        let Asked { reasons, why, .. } = *asked;
        let is_told = self.conns.get(&conn).is_some_and(|c| c.problem_information);
        let reason_string = why.filter(|_| is_told).as_deref().map(reason_string);
        let properties = AckProperties { reason_string, ..AckProperties::default() };
        // [MQTT-3.8.4-1] one SUBACK, [MQTT-3.8.4-6] with one code a filter.
        let suback = Packet::SubAck(SubAck { packet_id, properties, reasons });
        self.send_fitting(conn, wait, suback);
    }

    pub(super) fn answer_unsubscribe(
        &mut self,
        conn: ConnId,
        packet_id: PacketId,
        asked: Box<Asked>,
        filters_left: usize,
    ) {
        let Some(asked) = self.keep_asked(conn, asked, filters_left) else { return };
        let wait = asked.wait();
        let (properties, reasons) = (AckProperties::default(), asked.reasons);
        // [MQTT-3.10.4-4] [MQTT-3.11.3-1] UNSUBACK even where nothing was subscribed, one code a filter.
        let unsuback = UnsubAck { packet_id, properties, reasons };
        self.send_fitting(conn, wait, Packet::UnsubAck(unsuback));
    }

    /// Keeps it for the next part; returns it when there is none.
    fn keep_asked(&mut self, conn: ConnId, mut asked: Box<Asked>, filters_left: usize) -> Option<Box<Asked>> {
        if !self.turn.record.is_empty() {
            asked.ticket = self.gate.next_ticket();
        }
        if filters_left == 0 {
            return Some(asked);
        }
        self.conns.get_mut(&conn)?.asked = Some(asked);
        None
    }
}
