//! One publisher, many subscribers: what slices share is written to everybody when the publisher falls silent.

use protocol::{Packet, ProtocolVersion, QoS};

use crate::broker_process::Broker;
use crate::raw_client::{RawClient, message};

/// Writing to so many takes longer than a slice.
const SUBSCRIBERS: usize = 150;

/// So many messages take several slices.
const BURST: usize = 40;

const BURSTS: usize = 25;

#[test]
fn each_burst_reaches_every_subscriber_though_nothing_follows_it() {
    let broker = Broker::start();
    let mut readers: Vec<RawClient> = (0..SUBSCRIBERS)
        .map(|i| {
            let mut reader = broker.client(&format!("reader-{i}"), ProtocolVersion::V311);
            reader.subscribe("fan", QoS::AtMostOnce);
            reader
        })
        .collect();
    let mut writer = broker.client("writer", ProtocolVersion::V311);
    for burst in 0..BURSTS {
        let payloads: Vec<_> = (0..BURST).map(|i| format!("{burst} {i}")).collect();
        let mut bytes = bytes::BytesMut::new();
        for payload in &payloads {
            let packet = Packet::Publish(message("fan", payload, QoS::AtMostOnce));
            protocol::encode(&packet, ProtocolVersion::V311, &mut bytes)
                .expect("a packet that can be encoded");
        }
        writer.send_bytes(&bytes);
        for reader in &mut readers {
            for payload in &payloads {
                reader.expect_message("fan", payload);
            }
        }
    }
}
