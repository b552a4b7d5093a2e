//! The heartbeat's place in the core: what it is told of packets, and the packets it wants sent.

use protocol::im::{self, KeepaliveRequest};
use protocol::{ConnAckProperties, Packet, Publish, PublishProperties, QoS};

use super::link::Link;
use super::{Core, NETWORK_PROPERTY, Output};
use crate::heartbeat::{Accepted, Action, Ended, HeartbeatStatus, KnownNetwork};
use crate::message::user_property;

impl Core {
    /// Returns where the heartbeat stands.
    pub fn heartbeat_status(&self) -> HeartbeatStatus {
        self.heartbeat.status()
    }

    /// Returns what the heartbeat has learned and should be kept over a restart.
    pub fn known_networks(&self, now_ms: u64) -> Vec<KnownNetwork> {
        self.heartbeat.known(now_ms)
    }

    /// What the heartbeat is to know of a connection that the broker accepted.
    pub(super) fn accepted(&self, keep_alive_s: u16, properties: &ConnAckProperties) -> Accepted {
        let net = user_property(&self.config.connect.properties.user_properties, NETWORK_PROPERTY);
        let hint = user_property(&properties.user_properties, im::IM_KEEPALIVE);
        Accepted {
            net: net.unwrap_or_default().to_owned(),
            broker: self.way.to_string(),
            keep_alive_s,
            hint_s: hint.and_then(|hint| hint.parse().ok()),
        }
    }

    /// Tells the heartbeat what was sent, and does what it wants.
    pub(super) fn beat(&mut self) {
        if matches!(self.link, Link::Up(_)) {
            for output in &self.outputs {
                if let Output::Send(packet) = output {
                    let (bytes, wants_answer) = weigh(packet);
                    self.heartbeat.sent(self.now_ms, bytes, wants_answer);
                }
            }
        }
        while let Some(action) = self.heartbeat.poll_action() {
            match action {
                // [MQTT-3.1.2-20] something goes out within each Keep Alive.
                Action::Ping => self.outputs.push_back(Output::Send(Packet::PingReq)),
                Action::Declare { interval_s } => {
                    let declaration = self.declaration(interval_s);
                    let (bytes, wants_answer) = weigh(&declaration);
                    self.heartbeat.sent(self.now_ms, bytes, wants_answer);
                    self.outputs.push_back(Output::Send(declaration));
                }
                Action::Dead { silent_ms } => {
                    self.close_after(
                        Ended::Silence,
                        format!("the broker has been silent for {silent_ms} ms"),
                    );
                }
                action @ (Action::StartProbe { .. } | Action::StopProbe { .. } | Action::Learned) => {
                    self.outputs.push_back(Output::Heartbeat(action));
                }
            }
        }
    }

    /// A PUBLISH at QoS 0: the next connection declares anew.
    fn declaration(&self, interval_s: u32) -> Packet {
        let net = user_property(&self.config.connect.properties.user_properties, NETWORK_PROPERTY);
        let request =
            KeepaliveRequest { interval_s, net: net.filter(|net| !net.is_empty()).map(str::to_owned) };
        let payload = serde_json::to_vec(&request).expect("a number and a string are JSON");
        Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: im::KEEPALIVE_TOPIC.into(),
            packet_id: None,
            properties: PublishProperties::default().into(),
            payload: payload.into(),
        })
    }
}

/// About the bytes of a packet, and whether the broker must answer it. PINGREQ the heartbeat has counted.
fn weigh(packet: &Packet) -> (u64, bool) {
    match packet {
        Packet::Publish(publish) => {
            ((publish.topic.len() + publish.payload.len()) as u64, publish.qos > QoS::AtMostOnce)
        }
        Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::PubRel(_) | Packet::PubRec(_) => (4, true),
        _ => (2, false),
    }
}
