//! The commit gate: what another party can observe leaves only when its record is durable.
//!
//! Owns the numbers of records and everything on its way out. Invariants: outputs of one connection leave
//! in the order they were made; an output with gate `t` leaves only after `Committed { ticket: t }`; what
//! waits stands in the order of its gates.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::planted::Planted;
use crate::{Output, Ticket};

#[derive(Debug, Default)]
pub(crate) struct Gate {
    last: u64,
    committed: u64,
    ready: VecDeque<Output>,
    waiting: VecDeque<(u64, Output)>,
    planted: Option<Planted>,
}

impl Gate {
    /// Numbers go on from `next`: everything before it is durable.
    pub(crate) fn new(planted: Option<Planted>, next: Ticket) -> Self {
        let last = next.0.saturating_sub(1);
        Self { planted, last, committed: last, ..Self::default() }
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
        if *conn_gate <= self.committed || self.passes_early(&output) {
            return self.ready.push_back(output);
        }
        // Behind an output with a later gate it leaves with that one. The connection's mark must say so: what
        // comes next for the connection may not pass it.
        if let Some((newest, _)) = self.waiting.back() {
            *conn_gate = (*newest).max(*conn_gate);
        }
        self.waiting.push_back((*conn_gate, output));
    }

    /// Test only: whether a planted bug lets it pass before its record is durable.
    fn passes_early(&self, output: &Output) -> bool {
        let is_message = matches!(output, Output::Send { packet: protocol::Packet::Publish(_), .. });
        match self.planted {
            Some(Planted::AckBeforeCommit) => !is_message,
            Some(Planted::DeliveryBeforeCommit) => is_message,
            _ => false,
        }
    }

    /// Asks for records that are durable.
    pub(crate) fn fetch(&mut self, output: Output) {
        self.ready.push_back(output);
    }

    /// The newest record that is durable.
    pub(crate) fn newest_committed(&self) -> u64 {
        self.committed
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConnId;
    use proptest::prelude::*;
    use protocol::{Ack, Packet, PacketId, ReasonCode};

    fn send(conn: u64, packet_id: u16) -> Output {
        let packet_id = PacketId::new(packet_id).expect("not 0");
        Output::Send { conn: ConnId(conn), packet: Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)) }
    }

    fn drain(gate: &mut Gate) -> Vec<Output> {
        std::iter::from_fn(|| gate.poll()).filter(|o| !matches!(o, Output::Append { .. })).collect()
    }

    #[test]
    fn an_output_stuck_behind_a_later_gate_is_not_passed_by_what_follows_it() {
        let mut gate = Gate::new(None, Ticket(1));
        let (mut one, mut two) = (0, 0);
        gate.append(Bytes::new());
        gate.append(Bytes::new());
        gate.push(send(1, 1), 2, &mut one);
        gate.push(send(2, 1), 1, &mut two);
        gate.committed(1);
        gate.push(send(2, 2), 0, &mut two);
        assert_eq!(drain(&mut gate), []);
        gate.committed(2);
        assert_eq!(drain(&mut gate), [send(1, 1), send(2, 1), send(2, 2)]);
    }

    proptest! {
        /// What topic aliases rest on: what was made for a connection first leaves first.
        #[test]
        fn outputs_of_one_connection_leave_in_the_order_they_were_made(
            steps in prop::collection::vec((0u64..4, 0u64..12, 0u8..5), 1..200),
        ) {
            let mut gate = Gate::new(None, Ticket(1));
            let mut marks = [0; 4];
            let (mut made, mut left) = ([0; 4], [0; 4]);
            let mut gates = Vec::new();
            for (conn, ticket, kind) in steps {
                match kind {
                    0 => gate.append(Bytes::new()),
                    1 => gate.committed(ticket.min(gate.last_ticket())),
                    _ => {
                        let ticket = ticket.min(gate.last_ticket());
                        made[conn as usize] += 1;
                        gates.push(((conn, made[conn as usize]), ticket));
                        gate.push(send(conn, made[conn as usize]), ticket, &mut marks[conn as usize]);
                    }
                }
                for output in drain(&mut gate) {
                    let Output::Send { conn, packet: Packet::PubAck(ack) } = output else { unreachable!() };
                    let of = conn.0 as usize;
                    prop_assert_eq!(ack.packet_id.get(), left[of] + 1);
                    left[of] += 1;
                    let (_, ticket) = gates.iter().find(|(who, _)| *who == (conn.0, left[of])).unwrap();
                    prop_assert!(*ticket <= gate.committed, "left before its record was durable");
                }
            }
            gate.committed(gate.last_ticket());
            drain(&mut gate);
            prop_assert!(gate.waiting.is_empty());
        }
    }
}
