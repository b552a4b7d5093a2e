//! Which row an entry is about.
//!
//! Most kinds of entries say all about one thing: the newest one is the row, or ends it. They need one arm of
//! [`Row::of`], nothing else. What moves messages is folded by the projector.

use bytes::Bytes;
use protocol::PacketId;

use crate::dedup::Forgotten;
use crate::message::MsgNo;
use crate::record::{Entry, Form, SessionNo};

/// What an entry does to the row of what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// The entry is the row.
    Put(Key),
    /// There is no such row any more.
    Delete(Key),
    /// There are no rows any more from the first key to before the second.
    DeleteRange(Key, Key),
    /// The entry is a part of its session's row: it goes with the session.
    PutPart(SessionNo, Part),
    /// The session's row has no such part any more.
    DeletePart(SessionNo, Part),
}

/// What rows are about, in the order in which they are taken back: what is named by others comes before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Family {
    /// The next numbers to give.
    Counters = 1,
    /// A conversation by its topic.
    Conversation = 10,
    /// A page of what a conversation keeps, by its topic and the page's number.
    ConversationPage = 11,
    /// A shared group by its number.
    Group = 20,
    /// A page of messages without their bodies, by its number.
    Heads = 30,
    /// A retained message by its topic.
    Retained = 40,
    /// What a session that is not known left to its groups.
    Left = 50,
    /// A session by its number.
    Session = 60,
    /// What waits longest at a session, by its number and the page's.
    QueuePage = 61,
    /// What is in flight to a session and waits for it, besides its pages.
    Queue = 62,
    /// The receipts of a message that are open, by its number.
    Tracked = 80,
    // From here on sessions and messages are there.
    // 100 and up: one family for each kind of things that stand for themselves.
    /// An id of a published message by its user and its number among the user's.
    Published = 101,
    /// A client's presence by its id.
    Presence = 102,
    /// A user's vote about a network by both names.
    NetVote = 103,
    /// A member by conversation and user.
    Member = 104,
    /// What is waited for to be read of a conversation, by its topic.
    ReadWishes = 105,
    /// The highest epoch of a client that was forgotten.
    PresenceForgotten = 106,
    // What follows is for the view's own use: it is not taken back.
    /// Which records hold something that is needed, by pages of their numbers.
    Places = 200,
    /// The pages of a session's queue.
    QueueDirectory = 201,
}

/// Whether a row is taken back.
pub(crate) fn is_state(key: &[u8]) -> bool {
    key.first().is_some_and(|family| *family < Family::Places as u8)
}

/// The key of a row: its family, then what names the thing in it. Numbers are big-endian, so that keys stand in the
/// order of numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    pub(crate) fn new(family: Family) -> Self {
        Self(vec![family as u8])
    }

    pub(crate) fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Adds a name. Only the last one of a key may be of any length: what comes before others must be told apart
    /// from them, see [`Self::name`].
    pub(crate) fn last(mut self, name: &str) -> Self {
        self.0.extend_from_slice(name.as_bytes());
        self
    }

    /// Adds a name that others follow: its length stands before it.
    pub(crate) fn name(mut self, name: &str) -> Self {
        self.0.extend_from_slice(&(name.len() as u32).to_be_bytes());
        self.last(name)
    }

    pub(crate) fn bytes(self) -> Bytes {
        self.0.into()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Returns the keys from this one to before another that differs in its last number only.
    pub(crate) fn numbers_until(&self, end: &Self) -> impl Iterator<Item = Self> {
        let number = |key: &Self| key.0.last_chunk().map_or(0, |number| u64::from_be_bytes(*number));
        let before = self.0[..self.0.len().saturating_sub(8)].to_vec();
        (number(self)..number(end)).map(move |number| Self(before.clone()).u64(number))
    }
}

/// What names a part of a session's row; parts are taken back in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// Whose it is.
    Opened,
    /// Whether it is connected, and its will.
    Connection,
    /// A subscription by its filter.
    Subscription(bytestring::ByteString),
    /// A QoS 2 publish between PUBREC and PUBREL.
    Incoming(PacketId),
    /// How far it is in a conversation's stored messages; `Entry::Replayed` moves it too.
    Cursor(bytestring::ByteString, Form),
    /// What it has missed, if it gets its user's conversations: a new connection says it anew.
    Behind,
    /// What it will not get of a conversation.
    Holes(bytestring::ByteString, Form),
    /// A message that was set aside.
    SetAside(MsgNo),
}

impl Row {
    /// Returns what an entry does, if it is one that stands for itself.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        Some(match entry {
            Entry::SessionOpened { session, .. } => Self::PutPart(*session, Part::Opened),
            Entry::SessionConnected { session, .. } | Entry::SessionDisconnected { session, .. } => {
                Self::PutPart(*session, Part::Connection)
            }
            Entry::Subscribed { session, filter, .. } => {
                Self::PutPart(*session, Part::Subscription(filter.clone()))
            }
            Entry::Unsubscribed { session, filter } => {
                Self::DeletePart(*session, Part::Subscription(filter.clone()))
            }
            Entry::IncomingTaken { session, packet_id, .. } => {
                Self::PutPart(*session, Part::Incoming(*packet_id))
            }
            Entry::IncomingReleased { session, packet_id } => {
                Self::DeletePart(*session, Part::Incoming(*packet_id))
            }
            Entry::Away { session, .. } => Self::PutPart(*session, Part::Behind),
            Entry::Behind { session, behind } if behind.stretches().is_empty() => {
                Self::DeletePart(*session, Part::Behind)
            }
            Entry::Behind { session, .. } => Self::PutPart(*session, Part::Behind),
            Entry::Cursor { session, topic, form, next } => {
                let part = Part::Cursor(topic.clone(), *form);
                match next {
                    Some(_) => Self::PutPart(*session, part),
                    None => Self::DeletePart(*session, part),
                }
            }
            Entry::Holes { session, topic, form, holes } => {
                let part = Part::Holes(topic.clone(), *form);
                match holes.is_empty() {
                    true => Self::DeletePart(*session, part),
                    false => Self::PutPart(*session, part),
                }
            }
            Entry::Published { user, first, ids } if ids.len() == 1 => Self::Put(published(user, *first)),
            Entry::SetAside { session, set_aside } => {
                Self::PutPart(*session, Part::SetAside(set_aside.message.no))
            }
            Entry::TakenBack { session, message } => Self::DeletePart(*session, Part::SetAside(*message)),
            Entry::PublishedForgotten(Forgotten { user, from, to }) => {
                Self::DeleteRange(published(user, *from), published(user, *to))
            }
            Entry::Presence { client, .. } => Self::Put(Key::new(Family::Presence).last(client)),
            Entry::PresenceForgotten { .. } => Self::Put(Key::new(Family::PresenceForgotten)),
            Entry::PresenceCleared { client } => Self::Delete(Key::new(Family::Presence).last(client)),
            Entry::NetVote { net, user, interval_s, .. } => {
                let key = Key::new(Family::NetVote).name(net).last(user);
                if *interval_s == 0 { Self::Delete(key) } else { Self::Put(key) }
            }
            Entry::Group { group, .. } => Self::Put(Key::new(Family::Group).u64(group.0)),
            Entry::GroupForgotten { group } => Self::Delete(Key::new(Family::Group).u64(group.0)),
            Entry::Member { topic, user, .. } => Self::Put(member(topic, user)),
            Entry::MemberLeft { topic, user } => Self::Delete(member(topic, user)),
            // These are folded: what they say depends on what was before.
            Entry::Published { .. }
            | Entry::SessionEnded { .. }
            | Entry::Message(_)
            | Entry::Head(_)
            | Entry::RetainedCleared { .. }
            | Entry::Queued { .. }
            | Entry::Sent { .. }
            | Entry::Received { .. }
            | Entry::Ended { .. }
            | Entry::Tracked { .. }
            | Entry::Conversation { .. }
            | Entry::ConversationKept { .. }
            | Entry::ConversationPage { .. }
            | Entry::Replayed { .. }
            | Entry::ReadWished { .. }
            | Entry::ReadSettled { .. }
            | Entry::ReaderLeft { .. }
            | Entry::GuestRead { .. }
            | Entry::Counters { .. } => return None,
        })
    }
}

fn member(topic: &str, user: &str) -> Key {
    Key::new(Family::Member).name(topic).last(user)
}

/// The key of one id of a user.
pub(super) fn published(user: &str, number: u64) -> Key {
    Key::new(Family::Published).name(user).u64(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::GroupNo;

    #[test]
    fn keys_stand_in_the_order_of_numbers_and_names_do_not_run_into_each_other() {
        let key = |n| Key::new(Family::Group).u64(n).bytes();
        assert!(key(1) < key(2) && key(255) < key(256) && key(256) < key(u64::MAX));
        let two = |a: &str, b: &str| Key::new(Family::Group).name(a).last(b).bytes();
        assert_ne!(two("a", "bc"), two("ab", "c"));
    }

    #[test]
    fn the_newest_entry_about_a_thing_is_its_row() {
        let session = SessionNo(7);
        let connected = Entry::SessionConnected { session, expiry_s: 1, will: None };
        let disconnected = Entry::SessionDisconnected { session, expiry_s: 1, at_unix_ms: 2, will: None };
        assert_eq!(Row::of(&connected), Row::of(&disconnected));
        let (topic, user) = (bytestring::ByteString::from("im/a"), bytestring::ByteString::from("bob"));
        let key = Key::new(Family::Member).name(&topic).last(&user);
        let member = Entry::Member { topic: topic.clone(), user: user.clone(), joined: 1, read: 2 };
        assert_eq!(Row::of(&member), Some(Row::Put(key.clone())));
        assert_eq!(Row::of(&Entry::MemberLeft { topic, user }), Some(Row::Delete(key)));
        let group = Entry::Group { group: GroupNo(3), filter: "$share/g/t".into() };
        assert_eq!(Row::of(&group), Some(Row::Put(Key::new(Family::Group).u64(3))));
        assert_eq!(Row::of(&Entry::SessionEnded { session }), None);
    }
}
