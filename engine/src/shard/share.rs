//! What shared groups do with messages (MQTT 5.0 section 4.8.2): which member gets one, and who gets it
//! when that member cannot.
//!
//! A message goes to the connected member whose turn it is and that can take it at once; when none can, to
//! the connected one with the shortest queue; when none is connected, to one that is away and keeps it.
//! Nobody is looked at for longer than `LOOKED_AT_MAX` members. The publisher is a member like any other.
//!
//! What waits unsent goes on to another member when its member ends its session, unsubscribes, or is away
//! while others are connected. What is in flight stays with its member until that one's session ends
//! ([MQTT-4.8.2-4]): QoS 1 then goes to another member, QoS 2 ends ([MQTT-4.8.2-5]). A message that a member refused goes to nobody
//! else ([MQTT-4.8.2-6]). Each message leaves one session and enters the other in one record.
//!
//! A group with a member whose session lasts loses nothing with the process: what goes to a member whose
//! session ends with its connection is in the log too, under a session that the log does not know.

use std::collections::VecDeque;
use std::sync::Arc;

use bytestring::ByteString;
use protocol::{PacketId, QoS, TopicFilter};

use super::Shard;
use super::backlog::{ENDS_PER_TURN_MAX, Work};
use super::checkpoint::RECORD_BYTES;
use super::end::Ending;
use super::queue::Way;
use crate::Now;
use crate::memory::{Account, Held, entry_bytes};
use crate::message::{Delivery, Flag, Message, MsgNo, Origin};
use crate::planted::Planted;
use crate::receipt::Outcome;
use crate::record::{Entry, GroupNo, SessionNo, Source};
use crate::route::{SessionKey, Subscriber};
use crate::session::Session;
use crate::share::{Group, GroupKey, Members};
use crate::waiting::PlaceNo;

/// Members looked at for one message.
const LOOKED_AT_MAX: usize = 64;

/// Work of one turn of gathering.
const GATHERED_PER_TURN: usize = 2_000;

/// Places of a queue that are as much work to look at as one thing elsewhere.
const PLACES_PER_EFFORT: usize = 16;

/// What a session that ended leaves to its groups.
#[derive(Debug)]
pub(super) struct Remains {
    pub(super) client_id: ByteString,
    pub(super) user: ByteString,
    /// Whether the log knows the session.
    durable: bool,
    /// In the order of their sending, those in flight with their packet ids first.
    deliveries: VecDeque<(Option<PacketId>, Delivery)>,
    /// Their share of the shard's memory, messages' bodies excepted.
    held: Held,
}

impl Remains {
    /// Takes out of a session that ends what came to it by groups.
    pub(super) fn of(session: &mut Session, account: &Account) -> Option<Self> {
        let by_group = |d: &Delivery| matches!(d.origin, Origin::Group { .. });
        let flights = session.in_flight.iter().filter(|f| by_group(&f.delivery));
        let flights = flights.map(|f| (Some(f.packet_id), f.delivery.clone()));
        let waiting = session.queue.take_all_of_groups();
        let deliveries: VecDeque<_> = flights.chain(waiting.map(|d| (None, d))).collect();
        if deliveries.is_empty() {
            return None;
        }
        session.in_flight.retain(|f| !by_group(&f.delivery));
        let (client_id, user) = (session.client_id.clone(), session.user.clone());
        let entries: usize = deliveries.iter().map(|(_, d)| entry_bytes(d)).sum();
        let held = account.hold(entries + client_id.len() + user.len());
        Some(Self { client_id, user, durable: session.durable, deliveries, held })
    }

    /// What a session held that the log does not know, while it is replayed.
    pub(super) fn unknown(account: &Account) -> Self {
        let (deliveries, held) = (VecDeque::new(), account.hold(0));
        Self { client_id: ByteString::new(), user: ByteString::new(), durable: false, deliveries, held }
    }

    pub(super) fn push(&mut self, packet_id: Option<PacketId>, delivery: Delivery) {
        self.held.grow(entry_bytes(&delivery));
        self.deliveries.push_back((packet_id, delivery));
    }

    /// Gives one that waits its packet id; says whether it was there.
    pub(super) fn sent(&mut self, message: MsgNo, packet_id: PacketId) -> bool {
        let at = self.deliveries.iter().position(|(id, d)| id.is_none() && d.message.no == message);
        let Some((_, delivery)) = at.and_then(|at| self.deliveries.remove(at)) else { return false };
        // What has priority passed others that wait.
        let flights = self.deliveries.partition_point(|(id, _)| id.is_some());
        self.deliveries.insert(flights, (Some(packet_id), delivery));
        true
    }

    /// Whether the log has a delivery of it.
    fn logs(&self, delivery: &Delivery) -> bool {
        self.durable || delivery.is_kept()
    }

    /// The names that the log knows of its session.
    pub(super) fn logged_names(&self) -> (ByteString, ByteString) {
        if self.durable { (self.client_id.clone(), self.user.clone()) } else { Default::default() }
    }

    /// What of it the log has.
    pub(super) fn logged(&self) -> impl Iterator<Item = (Option<PacketId>, &Delivery)> {
        self.iter().filter(|(_, delivery)| self.logs(delivery))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<PacketId>, &Delivery)> {
        self.deliveries.iter().map(|(packet_id, delivery)| (*packet_id, delivery))
    }

    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.held.bytes()
    }

    fn remove(&mut self, at: usize) -> Option<(Option<PacketId>, Delivery)> {
        let removed = self.deliveries.remove(at)?;
        self.held.shrink(entry_bytes(&removed.1));
        Some(removed)
    }

    /// Forgets one that the log says is no longer here.
    pub(super) fn forget(&mut self, message: MsgNo, source: Source, packet_id: Option<PacketId>) {
        let is_it = |(id, d): &(Option<PacketId>, Delivery)| {
            d.message.no == message && d.source() == source && *id == packet_id
        };
        if let Some(at) = self.deliveries.iter().position(is_it) {
            self.remove(at);
        }
    }
}

/// What a member must be able to take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    pub(super) topic: &'a str,
    pub(super) qos: QoS,
    pub(super) in_conversation: bool,
    /// Bytes in a queue's account.
    pub(super) bytes: usize,
    /// Bytes that its PUBLISH has at least.
    pub(super) packet_bytes_min: usize,
    /// Whether recipients must be known that get it later out of the conversation.
    pub(super) is_tracked: bool,
}

impl<'a> Load<'a> {
    pub(super) fn of(message: &'a Message) -> Self {
        Self {
            topic: &message.topic,
            qos: message.qos,
            in_conversation: message.seq.is_some(),
            bytes: message.bytes(),
            packet_bytes_min: message.topic.len() + message.payload_bytes as usize,
            is_tracked: false,
        }
    }
}

/// What a member would do with a message, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Sends,
    /// Keeps it, behind so many others.
    Keeps(usize),
    /// Its queue is full.
    Full,
    /// Cannot take it: not at this QoS, or it is too large.
    Drops,
}

impl Shard {
    /// Makes the group of a filter if it is not there.
    pub(super) fn open_group(&mut self, filter: &TopicFilter) {
        if filter.share.is_some() && self.groups.named(&filter.full).is_none() {
            let group = self.groups.open(&filter.full);
            self.write(&Entry::Group { group, filter: filter.full.clone() });
        }
    }

    /// Makes a session a member, or replaces its subscription. The group must be there.
    pub(super) fn join_group(&mut self, key: GroupKey, member: Subscriber) {
        let session = &self.sessions[member.session];
        if self.groups.join(key, member, session.conn.is_some(), session.durable) {
            let group = self.groups.get(key);
            let (filter, form) = (group.filter.clone(), group.share.form);
            self.routes_mut(form).insert_group(&filter, key);
        }
        self.gather_later(key);
    }

    /// Ends a membership; one that is not there is ignored.
    pub(super) fn leave_group(&mut self, full: &str, session: SessionKey, is_durable: bool) {
        let Some(key) = self.groups.named(full) else { return };
        if let Some(filter) = self.groups.leave(key, session, is_durable) {
            let form = self.groups.get(key).share.form;
            self.routes_mut(form).remove_group(&filter, key);
        }
    }

    /// Has what waits at a session by a group that it left go to the members, if there are any.
    pub(super) fn pass_on_later(&mut self, full: &str, session: SessionKey) {
        let session = &self.sessions[session];
        let group = self.groups.named(full).map(|key| self.groups.get(key).share.no);
        if let Some(group) = group.filter(|group| session.queue.has_group(*group)) {
            self.backlog.push_back(Work::PassOn { session: session.no, group });
        }
    }

    /// A member's connection began or ended, and its session goes on.
    pub(super) fn member_moved(&mut self, session: SessionKey) {
        let s = &self.sessions[session];
        let is_connected = s.conn.is_some();
        let groups: Vec<_> = s.subscriptions.keys().filter_map(|full| self.groups.named(full)).collect();
        for key in groups {
            if self.groups.set_connected(key, session, is_connected) {
                self.gather_later(key);
            }
        }
    }

    /// Chooses the member that gets a message.
    pub(super) fn choose(&self, group: &Group, load: Load<'_>) -> Option<Subscriber> {
        let connected = self.best(&group.connected, load);
        let kept = |(standing, _): &(Standing, _)| *standing < Standing::Full;
        // Somebody who is away only if nobody connected can take it.
        let away = if connected.is_some_and(|c| kept(&c)) { None } else { self.best(&group.away, load) };
        let chosen = connected.into_iter().chain(away).min_by_key(|(standing, _)| *standing);
        chosen.map(|(_, member)| member)
    }

    fn best(&self, members: &Members, load: Load<'_>) -> Option<(Standing, Subscriber)> {
        let mut best: Option<(Standing, Subscriber)> = None;
        for member in members.in_turn().take(LOOKED_AT_MAX) {
            let Some(standing) = self.standing(*member, load) else { continue };
            if best.is_none_or(|(before, _)| standing < before) {
                best = Some((standing, *member));
            }
            if standing == Standing::Sends {
                break;
            }
        }
        best
    }

    /// `None` where a member may not have it: its rights changed, and its subscription is still to be taken
    /// away.
    fn standing(&self, member: Subscriber, load: Load<'_>) -> Option<Standing> {
        let session = &self.sessions[member.session];
        let conn = session.conn.and_then(|conn| self.conns.get(&conn));
        if self.is_suspect(member.session) {
            let may_read = match conn.map(|c| &c.rights).filter(|rights| rights.are_of(&self.rules)) {
                Some(rights) => rights.may_read(load.topic),
                None => self.rights_of(session).is_none_or(|rights| rights.may_read(load.topic)),
            };
            if !may_read {
                return None;
            }
        }
        let limit = conn.and_then(|c| c.packet_bytes_max).map_or(usize::MAX, |l| l.get() as usize);
        if load.packet_bytes_min > limit {
            return Some(Standing::Drops);
        }
        let qos = member.options.qos.min(load.qos);
        Some(match self.way(member.session, qos, load.in_conversation) {
            Way::Send(_) => Standing::Sends,
            Way::Queue if !self.is_full_for(member.session, 1, load.bytes) => Standing::Keeps(session.held()),
            Way::Queue => Standing::Full,
            Way::Drop(_) => Standing::Drops,
        })
    }

    /// Whether the log must have a message for the sake of other members: see [`Origin::Group`].
    pub(super) fn is_kept(&self, group: &Group, to: Subscriber, load: Load<'_>) -> bool {
        let is_stored = load.in_conversation || to.options.qos.min(load.qos) > QoS::AtMostOnce;
        is_stored && group.is_durable() && !self.sessions[to.session].durable
    }

    /// Gives the turn to the next member.
    pub(super) fn chose(&mut self, group: GroupNo, session: SessionKey) {
        if let Some(key) = self.groups.numbered(group) {
            self.groups.get_mut(key).chose(session);
        }
    }

    /// Hands on what a session that ended left to its groups.
    pub(super) fn hand_over(&mut self, now: Now, session: SessionNo) {
        for _ in 0..ENDS_PER_TURN_MAX {
            if self.turn.record.len() >= RECORD_BYTES {
                break;
            }
            let Some(remains) = self.remains.get_mut(&session) else { return };
            if remains.iter().next().is_some_and(|(_, next)| !next.message.body.is_here()) {
                return self.fetch_for_group(session, None, Work::HandOver(session));
            }
            let Some((packet_id, delivery)) = remains.remove(0) else {
                self.remains.remove(&session);
                return;
            };
            let logged = remains.logs(&delivery);
            let (message, source) = (delivery.message.no, delivery.source());
            if self.has_planted(Planted::HandOverLost) {
                continue;
            }
            let from = Ending { session, message, source, packet_id, logged };
            // [MQTT-4.8.2-5] QoS 2 that was in flight goes to nobody else.
            let may_go = packet_id.is_none()
                || delivery.qos < QoS::ExactlyOnce
                || self.has_planted(Planted::HandOverTwice);
            let expired = packet_id.is_none() && delivery.message.expiry.is_some_and(|e| e.is_past(now));
            let to = self.group_of(&delivery).filter(|_| may_go && !expired);
            let to = to.and_then(|key| self.choose(self.groups.get(key), Load::of(&delivery.message)));
            match to {
                Some(to) if self.store_full && !logged && self.sessions[to.session].durable => {
                    self.end(now, from, Outcome::Dropped("queue_full"));
                }
                Some(to) => self.give(now, from, delivery, to),
                None if expired => self.end(now, from, Outcome::Expired),
                None => self.end(now, from, Outcome::Dropped("session_ended")),
            }
        }
        self.backlog.push_back(Work::HandOver(session));
    }

    /// Gives a message that a session may not have any more to another member of the group that brought it;
    /// the session has taken it out, or will. Says whether somebody could take it.
    pub(super) fn give_elsewhere(
        &mut self,
        now: Now,
        key: SessionKey,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
    ) -> bool {
        let Some(group) = self.group_of(delivery) else { return false };
        let to = self.taker(group, Load::of(&delivery.message)).ok();
        let Some(to) = to.filter(|to| to.session != key) else { return false };
        let session = &self.sessions[key];
        let (session, logged) = (session.no, session.logs(delivery));
        let (message, source) = (delivery.message.no, delivery.source());
        self.give(now, Ending { session, message, source, packet_id, logged }, delivery.clone(), to);
        true
    }

    fn group_of(&self, delivery: &Delivery) -> Option<GroupKey> {
        match &delivery.origin {
            Origin::Group { share, .. } => self.groups.numbered(share.no),
            _ => None,
        }
    }

    /// Takes a message from one session and gives it to another, in one record.
    fn give(&mut self, now: Now, from: Ending, delivery: Delivery, to: Subscriber) {
        self.effort += LOOKED_AT_MAX / 2;
        let Ending { session, message, source, packet_id, logged } = from;
        let group = self.group_of(&delivery).map(|key| self.groups.get(key));
        let Delivery { message: mut body, mut origin, .. } = delivery;
        if let (Origin::Group { kept, .. }, Some(group)) = (&mut origin, group) {
            *kept = self.is_kept(group, to, Load::of(&body));
        }
        let will_be_logged =
            self.sessions[to.session].durable || matches!(origin, Origin::Group { kept: true, .. });
        if logged {
            // It has no final state yet.
            self.write(&Entry::Ended { session, message, source, packet_id, state: None });
            if !will_be_logged {
                // Sent before that is durable, it could be sent again to a third one after a crash.
                let (record, is_gated) = (self.gate.next_ticket(), true);
                let is_written = Flag::default();
                body = Arc::new(Message { record, is_gated, is_written, ..Message::clone(&body) });
            }
        } else if will_be_logged {
            self.write_message(&body, false);
        }
        if let Source::Group(group) = source {
            self.receipts.hold(message, group, self.sessions[to.session].no);
            self.chose(group, to.session);
        }
        let retain = body.retain && to.options.retain_as_published;
        let (qos, identifier) = (to.options.qos.min(body.qos), Some(to.identifier));
        let subscription_identifiers = identifier.filter(|i| *i != 0).into_iter().collect();
        let delivery = Delivery { message: body, qos, retain, origin, subscription_identifiers };
        self.deliver(now, to.session, delivery);
    }

    /// Hands on what waits at a session by a group that it has left.
    pub(super) fn pass_on(&mut self, now: Now, session: SessionNo, group: GroupNo) {
        let (Some(from), Some(key)) = (self.sessions.numbered(session), self.groups.numbered(group)) else {
            return;
        };
        let group_now = self.groups.get(key);
        if group_now.has(from) || group_now.is_empty() {
            return;
        }
        match self.pass_waiting(now, from, key) {
            Passed::Portion => self.backlog.push_back(Work::PassOn { session, group }),
            Passed::NoBody => self.fetch_for_group(session, Some(group), Work::PassOn { session, group }),
            Passed::All | Passed::NoRoom => {}
        }
    }

    /// Has what waits at members who are away go to those who are connected.
    fn gather_later(&mut self, key: GroupKey) {
        let group = self.groups.get_mut(key);
        if group.gathering().is_none() && !group.connected.is_empty() && !group.away.is_empty() {
            group.set_gathering(Some(0));
            let no = group.share.no;
            self.groups.set_unfinished(no, false);
            self.backlog.push_back(Work::Gather(no));
        }
    }

    /// Tries again what found no room, now that this member's queue is empty.
    pub(super) fn gather_more(&mut self, session: SessionKey) {
        if !self.groups.is_any_unfinished() {
            return;
        }
        for key in self.groups.unfinished_of(session) {
            let no = self.groups.get(key).share.no;
            self.groups.set_unfinished(no, false);
            self.gather_later(key);
        }
    }

    pub(super) fn gather(&mut self, now: Now, no: GroupNo) {
        let Some(key) = self.groups.numbered(no) else { return };
        let enough = self.effort + GATHERED_PER_TURN;
        while self.effort < enough {
            self.effort += 1;
            let group = self.groups.get_mut(key);
            let place = group.gathering().filter(|_| !group.connected.is_empty());
            let member = place.and_then(|place| Some((place, group.away.get(place)?.session)));
            let Some((place, member)) = member else { return group.set_gathering(None) };
            let passed = match self.sessions[member].queue.has_group(no) {
                true => self.pass_waiting(now, member, key),
                false => Passed::All,
            };
            let group = self.groups.get_mut(key);
            match passed {
                Passed::All => group.set_gathering(Some(place + 1)),
                Passed::Portion => break,
                Passed::NoBody => {
                    let member = self.sessions[member].no;
                    return self.fetch_for_group(member, Some(no), Work::Gather(no));
                }
                Passed::NoRoom => {
                    group.set_gathering(None);
                    self.groups.set_unfinished(no, true);
                    return;
                }
            }
        }
        self.backlog.push_back(Work::Gather(no));
    }

    /// Gives a portion of what waits at a session by a group to members that can take it.
    fn pass_waiting(&mut self, now: Now, from: SessionKey, key: GroupKey) -> Passed {
        let no = self.groups.get(key).share.no;
        let (mut place, mut passed) = (PlaceNo::default(), 0);
        loop {
            let session = &self.sessions[from];
            let Some((next, looked_at)) = session.queue.next_of_group(no, place) else { return Passed::All };
            self.effort += looked_at / PLACES_PER_EFFORT;
            if passed == ENDS_PER_TURN_MAX || self.turn.record.len() >= RECORD_BYTES {
                return Passed::Portion;
            }
            let Some(delivery) = session.queue.get(next) else { return Passed::All };
            let is_expired = delivery.message.expiry.is_some_and(|e| e.is_past(now));
            if !is_expired && !delivery.message.body.is_here() {
                return Passed::NoBody;
            }
            let to = if is_expired { None } else { Some(self.taker(key, Load::of(&delivery.message))) };
            let to = match to.transpose() {
                Ok(to) => to,
                Err(why) => return why,
            };
            let (logged, session_no) = (session.logs(delivery), session.no);
            let Some(delivery) = self.sessions[from].take_waiting(next, &mut self.bodies) else {
                return Passed::All;
            };
            let (message, source) = (delivery.message.no, delivery.source());
            let ending = Ending { session: session_no, message, source, packet_id: None, logged };
            match to {
                Some(to) => self.give(now, ending, delivery, to),
                None => self.end(now, ending, Outcome::Expired),
            }
            (place, passed) = (next, passed + 1);
        }
    }

    /// The member that a message is taken from another for: one that sends or keeps it, connected if any is.
    fn taker(&self, key: GroupKey, load: Load<'_>) -> Result<Subscriber, Passed> {
        let group = self.groups.get(key);
        let members = if group.connected.is_empty() { &group.away } else { &group.connected };
        match self.best(members, load) {
            Some((Standing::Drops, _)) => Err(Passed::All),
            Some((Standing::Full, _)) | None => Err(Passed::NoRoom),
            Some((_, member)) => Ok(member),
        }
    }
}

/// How far the handing on of what waits at one session came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    /// All that the members can take: what is larger than any of them allows does not become smaller.
    All,
    /// As much as one turn may move.
    Portion,
    /// Nobody has room for the next one.
    NoRoom,
    /// The next one's body must be read first.
    NoBody,
}
