//! The bad things, one function each. A deed whose broker must end the connection waits until it does; the others
//! end it themselves, and the broker must get over it.

use std::future::Future;
use std::pin::Pin;

use bytes::BytesMut;
use fastrand::Rng;
use protocol::{
    Ack, Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe, SubscribeFilter,
    SubscribeOptions, encode,
};

use super::attack::Peer;
use super::door_deeds;
use crate::raw_client::{connect_packet, durable_connect, id, message, retained, will};

type Act = for<'a> fn(&'a mut Peer, Rng) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Where a deed is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Door {
    Tcp,
    Tls,
    WebSocket,
    Proxy,
}

/// Names and boxes the deeds.
macro_rules! deeds {
    ($($name:literal: $door:ident $act:path,)+) => {
        /// Every deed with its name.
        pub(super) const DEEDS: &[(&str, Door, Act)] =
            &[ $( ($name, Door::$door, |peer, rng| Box::pin($act(peer, rng))), )+ ];
    };
}

deeds! {
    "random bytes": Tcp random_bytes,
    "half a CONNECT": Tcp half_a_connect,
    "lies about lengths": Tcp length_lies,
    "sends a byte at a time": Tcp slow_sending,
    "random bytes behind a good CONNECT": Tcp garbage_after_connect,
    "a good packet with one byte changed": Tcp one_byte_changed,
    "topics of 64 KB": Tcp giant_topics,
    "filters of 65,535 levels": Tcp deep_filters,
    "10,000 subscriptions": Tcp many_subscriptions,
    "wildcard bombs": Tcp wildcard_bombs,
    "asks for much and reads nothing": Tcp slow_reading,
    "pings and reads nothing": Tcp deaf_pings,
    "packets after DISCONNECT": Tcp after_disconnect,
    "packets that only a broker sends": Tcp broker_packets,
    "QoS 2 without PUBREL": Tcp qos2_flood,
    "retained messages without end": Tcp retained_flood,
    "topic aliases 0, unknown and above the maximum": Tcp aliases,
    "acknowledges what nobody sent": Tcp false_acks,
    "takes sessions over": Tcp takeovers,
    "durable sessions without end": Tcp durable_sessions,
    "large wills": Tcp wills,
    "ill-formed UTF-8": Tcp ill_formed_text,
    "AUTH without method": Tcp auth_unasked,
    "silent over its keep-alive": Tcp silence,
    "speaks HTTP": Tcp http,
    "speaks TLS": Tcp tls,
    "random bytes to a TLS listener": Tls door_deeds::random_bytes,
    "half a ClientHello": Tls door_deeds::half_a_hello,
    "random bytes to a WebSocket listener": WebSocket door_deeds::random_bytes,
    "HTTP requests without end": WebSocket door_deeds::endless_request,
    "HTTP requests that are none": WebSocket door_deeds::bad_requests,
    "bad WebSocket frames": WebSocket door_deeds::bad_frames,
    "WebSocket frames of one byte, and pings": WebSocket door_deeds::tiny_frames,
    "bad PROXY headers": Proxy door_deeds::bad_proxy_headers,
    "random bytes to a PROXY listener": Proxy door_deeds::random_bytes,
}

fn bytes_of(packets: &[Packet], version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    for packet in packets {
        encode(packet, version, &mut out).expect("a packet that can be encoded");
    }
    out
}

pub(super) fn version(rng: &mut Rng) -> ProtocolVersion {
    if rng.bool() { ProtocolVersion::V5 } else { ProtocolVersion::V311 }
}

pub(super) fn connect_bytes(peer: &Peer, version: ProtocolVersion) -> BytesMut {
    let connect = connect_packet(&format!("hostile-{}", peer.number), version);
    bytes_of(&[Packet::Connect(Box::new(connect))], version)
}

/// Connects in order; says whether it was let in.
async fn enter(peer: &mut Peer, connect: Connect) -> bool {
    let version = connect.version;
    peer.send(&bytes_of(&[Packet::Connect(Box::new(connect))], version)).await && peer.answered().await
}

async fn come_in(peer: &mut Peer, version: ProtocolVersion) -> bool {
    let connect = connect_packet(&format!("hostile-{}", peer.number), version);
    enter(peer, connect).await
}

pub(super) fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.u8(..)).collect()
}

async fn random_bytes(peer: &mut Peer, mut rng: Rng) {
    let len = rng.usize(1..5_000);
    peer.send(&random(&mut rng, len)).await;
    peer.until_closed().await;
}

async fn half_a_connect(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    let whole = connect_bytes(peer, version);
    peer.send(&whole[..rng.usize(1..whole.len())]).await;
    peer.until_closed().await;
}

async fn length_lies(peer: &mut Peer, mut rng: Rng) {
    let lies: [&[u8]; 6] = [
        &[0x10, 0xff, 0xff, 0xff, 0x7f],
        &[0x10, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x10, 0x00],
        &[0x10, 0x05, 0x00, 0x04, b'M', b'Q', b'T'],
        &[0x10, 0x0c, 0xff, 0xff, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0],
        &[0x10, 0x0d, 0x00, 0x04, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0xff, 0, 0],
    ];
    peer.send(lies[rng.usize(..lies.len())]).await;
    peer.until_closed().await;
}

async fn slow_sending(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    let whole = connect_bytes(peer, version);
    // The last byte would come after the time for CONNECT.
    for byte in whole.chunks(1) {
        if !peer.send(byte).await {
            return;
        }
        peer.idle(400).await;
    }
    peer.until_closed().await;
}

async fn garbage_after_connect(peer: &mut Peer, mut rng: Rng) {
    if !come_in(peer, version(&mut rng)).await {
        return;
    }
    // Reserved packet types: nothing that could be waited for.
    let mut garbage = random(&mut rng, 500);
    garbage[0] = [0x00, 0x0f, 0x68, 0x80, 0xe3][rng.usize(..5)];
    garbage[1] = 2;
    peer.send(&garbage).await;
    peer.until_closed().await;
}

async fn one_byte_changed(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    let mut bytes = bytes_of(&[Packet::Publish(message("hostile/changed", "x", QoS::AtMostOnce))], version);
    let at = rng.usize(..bytes.len());
    bytes[at] ^= 1 << rng.u32(..8);
    peer.send(&bytes).await;
    // Whatever it is now, the client leaves.
    peer.close().await;
    peer.until_closed().await;
}

async fn giant_topics(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    for _ in 0..4 {
        let mut topic = "t".repeat(65_535);
        topic.replace_range(..4, &format!("{:04}", rng.u32(..10_000)));
        let publish = Publish { packet_id: Some(id(1)), ..message(&topic, "x", QoS::AtLeastOnce) };
        if !peer.send(&bytes_of(&[Packet::Publish(publish)], version)).await || !peer.answered().await {
            return;
        }
    }
    peer.close().await;
}

fn subscribe(filters: Vec<String>) -> Packet {
    let options = SubscribeOptions { qos: QoS::ExactlyOnce, ..SubscribeOptions::default() };
    let filters =
        filters.into_iter().map(|filter| SubscribeFilter { filter: filter.into(), options }).collect();
    Packet::Subscribe(Subscribe {
        packet_id: id(9),
        subscription_identifier: None,
        user_properties: vec![],
        filters,
    })
}

async fn deep_filters(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    let deep = ["/".repeat(65_535), "+/".repeat(32_767) + "#", "a/".repeat(32_767)][rng.usize(..3)].clone();
    let topic = message(&"/".repeat(65_535), "x", QoS::AtMostOnce);
    if peer.send(&bytes_of(&[subscribe(vec![deep]), Packet::Publish(topic)], version)).await {
        peer.answered().await;
    }
    peer.close().await;
}

async fn many_subscriptions(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    let number = peer.number;
    for part in 0..10 {
        let filters = (0..1_000).map(|i| format!("hostile/{number}/{part}/{i}/+/#")).collect();
        if !peer.send(&bytes_of(&[subscribe(filters)], version)).await || !peer.answered().await {
            return;
        }
    }
    peer.close().await;
}

async fn wildcard_bombs(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    // Every way to match the same topic: with "+" or the level's name at each of nine places.
    let levels = 9;
    let filter = |bits: u32| {
        let level = |at: u32| if bits >> at & 1 == 1 { "+" } else { "b" };
        (0..levels).map(level).collect::<Vec<_>>().join("/")
    };
    let filters = (0..1 << levels).map(filter).collect();
    let topic = vec!["b"; levels as usize].join("/");
    let bomb = Packet::Publish(message(&topic, [7; 100], QoS::AtMostOnce));
    let mut bytes = bytes_of(&[subscribe(filters)], version);
    (0..5).for_each(|_| bytes.extend_from_slice(&bytes_of(std::slice::from_ref(&bomb), version)));
    if peer.send(&bytes).await {
        peer.answered().await;
    }
    peer.close().await;
}

async fn slow_reading(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    let topic = format!("hostile/{}", peer.number);
    let mut bytes = bytes_of(&[subscribe(vec![topic.clone()])], version);
    for packet_id in 1..=20 {
        let publish = message(&topic, vec![7; 60_000], [QoS::AtMostOnce, QoS::AtLeastOnce][rng.usize(..2)]);
        let packet_id = (publish.qos > QoS::AtMostOnce).then(|| id(packet_id));
        bytes.extend_from_slice(&bytes_of(&[Packet::Publish(Publish { packet_id, ..publish })], version));
    }
    peer.send_deaf(&bytes).await;
    peer.idle(rng.u64(..1_000)).await;
}

async fn deaf_pings(peer: &mut Peer, mut rng: Rng) {
    if !come_in(peer, version(&mut rng)).await {
        return;
    }
    let pings = [0xc0, 0x00].repeat(100_000);
    peer.send_deaf(&pings).await;
    peer.idle(rng.u64(..200)).await;
}

async fn after_disconnect(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    let mut bytes = vec![0xe0, 0x00];
    let publish = Packet::Publish(message("hostile/after", "x", QoS::AtMostOnce));
    (0..200).for_each(|_| bytes.extend_from_slice(&bytes_of(std::slice::from_ref(&publish), version)));
    peer.send(&bytes).await;
    peer.until_closed().await;
}

async fn broker_packets(peer: &mut Peer, mut rng: Rng) {
    if !come_in(peer, version(&mut rng)).await {
        return;
    }
    let packets: [&[u8]; 4] =
        [&[0x20, 0x02, 0, 0], &[0x90, 0x03, 0, 1, 0], &[0xb0, 0x02, 0, 1], &[0xd0, 0x00]];
    peer.send(packets[rng.usize(..packets.len())]).await;
    peer.until_closed().await;
}

async fn qos2_flood(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    let mut bytes = BytesMut::new();
    for packet_id in 1..=2_000 {
        let publish = message("hostile/qos2", [7; 50], QoS::ExactlyOnce);
        let publish = Publish { packet_id: Some(id(packet_id)), ..publish };
        bytes.extend_from_slice(&bytes_of(&[Packet::Publish(publish)], version));
    }
    // 5.0 is disconnected at its Receive Maximum; 3.1.1 knows none.
    if peer.send(&bytes).await && version == ProtocolVersion::V5 {
        peer.until_closed().await;
    }
    peer.close().await;
}

async fn retained_flood(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    let mut bytes = BytesMut::new();
    for _ in 0..50 {
        let publish = retained(&format!("hostile/retained/{}", rng.u64(..)), [7; 500], QoS::AtMostOnce);
        bytes.extend_from_slice(&bytes_of(&[Packet::Publish(publish)], version));
    }
    peer.send(&bytes).await;
    peer.close().await;
}

async fn aliases(peer: &mut Peer, mut rng: Rng) {
    if !come_in(peer, ProtocolVersion::V5).await {
        return;
    }
    let of = |alias: u16, topic: &str| {
        let mut bytes = vec![0x30, 0, 0, topic.len() as u8];
        bytes.extend_from_slice(topic.as_bytes());
        bytes.extend_from_slice(&[3, 0x23, (alias >> 8) as u8, alias as u8]);
        bytes[1] = (bytes.len() - 2) as u8;
        bytes
    };
    let wrong = [of(0, "a"), of(65_535, "a"), of(3, ""), of(0, "")];
    peer.send(&wrong[rng.usize(..wrong.len())]).await;
    peer.until_closed().await;
}

async fn false_acks(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    if !come_in(peer, version).await {
        return;
    }
    let mut bytes = BytesMut::new();
    for packet_id in 1..=500 {
        let ack = Ack::new(id(packet_id), ReasonCode::Success);
        let packet = match rng.u8(..4) {
            0 => Packet::PubAck(ack),
            1 => Packet::PubRec(ack),
            2 => Packet::PubRel(ack),
            _ => Packet::PubComp(ack),
        };
        bytes.extend_from_slice(&bytes_of(&[packet], version));
    }
    if peer.send(&bytes).await {
        peer.answered().await;
    }
    peer.close().await;
}

async fn takeovers(peer: &mut Peer, mut rng: Rng) {
    let connect = durable_connect(&format!("hostile-twin-{}", rng.u8(..4)), version(&mut rng));
    if enter(peer, connect).await {
        peer.idle(rng.u64(..300)).await;
    }
    peer.close().await;
}

async fn durable_sessions(peer: &mut Peer, mut rng: Rng) {
    let version = version(&mut rng);
    let connect = durable_connect(&format!("hostile-durable-{}", peer.number), version);
    if enter(peer, connect).await
        && peer.send(&bytes_of(&[subscribe(vec!["hostile/#".into()])], version)).await
    {
        peer.answered().await;
    }
    peer.close().await;
}

async fn wills(peer: &mut Peer, mut rng: Rng) {
    let mut connect = connect_packet(&format!("hostile-{}", peer.number), version(&mut rng));
    let mut will = will(&format!("hostile/will/{}", peer.number), &"w".repeat(60_000));
    will.retain = true;
    connect.will = Some(will);
    enter(peer, connect).await;
    peer.close().await;
}

async fn ill_formed_text(peer: &mut Peer, mut rng: Rng) {
    if !come_in(peer, ProtocolVersion::V5).await {
        return;
    }
    let texts: [&[u8]; 5] =
        [b"a\0", &[0xc3, 0x28], &[0xed, 0xa0, 0x80], &[0xff, 0xfe], &[0xf8, 0x88, 0x80, 0x80]];
    let text = texts[rng.usize(..texts.len())];
    let len = text.len() as u8;
    let mut bytes = vec![0x30, len + 3, 0, len];
    bytes.extend_from_slice(text);
    bytes.push(0);
    peer.send(&bytes).await;
    peer.until_closed().await;
}

async fn auth_unasked(peer: &mut Peer, _rng: Rng) {
    if come_in(peer, ProtocolVersion::V5).await {
        peer.send(&[0xf0, 0x02, 0x18, 0x00]).await;
        peer.until_closed().await;
    }
}

async fn silence(peer: &mut Peer, mut rng: Rng) {
    let mut connect = connect_packet(&format!("hostile-{}", peer.number), version(&mut rng));
    connect.keep_alive_s = 1;
    if enter(peer, connect).await {
        peer.until_closed().await;
    }
}

async fn http(peer: &mut Peer, _rng: Rng) {
    peer.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    peer.until_closed().await;
}

async fn tls(peer: &mut Peer, mut rng: Rng) {
    let mut hello = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    hello.extend(random(&mut rng, 506));
    peer.send(&hello).await;
    peer.until_closed().await;
}
