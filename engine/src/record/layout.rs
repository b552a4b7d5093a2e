//! The bytes of entries, written and read.

mod bodies;
mod each;
mod im;
mod many;
mod tracked;

use std::num::{NonZeroU16, NonZeroU64};

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{PacketId, PublishProperties, QoS, RetainHandling, SubscribeOptions, UserProperties, Will};

use super::{Entry, FinalState, GroupNo, MessageEntry, SessionNo, Source, VERSION};
use crate::behind::{Behind, Stretch};
use crate::body::{Body, BodySlot};
use crate::dedup::{Fingerprint, Published};
use crate::memory::Held;
use crate::message::{Expiry, Flag, Message, MsgNo, sizes};
use crate::poison::SetAside;

pub use bodies::messages_of;
pub(crate) use bodies::read_body;
pub(super) use many::{Many, Place};

pub(super) mod kind {
    pub(in crate::record) const SESSION_OPENED: u8 = 1;
    pub(in crate::record) const SESSION_CONNECTED: u8 = 2;
    pub(in crate::record) const SESSION_DISCONNECTED: u8 = 3;
    pub(in crate::record) const SESSION_ENDED: u8 = 4;
    pub(in crate::record) const SUBSCRIBED: u8 = 5;
    pub(in crate::record) const UNSUBSCRIBED: u8 = 6;
    pub(in crate::record) const MESSAGE: u8 = 7;
    pub(in crate::record) const RETAINED_CLEARED: u8 = 8;
    pub(in crate::record) const QUEUED: u8 = 9;
    pub(in crate::record) const SENT: u8 = 10;
    pub(in crate::record) const RECEIVED: u8 = 11;
    pub(in crate::record) const ENDED: u8 = 12;
    pub(in crate::record) const TRACKED: u8 = 13;
    pub(in crate::record) const INCOMING_TAKEN: u8 = 14;
    pub(in crate::record) const INCOMING_RELEASED: u8 = 15;
    pub(in crate::record) const CONVERSATION: u8 = 16;
    pub(in crate::record) const COUNTERS: u8 = 17;
    pub(in crate::record) const GROUP: u8 = 18;
    pub(in crate::record) const CONVERSATION_KEPT: u8 = 20;
    pub(in crate::record) const CURSOR: u8 = 21;
    pub(in crate::record) const CONVERSATION_PAGE: u8 = 35;
    pub(in crate::record) const REPLAYED: u8 = 36;
    pub(in crate::record) const HOLES: u8 = 37;
    pub(in crate::record) const PRESENCE: u8 = 24;
    pub(in crate::record) const PRESENCE_CLEARED: u8 = 25;
    pub(in crate::record) const NET_VOTE: u8 = 28;
    pub(in crate::record) const PUBLISHED: u8 = 19;
    pub(in crate::record) const PUBLISHED_FORGOTTEN: u8 = 41;
    pub(in crate::record) const SET_ASIDE: u8 = 26;
    pub(in crate::record) const TAKEN_BACK: u8 = 27;
    pub(in crate::record) const READ_WISHED: u8 = 42;
    pub(in crate::record) const READ_SETTLED: u8 = 43;
    pub(in crate::record) const HEAD: u8 = 29;
    pub(in crate::record) const GROUP_FORGOTTEN: u8 = 30;
    /// A message with what version 3 added.
    pub(in crate::record) const MESSAGE_V3: u8 = 40;
    pub(in crate::record) const MEMBER: u8 = 22;
    pub(in crate::record) const MEMBER_LEFT: u8 = 23;
    pub(in crate::record) const AWAY: u8 = 44;
    /// Receipts of recipients that are counted.
    pub(in crate::record) const TRACKED_COUNTED: u8 = 45;
    /// What is waited for to be read by so many that they are counted.
    pub(in crate::record) const READ_WISHED_COUNTED: u8 = 46;
    pub(in crate::record) const READER_LEFT: u8 = 47;
    /// What is waited for to be read by others than members.
    pub(in crate::record) const READ_WISHED_OPEN: u8 = 56;
    pub(in crate::record) const GUEST_READ: u8 = 57;
    pub(in crate::record) const BEHIND: u8 = 48;
    pub(in crate::record) const PRESENCE_FORGOTTEN: u8 = 49;
    /// A message that waits at many sessions, and what was dropped at each to make room.
    pub(in crate::record) const QUEUED_MANY: u8 = 52;
}

pub(super) fn write_entry(w: &mut Writer<'_>, entry: &Entry) {
    match entry {
        Entry::SessionOpened { session, client_id, user } => {
            w.u8(kind::SESSION_OPENED).u64(session.0).str(client_id).str(user);
        }
        Entry::SessionConnected { session, expiry_s, will } => {
            w.u8(kind::SESSION_CONNECTED).u64(session.0).u32(*expiry_s).option(will.as_deref(), Writer::will);
        }
        Entry::SessionDisconnected { session, expiry_s, at_unix_ms, will } => {
            w.u8(kind::SESSION_DISCONNECTED).u64(session.0).u32(*expiry_s).u64(*at_unix_ms);
            w.option(will.as_deref(), Writer::will);
        }
        Entry::SessionEnded { session } => {
            w.u8(kind::SESSION_ENDED).u64(session.0);
        }
        Entry::Subscribed { session, filter, options, identifier } => {
            w.u8(kind::SUBSCRIBED).u64(session.0).str(filter).options(*options);
            w.option(identifier.as_ref(), |w, i| w.u32(*i));
        }
        Entry::Unsubscribed { session, filter } => {
            w.u8(kind::UNSUBSCRIBED).u64(session.0).str(filter);
        }
        Entry::Message(m) => write_message(w, &m.message, m.set_retained),
        Entry::Head(h) => write_head(w, &h.message, h.needed),
        Entry::RetainedCleared { topic } => {
            w.u8(kind::RETAINED_CLEARED).str(topic);
        }
        Entry::Group { group, filter } => {
            w.u8(kind::GROUP).u64(group.0).str(filter);
        }
        Entry::GroupForgotten { group } => {
            w.u8(kind::GROUP_FORGOTTEN).u64(group.0);
        }
        Entry::Queued { session, message, qos, retain, source, identifiers, packet_id } => {
            let flags = *qos as u8 | u8::from(*retain) << 2;
            w.u8(kind::QUEUED).u64(session.0).u64(message.0).source(flags, 3, *source);
            w.u16(packet_id.map_or(0, NonZeroU16::get)).u16(identifiers.len() as u16);
            for identifier in identifiers {
                w.u32(*identifier);
            }
        }
        Entry::Sent { session, message, packet_id } => {
            w.u8(kind::SENT).u64(session.0).u64(message.0).u16(packet_id.get());
        }
        Entry::Received { session, packet_id } => {
            w.u8(kind::RECEIVED).u64(session.0).u16(packet_id.get());
        }
        Entry::Ended { session, message, source, packet_id, state } => {
            w.u8(kind::ENDED).u64(session.0).u64(message.0);
            w.u16(packet_id.map_or(0, NonZeroU16::get)).source(state.map_or(0, |s| s as u8), 4, *source);
        }
        Entry::Tracked { .. } => tracked::write(w, entry),
        Entry::IncomingTaken { session, packet_id, seq, id } => {
            w.u8(kind::INCOMING_TAKEN).u64(session.0).u16(packet_id.get()).opt_u64(*seq).str(id);
        }
        Entry::IncomingReleased { session, packet_id } => {
            w.u8(kind::INCOMING_RELEASED).u64(session.0).u16(packet_id.get());
        }
        Entry::SetAside { session, set_aside } => {
            let SetAside { message, qos, form, at_unix_ms } = &**set_aside;
            w.u8(kind::SET_ASIDE).u64(session.0).u8(*qos as u8 | (*form as u8) << 2).u64(*at_unix_ms);
            write_message(w, message, false);
        }
        Entry::TakenBack { session, message } => {
            w.u8(kind::TAKEN_BACK).u64(session.0).u64(message.0);
        }
        Entry::Away { session, since } => {
            w.u8(kind::AWAY).u64(session.0).u64(since.0);
        }
        Entry::Behind { session, behind } => {
            w.u8(kind::BEHIND).u64(session.0).u16(behind.stretches().len() as u16);
            for Stretch { after, since } in behind.stretches() {
                w.str(after).u64(since.0);
            }
        }
        Entry::Counters { message, session, group } => {
            w.u8(kind::COUNTERS).u64(*message).u64(*session).u64(*group);
        }
        of_im => im::write_entry(w, of_im),
    }
}

/// Writes what [`read_message`] reads.
pub(super) fn write_message(w: &mut Writer<'_>, m: &Message, set_retained: bool) {
    let flags = m.qos as u8 | u8::from(m.retain) << 2 | u8::from(set_retained) << 3;
    let is_plain = m.collapse.is_none() && !m.is_high;
    w.u8(if is_plain { kind::MESSAGE } else { kind::MESSAGE_V3 });
    w.u64(m.no.0).u8(flags | u8::from(m.is_high) << 4);
    w.opt_u64(m.expiry.map(|e| e.unix_ms())).opt_u64(m.seq).u64(m.ts_unix_ms);
    if !is_plain {
        w.opt_u64(m.collapse.map(NonZeroU64::get));
    }
    let body = m.body.load();
    // A message is written while its body is in memory: `Shard::write_message` sees to it.
    let Some(body) = body.as_deref() else { return debug_assert!(false, "a message without its body") };
    body.id.with(|id| {
        w.str(id);
    });
    w.str(&body.from).str(&body.client).str(&m.topic).bytes(&body.payload);
    w.properties(&body.properties);
}

use each::read_queued;
pub(crate) use each::{HeadFields, Queued, TakeEach, read_each, read_heads};

/// Reads the entries of one record.
///
/// # Errors
/// The record is not of this version or is cut; the text says where.
pub(crate) fn read_record(record: &Bytes) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    read_each(record, &mut entries)?;
    Ok(entries)
}

fn read_entry(r: &mut Reader<'_>) -> Result<Entry, String> {
    Ok(match r.u8()? {
        kind::SESSION_OPENED => {
            Entry::SessionOpened { session: r.session()?, client_id: r.str()?, user: r.str()? }
        }
        kind::SESSION_CONNECTED => Entry::SessionConnected {
            session: r.session()?,
            expiry_s: r.u32()?,
            will: r.option(Reader::will)?,
        },
        kind::SESSION_DISCONNECTED => Entry::SessionDisconnected {
            session: r.session()?,
            expiry_s: r.u32()?,
            at_unix_ms: r.u64()?,
            will: r.option(Reader::will)?,
        },
        kind::SESSION_ENDED => Entry::SessionEnded { session: r.session()? },
        kind::SUBSCRIBED => Entry::Subscribed {
            session: r.session()?,
            filter: r.str()?,
            options: r.options()?,
            identifier: r.option(Reader::u32)?,
        },
        kind::UNSUBSCRIBED => Entry::Unsubscribed { session: r.session()?, filter: r.str()? },
        form @ (kind::MESSAGE | kind::MESSAGE_V3) => {
            Entry::Message(Box::new(read_message(r, form, !r.skips_bodies)?))
        }
        kind::HEAD => read_head(r)?.into(),
        kind::RETAINED_CLEARED => Entry::RetainedCleared { topic: r.str()? },
        kind::QUEUED => read_queued(r)?.into(),
        kind::SENT => Entry::Sent { session: r.session()?, message: r.message()?, packet_id: r.packet_id()? },
        kind::RECEIVED => Entry::Received { session: r.session()?, packet_id: r.packet_id()? },
        kind::ENDED => {
            let (session, message, packet_id) = (r.session()?, r.message()?, PacketId::new(r.u16()?));
            let bits = r.u8()?;
            let state = final_state(bits & 15)?;
            let source = match (r.version, state) {
                // Version 1 said it by the state that is missing.
                (1, None) => Source::Retained,
                _ => r.source(bits >> 4)?,
            };
            Entry::Ended { session, message, source, packet_id, state }
        }
        form @ (kind::TRACKED | kind::TRACKED_COUNTED) => tracked::read(r, form)?,
        kind::INCOMING_TAKEN => Entry::IncomingTaken {
            session: r.session()?,
            packet_id: r.packet_id()?,
            seq: r.option(Reader::u64)?,
            id: r.str()?,
        },
        kind::INCOMING_RELEASED => {
            Entry::IncomingReleased { session: r.session()?, packet_id: r.packet_id()? }
        }
        kind::COUNTERS => Entry::Counters {
            message: r.u64()?,
            session: r.u64()?,
            group: if r.version == 1 { 1 } else { r.u64()? },
        },
        kind::SET_ASIDE => {
            let (session, bits, at_unix_ms) = (r.session()?, r.u8()?, r.u64()?);
            let (qos, form) = (QoS::from_u8(bits & 3).ok_or("qos 3")?, im::form(bits >> 2)?);
            let kind = r.u8()?;
            if kind != kind::MESSAGE && kind != kind::MESSAGE_V3 {
                return Err(format!("kind {kind} where a message must be"));
            }
            let message = std::sync::Arc::new(read_message(r, kind, true)?.message);
            let set_aside = Box::new(SetAside { message, qos, form, at_unix_ms });
            Entry::SetAside { session, set_aside }
        }
        kind::TAKEN_BACK => Entry::TakenBack { session: r.session()?, message: r.message()? },
        kind::GROUP_FORGOTTEN => Entry::GroupForgotten { group: GroupNo(r.u64()?) },
        kind::GROUP => Entry::Group { group: GroupNo(r.u64()?), filter: r.str()? },
        kind::AWAY => Entry::Away { session: r.session()?, since: r.message()? },
        kind::BEHIND => {
            let (session, count) = (r.session()?, r.u16()?);
            let stretch = |r: &mut Reader<'_>| Ok(Stretch { after: r.str()?, since: r.message()? });
            let stretches = (0..count).map(|_| stretch(r)).collect::<Result<_, String>>()?;
            Entry::Behind { session, behind: Behind::of(stretches) }
        }
        of_im => return im::read_entry(r, of_im),
    })
}

/// Reads a message, its body only if it is wanted, or needed for what is kept of the message besides.
fn read_message(r: &mut Reader<'_>, form: u8, wants_body: bool) -> Result<MessageEntry, String> {
    let no = r.message()?;
    let flags = r.u8()?;
    let (expiry, seq, ts_unix_ms) = (r.option(Reader::u64)?, r.option(Reader::u64)?, r.u64()?);
    let collapse = if form == kind::MESSAGE { None } else { r.collapse()? };
    // A topic keeps it whole, and a conversation its sender.
    let is_whole = wants_body || flags & 8 != 0 || seq.is_some();
    let mut body = Body::default();
    if is_whole {
        (body.id, body.from, body.client) = (r.str()?.into(), r.str()?, r.str()?);
    } else {
        (0..3).try_for_each(|_| r.skip().map(drop))?;
    }
    let topic = r.str()?;
    let payload_bytes = if is_whole {
        body.payload = r.bytes()?;
        body.payload.len()
    } else {
        r.skip()?
    };
    let properties = r.properties()?;
    let (bytes, payload_bytes) = sizes(&topic, payload_bytes, &properties);
    body.properties = properties.into();
    let message = Message {
        no,
        record: 0,
        is_gated: false,
        is_written: Flag::default(),
        is_pinned: false,
        is_high: flags & 16 != 0,
        qos: QoS::from_u8(flags & 3).ok_or("qos 3")?,
        retain: flags & 4 != 0,
        topic,
        expiry: expiry.map(|unix_ms| Expiry::new(0, unix_ms)),
        seq,
        ts_unix_ms,
        collapse,
        bytes,
        payload_bytes,
        body: if is_whole { body.into() } else { BodySlot::default() },
        held: Held::default(),
    };
    Ok(MessageEntry { message, set_retained: flags & 8 != 0 })
}

/// Writes what [`read_head`] reads.
pub(super) fn write_head(w: &mut Writer<'_>, m: &Message, needed: u32) {
    let flags = m.qos as u8 | u8::from(m.retain) << 2 | u8::from(m.is_high) << 3;
    w.u8(kind::HEAD).u64(m.no.0).u64(m.place()).u8(flags).u32(needed);
    w.opt_u64(m.expiry.map(|e| e.unix_ms()))
        .opt_u64(m.seq)
        .u64(m.ts_unix_ms)
        .opt_u64(m.collapse.map(NonZeroU64::get));
    w.u32(m.bytes).u32(m.payload_bytes).str(&m.topic);
}

#[inline]
fn read_head<'r>(r: &mut Reader<'r>) -> Result<HeadFields<'r>, String> {
    let (no, record, flags, needed) = (r.message()?, r.u64()?, r.u8()?, r.u32()?);
    let (expiry_unix_ms, seq, ts_unix_ms) = (r.option(Reader::u64)?, r.option(Reader::u64)?, r.u64()?);
    let (collapse, bytes, payload_bytes) = (r.collapse()?, r.u32()?, r.u32()?);
    let qos = QoS::from_u8(flags & 3).ok_or("qos 3")?;
    let (retain, is_high) = (flags & 4 != 0, flags & 8 != 0);
    Ok(HeadFields {
        no,
        record,
        qos,
        retain,
        is_high,
        needed,
        expiry_unix_ms,
        seq,
        ts_unix_ms,
        collapse,
        bytes,
        payload_bytes,
        topic: r.text()?,
    })
}

pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }
    fn u16(&mut self, v: u16) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }
    fn bytes(&mut self, v: &[u8]) -> &mut Self {
        // The codec bounds every packet below 2^28 bytes, so its fields fit.
        self.u32(v.len() as u32).0.extend_from_slice(v);
        self
    }
    fn str(&mut self, v: &str) -> &mut Self {
        self.bytes(v.as_bytes())
    }
    fn option<T: ?Sized>(
        &mut self,
        v: Option<&T>,
        write: impl for<'w> FnOnce(&'w mut Self, &T) -> &'w mut Self,
    ) -> &mut Self {
        self.u8(u8::from(v.is_some()));
        if let Some(v) = v {
            write(self, v);
        }
        self
    }
    fn opt_u64(&mut self, v: Option<u64>) -> &mut Self {
        self.option(v.as_ref(), |w, v| w.u64(*v))
    }
    fn published(&mut self, id: &Published) -> &mut Self {
        let Fingerprint(fingerprint) = id.fingerprint();
        self.0.extend_from_slice(&fingerprint.to_le_bytes());
        self.opt_u64(id.seq()).u8(u8::from(id.had_nobody())).u32(id.at_s())
    }
    /// A source in the bits of `bits` from `shift` on, and the group's number behind them.
    fn source(&mut self, bits: u8, shift: u8, source: Source) -> &mut Self {
        match source {
            Source::Subscriptions => self.u8(bits),
            Source::Retained => self.u8(bits | 1 << shift),
            Source::Group(group) => self.u8(bits | 2 << shift).u64(group.0),
            Source::Envelope => self.u8(bits | 3 << shift),
            Source::RetainedEnvelope => self.u8(bits | 4 << shift),
        }
    }
    fn options(&mut self, o: SubscribeOptions) -> &mut Self {
        self.u8(o.qos as u8
            | u8::from(o.no_local) << 2
            | u8::from(o.retain_as_published) << 3
            | (o.retain_handling as u8) << 4)
    }
    fn user_properties(&mut self, properties: &UserProperties) -> &mut Self {
        self.u32(properties.len() as u32);
        for (name, value) in properties {
            self.str(name).str(value);
        }
        self
    }
    fn properties(&mut self, p: &PublishProperties) -> &mut Self {
        self.u8(match p.payload_format_utf8 {
            None => 0,
            Some(false) => 1,
            Some(true) => 2,
        });
        self.option(p.response_topic.as_ref(), |w, v| w.str(v));
        self.option(p.correlation_data.as_ref(), |w, v| w.bytes(v));
        self.option(p.content_type.as_ref(), |w, v| w.str(v));
        self.user_properties(&p.user_properties)
    }
    fn will(&mut self, will: &Will) -> &mut Self {
        self.str(&will.topic).bytes(&will.payload).u8(will.qos as u8 | u8::from(will.retain) << 2);
        self.option(will.delay_interval_s.as_ref(), |w, v| w.u32(*v));
        self.option(will.properties.message_expiry_interval_s.as_ref(), |w, v| w.u32(*v));
        self.properties(&will.properties)
    }
}

struct Reader<'a> {
    record: &'a Bytes,
    at: usize,
    version: u8,
    /// Messages are wanted without the bodies that nothing but sending needs.
    skips_bodies: bool,
    /// Strings and payloads are parts of the record, not copies.
    shares: bool,
}

fn final_state(state: u8) -> Result<Option<FinalState>, String> {
    let known = FinalState::ALL.into_iter().find(|s| *s as u8 == state);
    if known.is_none() && state != 0 { Err(format!("unknown final state {state}")) } else { Ok(known) }
}

impl<'a> Reader<'a> {
    /// Where so many bytes from here on end.
    fn end_of(&self, len: usize) -> Result<usize, String> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.record.len());
        end.ok_or_else(|| format!("{len} bytes wanted at byte {} of {}", self.at, self.record.len()))
    }
    fn slice(&mut self, len: usize) -> Result<Bytes, String> {
        let (at, end, record) = (self.at, self.end_of(len)?, self.record);
        self.at = end;
        // A slice keeps all of the record in memory.
        Ok(if self.shares { record.slice(at..end) } else { Bytes::copy_from_slice(&record[at..end]) })
    }
    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.record.get(self.at..self.at + N);
        let bytes =
            bytes.ok_or_else(|| format!("{N} bytes wanted at byte {} of {}", self.at, self.record.len()))?;
        self.at += N;
        Ok(bytes.try_into().expect("the slice has N bytes"))
    }
    #[inline]
    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }
    #[inline]
    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    #[inline]
    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    #[inline]
    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    fn bytes(&mut self) -> Result<Bytes, String> {
        let len = self.u32()?;
        self.slice(len as usize)
    }
    fn str(&mut self) -> Result<ByteString, String> {
        ByteString::try_from(self.bytes()?).map_err(|e| format!("a string is not UTF-8: {e}"))
    }
    /// Steps over bytes that nobody wants; returns how many.
    fn skip(&mut self) -> Result<usize, String> {
        let len = self.u32()? as usize;
        self.at = self.end_of(len)?;
        Ok(len)
    }
    /// A string that nobody keeps.
    #[inline]
    fn text(&mut self) -> Result<&'a str, String> {
        let len = self.u32()? as usize;
        let end = self.at.checked_add(len);
        let text = end.and_then(|end| self.record.get(self.at..end));
        let text = text.ok_or_else(|| format!("{len} bytes wanted at byte {}", self.at))?;
        self.at += len;
        std::str::from_utf8(text).map_err(|e| format!("a string is not UTF-8: {e}"))
    }
    #[inline]
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<Option<T>, String> {
        if self.u8()? == 0 { Ok(None) } else { read(self).map(Some) }
    }
    #[inline]
    fn collapse(&mut self) -> Result<Option<NonZeroU64>, String> {
        Ok(self.option(Self::u64)?.and_then(NonZeroU64::new))
    }
    #[inline]
    fn session(&mut self) -> Result<SessionNo, String> {
        self.u64().map(SessionNo)
    }
    #[inline]
    fn message(&mut self) -> Result<MsgNo, String> {
        self.u64().map(MsgNo)
    }
    fn packet_id(&mut self) -> Result<PacketId, String> {
        PacketId::new(self.u16()?).ok_or_else(|| "packet id 0".into())
    }
    fn published(&mut self) -> Result<Published, String> {
        let fingerprint = Fingerprint(u128::from_le_bytes(self.array()?));
        let (seq, had_nobody) = (self.option(Self::u64)?, self.u8()? != 0);
        Ok(Published::new(fingerprint, seq, had_nobody, self.u32()?))
    }
    #[inline]
    fn source(&mut self, bits: u8) -> Result<Source, String> {
        match bits {
            0 => Ok(Source::Subscriptions),
            1 => Ok(Source::Retained),
            2 => Ok(Source::Group(GroupNo(self.u64()?))),
            3 => Ok(Source::Envelope),
            4 => Ok(Source::RetainedEnvelope),
            other => Err(format!("unknown source {other}")),
        }
    }
    fn options(&mut self) -> Result<SubscribeOptions, String> {
        let bits = self.u8()?;
        Ok(SubscribeOptions {
            qos: QoS::from_u8(bits & 3).ok_or("qos 3")?,
            no_local: bits & 4 != 0,
            retain_as_published: bits & 8 != 0,
            retain_handling: match bits >> 4 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                _ => RetainHandling::DoNotSend,
            },
        })
    }
    fn user_properties(&mut self) -> Result<UserProperties, String> {
        let count = self.u32()?;
        (0..count).map(|_| Ok((self.str()?, self.str()?))).collect()
    }
    fn properties(&mut self) -> Result<PublishProperties, String> {
        let payload_format_utf8 = match self.u8()? {
            0 => None,
            1 => Some(false),
            _ => Some(true),
        };
        Ok(PublishProperties {
            payload_format_utf8,
            response_topic: self.option(Self::str)?,
            correlation_data: self.option(Self::bytes)?,
            content_type: self.option(Self::str)?,
            user_properties: self.user_properties()?,
            ..PublishProperties::default()
        })
    }
    fn will(&mut self) -> Result<Box<Will>, String> {
        let (topic, payload, bits) = (self.str()?, self.bytes()?, self.u8()?);
        let delay_interval_s = self.option(Self::u32)?;
        let message_expiry_interval_s = self.option(Self::u32)?;
        let properties = PublishProperties { message_expiry_interval_s, ..self.properties()? };
        let qos = QoS::from_u8(bits & 3).ok_or("qos 3")?;
        Ok(Box::new(Will { topic, payload, qos, retain: bits & 4 != 0, delay_interval_s, properties }))
    }
}
