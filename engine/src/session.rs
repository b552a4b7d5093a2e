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

mod in_flight;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytestring::ByteString;
use protocol::{PacketId, SubscribeOptions, Will};
use rustc_hash::FxBuildHasher;

use crate::ConnId;
use crate::behind::Behind;
use crate::body::{Bodies, Body};
use crate::gap::Gaps;
use crate::memory::{Account, Held, INCOMING_BYTES, SESSION_BYTES, SUBSCRIPTION_BYTES};
use crate::message::{Delivery, MessageId, MsgNo, queue_bytes};
use crate::poison::{SET_ASIDE_BYTES, SetAside, SetAsides, Suspicion};
use crate::principal::{Principal, SessionLimits};
use crate::record::{Recipient, SessionNo, Source};
use crate::replay::Replays;
use crate::seldom::Seldom;
use crate::subscriptions::Subscriptions;
use crate::waiting::{Make, PlaceNo, Waiting, Written};

pub(crate) use in_flight::{FlightState, InFlight};

/// One subscription of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) options: SubscribeOptions,
    pub(crate) identifier: Option<u32>,
}

/// A client's QoS 2 publish between PUBREC and PUBREL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) seq: Option<u64>,
    pub(crate) id: MessageId,
}

/// How far a session was checked after its rights changed.
#[derive(Debug, Default)]
pub(crate) struct Recheck {
    epoch: u32,
    /// What is still to be checked: subscriptions,
    pub(crate) filters: Vec<ByteString>,
    /// and messages in flight.
    pub(crate) in_flight: Vec<PacketId>,
}

impl Recheck {
    /// Begins, unless it was begun by the same rules.
    pub(crate) fn begin(&mut self, session: &mut Session, epoch: u32) {
        if self.epoch == epoch {
            return;
        }
        let mut filters: Vec<ByteString> = session.subscriptions.keys().map(ByteString::from).collect();
        filters.sort_unstable_by(|a, b| b.cmp(a));
        let in_flight = session.in_flight.iter().rev().map(|f| f.packet_id).collect();
        if let Some(queue) = session.queue.get_mut() {
            queue.check_anew();
        }
        *self = Self { epoch, filters, in_flight };
    }
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
    /// When the connection ended, on both clocks; the monotonic one may be negative: before this process began. It is
    /// `CONNECTED` while connected.
    disconnected: (i64, u64),
    /// Published when its connection ends; change it only by `keep_will` and `take_will`.
    pub(crate) will: Option<Box<Will>>,
    /// When a will that waits is due, monotonic.
    pub(crate) will_due_ms: Option<i64>,
    pub(crate) subscriptions: Subscriptions,
    /// Changed by the methods here, which count it.
    pub(crate) queue: Seldom<Waiting>,
    pub(crate) in_flight: Seldom<VecDeque<InFlight>>,
    pub(crate) window_used: usize,
    /// PUBRECs taken.
    released: u64,
    pub(crate) incoming: Seldom<HashMap<PacketId, Incoming, FxBuildHasher>>,
    next_packet_id: u16,
    /// How many ids from the next one on are known to be free.
    free_ids: u16,
    /// Who is connected, or was last; `None` after a restart until somebody connects.
    pub(crate) principal: Option<Arc<Principal>>,
    /// Its share of the shard's memory: all that is here, messages' bodies excepted.
    share: Held,
    /// By which of the node's rules all it has was checked, 0 = by none.
    pub(crate) checked_epoch: u32,
    /// The check that is under way.
    pub(crate) recheck: Option<Box<Recheck>>,
    /// Messages are with the client that may not be sent to it again.
    pub(crate) holds_unreadable: bool,
    /// It gets all of its user's conversations.
    pub(crate) is_hearer: bool,
    /// What came while it had no connection, if it gets such by cursors, and has not got these yet.
    pub(crate) behind: Option<Box<Behind>>,
    /// How far it is in stored messages that it asked for.
    pub(crate) replays: Option<Box<Replays>>,
    /// Numbers of conversations that it will not get and was not told of.
    pub(crate) gaps: Option<Box<Gaps>>,
    /// What its connections ended with, if that may be a message's doing.
    pub(crate) suspicion: Option<Box<Suspicion>>,
    /// Messages that were set aside here; changed by the methods here, which count it.
    pub(crate) set_aside: Option<Box<SetAsides>>,
    /// Its queue is to be trimmed after this turn.
    pub(crate) is_over_limit: bool,
    /// It is to be drained further after this turn.
    pub(crate) is_draining: bool,
    /// What it sends next is being read from the log.
    pub(crate) is_fetching: bool,
}

/// Stands for the time at which a connection ended that has not ended.
const CONNECTED: i64 = i64::MIN;

impl Session {
    pub(crate) fn new(no: SessionNo, client_id: &str, user: &str, account: &Account) -> Self {
        let (client_id, user) = names(client_id, user);
        Self {
            share: account.hold(SESSION_BYTES + client_id.len() + user.len()),
            no,
            client_id,
            user,
            expiry_s: 0,
            durable: false,
            conn: None,
            disconnected: (CONNECTED, 0),
            will: None,
            will_due_ms: None,
            subscriptions: Subscriptions::default(),
            queue: Seldom::default(),
            in_flight: Seldom::default(),
            window_used: 0,
            released: 0,
            incoming: Seldom::default(),
            next_packet_id: 1,
            free_ids: 0,
            principal: None,
            checked_epoch: 0,
            recheck: None,
            holds_unreadable: false,
            suspicion: None,
            set_aside: None,
            is_hearer: false,
            behind: None,
            replays: None,
            gaps: None,
            is_over_limit: false,
            is_draining: false,
            is_fetching: false,
        }
    }

    /// Keeps a message that was set aside; returns the oldest that there is no room for.
    pub(crate) fn push_set_aside(&mut self, set_aside: SetAside, messages_max: usize) -> Vec<SetAside> {
        let gone = self.set_aside.get_or_insert_default().push(set_aside, messages_max);
        self.share.grow(SET_ASIDE_BYTES);
        self.share.shrink(gone.len() * SET_ASIDE_BYTES);
        gone
    }

    /// Takes a message out that was set aside.
    pub(crate) fn take_set_aside(&mut self, message: MsgNo) -> Option<SetAside> {
        let taken = self.set_aside.as_mut()?.take(message)?;
        self.share.shrink(SET_ASIDE_BYTES);
        if self.set_aside.as_ref().is_some_and(|all| all.is_empty()) {
            self.set_aside = None;
        }
        Some(taken)
    }

    /// Puts a message at the end of the queue.
    pub(crate) fn push_waiting(&mut self, delivery: Delivery) {
        let before = self.queue.held_bytes();
        self.queue.push(delivery);
        self.share.grow(self.queue.held_bytes() - before);
    }

    /// Puts a place at the end of the queue that is written down already, of a queue that about so many more come to;
    /// says whether that can be.
    pub(crate) fn push_written(&mut self, written: &Written<'_>, more: usize) -> bool {
        let before = self.queue.held_bytes();
        let is_pushed = self.queue.push_written(written, more);
        // A run that is full gives its spare room back.
        let after = self.queue.held_bytes();
        self.share.grow(after.saturating_sub(before));
        self.share.shrink(before.saturating_sub(after));
        is_pushed
    }

    /// Takes the waiting message that goes out next.
    pub(crate) fn pop_waiting(&mut self, bodies: &mut Bodies) -> Option<Delivery> {
        self.take_from_queue(bodies, Waiting::pop)
    }

    /// Takes the waiting message that came first.
    pub(crate) fn pop_oldest(&mut self, bodies: &mut Bodies) -> Option<Delivery> {
        self.take_from_queue(bodies, Waiting::pop_oldest)
    }

    /// Takes the oldest waiting message of QoS 0.
    pub(crate) fn pop_at_most_once(&mut self, bodies: &mut Bodies) -> Option<Delivery> {
        self.take_from_queue(bodies, Waiting::pop_at_most_once)
    }

    /// Takes a certain waiting message out, whatever brought it.
    pub(crate) fn remove_first_waiting_as(&mut self, no: MsgNo, make: Make<'_>) -> Option<Delivery> {
        self.change_queue(|queue| queue.remove_first(no, make)).flatten()
    }

    /// Takes a certain waiting message out; of several retained copies the oldest.
    pub(crate) fn remove_waiting_as(
        &mut self,
        no: MsgNo,
        source: Source,
        make: Make<'_>,
    ) -> Option<Delivery> {
        self.change_queue(|queue| queue.remove(no, source, make)).flatten()
    }

    /// Takes a certain waiting message out; of several retained copies the oldest.
    pub(crate) fn remove_waiting(
        &mut self,
        no: MsgNo,
        source: Source,
        bodies: &mut Bodies,
    ) -> Option<Delivery> {
        self.take_from_queue(bodies, |queue, make| queue.remove(no, source, make))
    }

    /// Takes the message at a place in the queue out.
    pub(crate) fn take_waiting(&mut self, place: PlaceNo, bodies: &mut Bodies) -> Option<Delivery> {
        self.take_from_queue(bodies, |queue, make| queue.take(place, make))
    }

    /// Makes the messages again that were packed among the next ones to go out, with the bodies that were read.
    pub(crate) fn unpack_waiting(
        &mut self,
        messages: usize,
        bodies: &mut Bodies,
        mut read: impl FnMut(MsgNo) -> Option<Body>,
    ) {
        let session = self.no;
        let make: Make<'_> = &mut |message, is_shared| {
            let body = read(message.no);
            let message = bodies.made(message, is_shared, body);
            // It may be packed again.
            bodies.waits(session, &message);
            message
        };
        self.change_queue(|queue| queue.unpack_ahead(messages, make));
    }

    /// Packs the place of a message that has waited for long.
    pub(crate) fn pack_waiting(&mut self, no: MsgNo, committed: u64) {
        self.change_queue(|queue| queue.pack(no, committed));
    }

    /// Packs what waits and is not in memory whole.
    pub(crate) fn pack_absent(&mut self, committed: u64) {
        self.change_queue(|queue| queue.pack_absent(committed));
    }

    fn take_from_queue(
        &mut self,
        bodies: &mut Bodies,
        take: impl FnOnce(&mut Waiting, Make<'_>) -> Option<Delivery>,
    ) -> Option<Delivery> {
        let make: Make<'_> = &mut |message, is_shared| bodies.made(message, is_shared, None);
        self.change_queue(|queue| take(queue, make)).flatten()
    }

    /// Does something to a queue that is there, and counts what it holds afterwards.
    fn change_queue<T>(&mut self, change: impl FnOnce(&mut Waiting) -> T) -> Option<T> {
        let queue = self.queue.get_mut()?;
        let before = queue.held_bytes();
        let changed = change(queue);
        let after = queue.held_bytes();
        if after >= before {
            self.share.grow(after - before);
        } else {
            self.share.shrink(before - after);
        }
        Some(changed)
    }

    /// Whether a message that its own subscriptions brought waits or is in flight.
    pub(crate) fn holds(&self, message: MsgNo) -> bool {
        let is_own = |source: Source| source.recipient(self.no) == Some(Recipient::Session(self.no));
        let waits = |source| self.queue.waiting(message, source).is_some();
        let mut in_flight = self.in_flight.iter().map(|f| &f.delivery);
        waits(Source::Subscriptions)
            || waits(Source::Envelope)
            || in_flight.any(|delivery| delivery.message.no == message && is_own(delivery.source()))
    }

    /// Whether a cursor comes before the queue now: they take turns.
    pub(crate) fn is_replays_turn(&mut self) -> bool {
        let Some(replays) = &mut self.replays else { return false };
        replays.is_next = !replays.is_next;
        replays.is_next
    }

    /// Whether the log has a message at this session.
    pub(crate) fn logs(&self, delivery: &Delivery) -> bool {
        self.durable || delivery.is_kept()
    }

    /// Forgets what was sent on the old connection: all in flight must go out again
    /// ([MQTT-4.4.0-1]).
    pub(crate) fn start_connection(&mut self, conn: ConnId) {
        self.conn = Some(conn);
        self.set_disconnected(None);
        self.will_due_ms = None;
        self.window_used = 0;
        for entry in self.in_flight.get_mut().into_iter().flatten() {
            entry.on_this_connection = false;
        }
    }

    /// When its connection ended, on both clocks; `None` while connected.
    pub(crate) fn disconnected(&self) -> Option<(i64, u64)> {
        (self.disconnected.0 != CONNECTED).then_some(self.disconnected)
    }

    /// Notes when its connection ended, or that it has not.
    pub(crate) fn set_disconnected(&mut self, at: Option<(i64, u64)>) {
        self.disconnected = at.unwrap_or((CONNECTED, 0));
    }

    /// Gives back what a session needs only while messages move.
    pub(crate) fn tidy(&mut self) {
        self.queue.tidy();
        self.in_flight.tidy();
        self.incoming.tidy();
    }

    /// Whether its time without a connection is over.
    pub(crate) fn is_expired(&self, monotonic_ms: u64) -> bool {
        self.expires_ms().is_some_and(|due_ms| due_ms <= monotonic_ms as i64)
    }

    /// When it ends if nobody connects, monotonic; `None` while connected, or never.
    pub(crate) fn expires_ms(&self) -> Option<i64> {
        let (since_ms, _) = self.disconnected().filter(|_| self.expiry_s != u32::MAX)?;
        Some(since_ms + i64::from(self.expiry_s) * 1000)
    }

    /// Makes or replaces a subscription.
    pub(crate) fn subscribe(&mut self, filter: &str, subscription: Subscription) {
        let bytes = subscription_bytes(filter);
        if self.subscriptions.insert(filter, subscription).is_none() {
            self.share.grow(bytes);
        }
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str) -> Option<Subscription> {
        let ended = self.subscriptions.remove(filter)?;
        self.share.shrink(subscription_bytes(filter));
        Some(ended)
    }

    /// Remembers a QoS 2 publish until its PUBREL.
    pub(crate) fn take_incoming(&mut self, packet_id: PacketId, incoming: Incoming) {
        self.release_incoming(packet_id);
        self.share.grow(incoming_bytes(&incoming));
        self.incoming.insert(packet_id, incoming);
    }

    pub(crate) fn release_incoming(&mut self, packet_id: PacketId) -> Option<Incoming> {
        let released = self.incoming.get_mut()?.remove(&packet_id)?;
        self.share.shrink(incoming_bytes(&released));
        Some(released)
    }

    /// Keeps the will of a CONNECT, or that it left none.
    pub(crate) fn keep_will(&mut self, will: Option<Box<Will>>) {
        self.share.shrink(self.will.as_deref().map_or(0, will_bytes));
        self.share.grow(will.as_deref().map_or(0, will_bytes));
        self.will = will;
    }

    /// Takes its will away, to be published or not.
    pub(crate) fn take_will(&mut self) -> Option<Box<Will>> {
        let will = self.will.take()?;
        self.share.shrink(will_bytes(&will));
        Some(will)
    }

    /// What it holds, as counted.
    #[cfg(test)]
    pub(crate) fn share_bytes(&self) -> usize {
        self.share.bytes()
    }

    /// What it holds besides the places of messages, as it is now.
    #[cfg(test)]
    pub(crate) fn recount_without_entries(&self) -> usize {
        let filters: usize = self.subscriptions.keys().map(subscription_bytes).sum();
        let incoming: usize = self.incoming.values().map(incoming_bytes).sum();
        let will = self.will.as_deref().map_or(0, will_bytes);
        SESSION_BYTES + self.client_id.len() + self.user.len() + will + filters + incoming
    }

    /// Bounds of its own, those of the client that is connected or was last.
    pub(crate) fn limits(&self) -> &SessionLimits {
        self.principal.as_ref().map_or(&SessionLimits::NONE, |p| &p.limits)
    }

    /// Whether there is nothing that rights could take away.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.held() == 0 && self.subscriptions.is_empty()
    }

    /// Notes that all it has is allowed by these rules.
    pub(crate) fn is_checked_by(&mut self, epoch: u32) {
        (self.checked_epoch, self.recheck) = (epoch, None);
    }

    /// Messages waiting or in flight.
    pub(crate) fn held(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }
}

/// Puts both names into one buffer, which is none that anything else came in. The user of an anonymous client ends with
/// its client id.
fn names(client_id: &str, user: &str) -> (ByteString, ByteString) {
    let both = if user.ends_with(client_id) { user.to_owned() } else { [user, client_id].concat() };
    let both = ByteString::from(both);
    (both.slice_ref(&both[both.len() - client_id.len()..]), both.slice_ref(&both[..user.len()]))
}

/// In the session, and as the levels among the routes.
fn subscription_bytes(filter: &str) -> usize {
    SUBSCRIPTION_BYTES + filter.len() * 2
}

fn will_bytes(will: &Will) -> usize {
    size_of::<Will>() + queue_bytes(&will.topic, &will.payload, &will.properties)
}

fn incoming_bytes(incoming: &Incoming) -> usize {
    INCOMING_BYTES + incoming.id.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::message::{Identifiers, Origin, message_for_tests};
    use proptest::prelude::*;
    use protocol::QoS;

    fn session() -> Session {
        Session::new(SessionNo(1), "c", "u", &Account::default())
    }

    fn delivery() -> Delivery {
        let message = message_for_tests();
        let (qos, subscription_identifiers) = (QoS::AtLeastOnce, Identifiers::default());
        Delivery { message, qos, retain: false, origin: Origin::Subscriptions, subscription_identifiers }
    }

    #[test]
    fn a_packet_id_that_stays_in_flight_is_not_given_again_in_later_rounds() {
        let mut session = session();
        let stuck = [5, 9_000, 65_535];
        for _ in 0..200_000 {
            let id = session.take_packet_id().unwrap();
            session.push_in_flight(id, delivery(), true);
            if stuck.contains(&id.get()) {
                assert_eq!(session.in_flight.iter().filter(|f| f.packet_id == id).count(), 1, "{id}");
            } else {
                session.end_in_flight(id).unwrap();
            }
        }
        assert_eq!(session.in_flight.len(), stuck.len());
    }

    #[test]
    fn places_that_are_written_down_at_once_are_counted_as_they_are_held() {
        let (account, delivery) = (Account::default(), delivery());
        let mut session = Session::new(SessionNo(1), "c", "u", &account);
        let before = account.bytes();
        for left in (0..200).rev() {
            assert!(session.push_written(&Written::from(&delivery), left + 1));
            assert_eq!(account.bytes() - before, session.queue.held_bytes());
            session.queue.check_held();
        }
        assert_eq!((session.queue.len(), session.queue.packed().count()), (200, 200));
    }

    #[test]
    fn both_names_stand_in_one_buffer() {
        for (client, user) in [("truck", "anon:truck"), ("truck", "ann"), ("a", "a"), ("c", ""), ("", "u")] {
            let session = Session::new(SessionNo(1), client, user, &Account::default());
            assert_eq!((&*session.client_id, &*session.user), (client, user));
        }
        assert!(size_of::<Session>() <= 296, "{}", size_of::<Session>());
    }

    #[test]
    fn all_packet_ids_can_be_in_flight_and_then_there_is_none() {
        let mut session = session();
        let mut given = BTreeSet::new();
        while let Some(id) = session.take_packet_id() {
            assert!(given.insert(id));
            session.push_in_flight(id, delivery(), false);
        }
        assert_eq!(given.len(), 65_535);
        session.end_in_flight(PacketId::new(77).unwrap()).unwrap();
        assert_eq!(session.take_packet_id(), PacketId::new(77));
    }

    proptest! {
        #[test]
        fn given_packet_ids_are_free_after_any_restored_ones(
            restored in prop::collection::btree_set(prop_oneof![1u16..20, 65_520u16..=65_535], 0..20),
            taken in 1..60usize,
        ) {
            let mut session = session();
            for id in &restored {
                session.restore_in_flight(PacketId::new(*id).unwrap(), delivery());
            }
            let mut in_flight = restored;
            for _ in 0..taken {
                let id = session.take_packet_id().unwrap();
                prop_assert!(in_flight.insert(id.get()), "{id} was in flight");
                session.push_in_flight(id, delivery(), true);
            }
        }
    }
}
