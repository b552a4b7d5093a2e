//! What must hold at the end of a run, whatever happened in it.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{QoS, filter_matches};

use super::client::{Client, Taken};

/// Topics of this world that are conversations.
fn is_conversation(topic: &str) -> bool {
    topic.starts_with("im/") || filter_matches("dev/+/cmd", topic)
}

/// Publisher's index and message number of a payload.
fn origin(taken: &Taken) -> Result<(&str, u64), String> {
    let parsed = taken.payload.split_once('/').and_then(|(who, n)| Some((who, n.parse().ok()?)));
    parsed.ok_or_else(|| format!("a payload that nobody made: {taken:?}"))
}

fn messages(client: &Client) -> impl Iterator<Item = &Taken> {
    client.taken.iter().filter(|t| !t.topic.starts_with('$'))
}

/// The group's filter. Its members have no other subscription, and the first one never ends its session.
pub(super) const GROUP: &str = "$share/workers/#";

fn is_member(client: &Client) -> bool {
    client.filters.iter().any(|(filter, _)| *filter == GROUP)
}

/// Every acknowledged message that the group was owed came to one of its members. QoS 2 ends with the session
/// that it was in flight to, of which one holds no more than its window.
pub(super) fn the_group_gets_everything(clients: &[Client], window: u64) -> Result<u64, String> {
    let members: Vec<_> = clients.iter().filter(|c| is_member(c)).collect();
    let (mut taken, mut twice) = (BTreeMap::<&str, u64>::new(), BTreeSet::new());
    for message in members.iter().flat_map(|c| messages(c)) {
        *taken.entry(&message.payload).or_default() += 1;
        if message.qos == QoS::ExactlyOnce && !twice.insert(&message.payload) {
            return Err(format!("{} came to the group twice at QoS 2", message.payload));
        }
    }
    let mut missing = 0;
    for publisher in clients {
        for (number, made) in publisher.made.iter().filter(|(_, m)| m.acknowledged && m.owed_to_group) {
            let payload = format!("{}/{number}", publisher.id);
            if taken.contains_key(&*payload) {
                continue;
            }
            if made.qos < QoS::ExactlyOnce {
                return Err(format!("{payload} on {} came to nobody of the group", made.topic));
            }
            missing += 1;
        }
    }
    let may_miss = window * members.iter().map(|c| c.ended).sum::<u64>();
    if missing > may_miss {
        return Err(format!("{missing} messages at QoS 2 came to nobody of the group, {may_miss} may"));
    }
    Ok(taken.len() as u64)
}

/// The group is one recipient: each message has one final state there, which names a member.
fn group_receipts_are_complete(
    clients: &[Client],
    sender: &Client,
    states: &BTreeMap<(String, String), BTreeSet<String>>,
) -> Result<(), String> {
    let members: Vec<_> = clients.iter().filter(|c| is_member(c)).map(|c| &c.id).collect();
    for (number, made) in sender.made.iter().filter(|(_, m)| m.acknowledged && m.owed_to_group) {
        let id = format!("{}-{number}", sender.id);
        let told: Vec<_> = members
            .iter()
            .filter_map(|member| states.get(&(id.clone(), (*member).clone())))
            .flatten()
            .map(String::as_str)
            .collect();
        // A QoS 1 publish that was sent again is two messages.
        let is_right = match made.qos {
            QoS::ExactlyOnce => matches!(told[..], ["delivered" | "dropped"]),
            _ => !told.is_empty() && told.iter().all(|state| *state == "delivered"),
        };
        if !is_right {
            return Err(format!("{id} at {:?} ended in the group as {told:?}", made.qos));
        }
    }
    Ok(())
}

/// Every acknowledged message is at everyone whose subscription was acknowledged when it was made.
pub(super) fn nothing_acknowledged_is_lost(clients: &[Client]) -> Result<u64, String> {
    let mut acknowledged = 0;
    for publisher in clients {
        for (number, made) in publisher.made.iter().filter(|(_, m)| m.acknowledged) {
            acknowledged += 1;
            let payload = format!("{}/{number}", publisher.id);
            for &to in &made.owed_to {
                let subscriber = &clients[to];
                if !messages(subscriber).any(|t| t.payload == payload) {
                    return Err(format!(
                        "{payload} on {} ({:?}) never came to {}",
                        made.topic, made.qos, subscriber.id
                    ));
                }
            }
        }
    }
    Ok(acknowledged)
}

/// A message published and subscribed at QoS 2 comes once.
pub(super) fn qos_2_arrives_once(clients: &[Client]) -> Result<(), String> {
    for subscriber in clients {
        let mut seen = BTreeSet::new();
        for taken in messages(subscriber).filter(|t| t.qos == QoS::ExactlyOnce) {
            if !seen.insert(&taken.payload) {
                return Err(format!("{} came twice to {} at QoS 2", taken.payload, subscriber.id));
            }
        }
    }
    Ok(())
}

/// First arrivals of one publisher's messages on one topic at one QoS come in the order they were made. Only
/// messages made after the subscription count: of the others a subscriber may get the resend alone.
pub(super) fn order_holds(clients: &[Client]) -> Result<(), String> {
    let is_owed = |who: &str, number: u64, to: usize| {
        let made = clients.iter().find(|c| c.id == who).and_then(|c| c.made.get(&number));
        made.is_some_and(|m| m.owed_to.contains(&to))
    };
    for (to, subscriber) in clients.iter().enumerate() {
        let mut newest = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for taken in messages(subscriber).filter(|t| t.qos > QoS::AtMostOnce) {
            let (who, number) = origin(taken)?;
            if !is_owed(who, number, to) || !seen.insert(&taken.payload) {
                continue;
            }
            let before = newest.insert((who, &taken.topic, taken.qos), number);
            if before.is_some_and(|before| before > number) {
                return Err(format!("{} came to {} after {before:?}", taken.payload, subscriber.id));
            }
        }
    }
    Ok(())
}

/// Every number of a conversation stands for one message, all agree on it, none is left out, and a
/// subscriber's first arrivals come in its order.
pub(super) fn seqs_have_no_gaps(clients: &[Client]) -> Result<(), String> {
    let mut by_seq: BTreeMap<(&str, u64), String> = BTreeMap::new();
    let mut see = |topic, seq, payload: String| match by_seq.insert((topic, seq), payload.clone()) {
        Some(other) if other != payload => Err(format!("{topic} seq {seq} is {other} and {payload}")),
        _ => Ok(()),
    };
    for client in clients {
        let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
        for taken in messages(client) {
            match taken.seq {
                Some(seq) if is_conversation(&taken.topic) => {
                    see(&taken.topic, seq, taken.payload.clone())?;
                    let newest = newest.entry(&taken.topic).or_insert(seq);
                    // What a group brings jumps by nature.
                    if seq > *newest + 1 && !is_member(client) {
                        return Err(format!(
                            "{} saw {} jump from seq {newest} to {seq}",
                            client.id, taken.topic
                        ));
                    }
                    *newest = seq.max(*newest);
                }
                None if !is_conversation(&taken.topic) => {}
                _ => return Err(format!("{} got a wrong im-seq: {taken:?}", client.id)),
            }
        }
        for (number, made) in client.made.iter().filter(|(_, m)| m.acknowledged && is_conversation(m.topic)) {
            let seq = made
                .seq
                .ok_or_else(|| format!("no im-seq on the acknowledgement of {}/{number}", client.id))?;
            see(made.topic, seq, format!("{}/{number}", client.id))?;
        }
    }
    Ok(())
}

/// Whether a message id may stand for two messages: a QoS 1 publish is sent again when its acknowledgement was
/// lost. At the group's members each may end in its own way, before one came that stays.
fn is_made_twice(sender: &Client, id: &str) -> bool {
    let number = id.rsplit_once('-').and_then(|(_, n)| n.parse().ok());
    number.and_then(|n: u64| sender.made.get(&n)).is_some_and(|m| m.qos == QoS::AtLeastOnce)
}

fn is_member_named(clients: &[Client], id: &str) -> bool {
    clients.iter().any(|c| c.id == id && is_member(c))
}

/// Each recipient of an acknowledged message gets a final receipt to the sender, and never two different ones.
pub(super) fn receipts_are_complete(clients: &[Client]) -> Result<u64, String> {
    let mut receipts = 0;
    for sender in clients {
        let mut states: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for taken in sender.taken.iter().filter(|t| t.topic == "$im/receipts") {
            let receipt: serde_json::Value =
                serde_json::from_str(&taken.payload).map_err(|e| e.to_string())?;
            let field = |name: &str| receipt[name].as_str().unwrap_or_default().to_owned();
            states.entry((field("id"), field("client"))).or_default().insert(field("state"));
            receipts += 1;
        }
        if let Some((of, states)) = states.iter().find(|(of, states)| {
            states.len() > 1 && !(is_made_twice(sender, &of.0) && is_member_named(clients, &of.1))
        }) {
            return Err(format!("receipts of {of:?} contradict each other: {states:?}"));
        }
        if !sender.filters.iter().any(|(filter, _)| *filter == "$im/receipts") {
            continue;
        }
        group_receipts_are_complete(clients, sender, &states)?;
        for (number, made) in sender.made.iter().filter(|(_, m)| m.acknowledged) {
            for &to in made.owed_to.iter().filter(|to| clients[**to].id != sender.id) {
                let of = (format!("{}-{number}", sender.id), clients[to].id.clone());
                if !states.get(&of).is_some_and(|s| s.contains("delivered")) {
                    return Err(format!("{} heard nothing of {of:?}", sender.id));
                }
            }
        }
    }
    Ok(receipts)
}

/// Whether the group has a member that stays.
pub(super) fn is_owed_to_group(clients: &[Client]) -> bool {
    clients.iter().find(|c| is_member(c)).is_some_and(|c| c.subscribed)
}

/// Who has an acknowledged subscription that the topic matches.
pub(super) fn owed_to(clients: &[Client], topic: &str) -> Vec<usize> {
    let has = |c: &Client| c.subscribed && c.filters.iter().any(|(filter, _)| filter_matches(filter, topic));
    (0..clients.len()).filter(|i| has(&clients[*i])).collect()
}
