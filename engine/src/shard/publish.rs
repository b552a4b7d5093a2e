//! A message comes in: from a client's PUBLISH, or as its will.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{Packet, PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Will, im};

use super::{Shard, Wait};
use crate::config::ReceiptsWanted;
use crate::message::{
    Delivery, Expiry, Message, MsgNo, compact, compact_properties, strip_broker_properties, user_property,
};
use crate::receipt;
use crate::record::{EndCounts, Entry, TrackedRecipient};
use crate::reserved::check_publish_topic;
use crate::route::{SessionKey, Subscriber};
use crate::session::Incoming;
use crate::{ConnId, Now};

/// Who publishes.
pub(super) struct Publisher {
    /// The session, if it still lives.
    pub(super) session: Option<SessionKey>,
    pub(super) user: ByteString,
    pub(super) client: ByteString,
}

/// A message that somebody wants accepted.
struct Offer {
    by: Publisher,
    topic: ByteString,
    payload: Bytes,
    qos: QoS,
    retain: bool,
    properties: PublishProperties,
    /// The packet id that a QoS 2 publish is remembered under.
    incoming: Option<PacketId>,
}

/// Bytes of a recipient's queue entry in a record, without subscription identifiers, and of its end when it
/// is told in the same record.
const QUEUED_BYTES: usize = 24 + 20;

/// Bytes of a recipient whose receipt is asked for, without its names.
const TRACKED_BYTES: usize = 16;

/// What the sender is told.
struct Accepted {
    reason: ReasonCode,
    seq: Option<u64>,
    id: ByteString,
}

/// Why a message is not accepted; nothing of it is kept.
pub(super) struct Refused {
    reason: ReasonCode,
    what: String,
}

impl Refused {
    fn new(reason: ReasonCode, what: impl Into<String>) -> Self {
        Self { reason, what: what.into() }
    }

    /// Whether trying again could never help.
    fn is_for_good(&self) -> bool {
        matches!(self.reason, ReasonCode::NotAuthorized | ReasonCode::TopicNameInvalid)
    }
}

/// One recipient: all of its subscriptions that match, taken together.
struct Target {
    session: SessionKey,
    qos: QoS,
    retain_as_published: bool,
    identifiers: Vec<u32>,
}

impl Shard {
    pub(super) fn publish(&mut self, now: Now, conn: ConnId, mut publish: Publish) {
        self.stats.publishes_in += 1;
        if let Err((reason, what)) = self.resolve_alias(conn, &mut publish) {
            return self.violate(now, conn, reason, &what);
        }
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (key, version) = (c.session, c.version);
        let packet_id = publish.packet_id.filter(|_| publish.qos > QoS::AtMostOnce);
        if let Some(packet_id) = packet_id {
            let repeated =
                publish.qos == QoS::ExactlyOnce && self.sessions[key].incoming.contains_key(&packet_id);
            c.unacknowledged = c.unacknowledged.saturating_add(1);
            // [MQTT-3.3.4-9] a client that sends more than the broker allowed breaks the protocol.
            if version == ProtocolVersion::V5 && c.unacknowledged > self.config.receive_maximum {
                let what = format!(
                    "more than {} QoS 1 and 2 publishes are unacknowledged",
                    self.config.receive_maximum
                );
                return self.violate(now, conn, ReasonCode::ReceiveMaximumExceeded, &what);
            }
            if repeated {
                return self.repeat_pubrec(conn, key, packet_id);
            }
        }
        let qos = publish.qos;
        let topic = publish.topic.clone();
        let session = &self.sessions[key];
        let offer = Offer {
            by: Publisher {
                session: Some(key),
                user: session.user.clone(),
                client: session.client_id.clone(),
            },
            topic: publish.topic,
            payload: publish.payload,
            qos,
            retain: publish.retain,
            properties: publish.properties,
            incoming: packet_id.filter(|_| qos == QoS::ExactlyOnce),
        };
        match (self.accept(now, offer), packet_id) {
            (Ok(accepted), Some(packet_id)) => self.acknowledge(conn, qos, packet_id, &accepted),
            (Ok(_), None) => {}
            (Err(refused), packet_id) => self.refuse(now, conn, qos, packet_id, &topic, &refused),
        }
    }

    /// [MQTT-3.3.2-12] a topic alias stands for the topic it was last sent with on this connection.
    fn resolve_alias(&mut self, conn: ConnId, publish: &mut Publish) -> Result<(), (ReasonCode, String)> {
        let Some(alias) = publish.properties.topic_alias.take() else { return Ok(()) };
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        let max = self.config.topic_alias_max;
        // [MQTT-3.3.2-9] no alias above the broker's Topic Alias Maximum.
        if alias.get() > max {
            return Err((ReasonCode::TopicAliasInvalid, format!("topic alias {alias} is above {max}")));
        }
        if !publish.topic.is_empty() {
            c.aliases.insert(alias, compact(&publish.topic));
            return Ok(());
        }
        match c.aliases.get(&alias) {
            Some(topic) => publish.topic = topic.clone(),
            None => return Err((ReasonCode::ProtocolError, format!("topic alias {alias} has no topic yet"))),
        }
        Ok(())
    }

    /// [MQTT-4.3.3-10] a QoS 2 publish sent again before its PUBREL is acknowledged and not taken again.
    fn repeat_pubrec(&mut self, conn: ConnId, key: SessionKey, packet_id: PacketId) {
        let known = &self.sessions[key].incoming[&packet_id];
        let accepted = Accepted { reason: ReasonCode::Success, seq: known.seq, id: known.id.clone() };
        // The first PUBREC may still wait for its record, on a connection that is gone.
        let wait = Wait::Ticket(self.gate.last_ticket());
        self.send_acceptance(conn, QoS::ExactlyOnce, packet_id, &accepted, wait);
    }

    fn acknowledge(&mut self, conn: ConnId, qos: QoS, packet_id: PacketId, accepted: &Accepted) {
        self.send_acceptance(conn, qos, packet_id, accepted, Wait::Record);
    }

    fn send_acceptance(
        &mut self,
        conn: ConnId,
        qos: QoS,
        packet_id: PacketId,
        accepted: &Accepted,
        wait: Wait,
    ) {
        let mut ack = self.ack(conn, packet_id, accepted.reason, None);
        if self.conns.get(&conn).is_some_and(|c| c.problem_information) {
            let properties = &mut ack.properties.user_properties;
            properties.push((im::IM_ID.into(), accepted.id.clone()));
            if let Some(seq) = accepted.seq {
                properties.push((im::IM_SEQ.into(), seq.to_string().into()));
            }
        }
        let packet = if qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
        self.send_fitting(conn, wait, packet);
    }

    fn refuse(
        &mut self,
        now: Now,
        conn: ConnId,
        qos: QoS,
        packet_id: Option<PacketId>,
        topic: &ByteString,
        refused: &Refused,
    ) {
        self.stats.dropped += 1;
        let Some(c) = self.conns.get(&conn) else { return };
        let (key, version) = (c.session, c.version);
        let what = format!("publish to {topic:?} refused: {}", refused.what);
        let Some(packet_id) = packet_id else {
            return self.tell_error(now, key, "publish", &what);
        };
        if version == ProtocolVersion::V5 {
            let ack = self.ack(conn, packet_id, refused.reason, Some(&what));
            let packet = if qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
            return self.send_fitting(conn, Wait::Record, packet);
        }
        if !refused.is_for_good() {
            // 3.1.1 has no code for it: without an acknowledgement the client keeps the message.
            return self.violate(now, conn, refused.reason, &what);
        }
        // [MQTT-3.3.5-2] 3.1.1: what is forbidden for good is acknowledged and discarded.
        self.tell_error(now, key, "publish", &what);
        let accepted = Accepted { reason: ReasonCode::Success, seq: None, id: ByteString::new() };
        if qos == QoS::ExactlyOnce {
            self.take_incoming(key, packet_id, None, ByteString::new());
        }
        self.acknowledge(conn, qos, packet_id, &accepted);
    }

    /// Remembers a QoS 2 publish until its PUBREL.
    fn take_incoming(&mut self, key: SessionKey, packet_id: PacketId, seq: Option<u64>, id: ByteString) {
        let session = &mut self.sessions[key];
        session.incoming.insert(packet_id, Incoming { seq, id: id.clone() });
        if session.durable {
            let session = session.no;
            self.write(&Entry::IncomingTaken { session, packet_id, seq, id });
        }
    }

    /// Publishes a will. Nobody waits for its acknowledgement.
    pub(super) fn publish_will(&mut self, now: Now, by: Publisher, will: Will) {
        let Will { topic, payload, qos, retain, properties, .. } = will;
        let offer = Offer { by, topic, payload, qos, retain, properties, incoming: None };
        if self.accept(now, offer).is_err() {
            self.stats.dropped += 1;
        }
    }

    /// Checks a will when it is left: nobody hears of it when it is refused later.
    pub(super) fn check_will(&mut self, will: &Will) -> Result<(), (ReasonCode, String)> {
        let checked = self.check_topic(&will.topic).and_then(|()| self.message_id(&will.properties));
        checked.map(drop).map_err(|refused| (refused.reason, refused.what))
    }

    /// Takes a message: number, record, retained, queues. One atomic record, or nothing.
    fn accept(&mut self, now: Now, mut offer: Offer) -> Result<Accepted, Refused> {
        self.check_topic(&offer.topic)?;
        strip_broker_properties(&mut offer.properties.user_properties);
        let id = self.message_id(&offer.properties)?;
        let rule = self.conversations.rule(&offer.topic);
        let is_conversation = rule.is_some();
        let asked = user_property(&offer.properties.user_properties, im::IM_RECEIPT);
        let wanted = asked.and_then(|v| ReceiptsWanted::parse(v)).or(rule.flatten());

        let targets = self.targets(&offer);
        let stored_recipient = targets.iter().any(|t| {
            self.sessions[t.session].durable && (is_conversation || t.qos.min(offer.qos) > QoS::AtMostOnce)
        });
        // [MQTT-3.3.1-6] an empty payload removes the retained message, [MQTT-3.3.1-5] others replace it.
        let set_retained = offer.retain && !offer.payload.is_empty();
        let clear_retained =
            offer.retain && offer.payload.is_empty() && self.retained.get(&offer.topic).is_some();
        let remember = offer.incoming.zip(offer.by.session);
        let has_recipient = targets.iter().any(|t| Some(t.session) != offer.by.session);
        let tracked = wanted.filter(|_| has_recipient);
        let recorded = stored_recipient
            || set_retained
            || clear_retained
            || is_conversation
            || tracked.is_some()
            || remember.is_some_and(|(_, key)| self.sessions[key].durable);
        if recorded && self.store_full {
            return Err(Refused::new(ReasonCode::QuotaExceeded, "the broker's store is full"));
        }
        if set_retained {
            self.check_retained(&offer)?;
        }
        if recorded {
            self.check_record(&targets, tracked.is_some())?;
        }
        let head = match is_conversation {
            true => Some(self.conversations.next(&offer.topic, now.unix_ms).map_err(|e| {
                Refused::new(
                    ReasonCode::QuotaExceeded,
                    format!("the broker has {} conversations, its limit", e.limit),
                )
            })?),
            false => None,
        };

        if recorded || offer.qos > QoS::AtMostOnce {
            // It may stay for long: a slice would keep the read buffer that it came in.
            (offer.topic, offer.payload) = (compact(&offer.topic), Bytes::copy_from_slice(&offer.payload));
            compact_properties(&mut offer.properties);
        }
        let seq = head.map(|h| h.seq);
        let no = self.take_message_no();
        // QoS 0 skips the gate, except in a conversation.
        let gated = recorded && (is_conversation || offer.qos > QoS::AtMostOnce);
        let message = Arc::new(Message {
            no,
            ticket: if gated { self.gate.next_ticket() } else { 0 },
            expiry: offer.properties.message_expiry_interval_s.take().map(|s| Expiry::after(s, now)),
            topic: offer.topic,
            payload: offer.payload,
            qos: offer.qos,
            retain: offer.retain,
            seq,
            id: id.clone(),
            from: offer.by.user.clone(),
            client: offer.by.client,
            ts_unix_ms: head.map_or(now.unix_ms, |h| h.ts_unix_ms),
            properties: offer.properties,
        });
        if stored_recipient || set_retained {
            self.write_message(&message, set_retained);
        } else if let Some(head) = head {
            let topic = message.topic.clone();
            self.write(&Entry::Conversation { topic, seq: head.seq, ts_unix_ms: head.ts_unix_ms });
        }
        if clear_retained {
            self.retained.clear(&message.topic);
            self.write(&Entry::RetainedCleared { topic: message.topic.clone() });
            self.watch_retained();
        } else if set_retained {
            self.retained.set(message.clone());
            self.watch_retained();
        }
        if let Some((packet_id, key)) = remember {
            self.take_incoming(key, packet_id, seq, id.clone());
        }
        if let Some(wanted) = tracked {
            self.track(&message, wanted, &offer.by.user, &targets, offer.by.session);
        } else if wanted.is_some() && !is_conversation {
            let payload = receipt::undeliverable(&message.topic, &id, now.unix_ms);
            self.turn.told.push(receipt::Told { sender: offer.by.user, payload });
        }
        let nobody = targets.is_empty() && !is_conversation;
        for target in targets {
            let retain = message.retain && target.retain_as_published;
            // [MQTT-3.8.4-8] the lower of the two levels.
            let qos = target.qos.min(message.qos);
            let subscription_identifiers = target.identifiers;
            let message = message.clone();
            let delivery = Delivery { message, qos, retain, is_copy: false, subscription_identifiers };
            self.deliver(now, target.session, delivery);
        }
        let reason = if nobody { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success };
        Ok(Accepted { reason, seq, id })
    }

    fn check_topic(&self, topic: &str) -> Result<(), Refused> {
        check_publish_topic(topic).map_err(|(reason, what)| Refused::new(reason, what))?;
        let levels = topic.split('/').count();
        let max = self.config.topic_levels_max;
        if levels > max {
            let what = format!("it has {levels} levels, the limit is {max}");
            return Err(Refused::new(ReasonCode::TopicNameInvalid, what));
        }
        Ok(())
    }

    fn check_retained(&self, offer: &Offer) -> Result<(), Refused> {
        let known = self.retained.get(&offer.topic);
        let (messages_max, bytes_max) = (self.config.retained_messages_max, self.config.retained_bytes_max);
        let what = if known.is_none() && self.retained.len() >= messages_max {
            format!("the broker keeps {messages_max} retained messages, its limit")
        } else {
            let others = self.retained.bytes() - known.map_or(0, |m| m.bytes());
            if others + offer.payload.len() <= bytes_max {
                return Ok(());
            }
            format!("the broker's retained messages may have {bytes_max} bytes, {others} are taken")
        };
        Err(Refused::new(ReasonCode::QuotaExceeded, what))
    }

    /// One record holds the message and all its recipients, so their number has a limit.
    fn check_record(&self, targets: &[Target], tracked: bool) -> Result<(), Refused> {
        let durable = targets.iter().filter(|t| self.sessions[t.session].durable);
        let queued: usize = durable.map(|t| QUEUED_BYTES + 4 * t.identifiers.len()).sum();
        let bytes = queued + targets.len() * TRACKED_BYTES * usize::from(tracked);
        let max = self.config.record_recipients_bytes_max;
        if bytes <= max {
            return Ok(());
        }
        let what =
            format!("its {} recipients need {bytes} bytes in one record, {max} are allowed", targets.len());
        Err(Refused::new(ReasonCode::QuotaExceeded, what))
    }

    fn message_id(&mut self, properties: &PublishProperties) -> Result<ByteString, Refused> {
        match user_property(&properties.user_properties, im::IM_ID) {
            None => Ok(format!("{:016x}", self.rng.u64(..)).into()),
            Some(id) if (1..=im::IM_ID_CHARS_MAX).contains(&id.chars().count()) => Ok(compact(id)),
            Some(id) => {
                let what = format!(
                    "im-id has {} characters, 1 to {} are allowed",
                    id.chars().count(),
                    im::IM_ID_CHARS_MAX
                );
                Err(Refused::new(ReasonCode::ImplementationSpecificError, what))
            }
        }
    }

    /// Collects the recipients. [MQTT-3.3.4-2] overlapping subscriptions of one session give one copy at
    /// the highest level, [MQTT-3.3.4-4] with all their identifiers.
    fn targets(&mut self, offer: &Offer) -> Vec<Target> {
        let mut matches = std::mem::take(&mut self.turn.matches);
        matches.clear();
        self.routes.matching(&offer.topic, &mut matches);
        // [MQTT-3.8.3-3] No Local keeps a client's own messages away.
        matches.retain(|m| !(m.options.no_local && Some(m.session) == offer.by.session));
        matches.sort_unstable_by_key(|m| (m.session, m.identifier));
        let targets = matches.chunk_by(|a, b| a.session == b.session).map(Target::of).collect();
        self.turn.matches = matches;
        targets
    }

    fn track(
        &mut self,
        message: &Message,
        wanted: ReceiptsWanted,
        sender: &ByteString,
        targets: &[Target],
        publisher: Option<SessionKey>,
    ) {
        let others = targets.iter().filter(|t| Some(t.session) != publisher);
        let listed = self.receipts.are_listed(others.clone().count());
        let recipients: Vec<_> = others
            .map(|t| {
                let s = &self.sessions[t.session];
                let names = listed.then(|| (s.client_id.clone(), s.user.clone()));
                let (client_id, user) = names.unwrap_or_default();
                TrackedRecipient { session: s.no, client_id, user }
            })
            .collect();
        let of = recipients.len() as u32;
        let ended = EndCounts::default();
        self.write(&Entry::Tracked {
            message: message.no,
            topic: message.topic.clone(),
            seq: message.seq,
            id: message.id.clone(),
            sender: sender.clone(),
            wanted,
            of,
            ended,
            recipients: recipients.clone(),
        });
        let (topic, id) = (message.topic.clone(), message.id.clone());
        let seq = message.seq;
        self.receipts.track(message.no, topic, seq, id, sender.clone(), wanted, of, ended, recipients);
        self.watch_expiry(message);
    }

    pub(super) fn take_message_no(&mut self) -> MsgNo {
        let no = MsgNo(self.next_message);
        self.next_message += 1;
        no
    }

    pub(super) fn write_message(&mut self, message: &Message, set_retained: bool) {
        self.turn.record.push_message(message, set_retained);
    }
}

impl Target {
    fn of(matches: &[Subscriber]) -> Self {
        let mut identifiers: Vec<u32> = matches.iter().map(|m| m.identifier).filter(|i| *i != 0).collect();
        identifiers.dedup();
        identifiers.truncate(usize::from(u16::MAX));
        Self {
            session: matches[0].session,
            qos: matches.iter().map(|m| m.options.qos).max().unwrap_or_default(),
            retain_as_published: matches.iter().any(|m| m.options.retain_as_published),
            identifiers,
        }
    }
}
