//! Rows of a conversation: its head, and pages of what is kept of it by their numbers.

use bytestring::ByteString;

use super::messages::Needs;
use super::row::{Family, Key};
use super::{Rows, Written, row_of};
use crate::body::BodySlot;
use crate::memory::Held;
use crate::message::{Expiry, Flag, Message, MsgNo};
use crate::record::{Entry, KeptMessage, read_record};

/// Messages in one page, by their numbers.
const MESSAGES: u64 = 256;

/// What a batch changes at one conversation.
#[derive(Debug, Default)]
pub(super) struct Changed {
    seq: u64,
    ts_unix_ms: u64,
    first_seq: u64,
    kept: Vec<KeptMessage>,
}

impl Changed {
    pub(super) fn keep(&mut self, kept: KeptMessage) {
        self.raise(kept.seq, kept.ts_unix_ms);
        // What is given up again in the same batch leaves nothing; the log may hold a message twice.
        if kept.seq >= self.first_seq && self.kept.last().is_none_or(|last| last.seq < kept.seq) {
            self.kept.push(kept);
        }
    }

    pub(super) fn raise(&mut self, seq: u64, ts_unix_ms: u64) {
        (self.seq, self.ts_unix_ms) = (self.seq.max(seq), self.ts_unix_ms.max(ts_unix_ms));
    }

    pub(super) fn give_up_before(&mut self, first_seq: u64) {
        self.first_seq = self.first_seq.max(first_seq);
        self.kept.retain(|kept| kept.seq >= first_seq);
    }

    pub(super) fn fold(
        mut self,
        topic: &ByteString,
        rows: &mut impl Rows,
        needs: &mut Needs,
        out: &mut Written,
    ) -> Result<(), String> {
        let key = Key::new(Family::Conversation).last(topic);
        let before = rows.get(&key);
        let (mut seq_before, mut first_before) = (0, 0);
        for entry in before.as_ref().map_or(Ok(Vec::new()), read_record)? {
            match entry {
                Entry::Conversation { seq, ts_unix_ms, .. } => {
                    self.raise(seq, ts_unix_ms);
                    seq_before = seq;
                }
                Entry::ConversationKept { first_seq, .. } => first_before = first_seq,
                _ => return Err("the row of a conversation holds something else".into()),
            }
        }
        let first_seq = self.first_seq.max(first_before);
        let head = Entry::Conversation { topic: topic.clone(), seq: self.seq, ts_unix_ms: self.ts_unix_ms };
        let kept = Entry::ConversationKept { topic: topic.clone(), first_seq };
        let now = row_of([&head].into_iter().chain(Some(&kept).filter(|_| first_seq > 1)));
        if before.as_ref() != Some(&now) {
            out.insert(key, Some(now));
        }
        let page_key = |page: u64| Key::new(Family::ConversationPage).name(topic).u64(page);
        if first_seq > first_before {
            // Numbers above those that were given have no page yet.
            let last = (first_seq / MESSAGES).min(seq_before / MESSAGES);
            for page in first_before / MESSAGES..=last {
                let key = page_key(page);
                let messages = read_page(topic, rows, &key)?;
                let (gone, left): (Vec<_>, Vec<_>) = messages.into_iter().partition(|m| m.seq < first_seq);
                gone.iter().for_each(|kept| needs.change_place(kept.place, -1));
                out.insert(key, page_row(topic, left));
            }
        }
        let new: Vec<_> = self.kept.into_iter().filter(|kept| kept.seq >= first_seq).collect();
        for messages in new.chunk_by(|a, b| a.seq / MESSAGES == b.seq / MESSAGES) {
            let key = page_key(messages[0].seq / MESSAGES);
            // It may have been cut above.
            let mut page = match out.get(&key) {
                Some(Some(row)) => page_of(topic, row)?,
                Some(None) => Vec::new(),
                None => read_page(topic, rows, &key)?,
            };
            for kept in messages {
                if page.last().is_none_or(|last| last.seq < kept.seq) {
                    needs.change_place(kept.place, 1);
                    page.push(kept.clone());
                }
            }
            out.insert(key, page_row(topic, page));
        }
        Ok(())
    }
}

/// Makes a message of what the rows know of it, as a conversation keeps it.
pub(super) fn stored(
    topic: &ByteString,
    seq: u64,
    message: MsgNo,
    rows: &mut impl Rows,
) -> Result<Message, String> {
    let key = Key::new(Family::ConversationPage).name(topic).u64(seq / MESSAGES);
    let page = read_page(topic, rows, &key)?;
    let kept = page.into_iter().find(|kept| kept.seq == seq && kept.message == message);
    let kept = kept.ok_or_else(|| format!("{topic:?} keeps no message {seq} in the view"))?;
    let is_written = Flag::default();
    is_written.set();
    let expiry = Some(kept.expiry_unix_ms).filter(|unix_ms| *unix_ms > 0);
    Ok(Message {
        no: message,
        record: kept.place,
        is_gated: false,
        is_written,
        is_pinned: false,
        is_high: false,
        qos: kept.qos,
        retain: false,
        topic: topic.clone(),
        expiry: expiry.map(|unix_ms| Expiry::new(0, unix_ms)),
        seq: Some(seq),
        ts_unix_ms: kept.ts_unix_ms,
        collapse: None,
        bytes: kept.bytes,
        payload_bytes: 0,
        body: BodySlot::default(),
        held: Held::default(),
    })
}

fn read_page(topic: &ByteString, rows: &mut impl Rows, key: &Key) -> Result<Vec<KeptMessage>, String> {
    rows.get(key).map_or(Ok(Vec::new()), |row| page_of(topic, &row))
}

fn page_of(topic: &ByteString, row: &bytes::Bytes) -> Result<Vec<KeptMessage>, String> {
    match read_record(row)?.pop() {
        Some(Entry::ConversationPage { messages, topic: of }) if of == *topic => Ok(messages),
        _ => Err("a page of a conversation holds something else".into()),
    }
}

fn page_row(topic: &ByteString, messages: Vec<KeptMessage>) -> Option<bytes::Bytes> {
    let is_empty = messages.is_empty();
    let page = Entry::ConversationPage { topic: topic.clone(), messages };
    (!is_empty).then(|| row_of([&page]))
}
