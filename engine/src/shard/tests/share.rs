//! Shared groups against the sessions that are their members.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Shard, entries};
use crate::message::Origin;
use crate::record::{Entry, Source};
use crate::share::Members;

/// Groups and sessions say the same, and a message is at one member of its group.
pub(super) fn check(shard: &Shard) {
    let mut members = BTreeMap::new();
    for group in shard.groups.iter() {
        for (list, is_connected) in [(&group.connected, true), (&group.away, false)] {
            let sessions = |m: &Members| m.in_turn().map(|m| m.session).collect::<Vec<_>>();
            for session in sessions(list) {
                let s = &shard.sessions[session];
                assert_eq!(s.conn.is_some(), is_connected, "{} in {}", s.client_id, group.share.full);
                assert!(members.insert((session, group.share.full.clone()), group.share.no).is_none());
            }
        }
    }
    assert_eq!(members.len(), shard.groups.members());
    let mut at = BTreeSet::new();
    let mut see = |message: u64, origin: &Origin| {
        if let Origin::Group { share, .. } = origin {
            assert!(at.insert((share.no, message)), "message {message} is twice in group {}", share.no.0);
            assert!(shard.groups.numbered(share.no).is_some(), "a group that a message names is gone");
        }
    };
    for (key, s) in shard.sessions.iter() {
        let shared: BTreeSet<_> = s.subscriptions.keys().filter(|f| f.starts_with("$share/")).collect();
        let joined = members.keys().filter(|(session, _)| *session == key).map(|(_, full)| &**full);
        assert_eq!(shared, joined.collect());
        s.in_flight.iter().map(|f| &f.delivery).for_each(|d| see(d.message.no.0, &d.origin));
        s.queue.iter_whole().for_each(|d| see(d.message.no.0, &d.origin));
        let by_group = s.queue.iter_whole().filter_map(|d| match &d.origin {
            Origin::Group { share, .. } => Some(share.no),
            _ => None,
        });
        assert_eq!(s.queue.groups().collect::<BTreeSet<_>>(), by_group.collect::<BTreeSet<_>>());
    }
    for remains in shard.remains.values() {
        remains.iter().for_each(|(_, d)| see(d.message.no.0, &d.origin));
    }
}

/// The entries without the names of groups that no other entry needs: the log names the groups of sessions
/// that it does not know too.
pub(super) fn named(records: &[Bytes]) -> Vec<Entry> {
    let mut entries = entries(records);
    let mut needed = BTreeSet::new();
    let mut names = BTreeSet::new();
    for entry in &mut entries {
        match entry {
            // What a cursor reads from the index has less in its head; nothing in flight needs the rest.
            Entry::Head(head) if head.message.seq.is_some() => {
                let message = &mut head.message;
                (message.retain, message.payload_bytes) = (false, 0);
                (message.collapse, message.is_high) = (None, false);
            }
            Entry::Subscribed { filter, .. } => drop(names.insert(filter.clone())),
            Entry::Queued { source: Source::Group(group), .. } => drop(needed.insert(*group)),
            _ => {}
        }
    }
    entries.retain(|entry| match entry {
        Entry::Group { group, filter } => needed.contains(group) || names.contains(filter),
        _ => true,
    });
    entries
}
