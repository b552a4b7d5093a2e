//! The engine in memory as a place: decoder, shard and encoder as the broker's runtime joins them, on virtual
//! time, every record durable at once.

use std::time::Duration;

use bytes::BytesMut;
use engine::{Config, ConnId, Input, Now, Output, Principal, Recovery, Shard, Ticket};
use protocol::{
    ConnAck, ConnAckProperties, DecodeError, Decoder, Packet, ProtocolVersion, ReasonCode, Role, encode,
};

use super::runner::{Place, Received};

/// Any time will do; not 0, so that differences are differences.
const START: Now = Now { monotonic_ms: 1_000_000, unix_ms: 1_800_000_000_000 };

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    New,
    Open,
    Closed,
}

struct Connection {
    decoder: Decoder,
    phase: Phase,
    /// What was sent to the broker and is no whole packet yet.
    cut: BytesMut,
    /// What the broker sent.
    out: BytesMut,
    version_seen: Option<ProtocolVersion>,
}

pub(super) struct Memory {
    shard: Shard,
    now: Now,
    connections: Vec<Connection>,
    packet_bytes_max: u32,
    /// What is sent arrives in pieces of at most so many bytes.
    piece_bytes_max: usize,
}

impl Memory {
    pub(super) fn new(piece_bytes_max: usize) -> Self {
        let config = Config::default();
        let packet_bytes_max = config.packet_bytes_max;
        let shard = Shard::recover(config, 7, START, Recovery::of_log([])).expect("an empty log is in order");
        Self { shard, now: START, connections: Vec::new(), packet_bytes_max, piece_bytes_max }
    }

    fn handle(&mut self, input: Input) {
        self.shard.handle(self.now, input);
        self.take_outputs();
        self.run_due();
    }

    /// Does what the engine asks for; what it appends is durable at once.
    fn take_outputs(&mut self) {
        loop {
            let mut newest = None;
            while let Some(output) = self.shard.poll_output() {
                match output {
                    Output::Send { conn, packet } => self.write(conn.0 as usize, &packet),
                    Output::Close { conn, .. } => self.connections[conn.0 as usize].phase = Phase::Closed,
                    Output::Append { ticket, .. } => newest = Some(ticket),
                    Output::Fetch { .. } => unreachable!("no vector reads the history of a conversation"),
                    Output::Answered { .. } => {}
                }
            }
            let Some(Ticket(ticket)) = newest else { return };
            self.shard.handle(self.now, Input::Committed { ticket: Ticket(ticket) });
        }
    }

    fn run_due(&mut self) {
        while self.shard.next_deadline_ms().is_some_and(|at_ms| at_ms <= self.now.monotonic_ms) {
            self.shard.handle(self.now, Input::Timer);
            self.take_outputs();
        }
    }

    fn write(&mut self, connection: usize, packet: &Packet) {
        let connection = &mut self.connections[connection];
        let version = connection.decoder.version().or(connection.version_seen);
        encode(packet, version.unwrap_or(ProtocolVersion::V311), &mut connection.out)
            .unwrap_or_else(|e| panic!("the engine made a packet that cannot be sent: {e}: {packet:?}"));
    }

    fn packet(&mut self, connection: usize, packet: Packet) {
        let conn = ConnId(connection as u64);
        let is_new = self.connections[connection].phase == Phase::New;
        match packet {
            Packet::Connect(connect) if is_new => {
                self.connections[connection].phase = Phase::Open;
                let principal = Box::new(Principal::default());
                self.handle(Input::Connect { conn, connect, principal, authentication: None });
            }
            packet => self.handle(Input::Packet { conn, packet }),
        }
    }

    /// Takes what came from a client in one read.
    fn read(&mut self, connection: usize, bytes: &[u8]) {
        let mut buf = std::mem::take(&mut self.connections[connection].cut);
        buf.extend_from_slice(bytes);
        if self.connections[connection].phase == Phase::New && is_connect_of_v5(&buf) {
            self.connections[connection].version_seen = Some(ProtocolVersion::V5);
        }
        while self.connections[connection].phase != Phase::Closed {
            match self.connections[connection].decoder.decode(&mut buf) {
                Ok(Some(packet)) => self.packet(connection, packet),
                Ok(None) => break,
                Err(error) => self.malformed(connection, error),
            }
        }
        self.connections[connection].cut = buf;
    }

    /// What the runtime does with bytes that are no packet.
    fn malformed(&mut self, connection: usize, error: DecodeError) {
        if self.connections[connection].phase == Phase::Open {
            return self.handle(Input::Malformed { conn: ConnId(connection as u64), error });
        }
        let seen = &mut self.connections[connection].version_seen;
        if let DecodeError::UnsupportedProtocolVersion { level, .. } = &error {
            *seen = (*level > 4).then_some(ProtocolVersion::V5);
            self.refuse(connection, error.reason());
        } else if *seen == Some(ProtocolVersion::V5) {
            self.refuse(connection, error.reason());
        }
        self.connections[connection].phase = Phase::Closed;
    }

    fn refuse(&mut self, connection: usize, reason: ReasonCode) {
        let properties = ConnAckProperties::default();
        let connack = ConnAck { session_present: false, reason, properties };
        self.write(connection, &Packet::ConnAck(Box::new(connack)));
    }
}

/// Finds a CONNECT of 5.0 by its first bytes, as the runtime does.
fn is_connect_of_v5(bytes: &[u8]) -> bool {
    let Some((&0x10, rest)) = bytes.split_first() else { return false };
    let length_bytes = 1 + rest.iter().take(3).take_while(|byte| **byte >= 0x80).count();
    rest.get(length_bytes..).is_some_and(|header| header.starts_with(b"\x00\x04MQTT\x05"))
}

impl Place for Memory {
    fn open(&mut self) -> usize {
        self.connections.push(Connection {
            decoder: Decoder::new(Role::Broker, None, self.packet_bytes_max),
            phase: Phase::New,
            cut: BytesMut::new(),
            out: BytesMut::new(),
            version_seen: None,
        });
        self.connections.len() - 1
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) {
        for piece in bytes.chunks(self.piece_bytes_max) {
            self.read(connection, piece);
        }
    }

    fn receive(&mut self, connection: usize) -> Received {
        let connection = &mut self.connections[connection];
        match super::packet_length(&connection.out) {
            Some(length) => Received::Packet(connection.out.split_to(length).to_vec()),
            None if connection.phase == Phase::Closed => Received::Closed,
            None => Received::Nothing,
        }
    }

    fn lose(&mut self, connection: usize) {
        let was_open = self.connections[connection].phase == Phase::Open;
        self.connections[connection].phase = Phase::Closed;
        if was_open {
            self.handle(Input::Closed { conn: ConnId(connection as u64) });
        }
    }

    fn pass(&mut self, time: Duration) {
        let end_ms = self.now.monotonic_ms + time.as_millis() as u64;
        loop {
            let due = self.shard.next_deadline_ms().filter(|at_ms| *at_ms <= end_ms);
            let to_ms = due.unwrap_or(end_ms).max(self.now.monotonic_ms);
            self.now.unix_ms += to_ms - self.now.monotonic_ms;
            self.now.monotonic_ms = to_ms;
            self.run_due();
            if due.is_none() {
                return;
            }
        }
    }
}
