//! Whose messages wait to be read: what a `read` receipt will name (docs/protocol.md section 4).
//!
//! Owns, for each conversation, its newest messages whose senders want to hear of `read`, of those that many may
//! read how many did, and how far guests have read: users who read it without being its members. Knows nothing of
//! members or their positions: it is told when one moves or leaves, and below which number nobody's position will move
//! any more.
//! Invariants: the numbers of a conversation's wishes rise; a guest has read as far as its first wish, or is not kept.

use std::collections::{BTreeSet, VecDeque};

use bytestring::ByteString;

use crate::memory::{Account, Held};
use crate::message::compact;
use crate::names::ByName;

/// Wishes kept of one conversation; the oldest go.
pub(crate) const WISHES_PER_CONVERSATION_MAX: usize = 1_000;

/// Wishes kept of all conversations; above it a conversation keeps only its newest.
const WISHES_MAX: usize = 1_000_000;

/// Guests kept of one conversation. What more of them read is told where readers are named, perhaps twice, and counted
/// nowhere.
pub(crate) const GUESTS_PER_CONVERSATION_MAX: usize = 1_000;

/// Guests kept of all conversations.
const GUESTS_MAX: usize = 1_000_000;

/// A conversation besides its topic, a wish besides its id, and a guest besides its name; senders' names are shared
/// with sessions.
const TOPIC_BYTES: usize = 160;
const WISH_BYTES: usize = size_of::<Wish>() * 3 / 2 + 32;
const GUEST_BYTES: usize = 64;

/// A message whose sender wants to hear who read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) seq: u64,
    pub(crate) id: ByteString,
    pub(crate) sender: ByteString,
    /// Who may read it, where they are so many that readers are counted; 0 = each is named.
    pub(crate) of: u32,
    /// Readers that are counted and are no members, or no longer.
    pub(crate) left: u32,
    /// Whether it went to others than members: they may read it after all members did.
    pub(crate) is_open: bool,
}

/// A wish with who read its message.
#[derive(Debug)]
struct Waiting {
    wish: Wish,
    /// Members who did, where they are counted.
    read: u32,
    /// Readers that the sender was told of.
    told: u32,
}

/// How many have read a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadCount {
    pub(crate) seq: u64,
    pub(crate) id: ByteString,
    pub(crate) sender: ByteString,
    pub(crate) count: u32,
    pub(crate) of: u32,
}

/// A conversation whose messages wait to be read.
#[derive(Debug, Default)]
struct Waited {
    wishes: VecDeque<Waiting>,
    /// How far guests have read.
    guests: ByName<u64>,
}

/// What a move of a position came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The highest message of each sender who is told the reader's name.
    pub(crate) named: Vec<Wish>,
    /// Whether messages were reached whose readers are counted.
    pub(crate) is_counted: bool,
    /// Whether one of these is read by all.
    pub(crate) is_complete: bool,
}

#[derive(Debug)]
pub(crate) struct ReadWishes {
    topics: ByName<Waited>,
    len: usize,
    guests: usize,
    /// Conversations of which counts are to be told.
    due: BTreeSet<ByteString>,
    held: Held,
}

impl Wish {
    /// Whether a reader that moved from one number up to another passed it.
    fn is_reached(&self, reader: &str, after: u64, to: u64) -> bool {
        after < self.seq && self.seq <= to && self.sender != *reader
    }

    /// Notes that a reader is no member any more: it is counted all the same.
    pub(crate) fn reader_left(&mut self, user: &str, joined: u64, read: u64) -> bool {
        let counts = self.of > 0 && self.is_reached(user, joined, read);
        self.left += u32::from(counts);
        counts
    }
}

impl Waiting {
    fn count(&self) -> u32 {
        self.read + self.wish.left
    }
}

impl Waited {
    /// Finds what a reader reached that moved from one number up to another.
    fn reach(
        &mut self,
        reader: &str,
        after: u64,
        to: u64,
        reached: &mut Reached,
        mut count: impl FnMut(&mut Waiting),
    ) {
        let from = self.wishes.partition_point(|waiting| waiting.wish.seq <= after);
        let mut seen = ByName::default();
        let passed = self.wishes.range_mut(from..).take_while(|waiting| waiting.wish.seq <= to);
        for waiting in passed.filter(|waiting| waiting.wish.sender != *reader) {
            if waiting.wish.of > 0 {
                count(waiting);
                reached.is_counted = true;
                reached.is_complete |= waiting.count() >= waiting.wish.of;
            } else {
                seen.insert(waiting.wish.sender.clone(), waiting.wish.clone());
            }
        }
        reached.named.extend(seen.into_values());
        reached.named.sort_unstable_by_key(|wish| wish.seq);
    }
}

impl ReadWishes {
    pub(crate) fn new(account: &Account) -> Self {
        Self { topics: ByName::default(), len: 0, guests: 0, due: BTreeSet::new(), held: account.hold(0) }
    }

    /// Says up to which number a conversation's wishes must go before there is room for one more.
    pub(crate) fn too_many(&self, topic: &str) -> Option<u64> {
        let wishes = &self.topics.get(topic)?.wishes;
        let most = if self.len >= WISHES_MAX { 1 } else { WISHES_PER_CONVERSATION_MAX };
        let last_to_go = wishes.len().checked_sub(most)?;
        wishes.get(last_to_go).map(|waiting| waiting.wish.seq)
    }

    /// Notes a message, behind those of its conversation that are known.
    pub(crate) fn add(&mut self, topic: &ByteString, wish: Wish) {
        let wishes = &mut self.waited_mut(topic).wishes;
        if wishes.back().is_some_and(|last| last.wish.seq >= wish.seq) {
            return;
        }
        let bytes = wish_bytes(&wish);
        wishes.push_back(Waiting { wish, read: 0, told: 0 });
        self.len += 1;
        self.held.grow(bytes);
    }

    fn waited_mut(&mut self, topic: &ByteString) -> &mut Waited {
        if !self.topics.contains_key(topic) {
            self.held.grow(TOPIC_BYTES + topic.len());
            self.topics.insert(compact(topic), Waited::default());
        }
        self.topics.get_mut(topic).expect("it was there or put there")
    }

    /// Notes that a reader's position moved from one number up to another. `joined` is where its membership began.
    pub(crate) fn reach(&mut self, topic: &str, reader: &str, joined: u64, after: u64, to: u64) -> Reached {
        let mut reached = Reached::default();
        let Some(waited) = self.topics.get_mut(topic) else { return reached };
        waited.reach(reader, after.max(joined), to, &mut reached, |waiting| waiting.read += 1);
        reached
    }

    /// Notes how far a guest has read; `None` if that is nothing new to anybody.
    pub(crate) fn guest_read(&mut self, topic: &ByteString, user: &ByteString, to: u64) -> Option<Reached> {
        let waited = self.waited_mut(topic);
        let after = waited.guests.get(user).copied().unwrap_or(0);
        // Without wishes it is said of what comes: the rows of a conversation begin with its guests.
        let is_far = waited.wishes.front().is_none_or(|first| first.wish.seq <= to);
        if to <= after || !is_far {
            return None;
        }
        let mut reached = Reached::default();
        if self.keep_guest(topic, user, to) {
            let waited = self.waited_mut(topic);
            waited.reach(user, after, to, &mut reached, |waiting| waiting.wish.left += 1);
        } else {
            // Twice is no harm where readers are named.
            self.waited_mut(topic).reach(user, after, to, &mut reached, |_| ());
            (reached.is_counted, reached.is_complete) = (false, false);
        }
        Some(reached)
    }

    /// Says whether anything of a conversation up to a number waits to be read.
    pub(crate) fn waits(&self, topic: &str, to: u64) -> bool {
        self.first_seq(topic).is_some_and(|first| first <= to)
    }

    /// How far a guest has read, where that is kept.
    pub(crate) fn guest(&self, topic: &str, user: &str) -> Option<u64> {
        self.topics.get(topic)?.guests.get(user).copied()
    }

    /// Keeps a guest's position; false if there are too many.
    fn keep_guest(&mut self, topic: &ByteString, user: &ByteString, read: u64) -> bool {
        let is_room = self.guests < GUESTS_MAX;
        let guests = &mut self.waited_mut(topic).guests;
        if let Some(known) = guests.get_mut(user) {
            *known = read.max(*known);
            return true;
        }
        if !is_room || guests.len() >= GUESTS_PER_CONVERSATION_MAX {
            return false;
        }
        guests.insert(compact(user), read);
        self.guests += 1;
        self.held.grow(GUEST_BYTES + user.len());
        true
    }

    /// Says up to which number messages went to members only, if any of a conversation's went to others.
    pub(crate) fn closed_up_to(&self, topic: &str, to: u64) -> u64 {
        let wishes = self.topics.get(topic).map(|waited| &waited.wishes);
        let open = wishes.into_iter().flatten().find(|waiting| waiting.wish.is_open);
        open.map_or(to, |open| to.min(open.wish.seq - 1))
    }

    /// Notes that a reader is no member any more: it goes on as a guest.
    pub(crate) fn reader_left(&mut self, topic: &ByteString, user: &ByteString, joined: u64, read: u64) {
        if !self.waits(topic, read) {
            return;
        }
        for waiting in &mut self.waited_mut(topic).wishes {
            if waiting.wish.reader_left(user, joined, read) {
                waiting.read = waiting.read.saturating_sub(1);
            }
        }
        self.keep_guest(topic, user, read);
    }

    /// Returns how many have read each message up to a number, or only each that all have read, where that is more than
    /// the sender was told. Of messages of one sender that as many have read only the highest is told of: it implies the
    /// others.
    pub(crate) fn count_now(&mut self, topic: &str, to: u64, only_complete: bool) -> Vec<ReadCount> {
        let Some(Waited { wishes, .. }) = self.topics.get_mut(topic) else { return Vec::new() };
        let end = wishes.partition_point(|waiting| waiting.wish.seq <= to);
        let mut highest = ByName::<u32>::default();
        let mut counts = Vec::new();
        let is_due = |w: &&mut Waiting| {
            let least = if only_complete { w.wish.of } else { 0 };
            w.wish.of > 0 && w.count() > w.told && w.count() >= least
        };
        for waiting in wishes.range_mut(..end).rev().filter(is_due) {
            waiting.told = waiting.count();
            let (count, Wish { seq, id, sender, of, .. }) = (waiting.told, &waiting.wish);
            let implied = highest.entry(sender.clone()).or_default();
            if count > *implied {
                *implied = count;
                counts.push(ReadCount { seq: *seq, id: id.clone(), sender: sender.clone(), count, of: *of });
            }
        }
        counts.reverse();
        counts
    }

    /// Returns the conversations where readers are counted.
    pub(crate) fn counted(&self) -> Vec<ByteString> {
        let is_counted = |waited: &Waited| waited.wishes.iter().any(|waiting| waiting.wish.of > 0);
        let topics = self.topics.iter().filter(|(_, waited)| is_counted(waited));
        topics.map(|(topic, _)| topic.clone()).collect()
    }

    /// Counts of a conversation are to be told; says whether they are the first.
    pub(crate) fn is_due(&mut self, topic: &ByteString) -> bool {
        self.due.insert(topic.clone());
        self.due.len() == 1
    }

    /// Returns a conversation of which counts are to be told.
    pub(crate) fn next_due(&mut self) -> Option<ByteString> {
        self.due.pop_first()
    }

    /// The first number that is waited for in a conversation.
    pub(crate) fn first_seq(&self, topic: &str) -> Option<u64> {
        self.topics.get(topic)?.wishes.front().map(|waiting| waiting.wish.seq)
    }

    /// Forgets a conversation's wishes up to a number; says whether there were any.
    pub(crate) fn forget(&mut self, topic: &str, to: u64) -> bool {
        let Some(Waited { wishes, guests }) = self.topics.get_mut(topic) else { return false };
        let gone = wishes.partition_point(|waiting| waiting.wish.seq <= to);
        for waiting in wishes.drain(..gone) {
            self.len -= 1;
            self.held.shrink(wish_bytes(&waiting.wish));
        }
        let first = wishes.front().map_or(u64::MAX, |first| first.wish.seq);
        let is_here = |user: &ByteString, read: &mut u64| {
            let is_here = *read >= first;
            if !is_here {
                self.guests -= 1;
                self.held.shrink(GUEST_BYTES + user.len());
            }
            is_here
        };
        guests.retain(is_here);
        if wishes.is_empty() {
            self.topics.remove(topic);
            self.due.remove(topic);
            self.held.shrink(TOPIC_BYTES + topic.len());
        }
        gone > 0
    }

    /// All wishes by topic, in no order of topics.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, &Wish)> {
        self.topics
            .iter()
            .flat_map(|(topic, waited)| waited.wishes.iter().map(move |waiting| (topic, &waiting.wish)))
    }

    /// All guests by topic with how far they have read, in no order.
    pub(crate) fn guests(&self) -> impl Iterator<Item = (&ByteString, &ByteString, u64)> {
        self.topics
            .iter()
            .flat_map(|(topic, waited)| waited.guests.iter().map(move |(user, read)| (topic, user, *read)))
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        let of = |(topic, waited): (&ByteString, &Waited)| {
            let wishes: usize = waited.wishes.iter().map(|w| wish_bytes(&w.wish)).sum();
            let guests: usize = waited.guests.keys().map(|user| GUEST_BYTES + user.len()).sum();
            TOPIC_BYTES + topic.len() + wishes + guests
        };
        self.topics.iter().map(of).sum()
    }
}

fn wish_bytes(wish: &Wish) -> usize {
    WISH_BYTES + wish.id.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(seq: u64, sender: &str, of: u32) -> Wish {
        Wish { seq, id: format!("m{seq}").into(), sender: sender.into(), of, left: 0, is_open: false }
    }

    #[test]
    fn each_sender_hears_of_its_highest_message_and_nobody_of_its_own_reading() {
        let account = Account::default();
        let mut wishes = ReadWishes::new(&account);
        let topic = ByteString::from_static("im/room");
        for (seq, sender) in [(1, "ann"), (2, "bob"), (4, "ann"), (5, "cid"), (9, "bob")] {
            wishes.add(&topic, wish(seq, sender, 0));
        }
        let mut reached = |reader, after, to| -> Vec<_> {
            wishes.reach("im/room", reader, 0, after, to).named.into_iter().map(|w| w.seq).collect()
        };
        assert_eq!(reached("dan", 0, 5), [2, 4, 5]);
        assert_eq!(reached("ann", 0, 4), [2]);
        assert_eq!(reached("dan", 4, 8), [5]);
        assert_eq!(reached("dan", 5, 8), [0; 0]);
        assert_eq!(reached("dan", 9, 3), [0; 0]);
        assert!(wishes.forget("im/room", 4) && !wishes.forget("im/room", 4));
        assert_eq!(wishes.first_seq("im/room"), Some(5));
        assert_eq!(account.bytes(), wishes.recount());
        assert!(wishes.forget("im/room", u64::MAX));
        assert_eq!((account.bytes(), wishes.len), (0, 0));
    }

    #[test]
    fn where_many_read_they_are_counted_and_the_highest_message_implies_the_others() {
        let mut wishes = ReadWishes::new(&Account::default());
        let topic = ByteString::from_static("im/room");
        for (seq, sender) in [(1, "ann"), (2, "bob"), (4, "ann"), (5, "ann")] {
            wishes.add(&topic, wish(seq, sender, 3));
        }
        let counts = |wishes: &mut ReadWishes| -> Vec<_> {
            let counts = wishes.count_now("im/room", u64::MAX, false).into_iter();
            counts.map(|c| (c.seq, c.sender.to_string(), c.count, c.of)).collect()
        };
        let moved = wishes.reach("im/room", "cid", 0, 0, 4);
        assert_eq!((moved.named.len(), moved.is_counted, moved.is_complete), (0, true, false));
        wishes.reach("im/room", "bob", 0, 0, 1);
        // Two have read 1, one has read 2 and 4; and the same is not told again.
        let of = |seq, sender: &str, count| (seq, sender.to_owned(), count, 3);
        assert_eq!(counts(&mut wishes), [of(1, "ann", 2), of(2, "bob", 1), of(4, "ann", 1)]);
        assert_eq!(counts(&mut wishes), []);
        // Who leaves has read what it read, and who came later has not read what was before.
        wishes.reader_left(&topic, &"cid".into(), 0, 4);
        wishes.reader_left(&topic, &"eve".into(), 5, 5);
        wishes.reach("im/room", "eve", 4, 0, 5);
        wishes.reach("im/room", "bob", 0, 1, 5);
        assert_eq!(counts(&mut wishes), [of(5, "ann", 2)], "4 is implied");
        // The three others have read 4 now, and only that is told at once.
        assert!(wishes.reach("im/room", "dan", 0, 0, 4).is_complete);
        let complete: Vec<_> =
            wishes.count_now("im/room", 4, true).iter().map(|c| (c.seq, c.count)).collect();
        assert_eq!(complete, [(4, 3)]);
    }

    #[test]
    fn a_conversation_keeps_its_newest_wishes() {
        let account = Account::default();
        let mut wishes = ReadWishes::new(&account);
        let topic = ByteString::from_static("im/room");
        let most = WISHES_PER_CONVERSATION_MAX as u64;
        for seq in 1..=most + 7 {
            let too_many = wishes.too_many("im/room");
            assert_eq!(too_many, (seq - 1).checked_sub(most - 1).filter(|gone| *gone > 0));
            wishes.forget("im/room", too_many.unwrap_or(0));
            wishes.add(&topic, wish(seq, "ann", 0));
        }
        assert_eq!(wishes.first_seq("im/room"), Some(8));
        assert_eq!(wishes.len, WISHES_PER_CONVERSATION_MAX);
        assert_eq!(account.bytes(), wishes.recount());
    }
}
