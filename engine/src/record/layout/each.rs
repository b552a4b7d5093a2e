//! Records read entry by entry.

use bytes::Bytes;
use protocol::{PacketId, QoS};

use super::{Reader, VERSION, kind, read_entry, read_head, read_queued};
use crate::message::MsgNo;
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

impl From<Queued> for Entry {
    fn from(queued: Queued) -> Self {
        let Queued { session, message, qos, retain, source, identifiers, packet_id } = queued;
        Self::Queued { session, message, qos, retain, source, identifiers, packet_id }
    }
}

/// Takes the entries of records. There are so many heads and places in queues that no [`Entry`] is made of them first.
pub(crate) trait TakeEach {
    /// Takes an `Entry::Head`; the message's own topic is empty.
    fn head(&mut self, head: HeadEntry, topic: &str) -> Result<(), String>;
    /// Takes an `Entry::Queued`.
    fn queued(&mut self, queued: Queued) -> Result<(), String>;
    /// Takes any other entry.
    fn other(&mut self, entry: Entry) -> Result<(), String>;
}

impl TakeEach for Vec<Entry> {
    fn head(&mut self, mut head: HeadEntry, topic: &str) -> Result<(), String> {
        head.message.topic = topic.into();
        self.push(Entry::Head(Box::new(head)));
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
    let mut r = Reader { record, at: 0, version: 0 };
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
                let (head, topic) = read_head(&mut r).map_err(named)?;
                take.head(head, topic)?;
            }
            kind::QUEUED => {
                r.at += 1;
                take.queued(read_queued(&mut r).map_err(named)?)?;
            }
            _ => take.other(read_entry(&mut r).map_err(named)?)?,
        }
    }
    Ok(())
}
