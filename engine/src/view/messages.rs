//! Rows of messages: heads in pages by their numbers, with how many need them, and which records hold something that
//! is needed.

use std::collections::BTreeMap;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::row::{Family, Key};
use super::{Rows, Written};
use crate::Ticket;
use crate::message::{Message, MsgNo};
use crate::record::{Entry, HeadEntry, RecordBuilder, read_record};

/// Messages in one page, by their numbers.
const HEADS: u64 = 64;

/// Records in one page of what is needed.
const PLACES: u64 = 512;

/// What a batch needs of messages, more or less than before.
#[derive(Debug, Default)]
pub(super) struct Needs {
    met: FxHashMap<MsgNo, Message>,
    changes: FxHashMap<MsgNo, i64>,
    /// By record.
    places: BTreeMap<u64, i64>,
}

impl Needs {
    /// Notes a message that the batch brings. The first one with a number stands.
    pub(super) fn meet(&mut self, message: Message) {
        self.met.entry(message.no).or_insert(message);
    }

    pub(super) fn has_met(&self, no: MsgNo) -> bool {
        self.met.contains_key(&no)
    }

    pub(super) fn change(&mut self, no: MsgNo, by: i64) {
        *self.changes.entry(no).or_default() += by;
    }

    /// Notes that a record is needed for the sake of something else than a message's row.
    pub(super) fn change_place(&mut self, place: u64, by: i64) {
        *self.places.entry(place).or_default() += by;
    }

    pub(super) fn fold(mut self, rows: &mut impl Rows, out: &mut Written) -> Result<(), String> {
        let mut pages: BTreeMap<u64, Vec<(MsgNo, i64)>> = BTreeMap::new();
        for (no, by) in std::mem::take(&mut self.changes) {
            if by != 0 {
                pages.entry(no.0 / HEADS).or_default().push((no, by));
            }
        }
        for (page, changes) in pages {
            let key = Key::new(Family::Heads).u64(page);
            let mut heads = read_heads(rows.get(&key).as_ref())?;
            for (no, by) in changes {
                self.apply(&mut heads, no, by)?;
            }
            let mut row = RecordBuilder::default();
            heads.values().for_each(|head| row.push_head(&head.message, head.needed));
            out.insert(key, Some(row.take()).filter(|row| !row.is_empty()));
        }
        self.fold_places(rows, out)
    }

    fn apply(&mut self, heads: &mut BTreeMap<MsgNo, HeadEntry>, no: MsgNo, by: i64) -> Result<(), String> {
        let before = heads.get(&no).map_or(0, |head| i64::from(head.needed));
        let needed = u32::try_from(before + by)
            .map_err(|_| format!("message {} is needed by {before}, and {by} more", no.0))?;
        if let Some(head) = heads.get_mut(&no) {
            head.needed = needed;
            if needed == 0 {
                let place = head.message.place();
                heads.remove(&no);
                self.change_place(place, -1);
            }
        } else {
            let message =
                self.met.remove(&no).ok_or_else(|| format!("message {} is not in the view", no.0))?;
            self.change_place(message.place(), 1);
            heads.insert(no, HeadEntry { message, needed });
        }
        Ok(())
    }

    fn fold_places(&mut self, rows: &mut impl Rows, out: &mut Written) -> Result<(), String> {
        let mut pages: BTreeMap<u64, Vec<(u64, i64)>> = BTreeMap::new();
        for (place, by) in std::mem::take(&mut self.places) {
            // A message of a log before this one has no record here.
            if by != 0 && place > 0 {
                pages.entry(place / PLACES).or_default().push((place, by));
            }
        }
        for (page, changes) in pages {
            let key = Key::new(Family::Places).u64(page);
            let mut needed = read_places(page, rows.get(&key).as_ref())?;
            for (place, by) in changes {
                let count = needed.entry(place).or_default();
                let sum = i64::from(*count) + by;
                *count = u32::try_from(sum).map_err(|_| format!("record {place} is needed {sum} times"))?;
            }
            needed.retain(|_, count| *count > 0);
            out.insert(key, write_places(page, &needed));
        }
        Ok(())
    }
}

fn read_heads(row: Option<&Bytes>) -> Result<BTreeMap<MsgNo, HeadEntry>, String> {
    let mut heads = BTreeMap::new();
    for entry in row.map_or(Ok(Vec::new()), read_record)? {
        let Entry::Head(head) = entry else { return Err("a page of messages holds something else".into()) };
        heads.insert(head.message.no, *head);
    }
    Ok(heads)
}

/// The row is pairs of `u16` place in the page and `u32` count, little-endian, in order.
fn read_places(page: u64, row: Option<&Bytes>) -> Result<BTreeMap<u64, u32>, String> {
    let row = row.map_or(&[][..], |row| row);
    let (pairs, rest) = row.as_chunks::<6>();
    if !rest.is_empty() {
        return Err(format!("a page of needed records has {} bytes", row.len()));
    }
    let pair = |[a, b, c, d, e, f]: &[u8; 6]| {
        (page * PLACES + u64::from(u16::from_le_bytes([*a, *b])), u32::from_le_bytes([*c, *d, *e, *f]))
    };
    Ok(pairs.iter().map(pair).collect())
}

fn write_places(page: u64, needed: &BTreeMap<u64, u32>) -> Option<Bytes> {
    let mut row = Vec::with_capacity(needed.len() * 6);
    for (place, count) in needed {
        row.extend_from_slice(&((place - page * PLACES) as u16).to_le_bytes());
        row.extend_from_slice(&count.to_le_bytes());
    }
    (!row.is_empty()).then(|| row.into())
}

/// Returns the records from `first` to before `next` that hold a message which a queue, a flight, a topic or a
/// conversation still needs, in order. The others may go from the log once the view has taken them in. `get` returns a
/// row of the view.
///
/// # Errors
/// A row is none that this version writes.
pub fn live_places(
    first: Ticket,
    next: Ticket,
    mut get: impl FnMut(&[u8]) -> Option<Bytes>,
) -> Result<Vec<Ticket>, String> {
    let mut live = Vec::new();
    for page in first.0 / PLACES..next.0.div_ceil(PLACES) {
        let row = Rows::get(&mut get, &Key::new(Family::Places).u64(page));
        let places = read_places(page, row.as_ref())?;
        live.extend(places.into_keys().filter(|p| (first.0..next.0).contains(p)).map(Ticket));
    }
    Ok(live)
}
