//! Connections that wait: for their rate, because the answer to their CONNECT is slowed, or for their next slice in the
//! middle of a packet with many filters.
//!
//! One that waits keeps the packet it waits with; nothing more is read or decoded for it until its time has
//! come. Invariant: every connection with a held packet has an entry in `pauses`, due in a second at most, so
//! that the entries of connections that have gone never pile up; one with filters left stands in the queue for slices
//! instead.

use std::cmp::Reverse;

use bytes::BytesMut;
use engine::{ConnId, Input, Now};
use protocol::{Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe, Unsubscribe};

use super::{Core, connection::Buffer};

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
    /// A SUBSCRIBE or UNSUBSCRIBE of which the engine has the first filters.
    Filters(Filters),
}

/// Filters that the engine is given at once.
const FILTERS_MAX: usize = 8;

/// User properties of the broker's own that a SUBSCRIBE of many filters may have.
const USER_PROPERTIES_MAX: usize = 16;

impl Core {
    /// Keeps a packet for later; the connection is not read until then.
    pub(super) fn hold(&mut self, now: Now, id: ConnId, held: Held, wait_ms: u64) {
        let Some(connection) = self.connection(id) else { return };
        connection.held = Some(Box::new(held));
        let due_ms = now.monotonic_ms + wait_ms.clamp(1, LOOK_AGAIN_MS);
        self.pauses.push(Reverse((due_ms, id)));
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
        match connection.held.take().map(|held| *held) {
            None => return,
            Some(held @ Held::Filters(_)) => {
                connection.held = Some(Box::new(held));
                return;
            }
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
        // What came behind it is decoded when it is the connection's turn.
        if let Some(connection) = self.connection(id).filter(|connection| connection.may_read()) {
            connection.has_more = !connection.cut.is_empty();
            self.ready_later(id);
        }
    }

    /// Gives the engine a packet; one with many filters in parts, as far as the slice goes.
    pub(super) fn hand_over(&mut self, now: Now, id: ConnId, packet: Packet) {
        match Filters::of(packet) {
            Ok(filters) => self.hand_over_parts(now, id, filters),
            Err(packet) => self.input(now, Input::Packet { conn: id, packet }),
        }
    }

    fn hand_over_parts(&mut self, now: Now, id: ConnId, mut filters: Filters) {
        loop {
            let (packet, filters_left) = filters.cut();
            if filters_left == 0 {
                return self.input(now, Input::Packet { conn: id, packet });
            }
            self.input(now, Input::Part { conn: id, packet, filters_left });
            if !self.lanes.is_slice_over() {
                continue;
            }
            let Some(connection) = self.connection(id).filter(|connection| connection.is_reading()) else {
                return;
            };
            connection.held = Some(Box::new(Held::Filters(filters)));
            return self.wait_for_slice(id);
        }
    }

    /// Goes on with a packet that has filters left; says whether there was one.
    pub(super) fn go_on_with_filters(&mut self, id: ConnId) -> bool {
        let Some(connection) = self.connection(id) else { return false };
        let filters = match connection.held.take().map(|held| *held) {
            Some(Held::Filters(filters)) => filters,
            held => {
                connection.held = held.map(Box::new);
                return false;
            }
        };
        // What came behind it is decoded next.
        connection.has_more = !connection.cut.is_empty();
        self.hand_over_parts(self.clock.now(), id, filters);
        true
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
            let cut = if buf.len() < read_whole { BytesMut::from(&buf[..]) } else { buf };
            connection.cut = Buffer::of(cut);
            connection.has_more = has_more;
        }
        if has_more {
            self.wait_for_slice(id);
        }
        self.account(id);
    }
}

/// What is left of a packet with many filters: the last one first, so that cutting the first ones off moves nothing.
#[derive(Debug)]
pub(super) struct Filters(Packet);

impl Filters {
    /// Takes a packet with more filters than the engine is given at once; gives back any other.
    fn of(mut packet: Packet) -> Result<Self, Packet> {
        match &mut packet {
            Packet::Subscribe(subscribe) if subscribe.filters.len() > FILTERS_MAX => {
                // Each part has them: none but those that mean something to the engine, and they are few.
                subscribe.user_properties.retain(|(name, _)| name.starts_with("im-"));
                subscribe.user_properties.truncate(USER_PROPERTIES_MAX);
                subscribe.filters.reverse();
            }
            Packet::Unsubscribe(unsubscribe) if unsubscribe.filters.len() > FILTERS_MAX => {
                unsubscribe.user_properties.clear();
                unsubscribe.filters.reverse();
            }
            _ => return Err(packet),
        }
        Ok(Self(packet))
    }

    /// Cuts the first filters off; returns them as a packet, and how many are left.
    fn cut(&mut self) -> (Packet, usize) {
        fn first<T>(filters: &mut Vec<T>) -> Vec<T> {
            let mut first = filters.split_off(filters.len().saturating_sub(FILTERS_MAX));
            first.reverse();
            first
        }
        match &mut self.0 {
            Packet::Subscribe(subscribe) => {
                let filters = first(&mut subscribe.filters);
                let user_properties = subscribe.user_properties.clone();
                let left = subscribe.filters.len();
                (Packet::Subscribe(Subscribe { filters, user_properties, ..*subscribe }), left)
            }
            Packet::Unsubscribe(unsubscribe) => {
                let filters = first(&mut unsubscribe.filters);
                let left = unsubscribe.filters.len();
                (Packet::Unsubscribe(Unsubscribe { filters, user_properties: vec![], ..*unsubscribe }), left)
            }
            other => (other.clone(), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{PacketId, SubscribeFilter, SubscribeOptions};

    #[test]
    fn a_packet_of_many_filters_is_cut_into_all_of_them_in_order() {
        for count in [FILTERS_MAX + 1, 2 * FILTERS_MAX, 3 * FILTERS_MAX, 1_000] {
            let options = SubscribeOptions::default();
            let filters: Vec<_> =
                (0..count).map(|i| SubscribeFilter { filter: i.to_string().into(), options }).collect();
            let whole = Subscribe {
                packet_id: PacketId::new(7).unwrap(),
                subscription_identifier: Some(9),
                user_properties: vec![("im-from-seq".into(), "1".into())],
                filters,
            };
            let mut filters = Filters::of(Packet::Subscribe(whole.clone())).unwrap();
            let mut got = Vec::new();
            let mut left = count;
            while left > 0 {
                let (part, filters_left) = filters.cut();
                let Packet::Subscribe(part) = part else { panic!("another packet: {part:?}") };
                assert_eq!(part.filters.len(), left.min(FILTERS_MAX));
                got.extend(part.filters.iter().cloned());
                assert_eq!(got.len() + filters_left, count);
                left = filters_left;
                assert_eq!(
                    Subscribe { filters: vec![], ..part },
                    Subscribe { filters: vec![], ..whole.clone() }
                );
            }
            assert_eq!(got, whole.filters);
        }
    }

    #[test]
    fn a_packet_of_few_filters_stays_whole() {
        let filters = vec!["a".into(); FILTERS_MAX];
        let unsubscribe =
            Unsubscribe { packet_id: PacketId::new(7).unwrap(), filters, user_properties: vec![] };
        let packet = Packet::Unsubscribe(unsubscribe);
        assert_eq!(Filters::of(packet.clone()).unwrap_err(), packet);
    }
}
