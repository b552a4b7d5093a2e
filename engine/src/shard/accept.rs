//! Taking a message, whoever offers it: its checks, its number, its record, and who gets it.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{PacketId, PublishProperties, QoS, ReasonCode, Shared, im};

use super::Shard;
use super::backlog::Work;
use super::heard::{Known, Targets};
use super::limits::levels_of;
use super::publish::check_payload_format;
use super::share::Load;
use crate::Now;
use crate::body::{Body, BodySlot};
use crate::config::ReceiptsWanted;
use crate::conversation::Head;
use crate::dedup::Fingerprint;
use crate::memory::Held;
use crate::message::{
    Delivery, Expiry, Flag, Identifiers, Message, MessageId, MsgNo, Origin, Share, compact,
    compact_properties, queue_bytes, strip_broker_properties, user_property,
};
use crate::planted::Planted;
use crate::principal::Principal;
use crate::queueing;
use crate::receipt;
use crate::record::{EndCounts, Entry, Form, Recipients, TrackedRecipient};
use crate::reserved::check_publish_topic;
use crate::route::{Matches, SessionKey, Subscriber};

/// Who publishes.
pub(super) struct Publisher {
    /// The session, if it still lives.
    pub(super) session: Option<SessionKey>,
    pub(super) user: ByteString,
    pub(super) client: ByteString,
    /// Who left a will, if that is known.
    pub(super) principal: Option<Arc<Principal>>,
}

/// A message that somebody wants accepted.
pub(super) struct Offer {
    pub(super) by: Publisher,
    pub(super) topic: ByteString,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) properties: Shared<PublishProperties>,
    /// The packet id that a QoS 2 publish is remembered under.
    pub(super) incoming: Option<PacketId>,
}

/// Bytes of a recipient's queue entry in a record, without subscription identifiers, and of its end when it
/// is told in the same record.
const QUEUED_BYTES: usize = 24 + 20;

/// Bytes more of one that is a shared group, where each of its entries names it.
const GROUP_BYTES: usize = 3 * 8;

/// Bytes of a recipient whose receipt is asked for, without its names.
const TRACKED_BYTES: usize = 17;

/// Bytes of one that is only counted: its number as a step above the one before.
const COUNTED_BYTES: usize = 5;

/// What the sender is told.
pub(super) struct Accepted {
    pub(super) reason: ReasonCode,
    pub(super) seq: Option<u64>,
    pub(super) id: MessageId,
    /// Whether it was accepted before.
    pub(super) is_repeat: bool,
}

/// Why a message is not accepted; nothing of it is kept.
pub(super) struct Refused {
    pub(super) reason: ReasonCode,
    pub(super) what: String,
}

impl Refused {
    pub(super) fn new(reason: ReasonCode, what: impl Into<String>) -> Self {
        Self { reason, what: what.into() }
    }

    /// Whether trying again could never help.
    pub(super) fn is_for_good(&self) -> bool {
        matches!(self.reason, ReasonCode::NotAuthorized | ReasonCode::TopicNameInvalid)
    }
}

/// One recipient: all of its subscriptions that match, taken together.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) session: SessionKey,
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) identifiers: Identifiers,
    /// The shared group that chose the session, if one did: then the group is the recipient.
    pub(super) share: Option<Arc<Share>>,
    /// See [`Origin::Group`].
    kept: bool,
    pub(super) form: Form,
    /// The session is a recipient by its plain subscriptions already.
    is_second: bool,
    /// Whether it gets the message out of the conversation, not out of its queue.
    pub(super) is_covered: bool,
}

/// What taking a message will mean.
struct Plan {
    /// What it will be known by when it comes again.
    given_id: Option<Fingerprint>,
    /// See [`queue_bytes`].
    bytes: usize,
    /// What stands for the messages that it takes the place of in queues.
    collapse: Option<NonZeroU64>,
    /// Whether queues are drained of it first.
    is_high: bool,
    is_conversation: bool,
    /// Whether the sender wants receipts.
    wanted: bool,
    /// Whether the sender wants to hear who read it.
    read_wanted: bool,
    /// Which, if there is somebody to have receipts of.
    tracked: Option<ReceiptsWanted>,
    targets: Targets,
    /// Whether some of them get it later.
    in_portions: bool,
    /// Whether the message goes into a queue or a flight that survives a restart.
    stored_recipient: bool,
    set_retained: bool,
    clear_retained: bool,
    /// Whether anything of it must be durable before it is acknowledged.
    recorded: bool,
}

impl Shard {
    /// Takes a message: number, record, retained, queues. One atomic record, or nothing.
    pub(super) fn accept(&mut self, now: Now, offer: &mut Offer) -> Result<Accepted, Refused> {
        let known = self.known_of(&offer.topic);
        let id = self.check_offer(offer, known.as_ref())?;
        let given_id = self.given_id(&offer.topic, &offer.properties);
        let before = given_id.and_then(|given| self.dedup.find(&offer.by.user, given, now.unix_ms));
        if let Some(before) = before {
            return Ok(self.accept_again(offer, before));
        }
        let plan = self.plan(offer, given_id, known.as_ref())?;
        // The last that can refuse.
        let head = if plan.is_conversation { Some(self.next_head(now, &offer.topic)?) } else { None };
        // Another one is gone when its turn ends.
        let may_stay = plan.recorded || plan.in_portions || offer.qos > QoS::AtMostOnce;
        if may_stay {
            // It may stay for long: a slice would keep the read buffer that it came in.
            offer.payload = Bytes::copy_from_slice(&offer.payload);
            if known.is_none() {
                offer.topic = compact(&offer.topic);
            }
            if let Some(properties) = offer.properties.get_mut() {
                compact_properties(properties);
            }
        }
        if let Some(Known { topic, .. }) = known {
            offer.topic = topic;
        }
        let (topic, payload) = (std::mem::take(&mut offer.topic), std::mem::take(&mut offer.payload));
        let no = self.take_message_no();
        // QoS 0 skips the gate, except in a conversation.
        let gated = plan.recorded && (plan.is_conversation || offer.qos > QoS::AtMostOnce);
        let expiry_s = offer.properties.get_mut().and_then(|p| p.message_expiry_interval_s.take());
        let expiry = expiry_s.map(|s| Expiry::after(s, now));
        let (bytes, payload_bytes) = (plan.bytes.min(u32::MAX as usize) as u32, payload.len() as u32);
        let body = Body {
            payload,
            id: id.clone(),
            from: offer.by.user.clone(),
            client: std::mem::take(&mut offer.by.client),
            properties: std::mem::take(&mut offer.properties),
            is_lost: false,
            // Before it stands where others see it: to change it there costs more than to make it.
            held: match may_stay {
                true => self.bodies.hold((bytes as usize).saturating_sub(topic.len())),
                false => Held::default(),
            },
        };
        let message = Message {
            no,
            record: if plan.recorded { self.gate.next_ticket() } else { 0 },
            is_gated: gated,
            is_written: Flag::default(),
            is_pinned: false,
            is_high: plan.is_high,
            qos: offer.qos,
            retain: offer.retain,
            topic,
            expiry,
            seq: head.map(|h| h.seq),
            ts_unix_ms: head.map_or(now.unix_ms, |h| h.ts_unix_ms),
            collapse: plan.collapse,
            bytes,
            payload_bytes,
            body: if plan.recorded { body.into() } else { BodySlot::of_one_that_stays(body) },
            held: Held::default(),
        };
        let message = if may_stay { self.bodies.count_head(message) } else { Arc::new(message) };
        self.keep(now, &message, &plan);
        let nobody = plan.targets.is_empty() && !plan.is_conversation;
        if let Some(given_id) = plan.given_id {
            self.remember_id(now, &message, given_id, nobody);
        }
        self.posted(now, &message);
        if plan.read_wanted {
            let others = plan.targets.iter().filter(|t| t.is_other_than(offer.by.session));
            let others: Vec<_> = others.map(|target| target.session).collect();
            self.wish_read(now, &message, &id.text(), &offer.by.user, &others);
        }
        if let Some((packet_id, key)) = offer.incoming.zip(offer.by.session) {
            self.take_incoming(key, packet_id, message.seq, id.clone());
        }
        if let Some(wanted) = plan.tracked {
            self.track(&message, &id.text(), wanted, &offer.by.user, &plan.targets, offer.by.session);
            // Its conversation may keep less than this one message: then no cursor brings it.
            if message.seq.is_some_and(|seq| self.conversations.get(&message.topic, seq).is_none()) {
                self.backlog.push_back(Work::GivenUp { message: no, after: None });
            }
        } else if plan.wanted && !plan.is_conversation {
            let payload = receipt::undeliverable(&message.topic, &id.text(), now.unix_ms);
            self.turn.told.push(receipt::Told { sender: offer.by.user.clone(), payload });
        }
        if plan.in_portions {
            self.fan_out(now, &plan.targets, &message);
        } else {
            for target in plan.targets.iter() {
                self.deliver_to(now, target, &message);
            }
        }
        let reason = if nobody { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success };
        Ok(Accepted { reason, seq: message.seq, id, is_repeat: false })
    }

    /// Gives a message to one of its recipients.
    pub(super) fn deliver_to(&mut self, now: Now, target: &Target, message: &Arc<Message>) {
        let retain = message.retain && target.retain_as_published;
        // [MQTT-3.8.4-8], [MQTT-4.8.2-3] the lower of the two levels.
        let qos = target.qos.min(message.qos);
        if target.is_covered {
            return;
        }
        let subscription_identifiers = target.identifiers.clone();
        let message = message.clone();
        let origin = match &target.share {
            Some(share) => {
                self.chose(share.no, target.session);
                Origin::Group { share: share.clone(), kept: target.kept }
            }
            None if target.form == Form::Envelope => Origin::Envelope,
            None => Origin::Subscriptions,
        };
        let delivery = Delivery { message, qos, retain, origin, subscription_identifiers };
        self.deliver(now, target.session, delivery);
    }

    /// Checks a message by itself; returns its id.
    fn check_offer(&mut self, offer: &mut Offer, known: Option<&Known>) -> Result<MessageId, Refused> {
        let levels_max = self.topic_levels_max(offer.by.session);
        if known.is_none_or(|known| known.levels > levels_max) {
            self.check_topic(&offer.topic, levels_max)?;
        }
        if let Some(key) = offer.by.session {
            self.check_publish(key, &offer.topic)?;
        }
        check_payload_format(&offer.properties, &offer.payload)?;
        if let Some(properties) = offer.properties.get_mut() {
            strip_broker_properties(&mut properties.user_properties);
        }
        self.message_id(&offer.properties)
    }

    /// Finds out what a message means; changes nothing.
    fn plan(
        &mut self,
        offer: &mut Offer,
        given_id: Option<Fingerprint>,
        known: Option<&Known>,
    ) -> Result<Plan, Refused> {
        let rule = if known.is_some() { None } else { self.conversations.rule(&offer.topic) };
        let is_conversation = rule.is_some();
        let asked = user_property(&offer.properties.user_properties, im::IM_RECEIPT);
        let by_rule = rule.and_then(|rule| rule.receipts);
        let wanted = asked.and_then(|v| ReceiptsWanted::parse(v)).or(by_rule);
        let user_properties = &offer.properties.user_properties;
        let owner = if self.has_planted(Planted::CollapseAcrossUsers) { "" } else { &*offer.by.user };
        let (collapse, is_high) = queueing::asked(user_properties, rule, owner, &offer.topic);

        let bytes = queue_bytes(&offer.topic, &offer.payload, &offer.properties);
        let targets = match known {
            Some(known) => Targets::Known(known.targets.clone()),
            None => Targets::Own(self.targets_of(offer, is_conversation, bytes, wanted.is_some())),
        };
        let stored_recipient = targets
            .iter()
            .any(|t| (is_conversation || t.qos.min(offer.qos) > QoS::AtMostOnce) && self.is_logged(t));
        // [MQTT-3.3.1-6] an empty payload removes the retained message, [MQTT-3.3.1-5] others replace it.
        let set_retained = offer.retain && !offer.payload.is_empty();
        let clear_retained =
            offer.retain && offer.payload.is_empty() && self.retained.get(&offer.topic).is_some();
        let remembered = offer.incoming.and(offer.by.session).is_some_and(|key| self.sessions[key].durable);
        let has_recipient = || targets.iter().any(|t| t.is_other_than(offer.by.session));
        let tracked = wanted.filter(|_| has_recipient());
        let recorded = stored_recipient
            || set_retained
            || clear_retained
            || is_conversation
            || tracked.is_some()
            || given_id.is_some()
            || remembered;
        if recorded && self.store_full {
            return Err(Refused::new(ReasonCode::QuotaExceeded, "the broker's store is full"));
        }
        let is_kept = set_retained || is_conversation || given_id.is_some();
        self.check_memory(offer.qos, bytes, &targets, is_kept, tracked.is_some())?;
        if set_retained {
            self.check_retained(offer)?;
        }
        if recorded {
            self.check_record(&targets, tracked.is_some())?;
        }
        self.check_queues(offer.qos, bytes, &targets, is_conversation, collapse)?;
        let in_portions =
            !is_conversation && tracked.is_none() && targets.len() > self.config.recipients_per_portion;
        Ok(Plan {
            given_id,
            in_portions,
            bytes,
            collapse,
            is_high,
            is_conversation,
            wanted: wanted.is_some(),
            read_wanted: matches!(wanted, Some(ReceiptsWanted::Read | ReceiptsWanted::All)),
            tracked,
            targets,
            stored_recipient,
            set_retained,
            clear_retained,
            recorded,
        })
    }

    fn next_head(&mut self, now: Now, topic: &ByteString) -> Result<Head, Refused> {
        self.conversations.next(topic, now.unix_ms).map_err(|e| {
            let what = format!("the broker has {} conversations, its limit", e.limit);
            Refused::new(ReasonCode::QuotaExceeded, what)
        })
    }

    /// Writes the message down, and makes or removes its topic's retained message. A conversation keeps all
    /// of its messages, whoever gets them.
    fn keep(&mut self, now: Now, message: &Arc<Message>, plan: &Plan) {
        if plan.stored_recipient || plan.set_retained || plan.is_conversation {
            self.write_message(message, plan.set_retained);
        }
        if plan.is_conversation {
            let is_only = self.conversations.append(message, message.record);
            self.remember_uncommitted(message);
            self.retain(now, &message.topic);
            if is_only {
                self.watch_retention(now);
            }
        }
        if plan.clear_retained {
            self.retained.clear(&message.topic);
            self.write(&Entry::RetainedCleared { topic: message.topic.clone() });
            self.watch_retained();
        } else if plan.set_retained {
            self.retained.set(self.bodies.pinned(message));
            self.watch_retained();
        }
    }

    pub(super) fn check_topic(&self, topic: &str, levels_max: usize) -> Result<(), Refused> {
        check_publish_topic(topic).map_err(|(reason, what)| Refused::new(reason, what))?;
        let levels = levels_of(topic);
        if levels > levels_max {
            let what = format!("it has {levels} levels, the limit is {levels_max}");
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

    /// Whether the log has what goes to the target, unless it is only sent at QoS 0.
    pub(super) fn is_logged(&self, target: &Target) -> bool {
        self.sessions[target.session].durable || target.kept
    }

    /// One record holds the message and all its recipients, so their number has a limit.
    pub(super) fn check_record(&self, targets: &[Target], tracked: bool) -> Result<(), Refused> {
        let durable = targets.iter().filter(|t| !t.is_covered && self.is_logged(t));
        let group = |t: &Target| GROUP_BYTES * usize::from(t.share.is_some());
        let queued: usize = durable.map(|t| QUEUED_BYTES + group(t) + 4 * t.identifiers.len()).sum();
        let each = if self.receipts.are_listed(targets.len()) { TRACKED_BYTES } else { COUNTED_BYTES };
        let bytes = queued + targets.len() * each * usize::from(tracked);
        let max = self.config.record_recipients_bytes_max;
        if bytes <= max {
            return Ok(());
        }
        let what =
            format!("its {} recipients need {bytes} bytes in one record, {max} are allowed", targets.len());
        Err(Refused::new(ReasonCode::QuotaExceeded, what))
    }

    pub(super) fn message_id(&mut self, properties: &PublishProperties) -> Result<MessageId, Refused> {
        match user_property(&properties.user_properties, im::IM_ID) {
            None => Ok(MessageId::Own(self.rng.u64(..))),
            Some(id) if (1..=im::IM_ID_CHARS_MAX).contains(&id.chars().count()) => {
                Ok(MessageId::Given(compact(id)))
            }
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
    /// the highest level, [MQTT-3.3.4-4] with all their identifiers. What a shared group brings comes
    /// besides (section 4.8.2).
    pub(super) fn targets(&mut self, load: Load<'_>, publisher: Option<SessionKey>) -> Vec<Target> {
        let mut targets = Vec::new();
        self.turn.is_general = self.envelope_routes.is_empty();
        self.add_targets(Form::Plain, load, publisher, &mut targets);
        if !self.envelope_routes.is_empty() {
            self.add_targets(Form::Envelope, load, publisher, &mut targets);
        }
        targets
    }

    fn add_targets(
        &mut self,
        form: Form,
        load: Load<'_>,
        publisher: Option<SessionKey>,
        targets: &mut Vec<Target>,
    ) {
        let mut matches = std::mem::take(&mut self.turn.matches);
        matches.clear();
        self.routes_mut(form).matching(load.topic, &mut matches);
        // [MQTT-3.8.3-3] No Local keeps a client's own messages away.
        let Matches { subscribers, groups, .. } = &mut matches;
        if load.in_conversation && form == Form::Plain {
            self.add_hearers(load, subscribers);
        }
        self.turn.is_general &= groups.is_empty() && !subscribers.iter().any(|m| m.options.no_local);
        subscribers.retain(|m| !(m.options.no_local && Some(m.session) == publisher));
        let (subscribers, groups) = matches.merge_overlapping();
        subscribers.sort_unstable_by_key(|m| (m.session, m.identifier));
        let plain: Vec<SessionKey> = match form {
            Form::Plain => Vec::new(),
            Form::Envelope => targets.iter().filter(|t| t.share.is_none()).map(|t| t.session).collect(),
        };
        let given = if self.has_planted(Planted::EnvelopeLeftOut) { Form::Plain } else { form };
        targets.extend(subscribers.chunk_by(|a, b| a.session == b.session).map(|of| {
            let is_second = plain.binary_search(&of[0].session).is_ok();
            Target { form: given, is_second, ..Target::of(of) }
        }));
        if load.in_conversation {
            for target in targets.iter_mut().filter(|target| target.form == form) {
                target.is_covered = self.is_covered(target.session, load.topic, form);
            }
        }
        if self.has_planted(Planted::OverlapTwice) && form == Form::Plain {
            *targets = subscribers.iter().map(|one| Target::of(&[*one])).collect();
        }
        for group in groups.iter().map(|key| self.groups.get(*key)) {
            let Some(member) = self.choose(group, load) else { continue };
            let (share, kept) = (Some(group.share.clone()), self.is_kept(group, member, load));
            targets.push(Target { share, kept, form, ..Target::of(&[member]) });
        }
        self.turn.matches = matches;
    }

    fn track(
        &mut self,
        message: &Message,
        id: &ByteString,
        wanted: ReceiptsWanted,
        sender: &ByteString,
        targets: &[Target],
        publisher: Option<SessionKey>,
    ) {
        let others = targets.iter().filter(|t| t.is_other_than(publisher));
        let listed = self.receipts.are_listed(others.clone().count());
        let others = others.map(|t| (&self.sessions[t.session], t.share.as_ref().map(|share| share.no)));
        let recipients = if listed {
            let named = others.map(|(s, group)| {
                let (client_id, user) = (s.client_id.clone(), s.user.clone());
                TrackedRecipient { session: s.no, group, client_id, user }
            });
            Recipients::Listed(named.collect())
        } else {
            let (groups, own): (Vec<_>, Vec<_>) = others.partition(|(_, group)| group.is_some());
            let mut sessions: Vec<_> = own.into_iter().map(|(s, _)| s.no).collect();
            sessions.sort_unstable();
            let groups = groups.into_iter().filter_map(|(s, group)| Some((group?, s.no))).collect();
            Recipients::Counted { sessions, groups }
        };
        let of = recipients.len() as u32;
        let ended = EndCounts::default();
        self.write(&Entry::Tracked {
            message: message.no,
            topic: message.topic.clone(),
            seq: message.seq,
            id: id.clone(),
            sender: sender.clone(),
            wanted,
            of,
            ended,
            recipients: recipients.clone(),
        });
        let (topic, id) = (message.topic.clone(), id.clone());
        let seq = message.seq;
        self.receipts.track(message.no, topic, seq, id, sender.clone(), wanted, of, ended, recipients);
        self.watch_expiry(message);
    }

    pub(super) fn take_message_no(&mut self) -> MsgNo {
        let no = MsgNo(self.next_message);
        self.next_message += 1;
        no
    }

    /// Writes a message, which has its body, into this turn's record.
    pub(super) fn write_message(&mut self, message: &Arc<Message>, set_retained: bool) {
        self.turn.record.push_message(message, set_retained);
        if message.record == self.gate.next_ticket() {
            self.bodies.written(message);
        }
    }
}

impl Target {
    /// Whether it holds the message until it is acknowledged.
    pub(super) fn holds(&self, published: QoS) -> bool {
        self.qos.min(published) > QoS::AtMostOnce
    }

    pub(super) fn of(matches: &[Subscriber]) -> Self {
        // One that several of them share comes as often (section 3.3.4).
        let mut identifiers: Vec<u32> = matches.iter().map(|m| m.identifier).filter(|i| *i != 0).collect();
        identifiers.truncate(usize::from(u16::MAX));
        Self {
            qos: matches.iter().map(|m| m.options.qos).max().unwrap_or_default(),
            retain_as_published: matches.iter().any(|m| m.options.retain_as_published),
            identifiers: identifiers.into(),
            is_covered: false,
            ..Self::nobody(matches[0].session)
        }
    }

    /// A recipient that gets nothing.
    pub(super) fn nobody(session: SessionKey) -> Self {
        Self {
            session,
            qos: QoS::AtMostOnce,
            retain_as_published: false,
            identifiers: Identifiers::default(),
            share: None,
            kept: false,
            form: Form::Plain,
            is_second: false,
            is_covered: true,
        }
    }

    /// Whether receipts tell of it: not of what the publisher's own subscriptions bring it.
    fn is_other_than(&self, publisher: Option<SessionKey>) -> bool {
        self.share.is_some() || (Some(self.session) != publisher && !self.is_second)
    }
}
