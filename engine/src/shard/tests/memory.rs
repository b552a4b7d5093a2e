//! The account of memory against a count of what is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Shard;
use crate::body::Body;
use crate::memory::{CONNECTION_BYTES, GROUP_BYTES, entry_bytes};
use crate::message::Message;
use crate::poison::SET_ASIDE_BYTES;

/// What lives is what is counted, each body once.
pub(super) fn check(shard: &Shard) {
    let mut heads: BTreeMap<*const Message, usize> = BTreeMap::new();
    let mut bodies: BTreeMap<*const Body, usize> = BTreeMap::new();
    let mut see = |m: &Arc<Message>| {
        heads.insert(Arc::as_ptr(m), m.held.bytes());
        assert!(m.held.bytes() > m.topic.len(), "a message that is not counted");
        if let Some(body) = m.body.load().as_ref().filter(|body| !body.is_lost) {
            bodies.insert(std::ptr::from_ref(body), body.held.bytes());
            assert!(body.held.bytes() > m.body_bytes(), "a body that is not counted");
        }
    };
    let mut sum = 0;
    for (_, s) in shard.sessions.iter() {
        let in_flight = || s.in_flight.iter().map(|f| &f.delivery);
        s.queue.iter_whole().chain(in_flight()).for_each(|d| see(&d.message));
        let set_aside = || s.set_aside.iter().flat_map(|all| all.iter());
        set_aside().for_each(|s| see(&s.message));
        let entries: usize = in_flight().map(entry_bytes).sum();
        let replays = s.replays.as_ref().map_or((0, 0), |r| (r.held_bytes(), r.recount()));
        let gaps = s.gaps.as_ref().map_or((0, 0), |g| (g.held_bytes(), g.recount()));
        assert_eq!((replays.0, gaps.0), (replays.1, gaps.1));
        s.queue.check_held();
        sum += replays.0 + gaps.0;
        s.replays.iter().flat_map(|r| r.iter()).for_each(|(_, _, c)| c.ahead.iter().for_each(&mut see));
        let entries = entries + s.queue.held_bytes() + set_aside().count() * SET_ASIDE_BYTES;
        assert_eq!(s.share_bytes(), s.recount_without_entries() + entries);
        sum += s.share_bytes();
    }
    for remains in shard.remains.values() {
        remains.iter().for_each(|(_, d)| see(&d.message));
        let entries: usize = remains.iter().map(|(_, d)| entry_bytes(d)).sum();
        assert_eq!(remains.held_bytes(), entries + remains.client_id.len() + remains.user.len());
        sum += remains.held_bytes();
    }
    let groups: usize = shard.groups.iter().map(|g| GROUP_BYTES + g.share.full.len()).sum();
    assert_eq!(shard.groups.held_bytes(), groups);
    sum += groups;
    shard.fetches.wanted().for_each(&mut see);
    shard.uncommitted.iter().for_each(&mut see);
    shard.fan_outs.iter().for_each(|fan_out| see(&fan_out.message));
    sum += shard.fan_outs.iter().map(|fan_out| fan_out.held_bytes()).sum::<usize>();
    shard.retained.iter().chain(shard.informed.iter()).for_each(&mut see);
    sum += heads.values().sum::<usize>() + bodies.values().sum::<usize>();
    for c in shard.conns.values() {
        let aliases: usize = c.aliases.values().map(|topic| topic.len() + crate::memory::ALIAS_BYTES).sum();
        let given = c.topics.as_ref().map_or(0, |topics| topics.held_bytes());
        assert_eq!(c.held.bytes(), CONNECTION_BYTES + aliases + given);
        sum += c.held.bytes();
    }
    sum += shard.receipts.iter().map(|(_, t)| t.recount()).sum::<usize>();
    sum += shard.conversations.recount() + shard.dedup.recount() + shard.read_wishes.recount();
    sum += shard.presences.recount() + shard.networks.recount();
    sum += shard.members.recount();
    assert_eq!(shard.account.bytes(), sum);
    assert_eq!(shard.memory().bytes, shard.held_bytes());
}
