//! Bodies of messages out of a record, for whoever has it read again.

use bytes::Bytes;

use super::{Reader, kind, many, read_entry};
use crate::body::Body;
use crate::message::MsgNo;
use crate::record::{Entry, VERSION};

/// A record of so few bytes stays in memory with a body that was read out of it: that costs less than to copy each part.
const SHARED_BYTES_MAX: usize = 512;

/// Reads the body of a message out of the record that holds it; `None` when the record does not.
pub(crate) fn read_body(record: &Bytes, no: MsgNo) -> Option<Body> {
    let mut r = Reader { record, at: 0, version: 0, skips_bodies: true, shares: false };
    r.version = r.u8().ok().filter(|version| (1..=VERSION).contains(version))?;
    while let Some(kind) = record.get(r.at) {
        if !matches!(*kind, kind::MESSAGE | kind::MESSAGE_V3) {
            next_entry(&mut r).ok()?;
            continue;
        }
        r.at += 1;
        r.shares = record.len() <= SHARED_BYTES_MAX;
        if let Some(body) = read_body_of(&mut r, *kind, no).ok()? {
            return Some(body);
        }
        r.shares = false;
    }
    None
}

/// Reads a message's body, if it is this message, or past it.
fn read_body_of(r: &mut Reader<'_>, form: u8, no: MsgNo) -> Result<Option<Body>, String> {
    let is_it = r.message()? == no;
    r.u8()?;
    let _expiry_and_seq = (r.option(Reader::u64)?, r.option(Reader::u64)?);
    r.u64()?;
    if form == kind::MESSAGE_V3 {
        r.collapse()?;
    }
    if !is_it {
        (0..5).try_for_each(|_| r.skip().map(drop))?;
        r.properties()?;
        return Ok(None);
    }
    let (id, from, client) = (r.str()?.into(), r.str()?, r.str()?);
    r.skip()?;
    let (payload, properties) = (r.bytes()?, r.properties()?.into());
    Ok(Some(Body { payload, id, from, client, properties, ..Body::default() }))
}

/// Returns a record with nothing but the messages of this one, which is what an answer to a fetch must have: the recipients
/// of one message may be a hundred thousand. A record that cannot be read stays as it is.
pub fn messages_of(record: Bytes) -> Bytes {
    let cut = || {
        let version = *record.first().filter(|version| (1..=VERSION).contains(*version))?;
        let mut r = Reader { record: &record, at: 1, version, skips_bodies: true, shares: false };
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
