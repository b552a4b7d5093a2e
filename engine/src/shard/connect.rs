//! CONNECT: who comes, which session is theirs, and what they missed.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{ConnAck, ConnAckProperties, Connect, Packet, ProtocolVersion, ReasonCode, Will};

use super::answer::reason_string;
use super::keepalive::{hint_property, silence_max_ms};
use super::rights::user_of;
use super::{Conn, Shard, Wait};
use crate::alias::TopicAliases;
use crate::memory::CONNECTION_BYTES;
use crate::message::{compact, compact_properties, strip_broker_properties};
use crate::planted::Planted;
use crate::principal::{Authentication, Principal, SessionLimits, lower};
use crate::record::{Entry, SessionNo};
use crate::rights::Rights;
use crate::route::SessionKey;
use crate::seldom::Seldom;
use crate::session::Session;
use crate::timers::Deadline;
use crate::{CloseReason, ConnId, Now};

/// Why a CONNECT is refused.
struct Refusal {
    reason: ReasonCode,
    what: String,
}

impl Refusal {
    fn new(reason: ReasonCode, what: impl Into<String>) -> Self {
        Self { reason, what: what.into() }
    }
}

impl Shard {
    pub(super) fn connect(
        &mut self,
        now: Now,
        conn: ConnId,
        connect: Connect,
        principal: Principal,
        authentication: Option<Authentication>,
    ) {
        let (version, limit) = (connect.version, connect.properties.packet_bytes_max);
        let is_told = connect.properties.request_problem_information.unwrap_or(true);
        if let Err(refusal) = self.try_connect(now, conn, connect, principal, authentication) {
            self.refuse_connect(conn, version, limit, is_told, &refusal);
            // [MQTT-3.2.2-7] the connection ends after a refusal.
            self.close(conn, CloseReason::Refused(refusal.what));
        }
    }

    /// Tells the client why it is refused, as much as it can take.
    fn refuse_connect(
        &mut self,
        conn: ConnId,
        version: ProtocolVersion,
        limit: Option<NonZeroU32>,
        is_told: bool,
        refusal: &Refusal,
    ) {
        let without_reason = ConnAckProperties {
            server_reference: self.server_reference(refusal.reason),
            ..Default::default()
        };
        let reason_string = is_told.then(|| reason_string(&refusal.what));
        let all = ConnAckProperties { reason_string, ..without_reason.clone() };
        for properties in [all, without_reason, ConnAckProperties::default()] {
            // [MQTT-3.2.2-6] a refusal never says that a session is present.
            let connack = ConnAck { session_present: false, reason: refusal.reason, properties };
            let connack = Packet::ConnAck(Box::new(connack));
            // [MQTT-3.2.2-19] without its reason string if that would be too large for the client, and
            // [MQTT-3.1.2-24] not at all if it still is.
            if fits(&connack, version, limit) {
                return self.send(conn, Wait::Record, connack);
            }
        }
    }

    fn try_connect(
        &mut self,
        now: Now,
        conn: ConnId,
        mut connect: Connect,
        principal: Principal,
        authentication: Option<Authentication>,
    ) -> Result<(), Refusal> {
        if !self.config.server_reference.is_empty() {
            let what = format!("use the server {:?}", self.config.server_reference);
            return Err(Refusal::new(ReasonCode::UseAnotherServer, what));
        }
        let assigned = self.check_connect(&mut connect, authentication.is_some())?;
        let user = user_of(&principal, &connect.client_id);
        let mut rights = Rights::new(&self.rules, &principal, &connect.client_id, &user);
        if let Some(will) = &connect.will {
            let levels_max = lower(principal.limits.topic_levels_max, self.config.topic_levels_max);
            self.check_will(will, levels_max, &mut rights).map_err(|refused| {
                Refusal::new(refused.reason, format!("will on {:?}: {}", will.topic, refused.what))
            })?;
        }
        self.catch_up(now, &connect.client_id);
        let expiry_max_s = self.expiry_max_s(&principal.limits);
        let expiry_s = wanted_expiry_s(&connect, expiry_max_s).min(expiry_max_s);
        let known = self.sessions.of_client(&connect.client_id);
        if let Some(key) = known {
            let owner = &self.sessions[key].user;
            if *owner != user {
                // A session belongs to the user who created it (docs/protocol.md section 1).
                let what = format!("client id {:?} belongs to another user", connect.client_id);
                return Err(Refusal::new(ReasonCode::ClientIdentifierNotValid, what));
            }
        } else if self.sessions.len() >= self.config.sessions_max {
            let what = format!("the broker has {} sessions, its limit", self.config.sessions_max);
            return Err(Refusal::new(ReasonCode::QuotaExceeded, what));
        } else {
            self.room_for_session().map_err(|what| Refusal::new(ReasonCode::QuotaExceeded, what))?;
        }
        if self.store_full && expiry_s > 0 && (known.is_none() || connect.clean_start) {
            return Err(Refusal::new(
                ReasonCode::QuotaExceeded,
                "the broker's store is full: no new durable session",
            ));
        }

        let mut connack =
            self.connack(&connect, &principal.limits, &user, expiry_s, assigned, authentication);
        if connect.version == ProtocolVersion::V5 {
            let hint = self.keepalive_hint(now, &connect).map(hint_property);
            connack.properties.user_properties.extend(hint);
        }
        let is_too_large = |connack: &ConnAck| {
            let packet = Packet::ConnAck(Box::new(connack.clone()));
            !fits(&packet, connect.version, connect.properties.packet_bytes_max)
        };
        // Section 3.1.2.11.6: the client asked for it, but a server may leave it out.
        if connack.properties.response_information.is_some() && is_too_large(&connack) {
            connack.properties.response_information = None;
        }
        if is_too_large(&connack) {
            connack.properties.user_properties.clear();
        }
        if is_too_large(&connack) {
            // [MQTT-3.1.2-24] and nothing that it needs to know can be left out.
            let what = "CONNACK is larger than the client's Maximum Packet Size";
            return Err(Refusal::new(ReasonCode::PacketTooLarge, what));
        }
        let (key, session_present) = self.session_for(now, &connect, user, expiry_s, known);
        self.admit(key, principal, &rights);
        self.start(now, conn, key, &connect, rights, expiry_s);
        let connack = ConnAck { session_present, ..connack };
        // A resumed session may hold what is not durable yet, and one that is gone may have ended in a record
        // that is not: CONNACK speaks of either.
        let wait = Wait::Ticket(self.last_or_this_ticket());
        self.send(conn, wait, Packet::ConnAck(Box::new(connack)));
        self.note_network(now, conn, &connect);
        // [MQTT-4.4.0-1] what was not acknowledged goes out again, then what waits.
        self.drain(now, key);
        self.show_inbox(now, key);
        Ok(())
    }

    /// Checks what needs no session; returns the client id if it was given here.
    fn check_connect(
        &mut self,
        connect: &mut Connect,
        is_authenticated: bool,
    ) -> Result<Option<ByteString>, Refusal> {
        let (bytes, max) = (connect.client_id.len(), self.config.client_id_bytes_max);
        if bytes > max {
            let what = format!("the client id has {bytes} bytes, the limit is {max}");
            return Err(Refusal::new(ReasonCode::ClientIdentifierNotValid, what));
        }
        // The caller authenticates; it knows no such method if it brings no result.
        if let Some(method) = connect.properties.authentication_method.as_ref().filter(|_| !is_authenticated)
        {
            let what = format!("authentication method {method:?} is not served");
            return Err(Refusal::new(ReasonCode::BadAuthenticationMethod, what));
        }
        if !connect.client_id.is_empty() {
            return Ok(None);
        }
        // [MQTT-3.1.3-8] (3.1.1) without a client id there is no session to keep.
        if connect.version == ProtocolVersion::V311 && !connect.clean_start {
            let what = "an empty client id needs Clean Session";
            return Err(Refusal::new(ReasonCode::ClientIdentifierNotValid, what));
        }
        // [MQTT-3.1.3-6] the broker gives one, [MQTT-3.1.3-7] and tells it.
        let id = loop {
            let id = ByteString::from(format!("auto-{:016x}", self.rng.u64(..)));
            if self.sessions.of_client(&id).is_none() {
                break id;
            }
        };
        connect.client_id = id.clone();
        Ok(Some(id))
    }

    /// Does first what was due before this connection: its timer may come late, after a restart or a stall.
    /// A session past its expiry is not resumed, and a will past its delay is not cancelled by coming back.
    fn catch_up(&mut self, now: Now, client_id: &str) {
        let Some(key) = self.sessions.of_client(client_id) else { return };
        let no = self.sessions[key].no;
        self.will_due(now, no);
        self.session_expiry_due(now, no);
    }

    /// Ends, resumes or makes the session; says whether one was resumed.
    fn session_for(
        &mut self,
        now: Now,
        connect: &Connect,
        user: ByteString,
        expiry_s: u32,
        known: Option<SessionKey>,
    ) -> (SessionKey, bool) {
        if let Some(key) = known {
            self.take_over(now, key);
        }
        // The old connection's end may have ended the session too.
        let known = self.sessions.of_client(&connect.client_id);
        match known {
            // [MQTT-3.1.2-4] Clean Start discards the session.
            Some(key) if connect.clean_start && !self.has_planted(Planted::CleanStartResumes) => {
                self.end_session(now, key);
            }
            // [MQTT-3.1.2-5] otherwise it is resumed.
            Some(key) => return (key, true),
            None => {}
        }
        let no = SessionNo(self.next_session);
        self.next_session += 1;
        let mut session = Session::new(no, &connect.client_id, &user, &self.account);
        session.durable = expiry_s > 0;
        if session.durable {
            let (client_id, user) = (session.client_id.clone(), session.user.clone());
            self.write(&Entry::SessionOpened { session: no, client_id, user });
        }
        (self.sessions.insert(session), false)
    }

    /// [MQTT-3.1.4-3] an older connection of the client id is told and closed.
    fn take_over(&mut self, now: Now, key: SessionKey) {
        if let Some(old) = self.sessions[key].conn {
            self.send_disconnect(old, ReasonCode::SessionTakenOver, "another connection uses this client id");
            self.connection_ended(now, old, CloseReason::TakenOver);
        }
    }

    fn start(
        &mut self,
        now: Now,
        conn: ConnId,
        key: SessionKey,
        connect: &Connect,
        rights: Rights,
        expiry_s: u32,
    ) {
        let properties = &connect.properties;
        let keep_alive_s = self.keep_alive_s(connect);
        let limits = *self.sessions[key].limits();
        let receive_maximum_of_client =
            usize::from(properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get));
        let window = receive_maximum_of_client.min(self.inflight_max(&limits));
        let receive_maximum = self.receive_maximum(&limits);
        self.conns.insert(
            conn,
            Box::new(Conn {
                session: key,
                rights,
                version: connect.version,
                keep_alive_s,
                declared_s: 0,
                last_packet_ms: now.monotonic_ms,
                last_sent_ms: now.monotonic_ms,
                is_silent: false,
                path: None,
                is_unread: false,
                may_change_expiry: properties.session_expiry_interval_s.unwrap_or(0) > 0,
                problem_information: connect.version == ProtocolVersion::V5
                    && properties.request_problem_information.unwrap_or(true),
                receive_maximum_of_client,
                window,
                flight_sent_ms: None,
                receive_maximum,
                packet_bytes_max: properties.packet_bytes_max,
                aliases: Seldom::default(),
                held: self.account.hold(CONNECTION_BYTES),
                // [MQTT-3.1.2-26] none above the client's maximum, [MQTT-3.1.2-27] and none without one.
                topics: TopicAliases::new(
                    properties.topic_alias_max.unwrap_or(0).min(self.config.topic_alias_out_max),
                ),
                gate: 0,
                congested: false,
                unacknowledged: 0,
                answers_waiting: 0,
                asked: None,
            }),
        );
        self.stats.connects += 1;
        self.stats.connections_peak = self.stats.connections_peak.max(self.conns.len() as u64);
        let will = connect.will.as_deref().map(|will| Box::new(kept_will(will)));
        let session = &mut self.sessions[key];
        session.start_connection(conn);
        self.timers.clear(Deadline::SessionExpiry(session.no));
        self.timers.clear(Deadline::WillDelay(session.no));
        session.expiry_s = expiry_s;
        session.keep_will(will.clone());
        if session.durable {
            let session = session.no;
            self.write(&Entry::SessionConnected { session, expiry_s, will });
        }
        self.come_back(key);
        self.member_moved(key);
        self.presence_began(now, key, keep_alive_s);
        if keep_alive_s > 0 {
            self.timers.set(Deadline::KeepAlive(conn), now.monotonic_ms + silence_max_ms(keep_alive_s));
        }
    }

    fn keep_alive_s(&self, connect: &Connect) -> u16 {
        let (asked, max) = (connect.keep_alive_s, self.config.keep_alive_max_s);
        // 3.1.1 clients cannot be told another value, so theirs holds.
        if max > 0 && connect.version == ProtocolVersion::V5 && (asked == 0 || asked > max) {
            max
        } else {
            asked
        }
    }

    /// Makes the CONNACK of a connection that is taken, without a session so far.
    fn connack(
        &self,
        connect: &Connect,
        limits: &SessionLimits,
        user: &str,
        expiry_s: u32,
        assigned_client_id: Option<ByteString>,
        authentication: Option<Authentication>,
    ) -> ConnAck {
        let (session_present, reason) = (false, ReasonCode::Success);
        if connect.version == ProtocolVersion::V311 {
            return ConnAck { session_present, reason, properties: ConnAckProperties::default() };
        }
        let keep_alive_s = self.keep_alive_s(connect);
        let (authentication_method, authentication_data) =
            authentication.map(|a| (Some(a.method), a.data)).unwrap_or_default();
        let properties = ConnAckProperties {
            response_information: self.response_information(connect, user),
            authentication_method,
            authentication_data,
            session_expiry_interval_s: (connect.properties.session_expiry_interval_s.unwrap_or(0)
                != expiry_s)
                .then_some(expiry_s),
            receive_maximum: NonZeroU16::new(self.receive_maximum(limits)),
            packet_bytes_max: self.packet_bytes_max(limits),
            assigned_client_id,
            topic_alias_max: Some(self.config.topic_alias_max),
            // [MQTT-3.1.2-21] the value to use instead of the client's own.
            server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            shared_subscription_available: Some(true),
            ..ConnAckProperties::default()
        };
        ConnAck { session_present, reason, properties }
    }

    /// [MQTT-3.1.2-28] Response Information only for a client that asks for it; none when a name in it could
    /// be taken for levels or wildcards.
    fn response_information(&self, connect: &Connect, user: &str) -> Option<ByteString> {
        let template = &self.config.response_information;
        if connect.properties.request_response_information != Some(true) || template.is_empty() {
            return None;
        }
        let is_plain = |name: &str| !name.contains(['/', '+', '#', '%']);
        if (template.contains("%c") && !is_plain(&connect.client_id))
            || (template.contains("%u") && !is_plain(user))
        {
            return None;
        }
        let text = template.replace("%c", &connect.client_id).replace("%u", user);
        (text.len() <= usize::from(u16::MAX)).then(|| text.into())
    }

    /// The record that this turn writes, or the newest if it writes none; those that only say who came and went
    /// vouch for nothing.
    pub(super) fn last_or_this_ticket(&self) -> u64 {
        if self.turn.record.is_empty() { self.promised } else { self.gate.next_ticket() }
    }
}

fn fits(packet: &Packet, version: ProtocolVersion, limit: Option<NonZeroU32>) -> bool {
    limit.is_none_or(|limit| protocol::encoded_len(packet, version) <= limit.get() as usize)
}

/// Makes the will that the session keeps: without the names that are the broker's, and without the buffer
/// that it came in.
fn kept_will(will: &Will) -> Will {
    let mut will = will.clone();
    (will.topic, will.payload) = (compact(&will.topic), Bytes::copy_from_slice(&will.payload));
    strip_broker_properties(&mut will.properties.user_properties);
    compact_properties(&mut will.properties);
    will
}

fn wanted_expiry_s(connect: &Connect, max_s: u32) -> u32 {
    match (connect.version, connect.clean_start) {
        // 3.1.1 knows no interval: a session without Clean Session stays as long as the broker allows.
        (ProtocolVersion::V311, false) => max_s,
        (ProtocolVersion::V311, true) => 0,
        (ProtocolVersion::V5, _) => connect.properties.session_expiry_interval_s.unwrap_or(0),
    }
}
