//! Receipts: what became of a message at each recipient (docs/protocol.md section 4).
//!
//! Owns the list of recipients whose final state is still open, and which sessions hear a user's receipts.
//! Invariant: a recipient leaves the list with its first final state, so no second one is ever told.

use std::collections::BTreeMap;

use bytestring::ByteString;
use protocol::QoS;
use protocol::im::{Receipt, ReceiptState};
use rustc_hash::FxHashMap;

use crate::config::ReceiptsWanted;
use crate::memory::{Account, Held, TRACKING_BYTES};
use crate::message::MsgNo;
use crate::names::ByName;
use crate::recipients::{Open, OpenRecipients};
use crate::record::{EndCounts, FinalState, GroupNo, Recipient, Recipients, SessionNo, TrackedRecipient};
use crate::route::SessionKey;

/// How a message ended at one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged, or written to the socket at QoS 0.
    Delivered(QoS),
    Expired,
    /// The reason as told.
    Dropped(&'static str),
    /// The recipient's reason code.
    Refused(protocol::ReasonCode),
    /// It ended too many connections of the recipient and was set aside.
    Poison,
}

impl Outcome {
    pub(crate) fn state(self) -> FinalState {
        match self {
            Self::Delivered(_) => FinalState::Delivered,
            Self::Expired => FinalState::Expired,
            Self::Dropped(_) => FinalState::Dropped,
            Self::Refused(_) | Self::Poison => FinalState::Refused,
        }
    }
}

fn on_the_wire(state: FinalState) -> ReceiptState {
    match state {
        FinalState::Delivered => ReceiptState::Delivered,
        FinalState::Expired => ReceiptState::Expired,
        FinalState::Dropped => ReceiptState::Dropped,
        FinalState::Refused => ReceiptState::Refused,
    }
}

/// The receipts of one message that are still open.
#[derive(Clone, Debug)]
pub(crate) struct Tracking {
    pub(crate) topic: ByteString,
    pub(crate) seq: Option<u64>,
    pub(crate) id: ByteString,
    /// The user who hears of it.
    pub(crate) sender: ByteString,
    pub(crate) wanted: ReceiptsWanted,
    /// Recipients at accept time.
    pub(crate) of: u32,
    /// How many ended, by state.
    pub(crate) ended: EndCounts,
    open: OpenRecipients,
    /// How many of those the sender was told of, where they are counted.
    told: EndCounts,
    /// Whether the rest will be told before long.
    is_told_later: bool,
    /// Its share of the shard's memory.
    held: Held,
}

/// The names of the session where a message ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) client_id: &'a ByteString,
    pub(crate) user: &'a ByteString,
}

#[derive(Debug, Default)]
pub(crate) struct Receipts {
    open: FxHashMap<MsgNo, Tracking>,
    /// Sessions subscribed to `$im/receipts`, by user.
    hearers: ByName<BTreeMap<SessionKey, QoS>>,
    listed_max: usize,
    account: Account,
}

/// One receipt to be published to the sender's user.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) sender: ByteString,
    pub(crate) payload: String,
}

impl Receipts {
    pub(crate) fn new(listed_max: usize, account: &Account) -> Self {
        Self { listed_max, account: account.clone(), ..Self::default() }
    }

    pub(crate) fn hear(&mut self, user: &ByteString, session: SessionKey, qos: QoS) {
        self.hearers.entry(user.clone()).or_default().insert(session, qos);
    }

    pub(crate) fn unhear(&mut self, user: &ByteString, session: SessionKey) {
        if let Some(hearers) = self.hearers.get_mut(user) {
            hearers.remove(&session);
            if hearers.is_empty() {
                self.hearers.remove(user);
            }
        }
    }

    pub(crate) fn hearers(&self, user: &str) -> Vec<(SessionKey, QoS)> {
        self.hearers.get(user).map_or(Vec::new(), |h| h.iter().map(|(key, qos)| (*key, *qos)).collect())
    }

    /// Whether the recipients of a message with so many are named in its receipts.
    pub(crate) fn are_listed(&self, recipients: usize) -> bool {
        recipients <= self.listed_max
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one record, named at the call")]
    pub(crate) fn track(
        &mut self,
        message: MsgNo,
        topic: ByteString,
        seq: Option<u64>,
        id: ByteString,
        sender: ByteString,
        wanted: ReceiptsWanted,
        of: u32,
        ended: EndCounts,
        open: Recipients,
    ) {
        let open = OpenRecipients::new(open);
        let strings = topic.len() + id.len() + sender.len();
        let held = self.account.hold(TRACKING_BYTES + strings + open.bytes());
        let (told, is_told_later) = (EndCounts::default(), false);
        self.open.insert(
            message,
            Tracking { topic, seq, id, sender, wanted, of, ended, open, told, is_told_later, held },
        );
    }

    pub(crate) fn is_tracked(&self, message: MsgNo) -> bool {
        self.open.contains_key(&message)
    }

    pub(crate) fn is_open(&self, message: MsgNo, recipient: Recipient) -> bool {
        self.open.get(&message).is_some_and(|t| t.open.contains(recipient))
    }

    /// Notes which member of a group has a message now; one that nobody asked receipts of is ignored.
    pub(crate) fn hold(&mut self, message: MsgNo, group: GroupNo, member: SessionNo) {
        if let Some(tracking) = self.open.get_mut(&message) {
            tracking.open.hold(group, member);
        }
    }

    pub(crate) fn get(&self, message: MsgNo) -> Option<&Tracking> {
        self.open.get(&message)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (MsgNo, &Tracking)> {
        self.open.iter().map(|(no, tracking)| (*no, tracking))
    }

    /// Ends a message at one recipient. `Some` says that it was open; inside is the receipt to publish, if
    /// the sender wants this one. A group's receipt names the member where it ended, if that is known.
    pub(crate) fn end(
        &mut self,
        message: MsgNo,
        recipient: Recipient,
        member: Option<Names<'_>>,
        outcome: Outcome,
        at_unix_ms: u64,
    ) -> Option<Vec<Told>> {
        let tracking = self.open.get_mut(&message)?;
        let told = match tracking.close(recipient, outcome.state())? {
            None if tracking.open.is_empty() => tracking.count(at_unix_ms),
            Some(named) if tracking.wants(outcome.state()) => {
                let names = Names { client_id: &named.client_id, user: &named.user };
                vec![tracking.receipt(member.unwrap_or(names), outcome, at_unix_ms)]
            }
            _ => Vec::new(),
        };
        if tracking.open.is_empty() {
            self.open.remove(&message);
        }
        Some(told)
    }

    /// Says whether the sender of a message whose receipts are counted is to be told of those that are new, a while
    /// from now; it says so once.
    pub(crate) fn count_later(&mut self, message: MsgNo) -> bool {
        let Some(tracking) = self.open.get_mut(&message) else { return false };
        let is_new = !tracking.open.is_listed() && tracking.ended != tracking.told;
        is_new && !std::mem::replace(&mut tracking.is_told_later, true)
    }

    /// Tells what is new of a message whose receipts are counted.
    pub(crate) fn count_now(&mut self, message: MsgNo, at_unix_ms: u64) -> Vec<Told> {
        let Some(tracking) = self.open.get_mut(&message) else { return Vec::new() };
        tracking.is_told_later = false;
        tracking.count(at_unix_ms)
    }

    /// Ends a message at a recipient without telling: the log said before that it was told.
    pub(crate) fn forget(&mut self, message: MsgNo, recipient: Recipient, state: FinalState) {
        if let Some(tracking) = self.open.get_mut(&message) {
            tracking.close(recipient, state);
            if tracking.open.is_empty() {
                self.open.remove(&message);
            }
        }
    }
}

/// Makes the receipt for a message outside conversations that had no recipient at all.
pub(crate) fn undeliverable(topic: &ByteString, id: &ByteString, at_unix_ms: u64) -> String {
    let receipt = Receipt {
        topic: topic.to_string(),
        seq: None,
        id: id.to_string(),
        state: ReceiptState::Undeliverable,
        user: None,
        client: None,
        at: at_unix_ms,
        reason: None,
        qos: None,
    };
    serde_json::to_string(&receipt).expect("a struct of strings and numbers is JSON")
}

impl Tracking {
    /// The recipients whose final state is not known yet.
    pub(crate) fn open(&self) -> &OpenRecipients {
        &self.open
    }

    /// Those that come after one of them, in their order; all for `None`.
    pub(crate) fn open_after(&self, after: Option<Recipient>) -> impl Iterator<Item = Open> {
        self.open.after(after)
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        let strings = self.topic.len() + self.id.len() + self.sender.len();
        TRACKING_BYTES + strings + self.open.bytes()
    }

    /// Says whether it was open, and its names if receipts are listed.
    fn close(&mut self, recipient: Recipient, state: FinalState) -> Option<Option<TrackedRecipient>> {
        let before = self.open.bytes();
        let named = self.open.take(recipient)?;
        self.held.shrink(before - self.open.bytes());
        let ended = &mut self.ended[state as usize - 1];
        *ended = ended.saturating_add(1);
        Some(named)
    }

    /// `delivered` = the final state, whatever it is; `read` = every final state except delivered, and read.
    fn wants(&self, state: FinalState) -> bool {
        self.wanted != ReceiptsWanted::Read || state != FinalState::Delivered
    }

    fn receipt(&self, recipient: Names<'_>, outcome: Outcome, at_unix_ms: u64) -> Told {
        let receipt = Receipt {
            topic: self.topic.to_string(),
            seq: self.seq,
            id: self.id.to_string(),
            state: on_the_wire(outcome.state()),
            user: Some(recipient.user.to_string()),
            client: Some(recipient.client_id.to_string()),
            at: at_unix_ms,
            reason: match outcome {
                Outcome::Dropped(reason) => Some(reason.to_owned()),
                Outcome::Refused(code) => Some(code.text().to_owned()),
                Outcome::Poison => Some("poison".to_owned()),
                Outcome::Delivered(_) | Outcome::Expired => None,
            },
            qos: match outcome {
                Outcome::Delivered(qos) => Some(qos as u8),
                _ => None,
            },
        };
        let payload = serde_json::to_string(&receipt).expect("a struct of strings and numbers is JSON");
        Told { sender: self.sender.clone(), payload }
    }

    /// Above the listing limit: one line for each state that has more than the sender was told.
    fn count(&mut self, at_unix_ms: u64) -> Vec<Told> {
        let told = std::mem::replace(&mut self.told, self.ended);
        let counts = FinalState::ALL.into_iter().zip(self.ended).zip(told);
        counts
            .filter(|((state, count), told)| count > told && self.wants(*state))
            .map(|((state, count), _)| {
                let mut payload = serde_json::json!({
                    "topic": &*self.topic, "id": &*self.id, "state": on_the_wire(state),
                    "count": count, "of": self.of, "at": at_unix_ms,
                });
                if let Some(seq) = self.seq {
                    payload["seq"] = seq.into();
                }
                Told { sender: self.sender.clone(), payload: payload.to_string() }
            })
            .collect()
    }
}
