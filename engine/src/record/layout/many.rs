//! A message that waits at many sessions, and what was dropped at each to make room for it.
//!
//! Layout: the message's number, its QoS and RETAIN, the length of the list in bytes, then the sessions: the difference
//! to the number of the one before, and how much older the message is that was dropped there, 0 = none. Both are
//! variable-length integers of seven bits a byte, lowest first, the difference with its sign in the lowest bit.

use protocol::QoS;

use super::{Reader, Writer, kind};
use crate::message::MsgNo;
use crate::record::{Queued, SessionNo, Source, TakeEach};

/// What is the same at all sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) struct Many {
    pub(in crate::record) message: MsgNo,
    pub(in crate::record) qos: QoS,
    pub(in crate::record) retain: bool,
}

/// One session where it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) struct Place {
    pub(in crate::record) session: SessionNo,
    /// An older message that was dropped for it.
    pub(in crate::record) displaced: Option<MsgNo>,
}

impl Many {
    /// Writes what stands before the list; returns where its length stands.
    pub(in crate::record) fn begin(&self, bytes: &mut Vec<u8>) -> usize {
        let mut w = Writer(bytes);
        let flags = self.qos as u8 | u8::from(self.retain) << 2;
        w.u8(kind::QUEUED_MANY).u64(self.message.0).u8(flags);
        let list = w.0.len();
        w.u32(0);
        list
    }

    /// Says how long the list is, which ends with the bytes.
    pub(in crate::record) fn set_len(bytes: &mut [u8], list: usize) {
        let len = (bytes.len() - list - 4) as u32;
        bytes[list..list + 4].copy_from_slice(&len.to_le_bytes());
    }
}

impl Place {
    pub(in crate::record) fn write(&self, bytes: &mut Vec<u8>, before: SessionNo, message: MsgNo) {
        let difference = self.session.0.wrapping_sub(before.0) as i64;
        write_number(bytes, (difference << 1 ^ difference >> 63) as u64);
        self.write_displaced(bytes, message);
    }

    /// Writes again what was dropped; nothing was so far.
    pub(in crate::record) fn rewrite_displaced(&self, bytes: &mut Vec<u8>, message: MsgNo) {
        debug_assert_eq!(bytes.last(), Some(&0), "something was dropped here already");
        bytes.pop();
        self.write_displaced(bytes, message);
    }

    fn write_displaced(&self, bytes: &mut Vec<u8>, message: MsgNo) {
        write_number(bytes, self.displaced.map_or(0, |displaced| message.0 - displaced.0));
    }
}

/// Reads what [`Many::begin`] and [`Place::write`] wrote, behind its kind, as the entries that it stands for.
pub(super) fn read(r: &mut Reader<'_>, take: &mut impl TakeEach) -> Result<(), String> {
    let (message, flags, len) = (r.message()?, r.u8()?, r.u32()? as usize);
    let (qos, retain) = (QoS::from_u8(flags & 3).ok_or("qos 3")?, flags & 4 != 0);
    let end = r.at.checked_add(len).filter(|end| *end <= r.record.len());
    let end = end.ok_or_else(|| format!("a list of {len} bytes at byte {} of {}", r.at, r.record.len()))?;
    let mut session = SessionNo(0);
    while r.at < end {
        let difference = read_number(r)?;
        session.0 = session.0.wrapping_add(difference >> 1 ^ (difference & 1).wrapping_neg());
        let older = read_number(r)?;
        let (source, packet_id) = (Source::Subscriptions, None);
        take.queued(Queued { session, message, qos, retain, source, identifiers: Vec::new(), packet_id })?;
        if older > 0 {
            let older = message
                .0
                .checked_sub(older)
                .ok_or_else(|| format!("{older} before message {}", message.0))?;
            take.waited(session, MsgNo(older))?;
        }
    }
    if r.at > end { Err(format!("a list runs over its end at byte {end}")) } else { Ok(()) }
}

/// Steps over all of it: there is no message in it.
pub(super) fn skip(r: &mut Reader<'_>) -> Result<(), String> {
    r.message()?;
    r.u8()?;
    r.skip().map(drop)
}

fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[inline]
fn read_number(r: &mut Reader<'_>) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = r.u8()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(format!("a number of more than 64 bits at byte {}", r.at))
}
