//! Rights in force: asked before each publish and subscription, and asked again of what a session already
//! has when they change.
//!
//! When the node's rules change, every session may have what it may have no more: subscriptions, messages
//! that wait, messages that would be sent again. They are checked in portions, and until a session was
//! checked each message is checked before it goes out to it; so nothing leaves after a change that the new
//! rules forbid. What a connected client was sent before stays with it: only a resend is refused.
//!
//! The principal of a session without connection is the one seen last; after a restart it is unknown until
//! somebody connects, and nothing is sent before.

use std::sync::Arc;

use bytestring::ByteString;
use protocol::{PacketId, QoS, ReasonCode};

use super::Shard;
use super::accept::{Publisher, Refused};
use super::backlog::{ENDS_PER_TURN_MAX, Work};
use super::checkpoint::RECORD_BYTES;
use super::end::Ending;
use crate::acl::Acl;
use crate::message::{Delivery, Message, MsgNo, Origin};
use crate::principal::Principal;
use crate::receipt::Outcome;
use crate::record::{Entry, SessionNo, Source};
use crate::rights::{NodeRules, Rights, topics_of};
use crate::route::SessionKey;
use crate::session::{FlightState, Recheck, Session};
use crate::{CloseReason, ConnId, Now, OnFull};

/// Why a message ends that its recipient may not read any more (docs/protocol.md section 4).
pub(super) const NOT_AUTHORIZED: &str = "not_authorized";

/// Places of the session table looked at in one turn.
const SESSIONS_PER_TURN: usize = 64;

/// Filters, messages in flight or messages that wait checked in one turn.
const CHECKS_PER_TURN: usize = 32;

impl Shard {
    /// Takes the node's rules; every session is checked again.
    pub(super) fn set_acl(&mut self, now: Now, acl: Arc<Acl>) {
        self.rules = Arc::new(NodeRules::new(acl));
        self.rights_epoch += 1;
        self.checks.push_back(Work::CheckAll { next: 0, epoch: self.rights_epoch });
        self.show_inboxes_again(now, None);
    }

    /// Takes another principal of a connection. Its user is the same, or the connection ends: a session
    /// belongs to the user who created it.
    pub(super) fn set_principal(&mut self, now: Now, conn: ConnId, principal: Principal) {
        let Some(key) = self.conns.get(&conn).map(|c| c.session) else { return };
        let session = &self.sessions[key];
        let user = user_of(&principal, &session.client_id);
        if user != session.user {
            let what = format!("the connection belongs to user {:?}, not to {user:?}", session.user);
            self.send_disconnect(conn, ReasonCode::NotAuthorized, &what);
            return self.connection_ended(now, conn, CloseReason::Ended(what));
        }
        let rights = Rights::new(&self.rules, &principal, &session.client_id, &user);
        self.admit(key, principal, &rights);
        let window_max = self.inflight_max(self.sessions[key].limits());
        if let Some(c) = self.conns.get_mut(&conn) {
            c.rights = rights;
            c.window = c.receive_maximum_of_client.min(window_max);
        }
        self.show_inboxes_again(now, Some(key));
    }

    /// Notes who a session's client is now, and has what it holds checked if it could have been another's.
    pub(super) fn admit(&mut self, key: SessionKey, principal: Principal, rights: &Rights) {
        let principal = self.shared_principal(key, principal);
        let session = &mut self.sessions[key];
        let is_same = session
            .principal
            .as_ref()
            .is_some_and(|before| before.rules == principal.rules && before.groups == principal.groups);
        self.some_reject |= principal.limits.on_full == Some(OnFull::Reject);
        session.principal = Some(principal);
        let is_checked = is_same && session.checked_epoch == self.rights_epoch && !session.holds_unreadable;
        if rights.is_unrestricted() || session.holds_nothing() || is_checked {
            session.is_checked_by(self.rights_epoch);
        } else {
            self.check_later(key);
        }
        // Its bounds may be lower than those before.
        self.trim_later(key);
    }

    /// Returns a principal that is kept once, however many clients one after the other have it: those that are
    /// anonymous, or come with one user.
    fn shared_principal(&mut self, key: SessionKey, principal: Principal) -> Arc<Principal> {
        let known = [self.sessions[key].principal.as_ref(), Some(&self.principal)];
        if let Some(same) = known.into_iter().flatten().find(|known| ***known == principal) {
            return Arc::clone(same);
        }
        self.principal = Arc::new(principal);
        Arc::clone(&self.principal)
    }

    fn check_later(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        (session.checked_epoch, session.holds_unreadable) = (0, false);
        if session.recheck.replace(Box::default()).is_none() {
            self.checks.push_back(Work::Check(session.no));
        }
    }

    /// Says whether what the session holds is yet to be checked by the rules of now.
    pub(super) fn is_suspect(&self, key: SessionKey) -> bool {
        self.sessions[key].checked_epoch != self.rights_epoch
    }

    /// Returns a connection's rights, brought up to the node's rules of now.
    fn rights_in_force(&mut self, conn: ConnId) -> Option<&mut Rights> {
        let c = self.conns.get_mut(&conn)?;
        if !c.rights.are_of(&self.rules) {
            let session = &self.sessions[c.session];
            let principal = session.principal.as_deref()?;
            c.rights = Rights::new(&self.rules, principal, &session.client_id, &session.user);
        }
        Some(&mut c.rights)
    }

    /// Says whether a message may go out to the connection of a session that is suspect.
    pub(super) fn may_send(&mut self, conn: ConnId, topic: &str) -> bool {
        self.rights_in_force(conn).is_none_or(|rights| rights.may_read(topic))
    }

    /// Asks whether the session's connection may publish to the topic. A will is asked for by itself.
    pub(super) fn check_publish(&mut self, key: SessionKey, topic: &ByteString) -> Result<(), Refused> {
        let Some(conn) = self.sessions[key].conn else { return Ok(()) };
        let Some(rights) = self.rights_in_force(conn) else { return Ok(()) };
        rights.may_publish(topic).map_err(|denied| Refused::not_authorized(&denied))
    }

    /// Asks whether a will may be published now: rules may have changed since it was left. Of a session that
    /// nobody connected to since a restart it is not known who left it; that one was asked for then.
    pub(super) fn check_will_now(&self, by: &Publisher, topic: &ByteString) -> Result<(), Refused> {
        let Some(principal) = &by.principal else { return Ok(()) };
        let mut rights = Rights::new(&self.rules, principal, &by.client, &by.user);
        rights.may_publish(topic).map_err(|denied| Refused::not_authorized(&denied))
    }

    /// Asks whether the connection may subscribe.
    pub(super) fn check_subscribe(
        &mut self,
        key: SessionKey,
        filter: &str,
    ) -> Result<(), (ReasonCode, String)> {
        let Some(conn) = self.sessions[key].conn else { return Ok(()) };
        let Some(rights) = self.rights_in_force(conn) else { return Ok(()) };
        rights.may_subscribe(topics_of(filter)).map_err(|d| (ReasonCode::NotAuthorized, d.to_string()))
    }

    pub(super) fn rights_of(&self, session: &Session) -> Option<Rights> {
        let principal = session.principal.as_deref()?;
        Some(Rights::new(&self.rules, principal, &session.client_id, &session.user))
    }

    /// Looks at the next sessions after the node's rules changed.
    pub(super) fn check_all(&mut self, next: SessionKey, epoch: u32) {
        if epoch != self.rights_epoch {
            return;
        }
        let end = self.sessions.capacity().min(next + SESSIONS_PER_TURN);
        for key in next..end {
            let Some(session) = self.sessions.get(key).filter(|s| s.checked_epoch != epoch) else { continue };
            // Who it is will be known when somebody connects.
            let Some(principal) = &session.principal else { continue };
            if self.rules.leave_unrestricted(principal) {
                self.sessions[key].is_checked_by(epoch);
            } else {
                self.check_later(key);
            }
        }
        self.effort += end - next.min(end);
        if end < self.sessions.capacity() {
            self.checks.push_back(Work::CheckAll { next: end, epoch });
        }
    }

    /// Checks the next portion of what a session has: subscriptions first, so that nothing new comes that
    /// would have to be checked.
    pub(super) fn check(&mut self, now: Now, no: SessionNo) {
        let Some(key) = self.sessions.numbered(no) else { return };
        let Some(rights) = self.rights_of(&self.sessions[key]) else { return };
        let Some(mut recheck) = self.sessions[key].recheck.take() else { return };
        recheck.begin(&mut self.sessions[key], self.rights_epoch);
        // Each check may go through all rules, and they were picked for this turn.
        self.effort += CHECKS_PER_TURN * (1 + rights.rules());
        let mut absent = None;
        let is_done = self.check_subscriptions(now, key, &mut recheck, &rights)
            && self.check_flight(now, key, &mut recheck, &rights, &mut absent);
        self.sessions[key].recheck = Some(recheck);
        if is_done && self.check_queue(now, key, &rights, &mut absent) {
            self.sessions[key].is_checked_by(self.rights_epoch);
            if self.sessions[key].conn.is_some() {
                self.drain_later(key);
            }
        } else if let Some(message) = absent {
            self.fetch_one(message, Work::Check(no));
        } else {
            self.checks.push_back(Work::Check(no));
        }
    }

    /// Takes away subscriptions that are not allowed any more. Says whether all were checked.
    fn check_subscriptions(
        &mut self,
        now: Now,
        key: SessionKey,
        recheck: &mut Recheck,
        rights: &Rights,
    ) -> bool {
        for _ in 0..CHECKS_PER_TURN {
            let Some(filter) = recheck.filters.pop() else { return true };
            let Err(denied) = rights.may_subscribe(topics_of(&filter)) else { continue };
            self.unsubscribe_one(key, &filter);
            let what = format!("subscription to {filter:?} removed: {denied}");
            self.tell_error(now, key, &filter, &what);
        }
        recheck.filters.is_empty()
    }

    /// Ends what would be sent again and may not be. What is with the client on this connection stays. `absent` is a
    /// message that must be read first.
    fn check_flight(
        &mut self,
        now: Now,
        key: SessionKey,
        recheck: &mut Recheck,
        rights: &Rights,
        absent: &mut Option<Arc<Message>>,
    ) -> bool {
        for _ in 0..CHECKS_PER_TURN {
            if self.turn.record.len() >= RECORD_BYTES {
                return false;
            }
            let Some(packet_id) = recheck.in_flight.pop() else { return true };
            let session = &mut self.sessions[key];
            let is_connected = session.conn.is_some();
            let Some(entry) = session.in_flight_mut(packet_id) else { continue };
            if entry.state != FlightState::Sent || rights.may_read(&entry.delivery.message.topic) {
                continue;
            }
            if is_connected && entry.on_this_connection {
                session.holds_unreadable = true;
            } else if needs_body(&entry.delivery) {
                recheck.in_flight.push(packet_id);
                *absent = Some(entry.delivery.message.clone());
                return false;
            } else {
                self.end_unreadable(now, key, packet_id);
            }
        }
        recheck.in_flight.is_empty()
    }

    /// Ends what waits and may not be read. `absent` is a message that must be read first.
    fn check_queue(
        &mut self,
        now: Now,
        key: SessionKey,
        rights: &Rights,
        absent: &mut Option<Arc<Message>>,
    ) -> bool {
        let mut ended = 0;
        for _ in 0..CHECKS_PER_TURN {
            let session = &mut self.sessions[key];
            let Some(place) = session.queue.check_next() else { return true };
            let Some(outline) = session.queue.outline(place) else { return true };
            if rights.may_read(outline.topic) {
                continue;
            }
            // By its number, as the log says it: of several copies the oldest.
            let (message, source): (MsgNo, Source) = (outline.no, outline.source);
            if let Some(delivery) = session.queue.get(place).filter(|delivery| needs_body(delivery)) {
                *absent = Some(delivery.message.clone());
                session.queue.check_from(place);
                return false;
            }
            let dropped = session.remove_waiting(message, source, &mut self.bodies);
            let Some(dropped) = dropped else { return true };
            if !self.give_elsewhere(now, key, &dropped, None) {
                self.end_waiting(now, key, &dropped, Outcome::Dropped(NOT_AUTHORIZED));
            }
            ended += 1;
            if ended >= ENDS_PER_TURN_MAX || self.turn.record.len() >= RECORD_BYTES {
                return false;
            }
        }
        false
    }

    /// Ends a message in flight that may not be sent again. The receiver may know the packet id of a QoS 2
    /// one: PUBREL makes it free on both sides, or the next message under this id would be taken for this one.
    pub(super) fn end_unreadable(&mut self, now: Now, key: SessionKey, packet_id: PacketId) {
        let outcome = Outcome::Dropped(NOT_AUTHORIZED);
        let session = &mut self.sessions[key];
        let no = session.no;
        let Some(entry) = session.in_flight(packet_id) else { return };
        if entry.delivery.qos != QoS::ExactlyOnce {
            let delivery = entry.delivery.clone();
            if self.give_elsewhere(now, key, &delivery, Some(packet_id)) {
                self.sessions[key].end_in_flight(packet_id);
                return;
            }
            return self.end_in_flight(now, key, packet_id, outcome);
        }
        let (message, source) = (entry.delivery.message.no, entry.delivery.source());
        let logged = session.logs(&entry.delivery);
        session.release(packet_id);
        if logged {
            self.write(&Entry::Received { session: no, packet_id });
        }
        self.end(now, Ending { session: no, message, source, packet_id: None, logged: false }, outcome);
    }
}

impl Refused {
    pub(super) fn not_authorized(denied: &dyn std::fmt::Display) -> Self {
        Self { reason: ReasonCode::NotAuthorized, what: denied.to_string() }
    }
}

/// Whether a message must be read before another member of its group can have it, for whom the log may not keep it.
fn needs_body(delivery: &Delivery) -> bool {
    matches!(delivery.origin, Origin::Group { .. }) && !delivery.message.body.is_here()
}

/// Returns the user that a principal's session belongs to.
pub(super) fn user_of(principal: &Principal, client_id: &str) -> ByteString {
    principal.user.clone().unwrap_or_else(|| format!("anon:{client_id}").into())
}
