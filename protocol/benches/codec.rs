//! Nanoseconds for one packet: `cargo bench -p postrider-protocol`.
//!
//! Each case runs in rounds and the fastest round counts: what is slower was disturbed.

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postrider_protocol::{
    Ack, ByteString, Decoder, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode,
    Role, encode, encoded_len, filter_matches,
};

const ROUNDS: usize = 50;
const PACKETS: usize = 2_000;

fn main() {
    let id = PacketId::MAX;
    let publish = |properties, payload_bytes| {
        Packet::Publish(Publish {
            qos: QoS::AtLeastOnce,
            topic: ByteString::from_static("dev/truck-7/telemetry/gps"),
            packet_id: Some(id),
            payload: Bytes::from(vec![b'x'; payload_bytes]),
            properties,
            ..Publish::default()
        })
    };
    let im = PublishProperties {
        user_properties: [("im-seq", "12345"), ("im-from", "truck-7"), ("im-ts", "1795226400000")]
            .map(|(name, value)| (ByteString::from_static(name), ByteString::from_static(value)))
            .into(),
        ..PublishProperties::default()
    };
    for (name, version, packet) in [
        ("publish qos 1, 100 bytes, 3.1.1", ProtocolVersion::V311, publish(PublishProperties::default(), 69)),
        ("publish qos 1, 100 bytes, 5.0", ProtocolVersion::V5, publish(PublishProperties::default(), 68)),
        ("publish qos 1 with im properties", ProtocolVersion::V5, publish(im, 68)),
        ("puback", ProtocolVersion::V5, Packet::PubAck(Ack::new(id, ReasonCode::Success))),
    ] {
        println!("{name}: {} bytes", encoded_len(&packet, version));
        println!("  encode {:6.1} ns", encoding(&packet, version));
        println!("  decode {:6.1} ns", decoding(&packet, version));
    }
    let matched = fastest(|| {
        for _ in 0..PACKETS {
            let (filter, topic) = black_box(("dev/+/telemetry/#", "dev/truck-7/telemetry/gps"));
            black_box(filter_matches(filter, topic));
        }
    });
    println!("filter match: {matched:6.1} ns");
}

/// Encodes behind each other into one buffer, as a connection's output is.
fn encoding(packet: &Packet, version: ProtocolVersion) -> f64 {
    let mut out = BytesMut::with_capacity(PACKETS * 256);
    fastest(|| {
        out.clear();
        for _ in 0..PACKETS {
            encode(black_box(packet), version, &mut out).expect("the packet is valid");
        }
        black_box(&out);
    })
}

/// Decodes from one buffer that many packets came in, as a read from a busy socket leaves it.
fn decoding(packet: &Packet, version: ProtocolVersion) -> f64 {
    let mut input = BytesMut::new();
    for _ in 0..PACKETS {
        encode(packet, version, &mut input).expect("the packet is valid");
    }
    let mut buffers = vec![input; ROUNDS].into_iter();
    fastest(|| {
        let mut decoder = Decoder::new(Role::Client, Some(version), 1 << 20);
        let mut buffer = buffers.next().expect("one buffer a round");
        while let Some(packet) = decoder.decode(&mut buffer).expect("the packets are valid") {
            black_box(packet);
        }
    })
}

/// Returns nanoseconds a packet of the fastest round.
fn fastest(mut round: impl FnMut()) -> f64 {
    let round_ns = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed().as_nanos()
    });
    round_ns.min().expect("there is a round") as f64 / PACKETS as f64
}
