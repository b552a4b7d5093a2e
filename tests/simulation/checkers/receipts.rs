//! Each recipient of an acknowledged message gets a final receipt to its sender that is true, and never two
//! different ones.

use std::collections::{BTreeMap, BTreeSet};

use protocol::QoS;
use protocol::im::{Receipt, ReceiptState};

use super::kept::{is_set_aside, may_have_ended};
use super::{Checker, Evidence, counted};
use crate::simulation::history::{Message, Who};
use crate::simulation::world::cast::{CAST, RECEIPTS, Role};

pub(super) const CHECKER: Checker = Checker { name: "receipts", needs_rest: true, check };

/// What a sender was told, by topic, message id and recipient.
type Told = BTreeMap<(String, String, String), BTreeSet<ReceiptState>>;

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    for hearer in (0..CAST.len()).filter(|who| CAST[*who].hears_receipts()) {
        let told = told(evidence, hearer)?;
        for message in evidence.history.messages.iter().filter(|m| m.by == hearer) {
            let account = evidence.ledger.account(message.number);
            // Those of many recipients are counted, which has a checker of its own.
            if account.is_acked() && !counted::is_counted(evidence, message) {
                for who in account.owed_to.difference(&account.published_by) {
                    is_told_right(evidence, message, *who, &told)?;
                }
                if account.owed_to_group {
                    group_is_told_right(message, &told)?;
                }
            }
        }
    }
    Ok(())
}

fn told(evidence: &Evidence<'_>, hearer: Who) -> Result<Told, String> {
    let mut told = Told::new();
    for (_, taken) in evidence.history.taken().filter(|(who, t)| *who == hearer && t.topic == RECEIPTS) {
        let receipt: Receipt =
            serde_json::from_str(&taken.payload).map_err(|e| format!("{}: {e}", taken.payload))?;
        // One that is counted has none, and `read` is of a user.
        let Some(client) = receipt.client else {
            continue;
        };
        let states = told.entry((receipt.topic.clone(), receipt.id.clone(), client.clone())).or_default();
        states.insert(receipt.state);
        if states.iter().filter(|state| state.is_final()).count() > 1 {
            return Err(format!("receipts of {} at {client} contradict: {states:?}", receipt.id));
        }
    }
    Ok(told)
}

fn is_told_right(evidence: &Evidence<'_>, message: &Message, who: Who, told: &Told) -> Result<(), String> {
    let (id, client) = (message.id(), CAST[who].id);
    let states = told.get(&(message.topic.to_owned(), id.clone(), client.to_owned()));
    let state = states.and_then(|states| states.iter().find(|state| state.is_final()));
    let is_taken = evidence.ledger.account(message.number).taken_by.contains(&who);
    match state {
        None => Err(format!("nothing was told of {id} at {client}")),
        Some(ReceiptState::Delivered) if is_taken => Ok(()),
        // A program may have it and its acknowledgement be lost, each time.
        Some(ReceiptState::Refused) if is_set_aside(evidence, message, who) => Ok(()),
        Some(ReceiptState::Expired | ReceiptState::Dropped)
            if !is_taken && may_have_ended(evidence, message, who) =>
        {
            Ok(())
        }
        Some(state) => Err(format!("{id} was told {state:?} at {client}, taken: {is_taken}")),
    }
}

/// The group is one recipient: each message has one final state there, which names a member.
fn group_is_told_right(message: &Message, told: &Told) -> Result<(), String> {
    let members = CAST.iter().filter(|role| role.is_member());
    let key = |role: &Role| (message.topic.to_owned(), message.id(), role.id.to_owned());
    let states = members.filter_map(|role| told.get(&key(role)));
    let states: Vec<_> = states.flatten().filter(|state| state.is_final()).collect();
    let may_end = |state: &ReceiptState| match state {
        ReceiptState::Delivered => true,
        ReceiptState::Expired => message.expiry_s.is_some(),
        ReceiptState::Dropped => {
            message.qos == QoS::ExactlyOnce || message.expiry_s.is_some() || message.collapse.is_some()
        }
        _ => false,
    };
    if states.len() == 1 && states.iter().all(|state| may_end(state)) {
        return Ok(());
    }
    Err(format!("{} at {:?} ended in the group as {states:?}", message.id(), message.qos))
}
