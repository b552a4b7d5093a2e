//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use protocol::{
    ByteString, ProtocolVersion, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeFilter,
    SubscribeOptions, TopicFilter, Unsubscribe, im,
};

use super::Shard;
use super::answer::quoted;
use super::limits::levels_of;
use crate::message::{Delivery, Message, Origin, compact, user_property};
use crate::principal::lower;
use crate::record::{Entry, Form};
use crate::replay::Start;
use crate::reserved::{FilterClass, classify_filter, classify_shared_filter};
use crate::retained::Allowance;
use crate::rights::{form_of, topics_of};
use crate::route::{Routes, SessionKey, Subscriber};
use crate::session::Subscription;
use crate::{ConnId, Now};

/// A filter that a client asks for, taken apart.
struct Wanted {
    /// The subscription: what it asks for from the store is no part of it.
    filter: TopicFilter,
    class: FilterClass,
    form: Form,
    start: Option<Start>,
}

impl Wanted {
    /// Whether it brings messages that were published, not what the broker says.
    fn brings_messages(&self) -> bool {
        matches!(self.class, FilterClass::Ordinary | FilterClass::Envelope | FilterClass::Mine)
    }
}

/// Retained messages, and the clients whose presence comes like one.
type Retained = (Vec<Arc<Message>>, Vec<ByteString>);

/// What one subscription came to: the code granted, retained messages, clients whose presence it brings.
type Subscribed = (ReasonCode, Vec<Delivery>, Vec<ByteString>);

impl Shard {
    /// [MQTT-3.8.4-5] many filters in one SUBSCRIBE are as many with one each, but for the answer.
    pub(super) fn subscribe(&mut self, now: Now, conn: ConnId, subscribe: Subscribe, filters_left: usize) {
        let Some(c) = self.conns.get(&conn) else { return };
        let key = c.session;
        // 3.1.1 has no reason strings.
        let is_told_errors = c.version == ProtocolVersion::V311;
        let (packet_id, filters) = (subscribe.packet_id, subscribe.filters.len() + filters_left);
        let Some(mut asked) = self.begin_asked(now, conn, packet_id, filters) else { return };
        let (mut retained, mut presences) = (Vec::new(), Vec::new());
        for filter in &subscribe.filters {
            match self.subscribe_one(now, key, filter, &subscribe, &mut asked.allowance) {
                Ok((reason, found, clients)) => {
                    asked.reasons.push(reason);
                    retained.extend(found);
                    presences.push((filter, clients));
                }
                Err((reason, what)) => {
                    if is_told_errors {
                        self.tell_error(now, key, &filter.filter, &what);
                    }
                    asked.why.get_or_insert_with(|| format!("{}: {what}", quoted(&filter.filter)));
                    asked.reasons.push(reason);
                }
            }
        }
        self.answer_subscribe(conn, packet_id, asked, filters_left);
        // Section 3.8.4: before the SUBACK of all parts too, so that no newer message goes out before them.
        for delivery in retained {
            self.deliver(now, key, delivery);
        }
        for (filter, clients) in presences {
            self.bring_presences(now, key, clients, filter, subscribe.subscription_identifier);
        }
        if subscribe.filters.iter().any(|asked| *asked.filter == *im::INBOX_TOPIC) {
            self.show_inbox(now, key);
        }
        if self.sessions[key].replays.is_some() {
            self.drain(now, key);
        }
    }

    /// Makes one subscription; returns the retained messages that it brings, and the clients whose presence.
    fn subscribe_one(
        &mut self,
        now: Now,
        key: SessionKey,
        asked: &SubscribeFilter,
        packet: &Subscribe,
        allowance: &mut Allowance,
    ) -> Result<Subscribed, (ReasonCode, String)> {
        let wanted = self.check_filter(key, &asked.filter, packet)?;
        let is_new = self.check_subscription(key, &wanted.filter.full)?;
        let starts = match wanted.start {
            Some(start) if wanted.brings_messages() => {
                // What it missed must not come where it asks for something else.
                self.come_back_now(key);
                self.find_starts(key, topics_of(&wanted.filter.full), wanted.form, start, allowance)?
            }
            _ => Vec::new(),
        };
        let (options, identifier) = (asked.options, packet.subscription_identifier);
        let (found, clients) = self.retained_of(now, key, &wanted, options, is_new, allowance)?;
        let found = found.into_iter().map(|m| retained_delivery(m, wanted.form, options.qos, identifier));
        let Wanted { filter, form, .. } = wanted;
        if !clients.is_empty() && !self.hears("$im") {
            // Nobody listened so far, and this subscription brings what changed.
            self.presences.hush();
        }
        self.open_group(&filter);
        let (session, durable) = (self.sessions[key].no, self.sessions[key].durable);
        if durable {
            let filter = filter.full.clone();
            self.write(&Entry::Subscribed { session, filter, options, identifier });
        }
        self.add_subscription(key, &filter, Subscription { options, identifier });
        if let Some(replays) = &mut self.sessions[key].replays {
            replays.forget_merged();
        }
        self.begin_replays(key, form, starts);
        let granted = match options.qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        };
        Ok((granted, found.collect(), clients))
    }

    /// Takes a filter apart and checks that the client may have it.
    fn check_filter(
        &mut self,
        key: SessionKey,
        asked: &ByteString,
        packet: &Subscribe,
    ) -> Result<Wanted, (ReasonCode, String)> {
        let (filter, start) = take_start(asked)?;
        let filter = TopicFilter::parse(compact(&filter))
            .map_err(|e| (ReasonCode::TopicFilterInvalid, e.to_string()))?;
        let asked_for_all = user_property(&packet.user_properties, im::IM_FROM_SEQ);
        let class = match filter.share {
            Some(_) => classify_shared_filter(&filter.filter, start.is_some() || asked_for_all.is_some()),
            None => classify_filter(&filter.filter),
        };
        if !self.config.presence && topics_of(&filter.full).starts_with(im::PRESENCE_PREFIX) {
            let what = "presence is switched off ([im] presence)";
            return Err((ReasonCode::TopicFilterInvalid, what.to_owned()));
        }
        if let FilterClass::Refused(reason, what) = class {
            return Err((reason, what.to_owned()));
        }
        let levels = levels_of(&filter.filter);
        let levels_max = self.topic_levels_max(Some(key));
        if levels > levels_max {
            let what = format!("it has {levels} levels, the limit is {levels_max}");
            return Err((ReasonCode::TopicFilterInvalid, what));
        }
        self.check_subscribe(key, &filter.full)?;
        // What stands in the filter is about it alone.
        let start = match asked_for_all.filter(|_| start.is_none()) {
            Some(all) => Some(Start::parse(all).ok_or_else(|| bad_start(all))?),
            None => start,
        };
        Ok(Wanted { form: form_of(&filter.full), filter, class, start })
    }

    /// Checks that there is room for a subscription; says whether it is new.
    fn check_subscription(
        &mut self,
        key: SessionKey,
        full: &ByteString,
    ) -> Result<bool, (ReasonCode, String)> {
        let session = &self.sessions[key];
        let durable = session.durable;
        let is_new = !session.subscriptions.contains_key(full);
        let max = lower(session.limits().subscriptions_max, self.config.subscriptions_max);
        if is_new && session.subscriptions.len() >= max {
            let what = format!("the session has {max} subscriptions, its limit");
            return Err((ReasonCode::QuotaExceeded, what));
        }
        if is_new {
            let room = self.room_for_subscription(full);
            room.map_err(|what| (ReasonCode::QuotaExceeded, what))?;
        }
        if durable && self.store_full {
            return Err((ReasonCode::QuotaExceeded, "the broker's store is full".to_owned()));
        }
        Ok(is_new)
    }

    /// The retained messages that a new subscription brings, and the clients whose presence.
    fn retained_of(
        &self,
        now: Now,
        key: SessionKey,
        wanted: &Wanted,
        options: SubscribeOptions,
        is_new: bool,
        allowance: &mut Allowance,
    ) -> Result<Retained, (ReasonCode, String)> {
        // Section 3.8.4: a shared subscription brings no retained messages.
        let send_retained = matches!(wanted.class, FilterClass::Ordinary | FilterClass::Envelope)
            && wanted.filter.share.is_none()
            && match options.retain_handling {
                // [MQTT-3.3.1-9]
                RetainHandling::Send => true,
                // [MQTT-3.3.1-10]
                RetainHandling::SendIfNew => is_new,
                // [MQTT-3.3.1-11]
                RetainHandling::DoNotSend => false,
            };
        if !send_retained {
            return Ok(Default::default());
        }
        let topics = topics_of(&wanted.filter.full);
        let found = self.retained_for(topics, allowance).zip(self.presences_for(topics, allowance));
        let (mut found, clients) = found.ok_or_else(|| {
            let what = "too many retained messages for one SUBSCRIBE: use narrower filters, fewer at once, \
                        or Retain Handling 2";
            (ReasonCode::QuotaExceeded, what.to_owned())
        })?;
        let client_id = &self.sessions[key].client_id;
        found.retain(|m| {
            !m.expiry.is_some_and(|e| e.is_past(now))
                // Those of conversations come as they are stored.
                && (wanted.start.is_none() || self.conversations.rule(&m.topic).is_none())
                // [MQTT-3.8.3-3] No Local keeps a client's own messages away, retained ones too.
                && !(options.no_local && m.is_by(client_id))
        });
        Ok((found, clients))
    }

    /// The retained messages for a filter, the broker's own last; `None` when they are too many.
    fn retained_for(&self, filter: &str, allowance: &mut Allowance) -> Option<Vec<Arc<Message>>> {
        let mut found = self.retained.matching(filter, allowance)?;
        if filter.starts_with('$') {
            found.extend(self.informed.matching(filter, allowance)?);
        }
        Some(found)
    }

    /// [MQTT-3.8.4-3] a subscription with the same filter replaces the one before. A shared filter's group
    /// must be there.
    pub(super) fn add_subscription(
        &mut self,
        key: SessionKey,
        filter: &TopicFilter,
        subscription: Subscription,
    ) {
        let Subscription { options, identifier } = subscription;
        let session = &mut self.sessions[key];
        session.subscribe(&filter.full, subscription);
        let subscriber = Subscriber { session: key, options, identifier: identifier.unwrap_or(0) };
        if let Some(group) = self.groups.named(&filter.full) {
            return self.join_group(group, subscriber);
        }
        match classify_filter(&filter.full) {
            FilterClass::Receipts => self.receipts.hear(&session.user.clone(), key, options.qos),
            FilterClass::Ordinary => self.routes.insert(&filter.full, subscriber),
            FilterClass::Envelope => self.envelope_routes.insert(topics_of(&filter.full), subscriber),
            FilterClass::Mine => self.hear_mine(key, subscriber),
            FilterClass::Inbox => self.watch_inbox(key),
            FilterClass::Errors | FilterClass::Probe | FilterClass::Refused(..) => {}
        }
    }

    /// The tree that subscriptions of a form stand in.
    pub(super) fn routes_mut(&mut self, form: Form) -> &mut Routes {
        match form {
            Form::Plain => &mut self.routes,
            Form::Envelope => &mut self.envelope_routes,
        }
    }

    /// Takes a session's own subscription out of its tree; one that is not there is ignored.
    pub(super) fn unroute(&mut self, full: &str, key: SessionKey) {
        if !full.starts_with("$share/") {
            self.routes_mut(form_of(full)).remove(topics_of(full), key);
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        now: Now,
        conn: ConnId,
        unsubscribe: &Unsubscribe,
        filters_left: usize,
    ) {
        let Some(key) = self.conns.get(&conn).map(|c| c.session) else { return };
        let (packet_id, filters) = (unsubscribe.packet_id, unsubscribe.filters.len() + filters_left);
        let Some(mut asked) = self.begin_asked(now, conn, packet_id, filters) else { return };
        for filter in &unsubscribe.filters {
            asked.reasons.push(self.unsubscribe_one(key, filter));
        }
        self.answer_unsubscribe(conn, packet_id, asked, filters_left);
    }

    pub(super) fn unsubscribe_one(&mut self, key: SessionKey, filter: &ByteString) -> ReasonCode {
        // The request is no part of the filter: either form ends the subscription.
        let Ok((filter, _)) = take_start(filter) else { return ReasonCode::TopicFilterInvalid };
        if TopicFilter::parse(filter.clone()).is_err() {
            return ReasonCode::TopicFilterInvalid;
        }
        if filter == *im::MINE_FILTER {
            // What it missed ends with its cursors.
            self.come_back_now(key);
        }
        if !self.remove_subscription(key, &filter) {
            return ReasonCode::NoSubscriptionExisted;
        }
        self.review_cursors(key);
        self.review_gaps(key);
        let session = &self.sessions[key];
        if session.durable {
            let session = session.no;
            self.write(&Entry::Unsubscribed { session, filter: filter.clone() });
        }
        ReasonCode::Success
    }

    /// Says whether there was one.
    pub(super) fn remove_subscription(&mut self, key: SessionKey, filter: &ByteString) -> bool {
        let session = &mut self.sessions[key];
        if session.unsubscribe(filter).is_none() {
            return false;
        }
        match classify_filter(filter) {
            FilterClass::Receipts => self.receipts.unhear(&session.user.clone(), key),
            FilterClass::Ordinary | FilterClass::Envelope => {
                self.unroute(filter, key);
                let is_durable = self.sessions[key].durable;
                self.leave_group(filter, key, is_durable);
                self.pass_on_later(filter, key);
            }
            FilterClass::Mine => self.unhear_mine(key),
            FilterClass::Inbox => {
                let user = session.user.clone();
                self.unwatch_inbox(key, &user);
            }
            FilterClass::Errors | FilterClass::Probe | FilterClass::Refused(..) => {}
        }
        true
    }
}

/// Takes a filter apart into what it asks for from the store and the filter itself.
fn take_start(full: &ByteString) -> Result<(ByteString, Option<Start>), (ReasonCode, String)> {
    let Some(rest) = full.strip_prefix(im::FROM_PREFIX) else { return Ok((full.clone(), None)) };
    let (start, filter) = rest.split_once('/').ok_or_else(|| bad_start(rest))?;
    if filter.starts_with("$share/") {
        let what = "replay cannot be shared: leave $share away";
        return Err((ReasonCode::ImplementationSpecificError, what.to_owned()));
    }
    let start = Start::parse(start).ok_or_else(|| bad_start(start))?;
    Ok((full.slice_ref(filter), Some(start)))
}

fn bad_start(start: &str) -> (ReasonCode, String) {
    let what = format!("stored messages begin at a number, \"first\" or @MILLISECONDS, not at {start:?}");
    (ReasonCode::TopicFilterInvalid, what)
}

pub(super) fn retained_delivery(
    message: Arc<Message>,
    form: Form,
    qos: QoS,
    identifier: Option<u32>,
) -> Delivery {
    let origin = match form {
        Form::Plain => Origin::Retained,
        Form::Envelope => Origin::RetainedEnvelope,
    };
    let qos = qos.min(message.qos);
    // [MQTT-3.3.1-8] (3.1.1) sent because of a new subscription: RETAIN is 1.
    let subscription_identifiers = identifier.into_iter().collect();
    Delivery { message, qos, retain: true, origin, subscription_identifiers }
}
