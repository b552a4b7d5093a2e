//! The records of the queue's log.
//!
//! The first byte is the kind, which is also its version:
//! - 1, an entry: an MQTT 5 PUBLISH packet with packet identifier 1, exactly as on the wire.
//! - 2, acknowledgements: little-endian `u64`s, first the watermark (every entry up to it is done with), then entries
//!   above it that are done with too.

use bytes::{Bytes, BytesMut};
use protocol::{Decoder, EncodeError, Packet, PacketId, ProtocolVersion, Publish, Role, encode};

const ENTRY: u8 = 1;
const ACKS: u8 = 2;
/// Largest record that is read back; nothing larger is written.
pub(super) const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Entry(Publish),
    Acks { watermark: u64, above: Vec<u64> },
}

pub(super) fn encode_entry(publish: &Publish) -> Result<Bytes, EncodeError> {
    let mut bytes = BytesMut::with_capacity(publish.payload.len() + 128);
    bytes.extend_from_slice(&[ENTRY]);
    let packet_id = Some(PacketId::MIN);
    encode(&Packet::Publish(Publish { packet_id, ..publish.clone() }), ProtocolVersion::V5, &mut bytes)?;
    Ok(bytes.freeze())
}

pub(super) fn encode_acks(watermark: u64, above: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut bytes = vec![ACKS];
    for number in std::iter::once(watermark).chain(above) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// Reads a record back; the error says what is wrong with it.
pub(super) fn decode(bytes: &Bytes) -> Result<Record, String> {
    match bytes.split_first() {
        Some((&ENTRY, _)) => {
            let mut rest = BytesMut::from(&bytes[1..]);
            let limit = u32::try_from(RECORD_BYTES_MAX).expect("16 MiB fit");
            match Decoder::new(Role::Broker, Some(ProtocolVersion::V5), limit).decode(&mut rest) {
                Ok(Some(Packet::Publish(publish))) if rest.is_empty() => {
                    Ok(Record::Entry(Publish { packet_id: None, ..publish }))
                }
                Ok(_) => Err(format!("an entry of {} bytes is not one whole PUBLISH", bytes.len())),
                Err(error) => Err(format!("an entry of {} bytes: {error}", bytes.len())),
            }
        }
        Some((&ACKS, rest)) if !rest.is_empty() && rest.len() % 8 == 0 => {
            let mut numbers = rest
                .chunks_exact(8)
                .map(|chunk| u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
            let watermark = numbers.next().expect("not empty");
            Ok(Record::Acks { watermark, above: numbers.collect() })
        }
        Some((kind, _)) => Err(format!("a record of {} bytes has the unknown kind {kind}", bytes.len())),
        None => Err("a record is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::QoS;

    use super::*;
    use crate::Message;

    fn entry() -> Publish {
        Message::new("dev/7/telemetry/gps", "{}")
            .qos(QoS::AtLeastOnce)
            .user_property("im-id", "a1")
            .into_publish()
    }

    #[test]
    fn records_on_disk_keep_their_form() {
        // Written by version 1 of the format; every later version must read it.
        let golden = b"\x01\x32\x26\x00\x13dev/7/telemetry/gps\x00\x01\x0c\x26\x00\x05im-id\x00\x02a1{}";
        assert_eq!(encode_entry(&entry()).unwrap(), golden[..]);
        assert_eq!(decode(&Bytes::from_static(golden)), Ok(Record::Entry(entry())));
        let golden = b"\x02\x05\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0";
        assert_eq!(encode_acks(5, [7].into_iter()), golden);
        assert_eq!(decode(&Bytes::from_static(golden)), Ok(Record::Acks { watermark: 5, above: vec![7] }));
    }

    #[test]
    fn foreign_records_are_refused_with_what_is_wrong() {
        let cases: [(&'static [u8], &str); 5] = [
            (b"", "empty"),
            (b"\x09", "unknown kind 9"),
            (b"\x02\0\0", "unknown kind 2"),
            (b"\x01\x32", "not one whole PUBLISH"),
            (b"\x01\xc0\x00", "not one whole PUBLISH"),
        ];
        for (bytes, expected) in cases {
            let error = decode(&Bytes::from_static(bytes)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
