//! Tests of the codec: tables of bytes with the standards' statements, and properties of all packets.

mod connack;
mod connect;
mod disconnect;
mod encode;
mod header;
mod properties;
mod publish;
mod roundtrip;
mod strategies;
mod subscribe;

use bytes::BytesMut;

use super::*;

const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;
const LIMIT: u32 = 1 << 20;

/// Puts a fixed header before the body.
fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let (length, length_bytes) = varint_bytes(body.len() as u32);
    [&[first], &length[..length_bytes], body].concat()
}

/// Decodes one packet, on a connection that is open in `version`, or new without.
fn decode(
    role: Role,
    version: impl Into<Option<ProtocolVersion>>,
    bytes: &[u8],
) -> Result<Option<Packet>, DecodeError> {
    let mut buffer = BytesMut::from(bytes);
    let packet = Decoder::new(role, version.into(), LIMIT).decode(&mut buffer);
    if matches!(packet, Ok(Some(_))) {
        assert!(buffer.is_empty(), "{bytes:02x?} left {buffer:02x?}");
    }
    packet
}

/// Checks that the bytes are this packet, and that this packet is encoded as these bytes.
#[track_caller]
fn check(role: Role, version: ProtocolVersion, bytes: &[u8], expected: &Packet) {
    let at = if matches!(expected, Packet::Connect(_)) { None } else { Some(version) };
    assert_eq!(decode(role, at, bytes).as_ref(), Ok(&Some(expected.clone())), "{bytes:02x?}");
    let mut out = BytesMut::new();
    assert_eq!(super::encode(expected, version, &mut out), Ok(()));
    assert_eq!(&out[..], bytes, "{expected:?}");
}

/// Checks that the bytes are refused with this message.
#[track_caller]
fn check_refused(
    role: Role,
    version: impl Into<Option<ProtocolVersion>>,
    statement: &str,
    bytes: &[u8],
    message: &str,
) {
    match decode(role, version, bytes) {
        Err(error) => assert_eq!(error.to_string(), message, "{statement}: {bytes:02x?}"),
        Ok(packet) => panic!("{statement}: {bytes:02x?} was taken as {packet:?}"),
    }
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}
