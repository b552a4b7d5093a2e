//! A connection whose end is no failure of the test: the broker is killed under it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use protocol::{Decoder, Packet, ProtocolVersion, ReasonCode, Role, encode};

use crate::raw_client::{PATIENCE, durable_connect};

/// The connection is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// One connection of a client with a session that lasts.
pub(super) struct Link {
    stream: TcpStream,
    decoder: Decoder,
    received: BytesMut,
}

const VERSION: ProtocolVersion = ProtocolVersion::V5;

impl Link {
    /// Connects as soon as the broker is there; says whether the session was. `None` when `is_over` is set first.
    pub(super) fn open(broker: SocketAddr, client_id: &str, is_over: &AtomicBool) -> Option<(Self, bool)> {
        let deadline = Instant::now() + 3 * PATIENCE;
        while !is_over.load(Ordering::Relaxed) {
            if let Ok(link) = Self::try_open(broker, client_id) {
                return Some(link);
            }
            assert!(Instant::now() < deadline, "the broker did not come back for {client_id}");
            thread::sleep(Duration::from_millis(2));
        }
        None
    }

    fn try_open(broker: SocketAddr, client_id: &str) -> Result<(Self, bool), Gone> {
        let stream = TcpStream::connect(broker).map_err(|_| Gone)?;
        stream.set_nodelay(true).map_err(|_| Gone)?;
        let decoder = Decoder::new(Role::Client, Some(VERSION), u32::MAX);
        let mut link = Self { stream, decoder, received: BytesMut::with_capacity(64 * 1024) };
        link.send(&[Packet::Connect(Box::new(durable_connect(client_id, VERSION)))])?;
        match link.receive(PATIENCE)? {
            Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success => {
                Ok((link, ack.session_present))
            }
            Some(other) => panic!("{client_id} got {other:?} for its CONNECT"),
            None => Err(Gone),
        }
    }

    /// Sends packets in one write.
    pub(super) fn send(&mut self, packets: &[Packet]) -> Result<(), Gone> {
        let mut bytes = BytesMut::new();
        for packet in packets {
            encode(packet, VERSION, &mut bytes).expect("tests send packets that can be encoded");
        }
        self.stream.write_all(&bytes).map_err(|_| Gone)
    }

    /// Takes the next packet; `None` when nothing comes for so long.
    pub(super) fn receive(&mut self, patience: Duration) -> Result<Option<Packet>, Gone> {
        let deadline = Instant::now() + patience;
        let mut chunk = [0; 64 * 1024];
        loop {
            match self.decoder.decode(&mut self.received) {
                Ok(Some(packet)) => return Ok(Some(packet)),
                Ok(None) => {}
                Err(e) => panic!("the broker sent bytes that are no packet for a client: {e}"),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left)).map_err(|_| Gone)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Gone),
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
    }
}
