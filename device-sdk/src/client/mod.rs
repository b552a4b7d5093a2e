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

mod aliases;
mod heartbeat;
mod incoming;
mod interface;
mod link;
mod outgoing;
mod requests;

use std::collections::VecDeque;

use bytestring::ByteString;
use protocol::{Disconnect, DisconnectProperties, ProtocolVersion, ReasonCode, RetainHandling};

use crate::heartbeat::{Ended, Heartbeat};
use aliases::Aliases;
use incoming::Inbound;
use link::{Limits, Link};
use outgoing::Outgoing;
use requests::{Request, Requests};

/// What [`Output::Send`] and [`Input::Received`] carry, and its size on the wire.
pub use protocol::{Packet, encoded_len};

pub use incoming::Received;
pub use interface::{CoreConfig, Input, Output};
pub use outgoing::{WAITING_BYTES_MAX, WAITING_MAX};
pub use requests::{FILTERS_MAX, REQUESTS_MAX, SUBSCRIPTIONS_MAX};

/// The user property of CONNECT that names the network.
pub(crate) const NETWORK_PROPERTY: &str = "im-net";

/// The state machine, see the module.
///
/// ```
/// use device_sdk::client::{Core, Input, Output, Packet};
/// use device_sdk::Options;
///
/// let mut core = Core::new(Options::new("broker.example:1883", "truck-7").core_config()?);
/// // The transport is the program's own: it has connected, and sends what the core wants.
/// core.handle_input(0, Input::Opened);
/// let Some(Output::Send(Packet::Connect(connect))) = core.poll_output() else { panic!("CONNECT is first") };
/// assert_eq!(connect.client_id, "truck-7");
/// assert!(core.poll_output().is_none() && !core.can_send());
/// // No CONNACK came within the time for it.
/// let deadline_ms = core.next_deadline_ms().expect("it waits");
/// core.handle_input(deadline_ms, Input::Tick);
/// assert!(matches!(core.poll_output(), Some(Output::Close { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

    /// Makes the core ask for identifiers of incoming QoS 2 messages to be kept, and tells it those that an earlier run of the program
    /// kept: such a message is not handed over again. To be called before the first input.
    ///
    /// ```
    /// use device_sdk::Options;
    /// use device_sdk::client::Core;
    ///
    /// let mut core = Core::new(Options::new("broker.example:1883", "truck-7").core_config()?);
    /// // What the program kept for `Output::Keep` and did not drop for `Output::Forget`.
    /// let kept = Vec::new();
    /// core.keep_received(kept);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep_received(&mut self, kept: Vec<Received>) {
        self.inbound.keep(kept);
    }

    /// Makes the core send at most so many topics of each connection by a number after the first time, as far as the broker takes
    /// that; see [`crate::Options::topic_aliases_max`].
    pub fn shorten_topics(&mut self, aliases_max: u16) {
        self.outgoing.aliases = Aliases::with_max(aliases_max);
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
            Input::Ack(token) => self.inbound.ack(&token, &mut self.outputs),
            Input::Kept(received) => self.inbound.kept(&received),
            Input::Forgotten(id) => {
                let link = matches!(self.link, Link::Up(_)).then_some(self.link_number);
                self.inbound.forgotten(id, link, &mut self.outputs);
            }
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
            self.inbound.start_over(&mut self.outputs);
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
                let version = self.version();
                self.inbound.pubrel(&ack, version, self.link_number, &mut self.outputs);
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
