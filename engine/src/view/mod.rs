//! The view: the durable state as rows, so that opening reads what is there and not all that ever happened.
//!
//! A row is about one thing: a session with its subscriptions, a page of a queue, a retained message. Its key says
//! which, its value is a record as the log's ([`crate::record`]): taken back in the order of their keys, the rows
//! rebuild the state that the log up to a certain record says. A message is a row without its body, for as long as
//! something needs it; the body stays in its record, and which records are needed is told by [`live_places`].
//!
//! ```text
//! records --push--> what each thing's row must become --flush, with the rows as they are--> rows to write
//! ```
//! What comes and goes between two flushes leaves no row. Nothing here reads a clock or a disk: who owns a view asks
//! for rows by key and writes what a flush returns, all or nothing, with the number of the newest record pushed.

mod conversation;
mod entries;
mod messages;
mod queue;
mod row;
mod session;
mod steps;

use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use rustc_hash::FxHashMap;

pub use messages::live_places;
pub(crate) use row::is_state;

use crate::Ticket;
use crate::message::MsgNo;
use crate::record::{Entry, HeadFields, Queued, RecordBuilder, SessionNo, TakeEach, read_heads, read_record};
use conversation::Changed;
use entries::{Keep, retained_no};
use messages::Needs;
use row::{Family, Key, Row};
use steps::{Change, Step, Steps};

/// Why records cannot become rows: the log or the view is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the view cannot take in record {}: {what}", .ticket.0)]
pub struct ProjectError {
    /// The newest record that was being taken in.
    pub ticket: Ticket,
    /// What is wrong.
    pub what: String,
}

/// Rows by key, as the owner of the view has them.
pub(crate) trait Rows {
    fn get(&mut self, key: &Key) -> Option<Bytes>;
}

impl<F: FnMut(&[u8]) -> Option<Bytes>> Rows for F {
    fn get(&mut self, key: &Key) -> Option<Bytes> {
        self(key.as_slice())
    }
}

/// Rows that change, `None` for one that goes.
pub(crate) type Written = BTreeMap<Key, Option<Bytes>>;

/// Folds the records of a log into rows.
#[derive(Debug, Default)]
pub struct Projector {
    newest: Ticket,
    bytes: usize,
    simple: Written,
    sessions: FxHashMap<SessionNo, Steps>,
    needs: Needs,
    retained: BTreeMap<ByteString, Option<(MsgNo, Bytes)>>,
    conversations: BTreeMap<ByteString, Changed>,
    tracked: BTreeMap<MsgNo, Vec<Entry>>,
    read_wishes: BTreeMap<ByteString, Vec<Entry>>,
    /// The next numbers to give: message, session, group.
    counters: [u64; 3],
    /// Ends of messages whose receipts this batch does not open: they may be open since an earlier one.
    ended: Vec<(MsgNo, Entry)>,
}

/// What an entry needs in memory besides strings, about.
const ENTRY_BYTES: usize = 200;

/// Gives the entries of one record to a projector.
struct Taker<'a> {
    projector: &'a mut Projector,
    ticket: Ticket,
}

impl TakeEach for Taker<'_> {
    fn head(&mut self, head: HeadFields<'_>) -> Result<(), String> {
        self.other(head.into())
    }

    fn queued(&mut self, queued: Queued) -> Result<(), String> {
        // Also of sessions that the log does not know: their groups keep what they have.
        self.projector.raise(1, queued.session.0.saturating_add(1));
        self.projector.step(queued.session, Step::queued(queued));
        Ok(())
    }

    fn waited(&mut self, session: SessionNo, message: MsgNo) -> Result<(), String> {
        self.projector.step(session, Step::Waited { message });
        Ok(())
    }

    fn other(&mut self, entry: Entry) -> Result<(), String> {
        self.projector.take(self.ticket, entry);
        Ok(())
    }
}

impl Projector {
    /// Makes one that has taken in nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next record.
    ///
    /// # Errors
    /// The record is none that this version reads; the projector must not be used any more.
    pub fn push(&mut self, ticket: Ticket, record: &Bytes) -> Result<(), ProjectError> {
        self.newest = ticket;
        // Payloads are not kept.
        read_heads(record, &mut Taker { projector: self, ticket })
            .map_err(|what| ProjectError { ticket, what })
    }

    /// Bytes that wait for the next flush, about.
    pub fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the rows that change by what was pushed since the last flush, `None` for one that goes, in the order
    /// of their keys. `get` returns a row as it is.
    ///
    /// # Errors
    /// Rows and records contradict each other; the projector must not be used any more.
    pub fn flush(
        &mut self,
        mut get: impl FnMut(&[u8]) -> Option<Bytes>,
    ) -> Result<Vec<(Bytes, Option<Bytes>)>, ProjectError> {
        let ticket = self.newest;
        let rows = self.fold(&mut get).map_err(|what| ProjectError { ticket, what })?;
        *self = Self { newest: ticket, ..Self::default() };
        Ok(rows.into_iter().map(|(key, value)| (key.bytes(), value)).collect())
    }

    fn fold(&mut self, rows: &mut impl Rows) -> Result<Written, String> {
        let mut out = std::mem::take(&mut self.simple);
        let mut sessions: Vec<_> = std::mem::take(&mut self.sessions).into_iter().collect();
        // A view's owner gets what it asks for in order.
        sessions.sort_unstable_by_key(|(session, _)| *session);
        for (session, steps) in sessions {
            session::fold(session, steps, rows, &mut self.needs, &mut out)?;
        }
        for (topic, now) in std::mem::take(&mut self.retained) {
            let key = Key::new(Family::Retained).last(&topic);
            if let Some(before) = rows.get(&key) {
                self.needs.change(retained_no(&before)?, -1);
            }
            if let Some((no, _)) = &now {
                self.needs.change(*no, 1);
            }
            out.insert(key, now.map(|(_, value)| value));
        }
        for (topic, changed) in std::mem::take(&mut self.conversations) {
            changed.fold(&topic, rows, &mut self.needs, &mut out)?;
        }
        self.find_tracked(rows)?;
        for (message, steps) in std::mem::take(&mut self.tracked) {
            let key = Key::new(Family::Tracked).u64(message.0);
            let before = rows.get(&key);
            let now = entries::track(before.as_ref(), steps)?;
            if before != now {
                out.insert(key, now);
            }
        }
        for (topic, steps) in std::mem::take(&mut self.read_wishes) {
            let key = Key::new(Family::ReadWishes).last(&topic);
            let now = entries::read_wishes(rows.get(&key).as_ref(), steps)?;
            out.insert(key, now);
        }
        std::mem::take(&mut self.needs).fold(rows, &mut out)?;
        self.fold_counters(rows, &mut out)?;
        // A row that is as it was need not be written.
        out.retain(|key, value| value.is_some() || rows.get(key).is_some());
        Ok(out)
    }

    /// Adds the ends of messages whose receipts may be open since an earlier batch. Who asks for receipts does so when
    /// the message is accepted, and its number is new then: of one that is new in this batch no row is looked up. Its
    /// record says nothing: a message is written later than it is accepted when it goes to somebody who lasts.
    fn find_tracked(&mut self, rows: &mut impl Rows) -> Result<(), String> {
        let [first_new, ..] = read_counters(rows.get(&Key::new(Family::Counters)).as_ref())?;
        for (message, ended) in std::mem::take(&mut self.ended) {
            if message.0 < first_new {
                self.tracked.entry(message).or_default().push(ended);
            }
        }
        Ok(())
    }

    fn fold_counters(&self, rows: &mut impl Rows, out: &mut Written) -> Result<(), String> {
        let key = Key::new(Family::Counters);
        let before = rows.get(&key);
        let known = read_counters(before.as_ref())?;
        let [message, session, group] = std::array::from_fn(|at| known[at].max(self.counters[at]));
        let now = Some(row_of([&Entry::Counters { message, session, group }]));
        if now != before {
            out.insert(key, now);
        }
        Ok(())
    }

    fn take(&mut self, ticket: Ticket, entry: Entry) {
        self.count(&entry);
        match Row::of(&entry) {
            Some(Row::Put(key)) => self.put(key, Some(row_of([&entry]))),
            Some(Row::Delete(key)) => self.put(key, None),
            Some(Row::DeleteRange(from, to)) => from.numbers_until(&to).for_each(|key| self.put(key, None)),
            Some(Row::PutPart(session, part)) => self.change(session, Change::Put(part, entry)),
            Some(Row::DeletePart(session, part)) => self.change(session, Change::Delete(part)),
            None => self.take_other(ticket, entry),
        }
    }

    fn put(&mut self, key: Key, row: Option<Bytes>) {
        self.bytes += ENTRY_BYTES;
        self.simple.insert(key, row);
    }

    fn change(&mut self, session: SessionNo, change: Change) {
        self.step(session, Step::Other(Box::new(change)));
    }

    fn step(&mut self, session: SessionNo, step: Step) {
        let steps = self.sessions.entry(session).or_default();
        let bytes = steps.push(step);
        self.bytes = self.bytes.saturating_add_signed(bytes);
        if steps.is_empty() {
            self.sessions.remove(&session);
        }
    }

    fn take_other(&mut self, ticket: Ticket, entry: Entry) {
        // Steps of sessions are counted as such.
        let is_untold = matches!(entry, Entry::Ended { state: None, .. } | Entry::Sent { .. });
        self.bytes += if is_untold { 0 } else { ENTRY_BYTES };
        match entry {
            Entry::Published { user, first, ids } => {
                // One row an id, so that each can be forgotten.
                for (number, id) in (first..).zip(ids) {
                    let one = Entry::Published { user: user.clone(), first: number, ids: vec![id] };
                    self.simple.insert(row::published(&user, number), Some(row_of([&one])));
                }
            }
            Entry::Message(entry) => {
                let Keep { message, retained, kept } = entries::keep(*entry, ticket.0);
                if let Some(kept) = kept {
                    self.conversations.entry(message.topic.clone()).or_default().keep(kept);
                }
                if let Some(row) = retained {
                    self.retained.insert(message.topic.clone(), Some((message.no, row)));
                }
                self.bytes += message.topic.len();
                self.needs.meet(message);
            }
            Entry::Head(entry) => self.needs.meet(entry.message),
            Entry::RetainedCleared { topic } => drop(self.retained.insert(topic, None)),
            Entry::Conversation { topic, seq, ts_unix_ms } => {
                self.conversations.entry(topic).or_default().raise(seq, ts_unix_ms);
            }
            Entry::ConversationKept { topic, first_seq } => {
                self.conversations.entry(topic).or_default().give_up_before(first_seq);
            }
            Entry::ConversationPage { topic, messages } => {
                let changed = self.conversations.entry(topic).or_default();
                messages.into_iter().for_each(|kept| changed.keep(kept));
            }
            Entry::ReadWished { ref topic, .. }
            | Entry::ReadSettled { ref topic, .. }
            | Entry::ReaderLeft { ref topic, .. }
            | Entry::GuestRead { ref topic, .. } => {
                self.read_wishes.entry(topic.clone()).or_default().push(entry);
            }
            Entry::Tracked { message, .. } => self.tracked.entry(message).or_default().push(entry),
            Entry::Ended { session, message, source, state, .. } => {
                if state.is_some() && source.recipient(session).is_some() {
                    match self.tracked.get_mut(&message) {
                        Some(steps) => steps.push(entry.clone()),
                        None => self.ended.push((message, entry.clone())),
                    }
                }
                self.step(session, Step::moves(entry));
            }
            Entry::SessionEnded { session } => self.change(session, Change::End),
            Entry::Sent { session, .. }
            | Entry::Received { session, .. }
            | Entry::Replayed { session, .. } => self.step(session, Step::moves(entry)),
            // Its numbers were counted; the others have rows of their own.
            _ => {}
        }
    }

    fn raise(&mut self, at: usize, next: u64) {
        self.counters[at] = self.counters[at].max(next);
    }

    fn count(&mut self, entry: &Entry) {
        let mut raise = |at: usize, next: u64| self.raise(at, next);
        match entry {
            Entry::Counters { message, session, group } => {
                raise(0, *message);
                raise(1, *session);
                raise(2, *group);
            }
            Entry::Message(entry) => raise(0, entry.message.no.0.saturating_add(1)),
            Entry::Head(entry) => raise(0, entry.message.no.0.saturating_add(1)),
            Entry::Tracked { message, .. } => raise(0, message.0.saturating_add(1)),
            Entry::ConversationPage { messages, .. } => {
                messages.iter().for_each(|kept| raise(0, kept.message.0.saturating_add(1)));
            }
            Entry::SessionOpened { session, .. } => raise(1, session.0.saturating_add(1)),
            Entry::Group { group, .. } => raise(2, group.0.saturating_add(1)),
            _ => {}
        }
    }
}

fn read_counters(row: Option<&Bytes>) -> Result<[u64; 3], String> {
    let is_counters = |entry| match entry {
        Entry::Counters { message, session, group } => Some([message, session, group]),
        _ => None,
    };
    let entries = row.map_or(Ok(Vec::new()), read_record)?;
    Ok(entries.into_iter().find_map(is_counters).unwrap_or_default())
}

/// Makes the value of a row.
fn row_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Bytes {
    let mut builder = RecordBuilder::default();
    entries.into_iter().for_each(|entry| builder.push(entry));
    builder.take()
}
