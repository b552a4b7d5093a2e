//! From the state to records that tell it, for tests that compare states.
//!
//! Invariants: a body stands in the same record as the first entry that points to it, because recovery lets
//! bodies go that nothing points to at a record's end; no record is much larger than `RECORD_BYTES` and one
//! message.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use bytestring::ByteString;
use protocol::PacketId;
use rustc_hash::FxHashSet;

use super::Shard;
use crate::behind::Behind;
use crate::conversation::Stored;
use crate::message::{Delivery, Flag, Message, MsgNo};
use crate::record::{Entry, KeptMessage, RecordBuilder, SessionNo};
use crate::session::{Incoming, Session, Subscription};

/// Size at which a record is closed.
pub(super) const RECORD_BYTES: usize = 64 * 1024;

/// Messages of a conversation in one page of its index.
const PAGE_MESSAGES: usize = 256;
/// Ids of published messages in one entry.
const IDS_PER_ENTRY: usize = 1_000;

/// What of a message without its body matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Extent {
    Whole,
    /// What is left when it was sent; of a stored message nobody knows more.
    Sent,
}

impl Extent {
    /// Makes the head that is told of a message; where its body is, is not part of the state.
    fn of(self, message: &Message) -> Message {
        let head = Message { is_written: Flag::default(), ..message.clone() };
        match self {
            Self::Whole => head,
            Self::Sent => Message { retain: false, is_high: false, collapse: None, payload_bytes: 0, ..head },
        }
    }
}

#[derive(Default)]
struct Checkpoint {
    records: Vec<Bytes>,
    builder: RecordBuilder,
    /// Messages that are in the records.
    written: FxHashSet<(MsgNo, Extent)>,
    /// Bodies are left out.
    heads_only: bool,
}

/// What a session leaves to its groups when it ends, or would if the process died now.
struct Left<'a> {
    /// Client id and user, empty where the log does not know them.
    names: (ByteString, ByteString),
    deliveries: Vec<(Option<PacketId>, &'a Delivery)>,
}

impl Shard {
    /// Returns records that tell the durable state as it is after the last `Append`, for tests that compare. They
    /// cannot take the log's place: of a message whose body is away, and of conversations' history, they name the
    /// records at most.
    pub fn checkpoint(&self) -> Vec<Bytes> {
        self.export(Checkpoint::default())
    }

    /// Returns the same without any body but those of retained messages: two shards with the same state return the
    /// same, whatever they have in memory.
    pub fn state(&self) -> Vec<Bytes> {
        self.export(Checkpoint { heads_only: true, ..Checkpoint::default() })
    }

    fn export(&self, mut out: Checkpoint) -> Vec<Bytes> {
        let (message, session, group) = (self.next_message, self.next_session, self.groups.next_no());
        out.push(&Entry::Counters { message, session, group });
        self.conversations(&mut out);
        let presences: BTreeMap<_, _> = self.presences.iter().collect();
        for (client, state) in presences {
            out.push(&Entry::Presence { client: client.into(), state });
            out.close_if_full();
        }
        let epoch = self.presences.forgotten_epoch();
        if epoch > 0 {
            out.push(&Entry::PresenceForgotten { epoch });
        }
        let votes: BTreeSet<_> = self.networks.iter().collect();
        for (net, user, interval_s, at_unix_ms) in votes {
            let (net, user) = (net.clone(), user.clone());
            out.push(&Entry::NetVote { net, user, interval_s, at_unix_ms });
            out.close_if_full();
        }
        for message in self.retained.iter() {
            out.written.extend([(message.no, Extent::Whole), (message.no, Extent::Sent)]);
            out.builder.push_message(message, true);
            out.close_if_full();
        }
        self.members(&mut out);
        self.groups(&mut out);
        self.ids(&mut out);
        // Before the wishes: these know already which guests have read them.
        let guests: BTreeSet<_> = self.read_wishes.guests().collect();
        for (topic, user, read) in guests {
            out.push(&Entry::GuestRead { topic: topic.clone(), user: user.clone(), read });
            out.close_if_full();
        }
        let mut wishes: Vec<_> = self.read_wishes.iter().collect();
        wishes.sort_unstable_by_key(|(topic, wish)| (*topic, wish.seq));
        for (topic, wish) in wishes {
            out.push(&Entry::ReadWished { topic: topic.clone(), wish: wish.clone() });
            out.close_if_full();
        }
        // Before the sessions: a client that came back after its session ended has another one there.
        for (session, left) in self.left_to_groups() {
            out.left(session, left);
        }
        let mut sessions: Vec<_> = self.sessions.iter().map(|(_, s)| s).filter(|s| s.durable).collect();
        sessions.sort_unstable_by_key(|s| s.no);
        for session in sessions {
            out.session(session);
        }
        let tracked: BTreeMap<_, _> = self.receipts.iter().collect();
        for (message, t) in tracked {
            out.push(&Entry::Tracked {
                message,
                topic: t.topic.clone(),
                seq: t.seq,
                id: t.id.clone(),
                sender: t.sender.clone(),
                wanted: t.wanted,
                of: t.of,
                ended: t.ended,
                recipients: t.open().logged(),
            });
            out.close_if_full();
        }
        out.close();
        out.records
    }

    /// Writes each conversation's head, what was given up of it, and the index of what is kept.
    fn conversations(&self, out: &mut Checkpoint) {
        let mut conversations: Vec<_> = self.conversations.iter().collect();
        conversations.sort_unstable_by_key(|(topic, ..)| *topic);
        for (topic, head, first_seq) in conversations {
            let topic = topic.clone();
            out.push(&Entry::Conversation {
                topic: topic.clone(),
                seq: head.seq,
                ts_unix_ms: head.ts_unix_ms,
            });
            if first_seq > 1 {
                out.push(&Entry::ConversationKept { topic: topic.clone(), first_seq });
            }
            let mut kept = self.conversations.range(&topic, 0).peekable();
            while kept.peek().is_some() {
                let messages = kept.by_ref().take(PAGE_MESSAGES).map(|stored| self.kept_message(stored));
                out.push(&Entry::ConversationPage { topic: topic.clone(), messages: messages.collect() });
                out.close_if_full();
            }
            out.close_if_full();
        }
    }

    fn kept_message(&self, stored: Stored) -> KeptMessage {
        let Stored { seq, place, no, ts_unix_ms, expiry_unix_ms, bytes, qos, sender } = stored;
        let sender = self.conversations.sender(sender).cloned().unwrap_or_default();
        KeptMessage { seq, place, message: no, ts_unix_ms, expiry_unix_ms, bytes, qos, sender }
    }

    /// What the groups have at sessions that ended, and at sessions that the log does not know.
    fn left_to_groups(&self) -> BTreeMap<SessionNo, Left<'_>> {
        let mut left = BTreeMap::new();
        for (no, remains) in &self.remains {
            let (names, deliveries) = (remains.logged_names(), remains.logged().collect());
            left.insert(*no, Left { names, deliveries });
        }
        for (_, session) in self.sessions.iter().filter(|(_, s)| !s.durable) {
            let in_flight = session.in_flight.iter().map(|f| (Some(f.packet_id), &f.delivery));
            let held = in_flight.chain(session.queue.iter_whole().map(|delivery| (None, delivery)));
            let deliveries: Vec<_> = held.filter(|(_, delivery)| delivery.is_kept()).collect();
            if !deliveries.is_empty() {
                left.insert(session.no, Left { names: Default::default(), deliveries });
            }
        }
        left.retain(|_, left| !left.deliveries.is_empty());
        left
    }

    /// Names the ids that are known.
    fn ids(&self, out: &mut Checkpoint) {
        let users: BTreeMap<_, _> =
            self.dedup.iter().map(|(user, first, ids)| (user, (first, ids))).collect();
        for (user, (first, ids)) in users {
            let ids: Vec<_> = ids.iter().copied().collect();
            for (first, ids) in (first..).step_by(IDS_PER_ENTRY).zip(ids.chunks(IDS_PER_ENTRY)) {
                out.push(&Entry::Published { user: user.clone(), first, ids: ids.to_vec() });
                out.close_if_full();
            }
        }
    }

    fn members(&self, out: &mut Checkpoint) {
        let all = self.members.iter().map(|(topic, user, member)| ((topic, user), member));
        for ((topic, user), member) in all.collect::<BTreeMap<_, _>>() {
            let (topic, user, read) = (topic.clone(), user.clone(), member.reading.read);
            out.push(&Entry::Member { topic, user, joined: member.joined, read });
            out.close_if_full();
        }
    }

    /// Names every group that something after it may name by its number.
    fn groups(&self, out: &mut Checkpoint) {
        let groups: BTreeMap<_, _> = self.groups.iter().map(|g| (g.share.no, &g.share.full)).collect();
        for (group, filter) in groups {
            out.push(&Entry::Group { group, filter: filter.clone() });
            out.close_if_full();
        }
    }
}

impl Checkpoint {
    fn push(&mut self, entry: &Entry) {
        self.builder.push(entry);
    }

    fn close(&mut self) {
        if !self.builder.is_empty() {
            self.records.push(self.builder.take());
        }
    }

    fn close_if_full(&mut self) {
        if self.builder.len() >= RECORD_BYTES {
            self.close();
        }
    }

    fn session(&mut self, s: &Session) {
        let session = s.no;
        self.push(&Entry::SessionOpened { session, client_id: s.client_id.clone(), user: s.user.clone() });
        let (expiry_s, will) = (s.expiry_s, s.will.clone());
        self.push(&match s.disconnected() {
            Some((_, at_unix_ms)) => Entry::SessionDisconnected { session, expiry_s, at_unix_ms, will },
            None => Entry::SessionConnected { session, expiry_s, will },
        });
        if let Some(behind) = s.behind.as_ref().filter(|_| s.is_hearer) {
            self.push(&Entry::Behind { session, behind: Behind::clone(behind) });
        }
        let subscriptions: BTreeMap<_, _> = s.subscriptions.iter().collect();
        for (filter, Subscription { options, identifier }) in subscriptions {
            let (filter, options, identifier) = (filter.into(), *options, *identifier);
            self.push(&Entry::Subscribed { session, filter, options, identifier });
            self.close_if_full();
        }
        let incoming: BTreeMap<_, _> = s.incoming.iter().collect();
        for (packet_id, Incoming { seq, id }) in incoming {
            let (packet_id, seq, id) = (*packet_id, *seq, id.text());
            self.push(&Entry::IncomingTaken { session, packet_id, seq, id });
            self.close_if_full();
        }
        self.replays(s);
        for entry in s.in_flight.iter() {
            self.delivery(session, &entry.delivery, Some(entry.packet_id));
            self.close_if_full();
        }
        for at in s.released() {
            self.push(&Entry::Received { session, packet_id: s.in_flight[at].packet_id });
            self.close_if_full();
        }
        for delivery in s.queue.iter() {
            self.delivery(session, &delivery, None);
            self.close_if_full();
        }
        for set_aside in s.set_aside.iter().flat_map(|all| all.iter()) {
            self.push(&Entry::SetAside { session, set_aside: Box::new(set_aside.clone()) });
            self.close_if_full();
        }
    }

    /// Its cursors, and the holes that it was not told of.
    fn replays(&mut self, s: &Session) {
        let session = s.no;
        let cursors: BTreeMap<_, _> =
            s.replays.iter().flat_map(|r| r.iter()).map(|(t, f, c)| ((t, f), c)).collect();
        for ((topic, form), cursor) in cursors {
            let (topic, next) = (topic.clone(), Some(cursor.next));
            self.push(&Entry::Cursor { session, topic, form, next });
            self.close_if_full();
        }
        let gaps: BTreeMap<_, _> =
            s.gaps.iter().flat_map(|g| g.iter()).map(|(t, f, h)| ((t, f), h)).collect();
        for ((topic, form), holes) in gaps {
            let (topic, holes) = (topic.clone(), holes.to_vec());
            self.push(&Entry::Holes { session, topic, form, holes });
            self.close_if_full();
        }
    }

    /// A session that is not there any more, or will not be after a restart, with what its groups may still
    /// get.
    fn left(&mut self, session: SessionNo, left: Left<'_>) {
        let (client_id, user) = left.names;
        self.push(&Entry::SessionOpened { session, client_id, user });
        for (packet_id, delivery) in left.deliveries {
            self.delivery(session, delivery, packet_id);
            self.close_if_full();
        }
        self.push(&Entry::SessionEnded { session });
    }

    fn delivery(&mut self, session: SessionNo, delivery: &Delivery, packet_id: Option<PacketId>) {
        let message = &delivery.message;
        let extent = if self.heads_only && packet_id.is_some() { Extent::Sent } else { Extent::Whole };
        if self.written.insert((message.no, extent)) {
            let is_here = message.body.load().as_ref().is_some_and(|body| !body.is_lost);
            if self.heads_only {
                self.builder.push_head(&extent.of(message), 0);
            } else if is_here {
                self.builder.push_message(message, false);
            } else {
                self.builder.push_head(message, 0);
            }
        }
        self.push(&delivery.queued(session, packet_id));
    }
}
