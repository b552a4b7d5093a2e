//! Single rules of the core, each a short script.

use std::num::{NonZeroU16, NonZeroU32};

use device_sdk::client::{Core, FILTERS_MAX, Input, Output, REQUESTS_MAX, WAITING_MAX};
use device_sdk::{AckToken, ProtocolVersion, PublishError, QoS, ReasonCode, RetainHandling};
use protocol::{
    Ack, AckProperties, ConnAck, ConnAckProperties, Connect, Disconnect, DisconnectProperties, Packet,
    PacketId, Publish, SubAck, SubscribeFilter, SubscribeOptions,
};

use super::core_sim::config;
use super::model::{connack, numbered};

/// A core and what it put out.
struct Script {
    core: Core,
    out: Vec<Output>,
}

impl Script {
    fn new(version: ProtocolVersion) -> Self {
        Self { core: Core::new(config(version, false)), out: Vec::new() }
    }

    fn manual_ack() -> Self {
        Self { core: Core::new(config(ProtocolVersion::V5, true)), out: Vec::new() }
    }

    /// Gives an input and returns the packets sent.
    fn at(&mut self, now_ms: u64, input: Input) -> Vec<Packet> {
        self.out.clear();
        self.core.handle_input(now_ms, input);
        self.out.extend(std::iter::from_fn(|| self.core.poll_output()));
        self.out
            .iter()
            .filter_map(|out| if let Output::Send(packet) = out { Some(packet.clone()) } else { None })
            .collect()
    }

    fn connect(&mut self, session_present: bool, properties: ConnAckProperties) -> Vec<Packet> {
        self.at(0, Input::Opened);
        self.at(0, Input::Received(connack(session_present, properties)))
    }

    fn up(version: ProtocolVersion) -> Self {
        let mut script = Self::new(version);
        script.connect(false, ConnAckProperties::default());
        script
    }

    fn publish(&mut self, token: u64, publish: Publish) -> Vec<Packet> {
        self.at(0, Input::Publish { token, publish })
    }

    fn receive(&mut self, packet: Packet) -> Vec<Packet> {
        self.at(0, Input::Received(packet))
    }

    fn reconnect(&mut self, session_present: bool) -> Vec<Packet> {
        self.at(0, Input::Closed { why: "cut".to_owned() });
        self.connect(session_present, ConnAckProperties::default())
    }

    fn closed_why(&self) -> Option<&str> {
        self.out
            .iter()
            .find_map(|out| if let Output::Close { why } = out { Some(why.as_str()) } else { None })
    }

    fn result(&self) -> Option<&Result<device_sdk::Published, PublishError>> {
        self.out
            .iter()
            .find_map(|out| if let Output::Published { result, .. } = out { Some(result) } else { None })
    }

    fn subscribe(&mut self, token: u64, filters: &[&str]) -> Vec<Packet> {
        let filters = filters
            .iter()
            .map(|filter| SubscribeFilter { filter: (*filter).into(), options: SubscribeOptions::default() })
            .collect();
        self.at(0, Input::Subscribe { token, filters, user_properties: Vec::new() })
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn inbound(packet_id: u16, qos: QoS, dup: bool) -> Packet {
    Packet::Publish(Publish { packet_id: Some(id(packet_id)), dup, ..numbered(u32::from(packet_id), qos) })
}

fn sent_publish(packets: &[Packet]) -> &Publish {
    match packets {
        [Packet::Publish(publish)] => publish,
        other => panic!("expected one PUBLISH, got {other:?}"),
    }
}

fn disconnect_reason(packets: &[Packet]) -> Option<ReasonCode> {
    match packets.last() {
        Some(Packet::Disconnect(disconnect)) => Some(disconnect.reason),
        _ => None,
    }
}

/// Runs the core's own deadlines until it closes or `until_ms`; returns when PINGREQs went out and when it closed.
fn idle(script: &mut Script, until_ms: u64) -> (Vec<u64>, Option<u64>) {
    let mut pings = Vec::new();
    while let Some(at_ms) = script.core.next_deadline_ms().filter(|at_ms| *at_ms <= until_ms) {
        if script.at(at_ms, Input::Tick).contains(&Packet::PingReq) {
            pings.push(at_ms);
        }
        if script.closed_why().is_some() {
            return (pings, Some(at_ms));
        }
    }
    (pings, None)
}

#[test]
fn an_idle_client_pings_within_the_keep_alive_and_gives_up_after_a_second_ping_without_answer() {
    // [MQTT-3.1.2-20]; the Keep Alive of the script is 10 s.
    let mut script = Script::up(ProtocolVersion::V5);
    assert_eq!(idle(&mut script, 60_000), (vec![10_000, 12_000], Some(14_000)));
    assert_eq!(script.closed_why(), Some("the broker has been silent for 14000 ms"));
    assert_eq!(script.core.next_deadline_ms(), None);
}

#[test]
fn answered_pings_keep_the_connection() {
    let mut script = Script::up(ProtocolVersion::V311);
    for round in 1..=5 {
        assert_eq!(script.core.next_deadline_ms(), Some(round * 10_000));
        assert_eq!(script.at(round * 10_000, Input::Tick), [Packet::PingReq]);
        script.at(round * 10_000, Input::Received(Packet::PingResp));
    }
}

#[test]
fn a_client_that_only_sends_qos_0_notices_a_dead_link() {
    let mut script = Script::up(ProtocolVersion::V5);
    let mut closed_ms = None;
    for now_ms in (0..60_000).step_by(100) {
        script.at(now_ms, Input::Publish { token: now_ms, publish: numbered(0, QoS::AtMostOnce) });
        script.at(now_ms, Input::Tick);
        if script.closed_why().is_some() {
            closed_ms = Some(now_ms);
            break;
        }
    }
    // The second PINGREQ waits for what lies before it on a slow line.
    assert_eq!(closed_ms, Some(14_800));
}

#[test]
fn silence_is_no_death_while_the_program_does_not_read() {
    let mut script = Script::up(ProtocolVersion::V5);
    script.at(0, Input::Paused(true));
    let (pings, closed) = idle(&mut script, 60_000);
    // The broker still hears from us.
    assert_eq!((pings, closed), (vec![10_000, 20_000, 30_000, 40_000, 50_000, 60_000], None));
    script.at(60_000, Input::Paused(false));
    assert_eq!(idle(&mut script, 200_000), (vec![70_000, 72_000], Some(74_000)));
}

#[test]
fn keep_alive_0_never_pings_and_the_brokers_keep_alive_wins() {
    let mut config = config(ProtocolVersion::V5, false);
    config.connect.keep_alive_s = 0;
    let mut script = Script { core: Core::new(config), out: Vec::new() };
    script.connect(false, ConnAckProperties::default());
    assert_eq!(script.core.next_deadline_ms(), None);
    // [MQTT-3.2.2-21]
    script.at(0, Input::Closed { why: String::new() });
    script.connect(true, ConnAckProperties { server_keep_alive_s: Some(2), ..ConnAckProperties::default() });
    assert_eq!(script.core.next_deadline_ms(), Some(2_000));
}

#[test]
fn a_broker_that_never_answers_connect_is_given_up_after_the_timeout() {
    let mut script = Script::new(ProtocolVersion::V5);
    script.at(1_000, Input::Opened);
    assert_eq!(script.core.next_deadline_ms(), Some(6_000));
    script.at(6_000, Input::Tick);
    assert_eq!(script.closed_why(), Some("no CONNACK came within 5000 ms"));
}

#[test]
fn a_refusal_is_told_with_the_brokers_words() {
    let mut script = Script::new(ProtocolVersion::V5);
    script.at(0, Input::Opened);
    let properties =
        ConnAckProperties { reason_string: Some("go away".into()), ..ConnAckProperties::default() };
    let reason = ReasonCode::BadUserNameOrPassword;
    script.receive(Packet::ConnAck(Box::new(ConnAck { session_present: false, reason, properties })));
    assert!(
        matches!(&script.out[0], Output::Refused { reason: ReasonCode::BadUserNameOrPassword, why } if why.contains("go away"))
    );
    assert!(script.closed_why().is_some());
}

#[test]
fn a_first_packet_other_than_connack_ends_the_connection() {
    // [MQTT-3.2.0-1]
    let mut script = Script::new(ProtocolVersion::V5);
    script.at(0, Input::Opened);
    script.receive(Packet::PingResp);
    assert_eq!(script.closed_why(), Some("the broker's first packet was no CONNACK but PINGRESP"));
}

#[test]
fn a_clean_start_is_for_the_first_connection_where_the_broker_keeps_the_session() {
    for (version, expected) in [(ProtocolVersion::V5, [true, false]), (ProtocolVersion::V311, [true, true])] {
        let mut config = config(version, false);
        config.connect.clean_start = true;
        let mut script = Script { core: Core::new(config), out: Vec::new() };
        let clean = expected.map(|_| {
            let packets = script.at(0, Input::Opened);
            let [Packet::Connect(connect)] = packets.as_slice() else { panic!("{packets:?}") };
            let Connect { clean_start, .. } = **connect;
            script.receive(connack(false, ConnAckProperties::default()));
            script.at(0, Input::Closed { why: String::new() });
            clean_start
        });
        assert_eq!(clean, expected, "{version:?}");
    }
}

#[test]
fn a_client_id_that_the_broker_chose_is_kept() {
    // [MQTT-3.2.2-16]
    let mut script = Script::new(ProtocolVersion::V5);
    script.connect(
        false,
        ConnAckProperties { assigned_client_id: Some("chosen".into()), ..ConnAckProperties::default() },
    );
    script.at(0, Input::Closed { why: String::new() });
    let packets = script.at(0, Input::Opened);
    assert!(matches!(&packets[..], [Packet::Connect(connect)] if &*connect.client_id == "chosen"));
}

#[test]
fn messages_that_the_broker_does_not_take_fail_with_the_reason() {
    let properties = || ConnAckProperties {
        packet_bytes_max: NonZeroU32::new(30),
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        ..ConnAckProperties::default()
    };
    let large = Publish { payload: vec![0; 40].into(), ..numbered(0, QoS::AtMostOnce) };
    let refused = |reason| PublishError::Refused { reason, why: String::new() };
    let cases = [
        // [MQTT-3.2.2-15]
        (large, PublishError::TooLarge { bytes: 46, limit: 30 }),
        // [MQTT-3.2.2-11]
        (numbered(0, QoS::ExactlyOnce), refused(ReasonCode::QoSNotSupported)),
        // [MQTT-3.2.2-14]
        (Publish { retain: true, ..numbered(0, QoS::AtMostOnce) }, refused(ReasonCode::RetainNotSupported)),
    ];
    for (publish, expected) in cases {
        let mut script = Script::new(ProtocolVersion::V5);
        script.connect(false, properties());
        assert_eq!(script.publish(1, publish), []);
        let error = script.result().unwrap().clone().unwrap_err();
        match (&error, &expected) {
            (PublishError::Refused { reason: a, .. }, PublishError::Refused { reason: b, .. }) => {
                assert_eq!(a, b)
            }
            _ => assert_eq!(error, expected),
        }
        // The next one goes out.
        assert_eq!(script.publish(2, numbered(1, QoS::AtLeastOnce)).len(), 1);
    }
}

#[test]
fn topics_go_out_by_number_as_far_as_both_sides_want_it() {
    let takes = |topic_alias_max| ConnAckProperties {
        topic_alias_max: Some(topic_alias_max),
        packet_bytes_max: NonZeroU32::new(40),
        ..ConnAckProperties::default()
    };
    let publish = |topic: &str| Publish { topic: topic.into(), ..Publish::default() };
    let mut script = Script::new(ProtocolVersion::V5);
    script.core.shorten_topics(2);
    script.connect(false, takes(10));
    let mut sent = |topic: &str| {
        let packets = script.publish(1, publish(topic));
        let sent = sent_publish(&packets);
        (sent.topic.to_string(), sent.properties.topic_alias.map_or(0, |alias| alias.get()))
    };
    let named = |topic: &str, alias| (topic.to_owned(), alias);
    // [MQTT-3.3.2-12] the first time says both.
    assert_eq!(sent("dev/7/gps"), named("dev/7/gps", 1));
    assert_eq!(sent("dev/7/gps"), named("", 1));
    // Three bytes more would be more than the broker's 40.
    let long = "x".repeat(34);
    assert_eq!(sent(&long), named(&long, 0));
    assert_eq!(sent("dev/7/log"), named("dev/7/log", 2));
    assert_eq!(sent("dev/7/tank"), named("dev/7/tank", 0), "two are wanted");
    assert_eq!(sent("dev/7/log"), named("", 2));

    // [MQTT-3.3.2-7] on the next connection they mean nothing; what was sent goes out again with its topic.
    let qos1 = Publish { qos: QoS::AtLeastOnce, ..publish("dev/7/gps") };
    assert_eq!(sent_publish(&script.publish(2, qos1)).topic, "");
    script.at(0, Input::Closed { why: String::new() });
    let packets = script.connect(true, takes(1));
    let again = sent_publish(&packets);
    assert_eq!((&*again.topic, again.dup), ("dev/7/gps", true));
    // [MQTT-3.2.2-17]
    let packets = script.publish(3, publish("dev/7/log"));
    assert_eq!(sent_publish(&packets).properties.topic_alias, None, "this broker takes one");
}

#[test]
fn what_was_in_flight_is_sent_again_with_dup_and_the_same_identifier() {
    // [MQTT-4.4.0-1] [MQTT-3.3.1-1]
    let mut script = Script::up(ProtocolVersion::V311);
    let first = sent_publish(&script.publish(1, numbered(1, QoS::AtLeastOnce))).clone();
    script.publish(2, numbered(2, QoS::ExactlyOnce));
    script.receive(Packet::PubRec(Ack::new(id(2), ReasonCode::Success)));
    let again = script.reconnect(true);
    assert_eq!(
        again,
        [
            Packet::Publish(Publish { dup: true, ..first }),
            Packet::PubRel(Ack::new(id(2), ReasonCode::Success)),
        ]
    );
}

#[test]
fn a_lost_session_gets_what_was_not_acknowledged_as_new_and_ends_what_was_received() {
    let mut script = Script::up(ProtocolVersion::V5);
    script.publish(1, numbered(1, QoS::AtLeastOnce));
    script.publish(2, numbered(2, QoS::ExactlyOnce));
    script.receive(Packet::PubRec(Ack::new(id(2), ReasonCode::Success)));
    let again = script.reconnect(false);
    let publish = sent_publish(&again);
    assert!(!publish.dup && publish.payload == numbered(1, QoS::AtLeastOnce).payload);
    assert!(script.out.iter().any(|out| matches!(out, Output::Published { token: 2, result: Ok(_) })));
}

#[test]
fn in_a_session_older_than_the_program_an_identifier_is_made_safe_before_qos_2_uses_it() {
    let mut script = Script::new(ProtocolVersion::V5);
    script.connect(true, ConnAckProperties::default());
    // The broker may hold identifier 1 from an earlier life and would swallow a new message under it.
    assert_eq!(
        script.publish(1, numbered(1, QoS::ExactlyOnce)),
        [Packet::PubRel(Ack::new(id(1), ReasonCode::Success))]
    );
    assert_eq!(script.publish(2, numbered(2, QoS::ExactlyOnce)), []);
    let packets = script.receive(Packet::PubComp(Ack::new(id(1), ReasonCode::PacketIdentifierNotFound)));
    assert!(matches!(&packets[..], [Packet::Publish(p), Packet::PubRel(_)] if p.packet_id == Some(id(1))));
    // A connection that breaks meanwhile starts this again.
    let again = script.reconnect(true);
    assert!(
        matches!(&again[..], [Packet::Publish(p), Packet::PubRel(rel)] if p.dup && rel.packet_id == id(2))
    );
    let packets = script.receive(Packet::PubComp(Ack::new(id(2), ReasonCode::PacketIdentifierNotFound)));
    assert_eq!(sent_publish(&packets).packet_id, Some(id(2)));
}

#[test]
fn a_failing_pubrec_ends_the_exchange() {
    // [MQTT-4.4.0-2]
    let mut script = Script::up(ProtocolVersion::V5);
    script.publish(1, numbered(1, QoS::ExactlyOnce));
    let packets = script.receive(Packet::PubRec(Ack::new(id(1), ReasonCode::QuotaExceeded)));
    assert_eq!(packets, []);
    let error = script.result().unwrap().clone().unwrap_err();
    assert_eq!(error.to_string(), "the broker refused the message: quota exceeded (0x97)");
    assert_eq!(script.reconnect(true), []);
}

#[test]
fn an_acknowledgement_tells_the_conversations_number() {
    let mut script = Script::up(ProtocolVersion::V5);
    script.publish(1, numbered(1, QoS::AtLeastOnce));
    let user_properties =
        vec![("im-id".into(), "x".into()), ("im-seq".into(), "42".into()), ("im-dup".into(), "1".into())];
    let properties = AckProperties { reason_string: None, user_properties };
    script.receive(Packet::PubAck(Ack {
        packet_id: id(1),
        reason: ReasonCode::Success,
        properties: properties.into(),
    }));
    let published = script.result().unwrap().clone().unwrap();
    assert_eq!((published.seq, published.id.as_deref(), published.duplicate), (Some(42), Some("x"), true));
}

#[test]
fn acknowledgements_of_the_wrong_kind_end_the_connection_and_surplus_ones_do_not() {
    let ack = |number| Ack::new(id(number), ReasonCode::Success);
    let wrong: [(QoS, Packet); 3] = [
        (QoS::AtLeastOnce, Packet::PubRec(ack(1))),
        (QoS::ExactlyOnce, Packet::PubAck(ack(1))),
        (QoS::ExactlyOnce, Packet::PubComp(ack(1))),
    ];
    for (qos, packet) in wrong {
        let mut script = Script::up(ProtocolVersion::V5);
        script.publish(1, numbered(1, qos));
        let packets = script.receive(packet);
        assert_eq!(disconnect_reason(&packets), Some(ReasonCode::ProtocolError));
        assert!(script.closed_why().unwrap().contains("packet identifier 1"));
    }
    for packet in [Packet::PubAck(ack(9)), Packet::PubComp(ack(9))] {
        let mut script = Script::up(ProtocolVersion::V5);
        assert_eq!(script.receive(packet), []);
        assert_eq!(script.closed_why(), None);
    }
    // [MQTT-4.3.3-4] a surplus PUBREC is answered, so that the broker can end it.
    let mut script = Script::up(ProtocolVersion::V5);
    let packets = script.receive(Packet::PubRec(ack(9)));
    assert_eq!(packets, [Packet::PubRel(Ack::new(id(9), ReasonCode::PacketIdentifierNotFound))]);
}

#[test]
fn manual_acknowledgements_leave_in_the_order_the_messages_came() {
    // [MQTT-4.6.0-2] [MQTT-4.6.0-3]
    let mut script = Script::manual_ack();
    script.connect(false, ConnAckProperties::default());
    let mut tokens: Vec<AckToken> = Vec::new();
    for (packet_id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::AtLeastOnce)] {
        assert_eq!(script.receive(inbound(packet_id, qos, false)), []);
        tokens.extend(
            script.out.drain(..).find_map(|out| if let Output::Message(m) = out { m.ack } else { None }),
        );
    }
    assert_eq!(script.at(0, Input::Ack(tokens.pop().unwrap())), []);
    assert_eq!(script.at(0, Input::Ack(tokens.pop().unwrap())), []);
    let ack = |number| Ack::new(id(number), ReasonCode::Success);
    assert_eq!(
        script.at(0, Input::Ack(tokens.pop().unwrap())),
        [Packet::PubAck(ack(1)), Packet::PubRec(ack(2)), Packet::PubAck(ack(3))]
    );
}

#[test]
fn a_qos_2_message_acknowledged_between_two_connections_is_not_handed_over_again() {
    let mut script = Script::manual_ack();
    script.connect(false, ConnAckProperties::default());
    script.receive(inbound(7, QoS::ExactlyOnce, false));
    let Some(Output::Message(message)) = script.out.pop() else { panic!("no message") };
    script.at(0, Input::Closed { why: String::new() });
    script.at(0, Input::Ack(message.ack.unwrap()));
    script.connect(true, ConnAckProperties::default());
    // [MQTT-4.3.3-10]
    let packets = script.receive(inbound(7, QoS::ExactlyOnce, true));
    assert_eq!(packets, [Packet::PubRec(Ack::new(id(7), ReasonCode::Success))]);
    assert!(!script.out.iter().any(|out| matches!(out, Output::Message(_))));
}

#[test]
fn a_broker_that_breaks_our_limits_is_told_so() {
    // [MQTT-3.3.4-9]: the script's Receive Maximum is 5; as some brokers exceed theirs, the end is where no identifier
    // is left.
    let mut script = Script::manual_ack();
    script.connect(false, ConnAckProperties::default());
    for packet_id in 1..=u16::MAX {
        assert_eq!(script.receive(inbound(packet_id, QoS::AtLeastOnce, false)), []);
    }
    let packets = script.receive(inbound(6, QoS::AtLeastOnce, false));
    assert_eq!(disconnect_reason(&packets), Some(ReasonCode::ReceiveMaximumExceeded));
    // We allow no topic alias.
    let mut script = Script::up(ProtocolVersion::V5);
    let mut publish = numbered(1, QoS::AtMostOnce);
    publish.properties.topic_alias = NonZeroU16::new(1);
    let packets = script.receive(Packet::Publish(publish));
    assert_eq!(disconnect_reason(&packets), Some(ReasonCode::TopicAliasInvalid));
}

#[test]
fn the_brokers_disconnect_is_told_in_its_words() {
    let mut script = Script::up(ProtocolVersion::V5);
    let properties =
        DisconnectProperties { reason_string: Some("maintenance".into()), ..DisconnectProperties::default() };
    script.receive(Packet::Disconnect(Disconnect {
        reason: ReasonCode::ServerShuttingDown,
        properties: properties.into(),
    }));
    assert_eq!(script.closed_why(), Some("the broker disconnected: maintenance (0x8b)"));
}

#[test]
fn what_waits_is_limited() {
    let mut script = Script::new(ProtocolVersion::V5);
    for token in 0..WAITING_MAX as u64 {
        assert!(script.core.can_accept());
        script.publish(token, numbered(0, QoS::AtLeastOnce));
    }
    assert!(!script.core.can_accept());
    script.publish(9999, numbered(0, QoS::AtLeastOnce));
    let error = script.result().unwrap().clone().unwrap_err();
    assert_eq!(error, PublishError::Busy { waiting: WAITING_MAX, limit: WAITING_MAX });

    let refused = |script: &Script| matches!(&script.out[..], [Output::Answered { result: Err(_), .. }]);
    for token in 0..REQUESTS_MAX as u64 {
        script.subscribe(token, &["a"]);
        assert!(!refused(&script));
    }
    assert!(!script.core.can_ask());
    script.subscribe(9999, &["a"]);
    assert!(refused(&script));
    let mut script = Script::up(ProtocolVersion::V5);
    script.subscribe(1, &vec!["a"; FILTERS_MAX + 1]);
    assert!(refused(&script));
    script.subscribe(1, &[]);
    assert!(refused(&script));
}

/// Answers every SUBSCRIBE among the packets and what follows; returns the filters asked for.
fn grant(script: &mut Script, packets: Vec<Packet>, reason: ReasonCode) -> Vec<SubscribeFilter> {
    let mut asked = Vec::new();
    let mut left = packets;
    while let Some(packet) = left.pop() {
        if let Packet::Subscribe(subscribe) = packet {
            let reasons = vec![reason; subscribe.filters.len()];
            let suback =
                SubAck { packet_id: subscribe.packet_id, properties: AckProperties::default(), reasons };
            asked.extend(subscribe.filters);
            left.extend(script.receive(Packet::SubAck(suback)));
        }
    }
    asked
}

#[test]
fn many_subscriptions_are_renewed_in_packets_of_bounded_size() {
    let mut script = Script::up(ProtocolVersion::V5);
    let filters: Vec<String> = (0..1_000).map(|n| format!("{}/{n}", "x".repeat(100))).collect();
    for chunk in filters.chunks(FILTERS_MAX) {
        let packets = script.subscribe(1, &chunk.iter().map(String::as_str).collect::<Vec<_>>());
        grant(&mut script, packets, ReasonCode::GrantedQoS1);
    }
    assert_eq!(script.reconnect(true), []);
    let packets = script.reconnect(false);
    assert!(packets.len() >= 6, "{} packets", packets.len());
    assert!(packets.iter().all(|packet| protocol::encoded_len(packet, ProtocolVersion::V5) < 20_000));
    assert_eq!(grant(&mut script, packets, ReasonCode::GrantedQoS1).len(), 1_000);
}

#[test]
fn a_subscription_refused_at_renewal_is_told_and_forgotten() {
    let mut script = Script::up(ProtocolVersion::V5);
    let packets = script.subscribe(1, &["a"]);
    grant(&mut script, packets, ReasonCode::GrantedQoS1);
    let packets = script.reconnect(false);
    grant(&mut script, packets, ReasonCode::NotAuthorized);
    assert!(matches!(&script.out[..], [Output::SubscriptionRefused { filter, .. }] if &**filter == "a"));
    assert_eq!(script.reconnect(false), []);
}

#[test]
fn after_a_connack_that_never_came_a_present_session_is_not_trusted_to_have_the_subscriptions() {
    let mut script = Script::up(ProtocolVersion::V5);
    let packets = script.subscribe(1, &["a"]);
    grant(&mut script, packets, ReasonCode::GrantedQoS1);
    script.at(0, Input::Closed { why: String::new() });
    // The broker lost our session, began another, and its CONNACK is lost.
    script.at(0, Input::Opened);
    script.at(0, Input::Closed { why: String::new() });
    let packets = script.connect(true, ConnAckProperties::default());
    let asked = grant(&mut script, packets, ReasonCode::GrantedQoS1);
    assert_eq!(asked.len(), 1);
    // Where the session is ours after all, this brings no retained message again.
    assert_eq!(asked[0].options.retain_handling, RetainHandling::SendIfNew);
    assert_eq!(script.reconnect(true), []);
}

#[test]
fn a_suback_with_the_wrong_number_of_codes_ends_the_connection_and_the_request_is_made_again() {
    // [MQTT-3.8.4-6]
    let mut script = Script::up(ProtocolVersion::V5);
    script.subscribe(1, &["a", "b"]);
    let reasons = vec![ReasonCode::Success];
    let suback = SubAck { packet_id: id(1), properties: AckProperties::default(), reasons };
    let packets = script.receive(Packet::SubAck(suback));
    assert_eq!(disconnect_reason(&packets), Some(ReasonCode::ProtocolError));
    let packets = script.connect(true, ConnAckProperties::default());
    assert_eq!(grant(&mut script, packets, ReasonCode::GrantedQoS1).len(), 2);
}
