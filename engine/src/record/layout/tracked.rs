//! The bytes of receipts that are open: recipients with their names, or only counted.

use super::{Reader, Writer, kind};
use crate::config::ReceiptsWanted;
use crate::record::{Entry, GroupNo, Recipients, SessionNo, TrackedRecipient};

pub(super) fn write(w: &mut Writer<'_>, entry: &Entry) {
    let Entry::Tracked { message, topic, seq, id, sender, wanted, of, ended, recipients } = entry else {
        unreachable!("{entry:?} is written by the caller")
    };
    let kind = match recipients {
        Recipients::Listed(_) => kind::TRACKED,
        Recipients::Counted { .. } => kind::TRACKED_COUNTED,
    };
    w.u8(kind).u64(message.0).str(topic).opt_u64(*seq).str(id).str(sender).u8(*wanted as u8);
    w.u32(*of);
    for count in ended {
        w.u32(*count);
    }
    w.recipients(recipients);
}

/// Reads what [`write`] writes under one of its kinds.
pub(super) fn read(r: &mut Reader<'_>, form: u8) -> Result<Entry, String> {
    let (message, topic, seq) = (r.message()?, r.str()?, r.option(Reader::u64)?);
    let (id, sender) = (r.str()?, r.str()?);
    let wanted = match r.u8()? {
        1 => ReceiptsWanted::Delivered,
        2 => ReceiptsWanted::Read,
        3 => ReceiptsWanted::All,
        other => return Err(format!("unknown receipt wish {other}")),
    };
    let of = r.u32()?;
    let ended = [r.u32()?, r.u32()?, r.u32()?, r.u32()?];
    let recipients = if form == kind::TRACKED { r.listed()? } else { r.counted()? };
    Ok(Entry::Tracked { message, topic, seq, id, sender, wanted, of, ended, recipients })
}

impl Writer<'_> {
    /// A number in as few bytes as it needs, seven bits each, the lowest first.
    fn varint(&mut self, mut v: u64) -> &mut Self {
        while v >= 0x80 {
            self.u8(v as u8 | 0x80);
            v >>= 7;
        }
        self.u8(v as u8)
    }
    /// Of those that are counted each session as what it is above the one before.
    fn recipients(&mut self, recipients: &Recipients) -> &mut Self {
        match recipients {
            Recipients::Listed(all) => {
                self.u32(all.len() as u32);
                for r in all {
                    self.u64(r.session.0).opt_u64(r.group.map(|g| g.0)).str(&r.client_id).str(&r.user);
                }
            }
            Recipients::Counted { sessions, groups } => {
                self.u32(sessions.len() as u32);
                let mut before = 0;
                for SessionNo(session) in sessions {
                    self.varint(session.wrapping_sub(before));
                    before = *session;
                }
                self.u32(groups.len() as u32);
                for (group, member) in groups {
                    self.u64(group.0).u64(member.0);
                }
            }
        }
        self
    }
}

impl Reader<'_> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut v = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            v |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(v);
            }
        }
        Err(format!("a number of more than ten bytes before byte {}", self.at))
    }
    fn listed(&mut self) -> Result<Recipients, String> {
        let count = self.u32()?;
        let mut recipients = Vec::new();
        for _ in 0..count {
            let session = self.session()?;
            let group = if self.version == 1 { None } else { self.option(Self::u64)?.map(GroupNo) };
            recipients.push(TrackedRecipient { session, group, client_id: self.str()?, user: self.str()? });
        }
        // Once those that are counted were written so too.
        if recipients.first().is_none_or(|r| !r.client_id.is_empty()) {
            return Ok(Recipients::Listed(recipients));
        }
        let (groups, own): (Vec<_>, Vec<_>) = recipients.into_iter().partition(|r| r.group.is_some());
        let mut sessions: Vec<_> = own.into_iter().map(|r| r.session).collect();
        sessions.sort_unstable();
        let groups = groups.into_iter().filter_map(|r| Some((r.group?, r.session))).collect();
        Ok(Recipients::Counted { sessions, groups })
    }
    fn counted(&mut self) -> Result<Recipients, String> {
        let count = self.u32()?;
        let (mut sessions, mut before) = (Vec::new(), 0u64);
        for _ in 0..count {
            before = before.wrapping_add(self.varint()?);
            sessions.push(SessionNo(before));
        }
        let count = self.u32()?;
        let groups = (0..count).map(|_| Ok((GroupNo(self.u64()?), self.session()?)));
        Ok(Recipients::Counted { sessions, groups: groups.collect::<Result<_, String>>()? })
    }
}
