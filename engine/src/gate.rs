//! The commit gate: what another party can observe leaves only when its record is durable.
//!
//! Owns the numbers of records and everything on its way out. Invariants: outputs of one connection leave
//! in the order they were made; an output with gate `t` leaves only after `Committed { ticket: t }`.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{Output, Ticket};

#[derive(Debug, Default)]
pub(crate) struct Gate {
    last: u64,
    committed: u64,
    ready: VecDeque<Output>,
    waiting: VecDeque<(u64, Output)>,
    /// Test only: let everything pass before its record is durable.
    open: bool,
}

impl Gate {
    pub(crate) fn new(open: bool) -> Self {
        Self { open, ..Self::default() }
    }

    /// The number that the next record will get.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.last + 1
    }

    /// The number of the newest record.
    pub(crate) fn last_ticket(&self) -> u64 {
        self.last
    }

    pub(crate) fn append(&mut self, record: Bytes) {
        self.last += 1;
        self.ready.push_back(Output::Append { ticket: Ticket(self.last), record });
    }

    /// Sends `output` once `ticket` is durable, after everything that was made for the connection before.
    /// `conn_gate` is the connection's own mark, raised here.
    pub(crate) fn push(&mut self, output: Output, ticket: u64, conn_gate: &mut u64) {
        *conn_gate = ticket.max(*conn_gate);
        if self.open || *conn_gate <= self.committed {
            self.ready.push_back(output);
        } else {
            self.waiting.push_back((*conn_gate, output));
        }
    }

    pub(crate) fn committed(&mut self, ticket: u64) {
        debug_assert!(ticket <= self.last, "a record was committed that was never appended");
        self.committed = self.committed.max(ticket);
        while self.waiting.front().is_some_and(|(gate, _)| *gate <= self.committed) {
            let (_, output) = self.waiting.pop_front().expect("the front was there");
            self.ready.push_back(output);
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.ready.pop_front()
    }
}
