//! Messages met while rows and log are taken back.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;

use bytestring::ByteString;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::message::{Message, MsgNo};
use crate::record::Queued;
use crate::retained::Retained;

/// Messages met while rows and log are taken back.
#[derive(Default)]
pub(super) struct Met {
    heads: Heads,
    pub(super) by_no: FxHashMap<MsgNo, Arc<Message>>,
    /// Those that were made retained, by their numbers: new subscriptions may have brought them somewhere.
    pub(super) retained: FxHashMap<MsgNo, Arc<Message>>,
    /// The record that is taken back, 0 = a row.
    pub(super) place: u64,
    /// Messages of that record.
    pub(super) fresh: Vec<MsgNo>,
    /// Places in queues that are taken back together, all of one session.
    pub(super) queued: Vec<Queued>,
    /// Size at which messages that nothing points to are let go.
    sweep_at: usize,
    topics: Topics,
}

impl Met {
    pub(super) fn get(&self, no: MsgNo) -> Result<&Arc<Message>, String> {
        self.newest(no)
            .or_else(|| self.retained.get(&no))
            .ok_or_else(|| format!("message {} is not in the log", no.0))
    }

    fn newest(&self, no: MsgNo) -> Option<&Arc<Message>> {
        self.by_no.get(&no).or_else(|| self.heads.get(no))
    }

    /// Looks at the messages of all places that are to be taken back. They lie far from each other in memory: looked
    /// at one by one each would be waited for, while now they are on their way together.
    pub(super) fn look_ahead(&self) {
        let met = self.queued.iter().filter_map(|queued| self.newest(queued.message));
        black_box(met.map(|m| Arc::strong_count(m) + m.bytes()).fold(0, usize::wrapping_add));
    }

    /// Whether something points to a message, or may in this record.
    pub(super) fn is_needed(&self, no: MsgNo, retained: &Retained) -> bool {
        self.fresh.contains(&no)
            || self.newest(no).is_some_and(|m| Arc::strong_count(m) > 1)
            || self.retained.get(&no).is_some_and(|m| is_retained(m, retained))
    }

    /// Notes a message whose body is elsewhere.
    pub(super) fn insert_head(&mut self, message: Arc<Message>) {
        if self.place > 0 {
            self.fresh.push(message.no);
        }
        if let Some(out_of_order) = self.heads.push(message) {
            self.by_no.insert(out_of_order.no, out_of_order);
        }
    }

    #[inline]
    pub(super) fn share_topic(&mut self, topic: &str) -> ByteString {
        self.topics.share(topic)
    }

    /// Lets messages go that nothing points to, between records: inside one the pointers may follow.
    pub(super) fn sweep(&mut self, retained: &Retained) {
        self.fresh.clear();
        if self.heads.list.len() + self.by_no.len() + self.retained.len() > self.sweep_at.max(1024) {
            self.heads.retain(|message| Arc::strong_count(message) > 1);
            self.by_no.retain(|_, message| Arc::strong_count(message) > 1);
            self.retained.retain(|_, message| is_retained(message, retained));
            self.sweep_at = (self.heads.list.len() + self.by_no.len() + self.retained.len()) * 2;
        }
    }
}

fn is_retained(message: &Message, retained: &Retained) -> bool {
    retained.get(&message.topic).is_some_and(|now| now.no == message.no)
}

/// Numbers that have one place in the index of [`Heads`].
const PAGE: u64 = 64;

/// Messages that came in the order of their numbers, as rows say them: they stand in a list, which is filled and
/// searched with less effort than a table.
#[derive(Default)]
struct Heads {
    list: Vec<(MsgNo, Arc<Message>)>,
    /// Where the numbers of a page begin in the list.
    pages: FxHashMap<u64, usize>,
}

impl Heads {
    /// Takes the next message, or gives it back when its number is not the highest.
    #[inline]
    fn push(&mut self, message: Arc<Message>) -> Option<Arc<Message>> {
        let no = message.no;
        let last = self.list.last().map(|(last, _)| *last);
        if last.is_some_and(|last| last >= no) {
            return Some(message);
        }
        if last.is_none_or(|last| last.0 / PAGE != no.0 / PAGE) {
            self.pages.insert(no.0 / PAGE, self.list.len());
        }
        self.list.push((no, message));
        None
    }

    fn get(&self, no: MsgNo) -> Option<&Arc<Message>> {
        let from = *self.pages.get(&(no.0 / PAGE))?;
        let to = self.list.len().min(from + (no.0 % PAGE) as usize + 1);
        let page = &self.list[from..to];
        // Where it is if no number before it is missing.
        let at = match page.last() {
            Some((last, _)) if *last == no => page.len() - 1,
            _ => page.binary_search_by_key(&no, |(no, _)| *no).ok()?,
        };
        Some(&page[at].1)
    }

    fn retain(&mut self, is_kept: impl Fn(&Arc<Message>) -> bool) {
        self.pages.clear();
        self.list.retain(|(_, message)| is_kept(message));
        for (at, (no, _)) in self.list.iter().enumerate() {
            self.pages.entry(no.0 / PAGE).or_insert(at);
        }
    }
}

/// Topics that are remembered.
const TOPICS: usize = 4_096;

/// Topics met lately, each at the place that its hash says: messages of one topic share one string where that costs
/// little.
#[derive(Default)]
struct Topics(Vec<(u64, ByteString)>);

impl Topics {
    /// Gives messages of one topic one string.
    fn share(&mut self, topic: &str) -> ByteString {
        if self.0.is_empty() {
            self.0.resize(TOPICS, (0, ByteString::new()));
        }
        let hash = FxBuildHasher.hash_one(topic);
        // The upper bits of the product are the mixed ones.
        let (known, string) = &mut self.0[(hash >> 32) as usize % TOPICS];
        if *known != hash {
            // A string that is shared costs more: the first time it is only noted that there was one.
            (*known, *string) = (hash, ByteString::new());
            return ByteString::from(topic);
        }
        if *string != topic {
            *string = ByteString::from(topic);
        }
        string.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::message_for_tests;

    #[test]
    fn heads_are_found_by_number_whichever_are_missing() {
        let mut rng = fastrand::Rng::with_seed(3);
        for step in [1, 2, 7, 200] {
            let mut heads = Heads::default();
            let mut all = Vec::new();
            let mut no = 0;
            for _ in 0..3_000 {
                no += rng.u64(1..=step);
                all.push(no);
                assert_eq!(heads.push(numbered(no)), None);
                assert!(heads.push(numbered(no)).is_some() && heads.push(numbered(no - 1)).is_some());
            }
            let found = |heads: &Heads, no| heads.get(MsgNo(no)).map(|m| m.no.0);
            for no in 0..all.last().unwrap() + 200 {
                assert_eq!(found(&heads, no), all.binary_search(&no).ok().map(|_| no));
            }
            heads.retain(|m| m.no.0 % 3 == 0);
            for no in 0..all.last().unwrap() + 200 {
                assert_eq!(
                    found(&heads, no),
                    all.binary_search(&no).ok().filter(|_| no % 3 == 0).map(|_| no)
                );
            }
        }
    }

    fn numbered(no: u64) -> Arc<Message> {
        Arc::new(Message { no: MsgNo(no), ..Message::clone(&message_for_tests()) })
    }

    #[test]
    fn topics_that_follow_each_other_are_one_string() {
        let mut topics = Topics::default();
        topics.share("a/b");
        let (one, same) = (topics.share("a/b"), topics.share("a/b"));
        assert_eq!(one.as_ptr(), same.as_ptr());
        for n in 0..10_000 {
            let topic = format!("t/{}", n / 3);
            assert_eq!(topics.share(&topic), topic);
        }
        assert_eq!(topics.share("a/b"), "a/b");
    }
}
