//! Bytes to packets and back: the fixed header, the order of packets, and the way to each packet's file.
//!
//! Invariants: bytes are taken from the buffer in whole packets only, so a packet cut at any byte decodes
//! the same; nothing is allocated by a length that has not been received; a decoder that failed fails
//! from then on with the same error, because the connection has to end.

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod property;
mod publish;
mod suback;
mod subscribe;
mod unsuback;
mod unsubscribe;
mod wire;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use self::wire::{Measure, Reader, Sink, VARINT_MAX, Varint, Writer, varint_bytes, varint_len};
use crate::{Ack, DecodeError, Packet, PacketId, ProtocolVersion, ReasonCode};

/// Which side of the connection decodes: it decides which packets may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Decodes what clients send.
    Broker,
    /// Decodes what a broker sends.
    Client,
}

/// Cuts a byte stream into packets of one connection.
///
/// Strings and payloads of a packet share the buffer's memory: what is kept longer than the packet should
/// be copied. A typed packet takes at most 26 times the bytes it came in (empty user properties, in a
/// vector that has just doubled), so the limit given bounds memory.
#[derive(Clone, Debug)]
pub struct Decoder {
    role: Role,
    version: Option<ProtocolVersion>,
    packet_bytes_max: u32,
    failed: Option<Box<DecodeError>>,
}

/// The type in the high four bits of the fixed header (table 2-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    fn from_first_byte(first: u8) -> Option<Self> {
        Some(match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// The low four bits every type but PUBLISH must have (table 2-2).
    fn flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0x02,
            _ => 0,
        }
    }

    fn may_be_received(self, role: Role, version: ProtocolVersion) -> bool {
        match self {
            Self::Publish | Self::PubAck | Self::PubRec | Self::PubRel | Self::PubComp => true,
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => role == Role::Broker,
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => role == Role::Client,
            Self::Disconnect => role == Role::Broker || version == ProtocolVersion::V5,
            Self::Auth => version == ProtocolVersion::V5,
        }
    }
}

/// A fixed header that is allowed here, and the size of the packet behind it.
struct Header {
    packet: PacketType,
    first: u8,
    header_bytes: usize,
    total_bytes: usize,
    overlong: bool,
}

impl Decoder {
    /// Makes a decoder.
    ///
    /// A broker's without a version expects CONNECT first and learns the version from it; with one it goes
    /// on behind a CONNECT. A client's must be given the version of its CONNECT; without, it is 5.0.
    /// Packets over `packet_bytes_max`, fixed header included, are refused as soon as their header is there.
    pub fn new(role: Role, version: Option<ProtocolVersion>, packet_bytes_max: u32) -> Self {
        let version = match role {
            Role::Broker => version,
            Role::Client => version.or(Some(ProtocolVersion::V5)),
        };
        Self { role, version, packet_bytes_max, failed: None }
    }

    /// Refuses packets over `packet_bytes_max` from now on.
    pub fn limit_packets(&mut self, packet_bytes_max: u32) {
        self.packet_bytes_max = packet_bytes_max;
    }

    /// Returns the version in force: given, or learnt from CONNECT, even from one that is wrong behind its
    /// protocol level.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Takes the next whole packet out of `buf`, `None` when more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no packet this side may receive; the connection must end, and every later call
    /// returns the same error.
    #[inline]
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(error.as_ref().clone());
        }
        let result = self.next_packet(buf);
        if let Err(error) = &result {
            self.failed = Some(Box::new(error.clone()));
        }
        result
    }

    #[inline]
    fn next_packet(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(header) = self.read_header(buf)? else { return Ok(None) };
        if buf.len() < header.total_bytes {
            return Ok(None);
        }
        if let Some(packet) = short_packet(&header, buf) {
            return Ok(Some(packet));
        }
        let frame = buf.split_to(header.total_bytes).freeze();
        self.read_body(&header, &frame).map(Some)
    }

    /// Reads as much of the fixed header as is there; what is wrong with it is said at once.
    #[inline]
    fn read_header(&self, buf: &[u8]) -> Result<Option<Header>, DecodeError> {
        let Some(&first) = buf.first() else { return Ok(None) };
        let packet = self.check_first_byte(first)?;
        let malformed = |what: String| DecodeError::Malformed { packet: packet.name(), what };
        let (remaining, bytes, overlong) = match Varint::read(&buf[1..]) {
            Varint::Value { value, bytes, overlong } => (value, bytes, overlong),
            Varint::Incomplete => return Ok(None),
            Varint::TooLong => {
                return Err(malformed("remaining length is encoded in more than 4 bytes".into()));
            }
        };
        // [MQTT-1.5.5-1]; 3.1.1 does not demand the shortest form.
        if overlong && self.version == Some(ProtocolVersion::V5) {
            return Err(malformed(overlong_message(remaining, bytes)));
        }
        let header_bytes = 1 + bytes;
        let total = header_bytes as u64 + u64::from(remaining);
        if total > u64::from(self.packet_bytes_max) {
            return Err(DecodeError::PacketTooLarge { bytes: total, limit: self.packet_bytes_max });
        }
        let total_bytes = header_bytes + remaining as usize;
        Ok(Some(Header { packet, first, header_bytes, total_bytes, overlong }))
    }

    #[inline]
    fn check_first_byte(&self, first: u8) -> Result<PacketType, DecodeError> {
        let Some(packet) = PacketType::from_first_byte(first) else {
            let what = format!("packet type 0 is reserved (first byte {first:#04x})");
            return Err(DecodeError::Malformed { packet: "packet", what });
        };
        let protocol = |what: &str| DecodeError::Protocol { packet: packet.name(), what: what.to_owned() };
        match (self.version, packet) {
            (None, PacketType::Connect) => {}
            // [MQTT-3.1.0-1]
            (None, _) => return Err(protocol("the first packet must be CONNECT")),
            // [MQTT-3.1.0-2]
            (Some(_), PacketType::Connect) if self.role == Role::Broker => {
                return Err(protocol("a second CONNECT on one connection"));
            }
            // [MQTT-2.2.2-2] (3.1.1): type 15 is reserved
            (Some(ProtocolVersion::V311), PacketType::Auth) => return Err(protocol("3.1.1 has no AUTH")),
            (Some(version), packet) if !packet.may_be_received(self.role, version) => {
                return Err(protocol(match self.role {
                    Role::Broker => "a client may not send it",
                    Role::Client => "a server may not send it",
                }));
            }
            _ => {}
        }
        // [MQTT-2.1.3-1], [MQTT-2.2.2-1] (3.1.1), [MQTT-2.2.2-2] (3.1.1)
        if packet == PacketType::Publish {
            publish::Flags::read(first)?;
        } else if first & 0x0f != packet.flags() {
            let what =
                format!("fixed header flags are {:#03x} and must be {:#03x}", first & 0x0f, packet.flags());
            return Err(DecodeError::Malformed { packet: packet.name(), what });
        }
        Ok(packet)
    }

    #[inline]
    fn read_body(&mut self, header: &Header, frame: &Bytes) -> Result<Packet, DecodeError> {
        let reader = &mut Reader::new(frame, header.header_bytes, header.packet.name());
        let (role, packet) = (self.role, header.packet);
        // Without a version only a CONNECT gets here, and with one none does.
        let version = self.version.unwrap_or(ProtocolVersion::V5);
        Ok(match packet {
            PacketType::Publish => {
                Packet::Publish(publish::decode(reader, publish::Flags::read(header.first)?, version, role)?)
            }
            PacketType::PubAck => Packet::PubAck(ack::decode(reader, packet, version)?),
            PacketType::PubRec => Packet::PubRec(ack::decode(reader, packet, version)?),
            PacketType::PubRel => Packet::PubRel(ack::decode(reader, packet, version)?),
            PacketType::PubComp => Packet::PubComp(ack::decode(reader, packet, version)?),
            PacketType::Connect => self.read_connect(header, reader)?,
            PacketType::ConnAck => Packet::ConnAck(Box::new(connack::decode(reader, version)?)),
            PacketType::Subscribe => Packet::Subscribe(subscribe::decode(reader, version)?),
            PacketType::SubAck => Packet::SubAck(suback::decode(reader, version)?),
            PacketType::Unsubscribe => Packet::Unsubscribe(unsubscribe::decode(reader, version)?),
            PacketType::UnsubAck => Packet::UnsubAck(unsuback::decode(reader, version)?),
            PacketType::PingReq => reader.finish().map(|()| Packet::PingReq)?,
            PacketType::PingResp => reader.finish().map(|()| Packet::PingResp)?,
            PacketType::Disconnect => Packet::Disconnect(disconnect::decode(reader, version, role)?),
            PacketType::Auth => Packet::Auth(Box::new(auth::decode(reader, role)?)),
        })
    }

    /// Reads a CONNECT. The version is kept even if what follows it is wrong, so that the refusal can be
    /// told in it.
    fn read_connect(&mut self, header: &Header, reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
        let version = connect::read_version(reader)?;
        self.version = Some(version);
        if header.overlong && version == ProtocolVersion::V5 {
            let remaining = (header.total_bytes - header.header_bytes) as u32;
            return Err(reader.malformed(overlong_message(remaining, header.header_bytes - 1)));
        }
        Ok(Packet::Connect(Box::new(connect::decode(reader, version)?)))
    }
}

fn overlong_message(remaining: u32, bytes: usize) -> String {
    format!("remaining length {remaining} is encoded in {bytes} bytes, more than it needs")
}

/// Takes the acknowledgements and pings that are all header: they need no share of the buffer.
#[inline]
fn short_packet(header: &Header, buf: &mut BytesMut) -> Option<Packet> {
    let packet = match (header.packet, &buf[header.header_bytes..header.total_bytes]) {
        (PacketType::PingReq, []) => Packet::PingReq,
        (PacketType::PingResp, []) => Packet::PingResp,
        (packet, &[high, low]) => {
            let ack = Ack::new(PacketId::new(u16::from_be_bytes([high, low]))?, ReasonCode::Success);
            match packet {
                PacketType::PubAck => Packet::PubAck(ack),
                PacketType::PubRec => Packet::PubRec(ack),
                PacketType::PubRel => Packet::PubRel(ack),
                PacketType::PubComp => Packet::PubComp(ack),
                _ => return None,
            }
        }
        _ => return None,
    };
    buf.advance(header.total_bytes);
    Some(packet)
}

/// Reads a packet identifier: [MQTT-2.2.1-3], not 0.
#[inline]
fn packet_id(reader: &mut Reader<'_>) -> Result<PacketId, DecodeError> {
    let id = reader.u16("packet identifier")?;
    PacketId::new(id).ok_or_else(|| reader.protocol("packet identifier is 0"))
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
    /// A field has a value that the receiver would have to refuse.
    #[error("{field} is not valid: {what}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The reason code is not one of this packet's.
    #[error("{packet} may not carry reason code {:#04x} ({})", *.reason as u8, .reason.text())]
    Reason {
        /// The packet type's name.
        packet: &'static str,
        /// The code.
        reason: ReasonCode,
    },
}

/// Appends the encoded packet to `out`; on an error `out` is as before.
///
/// Properties are left out for 3.1.1. A CONNECT is encoded in its own version, whatever `version` says.
/// What it encodes, a [`Decoder`] of the other side takes; only the syntax of filters is not looked at
/// (see [`crate::TopicFilter::parse`]).
///
/// # Errors
/// A string is over 65,535 bytes or the packet over 268,435,455, or a field has a value that the receiver
/// would have to refuse.
#[inline]
pub fn encode(packet: &Packet, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
    let is_written = match packet {
        Packet::Publish(publish) => publish::write_plain(publish, version, out),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack)
            if ack::is_plain(ack, version) =>
        {
            let [high, low] = ack.packet_id.get().to_be_bytes();
            out.put_slice(&[first_byte(packet), 2, high, low]);
            true
        }
        _ => false,
    };
    if is_written { Ok(()) } else { encode_any(packet, version, out) }
}

/// Encodes whatever it is: measured first, then written.
fn encode_any(packet: &Packet, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
    let mut measure = Measure::default();
    write_body(packet, version, &mut measure);
    if measure.bytes > VARINT_MAX as usize {
        return Err(EncodeError::TooLong {
            field: "packet",
            bytes: measure.bytes,
            limit: VARINT_MAX as usize,
        });
    }
    if let Some(fault) = measure.fault {
        return Err(fault);
    }
    let (length, length_bytes) = varint_bytes(measure.bytes as u32);
    out.reserve(1 + length_bytes + measure.bytes);
    out.put_u8(first_byte(packet));
    out.put_slice(&length[..length_bytes]);
    write_body(packet, version, &mut Writer { out });
    Ok(())
}

/// Returns the size of the encoded packet, fixed header included.
///
/// For a packet that cannot be encoded it is the size it would have.
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> usize {
    let mut measure = Measure::default();
    write_body(packet, version, &mut measure);
    1 + varint_len(u32::try_from(measure.bytes).unwrap_or(u32::MAX)) + measure.bytes
}

#[inline]
fn packet_type(packet: &Packet) -> PacketType {
    match packet {
        Packet::Connect(_) => PacketType::Connect,
        Packet::ConnAck(_) => PacketType::ConnAck,
        Packet::Publish(_) => PacketType::Publish,
        Packet::PubAck(_) => PacketType::PubAck,
        Packet::PubRec(_) => PacketType::PubRec,
        Packet::PubRel(_) => PacketType::PubRel,
        Packet::PubComp(_) => PacketType::PubComp,
        Packet::Subscribe(_) => PacketType::Subscribe,
        Packet::SubAck(_) => PacketType::SubAck,
        Packet::Unsubscribe(_) => PacketType::Unsubscribe,
        Packet::UnsubAck(_) => PacketType::UnsubAck,
        Packet::PingReq => PacketType::PingReq,
        Packet::PingResp => PacketType::PingResp,
        Packet::Disconnect(_) => PacketType::Disconnect,
        Packet::Auth(_) => PacketType::Auth,
    }
}

#[inline]
fn first_byte(packet: &Packet) -> u8 {
    if let Packet::Publish(publish) = packet {
        return publish::first_byte(publish);
    }
    let packet = packet_type(packet);
    (packet as u8) << 4 | packet.flags()
}

#[inline]
fn write_body<S: Sink>(packet: &Packet, version: ProtocolVersion, sink: &mut S) {
    match packet {
        Packet::Publish(packet) => publish::write(packet, version, sink),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack::write(ack, packet_type(packet), version, sink);
        }
        Packet::Connect(packet) => connect::write(packet, sink),
        Packet::ConnAck(packet) => connack::write(packet, version, sink),
        Packet::Subscribe(packet) => subscribe::write(packet, version, sink),
        Packet::SubAck(packet) => suback::write(packet, version, sink),
        Packet::Unsubscribe(packet) => unsubscribe::write(packet, version, sink),
        Packet::UnsubAck(packet) => unsuback::write(packet, version, sink),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(packet) => disconnect::write(packet, version, sink),
        Packet::Auth(packet) => auth::write(packet, version, sink),
    }
}

#[cfg(test)]
mod tests;
