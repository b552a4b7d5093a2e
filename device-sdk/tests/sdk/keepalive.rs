//! The adaptive heartbeat inside the core: what CONNECT carries, what is declared, and how probes begin and end.

use device_sdk::client::{Core, Input, Output, Packet};
use device_sdk::heartbeat::{Action, AdaptiveKeepalive, ProbeOutcome};
use device_sdk::{Options, ProtocolVersion};
use protocol::{ConnAck, ConnAckProperties, Publish, ReasonCode};

struct Script {
    core: Core,
    out: Vec<Output>,
}

impl Script {
    fn new(version: ProtocolVersion) -> Self {
        let mut options = Options::new("127.0.0.1:1883", "truck-7");
        options.version = version;
        options.keep_alive_s = 30;
        options.user_properties.push(("im-net".to_owned(), "lte".to_owned()));
        options.adaptive_keepalive = Some(AdaptiveKeepalive::default());
        let config = options.core_config().unwrap();
        Self { core: Core::with_heartbeat(config, options.heartbeat(Vec::new())), out: Vec::new() }
    }

    fn at(&mut self, now_ms: u64, input: Input) {
        self.core.handle_input(now_ms, input);
        self.out = std::iter::from_fn(|| self.core.poll_output()).collect();
    }

    fn connect(&mut self, now_ms: u64, properties: ConnAckProperties) {
        self.at(now_ms, Input::Way("mqtt://127.0.0.1:1883".into()));
        self.at(now_ms, Input::Opened);
        let Some(Output::Send(Packet::Connect(connect))) = self.out.first() else { panic!("{:?}", self.out) };
        assert_eq!(connect.keep_alive_s, 7_200, "CONNECT carries the upper bound");
        let reason = ReasonCode::Success;
        let connack = ConnAck { session_present: false, reason, properties };
        self.at(now_ms + 50, Input::Received(Packet::ConnAck(Box::new(connack))));
    }

    fn sent(&self) -> Vec<&Packet> {
        let packets = self.out.iter().filter_map(|output| match output {
            Output::Send(packet) => Some(packet),
            _ => None,
        });
        packets.collect()
    }

    fn started(&self) -> Vec<(u64, u32)> {
        let started = self.out.iter().filter_map(|output| match output {
            Output::Heartbeat(Action::StartProbe { id, after_s }) => Some((*id, *after_s)),
            _ => None,
        });
        started.collect()
    }

    fn declared(&self) -> Option<&Publish> {
        self.sent().into_iter().find_map(|packet| match packet {
            Packet::Publish(publish) if &*publish.topic == "$im/keepalive" => Some(publish),
            _ => None,
        })
    }
}

#[test]
fn a_broker_that_answers_the_check_is_told_the_interval_and_the_ladder_begins() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut script = Script::new(version);
        script.connect(0, ConnAckProperties::default());
        let check = script.started();
        assert!(check.len() == 1 && check[0].1 == 1, "a second of silence on a second connection: {check:?}");
        assert!(script.declared().is_none(), "nobody knows yet what broker it is");
        script.at(1_200, Input::Probed { id: check[0].0, outcome: ProbeOutcome::Survived });
        let payload = &script.declared().expect("declared").payload;
        let expected: &[u8] = match version {
            ProtocolVersion::V5 => br#"{"interval_s":15,"net":"lte"}"#,
            // 3.1.1 has no place for the network's name in CONNECT.
            ProtocolVersion::V311 => br#"{"interval_s":15}"#,
        };
        assert_eq!(&payload[..], expected);
        let silences: Vec<u32> = script.started().iter().map(|(_, after_s)| *after_s).collect();
        assert_eq!(silences, [21, 30, 42, 59]);
        script.at(16_200, Input::Tick);
        assert_eq!(script.sent(), [&Packet::PingReq]);
    }
}

#[test]
fn a_spoiled_probe_proves_the_silence_that_it_had_and_no_more() {
    let mut script = Script::new(ProtocolVersion::V5);
    script.connect(0, ConnAckProperties::default());
    let (check, _) = script.started()[0];
    // It came with others, yet it came: the broker answers probes.
    script.at(1_200, Input::Probed { id: check, outcome: ProbeOutcome::Spoiled { silent_s: 0 } });
    let rungs = script.started();
    assert_eq!(rungs.len(), 4, "{rungs:?}");
    let spoiled = |silent_s| ProbeOutcome::Spoiled { silent_s };
    script.at(30_000, Input::Probed { id: rungs[1].0, outcome: spoiled(24) });
    assert_eq!(script.core.heartbeat_status().proven_s, 15, "once is not twice");
    // A broker that says more than was asked for is not believed.
    script.at(31_000, Input::Probed { id: rungs[0].0, outcome: spoiled(3_000) });
    let status = script.core.heartbeat_status();
    assert_eq!(
        (status.proven_s, status.interval_ms),
        (21, 17_850),
        "21 s were asked for and survived, 24 s once"
    );
    // What was spoiled is tried again, in full.
    let again: Vec<u32> = script.started().iter().map(|(_, after_s)| *after_s).collect();
    assert!(again.iter().all(|after_s| *after_s > 24), "{again:?}");
    assert!(!script.core.heartbeat_status().is_settled);
}

#[test]
fn a_hint_of_the_broker_shows_that_it_answers_probes() {
    let mut script = Script::new(ProtocolVersion::V5);
    let user_properties = vec![("im-keepalive".into(), "240".into())];
    script.connect(0, ConnAckProperties { user_properties, ..ConnAckProperties::default() });
    assert!(script.declared().is_some());
    let silences: Vec<u32> = script.started().iter().map(|(_, after_s)| *after_s).collect();
    assert_eq!(silences, [30, 60, 120, 240]);
}

#[test]
fn the_brokers_keep_alive_bounds_the_search() {
    // [MQTT-3.2.2-21]
    let mut script = Script::new(ProtocolVersion::V5);
    script.connect(0, ConnAckProperties { server_keep_alive_s: Some(20), ..ConnAckProperties::default() });
    let check = script.started();
    script.at(1_200, Input::Probed { id: check[0].0, outcome: ProbeOutcome::Survived });
    let silences: Vec<u32> = script.started().iter().map(|(_, after_s)| *after_s).collect();
    assert_eq!(silences, [20, 20]);
}

#[test]
fn probes_end_with_the_connection_and_only_a_reset_after_silence_needs_no_pause() {
    for (reset, after_ms, at_once) in [(true, 100, true), (true, 60_000, false), (false, 100, false)] {
        let mut script = Script::new(ProtocolVersion::V5);
        script.connect(0, ConnAckProperties::default());
        let check = script.started();
        script.at(15_050, Input::Tick);
        assert_eq!(script.sent(), [&Packet::PingReq]);
        let why = "reset by peer".to_owned();
        let input = if reset { Input::Reset { why } } else { Input::Closed { why } };
        script.at(15_050 + after_ms, input);
        assert!(matches!(script.out[..], [Output::Close { .. }, ..]));
        let is_stopped = |output: &Output| matches!(output, Output::Heartbeat(Action::StopProbe { id }) if *id == check[0].0);
        assert!(script.out.iter().any(is_stopped), "{:?}", script.out);
        let told = script.out.iter().any(|output| matches!(output, Output::ReconnectAtOnce));
        assert_eq!(told, at_once, "{reset} after {after_ms} ms");
    }
}

#[test]
fn a_message_without_its_acknowledgement_is_followed_by_a_ping_long_before_the_interval() {
    let mut script = Script::new(ProtocolVersion::V5);
    script.connect(0, ConnAckProperties::default());
    let message = device_sdk::Message::new("t", "x").qos(device_sdk::QoS::AtLeastOnce);
    script.at(3_000, Input::publish(1, message));
    script.at(5_001, Input::Tick);
    assert_eq!(script.sent(), [&Packet::PingReq]);
}
