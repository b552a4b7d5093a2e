//! What a shard is rebuilt from.

use bytes::Bytes;

use crate::Ticket;

/// The durable state: what a view holds of it, and the log from there on.
#[derive(Clone, Debug)]
pub struct Recovery<V, R> {
    /// The rows of the view, keys and values, in the order of their keys. Without a view: none.
    pub rows: V,
    /// The newest record that the rows account for, 0 = none.
    pub applied: Ticket,
    /// The records of the log after that one, oldest first.
    pub records: R,
    /// The number that the next record will get.
    pub next: Ticket,
}

impl<R: ExactSizeIterator<Item = Bytes>> Recovery<std::iter::Empty<(Bytes, Bytes)>, NumberedRecords<R>> {
    /// Makes one of a whole log and nothing else, its records numbered from 1 on.
    pub fn of_log(records: impl IntoIterator<IntoIter = R>) -> Self {
        let records = records.into_iter();
        let next = Ticket(records.len() as u64 + 1);
        let records = NumberedRecords { records, next: 1 };
        Self { rows: std::iter::empty(), applied: Ticket(0), records, next }
    }
}

/// Records with their numbers.
#[derive(Clone, Debug)]
pub struct NumberedRecords<R> {
    records: R,
    next: u64,
}

impl<R: Iterator<Item = Bytes>> Iterator for NumberedRecords<R> {
    type Item = (Ticket, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        self.next += 1;
        Some((Ticket(self.next - 1), record))
    }
}

/// Why a state cannot be taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// A record of the log is not one that this version writes, or contradicts those before it.
    #[error("record {} of the log cannot be taken back: {what}", .ticket.0)]
    Record {
        /// Which record.
        ticket: Ticket,
        /// What is wrong with it.
        what: String,
    },
    /// A row of the view is not one that this version writes, or contradicts those before it.
    #[error("row {key:?} of the view cannot be taken back: {what}")]
    Row {
        /// Which row.
        key: Bytes,
        /// What is wrong with it.
        what: String,
    },
}
