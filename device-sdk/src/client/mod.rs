//! The client side of MQTT as a pure state machine.
//!
//! A [`Core`] lives as long as the program's session and outlives connections. It is given inputs with the time, and
//! its outputs are then drained; it knows no clock, socket, randomness or thread:
//!
//! ```text
//!            Opened                ConnAck(success)
//!   Down ─────────────▶ AwaitingConnAck ─────────────▶ Up
//!    ▲                        │ refused, timeout        │ dead link, protocol error,
//!    └────────────────────────┴── Close or Closed ◀─────┘ DISCONNECT
//! ```
//!
//! Invariants: a packet identifier is in one use at a time; QoS 1/2 publishes go out, and out again, in the order they
//! came; nothing is dropped because a connection ends, except a QoS 0 message that was already handed out.

mod heartbeat;
mod incoming;
mod link;
mod outgoing;
mod requests;

use std::collections::VecDeque;

use bytestring::ByteString;
use protocol::{
    Connect, Disconnect, DisconnectProperties, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling,
    SubscribeFilter, SubscribeOptions, UserProperties,
};

use crate::heartbeat::{Action, Ended, Heartbeat, ProbeOutcome};
use crate::queue::Entry;
use crate::{AckToken, ClientError, Incoming, Message, PublishError, Published};
use incoming::Inbound;
use link::{Limits, Link};
use outgoing::Outgoing;
use requests::{Request, Requests};

/// What [`Output::Send`] and [`Input::Received`] carry, and its size on the wire.
pub use protocol::{Packet, encoded_len};

pub use outgoing::{WAITING_BYTES_MAX, WAITING_MAX};
pub use requests::{FILTERS_MAX, REQUESTS_MAX, SUBSCRIPTIONS_MAX};

/// The user property of CONNECT that names the network.
pub(crate) const NETWORK_PROPERTY: &str = "im-net";

/// What a core is made with.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The CONNECT to send. Its `clean_start` is for the first connection, see [`Core::new`].
    pub connect: Connect,
    /// Most unacknowledged QoS 1/2 publishes each way.
    pub inflight_max: u16,
    /// Whether incoming messages wait for [`Input::Ack`].
    pub manual_ack: bool,
    /// Longest wait for CONNACK, milliseconds.
    pub connect_timeout_ms: u64,
}

/// What happens to a core.
#[derive(Debug)]
pub enum Input {
    /// A transport connection is open.
    Opened,
    /// A packet came.
    Received(Packet),
    /// Bytes came that are no packet.
    Undecodable(protocol::DecodeError),
    /// The transport ended.
    Closed {
        /// Why, for people.
        why: String,
    },
    /// The transport was reset by the other side, or by a box on the way.
    Reset {
        /// What the system said, for people.
        why: String,
    },
    /// The transport is not read, or read again, since the program does not take what came.
    Paused(bool),
    /// The program publishes; answered by [`Output::Published`] with the token.
    Publish {
        /// The caller's name for it.
        token: u64,
        /// Without packet identifier; the topic is valid.
        publish: Publish,
    },
    /// The program subscribes; answered by [`Output::Answered`].
    Subscribe {
        /// The caller's name for it.
        token: u64,
        /// At least one, all valid.
        filters: Vec<SubscribeFilter>,
        /// For the SUBSCRIBE packet; sent again when the subscription is renewed.
        user_properties: UserProperties,
    },
    /// The program unsubscribes; answered by [`Output::Answered`].
    Unsubscribe {
        /// The caller's name for it.
        token: u64,
        /// At least one, all valid.
        filters: Vec<ByteString>,
    },
    /// The program has done with a message.
    Ack(AckToken),
    /// The device is on another network: its name is in the next CONNECT as the user property `im-net` (5.0).
    Network(ByteString),
    /// The address of the broker that the next connection goes to, as far as it makes another way of it.
    Way(ByteString),
    /// A probe of [`Action::StartProbe`] ended.
    Probed {
        /// As given.
        id: u64,
        /// How.
        outcome: ProbeOutcome,
    },
    /// The program is leaving; a DISCONNECT goes out if there is a connection. The next [`Input::Opened`] goes on with the
    /// session.
    Disconnect,
    /// A deadline of [`Core::next_deadline_ms`] may have passed.
    Tick,
}

impl Input {
    /// Makes a publish of a message whose topic is valid.
    pub fn publish(token: u64, message: Message) -> Self {
        Self::Publish { token, publish: message.into_publish() }
    }

    /// Makes a publish of an entry of the disk queue.
    pub fn entry(token: u64, entry: &Entry) -> Self {
        Self::Publish { token, publish: entry.publish.clone() }
    }

    /// Makes a subscribe to one filter, which is valid.
    pub fn subscribe(token: u64, filter: &str, qos: QoS) -> Self {
        let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
        let filters = vec![SubscribeFilter { filter: filter.into(), options }];
        Self::Subscribe { token, filters, user_properties: UserProperties::new() }
    }
}

/// What a core wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Write a packet.
    Send(Packet),
    /// Close the transport once what was sent is written. The core has no connection any more;
    /// [`Input::Closed`] for it is not needed.
    Close {
        /// Why, for people.
        why: String,
    },
    /// The connection is up.
    Connected {
        /// Whether the broker resumed a session.
        session_present: bool,
    },
    /// The broker refused the connection; a [`Output::Close`] follows.
    Refused {
        /// Its code.
        reason: ReasonCode,
        /// Its words or the code's name.
        why: String,
    },
    /// The broker wants this client elsewhere, for now (0x9C) or for good (0x9D); an [`Output::Close`] follows.
    Referred {
        /// Which of the two.
        reason: ReasonCode,
        /// Where, if it said so (Server Reference).
        reference: Option<ByteString>,
    },
    /// A message for the program.
    Message(Incoming),
    /// A publish has ended; at QoS 0 as soon as it is sent.
    Published {
        /// As given.
        token: u64,
        /// How.
        result: Result<Published, PublishError>,
    },
    /// A subscribe or unsubscribe has ended.
    Answered {
        /// As given.
        token: u64,
        /// One code a filter.
        result: Result<Vec<ReasonCode>, ClientError>,
    },
    /// A renewed subscription was refused.
    SubscriptionRefused {
        /// The filter.
        filter: ByteString,
        /// The broker's code.
        reason: ReasonCode,
    },
    /// The heartbeat wants a probe begun or ended, or what it knows kept: no other actions come here.
    Heartbeat(Action),
    /// The network had forgotten the connection that was closed before: the next one needs no pause.
    ReconnectAtOnce,
}

/// The state machine, see the module.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    link: Link,
    /// Counts connections, to tell this one's packets from the last one's.
    link_number: u64,
    /// Whether a CONNACK has ever accepted us: from then on the session is ours to resume.
    had_session: bool,
    /// Whether a CONNECT has gone without CONNACK since the last one that came. The broker may have begun a new session for
    /// it, which the next CONNACK then calls present although it is not the one we know.
    in_doubt: bool,
    outgoing: Outgoing,
    inbound: Inbound,
    requests: Requests,
    heartbeat: Heartbeat,
    /// Where the next connection goes, for the heartbeat to know paths by.
    way: ByteString,
    /// The time of the input that is being handled.
    now_ms: u64,
    outputs: VecDeque<Output>,
}

impl Core {
    /// Makes a core without a connection.
    ///
    /// With `clean_start` the first connection begins a new session. A 5.0 session with an expiry interval is then
    /// resumed by later connections of the same core; with 3.1.1 a clean session ends with each connection.
    pub fn new(config: CoreConfig) -> Self {
        Self::with_heartbeat(config, Heartbeat::fixed())
    }

    /// Makes a core that times its pings by this heartbeat. An adaptive one wants the longest interval as Keep Alive of
    /// CONNECT.
    pub fn with_heartbeat(config: CoreConfig, heartbeat: Heartbeat) -> Self {
        Self {
            link: Link::Down,
            link_number: 0,
            had_session: false,
            in_doubt: false,
            outgoing: Outgoing::default(),
            inbound: Inbound::new(config.manual_ack, config.connect.properties.receive_maximum),
            requests: Requests::default(),
            heartbeat,
            way: ByteString::new(),
            now_ms: 0,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// Takes one input at a time that never decreases; drain [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now_ms: u64, input: Input) {
        self.now_ms = now_ms;
        match input {
            Input::Opened => self.opened(now_ms),
            Input::Received(packet) => self.received(now_ms, packet),
            Input::Undecodable(error) => self.fail(error.reason(), error.to_string()),
            Input::Closed { why } => self.close(why),
            Input::Reset { why } => self.close_after(Ended::Reset, why),
            Input::Paused(is_paused) => self.heartbeat.paused(now_ms, is_paused),
            Input::Publish { token, publish } => {
                if let Err(error) = self.outgoing.accept(token, publish) {
                    self.outputs.push_back(Output::Published { token, result: Err(error) });
                }
            }
            Input::Subscribe { token, filters, user_properties } => {
                let request = Request::Subscribe { token: Some(token), filters, user_properties };
                self.ask(token, request);
            }
            Input::Unsubscribe { token, filters } => self.ask(token, Request::Unsubscribe { token, filters }),
            Input::Ack(token) => self.inbound.ack(&token),
            Input::Network(name) => self.set_network(name),
            Input::Way(address) => self.way = address,
            Input::Probed { id, outcome } => self.heartbeat.probed(now_ms, id, outcome),
            Input::Disconnect => self.leave(),
            Input::Tick => self.tick(now_ms),
        }
        self.send_what_is_due();
        self.beat();
    }

    /// Returns the next thing to do, `None` when there is none until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when [`Input::Tick`] is due, on the clock of `handle_input`.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        match &self.link {
            Link::Down => None,
            Link::AwaitingConnAck { deadline_ms, .. } => Some(*deadline_ms),
            Link::Up(_) => self.heartbeat.next_deadline_ms(),
        }
    }

    /// Says whether another publish would go out at once: connected, and the broker's window is open.
    pub fn can_send(&self) -> bool {
        match &self.link {
            Link::Up(up) => self.outgoing.has_room(&up.limits),
            _ => false,
        }
    }

    /// Returns how many QoS 1/2 publishes are unacknowledged, and how many may be on this connection; without one, none may.
    pub fn window(&self) -> (usize, usize) {
        let max = if let Link::Up(up) = &self.link { up.limits.inflight_max } else { 0 };
        (self.outgoing.in_flight(), max)
    }

    /// Says whether another publish may be given in, sent at once or not.
    pub fn can_accept(&self) -> bool {
        self.outgoing.can_accept()
    }

    /// Says whether another subscribe or unsubscribe may be given in.
    pub fn can_ask(&self) -> bool {
        self.requests.can_accept()
    }

    fn version(&self) -> ProtocolVersion {
        self.config.connect.version
    }

    fn opened(&mut self, now_ms: u64) {
        let mut connect = self.config.connect.clone();
        let kept_by_broker = connect.version == ProtocolVersion::V5
            && connect.properties.session_expiry_interval_s.unwrap_or(0) > 0;
        if self.had_session && kept_by_broker {
            connect.clean_start = false;
        }
        self.link_number += 1;
        self.link = Link::AwaitingConnAck {
            asked_ms: now_ms,
            deadline_ms: now_ms.saturating_add(self.config.connect_timeout_ms),
        };
        self.outputs.push_back(Output::Send(Packet::Connect(Box::new(connect))));
    }

    fn received(&mut self, now_ms: u64, packet: Packet) {
        match (&mut self.link, packet) {
            // Late packets of a connection that was given up.
            (Link::Down, _) => {}
            (Link::AwaitingConnAck { asked_ms, .. }, Packet::ConnAck(connack)) => {
                let round_trip_ms = now_ms.saturating_sub(*asked_ms);
                self.connack(now_ms, round_trip_ms, *connack);
            }
            (Link::AwaitingConnAck { .. }, other) => {
                // [MQTT-3.2.0-1] the broker's first packet is CONNACK.
                self.close(format!("the broker's first packet was no CONNACK but {}", name(&other)));
            }
            (Link::Up(_), packet) => {
                self.heartbeat.received(now_ms);
                self.received_up(packet);
            }
        }
    }

    fn connack(&mut self, now_ms: u64, round_trip_ms: u64, connack: protocol::ConnAck) {
        if connack.reason.is_failure() {
            let words = connack.properties.reason_string.as_deref().unwrap_or(connack.reason.text());
            let why = format!("the broker refused the connection: {words} (0x{:02x})", connack.reason as u8);
            self.outputs.push_back(Output::Refused { reason: connack.reason, why: why.clone() });
            // MQTT 5.0, section 4.11, which has no numbered statement.
            self.refer(connack.reason, connack.properties.server_reference.as_ref());
            let in_doubt = self.in_doubt;
            self.close(why);
            // A refusal leaves no doubt about what the broker made of this attempt.
            self.in_doubt = in_doubt;
            return;
        }
        let limits = Limits::new(&connack.properties, self.config.inflight_max, self.version());
        // [MQTT-3.2.2-21] the broker's Server Keep Alive replaces ours.
        let keep_alive_s = connack.properties.server_keep_alive_s.unwrap_or(self.config.connect.keep_alive_s);
        let accepted = self.accepted(keep_alive_s, &connack.properties);
        if let Some(id) = connack.properties.assigned_client_id {
            // [MQTT-3.2.2-16] without it a reconnect would begin a third session.
            self.config.connect.client_id = id;
        }
        let present = connack.session_present;
        self.outputs.push_back(Output::Connected { session_present: present });
        if present {
            self.outgoing.resume(!self.had_session);
            self.inbound.resume(self.in_doubt);
            if self.in_doubt {
                self.requests.renew_all(RetainHandling::SendIfNew);
            }
        } else {
            self.outgoing.start_over(&mut self.outputs);
            self.inbound.start_over();
            self.requests.renew_all(RetainHandling::Send);
        }
        self.had_session = true;
        self.in_doubt = false;
        self.heartbeat.connected(now_ms, round_trip_ms, accepted);
        self.link = Link::up(limits);
    }

    fn received_up(&mut self, packet: Packet) {
        let result = match packet {
            Packet::Publish(publish) => self.inbound.publish(publish, self.link_number, &mut self.outputs),
            Packet::PubRel(ack) => {
                self.inbound.pubrel(&ack, self.version(), &mut self.outputs);
                Ok(())
            }
            Packet::PubAck(ack) => self.outgoing.puback(ack, &mut self.outputs),
            Packet::PubRec(ack) => self.outgoing.pubrec(ack, &mut self.outputs),
            Packet::PubComp(ack) => self.outgoing.pubcomp(ack, &mut self.outputs),
            Packet::SubAck(suback) => self.requests.suback(suback, &mut self.outgoing.ids, &mut self.outputs),
            Packet::UnsubAck(unsuback) => {
                self.requests.unsuback(unsuback, &mut self.outgoing.ids, &mut self.outputs)
            }
            Packet::PingResp => Ok(()),
            Packet::Disconnect(disconnect) => {
                let words =
                    disconnect.properties.reason_string.as_deref().unwrap_or(disconnect.reason.text());
                let why = format!("the broker disconnected: {words} (0x{:02x})", disconnect.reason as u8);
                self.refer(disconnect.reason, disconnect.properties.server_reference.as_ref());
                return self.close(why);
            }
            other => Err((ReasonCode::ProtocolError, format!("the broker sent {}", name(&other)))),
        };
        if let Err((reason, why)) = result {
            self.fail(reason, why);
        }
    }

    fn ask(&mut self, token: u64, request: Request) {
        if let Err(error) = self.requests.accept(request) {
            self.outputs.push_back(Output::Answered { token, result: Err(error) });
        }
    }

    /// Hands out what the connection allows: acknowledgements, then requests, then publishes. Subscriptions
    /// go before publishes, so that an answer to a publish finds its subscription.
    fn send_what_is_due(&mut self) {
        let Link::Up(up) = &mut self.link else { return };
        self.inbound.send_acks(&mut self.outputs);
        self.requests.send(&up.limits, &mut self.outgoing.ids, &mut self.outputs);
        self.outgoing.send(&up.limits, &mut self.outputs);
    }

    fn tick(&mut self, now_ms: u64) {
        match &self.link {
            Link::Down => {}
            Link::AwaitingConnAck { deadline_ms, .. } => {
                if now_ms >= *deadline_ms {
                    let waited_ms = self.config.connect_timeout_ms;
                    self.close(format!("no CONNACK came within {waited_ms} ms"));
                }
            }
            Link::Up(_) => self.heartbeat.tick(now_ms),
        }
    }

    fn refer(&mut self, reason: ReasonCode, reference: Option<&ByteString>) {
        if matches!(reason, ReasonCode::UseAnotherServer | ReasonCode::ServerMoved) {
            self.outputs.push_back(Output::Referred { reason, reference: reference.cloned() });
        }
    }

    fn set_network(&mut self, name: ByteString) {
        let connect = &mut self.config.connect;
        if connect.version == ProtocolVersion::V5 {
            connect.properties.user_properties.retain(|(known, _)| *known != NETWORK_PROPERTY);
            connect.properties.user_properties.push((ByteString::from_static(NETWORK_PROPERTY), name));
        }
    }

    fn leave(&mut self) {
        if matches!(self.link, Link::Up(_)) {
            // What is due goes first.
            self.send_what_is_due();
            self.send_disconnect(ReasonCode::Success);
        }
        self.close("the client disconnected".to_owned());
    }

    /// Ends the connection over something the broker did.
    fn fail(&mut self, reason: ReasonCode, why: String) {
        if matches!(self.link, Link::Up(_)) && self.version() == ProtocolVersion::V5 {
            self.send_disconnect(reason);
        }
        self.close(why);
    }

    fn send_disconnect(&mut self, reason: ReasonCode) {
        let properties = DisconnectProperties::default();
        self.outputs.push_back(Output::Send(Packet::Disconnect(Disconnect {
            reason,
            properties: properties.into(),
        })));
    }

    fn close(&mut self, why: String) {
        self.close_after(Ended::Otherwise, why);
    }

    fn close_after(&mut self, ended: Ended, why: String) {
        match &self.link {
            Link::Down => return,
            Link::AwaitingConnAck { .. } => self.in_doubt = true,
            Link::Up(_) => {}
        }
        self.link = Link::Down;
        self.outgoing.disconnected();
        self.inbound.disconnected();
        self.requests.disconnected(&mut self.outgoing.ids);
        let at_once = self.heartbeat.ended(self.now_ms, ended);
        self.outputs.push_back(Output::Close { why });
        if at_once {
            self.outputs.push_back(Output::ReconnectAtOnce);
        }
    }
}

/// What is wrong with a packet, and the code to say so with.
type Violation = (ReasonCode, String);

fn name(packet: &Packet) -> &'static str {
    match packet {
        Packet::Connect(_) => "CONNECT",
        Packet::ConnAck(_) => "CONNACK",
        Packet::Publish(_) => "PUBLISH",
        Packet::PubAck(_) => "PUBACK",
        Packet::PubRec(_) => "PUBREC",
        Packet::PubRel(_) => "PUBREL",
        Packet::PubComp(_) => "PUBCOMP",
        Packet::Subscribe(_) => "SUBSCRIBE",
        Packet::SubAck(_) => "SUBACK",
        Packet::Unsubscribe(_) => "UNSUBSCRIBE",
        Packet::UnsubAck(_) => "UNSUBACK",
        Packet::PingReq => "PINGREQ",
        Packet::PingResp => "PINGRESP",
        Packet::Disconnect(_) => "DISCONNECT",
        Packet::Auth(_) => "AUTH",
    }
}
