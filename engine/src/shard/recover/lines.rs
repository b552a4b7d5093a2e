//! Messages that wait, as rows tell of them: no more of each than its place in a queue takes up.
//!
//! Most messages that a restart finds wait in queues, and are written down there ([`crate::waiting`]) without being made
//! before. Invariant: `packed` of a line counts the places that were written down with it and are still there.

use bytestring::ByteString;
use protocol::QoS;
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::cmp::Ordering;
use std::hash::BuildHasher;
use std::num::NonZeroU64;

use crate::Now;
use crate::body::BodySlot;
use crate::memory::Held;
use crate::message::{Expiry, Flag, Message, MsgNo};
use crate::record::{HeadFields, Queued};
use crate::waiting::{Outline, Written};

/// Numbers that have one place in the index.
const PAGE: u64 = 64;

/// Lines in one piece of memory. A list in one piece would be copied as it grows, and need twice its size; small pieces
/// would stay with the allocator when they are freed, while one of many megabytes goes back to the system. What of it is
/// not used takes no memory.
const CHUNK: usize = 1 << 19;

/// Topics that are remembered.
const TOPICS: usize = 4_096;

/// What few messages have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rare {
    seq: Option<u64>,
    expiry_unix_ms: Option<u64>,
    collapse: Option<NonZeroU64>,
}

/// One message.
#[derive(Debug)]
struct Line {
    no: MsgNo,
    record: u64,
    ts_unix_ms: u64,
    bytes: u32,
    payload_bytes: u32,
    /// Where its topic begins in `topics`.
    topic: u32,
    topic_bytes: u16,
    qos: QoS,
    retain: bool,
    /// Its place in `rare`, 0 = it has nothing of that.
    rare: u32,
    /// How many wait for it, as its row says, at most so many.
    needed: u16,
    /// In how many queues it is written down.
    packed: u32,
}

/// The lines in the order of their numbers, which is filled and searched with less effort than a table.
#[derive(Debug, Default)]
pub(super) struct Lines {
    list: Vec<Vec<Line>>,
    len: usize,
    /// Where the numbers of a page begin in the list.
    pages: FxHashMap<u64, usize>,
    rare: Vec<Rare>,
    topics: String,
    /// Topics met lately, each at the place that its hash says: where it begins. Messages of one topic share it.
    known: Vec<(u64, u32, u16)>,
}

impl Lines {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn at(&self, position: usize) -> &Line {
        &self.list[position / CHUNK][position % CHUNK]
    }

    fn at_mut(&mut self, position: usize) -> &mut Line {
        &mut self.list[position / CHUNK][position % CHUNK]
    }

    fn add(&mut self, line: Line) {
        let page = line.no.0 / PAGE;
        if self.len == 0 || self.at(self.len - 1).no.0 / PAGE != page {
            self.pages.insert(page, self.len);
        }
        if self.len.is_multiple_of(CHUNK) {
            self.list.push(Vec::with_capacity(CHUNK));
        }
        if let Some(last) = self.list.last_mut() {
            last.push(line);
            self.len += 1;
        }
    }

    /// Takes the next message; says whether it did: one that goes before others, has no record, or a number that is
    /// not the highest, is no line.
    #[inline]
    pub(super) fn push(&mut self, head: &HeadFields<'_>) -> bool {
        let last = self.len.checked_sub(1).map(|last| self.at(last).no);
        if head.is_high || head.record == 0 || last.is_some_and(|last| last >= head.no) {
            return false;
        }
        let Some((topic, topic_bytes)) = self.keep_topic(head.topic) else { return false };
        let Some(rare) = self.keep_rare(head) else { return false };
        self.add(Line {
            no: head.no,
            record: head.record,
            ts_unix_ms: head.ts_unix_ms,
            bytes: head.bytes,
            payload_bytes: head.payload_bytes,
            topic,
            topic_bytes,
            qos: head.qos,
            retain: head.retain,
            rare,
            needed: head.needed.min(u32::from(u16::MAX)) as u16,
            packed: 0,
        });
        true
    }

    fn keep_rare(&mut self, head: &HeadFields<'_>) -> Option<u32> {
        let HeadFields { seq, expiry_unix_ms, collapse, .. } = *head;
        let rare = Rare { seq, expiry_unix_ms, collapse };
        if rare == Rare::default() {
            return Some(0);
        }
        if self.rare.is_empty() {
            self.rare.push(Rare::default());
        }
        self.rare.push(rare);
        u32::try_from(self.rare.len() - 1).ok()
    }

    /// Keeps a topic once for those that lie near each other; `None` when there are too many.
    fn keep_topic(&mut self, topic: &str) -> Option<(u32, u16)> {
        if self.known.is_empty() {
            self.known.resize(TOPICS, (0, 0, 0));
        }
        let hash = FxBuildHasher.hash_one(topic);
        // The upper bits of the product are the mixed ones.
        let known = &mut self.known[(hash >> 32) as usize % TOPICS];
        let (of, from, bytes) = *known;
        let at = from as usize..from as usize + usize::from(bytes);
        if of == hash && self.topics.get(at).is_some_and(|same| same == topic) {
            return Some((from, bytes));
        }
        let (from, bytes) = (u32::try_from(self.topics.len()).ok()?, u16::try_from(topic.len()).ok()?);
        self.topics.push_str(topic);
        *known = (hash, from, bytes);
        Some((from, bytes))
    }

    fn topic(&self, line: &Line) -> &str {
        let from = line.topic as usize;
        &self.topics[from..from + usize::from(line.topic_bytes)]
    }

    fn position(&self, no: MsgNo) -> Option<usize> {
        let mut from = *self.pages.get(&(no.0 / PAGE))?;
        let mut to = self.len.min(from + (no.0 % PAGE) as usize + 1);
        // Where it is if no number before it is missing.
        if self.at(to - 1).no == no {
            return Some(to - 1);
        }
        while from < to {
            let middle = from + (to - from) / 2;
            match self.at(middle).no.cmp(&no) {
                Ordering::Equal => return Some(middle),
                Ordering::Less => from = middle + 1,
                Ordering::Greater => to = middle,
            }
        }
        None
    }

    /// Something of a message that lies where all of it does: to look at many before they are needed.
    pub(super) fn touch(&self, no: MsgNo) -> usize {
        self.position(no).map_or(0, |at| self.at(at).bytes as usize)
    }

    /// Whether a message is written down somewhere.
    pub(super) fn is_packed(&self, no: MsgNo) -> bool {
        self.position(no).is_some_and(|at| self.at(at).packed > 0)
    }

    /// Makes the place of a message in a queue; count it by [`Self::packed`] when it is written down.
    pub(super) fn place(&self, queued: &Queued, now: Now) -> Option<Written<'_>> {
        let line = self.at(self.position(queued.message)?);
        let Rare { seq, expiry_unix_ms, collapse } = self.rare_of(line);
        Some(Written {
            outline: Outline {
                no: line.no,
                source: queued.source,
                qos: queued.qos,
                topic: self.topic(line),
                seq,
                expiry: expiry_unix_ms.map(|unix_ms| Expiry::from_unix(unix_ms, now)),
                bytes: line.bytes,
                place: line.record,
            },
            retain: queued.retain,
            message_qos: line.qos,
            message_retain: line.retain,
            is_high: false,
            is_shared: line.needed > 1,
            ts_unix_ms: line.ts_unix_ms,
            collapse,
            payload_bytes: line.payload_bytes,
            identifiers: queued.identifiers.clone(),
        })
    }

    fn rare_of(&self, line: &Line) -> Rare {
        self.rare.get(line.rare as usize).copied().unwrap_or_default()
    }

    /// Notes that a message was written down in a queue.
    pub(super) fn packed(&mut self, no: MsgNo) {
        if let Some(at) = self.position(no) {
            self.at_mut(at).packed += 1;
        }
    }

    /// Notes that it is gone from a queue where it was written down.
    pub(super) fn unpacked(&mut self, no: MsgNo) {
        if let Some(at) = self.position(no) {
            let line = self.at_mut(at);
            line.packed = line.packed.saturating_sub(1);
        }
    }

    /// Makes the message, without its body and uncounted.
    pub(super) fn message(&self, no: MsgNo, now: Now) -> Option<Message> {
        let line = self.at(self.position(no)?);
        let Rare { seq, expiry_unix_ms, collapse } = self.rare_of(line);
        Some(Message {
            no,
            record: line.record,
            is_gated: false,
            is_written: Flag::from(true),
            is_pinned: false,
            is_high: false,
            qos: line.qos,
            retain: line.retain,
            topic: ByteString::from(self.topic(line)),
            expiry: expiry_unix_ms.map(|unix_ms| Expiry::from_unix(unix_ms, now)),
            seq,
            ts_unix_ms: line.ts_unix_ms,
            collapse,
            bytes: line.bytes,
            payload_bytes: line.payload_bytes,
            body: BodySlot::default(),
            held: Held::default(),
        })
    }

    /// Lets those go that are written down nowhere.
    pub(super) fn sweep(&mut self) {
        let all = std::mem::take(&mut self.list);
        self.pages.clear();
        self.len = 0;
        all.into_iter().flatten().filter(|line| line.packed > 0).for_each(|line| self.add(line));
    }

    /// How often each message is written down.
    #[cfg(test)]
    pub(super) fn all_packed(&self) -> std::collections::BTreeMap<MsgNo, u32> {
        self.list.iter().flatten().filter(|line| line.packed > 0).map(|line| (line.no, line.packed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(no: u64, topic: &str) -> HeadFields<'_> {
        HeadFields {
            no: MsgNo(no),
            record: no + 7,
            qos: QoS::AtLeastOnce,
            retain: false,
            is_high: false,
            needed: 1,
            expiry_unix_ms: no.is_multiple_of(3).then_some(no),
            seq: no.is_multiple_of(2).then_some(no),
            ts_unix_ms: no,
            collapse: None,
            bytes: 100,
            payload_bytes: 10,
            topic,
        }
    }

    #[test]
    fn lines_are_found_by_number_whichever_are_missing() {
        let mut rng = fastrand::Rng::with_seed(3);
        for step in [1, 2, 7, 200] {
            let mut lines = Lines::default();
            let mut all = Vec::new();
            let mut no = 0;
            for _ in 0..3_000 {
                no += rng.u64(1..=step);
                all.push(no);
                assert!(lines.push(&head(no, "t")));
                assert!(!lines.push(&head(no, "t")) && !lines.push(&head(no - 1, "t")));
            }
            let now = Now { monotonic_ms: 0, unix_ms: 0 };
            let found = |lines: &Lines, no| lines.message(MsgNo(no), now).map(|m| (m.no.0, m.seq, m.record));
            let expected = |no: u64| Some((no, no.is_multiple_of(2).then_some(no), no + 7));
            for no in 0..all.last().unwrap() + 200 {
                let is_there = all.binary_search(&no).is_ok();
                assert_eq!(found(&lines, no), if is_there { expected(no) } else { None });
            }
            all.iter().filter(|no| **no % 3 == 0).for_each(|no| lines.packed(MsgNo(*no)));
            lines.sweep();
            for no in 0..all.last().unwrap() + 200 {
                let is_there = all.binary_search(&no).is_ok() && no % 3 == 0;
                assert_eq!(found(&lines, no), if is_there { expected(no) } else { None });
                lines.unpacked(MsgNo(no));
                assert!(!lines.is_packed(MsgNo(no)));
            }
        }
    }

    #[test]
    fn a_topic_that_comes_again_is_kept_once() {
        let mut lines = Lines::default();
        for no in 1..10_000 {
            let topic = format!("t/{}", no / 3);
            assert!(lines.push(&head(no, &topic)));
            assert_eq!(lines.topic(lines.at(lines.len - 1)), topic);
        }
        assert!(lines.topics.len() < 4_000 * 6, "{} bytes", lines.topics.len());
        assert!(size_of::<Line>() <= 56, "{}", size_of::<Line>());
    }
}
