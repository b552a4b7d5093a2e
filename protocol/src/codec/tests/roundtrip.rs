//! Properties of the codec that hold for all packets and all bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::{encode, encode_any};
use super::strategies::{packet, role, version};
use super::*;
use crate::{Publish, QoS};

fn any_packet() -> impl Strategy<Value = (ProtocolVersion, Role, Packet)> {
    (version(), role())
        .prop_flat_map(|(version, role)| packet(version, role).prop_map(move |p| (version, role, p)))
}

/// What one side sends in a connection: CONNECT first when the broker decodes.
fn any_stream() -> impl Strategy<Value = (ProtocolVersion, Role, Vec<Packet>)> {
    (version(), role()).prop_flat_map(|(version, role)| {
        let is_connect = |p: &Packet| matches!(p, Packet::Connect(_));
        let later = packet(version, role).prop_filter("no second CONNECT", move |p| !is_connect(p));
        vec(later, 1..6).prop_map(move |packets| (version, role, packets))
    })
}

fn encoded(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    out
}

/// A decoder that is where this packet may come.
fn decoder_for(packet: &Packet, version: ProtocolVersion, role: Role) -> Decoder {
    Decoder::new(role, Some(version).filter(|_| !matches!(packet, Packet::Connect(_))), LIMIT)
}

/// Feeds the parts one after the other; what came out, and the error that ended it.
fn decode_parts<'a>(
    mut decoder: Decoder,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Packet>, Option<DecodeError>) {
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

/// Cuts the bytes at these places.
fn cut<'a>(bytes: &'a [u8], places: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Checks that decoding in these parts gives the same as decoding at once, and that what came out can be
/// encoded and decodes to itself.
fn check_any_bytes(
    decoder: &Decoder,
    version: ProtocolVersion,
    role: Role,
    bytes: &[u8],
    places: &[Index],
) -> Result<(), TestCaseError> {
    let whole = decode_parts(decoder.clone(), [bytes]);
    let in_parts = decode_parts(decoder.clone(), cut(bytes, places));
    prop_assert_eq!(&whole, &in_parts);
    for packet in whole.0 {
        let version = match &packet {
            Packet::Connect(connect) => connect.version,
            _ => version,
        };
        let mut again = encoded(&packet, version);
        prop_assert_eq!(decoder_for(&packet, version, role).decode(&mut again), Ok(Some(packet)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn what_is_encoded_decodes_to_the_same_packet((version, role, packet) in any_packet()) {
        let mut bytes = encoded(&packet, version);
        let mut decoder = decoder_for(&packet, version, role);
        prop_assert_eq!(decoder.decode(&mut bytes), Ok(Some(packet)));
        prop_assert!(bytes.is_empty());
        prop_assert_eq!(decoder.version(), Some(version));
        prop_assert_eq!(decoder.decode(&mut bytes), Ok(None));
    }

    #[test]
    fn the_size_is_known_before_encoding((version, _, packet) in any_packet()) {
        prop_assert_eq!(encoded_len(&packet, version), encoded(&packet, version).len());
    }

    #[test]
    fn the_short_way_of_plain_packets_writes_and_refuses_the_same(
        (version, _, packet) in any_packet(),
        other in version(),
        topic in prop_oneof!["[a-z/]{0,12}", Just("a/+".to_owned()), Just("a\0".to_owned()), Just("t".repeat(65_536))],
        (dup, qos) in (any::<bool>(), 0..3_u8),
    ) {
        let mut packets = vec![packet];
        if let Packet::Publish(publish) = &packets[0] {
            // Also what may not be written.
            let qos = QoS::from_u8(qos).unwrap();
            packets.push(Packet::Publish(Publish { dup, qos, topic: topic.into(), ..publish.clone() }));
        }
        for (packet, version) in packets.iter().flat_map(|packet| [(packet, version), (packet, other)]) {
            let (mut short, mut whole) = (BytesMut::new(), BytesMut::new());
            prop_assert_eq!(encode(packet, version, &mut short), encode_any(packet, version, &mut whole));
            prop_assert_eq!(short, whole);
        }
    }

    #[test]
    fn packets_cut_at_any_byte_decode_the_same(
        (version, role, packets) in any_stream(),
        places in vec(any::<Index>(), 0..8),
    ) {
        let mut bytes = BytesMut::new();
        for packet in &packets {
            encode(packet, version, &mut bytes).unwrap();
        }
        let decoder = Decoder::new(role, Some(version), LIMIT);
        prop_assert_eq!(decode_parts(decoder.clone(), cut(&bytes, &places)), (packets.clone(), None));
        // The worst network: one byte at a time.
        prop_assume!(bytes.len() < 1024);
        prop_assert_eq!(decode_parts(decoder, bytes.chunks(1)), (packets, None));
    }

    #[test]
    fn a_cut_packet_is_waited_for((version, role, packet) in any_packet(), place in any::<Index>()) {
        let bytes = encoded(&packet, version);
        let mut part = BytesMut::from(&bytes[..place.index(bytes.len())]);
        let before = part.clone();
        prop_assert_eq!(decoder_for(&packet, version, role).decode(&mut part), Ok(None));
        prop_assert_eq!(part, before);
    }

    #[test]
    fn a_packet_one_byte_over_the_limit_is_refused((version, role, packet) in any_packet()) {
        let mut bytes = encoded(&packet, version);
        let limit = bytes.len() as u32 - 1;
        let at = Some(version).filter(|_| !matches!(packet, Packet::Connect(_)));
        let expected = DecodeError::PacketTooLarge { bytes: bytes.len() as u64, limit };
        prop_assert_eq!(Decoder::new(role, at, limit).decode(&mut bytes), Err(expected));
    }

    #[test]
    fn any_bytes_decode_the_same_in_any_parts_and_never_panic(
        version in version(),
        role in role(),
        bytes in vec(any::<u8>(), 0..64),
        places in vec(any::<Index>(), 0..4),
    ) {
        check_any_bytes(&Decoder::new(role, Some(version), LIMIT), version, role, &bytes, &places)?;
    }

    #[test]
    fn a_damaged_packet_decodes_the_same_in_any_parts_and_never_panics(
        (version, role, packet) in any_packet(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
        places in vec(any::<Index>(), 0..4),
    ) {
        let decoder = decoder_for(&packet, version, role);
        let mut bytes = encoded(&packet, version);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        check_any_bytes(&decoder, version, role, &bytes, &places)?;
    }

    #[test]
    fn a_packet_with_a_byte_more_or_less_decodes_the_same_in_any_parts_and_never_panics(
        (version, role, packet) in any_packet(),
        (place, insert, byte) in (any::<Index>(), any::<bool>(), any::<u8>()),
        places in vec(any::<Index>(), 0..4),
    ) {
        let decoder = decoder_for(&packet, version, role);
        let encoded = encoded(&packet, version);
        // Behind a remaining length of one byte, which is kept true.
        prop_assume!((3..120).contains(&encoded.len()));
        let mut bytes = encoded.to_vec();
        let place = 2 + place.index(bytes.len() - 2);
        if insert {
            bytes.insert(place, byte);
        } else {
            bytes.remove(place);
        }
        bytes[1] = (bytes.len() - 2) as u8;
        check_any_bytes(&decoder, version, role, &bytes, &places)?;
    }
}
