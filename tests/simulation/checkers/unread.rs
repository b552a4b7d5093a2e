//! What an inbox says is unread equals what counting one by one gives: at every step by what the broker keeps, and at
//! rest by what everybody saw.

use std::collections::BTreeMap;

use engine::Shard;
use protocol::im::{INBOX_TOPIC, Inbox, InboxEntry};

use super::{Checker, Evidence};
use crate::simulation::history::{Event, Who};
use crate::simulation::world::cast::{CAST, MEMBERS};

pub(super) const CHECKER: Checker = Checker { name: "unread", needs_rest: true, check };

/// Compares the broker's count with a recount of what it keeps.
pub(super) fn watch(shard: &Shard) -> Result<(), String> {
    for user in MEMBERS {
        let (told, counted) = (shard.unread(user), shard.recount_unread(user));
        if told != counted {
            return Err(format!("the inbox of {user} says {told:?}, counted one by one it is {counted:?}"));
        }
    }
    Ok(())
}

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    (0..CAST.len()).filter(|who| CAST[*who].is_inbox()).try_for_each(|who| check_inbox(evidence, who))
}

fn check_inbox(evidence: &Evidence<'_>, who: Who) -> Result<(), String> {
    let user = CAST[who].user();
    let (shown, total) = shown(evidence, who)?;
    let sum: u64 = shown.values().map(|entry| entry.unread).sum();
    if sum != total {
        return Err(format!("{user} has {total} unread, the parts are {sum}"));
    }
    let by_seq = senders(evidence);
    for (topic, entry) in &shown {
        let above = by_seq.range(
            (topic.as_str(), entry.read_seq + 1)..=(topic.as_str(), entry.last_seq.max(entry.read_seq + 1)),
        );
        let is_kept = |seq: &u64| evidence.kept.get(topic.as_str()).is_some_and(|kept| kept.contains(seq));
        let counted = above.filter(|((_, seq), from)| **from != user && is_kept(seq)).count() as u64;
        if counted != entry.unread {
            return Err(format!("{user} is told {entry:?}, counted one by one {counted} are unread"));
        }
        let newest = by_seq.range((topic.as_str(), 0)..=(topic.as_str(), u64::MAX)).next_back();
        if newest.is_some_and(|((_, seq), _)| *seq > entry.last_seq) {
            return Err(format!("{user} is told {entry:?}, the conversation goes on to {newest:?}"));
        }
        let read = read_up_to(evidence, &user, topic);
        if entry.read_seq < read {
            return Err(format!("{user} has read {topic} to {read}, the inbox says {entry:?}"));
        }
    }
    check_memberships(evidence, &user, &shown)
}

/// The inbox as the client knows it in the end.
fn shown(evidence: &Evidence<'_>, who: Who) -> Result<(BTreeMap<String, InboxEntry>, u64), String> {
    let (mut shown, mut total) = (BTreeMap::new(), 0);
    for (_, taken) in evidence.history.taken().filter(|(of, t)| *of == who && t.topic == INBOX_TOPIC) {
        let inbox: Inbox =
            serde_json::from_str(&taken.payload).map_err(|e| format!("{}: {e}", taken.payload))?;
        if inbox.next.is_some() {
            shown.clear();
        }
        total = inbox.unread;
        for entry in inbox.conversations {
            match entry.left {
                true => drop(shown.remove(&entry.topic)),
                false => drop(shown.insert(entry.topic.clone(), entry)),
            }
        }
    }
    Ok((shown, total))
}

/// Who sent each message of the conversations, by all that anybody saw of them.
fn senders<'a>(evidence: &'a Evidence<'_>) -> BTreeMap<(&'a str, u64), String> {
    let mut by_seq = BTreeMap::new();
    let mut see = |number: u64, seq: Option<u64>| {
        if let Some((message, seq)) = evidence.history.message(number).zip(seq) {
            by_seq.insert((message.topic, seq), CAST[message.by].user());
        }
    };
    for event in &evidence.history.events {
        match event {
            Event::Acked { number, seq, .. } => see(*number, *seq),
            Event::Took { taken, .. } => {
                if let Some(number) = taken.number() {
                    see(number, taken.seq);
                }
            }
            _ => {}
        }
    }
    by_seq
}

/// How far the broker said that the user has read, while it was a member all the time: what was asked for, but not
/// above what the conversation was known to have then.
fn read_up_to(evidence: &Evidence<'_>, user: &str, topic: &str) -> u64 {
    let (mut read, mut end) = (0, 0);
    for event in &evidence.history.events {
        match event {
            // A new member has read what there was.
            Event::Asking { user: of, topic: at, joins: false } if *of == user && *at == topic => read = 0,
            Event::Acked { number, seq, .. } => {
                let Some(message) = evidence.history.message(*number) else { continue };
                if message.topic == topic {
                    end = seq.unwrap_or(0).max(end);
                }
                let is_own = CAST[message.by].user() == user;
                if let Some((_, seq)) = message.read.filter(|(at, _)| is_own && *at == topic) {
                    // Of what came after the request was made nothing is known.
                    let known = known_at(evidence, message.number, topic);
                    read = seq.min(known).min(end).max(read);
                }
            }
            _ => {}
        }
    }
    read
}

/// The highest number of a conversation that was acknowledged before a message was made.
fn known_at(evidence: &Evidence<'_>, made: u64, topic: &str) -> u64 {
    let before = evidence.history.events.iter();
    let before = before.take_while(|event| !matches!(event, Event::Made(m) if m.number == made));
    let seqs = before.filter_map(|event| match event {
        Event::Acked { number, seq, .. } => {
            seq.filter(|_| evidence.history.message(*number).is_some_and(|m| m.topic == topic))
        }
        _ => None,
    });
    seqs.max().unwrap_or(0)
}

/// Whoever was made a member is one, and sees it.
fn check_memberships(
    evidence: &Evidence<'_>,
    user: &str,
    shown: &BTreeMap<String, InboxEntry>,
) -> Result<(), String> {
    // `None` while a question is open: the broker may have died before or after it was done.
    let mut members: BTreeMap<&str, Option<bool>> = BTreeMap::new();
    for event in &evidence.history.events {
        match event {
            Event::Asking { user: of, topic, .. } if *of == user => drop(members.insert(topic, None)),
            Event::Answered { user: of, topic, joins } if *of == user => {
                members.insert(topic, Some(*joins));
            }
            _ => {}
        }
    }
    for (topic, is_member) in members {
        if is_member.is_some_and(|is_member| is_member != shown.contains_key(topic)) {
            return Err(format!("{user} is a member of {topic}: {is_member:?}, the inbox says {shown:?}"));
        }
    }
    Ok(())
}
