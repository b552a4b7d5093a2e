//! What one packet costs: `cargo run --release -p postrider-protocol --example codec` prints nanoseconds, the fastest
//! round of many (what is slower was disturbed).
//!
//! `codec CASE N` does one case N times and prints nothing: run twice under `valgrind --tool=callgrind`, the difference
//! is that many times the instructions of one (`scripts/instructions`).

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postrider_protocol::{
    Ack, ByteString, Decoder, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode,
    Role, encode, encoded_len, filter_matches,
};

const ROUNDS: usize = 50;
const PACKETS: usize = 2_000;

/// A packet that brokers send or take often.
struct Case {
    name: &'static str,
    version: ProtocolVersion,
    packet: Packet,
}

fn cases() -> [Case; 4] {
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
    let case = |name, version, packet| Case { name, version, packet };
    [
        case("publish-v3", ProtocolVersion::V311, publish(Default::default(), 69)),
        case("publish-v5", ProtocolVersion::V5, publish(Default::default(), 68)),
        case("publish-im", ProtocolVersion::V5, publish(im.into(), 68)),
        case("puback-v5", ProtocolVersion::V5, Packet::PubAck(Ack::new(id, ReasonCode::Success))),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => print_times(),
        [case, count] => {
            let count = count.parse().expect("the second argument is how often");
            only(case, count);
        }
        _ => panic!("give nothing, or a case and how often, as in `codec publish-v3-decode 10000`"),
    }
}

/// Does one case that often.
fn only(wanted: &str, count: usize) {
    if wanted == "filter-match" {
        return match_filter(count);
    }
    for Case { name, version, packet } in cases() {
        let mut out = BytesMut::new();
        match wanted.strip_prefix(name) {
            Some("-encode") => {
                for _ in 0..count {
                    out.clear();
                    encode(black_box(&packet), version, &mut out).expect("the packet is valid");
                }
                black_box(&out);
                return;
            }
            Some("-decode") => {
                encode(&packet, version, &mut out).expect("the packet is valid");
                let bytes = out.freeze();
                let mut decoder = Decoder::new(Role::Client, Some(version), 1 << 20);
                for _ in 0..count {
                    let mut input = BytesMut::from(&bytes[..]);
                    black_box(decoder.decode(&mut input).expect("the packet is valid"));
                }
                return;
            }
            _ => {}
        }
    }
    panic!("no case is named {wanted:?}");
}

fn print_times() {
    for Case { name, version, packet } in cases() {
        println!("{name}: {} bytes", encoded_len(&packet, version));
        println!("  encode {:6.1} ns", encoding(&packet, version));
        println!("  decode {:6.1} ns", decoding(&packet, version));
    }
    println!("filter match: {:6.1} ns", fastest(|| match_filter(PACKETS)));
}

fn match_filter(count: usize) {
    for _ in 0..count {
        let (filter, topic) = black_box(("dev/+/telemetry/#", "dev/truck-7/telemetry/gps"));
        black_box(filter_matches(filter, topic));
    }
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
