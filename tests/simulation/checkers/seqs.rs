//! Every number of a conversation stands for one message, all agree on it, and a subscriber's first arrivals come
//! in its order without a hole.

use std::collections::BTreeMap;

use super::{Checker, Evidence};
use crate::simulation::world::cast::{CAST, LOSSY_CONVERSATION, is_conversation};

pub(super) const CHECKER: Checker = Checker { name: "seqs", needs_rest: false, check };

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let mut by_seq = BTreeMap::new();
    let mut see = |topic: &str, seq: u64, number: u64| match by_seq.insert((topic.to_owned(), seq), number) {
        Some(other) if other != number => Err(format!("{topic} seq {seq} is {other} and {number}")),
        _ => Ok(()),
    };
    let mut newest: BTreeMap<(usize, &str), u64> = BTreeMap::new();
    for (who, taken) in evidence.history.taken() {
        let Some(number) = taken.number() else {
            continue;
        };
        let is_told = !CAST[who].is_old() || taken.envelope.is_some();
        if is_told && taken.seq.is_some() != is_conversation(&taken.topic) {
            return Err(format!("c{who} got a wrong im-seq: {taken:?}"));
        }
        let Some(seq) = taken.seq else { continue };
        see(&taken.topic, seq, number)?;
        let newest = newest.entry((who, &taken.topic)).or_insert(seq);
        // What a group brings jumps by nature, and so does what somebody does not always subscribe to.
        let role = &CAST[who];
        let may_jump = role.is_fickle
            || role.is_member()
            || role.replays
            || role.is_inbox()
            || taken.topic == LOSSY_CONVERSATION
            || (role.has_short_queue() && evidence.plan.has_short_queues());
        if seq > *newest + 1 && !may_jump {
            return Err(format!("{} saw {} jump from seq {newest} to {seq}", role.id, taken.topic));
        }
        *newest = seq.max(*newest);
    }
    let of_conversations = evidence.history.messages.iter().filter(|m| is_conversation(m.topic));
    for message in of_conversations.filter(|m| !CAST[m.by].is_old()) {
        for seq in &evidence.ledger.account(message.number).acks {
            let seq = seq.ok_or_else(|| format!("no im-seq on the acknowledgement of {}", message.number))?;
            see(message.topic, seq, message.number)?;
        }
    }
    Ok(())
}
