//! Bytes to packets and back (replaced by the real codec).

use bytes::BytesMut;

use crate::{DecodeError, Packet, ProtocolVersion};

/// Which side of the connection decodes: it decides which packets may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Decodes what clients send.
    Broker,
    /// Decodes what a broker sends.
    Client,
}

/// Cuts a byte stream into packets of one connection.
#[derive(Clone, Debug)]
pub struct Decoder {
    role: Role,
    version: Option<ProtocolVersion>,
    packet_bytes_max: u32,
}

impl Decoder {
    /// Makes a decoder; a broker's learns the version from CONNECT, a client's must be given it.
    pub fn new(role: Role, version: Option<ProtocolVersion>, packet_bytes_max: u32) -> Self {
        Self { role, version, packet_bytes_max }
    }

    /// Returns the version in force: given, or learnt from CONNECT.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Takes the next whole packet out of `buf`, `None` when more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no packet this side may receive; the connection must end.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let _ = (buf, self.role, self.packet_bytes_max);
        Ok(None)
    }
}

/// Why a packet cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A field does not fit the format.
    #[error("{field} of {bytes} bytes is over the format's limit of {limit}")]
    TooLong {
        /// The field's name.
        field: &'static str,
        /// Its size.
        bytes: usize,
        /// The format's limit.
        limit: usize,
    },
}

/// Appends the encoded packet to `out`; on an error `out` is as before.
///
/// # Errors
/// A string is over 65,535 bytes or the packet over 268,435,455.
pub fn encode(packet: &Packet, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
    let _ = (packet, version, out);
    Ok(())
}

/// Returns the size of the encoded packet, fixed header included.
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> usize {
    let _ = (packet, version);
    0
}
