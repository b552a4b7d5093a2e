//! Who wants to hear of `read` hears of it when a member said so, for the highest of its messages that were reached, and
//! not before. Of a message of many recipients it hears how many have read it.

use std::collections::BTreeMap;

use protocol::im::{Receipt, ReceiptState};

use super::{Checker, Evidence, counted};
use crate::simulation::history::{Event, Who};
use crate::simulation::world::cast::{CAST, MEMBERS, RECEIPTS, REPLAYED_TOPICS};

pub(super) const CHECKER: Checker = Checker { name: "read receipts", needs_rest: true, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    for hearer in (0..CAST.len()).filter(|who| CAST[*who].hears_receipts()) {
        let told = told(evidence, hearer)?;
        // What was given up is nobody's to read.
        if evidence.plan.retention == engine::Retention::default() {
            for (reader, topic) in MEMBERS.into_iter().flat_map(|m| REPLAYED_TOPICS.map(|topic| (m, topic))) {
                if let Some(due) =
                    due(evidence, hearer, reader, topic).filter(|_| CAST[hearer].user() != reader)
                {
                    let highest = told.get(&(reader.to_owned(), topic.to_owned())).copied().unwrap_or(0);
                    if highest < due {
                        let id = CAST[hearer].id;
                        return Err(format!("{reader} read {due} of {id} on {topic}, told was {highest}"));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The highest number that a sender was told of, by reader and topic.
fn told(evidence: &Evidence<'_>, hearer: Who) -> Result<BTreeMap<(String, String), u64>, String> {
    let (mut told, mut asked) = (BTreeMap::new(), BTreeMap::new());
    for event in &evidence.history.events {
        match event {
            Event::Made(message) => {
                if let Some((topic, seq)) = message.read {
                    let most: &mut u64 =
                        asked.entry((CAST[message.by].user(), topic.to_owned())).or_default();
                    *most = seq.max(*most);
                }
            }
            Event::Took { who, taken } if *who == hearer && taken.topic == RECEIPTS => {
                if let Some((topic, seq, count)) = count(&taken.payload) {
                    let others = MEMBERS.iter().filter(|member| **member != CAST[hearer].user());
                    let asked =
                        |m: &&&str| asked.get(&((**m).to_owned(), topic.clone())).copied().unwrap_or(0);
                    if count > others.filter(|member| asked(member) >= seq).count() as u64 {
                        return Err(format!("c{hearer} was told {}, so many did not read it", taken.payload));
                    }
                    continue;
                }
                let Ok(receipt) = serde_json::from_str::<Receipt>(&taken.payload) else { continue };
                if receipt.state != ReceiptState::Read {
                    continue;
                }
                let (reader, seq) = (receipt.user.unwrap_or_default(), receipt.seq.unwrap_or(0));
                let key = (reader, receipt.topic);
                if seq > asked.get(&key).copied().unwrap_or(0) || key.0 == CAST[hearer].user() {
                    return Err(format!("c{hearer} was told {} which nobody read", taken.payload));
                }
                let highest = told.entry(key).or_default();
                *highest = seq.max(*highest);
            }
            _ => {}
        }
    }
    Ok(told)
}

/// What a receipt says that counts readers: topic, number and count.
fn count(payload: &str) -> Option<(String, u64, u64)> {
    let receipt: serde_json::Value = serde_json::from_str(payload).ok()?;
    let is_read = receipt["state"] == "read";
    let count = receipt["count"].as_u64().filter(|_| is_read)?;
    Some((receipt["topic"].as_str()?.to_owned(), receipt["seq"].as_u64()?, count))
}

/// The highest message of a sender that a member is known to have read: acknowledged while it was a member, before it
/// said that it had read that far, which was acknowledged too.
fn due(evidence: &Evidence<'_>, sender: Who, reader: &str, topic: &str) -> Option<u64> {
    let (mut is_member, mut members_since) = (false, 0);
    let mut sent = BTreeMap::new();
    let mut made_at = BTreeMap::new();
    let mut due = None;
    for (at, event) in evidence.history.events.iter().enumerate() {
        match event {
            Event::Asking { user, topic: of, .. } if *user == reader && *of == topic => is_member = false,
            Event::Answered { user, topic: of, joins } if *user == reader && *of == topic => {
                (is_member, members_since) = (*joins, at);
                sent.clear();
            }
            Event::Made(message) => drop(made_at.insert(message.number, at)),
            Event::Acked { number, seq, .. } => {
                let (Some(message), Some(made)) = (evidence.history.message(*number), made_at.get(number))
                else {
                    continue;
                };
                let is_since = is_member && *made > members_since;
                let is_its_own = message.topic == topic && message.by == sender;
                let is_listed = !counted::is_counted(evidence, message);
                if let Some(seq) = seq.filter(|_| is_since && is_its_own && is_listed) {
                    sent.entry(seq).or_insert(at);
                }
                let said = message.read.filter(|(of, _)| is_since && *of == topic);
                if let Some((_, to)) = said.filter(|_| CAST[message.by].user() == reader) {
                    let reached = sent.range(..=to).filter(|(_, acked)| **acked < *made).map(|(seq, _)| *seq);
                    due = reached.max().max(due);
                }
            }
            _ => {}
        }
    }
    due
}
