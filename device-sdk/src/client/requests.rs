//! SUBSCRIBE and UNSUBSCRIBE: asked, asked again after a reconnect, and renewed when the session was lost.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytestring::ByteString;
use protocol::{
    Packet, PacketId, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilter, SubscribeOptions,
    UnsubAck, Unsubscribe, UserProperties, encoded_len,
};

use super::link::Limits;
use super::outgoing::PacketIds;
use super::{Output, Violation};
use crate::ClientError;

/// Most subscribes and unsubscribes that may be under way.
pub const REQUESTS_MAX: usize = 64;
/// Most filters a request may have.
pub const FILTERS_MAX: usize = 256;
/// Most subscriptions that a client keeps and renews.
pub const SUBSCRIPTIONS_MAX: usize = 10_000;
/// Most bytes of filters and properties in one SUBSCRIBE that renews; far below any broker's packet limit.
const RENEWAL_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone, Debug)]
pub(super) enum Request {
    /// `token` is `None` for a renewal, which nobody waits for.
    Subscribe {
        token: Option<u64>,
        filters: Vec<SubscribeFilter>,
        user_properties: UserProperties,
    },
    Unsubscribe {
        token: u64,
        filters: Vec<ByteString>,
    },
}

impl Request {
    fn filters(&self) -> usize {
        match self {
            Self::Subscribe { filters, .. } => filters.len(),
            Self::Unsubscribe { filters, .. } => filters.len(),
        }
    }

    fn packet(&self, packet_id: PacketId) -> Packet {
        match self.clone() {
            Self::Subscribe { filters, user_properties, .. } => Packet::Subscribe(Subscribe {
                packet_id,
                subscription_identifier: None,
                user_properties,
                filters,
            }),
            Self::Unsubscribe { filters, .. } => {
                Packet::Unsubscribe(Unsubscribe { packet_id, user_properties: Vec::new(), filters })
            }
        }
    }

    fn token(&self) -> Option<u64> {
        match self {
            Self::Subscribe { token, .. } => *token,
            Self::Unsubscribe { token, .. } => Some(*token),
        }
    }
}

/// The requests under way and the subscriptions they led to.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Not sent on this connection, in order.
    waiting: VecDeque<Request>,
    /// Sent on this connection, with the order they were sent in.
    sent: HashMap<PacketId, (u64, Request)>,
    next_order: u64,
    /// What the broker granted.
    granted: BTreeMap<ByteString, (SubscribeOptions, UserProperties)>,
}

impl Requests {
    pub(super) fn can_accept(&self) -> bool {
        self.waiting.len() + self.sent.len() < REQUESTS_MAX
    }

    pub(super) fn accept(&mut self, request: Request) -> Result<(), ClientError> {
        let filters = request.filters();
        if filters == 0 || filters > FILTERS_MAX {
            let what = format!("{filters} filters in one request, it must be 1 to {FILTERS_MAX}");
            return Err(ClientError::Limit { what });
        }
        if !self.can_accept() {
            let what =
                format!("{REQUESTS_MAX} subscribe and unsubscribe requests wait already, that is the limit");
            return Err(ClientError::Limit { what });
        }
        if matches!(request, Request::Subscribe { .. }) && self.granted.len() + filters > SUBSCRIPTIONS_MAX {
            let what = format!(
                "{} subscriptions and {filters} more, the limit is {SUBSCRIPTIONS_MAX}",
                self.granted.len()
            );
            return Err(ClientError::Limit { what });
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// The broker has no session, or perhaps another than ours: everything granted is asked for again, before anything
    /// else. `retained` says when retained messages are wanted, for subscriptions that want them at all.
    pub(super) fn renew_all(&mut self, retained: RetainHandling) {
        self.waiting.retain(|request| request.token().is_some());
        let mut renewals: Vec<(usize, Request)> = Vec::new();
        for (filter, (options, properties)) in &self.granted {
            let bytes = filter.len() + 3;
            let mut options = *options;
            options.retain_handling = stricter(options.retain_handling, retained);
            let entry = SubscribeFilter { filter: filter.clone(), options };
            match renewals.last_mut() {
                Some((total, Request::Subscribe { filters, user_properties, .. }))
                    if *total + bytes <= RENEWAL_BYTES_MAX
                        && filters.len() < FILTERS_MAX
                        && user_properties == properties =>
                {
                    *total += bytes;
                    filters.push(entry);
                }
                _ => {
                    let user_properties = properties.clone();
                    let filters = vec![entry];
                    renewals.push((bytes, Request::Subscribe { token: None, filters, user_properties }));
                }
            }
        }
        for (_, request) in renewals.into_iter().rev() {
            self.waiting.push_front(request);
        }
    }

    /// What was not answered is asked again on the next connection, renewals too: the session that they were for
    /// may be there next time.
    pub(super) fn disconnected(&mut self, ids: &mut PacketIds) {
        let mut again: Vec<(u64, Request)> = Vec::new();
        for (id, entry) in self.sent.drain() {
            ids.free(id);
            again.push(entry);
        }
        again.sort_unstable_by_key(|(order, _)| *order);
        for (_, request) in again.into_iter().rev() {
            self.waiting.push_front(request);
        }
    }

    pub(super) fn send(&mut self, limits: &Limits, ids: &mut PacketIds, outputs: &mut VecDeque<Output>) {
        // Renewals may be more than the limit of requests; the rest of them follow the first answers.
        while self.sent.len() < REQUESTS_MAX {
            let Some(request) = self.waiting.pop_front() else { return };
            let packet_id = ids.take();
            let packet = request.packet(packet_id);
            let bytes = encoded_len(&packet, limits.version);
            if let Some(limit) = limits.packet_bytes_max.filter(|limit| bytes > *limit as usize) {
                ids.free(packet_id);
                let what = format!("the request has {bytes} bytes, the broker takes {limit}");
                refuse(&request, &ClientError::Limit { what }, outputs);
                continue;
            }
            self.sent.insert(packet_id, (self.next_order, request));
            self.next_order += 1;
            outputs.push_back(Output::Send(packet));
        }
    }

    pub(super) fn suback(
        &mut self,
        suback: SubAck,
        ids: &mut PacketIds,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), Violation> {
        let (token, filters, user_properties) = match self.sent.remove(&suback.packet_id) {
            None => return Ok(()),
            // [MQTT-3.8.4-6] one code a filter.
            Some((_, Request::Subscribe { token, filters, user_properties }))
                if suback.reasons.len() == filters.len() =>
            {
                (token, filters, user_properties)
            }
            Some(other) => {
                let why =
                    format!("SUBACK has {} codes for {} filters", suback.reasons.len(), other.1.filters());
                // It stays unanswered, for the next connection.
                self.sent.insert(suback.packet_id, other);
                return Err((ReasonCode::ProtocolError, why));
            }
        };
        ids.free(suback.packet_id);
        for (entry, reason) in filters.into_iter().zip(&suback.reasons) {
            if !reason.is_failure() {
                // A renewal is granted what is here already, with the options first asked for.
                if token.is_some() {
                    self.granted.insert(entry.filter, (entry.options, user_properties.clone()));
                }
            } else if token.is_none() {
                self.granted.remove(&entry.filter);
                outputs.push_back(Output::SubscriptionRefused { filter: entry.filter, reason: *reason });
            }
        }
        if let Some(token) = token {
            outputs.push_back(Output::Answered { token, result: Ok(suback.reasons) });
        }
        Ok(())
    }

    pub(super) fn unsuback(
        &mut self,
        unsuback: UnsubAck,
        ids: &mut PacketIds,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), Violation> {
        let (token, filters) = match self.sent.remove(&unsuback.packet_id) {
            None => return Ok(()),
            Some((_, Request::Unsubscribe { token, filters })) => (token, filters),
            Some(other) => {
                self.sent.insert(unsuback.packet_id, other);
                return Err((
                    ReasonCode::ProtocolError,
                    "the broker answered SUBSCRIBE with UNSUBACK".to_owned(),
                ));
            }
        };
        ids.free(unsuback.packet_id);
        let reasons = match unsuback.reasons {
            // 3.1.1 has no codes.
            reasons if reasons.is_empty() => vec![ReasonCode::Success; filters.len()],
            reasons => reasons,
        };
        for (filter, reason) in filters.iter().zip(&reasons) {
            if !reason.is_failure() {
                self.granted.remove(filter);
            }
        }
        outputs.push_back(Output::Answered { token, result: Ok(reasons) });
        Ok(())
    }
}

fn stricter(a: RetainHandling, b: RetainHandling) -> RetainHandling {
    if (a as u8) < (b as u8) { b } else { a }
}

fn refuse(request: &Request, error: &ClientError, outputs: &mut VecDeque<Output>) {
    match request {
        Request::Subscribe { token: None, filters, .. } => {
            for entry in filters {
                let reason = ReasonCode::PacketTooLarge;
                outputs.push_back(Output::SubscriptionRefused { filter: entry.filter.clone(), reason });
            }
        }
        Request::Subscribe { token: Some(token), .. } | Request::Unsubscribe { token, .. } => {
            outputs.push_back(Output::Answered { token: *token, result: Err(error.clone()) });
        }
    }
}
