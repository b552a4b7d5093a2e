//! The broker as the world sees it: a port, so that this crate need not know the engine.
//!
//! The binary fills it with the real engine on a simulated disk. Whatever fills it has no clock: time comes with each call.

use device_sdk::client::Packet;

/// The time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the start of the run.
    pub run_ms: u64,
    /// Milliseconds since the Unix epoch, as it really is.
    pub unix_ms: u64,
}

/// What happens to the broker.
#[derive(Debug)]
pub enum ToBroker {
    /// A packet arrives; CONNECT is the first of its connection.
    Packet {
        /// The connection; a number is used once.
        conn: u64,
        /// The packet.
        packet: Packet,
    },
    /// A connection is gone.
    Closed {
        /// Which; unknown ones are ignored.
        conn: u64,
    },
    /// The deadline has come.
    Timer,
    /// What was written so far is durable now.
    Commit,
}

/// What the broker does.
#[derive(Debug)]
pub enum FromBroker {
    /// It sends a packet.
    Send {
        /// To which connection.
        conn: u64,
        /// The packet.
        packet: Packet,
    },
    /// It closes a connection, after what it sent before.
    Close {
        /// Which.
        conn: u64,
    },
}

/// A broker without a clock, a socket or a thread.
pub trait Broker {
    /// Takes one input; drain [`Broker::poll`] before the next.
    ///
    /// # Errors
    /// The broker cannot go on: its store failed.
    fn handle(&mut self, now: Moment, input: ToBroker) -> Result<(), String>;

    /// Returns the next thing that it does.
    fn poll(&mut self) -> Option<FromBroker>;

    /// Returns when [`ToBroker::Timer`] is due, in milliseconds of the run.
    fn next_deadline_ms(&self) -> Option<u64>;

    /// Says whether something waits for [`ToBroker::Commit`].
    fn waits_for_commit(&self) -> bool;

    /// Cuts its power and starts it again from its disk: all connections are gone.
    ///
    /// # Errors
    /// It cannot be started again.
    fn power_cut(&mut self, now: Moment) -> Result<(), String>;

    /// Returns the bytes that it holds in memory, as it counts them.
    fn memory_bytes(&self) -> u64;
}
