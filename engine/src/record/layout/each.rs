//! Records read entry by entry.

use std::num::NonZeroU64;

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{PacketId, QoS};

use super::{Reader, VERSION, kind, many, read_entry, read_head};
use crate::body::BodySlot;
use crate::memory::Held;
use crate::message::{Expiry, Flag, Message, MsgNo};
use crate::record::{Entry, HeadEntry, SessionNo, Source};

/// The fields of an [`Entry::Queued`].
pub(crate) struct Queued {
    pub(crate) session: SessionNo,
    pub(crate) message: MsgNo,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) source: Source,
    pub(crate) identifiers: Vec<u32>,
    pub(crate) packet_id: Option<PacketId>,
}

/// The fields of an [`Entry::Head`].
#[derive(Clone, Copy)]
pub(crate) struct HeadFields<'a> {
    pub(crate) no: MsgNo,
    pub(crate) record: u64,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) is_high: bool,
    pub(crate) needed: u32,
    pub(crate) expiry_unix_ms: Option<u64>,
    pub(crate) seq: Option<u64>,
    pub(crate) ts_unix_ms: u64,
    pub(crate) collapse: Option<NonZeroU64>,
    pub(crate) bytes: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) topic: &'a str,
}

impl HeadFields<'_> {
    /// Makes the message; its topic may be shared with others.
    #[inline]
    pub(crate) fn message(&self, topic: ByteString, expiry: Option<Expiry>, held: Held) -> Message {
        Message {
            no: self.no,
            record: self.record,
            is_gated: false,
            is_written: Flag::from(self.record > 0),
            is_pinned: false,
            is_high: self.is_high,
            qos: self.qos,
            retain: self.retain,
            topic,
            expiry,
            seq: self.seq,
            ts_unix_ms: self.ts_unix_ms,
            collapse: self.collapse,
            bytes: self.bytes,
            payload_bytes: self.payload_bytes,
            body: BodySlot::default(),
            held,
        }
    }
}

impl From<HeadFields<'_>> for Entry {
    fn from(head: HeadFields<'_>) -> Self {
        let expiry = head.expiry_unix_ms.map(|unix_ms| Expiry::new(0, unix_ms));
        let message = head.message(head.topic.into(), expiry, Held::default());
        Self::Head(Box::new(HeadEntry { message, needed: head.needed }))
    }
}

impl From<Queued> for Entry {
    fn from(queued: Queued) -> Self {
        let Queued { session, message, qos, retain, source, identifiers, packet_id } = queued;
        Self::Queued { session, message, qos, retain, source, identifiers, packet_id }
    }
}

#[inline]
pub(super) fn read_queued(r: &mut Reader<'_>) -> Result<Queued, String> {
    let (session, message, flags) = (r.session()?, r.message()?, r.u8()?);
    let qos = QoS::from_u8(flags & 3).ok_or("qos 3")?;
    let (retain, source) = (flags & 4 != 0, r.source(flags >> 3)?);
    let packet_id = PacketId::new(r.u16()?);
    let count = r.u16()?;
    let identifiers = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
    Ok(Queued { session, message, qos, retain, source, identifiers, packet_id })
}

/// Takes the entries of records. There are so many heads and places in queues that no [`Entry`] is made of them first.
pub(crate) trait TakeEach {
    /// Takes an `Entry::Head`.
    fn head(&mut self, head: HeadFields<'_>) -> Result<(), String>;
    /// Takes an `Entry::Queued`.
    fn queued(&mut self, queued: Queued) -> Result<(), String>;
    /// Takes an `Entry::Ended` of a message that waited by the session's own subscriptions, without a final state.
    fn waited(&mut self, session: SessionNo, message: MsgNo) -> Result<(), String> {
        let (source, packet_id) = (Source::Subscriptions, None);
        self.other(Entry::Ended { session, message, source, packet_id, state: None })
    }
    /// Takes any other entry.
    fn other(&mut self, entry: Entry) -> Result<(), String>;
}

impl TakeEach for Vec<Entry> {
    fn head(&mut self, head: HeadFields<'_>) -> Result<(), String> {
        self.push(head.into());
        Ok(())
    }

    fn queued(&mut self, queued: Queued) -> Result<(), String> {
        self.push(queued.into());
        Ok(())
    }

    fn other(&mut self, entry: Entry) -> Result<(), String> {
        self.push(entry);
        Ok(())
    }
}

/// Reads the entries of one record and gives them away one by one.
///
/// # Errors
/// As [`read_record`](super::read_record), or what the taker says; those before were taken then.
pub(crate) fn read_each(record: &Bytes, take: &mut impl TakeEach) -> Result<(), String> {
    read(record, take, false)
}

/// The same without the bodies of messages that no topic keeps and that are in no conversation: they are left out.
///
/// # Errors
/// As [`read_each`].
pub(crate) fn read_heads(record: &Bytes, take: &mut impl TakeEach) -> Result<(), String> {
    read(record, take, true)
}

fn read(record: &Bytes, take: &mut impl TakeEach, skips_bodies: bool) -> Result<(), String> {
    let mut r = Reader { record, at: 0, version: 0, skips_bodies, shares: false };
    r.version = r.u8()?;
    if !(1..=VERSION).contains(&r.version) {
        return Err(format!("record version {}, this program reads versions 1 to {VERSION}", r.version));
    }
    while let Some(kind) = record.get(r.at) {
        let at = r.at;
        let named = |what| format!("entry at byte {at}: {what}");
        match *kind {
            kind::HEAD => {
                r.at += 1;
                take.head(read_head(&mut r).map_err(named)?)?;
            }
            kind::QUEUED => {
                r.at += 1;
                take.queued(read_queued(&mut r).map_err(named)?)?;
            }
            kind::QUEUED_MANY => {
                r.at += 1;
                many::read(&mut r, take).map_err(named)?;
            }
            _ => take.other(read_entry(&mut r).map_err(named)?)?,
        }
    }
    Ok(())
}
