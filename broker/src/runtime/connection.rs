//! One network connection: its socket, the packet it has cut, the bytes it has not sent yet.
//!
//! ```text
//! New --CONNECT--> Authenticating --verdict--> Open --Output::Close--> Closing --all sent--> Lingering --> gone
//!  \--with a method--> Challenged --AUTH------^ ^                          ^  \--client left-------------^
//!  \--------------------------nobody to ask----/  refused, no packet at all/
//! ```
//! `Lingering` has sent everything and closed its half: what the client still sends is read and thrown
//! away, because closing a socket with unread bytes resets it, and a reset may destroy the last packet on
//! its way to the client. Invariants: `out` is empty in `Lingering`; the engine knows the connection only
//! in `Open`; a connection that is not reading or writing holds no buffer. Most connections are idle, so what an idle
//! one takes is counted in bytes (a test says how many).

use std::num::NonZeroU32;

use bytes::BytesMut;
use engine::ConnId;
use protocol::{Decoder, ProtocolVersion, Role};

use super::{
    authenticate::{Login, Waiting},
    lanes::{Debt, Lane},
    pause::Held,
    transport::Transport,
};
use crate::{
    limits::{Seat, Throttle},
    peer::Peer,
};

/// Bytes thrown away of one connection after its end; more, and it is reset.
pub(super) const LINGER_BYTES_MAX: u32 = 1024 * 1024;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted; CONNECT has not come.
    New,
    /// CONNECT has come and its verdict has not; nothing more is decoded.
    Authenticating,
    /// CONNECT has come and the client was asked for more; only AUTH and DISCONNECT may come.
    Challenged,
    /// The engine has it.
    Open,
    /// Nothing is read any more; what was sent goes out.
    Closing {
        /// Whether to wait for the client's end.
        linger: bool,
    },
    /// All is sent and our half is closed.
    Lingering {
        /// Bytes that may still be thrown away.
        bytes_left: u32,
    },
}

/// Whether a connection is to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dirty {
    /// It has nothing new.
    No,
    /// With what the next slices bring.
    Shared,
    /// At the turn's end.
    Now,
}

/// A buffer that takes no more than a word while there is nothing in it.
#[derive(Debug, Default)]
pub(super) struct Buffer(Option<Box<BytesMut>>);

impl Buffer {
    /// Holds these bytes.
    pub(super) fn of(bytes: BytesMut) -> Self {
        Self((!bytes.is_empty()).then(|| Box::new(bytes)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |bytes| bytes.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes to add some, in this memory if there was none.
    pub(super) fn get_or_insert_with(&mut self, memory: impl FnOnce() -> Box<BytesMut>) -> &mut BytesMut {
        self.0.get_or_insert_with(memory)
    }

    /// Has the bytes worked on, if there are some; on none that are empty.
    pub(super) fn with<R>(&mut self, f: impl FnOnce(&mut BytesMut) -> R) -> R {
        match &mut self.0 {
            Some(bytes) => f(bytes),
            None => f(&mut BytesMut::new()),
        }
    }

    /// Takes the bytes.
    pub(super) fn take(&mut self) -> BytesMut {
        self.0.take().map_or_else(BytesMut::new, |bytes| *bytes)
    }

    /// Takes the memory, if there is any.
    pub(super) fn take_memory(&mut self) -> Option<Box<BytesMut>> {
        self.0.take()
    }
}

/// A connection of the shard.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) peer: Peer,
    pub(super) phase: Phase,
    pub(super) transport: Transport,
    pub(super) decoder: Decoder,
    /// The version that CONNECT names, known even if the rest of it is wrong.
    pub(super) version_seen: Option<ProtocolVersion>,
    /// The largest packet that the client takes, as its CONNECT says.
    pub(super) takes_bytes_max: Option<NonZeroU32>,
    /// Whether it wants to be told why, as its CONNECT says.
    pub(super) wants_reasons: bool,
    /// What was read of a packet that has not come whole; in `Authenticating`, packets that wait.
    pub(super) cut: Buffer,
    /// Encoded packets, not sent.
    pub(super) out: Buffer,
    /// Its CONNECT, in `Authenticating` and `Challenged`.
    pub(super) waiting: Option<Box<Waiting>>,
    /// Who it is, in `Open` and after; none is an anonymous client.
    pub(super) login: Option<Box<Login>>,
    /// There may be something to read: its socket said so, and not all was read since.
    pub(super) is_readable: bool,
    /// Its socket said that it ends: it is read until it says so itself.
    pub(super) is_hung_up: bool,
    /// It stands in one of the shard's lists of connections to write to.
    pub(super) dirty: Dirty,
    /// The socket took less than there was, and did not say since that it takes more.
    pub(super) is_blocked: bool,
    /// The engine was told to hold back.
    pub(super) is_congested: bool,
    /// It stands in the shard's list of connections that wait for the disk.
    pub(super) is_parked: bool,
    /// The packet it waits with: nothing is read or decoded meanwhile.
    pub(super) held: Option<Box<Held>>,
    /// What the limits count of it.
    pub(super) seat: Option<Seat>,
    /// Its rates, if it has any.
    pub(super) throttle: Option<Box<Throttle>>,
    /// Where it stands among those who have something to do.
    pub(super) lane: Lane,
    /// The time that it used.
    pub(super) debt: Debt,
    /// `cut` may have whole packets: its slice was over before they were decoded.
    pub(super) has_more: bool,
    /// What its buffers were when they were counted last.
    pub(super) buffered: usize,
}

impl Connection {
    pub(super) fn new(
        id: ConnId,
        peer: Peer,
        transport: Transport,
        packet_bytes_max: u32,
        seat: Seat,
        debt: Debt,
    ) -> Self {
        Self {
            id,
            peer,
            phase: Phase::New,
            transport,
            decoder: Decoder::new(Role::Broker, None, packet_bytes_max),
            version_seen: None,
            takes_bytes_max: None,
            wants_reasons: true,
            cut: Buffer::default(),
            out: Buffer::default(),
            waiting: None,
            login: None,
            is_readable: false,
            is_hung_up: false,
            dirty: Dirty::No,
            is_blocked: false,
            is_congested: false,
            is_parked: false,
            held: None,
            seat: Some(seat),
            throttle: None,
            lane: Lane::default(),
            debt,
            has_more: false,
            buffered: 0,
        }
    }

    /// The version to write in.
    pub(super) fn version(&self) -> ProtocolVersion {
        self.decoder.version().or(self.version_seen).unwrap_or(ProtocolVersion::V311)
    }

    pub(super) fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Authenticating | Phase::Challenged | Phase::Open)
    }

    /// Says whether what comes may be taken in now.
    pub(super) fn may_read(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Challenged | Phase::Open) && self.held.is_none()
    }
}

/// Finds the version in the first bytes of a CONNECT of 5.0, so that a CONNECT with something wrong
/// behind it can be answered in its own format.
pub(super) fn version_of_connect(bytes: &[u8]) -> Option<ProtocolVersion> {
    let (&0x10, rest) = bytes.split_first()? else { return None };
    let length_bytes = 1 + rest.iter().take(3).take_while(|byte| **byte >= 0x80).count();
    let variable_header = rest.get(length_bytes..)?;
    variable_header.starts_with(b"\x00\x04MQTT\x05").then_some(ProtocolVersion::V5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_idle_connection_takes_does_not_grow_unseen() {
        let bytes = size_of::<Connection>();
        assert!(bytes <= 224, "{bytes}");
    }

    #[test]
    fn the_version_is_seen_behind_a_remaining_length_of_any_size() {
        for length in [&[0x0a][..], &[0x8a, 0x01], &[0xff, 0xff, 0xff, 0x7f]] {
            let bytes = [&[0x10], length, b"\x00\x04MQTT\x05"].concat();
            assert_eq!(version_of_connect(&bytes), Some(ProtocolVersion::V5));
            assert_eq!(version_of_connect(&bytes[..bytes.len() - 1]), None);
        }
        for other in [
            &b""[..],
            b"\x10",
            b"\x10\x0a\x00\x04MQTT\x04",
            b"\x30\x0a\x00\x04MQTT\x05",
            b"\x10\xff\xff\xff\xff",
        ] {
            assert_eq!(version_of_connect(other), None);
        }
    }
}
