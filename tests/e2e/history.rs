//! History, gaps and envelopes with mosquitto's own clients, over a crash of the broker (docs/protocol.md section 3).

use std::process::{Command, Stdio};

use protocol::ProtocolVersion::V5;
use protocol::QoS;

use crate::broker_process::Broker;
use crate::raw_client::message;

/// What `mosquitto_sub` prints until so many messages came.
fn received(broker: &Broker, count: usize, args: &[&str]) -> Vec<String> {
    let output = Command::new("mosquitto_sub")
        .args(["-h", &broker.address().ip().to_string(), "-p", &broker.address().port().to_string()])
        .args(["-C", &count.to_string(), "-W", "20"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("mosquitto_sub is installed");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mosquitto_sub {args:?} ended with {}: {err}", output.status);
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn post(broker: &Broker, range: std::ops::RangeInclusive<u32>) {
    let mut poster = broker.client("poster", V5);
    for n in range {
        poster.publish(message("im/room", format!("text {n}"), QoS::AtLeastOnce)).expect("a PUBACK");
    }
}

#[test]
fn stored_messages_come_to_mosquitto_s_client_in_all_forms_also_after_a_crash() {
    let mut broker = Broker::start();
    post(&broker, 1..=200);
    broker.crash_and_restart();
    post(&broker, 201..=203);
    let of =
        |range: std::ops::RangeInclusive<u32>| range.map(|n| format!("im/room text {n}")).collect::<Vec<_>>();
    let plain = ["-F", "%t %p", "-q", "1"];
    for version in ["mqttv311", "mqttv5"] {
        let args = [&["-V", version, "-t", "$im/from/4/im/room"], &plain[..]].concat();
        assert_eq!(received(&broker, 200, &args), of(4..=203));
        let args = [&["-V", version, "-t", "$im/from/first/#"], &plain[..]].concat();
        assert_eq!(received(&broker, 203, &args), of(1..=203));
    }
    let property = ["-V", "mqttv5", "-t", "im/+", "-D", "subscribe", "user-property", "im-from-seq", "202"];
    assert_eq!(received(&broker, 2, &[&property, &plain[..]].concat()), of(202..=203));
    // Envelopes for a client whose MQTT has no properties.
    let args = ["-V", "mqttv311", "-t", "$im/from/203/$im/env/im/room", "-F", "%t %p"];
    let envelope = received(&broker, 1, &args).remove(0);
    let (topic, envelope) = envelope.split_once(' ').expect("topic and payload");
    let envelope: serde_json::Value = serde_json::from_str(envelope).expect("JSON");
    assert_eq!((topic, envelope["seq"].as_u64()), ("$im/env/im/room", Some(203)));
    assert_eq!(
        (envelope["payload"].as_str(), envelope["from"].as_str()),
        (Some("text 203"), Some("anon:poster"))
    );
}

#[test]
fn what_a_conversation_gave_up_is_told_to_mosquitto_s_client() {
    let broker = Broker::start_configured("[[conversation]]\nfilter = \"im/#\"\nretention_messages = 3\n");
    post(&broker, 1..=10);
    let args = ["-V", "mqttv5", "-t", "$im/from/1/im/room", "-F", "%p %P", "-q", "1"];
    let lines = received(&broker, 3, &args);
    assert!(lines[0].starts_with("text 8 ") && lines[0].contains("im-gap:8"), "{lines:?}");
    assert!(lines[1..].iter().all(|line| !line.contains("im-gap")), "{lines:?}");
}
