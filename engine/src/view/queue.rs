//! Rows of what a session has: what is in flight and the newest that waits in one row, what waits before that in
//! pages, and where to look for a message in them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use protocol::PacketId;

use super::messages::Needs;
use super::row::{Family, Key};
use super::{Rows, Written, row_of};
use crate::message::MsgNo;
use crate::record::{Entry, SessionNo, Source, read_record};

/// Messages in one page.
const PAGE: usize = 256;

/// Messages that wait in the row itself at most.
const NEWEST_MAX: usize = 2 * PAGE;

/// What a page holds: its messages' numbers are in this range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    no: u64,
    first: MsgNo,
    last: MsgNo,
}

/// A session's queue and flights; rows are read when they are needed.
pub(super) struct Queue {
    session: SessionNo,
    /// The row as it was, once it was read.
    before: Option<Option<Bytes>>,
    /// As they were sent.
    flights: Vec<Entry>,
    /// Those whose PUBREC came, as it came.
    released: Vec<PacketId>,
    pages: Vec<Page>,
    pages_before: Vec<Page>,
    /// Pages that were read or made, and whether they changed.
    read: BTreeMap<u64, (VecDeque<Entry>, bool)>,
    newest: VecDeque<Entry>,
}

/// Returns the message that an entry moves.
pub(super) fn message_of(entry: &Entry) -> MsgNo {
    match entry {
        Entry::Queued { message, .. } => *message,
        _ => MsgNo::default(),
    }
}

fn packet_id_of(entry: &Entry) -> Option<PacketId> {
    match entry {
        Entry::Queued { packet_id, .. } => *packet_id,
        _ => None,
    }
}

fn is_waiting(entry: &Entry, no: MsgNo, of: Option<Source>) -> bool {
    matches!(entry, Entry::Queued { message, source, .. } if *message == no && of.is_none_or(|of| of == *source))
}

/// Where a message waits.
enum At {
    Page(usize, usize),
    Newest(usize),
}

impl Queue {
    pub(super) fn new(session: SessionNo) -> Self {
        Self {
            session,
            before: None,
            flights: Vec::new(),
            released: Vec::new(),
            pages: Vec::new(),
            pages_before: Vec::new(),
            read: BTreeMap::new(),
            newest: VecDeque::new(),
        }
    }

    fn key(&self) -> Key {
        Key::new(Family::Queue).u64(self.session.0)
    }

    fn page_key(&self, page: u64) -> Key {
        Key::new(Family::QueuePage).u64(self.session.0).u64(page)
    }

    fn directory_key(&self) -> Key {
        Key::new(Family::QueueDirectory).u64(self.session.0)
    }

    fn read(&mut self, rows: &mut impl Rows) -> Result<(), String> {
        if self.before.is_some() {
            return Ok(());
        }
        let row = rows.get(&self.key());
        for entry in row.as_ref().map_or(Ok(Vec::new()), read_record)? {
            match entry {
                Entry::Received { packet_id, .. } => self.released.push(packet_id),
                Entry::Queued { packet_id: None, .. } => self.newest.push_back(entry),
                Entry::Queued { .. } => self.flights.push(entry),
                _ => {}
            }
        }
        self.pages = read_directory(rows.get(&self.directory_key()).as_ref())?;
        self.pages_before.clone_from(&self.pages);
        self.before = Some(row);
        Ok(())
    }

    /// Takes in what moves a message of this session.
    pub(super) fn take(
        &mut self,
        entry: Entry,
        rows: &mut impl Rows,
        needs: &mut Needs,
    ) -> Result<(), String> {
        self.read(rows)?;
        match entry {
            Entry::Queued { message, packet_id, .. } => {
                needs.change(message, 1);
                match packet_id {
                    Some(_) => self.flights.push(entry),
                    None => self.newest.push_back(entry),
                }
            }
            Entry::Sent { message, packet_id: id, .. } => {
                let sent = self.remove_waiting(message, None, rows)?;
                let mut sent = sent.ok_or_else(|| format!("message {} does not wait", message.0))?;
                if let Entry::Queued { packet_id, .. } = &mut sent {
                    *packet_id = Some(id);
                }
                self.flights.push(sent);
            }
            Entry::Received { packet_id, .. } if self.released.contains(&packet_id) => {}
            Entry::Received { packet_id, .. } => self.released.push(packet_id),
            Entry::Ended { packet_id: Some(packet_id), .. } => {
                let at = self.flights.iter().position(|flight| packet_id_of(flight) == Some(packet_id));
                let at = at.ok_or_else(|| format!("packet id {packet_id} is not in flight"))?;
                self.released.retain(|id| *id != packet_id);
                self.no_longer(self.flights[at].clone(), needs);
                self.flights.remove(at);
            }
            Entry::Ended { message, source, .. } => {
                if let Some(ended) = self.remove_waiting(message, Some(source), rows)? {
                    self.no_longer(ended, needs);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn no_longer(&self, entry: Entry, needs: &mut Needs) {
        if let Entry::Queued { message, .. } = entry {
            needs.change(message, -1);
        }
    }

    fn remove_waiting(
        &mut self,
        no: MsgNo,
        source: Option<Source>,
        rows: &mut impl Rows,
    ) -> Result<Option<Entry>, String> {
        let Some(at) = self.find(no, source, rows)? else { return Ok(None) };
        Ok(match at {
            At::Newest(at) => self.newest.remove(at),
            At::Page(index, at) => {
                let page = self.pages[index].no;
                let (entries, is_changed) = self.page(page, rows)?;
                *is_changed = true;
                let removed = entries.remove(at);
                if entries.is_empty() {
                    self.pages.remove(index);
                }
                removed
            }
        })
    }

    fn find(
        &mut self,
        no: MsgNo,
        source: Option<Source>,
        rows: &mut impl Rows,
    ) -> Result<Option<At>, String> {
        for index in 0..self.pages.len() {
            let Page { no: page, first, last } = self.pages[index];
            if !(first..=last).contains(&no) {
                continue;
            }
            let (entries, _) = self.page(page, rows)?;
            if let Some(at) = entries.iter().position(|entry| is_waiting(entry, no, source)) {
                return Ok(Some(At::Page(index, at)));
            }
        }
        Ok(self.newest.iter().position(|entry| is_waiting(entry, no, source)).map(At::Newest))
    }

    fn page(&mut self, page: u64, rows: &mut impl Rows) -> Result<&mut (VecDeque<Entry>, bool), String> {
        let key = self.page_key(page);
        if let std::collections::btree_map::Entry::Vacant(place) = self.read.entry(page) {
            let row = rows.get(&key).ok_or_else(|| format!("page {page} of a queue is not in the view"))?;
            place.insert((read_record(&row)?.into(), false));
        }
        Ok(self.read.get_mut(&page).expect("it was there or put there"))
    }

    /// Ends the queue with its session; returns what its groups may still get: flights first, then what waits.
    pub(super) fn end(&mut self, rows: &mut impl Rows, needs: &mut Needs) -> Result<Vec<Entry>, String> {
        self.read(rows)?;
        let mut all = std::mem::take(&mut self.flights);
        for page in std::mem::take(&mut self.pages) {
            let (entries, is_changed) = self.page(page.no, rows)?;
            *is_changed = true;
            all.extend(std::mem::take(entries));
        }
        all.extend(std::mem::take(&mut self.newest));
        self.released.clear();
        let (left, gone): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|entry| matches!(entry, Entry::Queued { source: Source::Group(_), .. }));
        gone.into_iter().for_each(|entry| self.no_longer(entry, needs));
        Ok(left)
    }

    /// Writes what changed.
    pub(super) fn write(mut self, out: &mut Written) {
        let Some(before) = self.before.take() else { return };
        while self.newest.len() > NEWEST_MAX {
            self.spill();
        }
        for (page, (entries, is_changed)) in &self.read {
            if *is_changed {
                let row = (!entries.is_empty()).then(|| row_of(entries));
                out.insert(self.page_key(*page), row);
            }
        }
        if self.pages != self.pages_before {
            out.insert(self.directory_key(), write_directory(&self.pages));
        }
        let session = self.session;
        let received: Vec<_> =
            self.released.iter().map(|id| Entry::Received { session, packet_id: *id }).collect();
        let row = row_of(self.flights.iter().chain(&received).chain(&self.newest));
        let row = (!row.is_empty()).then_some(row);
        if row != before {
            out.insert(self.key(), row);
        }
    }

    fn spill(&mut self) {
        let no = self.pages.last().or(self.pages_before.last()).map_or(0, |page| page.no + 1);
        let entries: VecDeque<_> = self.newest.drain(..PAGE).collect();
        let numbers = || entries.iter().map(message_of);
        let (first, last) = (numbers().min().unwrap_or_default(), numbers().max().unwrap_or_default());
        self.pages.push(Page { no, first, last });
        self.read.insert(no, (entries, true));
    }
}

/// The row is the pages in order, three `u64` each, little-endian.
fn read_directory(row: Option<&Bytes>) -> Result<Vec<Page>, String> {
    let row = row.map_or(&[][..], |row| row);
    let (pages, rest) = row.as_chunks::<24>();
    if !rest.is_empty() {
        return Err(format!("the pages of a queue are told in {} bytes", row.len()));
    }
    let number = |page: &[u8; 24], at: usize| {
        let (numbers, _) = page.as_chunks::<8>();
        u64::from_le_bytes(numbers[at])
    };
    let page =
        |page| Page { no: number(page, 0), first: MsgNo(number(page, 1)), last: MsgNo(number(page, 2)) };
    Ok(pages.iter().map(page).collect())
}

fn write_directory(pages: &[Page]) -> Option<Bytes> {
    let numbers = pages.iter().flat_map(|page| [page.no, page.first.0, page.last.0]);
    let row: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    (!row.is_empty()).then(|| row.into())
}
