//! What single entries say to rows: of a message, of receipts.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::row_of;
use crate::body::BodySlot;
use crate::message::{Flag, Message, MsgNo};
use crate::reads::Wish;
use crate::record::{Entry, KeptMessage, MessageEntry, RecordBuilder, read_record};

/// What is kept of a message that was written.
pub(super) struct Keep {
    /// Itself without its body.
    pub(super) message: Message,
    /// The row of its topic's retained message.
    pub(super) retained: Option<Bytes>,
    /// Its place in its conversation.
    pub(super) kept: Option<KeptMessage>,
}

/// Takes a message out of the record with this number.
pub(super) fn keep(entry: MessageEntry, place: u64) -> Keep {
    let MessageEntry { message, set_retained } = entry;
    let retained = set_retained.then(|| {
        let mut row = RecordBuilder::default();
        row.push_message(&message, true);
        row.take()
    });
    let kept = message.seq.map(|seq| KeptMessage {
        seq,
        place,
        message: message.no,
        ts_unix_ms: message.ts_unix_ms,
        expiry_unix_ms: message.expiry.map_or(0, |expiry| expiry.unix_ms()),
        bytes: message.bytes,
        qos: message.qos,
        sender: message.from(),
    });
    let is_written = Flag::default();
    is_written.set();
    let message = Message { record: place, is_written, body: BodySlot::default(), ..message };
    Keep { message, retained, kept }
}

/// Returns the number of the message in a retained message's row.
pub(super) fn retained_no(row: &Bytes) -> Result<MsgNo, String> {
    let is_message =
        |entry: Entry| if let Entry::Message(entry) = entry { Some(entry.message.no) } else { None };
    let no = read_record(row)?.into_iter().find_map(is_message);
    no.ok_or_else(|| "the row of a retained message has no message".into())
}

/// Makes the row of what is waited for to be read of a conversation from the row as it was and what happened since:
/// guests first, for the wishes know already which of them have read them.
pub(super) fn read_wishes(before: Option<&Bytes>, steps: Vec<Entry>) -> Result<Option<Bytes>, String> {
    let (mut guests, mut wishes) = (BTreeMap::new(), Vec::new());
    let before = before.map_or(Ok(Vec::new()), read_record)?;
    let count = before.len();
    for (at, entry) in before.into_iter().chain(steps).enumerate() {
        match entry {
            Entry::ReadWished { topic, wish } => wishes.push((topic, wish)),
            Entry::ReadSettled { to_seq, .. } => {
                wishes.retain(|(_, wish): &(_, Wish)| wish.seq > to_seq);
                let first = wishes.first().map_or(u64::MAX, |(_, wish)| wish.seq);
                guests.retain(|_, (_, read)| *read >= first);
            }
            Entry::ReaderLeft { topic, user, joined, read } => {
                for (_, wish) in &mut wishes {
                    wish.reader_left(&user, joined, read);
                }
                let (_, known) = guests.entry(user).or_insert((topic, 0));
                *known = read.max(*known);
            }
            Entry::GuestRead { topic, user, read } => {
                let (_, known) = guests.entry(user.clone()).or_insert((topic, 0));
                if at >= count {
                    for (_, wish) in &mut wishes {
                        wish.reader_left(&user, *known, read);
                    }
                }
                *known = read.max(*known);
            }
            other => return Err(format!("{other:?} in the row of what waits to be read")),
        }
    }
    let guests = guests.into_iter().map(|(user, (topic, read))| Entry::GuestRead { topic, user, read });
    let wishes: Vec<_> = wishes.into_iter().map(|(topic, wish)| Entry::ReadWished { topic, wish }).collect();
    let row: Vec<_> = guests.chain(wishes.iter().cloned()).collect();
    Ok((!wishes.is_empty()).then(|| row_of(&row)))
}

/// Makes the row of a message's receipts from the row as it was and what happened since.
pub(super) fn track(before: Option<&Bytes>, steps: Vec<Entry>) -> Result<Option<Bytes>, String> {
    let mut now = match before {
        Some(row) => read_record(row)?.into_iter().next(),
        None => None,
    };
    for step in steps {
        match step {
            Entry::Tracked { .. } => now = Some(step),
            Entry::Ended { session, source, state: Some(state), .. } => {
                let Some(Entry::Tracked { ended, recipients, .. }) = &mut now else { continue };
                if source.recipient(session).is_some_and(|recipient| recipients.remove(recipient)) {
                    let count = &mut ended[state as usize - 1];
                    *count = count.saturating_add(1);
                }
            }
            _ => {}
        }
        if matches!(&now, Some(Entry::Tracked { recipients, .. }) if recipients.is_empty()) {
            now = None;
        }
    }
    Ok(now.map(|entry| row_of([&entry])))
}
