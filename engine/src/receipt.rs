//! Receipts: what became of a message at each recipient (docs/protocol.md section 4).
//!
//! Owns the list of recipients whose final state is still open, and which sessions hear a user's receipts.
//! Invariant: a recipient leaves the list with its first final state, so no second one is ever told.

use bytestring::ByteString;
use protocol::QoS;
use protocol::im::{Receipt, ReceiptState};
use rustc_hash::FxHashMap;

use crate::config::ReceiptsWanted;
use crate::message::MsgNo;
use crate::record::{SessionNo, TrackedRecipient};
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
}

impl Outcome {
    fn state(self) -> ReceiptState {
        match self {
            Self::Delivered(_) => ReceiptState::Delivered,
            Self::Expired => ReceiptState::Expired,
            Self::Dropped(_) => ReceiptState::Dropped,
            Self::Refused(_) => ReceiptState::Refused,
        }
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
    pub(crate) open: Vec<TrackedRecipient>,
    /// Per state, how many ended so; used above the listing limit.
    counts: Vec<(ReceiptState, u32)>,
}

#[derive(Debug, Default)]
pub(crate) struct Receipts {
    open: FxHashMap<MsgNo, Tracking>,
    /// Sessions subscribed to `$im/receipts`, by user.
    hearers: FxHashMap<ByteString, Vec<(SessionKey, QoS)>>,
    listed_max: usize,
}

/// One receipt to be published to the sender's user.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) sender: ByteString,
    pub(crate) payload: String,
}

impl Receipts {
    pub(crate) fn new(listed_max: usize) -> Self {
        Self { listed_max, ..Self::default() }
    }

    pub(crate) fn hear(&mut self, user: &ByteString, session: SessionKey, qos: QoS) {
        let list = self.hearers.entry(user.clone()).or_default();
        match list.iter_mut().find(|(s, _)| *s == session) {
            Some(known) => known.1 = qos,
            None => list.push((session, qos)),
        }
    }

    pub(crate) fn unhear(&mut self, user: &ByteString, session: SessionKey) {
        if let Some(list) = self.hearers.get_mut(user) {
            list.retain(|(s, _)| *s != session);
            if list.is_empty() {
                self.hearers.remove(user);
            }
        }
    }

    pub(crate) fn hearers(&self, user: &str) -> &[(SessionKey, QoS)] {
        self.hearers.get(user).map_or(&[], Vec::as_slice)
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
        open: Vec<TrackedRecipient>,
    ) {
        self.open.insert(message, Tracking { topic, seq, id, sender, wanted, of, open, counts: Vec::new() });
    }

    pub(crate) fn is_tracked(&self, message: MsgNo) -> bool {
        self.open.contains_key(&message)
    }

    pub(crate) fn get(&self, message: MsgNo) -> Option<&Tracking> {
        self.open.get(&message)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (MsgNo, &Tracking)> {
        self.open.iter().map(|(no, tracking)| (*no, tracking))
    }

    /// Ends a message at one recipient. `Some` says that it was open; inside is the receipt to publish, if
    /// the sender wants this one.
    pub(crate) fn end(
        &mut self,
        message: MsgNo,
        session: SessionNo,
        outcome: Outcome,
        at_unix_ms: u64,
    ) -> Option<Vec<Told>> {
        let tracking = self.open.get_mut(&message)?;
        let at = tracking.open.iter().position(|r| r.session == session)?;
        let recipient = tracking.open.swap_remove(at);
        let told = if tracking.of as usize > self.listed_max {
            tracking.count(outcome, at_unix_ms)
        } else if tracking.wants(outcome.state()) {
            vec![tracking.receipt(Some(&recipient), outcome.state(), outcome, at_unix_ms)]
        } else {
            Vec::new()
        };
        if self.open[&message].open.is_empty() {
            self.open.remove(&message);
        }
        Some(told)
    }

    /// Forgets a recipient without telling: the log said before that it ended.
    pub(crate) fn forget(&mut self, message: MsgNo, session: SessionNo) {
        if let Some(tracking) = self.open.get_mut(&message) {
            tracking.open.retain(|r| r.session != session);
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
    /// `delivered` = the final state, whatever it is; `read` = every final state except delivered, and read.
    fn wants(&self, state: ReceiptState) -> bool {
        self.wanted != ReceiptsWanted::Read || state != ReceiptState::Delivered
    }

    fn receipt(
        &self,
        recipient: Option<&TrackedRecipient>,
        state: ReceiptState,
        outcome: Outcome,
        at_unix_ms: u64,
    ) -> Told {
        let receipt = Receipt {
            topic: self.topic.to_string(),
            seq: self.seq,
            id: self.id.to_string(),
            state,
            user: recipient.map(|r| r.user.to_string()),
            client: recipient.map(|r| r.client_id.to_string()),
            at: at_unix_ms,
            reason: match outcome {
                Outcome::Dropped(reason) => Some(reason.to_owned()),
                Outcome::Refused(code) => Some(code.text().to_owned()),
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

    /// Above the listing limit: nothing until the last recipient ended, then one line a state.
    fn count(&mut self, outcome: Outcome, at_unix_ms: u64) -> Vec<Told> {
        match self.counts.iter_mut().find(|(state, _)| *state == outcome.state()) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((outcome.state(), 1)),
        }
        if !self.open.is_empty() {
            return Vec::new();
        }
        let wanted = self.counts.iter().filter(|(state, _)| self.wants(*state));
        wanted
            .map(|(state, count)| {
                let payload = serde_json::json!({
                    "topic": &*self.topic, "seq": self.seq, "id": &*self.id, "state": state,
                    "count": count, "of": self.of, "at": at_unix_ms,
                });
                Told { sender: self.sender.clone(), payload: payload.to_string() }
            })
            .collect()
    }
}
