//! The bytes of entries about conversations, their members and messages' ids, and presence.

use protocol::QoS;

use super::{Reader, Writer, kind};
use crate::dedup::Forgotten;
use crate::presence::{Cause, State};
use crate::reads::Wish;
use crate::record::{Entry, Form, Hole, KeptMessage};

pub(super) fn write_entry(w: &mut Writer<'_>, entry: &Entry) {
    match entry {
        Entry::Conversation { topic, seq, ts_unix_ms } => {
            w.u8(kind::CONVERSATION).str(topic).u64(*seq).u64(*ts_unix_ms);
        }
        Entry::Presence { client, state: s } => {
            w.u8(kind::PRESENCE).str(client).str(&s.user).u64(s.epoch).u8(s.cause as u8).u64(s.since_unix_ms);
            w.u64(s.last_seen_unix_ms).u16(s.keepalive_s).opt_u64(s.ended_unix_ms);
        }
        Entry::PresenceCleared { client } => {
            w.u8(kind::PRESENCE_CLEARED).str(client);
        }
        Entry::PresenceForgotten { epoch } => {
            w.u8(kind::PRESENCE_FORGOTTEN).u64(*epoch);
        }
        Entry::NetVote { net, user, interval_s, at_unix_ms } => {
            w.u8(kind::NET_VOTE).str(net).str(user).u16(*interval_s).u64(*at_unix_ms);
        }
        Entry::Published { user, first, ids } => {
            w.u8(kind::PUBLISHED).str(user).u64(*first).u32(ids.len() as u32);
            for id in ids {
                w.published(id);
            }
        }
        Entry::ReadWished { topic, wish: Wish { seq, id, sender, of, left, is_open } } => {
            let kind = match (is_open, of) {
                (true, _) => kind::READ_WISHED_OPEN,
                (false, 0) => kind::READ_WISHED,
                (false, _) => kind::READ_WISHED_COUNTED,
            };
            w.u8(kind).str(topic).u64(*seq).str(id).str(sender);
            if kind != kind::READ_WISHED {
                w.u32(*of).u32(*left);
            }
        }
        Entry::GuestRead { topic, user, read } => {
            w.u8(kind::GUEST_READ).str(topic).str(user).u64(*read);
        }
        Entry::ReaderLeft { topic, user, joined, read } => {
            w.u8(kind::READER_LEFT).str(topic).str(user).u64(*joined).u64(*read);
        }
        Entry::ReadSettled { topic, to_seq } => {
            w.u8(kind::READ_SETTLED).str(topic).u64(*to_seq);
        }
        Entry::PublishedForgotten(Forgotten { user, from, to }) => {
            w.u8(kind::PUBLISHED_FORGOTTEN).str(user).u64(*from).u64(*to);
        }
        Entry::Member { topic, user, joined, read } => {
            w.u8(kind::MEMBER).str(topic).str(user).u64(*joined).u64(*read);
        }
        Entry::MemberLeft { topic, user } => {
            w.u8(kind::MEMBER_LEFT).str(topic).str(user);
        }
        Entry::ConversationKept { topic, first_seq } => {
            w.u8(kind::CONVERSATION_KEPT).str(topic).u64(*first_seq);
        }
        Entry::ConversationPage { topic, messages } => {
            w.u8(kind::CONVERSATION_PAGE).str(topic).u32(messages.len() as u32);
            for m in messages {
                w.u64(m.seq).u64(m.place).u64(m.message.0).u64(m.ts_unix_ms).u64(m.expiry_unix_ms);
                w.u32(m.bytes).u8(m.qos as u8).str(&m.sender);
            }
        }
        Entry::Cursor { session, topic, form, next } => {
            w.u8(kind::CURSOR).u64(session.0).str(topic).u8(*form as u8).opt_u64(*next);
        }
        Entry::Replayed { session, topic, form, seq, message, qos, identifiers, packet_id } => {
            w.u8(kind::REPLAYED).u64(session.0).str(topic).u8(*form as u8 | (*qos as u8) << 1);
            w.u64(*seq).u64(message.0).u16(packet_id.get()).u16(identifiers.len() as u16);
            for identifier in identifiers {
                w.u32(*identifier);
            }
        }
        Entry::Holes { session, topic, form, holes } => {
            w.u8(kind::HOLES).u64(session.0).str(topic).u8(*form as u8).u16(holes.len() as u16);
            for hole in holes {
                w.u64(hole.last_seq).u64(hole.told_by);
            }
        }
        other => unreachable!("{other:?} is written by the caller"),
    }
}

/// Reads the entry of a kind that the caller does not know.
pub(super) fn read_entry(r: &mut Reader<'_>, kind: u8) -> Result<Entry, String> {
    Ok(match kind {
        kind::CONVERSATION => Entry::Conversation { topic: r.str()?, seq: r.u64()?, ts_unix_ms: r.u64()? },
        kind::PUBLISHED => {
            let (user, first, count) = (r.str()?, r.u64()?, r.u32()?);
            let ids = (0..count).map(|_| r.published()).collect::<Result<_, _>>()?;
            Entry::Published { user, first, ids }
        }
        kind::READ_WISHED | kind::READ_WISHED_COUNTED | kind::READ_WISHED_OPEN => {
            let (topic, seq, id, sender) = (r.str()?, r.u64()?, r.str()?, r.str()?);
            let (of, left) = if kind == kind::READ_WISHED { (0, 0) } else { (r.u32()?, r.u32()?) };
            let is_open = kind == kind::READ_WISHED_OPEN;
            Entry::ReadWished { topic, wish: Wish { seq, id, sender, of, left, is_open } }
        }
        kind::GUEST_READ => Entry::GuestRead { topic: r.str()?, user: r.str()?, read: r.u64()? },
        kind::READER_LEFT => {
            Entry::ReaderLeft { topic: r.str()?, user: r.str()?, joined: r.u64()?, read: r.u64()? }
        }
        kind::READ_SETTLED => Entry::ReadSettled { topic: r.str()?, to_seq: r.u64()? },
        kind::PUBLISHED_FORGOTTEN => {
            Entry::PublishedForgotten(Forgotten { user: r.str()?, from: r.u64()?, to: r.u64()? })
        }
        kind::CONVERSATION_KEPT => Entry::ConversationKept { topic: r.str()?, first_seq: r.u64()? },
        kind::CONVERSATION_PAGE => {
            let (topic, count) = (r.str()?, r.u32()?);
            let messages = (0..count).map(|_| read_kept(r)).collect::<Result<_, _>>()?;
            Entry::ConversationPage { topic, messages }
        }
        kind::CURSOR => Entry::Cursor {
            session: r.session()?,
            topic: r.str()?,
            form: form(r.u8()?)?,
            next: r.option(Reader::u64)?,
        },
        kind::REPLAYED => {
            let (session, topic, bits) = (r.session()?, r.str()?, r.u8()?);
            let (form, qos) = (form(bits & 1)?, QoS::from_u8(bits >> 1).ok_or("qos 3")?);
            let (seq, message, packet_id, count) = (r.u64()?, r.message()?, r.packet_id()?, r.u16()?);
            let identifiers = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
            Entry::Replayed { session, topic, form, seq, message, qos, identifiers, packet_id }
        }
        kind::HOLES => {
            let (session, topic, form, count) = (r.session()?, r.str()?, form(r.u8()?)?, r.u16()?);
            let hole = |r: &mut Reader<'_>| Ok(Hole { last_seq: r.u64()?, told_by: r.u64()? });
            let holes = (0..count).map(|_| hole(r)).collect::<Result<_, String>>()?;
            Entry::Holes { session, topic, form, holes }
        }
        kind::PRESENCE => Entry::Presence { client: r.str()?, state: read_presence(r)? },
        kind::PRESENCE_CLEARED => Entry::PresenceCleared { client: r.str()? },
        kind::PRESENCE_FORGOTTEN => Entry::PresenceForgotten { epoch: r.u64()? },
        kind::NET_VOTE => {
            Entry::NetVote { net: r.str()?, user: r.str()?, interval_s: r.u16()?, at_unix_ms: r.u64()? }
        }
        kind::MEMBER => Entry::Member { topic: r.str()?, user: r.str()?, joined: r.u64()?, read: r.u64()? },
        kind::MEMBER_LEFT => Entry::MemberLeft { topic: r.str()?, user: r.str()? },
        other => return Err(format!("unknown kind {other}")),
    })
}

fn read_kept(r: &mut Reader<'_>) -> Result<KeptMessage, String> {
    Ok(KeptMessage {
        seq: r.u64()?,
        place: r.u64()?,
        message: r.message()?,
        ts_unix_ms: r.u64()?,
        expiry_unix_ms: r.u64()?,
        bytes: r.u32()?,
        qos: QoS::from_u8(r.u8()?).ok_or("qos 3")?,
        sender: r.str()?,
    })
}

pub(super) fn form(bits: u8) -> Result<Form, String> {
    match bits {
        0 => Ok(Form::Plain),
        1 => Ok(Form::Envelope),
        other => Err(format!("unknown form {other}")),
    }
}

fn read_presence(r: &mut Reader<'_>) -> Result<State, String> {
    let (user, epoch, cause) = (r.str()?, r.u64()?, r.u8()?);
    let cause =
        Cause::ALL.get(usize::from(cause)).copied().ok_or_else(|| format!("unknown cause {cause}"))?;
    let (since_unix_ms, last_seen_unix_ms, keepalive_s) = (r.u64()?, r.u64()?, r.u16()?);
    let ended_unix_ms = r.option(Reader::u64)?;
    Ok(State { user, epoch, cause, since_unix_ms, last_seen_unix_ms, keepalive_s, ended_unix_ms })
}
