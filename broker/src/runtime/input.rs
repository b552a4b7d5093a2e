//! From the socket into the engine: reading, cutting packets, and what happens before a CONNECT is there.

use std::io;

use bytes::BytesMut;
use engine::{ConnId, Input, Now};
use protocol::{ConnAck, ConnAckProperties, DecodeError, Packet, ProtocolVersion, ReasonCode};

use super::{
    Core,
    authenticate::WAITING_BYTES_MAX,
    connection::{Buffer, LINGER_BYTES_MAX, Phase, version_of_connect},
    lanes::Lane,
    look::Readiness,
};

/// What was done since the clock was looked at: that costs little, but not nothing.
#[derive(Debug, Default)]
struct Work {
    packets: usize,
    bytes: usize,
    sent: u64,
}

impl Work {
    fn is_worth_a_look(&mut self, bytes: usize, sent: u64, is_costly: bool) -> bool {
        self.packets += 1;
        self.bytes += bytes;
        self.sent += sent;
        let is_worth_it = is_costly || self.packets >= 8 || self.bytes >= 2_048 || self.sent >= 16;
        if is_worth_it {
            *self = Self::default();
        }
        is_worth_it
    }
}

/// Says whether a packet may cost as much as several others do.
fn is_costly(packet: &Packet) -> bool {
    matches!(
        packet,
        Packet::Connect(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::Disconnect(_)
    )
}

impl Core {
    /// Takes what the look told of a connection's socket.
    pub(super) fn readiness(&mut self, id: ConnId, readiness: Readiness) {
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return;
        };
        if readiness.is_readable {
            connection.is_readable = true;
            connection.is_hung_up |= readiness.is_hung_up;
            self.ready_later(id);
        }
        if readiness.is_writable {
            self.may_write(id);
        }
    }

    /// Takes in what the socket has, for a slice at most. Who has more afterwards stands in a queue, or waits for
    /// something that puts it there.
    pub(super) fn go_on_reading(&mut self, id: ConnId) {
        loop {
            self.look_for_verdict(id);
            if !self.may_go_on(id) || self.is_waiting(id) {
                return;
            }
            let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
                return;
            };
            if std::mem::take(&mut connection.has_more) {
                let cut = connection.cut.take();
                let now = self.clock.now();
                self.take_in(now, id, cut);
                continue;
            }
            if !connection.is_readable {
                return;
            }
            let got = match connection.phase {
                Phase::Lingering { .. } => connection.transport.try_discard(&mut self.scratch),
                _ => connection.transport.try_read(&mut self.cipher, &mut self.scratch),
            };
            if connection.transport.wants_write() && !connection.is_blocked {
                // A pong, a new key: what was read has an answer below MQTT.
                self.write_later(id);
            }
            let got = match got {
                Ok(got) if got.is_end => return self.end_of_input(id, None),
                Ok(got) => got,
                Err(error) => return self.end_of_input(id, Some(error)),
            };
            let Some(connection) = self.connection(id) else { return };
            // Less than there was memory for is all there was; but for the end, which is told once.
            connection.is_hung_up &= got.bytes > 0 || got.has_more;
            connection.is_readable = got.has_more || connection.is_hung_up;
            if got.bytes > 0 {
                self.received(id, got.bytes);
            }
            if got.has_more {
                // The others come first.
                self.wait_for_slice(id);
            }
        }
    }

    /// Says whether a connection may take in something now; if not, what it waits for puts it into a queue.
    fn may_go_on(&mut self, id: ConnId) -> bool {
        let (paused, unread_bytes_max) = (self.reading_paused, 2 * self.limits.unsent_bytes_high);
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return false;
        };
        match connection.phase {
            Phase::Closing { .. } => false,
            // The verdict goes on with it.
            Phase::Authenticating if connection.cut.len() >= WAITING_BYTES_MAX => false,
            Phase::New | Phase::Authenticating | Phase::Challenged | Phase::Open if paused => {
                if !std::mem::replace(&mut connection.is_parked, true) {
                    self.parked.push(id);
                }
                false
            }
            Phase::New | Phase::Challenged | Phase::Open if connection.held.is_some() => {
                self.go_on_with_filters(id) && !self.is_waiting(id) && self.may_go_on(id)
            }
            // Whoever does not take its answers asks for no more of them. If it goes on so, its silence ends it.
            Phase::Open if connection.is_blocked && connection.out.len() > unread_bytes_max => false,
            Phase::New | Phase::Authenticating | Phase::Challenged | Phase::Open => true,
            Phase::Lingering { .. } => true,
        }
    }

    fn is_waiting(&mut self, id: ConnId) -> bool {
        self.connection(id).is_some_and(|connection| connection.lane == Lane::Waiting)
    }

    /// Ends a connection that brings nothing more. One whose socket still works is told goodbye as its transport does.
    fn end_of_input(&mut self, id: ConnId, error: Option<io::Error>) {
        let now = self.clock.now();
        let Some(connection) = self.connection(id) else { return };
        connection.is_readable = false;
        if !(connection.is_reading() && connection.transport.can_end()) {
            return self.lose(now, id);
        }
        let was_open = connection.phase == Phase::Open;
        match error {
            Some(error) => self.begin_close(id, true, &error),
            None => self.begin_close(id, true, &"the client closed"),
        }
        if was_open {
            self.input(now, Input::Closed { conn: id });
        }
    }

    /// Takes what was just read into the scratch buffer.
    fn received(&mut self, id: ConnId, bytes: usize) {
        self.counts.bytes_in += bytes as u64;
        let read = &self.scratch[..bytes];
        let Some(connection) = self.connections.get_mut(super::slot(id)) else { return };
        match &mut connection.phase {
            Phase::New | Phase::Challenged | Phase::Open => {}
            Phase::Authenticating => {
                connection.cut.get_or_insert_with(Box::default).extend_from_slice(read);
                return self.account(id);
            }
            Phase::Closing { .. } => return,
            Phase::Lingering { bytes_left } => {
                *bytes_left = bytes_left.saturating_sub(bytes as u32);
                if *bytes_left == 0 {
                    self.remove(id);
                }
                return;
            }
        }
        // Packets share the memory they are decoded from, and the engine may keep a payload for long: so
        // that a small one never holds a big buffer, each read gets memory of just its size.
        let mut buf = connection.cut.take();
        if buf.is_empty() {
            buf = BytesMut::from(read);
        } else {
            buf.extend_from_slice(read);
        }
        if connection.phase == Phase::New {
            connection.version_seen = version_of_connect(&buf);
        }
        let now = self.clock.now();
        self.take_in(now, id, buf);
    }

    /// Decodes what waited for a verdict.
    pub(super) fn decode_waiting(&mut self, now: Now, id: ConnId) {
        if let Some(connection) = self.connection(id).filter(|c| c.may_read() && !c.cut.is_empty()) {
            let buf = connection.cut.take();
            self.take_in(now, id, buf);
        }
    }

    /// Decodes packets until one is cut or the slice is over; says whether it is over.
    pub(super) fn decode(&mut self, now: Now, id: ConnId, buf: &mut BytesMut) -> bool {
        let mut work = Work::default();
        loop {
            let (before, sent_before) = (buf.len(), self.counts.packets_out);
            let Some(connection) = self.connection(id).filter(|c| c.may_read()) else { return false };
            let is_costly = match connection.decoder.decode(buf) {
                Ok(Some(packet)) => {
                    let is_costly = is_costly(&packet);
                    self.packet(now, id, packet, (before - buf.len()) as u64);
                    is_costly
                }
                Ok(None) => return false,
                Err(error) => {
                    self.malformed(now, id, error);
                    return false;
                }
            };
            let sent = self.counts.packets_out - sent_before;
            if work.is_worth_a_look(before - buf.len(), sent, is_costly) && self.lanes.is_slice_over() {
                return true;
            }
        }
    }

    fn packet(&mut self, now: Now, id: ConnId, packet: Packet, bytes: u64) {
        self.counts.packets_in += 1;
        let stopping = self.stop.is_some();
        let is_over_limit = self.connections.len() > self.limits.connections_max;
        let Some(connection) = self.connection(id) else { return };
        if let Packet::Connect(connect) = &packet {
            connection.takes_bytes_max = connect.properties.packet_bytes_max;
            connection.wants_reasons = connect.properties.request_problem_information.unwrap_or(true);
        }
        match packet {
            Packet::Connect(_) if connection.phase == Phase::New && stopping => {
                self.refuse(id, ReasonCode::ServerUnavailable, "the broker is shutting down");
            }
            Packet::Connect(_) if connection.phase == Phase::New && is_over_limit => {
                let what = format!("the broker has {} connections, its limit", self.limits.connections_max);
                self.refuse(id, ReasonCode::ServerBusy, &what);
            }
            Packet::Connect(connect) if connection.phase == Phase::New => {
                self.connect(now, id, connect);
            }
            packet if connection.phase == Phase::Challenged => self.challenged(now, id, packet),
            Packet::Publish(publish) if connection.phase == Phase::Open => {
                self.publish(now, id, publish, bytes, 0);
            }
            Packet::Auth(auth) if connection.login.as_ref().is_some_and(|login| login.has_method()) => {
                self.authenticate_again(now, id, *auth);
            }
            packet => {
                self.refresh_sys(now, &packet);
                self.hand_over(now, id, packet);
            }
        }
    }

    fn malformed(&mut self, now: Now, id: ConnId, error: DecodeError) {
        self.counts.malformed += 1;
        let Some(connection) = self.connection(id) else { return };
        tracing::debug!(conn = id.0, peer = %connection.peer, %error, "malformed packet");
        if let Some(connection) = self.connections.get(super::slot(id)).filter(|c| c.id == id)
            && let Some(seat) = &connection.seat
        {
            self.abuse.malformed(now, seat);
        }
        let Some(connection) = self.connection(id) else { return };
        if connection.phase == Phase::Open {
            return self.input(now, Input::Malformed { conn: id, error });
        }
        match &error {
            // [MQTT-3.1.2-2] a version that is not served is answered, in the nearest format that the
            // client may know.
            DecodeError::UnsupportedProtocolVersion { level, .. } => {
                connection.version_seen = (*level > 4).then_some(ProtocolVersion::V5);
                self.refuse(id, error.reason(), &error.to_string());
            }
            _ if connection.version_seen == Some(ProtocolVersion::V5) => {
                self.refuse(id, error.reason(), &error.to_string());
            }
            // [MQTT-3.1.4-1] (3.1.1) there is no code for it: the connection is closed without a CONNACK.
            _ => self.begin_close(id, true, &error),
        }
    }

    /// Answers a CONNECT that the engine never sees. [MQTT-3.2.2-7] the connection ends after it.
    pub(super) fn refuse(&mut self, id: ConnId, reason: ReasonCode, what: &str) {
        self.counts.refused += 1;
        let Some(connection) = self.connection(id) else { return };
        let (version, limit) = (connection.version(), connection.takes_bytes_max);
        for reason_string in [connection.wants_reasons.then(|| what.into()), None] {
            let properties = ConnAckProperties { reason_string, ..ConnAckProperties::default() };
            // [MQTT-3.2.2-6] a refusal never says that a session is present.
            let connack = ConnAck { session_present: false, reason, properties };
            let connack = Packet::ConnAck(Box::new(connack));
            // [MQTT-3.2.2-19] without its reason string if that would be too large for the client.
            if limit.is_none_or(|limit| protocol::encoded_len(&connack, version) <= limit.get() as usize) {
                self.send(id, &connack);
                break;
            }
        }
        self.begin_close(id, true, &what);
    }

    /// Stops reading and, when all is sent, closes the socket.
    pub(super) fn begin_close(&mut self, id: ConnId, linger: bool, why: &dyn std::fmt::Display) {
        let deadline_ms = self.clock.now().monotonic_ms + self.limits.close_timeout_ms;
        let Some(connection) = self.connection(id) else { return };
        if !connection.is_reading() {
            return;
        }
        tracing::debug!(conn = id.0, peer = %connection.peer, %why, "close");
        connection.phase = Phase::Closing { linger };
        connection.cut = Buffer::default();
        connection.held = None;
        connection.waiting = None;
        self.close_deadlines.push_back((deadline_ms, id));
        self.write_later(id);
    }

    /// Closes our half when all was sent; the client's end, or a deadline, ends the connection.
    pub(super) fn finish_close(&mut self, id: ConnId, linger: bool) {
        let Some(connection) = self.connection(id) else { return };
        connection.transport.end();
        if connection.transport.wants_write() {
            if connection.out.with(|out| connection.transport.try_send(out)).is_err() {
                self.remove(id);
                return;
            }
            if connection.transport.wants_write() {
                connection.is_blocked = true;
                return;
            }
        }
        let linger = linger || connection.transport.is_answered();
        if linger && connection.transport.shutdown().is_ok() {
            connection.phase = Phase::Lingering { bytes_left: LINGER_BYTES_MAX };
            self.ready_later(id);
        } else {
            self.remove(id);
        }
    }

    /// Ends a connection whose socket is of no more use.
    pub(super) fn lose(&mut self, now: Now, id: ConnId) {
        if let Some(phase) = self.remove(id)
            && phase == Phase::Open
        {
            self.input(now, Input::Closed { conn: id });
        }
    }

    /// Forgets a connection and closes its socket; says where it stood.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Phase> {
        self.connection(id)?;
        let mut connection = self.connections.remove(super::slot(id));
        self.buffered -= connection.buffered;
        if let Some(seat) = connection.seat.take() {
            self.abuse.leave(seat);
        }
        if let Some(login) = &connection.login {
            self.logins.forget(id, login);
        }
        self.is_stop_due = true;
        Some(connection.phase)
    }
}
