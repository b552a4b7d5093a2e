//! Rows of a session: what it is, its queue, and when it ended what it left to its groups.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::messages::Needs;
use super::queue::{Queue, message_of};
use super::row::{Family, Key, Part, Row};
use super::steps::{Change, Step, Steps};
use super::{Rows, Written, conversation, row_of};
use crate::record::{Entry, Form, SessionNo, Source, read_record};

type Parts = BTreeMap<Part, Entry>;

/// A session while it is folded. One that is not known has only what its groups may still get.
struct Session {
    no: SessionNo,
    known: Option<Parts>,
    queue: Queue,
    left: Left,
}

/// Makes the rows of one session from those there are and what happened since.
pub(super) fn fold(
    no: SessionNo,
    steps: Steps,
    rows: &mut impl Rows,
    needs: &mut Needs,
    out: &mut Written,
) -> Result<(), String> {
    let (key, left_key) = (Key::new(Family::Session).u64(no.0), Key::new(Family::Left).u64(no.0));
    let (before, left_before) = (rows.get(&key), rows.get(&left_key));
    let known = before.as_ref().map(read_parts).transpose()?;
    let left = left_before.as_ref().map(Left::read).transpose()?.unwrap_or_default();
    let mut session = Session { no, known, queue: Queue::new(no), left };
    for step in steps {
        session.take(step, rows, needs)?;
    }
    let is_known = session.known.is_some();
    let now = session.known.map(|parts| row_of(parts.values()));
    if now != before {
        out.insert(key, now);
    }
    if is_known || before.is_some() {
        session.queue.write(out);
    }
    let left = session.left.row(no);
    if left != left_before {
        out.insert(left_key, left);
    }
    Ok(())
}

impl Session {
    fn take(&mut self, step: Step, rows: &mut impl Rows, needs: &mut Needs) -> Result<(), String> {
        let change = match (step.entry(self.no), step) {
            (Some(entry), _) => return self.move_message(entry, rows, needs),
            (None, Step::Other(change)) => change,
            (None, _) => return Ok(()),
        };
        match *change {
            Change::Put(Part::Opened, entry) => {
                self.known.get_or_insert_default().insert(Part::Opened, entry);
            }
            Change::Put(part, entry) => {
                let parts = self.parts()?;
                if matches!(entry, Entry::SessionConnected { .. }) {
                    parts.remove(&Part::Behind);
                }
                parts.insert(part, entry);
            }
            Change::Delete(part) => drop(self.parts()?.remove(&part)),
            Change::Moves(entry) => self.move_message(entry, rows, needs)?,
            Change::End => {
                let parts = self.known.take().ok_or_else(|| unknown(self.no))?;
                let deliveries = self.queue.end(rows, needs)?;
                let opened = parts.into_values().next().filter(|_| !deliveries.is_empty());
                self.left = Left { opened, deliveries };
            }
        }
        Ok(())
    }

    fn move_message(&mut self, entry: Entry, rows: &mut impl Rows, needs: &mut Needs) -> Result<(), String> {
        if self.known.is_none() {
            return self.left.take(entry, needs);
        }
        let entry = match entry {
            Entry::Replayed { .. } => self.replayed(entry, rows, needs)?,
            other => other,
        };
        self.queue.take(entry, rows, needs)
    }

    /// Makes of a stored message in flight one like any other, which its conversation may give up meanwhile, and moves
    /// the cursor.
    fn replayed(&mut self, entry: Entry, rows: &mut impl Rows, needs: &mut Needs) -> Result<Entry, String> {
        let Entry::Replayed { session, topic, form, seq, message, qos, identifiers, packet_id } = entry
        else {
            return Ok(entry);
        };
        if !needs.has_met(message) {
            needs.meet(conversation::stored(&topic, seq, message, rows)?);
        }
        let part = Part::Cursor(topic.clone(), form);
        let cursor = Entry::Cursor { session, topic, form, next: Some(seq + 1) };
        self.parts()?.insert(part, cursor);
        let source = match form {
            Form::Plain => Source::Subscriptions,
            Form::Envelope => Source::Envelope,
        };
        let (retain, packet_id) = (false, Some(packet_id));
        Ok(Entry::Queued { session, message, qos, retain, source, identifiers, packet_id })
    }

    fn parts(&mut self) -> Result<&mut Parts, String> {
        self.known.as_mut().ok_or_else(|| unknown(self.no))
    }
}

fn unknown(no: SessionNo) -> String {
    format!("session {} is not in the view", no.0)
}

fn read_parts(row: &Bytes) -> Result<Parts, String> {
    let part = |entry: Entry| match Row::of(&entry) {
        Some(Row::PutPart(_, part)) => Ok((part, entry)),
        _ => Err("the row of a session holds something else".to_owned()),
    };
    read_record(row)?.into_iter().map(part).collect()
}

/// What the groups of a session may still get of what it had: it ended, or the log does not know it.
#[derive(Default)]
struct Left {
    /// Whose it was, if that is known.
    opened: Option<Entry>,
    /// As they were sent, then as they waited.
    deliveries: Vec<Entry>,
}

impl Left {
    fn read(row: &Bytes) -> Result<Self, String> {
        let mut left = Self::default();
        for entry in read_record(row)? {
            match entry {
                Entry::SessionOpened { .. } => left.opened = Some(entry),
                Entry::Queued { .. } => left.deliveries.push(entry),
                _ => {}
            }
        }
        Ok(left)
    }

    fn row(self, session: SessionNo) -> Option<Bytes> {
        let unnamed =
            || Entry::SessionOpened { session, client_id: Default::default(), user: Default::default() };
        let opened = self.opened.unwrap_or_else(unnamed);
        let entries = [&opened].into_iter().chain(&self.deliveries);
        let ended = Entry::SessionEnded { session };
        (!self.deliveries.is_empty()).then(|| row_of(entries.chain([&ended])))
    }

    fn take(&mut self, entry: Entry, needs: &mut Needs) -> Result<(), String> {
        match entry {
            Entry::Queued { session, message, source, .. } => {
                if !matches!(source, Source::Group(_)) {
                    return Err(unknown(session));
                }
                needs.change(message, 1);
                self.deliveries.push(entry);
            }
            Entry::Sent { message, packet_id, .. } => {
                let is_it = |entry: &Entry| matches!(entry, Entry::Queued { message: m, packet_id: None, .. } if *m == message);
                let at = self.deliveries.iter().position(is_it);
                let at = at.ok_or_else(|| format!("message {} does not wait", message.0))?;
                let mut sent = self.deliveries.remove(at);
                if let Entry::Queued { packet_id: id, .. } = &mut sent {
                    *id = Some(packet_id);
                }
                // What has priority passed others that wait.
                let is_sent = |entry: &Entry| matches!(entry, Entry::Queued { packet_id: Some(_), .. });
                let flights = self.deliveries.partition_point(is_sent);
                self.deliveries.insert(flights, sent);
            }
            Entry::Ended { message, source, packet_id, .. } => {
                let is_it = |entry: &Entry| {
                    matches!(entry, Entry::Queued { message: m, source: s, packet_id: p, .. }
                        if *m == message && *s == source && *p == packet_id)
                };
                if let Some(at) = self.deliveries.iter().position(is_it) {
                    needs.change(message_of(&self.deliveries.remove(at)), -1);
                }
            }
            // It ended with its session.
            _ => {}
        }
        Ok(())
    }
}
