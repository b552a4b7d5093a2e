//! MQTT packets as the load needs them: what it sends most is encoded once and patched, what comes most is read in place.
//!
//! All other packets go through the codec. A load that encoded and decoded each message in full would cost more than the
//! servers that it measures.

use anyhow::{Result, bail, ensure};
use bytes::BytesMut;
use protocol::{Decoder, Packet, PacketId, ProtocolVersion, Publish, QoS};

/// An acknowledgement's packet type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckKind {
    /// PUBACK.
    Ack,
    /// PUBREC.
    Rec,
    /// PUBREL.
    Rel,
    /// PUBCOMP.
    Comp,
}

impl AckKind {
    /// First byte of the packet (MQTT 5.0 section 2.1).
    fn first_byte(self) -> u8 {
        match self {
            Self::Ack => 0x40,
            Self::Rec => 0x50,
            Self::Rel => 0x62,
            Self::Comp => 0x70,
        }
    }
}

/// One packet that came.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    Publish {
        qos: QoS,
        /// 0 at QoS 0.
        packet_id: u16,
        payload: &'a [u8],
    },
    Ack {
        kind: AckKind,
        packet_id: u16,
    },
    Other(Box<Packet>),
}

/// Takes the first packet of what came; says how many bytes it is, `None` while a part is missing.
///
/// # Errors
/// It is no packet that a server may send, or refuses what was published.
pub(crate) fn first<'a>(
    input: &'a [u8],
    version: ProtocolVersion,
    decoder: &mut Decoder,
) -> Result<Option<(usize, Frame<'a>)>> {
    let Some((length, begin)) = variable(input, 1)? else { return Ok(None) };
    let end = begin + length;
    let Some(body) = input.get(begin..end) else { return Ok(None) };
    let is_v5 = version == ProtocolVersion::V5;
    let frame = match input[0] >> 4 {
        3 => publish(input[0], body, is_v5)?,
        4 => ack(AckKind::Ack, body)?,
        5 => ack(AckKind::Rec, body)?,
        6 => ack(AckKind::Rel, body)?,
        7 => ack(AckKind::Comp, body)?,
        _ => match decoder.decode(&mut BytesMut::from(&input[..end]))? {
            Some(packet) => Frame::Other(Box::new(packet)),
            None => bail!("a packet of {end} bytes is not whole"),
        },
    };
    Ok(Some((end, frame)))
}

fn publish(first: u8, body: &[u8], is_v5: bool) -> Result<Frame<'_>> {
    let qos = match (first >> 1) & 3 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        other => bail!("a PUBLISH of QoS {other}"),
    };
    let mut at = 2 + usize::from(number(body, 0)?);
    let packet_id = if qos == QoS::AtMostOnce {
        0
    } else {
        at += 2;
        number(body, at - 2)?
    };
    if is_v5 {
        match variable(body, at)? {
            Some((properties, begin)) => at = begin + properties,
            None => bail!("a PUBLISH without the length of its properties"),
        }
    }
    ensure!(at <= body.len(), "a PUBLISH of {} bytes whose payload begins at {at}", body.len());
    Ok(Frame::Publish { qos, packet_id, payload: &body[at..] })
}

fn ack(kind: AckKind, body: &[u8]) -> Result<Frame<'_>> {
    let reason = body.get(2).copied().unwrap_or(0);
    ensure!(reason < 0x80, "{kind:?} with reason {reason:#x}: a publish was refused");
    Ok(Frame::Ack { kind, packet_id: number(body, 0)? })
}

fn number(body: &[u8], at: usize) -> Result<u16> {
    match body.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => bail!("a packet of {} bytes has no number at {at}", body.len()),
    }
}

/// A variable byte integer (MQTT 5.0 section 1.5.5) and where what follows it begins.
fn variable(input: &[u8], at: usize) -> Result<Option<(usize, usize)>> {
    let mut value = 0;
    for digit in 0..4 {
        let Some(byte) = input.get(at + digit) else { return Ok(None) };
        value |= usize::from(byte & 0x7f) << (7 * digit);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + digit + 1)));
        }
    }
    bail!("a length of more than four bytes")
}

/// Writes an acknowledgement of two bytes: success in both versions.
pub(crate) fn put_ack(kind: AckKind, packet_id: u16, out: &mut Vec<u8>) {
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[kind.first_byte(), 2, high, low]);
}

/// A PUBLISH that is sent again and again, with another packet id and another beginning of its payload each time.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// Encodes the PUBLISH with `payload_bytes` bytes of payload.
    pub(crate) fn new(
        topic: &str,
        qos: QoS,
        retain: bool,
        payload_bytes: usize,
        version: ProtocolVersion,
    ) -> Result<Self> {
        let packet_id = (qos != QoS::AtMostOnce).then_some(PacketId::MIN);
        let payload = vec![b'x'; payload_bytes].into();
        let publish = Publish { qos, retain, topic: topic.into(), packet_id, payload, ..Publish::default() };
        let mut bytes = BytesMut::new();
        protocol::encode(&Packet::Publish(publish), version, &mut bytes)?;
        let body = match variable(&bytes, 1)? {
            Some((_, begin)) => begin,
            None => bail!("an encoded PUBLISH without a length"),
        };
        let packet_id_at = packet_id.map(|_| body + 2 + topic.len());
        Ok(Self { payload_at: bytes.len() - payload_bytes, packet_id_at, bytes: bytes.to_vec() })
    }

    /// Writes it; `stamp` replaces the beginning of the payload.
    pub(crate) fn put(&self, packet_id: u16, stamp: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.packet_id_at {
            out[from + at..from + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        let payload = from + self.payload_at;
        out[payload..payload + stamp.len()].copy_from_slice(stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Role;

    #[test]
    fn what_a_template_writes_is_read_back_by_the_codec_and_by_the_scan() {
        for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let mut out = Vec::new();
                Template::new("a/b", qos, false, 300, version).unwrap().put(0x1234, b"stamp", &mut out);
                let mut decoder = Decoder::new(Role::Broker, Some(version), 4096);
                let Some(Packet::Publish(publish)) = decoder.decode(&mut BytesMut::from(&out[..])).unwrap()
                else {
                    panic!("no PUBLISH");
                };
                assert_eq!((&*publish.topic, publish.qos, publish.payload.len()), ("a/b", qos, 300));
                let mut decoder = Decoder::new(Role::Client, Some(version), 4096);
                let (length, frame) = first(&out, version, &mut decoder).unwrap().unwrap();
                let Frame::Publish { qos: read, packet_id, payload } = frame else { panic!("{frame:?}") };
                let id = publish.packet_id.map_or(0, PacketId::get);
                assert_eq!((length, read, packet_id, payload), (out.len(), qos, id, &publish.payload[..]));
                assert!(payload.starts_with(b"stampx"));
                for cut in 0..out.len() {
                    assert!(first(&out[..cut], version, &mut decoder).unwrap().is_none(), "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut decoder = Decoder::new(Role::Client, Some(ProtocolVersion::V5), 4096);
        assert!(first(&[0x40, 3, 0, 1, 0x97], ProtocolVersion::V5, &mut decoder).is_err());
        let mut out = Vec::new();
        put_ack(AckKind::Comp, 7, &mut out);
        let (length, frame) = first(&out, ProtocolVersion::V5, &mut decoder).unwrap().unwrap();
        assert!(matches!(frame, Frame::Ack { kind: AckKind::Comp, packet_id: 7 }) && length == 4);
    }
}
