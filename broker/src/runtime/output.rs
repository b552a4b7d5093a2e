//! From the engine to the sockets: encoding into each connection's buffer, and writing it.

use std::{io, time::Instant};

use bytes::BytesMut;
use engine::{CloseReason, ConnId, Input, Now, Output, Ticket};
use protocol::Packet;

use super::{
    Core,
    connection::{Dirty, Phase},
    lanes::WRITES,
};

/// Unsent bytes at which a connection is written to before the turn ends.
const EARLY_FLUSH_BYTES: usize = 256 * 1024;

/// Output buffers kept for the next connection that has something to send ...
const SPARE_MAX: usize = 64;

/// ... if they are no larger than this.
const SPARE_BYTES_MAX: usize = 64 * 1024;

/// Size of a new output buffer.
const OUT_BYTES: usize = 4 * 1024;

impl Core {
    /// Does what the engine says, until it says no more.
    pub(super) fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send { conn, packet } => self.send(conn, &packet),
                Output::Close { conn, reason } => {
                    // A client that said goodbye closes its side itself.
                    let linger = !matches!(reason, CloseReason::Disconnected | CloseReason::Lost);
                    self.begin_close(conn, linger, &reason);
                }
                Output::Answered { ask, answer } => {
                    if let Some(asked) = self.answers.remove(&ask) {
                        // Who asked may have gone.
                        drop(asked.send(answer));
                    }
                }
                Output::Append { ticket: Ticket(ticket), record } => {
                    self.batch.push(record);
                    self.is_batch_due |= !self.lanes.may_share_writes();
                    self.last_ticket = ticket;
                }
                Output::Fetch { fetch, places } => self.fetcher.ask(fetch, places),
            }
        }
        self.is_turn_due = true;
    }

    /// Encodes a packet behind what the connection has not sent yet.
    pub(super) fn send(&mut self, id: ConnId, packet: &Packet) {
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return;
        };
        let version = connection.version();
        let spare = &mut self.spare;
        let out = connection.out.get_or_insert_with(|| {
            spare.pop().unwrap_or_else(|| Box::new(BytesMut::with_capacity(OUT_BYTES)))
        });
        if let Err(error) = protocol::encode(packet, version, out) {
            // The engine bounds every field, so this is a bug: the client comes back to a resumed session.
            tracing::error!(conn = id.0, %error, "a packet cannot be encoded, the connection is closed");
            self.broken.push(id);
            return;
        }
        self.counts.packets_out += 1;
        if connection.out.len() > self.limits.unsent_bytes_high
            && connection.is_blocked
            && connection.phase == Phase::Open
            && !std::mem::replace(&mut connection.is_congested, true)
        {
            // Now and not at the turn's end: all that one turn brings would be more than the mark.
            self.congested.push(id);
        }
        let flush_now = connection.out.len() >= EARLY_FLUSH_BYTES && !connection.is_blocked;
        self.write_later(id);
        if flush_now {
            // What goes wrong is seen when it is written to next.
            let _ = self.write(id);
        }
    }

    /// Notes a connection that has something to send or is to be closed.
    pub(super) fn write_later(&mut self, id: ConnId) {
        let dirty = if self.lanes.may_share_writes() { Dirty::Shared } else { Dirty::Now };
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return;
        };
        if dirty > connection.dirty {
            connection.dirty = dirty;
            let list = if dirty == Dirty::Now { &mut self.dirty } else { &mut self.dirty_shared };
            list.push_back(id);
        }
        self.is_turn_due = true;
    }

    /// Says whether something waits to be written, or stored, with what the next slices bring.
    pub(super) fn has_shared_writes(&self) -> bool {
        !self.dirty_shared.is_empty() || !self.batch.is_empty()
    }

    /// Writes what is there, once.
    fn write(&mut self, id: ConnId) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return Ok(());
        };
        let written = connection.out.with(|out| connection.transport.try_send(out))?;
        self.counts.bytes_out += written as u64;
        // The socket says when it takes more.
        connection.is_blocked = !connection.out.is_empty() || connection.transport.wants_write();
        Ok(())
    }

    /// Says whether what slices brought is to be written from this turn on, and notes how much that is. If it is not,
    /// somebody waits for a slice, whose end asks again.
    pub(super) fn are_shared_writes_due(&mut self) -> bool {
        let are_due = self.lanes.are_writes_due();
        if are_due {
            self.dirty_shared_due = self.dirty_shared.len();
        }
        are_due
    }

    /// Writes to the connections that were touched, for a while; says whether some are left whose time has come.
    pub(super) fn flush(&mut self, now: Now) -> bool {
        let began = Instant::now();
        // What is touched meanwhile is of the next turn.
        let mut left = self.dirty.len();
        loop {
            let id = if left > 0 {
                left -= 1;
                self.dirty.pop_front()
            } else if self.dirty_shared_due > 0 {
                self.dirty_shared_due -= 1;
                self.dirty_shared.pop_front()
            } else {
                None
            };
            let Some(id) = id else { break };
            self.write_to(now, id);
            if began.elapsed() >= WRITES {
                break;
            }
        }
        self.shed(now);
        !self.dirty.is_empty() || self.dirty_shared_due > 0
    }

    fn write_to(&mut self, now: Now, id: ConnId) {
        let Some(connection) = self.connection(id) else { return };
        // In the other list it may stand too, or again.
        if std::mem::replace(&mut connection.dirty, Dirty::No) == Dirty::No {
            return;
        }
        let unsent = !connection.out.is_empty() || connection.transport.wants_write();
        if unsent && !connection.is_blocked && self.write(id).is_err() {
            return self.lose(now, id);
        }
        self.after_write(now, id);
    }

    /// Goes on with a connection whose socket takes more.
    pub(super) fn may_write(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return;
        };
        if std::mem::replace(&mut connection.is_blocked, false) {
            self.write_later(id);
        }
    }

    /// Looks at what is left unsent: the water marks, the end of a closing connection, the buffer.
    fn after_write(&mut self, now: Now, id: ConnId) {
        let limits = self.limits;
        self.account(id);
        let Some(connection) = self.connection(id) else { return };
        let unsent = connection.out.len();
        if unsent > limits.unsent_bytes_max {
            self.counts.overflowed += 1;
            tracing::warn!(
                conn = id.0,
                unsent,
                limit = limits.unsent_bytes_max,
                "client reads too slowly, closed"
            );
            return self.lose(now, id);
        }
        match (connection.phase, connection.is_congested) {
            (Phase::Open, false) if unsent > limits.unsent_bytes_high => {
                connection.is_congested = true;
                self.input(now, Input::Congested { conn: id });
            }
            (Phase::Open, true) if unsent <= limits.unsent_bytes_low => {
                connection.is_congested = false;
                self.input(now, Input::Drained { conn: id });
            }
            _ => {}
        }
        let Some(connection) = self.connection(id) else { return };
        if connection.is_readable && !connection.is_blocked {
            // It may have stopped reading because it was blocked.
            self.ready_later(id);
        }
        let Some(connection) = self.connection(id).filter(|c| c.out.is_empty()) else { return };
        let phase = connection.phase;
        if let Some(mut out) = connection.out.take_memory() {
            out.clear();
            if out.capacity() <= SPARE_BYTES_MAX && self.spare.len() < SPARE_MAX {
                self.spare.push(out);
            }
        }
        if let Phase::Closing { linger } = phase {
            self.finish_close(id, linger);
        }
    }
}
