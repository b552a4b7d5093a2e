//! A running broker as a place: each connection is a transport's stream.

use std::time::{Duration, Instant};

use super::runner::{Place, Received};
use crate::raw_client::PATIENCE;
use crate::transport::{Door, Stream, is_end};

pub(super) struct Sockets<'a> {
    door: &'a Door,
    connections: Vec<Connection>,
}

struct Connection {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
}

impl<'a> Sockets<'a> {
    pub(super) fn new(door: &'a Door) -> Self {
        Self { door, connections: Vec::new() }
    }
}

impl Connection {
    /// Reads once; says whether the connection still stands.
    fn read(&mut self, left: Duration) -> bool {
        let mut chunk = [0; 64 * 1024];
        self.stream.set_read_patience(left);
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.received.extend_from_slice(&chunk[..n]);
                true
            }
            Err(e) => !is_end(&e),
        }
    }
}

impl Place for Sockets<'_> {
    fn open(&mut self) -> usize {
        let stream = self.door.open();
        self.connections.push(Connection { stream, received: Vec::new() });
        self.connections.len() - 1
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) {
        // A broker that closes meanwhile takes no more bytes; what it said before is still to be read.
        let _ = self.connections[connection].stream.write_all(bytes);
        let _ = self.connections[connection].stream.flush();
    }

    fn receive(&mut self, connection: usize) -> Received {
        let deadline = Instant::now() + PATIENCE;
        let connection = &mut self.connections[connection];
        loop {
            if let Some(length) = super::packet_length(&connection.received) {
                let rest = connection.received.split_off(length);
                return Received::Packet(std::mem::replace(&mut connection.received, rest));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Received::Nothing;
            }
            if !connection.read(left) {
                return Received::Closed;
            }
        }
    }

    fn lose(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        connection.stream.end_writing();
        let deadline = Instant::now() + PATIENCE;
        while connection.read(Duration::from_secs(1)) {
            assert!(Instant::now() < deadline, "the broker keeps a connection whose client has gone");
        }
    }

    /// Time is what these vectors are about: a running broker has no other clock.
    fn pass(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}
