//! Messages met while rows and log are taken back.

use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::Arc;

use bytestring::ByteString;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::lines::Lines;
use crate::Now;
use crate::body::Bodies;
use crate::message::{Message, MsgNo};
use crate::record::{HeadFields, Queued, Source};
use crate::retained::Retained;
use crate::session::Session;
use crate::waiting::Waiting;

/// Messages met while rows and log are taken back.
#[derive(Default)]
pub(super) struct Met {
    /// Those that rows tell of.
    lines: Lines,
    /// Those that records brought, and of the others those that somebody needed whole.
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
    /// Finds a message, or makes it of what its row says.
    pub(super) fn get(&mut self, no: MsgNo, bodies: &Bodies, now: Now) -> Result<Arc<Message>, String> {
        if let Some(known) = self.by_no.get(&no) {
            return Ok(known.clone());
        }
        if let Some(made) = self.lines.message(no, now).map(|message| bodies.count_head(message)) {
            self.by_no.insert(no, made.clone());
            return Ok(made);
        }
        self.retained.get(&no).cloned().ok_or_else(|| format!("message {} is not in the log", no.0))
    }

    /// Looks at the messages of all places that are to be taken back. They lie far from each other in memory: looked
    /// at one by one each would be waited for, while now they are on their way together.
    pub(super) fn look_ahead(&self) {
        black_box(
            self.queued.iter().map(|queued| self.lines.touch(queued.message)).fold(0, usize::wrapping_add),
        );
    }

    /// Writes a place of a row down in its session's queue, which about so many more come to, without making the
    /// message; says whether that can be.
    pub(super) fn pack(&mut self, queued: &Queued, session: &mut Session, more: usize, now: Now) -> bool {
        if self.place > 0 || queued.packet_id.is_some() || matches!(queued.source, Source::Group(_)) {
            return false;
        }
        let is_packed = |place| session.push_written(&place, more);
        let is_packed = self.lines.place(queued, now).is_some_and(is_packed);
        if is_packed {
            self.lines.packed(queued.message);
        }
        is_packed
    }

    /// Makes a message that was packed, and is not any more.
    pub(super) fn unpack(&mut self, message: Message, bodies: &Bodies) -> Arc<Message> {
        self.lines.unpacked(message.no);
        self.by_no.entry(message.no).or_insert_with(|| bodies.count_head(message)).clone()
    }

    /// Notes that all that is packed in a queue goes with it.
    pub(super) fn forget_packed(&mut self, queue: &Waiting) {
        queue.packed().for_each(|no| self.lines.unpacked(no));
    }

    /// Whether something points to a message, or may in this record.
    pub(super) fn is_needed(&self, no: MsgNo, retained: &Retained) -> bool {
        self.fresh.contains(&no)
            || self.by_no.get(&no).is_some_and(|m| Arc::strong_count(m) > 1)
            || self.lines.is_packed(no)
            || self.retained.get(&no).is_some_and(|m| is_retained(m, retained))
    }

    /// Notes a message whose body is elsewhere, if its row can be kept as it is.
    pub(super) fn insert_line(&mut self, head: &HeadFields<'_>) -> bool {
        self.place == 0 && self.lines.push(head)
    }

    /// Notes a message whose body is elsewhere.
    pub(super) fn insert_head(&mut self, message: Arc<Message>) {
        if self.place > 0 {
            self.fresh.push(message.no);
        }
        self.by_no.insert(message.no, message);
    }

    #[inline]
    pub(super) fn share_topic(&mut self, topic: &str) -> ByteString {
        self.topics.share(topic)
    }

    /// Lets messages go that nothing points to, between records: inside one the pointers may follow.
    pub(super) fn sweep(&mut self, retained: &Retained) {
        self.fresh.clear();
        if self.len() > self.sweep_at.max(1024) {
            self.lines.sweep();
            self.by_no.retain(|_, message| Arc::strong_count(message) > 1);
            self.retained.retain(|_, message| is_retained(message, retained));
            self.sweep_at = self.len() * 2;
        }
    }

    fn len(&self) -> usize {
        self.lines.len() + self.by_no.len() + self.retained.len()
    }

    /// Counts again what is packed.
    #[cfg(test)]
    pub(super) fn check_packed<'a>(&self, queues: impl Iterator<Item = &'a Waiting>) {
        let mut counted = std::collections::BTreeMap::<MsgNo, u32>::new();
        queues.flat_map(Waiting::packed).for_each(|no| *counted.entry(no).or_default() += 1);
        assert_eq!(self.lines.all_packed(), counted, "lines and queues differ");
    }
}

fn is_retained(message: &Message, retained: &Retained) -> bool {
    retained.get(&message.topic).is_some_and(|now| now.no == message.no)
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
