//! Properties of the codec that hold for all packets and all bytes.

use bytes::BytesMut;
use proptest::prelude::*;

use super::strategies::{packet, role, version};
use crate::*;

const LIMIT: u32 = 1 << 20;

fn any_packet() -> impl Strategy<Value = (ProtocolVersion, Role, Packet)> {
    (version(), role())
        .prop_flat_map(|(version, role)| packet(version, role).prop_map(move |p| (version, role, p)))
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
}
