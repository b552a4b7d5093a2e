//! Arbitrary bytes in arbitrary cuts, to decoders of both roles and versions.
//!
//! The first input byte picks the decoder, the second how many cuts there are, the next ones where; the
//! rest goes to the decoder. Panics when a decoder does, when cuts change what is decoded, or when what
//! is decoded does not encode back to a packet that decodes to itself.

use bytes::BytesMut;
use protocol::{
    DecodeError, Decoder, Packet, ProtocolVersion, Role, TopicFilter, encode, encoded_len, filter_matches,
};

use super::source::Source;

const PACKET_BYTES_MAX: u32 = 1 << 16;
const CUTS_MAX: usize = 7;

pub(crate) fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let (role, version) = match source.below(5) {
        0 => (Role::Broker, None),
        1 => (Role::Broker, Some(ProtocolVersion::V311)),
        2 => (Role::Broker, Some(ProtocolVersion::V5)),
        3 => (Role::Client, Some(ProtocolVersion::V311)),
        _ => (Role::Client, Some(ProtocolVersion::V5)),
    };
    let cuts = source.bytes(CUTS_MAX);
    let stream = source.rest();
    let whole = decode(role, version, &[stream]);
    let in_parts = decode(role, version, &parts(stream, cuts));
    assert_eq!(whole, in_parts, "cuts change what is decoded");

    let mut version = version;
    for packet in whole.0 {
        if let Packet::Connect(connect) = &packet {
            version = Some(connect.version);
        }
        check_encodes_back(&packet, role, version.expect("the first packet is CONNECT"));
        try_filters(&packet);
    }
}

/// Cuts the stream at places given in 255ths of its length.
pub(crate) fn parts<'a>(stream: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|&cut| stream.len() * usize::from(cut) / 255).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

fn decode(
    role: Role,
    version: Option<ProtocolVersion>,
    parts: &[&[u8]],
) -> (Vec<Packet>, Option<DecodeError>) {
    let mut decoder = Decoder::new(role, version, PACKET_BYTES_MAX);
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

fn check_encodes_back(packet: &Packet, role: Role, version: ProtocolVersion) {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes).expect("what was decoded can be encoded");
    assert_eq!(bytes.len(), encoded_len(packet, version));
    let at = Some(version).filter(|_| !matches!(packet, Packet::Connect(_)));
    let again = Decoder::new(role, at, u32::MAX).decode(&mut bytes);
    assert_eq!(again.as_ref(), Ok(&Some(packet.clone())));
    assert!(bytes.is_empty());
}

fn try_filters(packet: &Packet) {
    if let Packet::Subscribe(subscribe) = packet {
        for filter in
            subscribe.filters.iter().filter_map(|filter| TopicFilter::parse(filter.filter.clone()).ok())
        {
            filter_matches(&filter.filter, "dev/truck-7/telemetry/gps");
            filter_matches(&filter.filter, "$im/receipts");
        }
    }
}
