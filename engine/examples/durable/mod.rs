//! What a client with a durable session sends, shared by examples.

use engine::{ConnId, Input, Principal};
use protocol::{
    Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, QoS, Subscribe, SubscribeFilter,
    SubscribeOptions,
};

/// The CONNECT of `client-N`, whose session outlives its connection by an hour.
pub(crate) fn connect(n: u64) -> Input {
    let properties =
        ConnectProperties { session_expiry_interval_s: Some(3600), ..ConnectProperties::default() };
    let connect = Box::new(Connect {
        version: ProtocolVersion::V5,
        clean_start: false,
        keep_alive_s: 0,
        client_id: format!("client-{n}").into(),
        will: None,
        username: None,
        password: None,
        properties,
    });
    let principal = Box::<Principal>::default();
    Input::Connect { conn: ConnId(n), connect, principal, authentication: None }
}

/// Its SUBSCRIBE for the topics of its queue, at QoS 1.
pub(crate) fn subscribe(n: u64) -> Packet {
    let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
    let filters = vec![SubscribeFilter { filter: format!("q/{n}/#").into(), options }];
    let (packet_id, user_properties) = (PacketId::MIN, Vec::new());
    Packet::Subscribe(Subscribe { packet_id, subscription_identifier: None, user_properties, filters })
}
