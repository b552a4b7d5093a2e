//! The entries of one input become the bytes of one record.
//!
//! A message that waits at many sessions is one list of them, with what made room for it at each: three to six bytes a
//! session, not the 43 of the two entries. What is read back are these entries again.

use bytes::Bytes;

use super::layout::{Many, Place, Writer, write_entry, write_head, write_message};
use super::{Entry, SessionNo, Source, VERSION};
use crate::message::{Message, MsgNo};

/// Collects the entries of one input.
#[derive(Debug, Default)]
pub(crate) struct RecordBuilder {
    bytes: Vec<u8>,
    last: Option<Last>,
}

/// What the newest bytes say: a message waits at a session, or at each of a list.
#[derive(Debug)]
struct Last {
    /// Where they begin.
    at: usize,
    many: Many,
    newest: Place,
    /// They are a list, and this is where its length stands.
    list: Option<usize>,
}

impl RecordBuilder {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the record out; the builder is empty again.
    pub(crate) fn take(&mut self) -> Bytes {
        self.last = None;
        Bytes::from(std::mem::take(&mut self.bytes))
    }

    pub(crate) fn push(&mut self, entry: &Entry) {
        match *entry {
            Entry::Queued {
                session,
                message,
                qos,
                retain,
                source: Source::Subscriptions,
                ref identifiers,
                packet_id: None,
            } if identifiers.is_empty() => self.push_place(Many { message, qos, retain }, session, entry),
            Entry::Ended {
                session,
                message,
                source: Source::Subscriptions,
                packet_id: None,
                state: None,
            } => self.push_displaced(session, message, entry),
            _ => write_entry(&mut self.writer(), entry),
        }
    }

    /// Adds an `Entry::Message` without making one.
    pub(crate) fn push_message(&mut self, message: &Message, set_retained: bool) {
        write_message(&mut self.writer(), message, set_retained);
    }

    /// Adds an `Entry::Head` without making one.
    pub(crate) fn push_head(&mut self, message: &Message, needed: u32) {
        write_head(&mut self.writer(), message, needed);
    }

    /// What comes next is no part of a list.
    fn writer(&mut self) -> Writer<'_> {
        self.last = None;
        Self::writer_to(&mut self.bytes)
    }

    fn writer_to(bytes: &mut Vec<u8>) -> Writer<'_> {
        if bytes.is_empty() {
            bytes.push(VERSION);
        }
        Writer(bytes)
    }

    /// A message waits at one more session.
    fn push_place(&mut self, many: Many, session: SessionNo, entry: &Entry) {
        let newest = Place { session, displaced: None };
        let Some(last) = self.last.as_mut().filter(|last| last.many == many) else {
            let mut writer = self.writer();
            let at = writer.0.len();
            write_entry(&mut writer, entry);
            self.last = Some(Last { at, many, newest, list: None });
            return;
        };
        let list = *last.list.get_or_insert_with(|| {
            self.bytes.truncate(last.at);
            let list = many.begin(&mut self.bytes);
            last.at = self.bytes.len();
            last.newest.write(&mut self.bytes, SessionNo(0), many.message);
            list
        });
        last.at = self.bytes.len();
        newest.write(&mut self.bytes, last.newest.session, many.message);
        Many::set_len(&mut self.bytes, list);
        last.newest = newest;
    }

    /// A message that waited at a session is gone without a receipt: mostly it was the oldest, and makes room.
    fn push_displaced(&mut self, session: SessionNo, message: MsgNo, entry: &Entry) {
        let is_of = |last: &&mut Last| {
            let Place { session: newest, displaced } = last.newest;
            newest == session && displaced.is_none() && message < last.many.message
        };
        let Some(last) = self.last.as_mut().filter(is_of) else {
            return write_entry(&mut self.writer(), entry);
        };
        last.newest.displaced = Some(message);
        match last.list {
            // It may become one.
            None => write_entry(&mut Self::writer_to(&mut self.bytes), entry),
            Some(list) => {
                last.newest.rewrite_displaced(&mut self.bytes, last.many.message);
                Many::set_len(&mut self.bytes, list);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{PacketId, QoS};

    use super::*;
    use crate::record::{messages_of, read_record};

    fn queued(session: u64, message: u64) -> Entry {
        Entry::Queued {
            session: SessionNo(session),
            message: MsgNo(message),
            qos: QoS::AtLeastOnce,
            retain: false,
            source: Source::Subscriptions,
            identifiers: Vec::new(),
            packet_id: None,
        }
    }

    fn gone(session: u64, message: u64) -> Entry {
        Entry::Ended {
            session: SessionNo(session),
            message: MsgNo(message),
            source: Source::Subscriptions,
            packet_id: None,
            state: None,
        }
    }

    fn record_of(entries: &[Entry]) -> Bytes {
        let mut builder = RecordBuilder::default();
        entries.iter().for_each(|entry| builder.push(entry));
        builder.take()
    }

    #[test]
    fn the_layout_of_a_list_is_pinned() {
        let entries = [queued(7, 1_000), gone(7, 999), queued(5, 1_000), queued(300, 1_000), gone(300, 1)];
        let hex: String = record_of(&entries).iter().map(|byte| format!("{byte:02x}")).collect();
        // Version, kind, message, QoS, bytes; 7 and 1 older; 2 less and none; 295 more and 999 older.
        assert_eq!(hex, "0334e8030000000000000108000000".to_owned() + "0e01" + "0300" + "ce04" + "e707");
    }

    #[test]
    fn who_waits_at_many_sessions_needs_few_bytes_and_one_session_is_written_as_ever() {
        let all: Vec<_> = (0..100).flat_map(|n| [queued(n, 5_000), gone(n, 4_000)]).collect();
        assert!(record_of(&all).len() < 100 * 4 + 20);
        assert_eq!(read_record(&record_of(&all)).unwrap(), all);
        let mut plain = vec![VERSION];
        all[..2].iter().for_each(|entry| write_entry(&mut Writer(&mut plain), entry));
        assert_eq!(record_of(&all[..2]), plain);
    }

    proptest! {
        #[test]
        fn entries_come_back_as_they_were_whatever_makes_a_list(
            steps in prop::collection::vec((0_u8..8, 0_u64..4, 1_u64..4), 0..60),
        ) {
            let session = |n: u64| [0, 1, 70_000, u64::MAX][n as usize];
            let entry = |(kind, at, message): (u8, u64, u64)| match (kind, queued(session(at), message)) {
                (0..4, queued) => queued,
                (4..6, _) => gone(session(at), message),
                (6, Entry::Queued { session, message, qos, retain, source, identifiers, .. }) => {
                    let packet_id = PacketId::new(1);
                    Entry::Queued { session, message, qos, retain, source, identifiers, packet_id }
                }
                (_, Entry::Queued { session, message, retain, source, packet_id, .. }) => {
                    let (qos, identifiers) = (QoS::ExactlyOnce, vec![3; at as usize]);
                    Entry::Queued { session, message, qos, retain, source, identifiers, packet_id }
                }
                (_, other) => other,
            };
            let entries: Vec<_> = steps.into_iter().map(entry).collect();
            let record = record_of(&entries);
            if !entries.is_empty() {
                prop_assert_eq!(read_record(&record).unwrap(), entries);
                prop_assert_eq!(messages_of(record.clone()), Bytes::from_static(&[VERSION]));
            }
            // A cut inside an entry is refused, one between two is a shorter record; neither panics.
            for end in 0..record.len() {
                let _ = read_record(&record.slice(..end));
            }
        }
    }

    #[test]
    fn a_list_that_says_a_wrong_length_or_number_is_refused() {
        let whole = record_of(&[queued(7, 1_000), queued(9, 1_000), gone(9, 1)]);
        for end in 2..whole.len() {
            assert!(read_record(&whole.slice(..end)).is_err(), "cut at {end}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.to_vec();
            bytes[at] = byte;
            read_record(&bytes.into()).unwrap_err()
        };
        assert!(with(11, 4).contains("runs over its end"), "{}", with(11, 4));
        assert!(with(3, 0).contains("before message"), "{}", with(3, 0));
    }
}
