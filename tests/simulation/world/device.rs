//! A client that is the SDK's own state machine.

use std::collections::{BTreeMap, VecDeque};

use device_sdk::client::{Core, CoreConfig, Input, Output};
use device_sdk::{AckToken, PublishError};
use protocol::{Connect, Packet, QoS, SubscribeFilter, SubscribeOptions};

use super::actor::{connect_packet, publish_packet, taken};
use super::cast::Role;
use crate::simulation::history::{Event, History, Number, Who};

pub(in crate::simulation) struct Device {
    who: Who,
    core: Core,
    pub(super) is_connected: bool,
    /// CONNACK came once with success.
    is_established: bool,
    /// The core gave the connection up.
    pub(super) hung_up: bool,
    /// Packets handed out by the core and not on their way yet.
    outbox: VecDeque<Packet>,
    /// Publishes whose end was not told.
    open: BTreeMap<Number, u64>,
    /// Messages that the program has not done with.
    unacked: VecDeque<AckToken>,
    filters: Vec<(&'static str, QoS)>,
    held: usize,
    /// What a publish that the program makes a second time adds to its token.
    again: u64,
}

/// The token of a subscription; those of publishes are above.
const SUBSCRIPTIONS: u64 = 0;

/// What tokens of the same message made again differ by.
const AGAIN: u64 = 1 << 32;

impl Device {
    pub(super) fn new(who: Who, role: &'static Role) -> Self {
        let config = CoreConfig {
            connect: connect_packet(role, false, None),
            inflight_max: 6,
            manual_ack: true,
            connect_timeout_ms: 10_000,
        };
        let mut device = Self {
            who,
            core: Core::new(config),
            is_connected: false,
            is_established: false,
            hung_up: false,
            outbox: VecDeque::new(),
            open: BTreeMap::new(),
            unacked: VecDeque::new(),
            filters: Vec::new(),
            held: 0,
            again: 0,
        };
        for (at, (filter, qos)) in role.filters.iter().enumerate() {
            device.filters.push((filter, *qos));
            let filters = vec![SubscribeFilter {
                filter: (*filter).into(),
                options: SubscribeOptions { qos: *qos, ..SubscribeOptions::default() },
            }];
            let (token, user_properties) = (SUBSCRIPTIONS + at as u64, Vec::new());
            device.core.handle_input(0, Input::Subscribe { token, filters, user_properties });
        }
        device
    }

    pub(super) fn connect(&mut self, now_ms: u64, history: &mut History) -> Result<Box<Connect>, String> {
        self.lost(now_ms, history)?;
        (self.hung_up, self.is_connected) = (false, false);
        self.outbox.clear();
        self.input(now_ms, Input::Opened, 0, history)?;
        let Some(Packet::Connect(connect)) = self.outbox.pop_front() else {
            return Err(format!("c{}: the core did not send CONNECT first", self.who));
        };
        history.push(Event::Connecting { who: self.who, anew: connect.clean_start, will: None });
        Ok(connect)
    }

    pub(super) fn lost(&mut self, now_ms: u64, history: &mut History) -> Result<(), String> {
        self.is_connected = false;
        self.unacked.clear();
        self.input(now_ms, Input::Closed { why: "the link is gone".to_owned() }, 0, history)
    }

    pub(super) fn publish(
        &mut self,
        now_ms: u64,
        number: Number,
        history: &mut History,
    ) -> Result<(), String> {
        let Packet::Publish(publish) = publish_packet(history, number, None, false) else {
            return Err("no PUBLISH".to_owned());
        };
        self.again += AGAIN;
        let token = self.again + number;
        if publish.qos > QoS::AtMostOnce {
            *self.open.entry(number).or_default() += 1;
        }
        self.input(now_ms, Input::Publish { token, publish }, 0, history)
    }

    pub(super) fn take(
        &mut self,
        now_ms: u64,
        packet: Packet,
        sent_ms: u64,
        history: &mut History,
    ) -> Result<(), String> {
        if let Packet::Publish(publish) = &packet {
            let number = taken(&publish.topic, &publish.payload, publish, sent_ms).number();
            let (packet_id, dup) = (publish.packet_id, publish.dup);
            history.push(Event::Came { who: self.who, packet_id, number, dup });
        }
        self.input(now_ms, Input::Received(packet), sent_ms, history)
    }

    /// The program is done with the oldest message it has.
    pub(super) fn acknowledge(&mut self, now_ms: u64, history: &mut History) -> Result<(), String> {
        match self.unacked.pop_front() {
            Some(token) => self.input(now_ms, Input::Ack(token), 0, history),
            None => Ok(()),
        }
    }

    pub(super) fn tick(&mut self, now_ms: u64, history: &mut History) -> Result<(), String> {
        if self.core.next_deadline_ms().is_some_and(|due_ms| due_ms <= now_ms) {
            self.input(now_ms, Input::Tick, 0, history)?;
        }
        Ok(())
    }

    fn input(
        &mut self,
        now_ms: u64,
        input: Input,
        sent_ms: u64,
        history: &mut History,
    ) -> Result<(), String> {
        self.core.handle_input(now_ms, input);
        while let Some(output) = self.core.poll_output() {
            self.output(output, sent_ms, history)?;
        }
        Ok(())
    }

    fn output(&mut self, output: Output, sent_ms: u64, history: &mut History) -> Result<(), String> {
        let who = self.who;
        match output {
            Output::Send(packet) => {
                if let Packet::Subscribe(subscribe) = &packet {
                    for asked in &subscribe.filters {
                        let known = self.filters.iter().find(|(f, _)| *f == &*asked.filter);
                        let (filter, qos) = *known.ok_or("a filter that nobody asked for")?;
                        // It never asks for the past, so the time says nothing.
                        let (from, at_unix_ms) = (None, 0);
                        history.push(Event::Subscribing { who, filter, qos, from, at_unix_ms });
                    }
                }
                self.outbox.push_back(packet);
            }
            Output::Close { why } => {
                history.note(format_args!("c{who} hangs up: {why}"));
                (self.hung_up, self.is_connected) = (true, false);
            }
            Output::Connected { session_present: is_present } => {
                history.push(Event::Connected { who, is_present });
                if self.is_established && !is_present {
                    return Err(format!("c{who}: the session that CONNACK vouched for is gone"));
                }
                (self.is_established, self.is_connected) = (true, true);
            }
            Output::Refused { why, .. } => return Err(format!("c{who}: connect refused: {why}")),
            Output::Referred { reference, .. } => {
                return Err(format!("c{who}: referred to {reference:?}, yet there is one broker"));
            }
            // Its Keep Alive is fixed, and every run decides itself when it connects again.
            Output::Heartbeat(_) | Output::ReconnectAtOnce => {}
            Output::Keep(_) | Output::Forget(_) => return Err(format!("c{who}: nothing is to be kept")),
            Output::Message(incoming) => {
                let publish = protocol::Publish {
                    dup: incoming.dup,
                    qos: incoming.qos,
                    retain: incoming.retain,
                    properties: incoming.properties.into(),
                    ..protocol::Publish::default()
                };
                let taken = taken(&incoming.topic, &incoming.payload, &publish, sent_ms);
                history.push(Event::Took { who, taken });
                self.unacked.extend(incoming.ack);
            }
            Output::Published { token, result } => self.ended(token % AGAIN, result, history)?,
            Output::Answered { token, result } => {
                let reasons = result.map_err(|e| format!("c{who}: subscribe: {e}"))?;
                if reasons.iter().any(|r| r.is_failure()) {
                    return Err(format!("c{who}: subscribe refused: {reasons:?}"));
                }
                let (filter, _) = self.filters[(token - SUBSCRIPTIONS) as usize];
                self.held += 1;
                history.push(Event::Subscribed { who, filter });
            }
            Output::SubscriptionRefused { filter, reason } => {
                return Err(format!("c{who}: {filter} refused: {reason:?}"));
            }
        }
        Ok(())
    }

    fn ended(
        &mut self,
        number: Number,
        result: Result<device_sdk::Published, PublishError>,
        history: &mut History,
    ) -> Result<(), String> {
        let is_qos_0 = history.message(number).is_some_and(|m| m.qos == QoS::AtMostOnce);
        if let Some(open) = self.open.get_mut(&number) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&number);
            }
        }
        match result {
            Ok(_) if is_qos_0 => {}
            Ok(published) => {
                let (seq, is_dup) = (published.seq, published.duplicate);
                history.push(Event::Acked { number, seq, is_dup });
            }
            Err(PublishError::Refused { reason, .. }) => history.push(Event::Refused { number, reason }),
            Err(PublishError::ConnectionLost) if is_qos_0 => {}
            Err(error) => return Err(format!("c{}: {number}: {error}", self.who)),
        }
        Ok(())
    }

    pub(super) fn next_packet(&mut self, history: &mut History) -> Option<Packet> {
        let packet = self.outbox.pop_front()?;
        if let Packet::PubAck(ack) | Packet::PubComp(ack) = &packet {
            history.push(Event::Done { who: self.who, packet_id: ack.packet_id });
        }
        Some(packet)
    }

    /// Whether all its subscriptions were acknowledged once.
    pub(super) fn is_subscribed(&self) -> bool {
        self.held >= self.filters.len()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.is_connected
            && self.is_subscribed()
            && self.open.is_empty()
            && self.outbox.is_empty()
            && self.unacked.is_empty()
    }
}
