//! Bodies of messages out of a record, for whoever has it read again.

use bytes::Bytes;

use super::{Reader, kind, many, read_entry};
use crate::body::Body;
use crate::message::MsgNo;
use crate::record::{Entry, VERSION};

/// Reads the body of a message out of the record that holds it; `None` when the record does not.
pub(crate) fn read_body(record: &Bytes, no: MsgNo) -> Option<Body> {
    let mut r = Reader { record, at: 0, version: 0, skips_bodies: false };
    r.version = r.u8().ok().filter(|version| (1..=VERSION).contains(version))?;
    while r.at < record.len() {
        match next_entry(&mut r).ok()? {
            Some(Entry::Message(entry)) if entry.message.no == no => return entry.message.body.take(),
            _ => {}
        }
    }
    None
}

/// Returns a record with nothing but the messages of this one, which is what an answer to a fetch must have: the recipients
/// of one message may be a hundred thousand. A record that cannot be read stays as it is.
pub fn messages_of(record: Bytes) -> Bytes {
    let cut = || {
        let version = *record.first().filter(|version| (1..=VERSION).contains(*version))?;
        let mut r = Reader { record: &record, at: 1, version, skips_bodies: true };
        let mut kept = vec![version];
        while r.at < record.len() {
            let from = r.at;
            if matches!(next_entry(&mut r).ok()?, Some(Entry::Message(_))) {
                kept.extend_from_slice(&record[from..r.at]);
            }
        }
        Some(kept)
    };
    cut().map_or_else(|| record.clone(), Bytes::from)
}

/// Reads the next entry; `None` for a list of sessions, which holds no message.
fn next_entry(r: &mut Reader<'_>) -> Result<Option<Entry>, String> {
    if r.record.get(r.at) != Some(&kind::QUEUED_MANY) {
        return read_entry(r).map(Some);
    }
    r.at += 1;
    many::skip(r).map(|()| None)
}
