//! Rules and principals for the runs, and what must hold of them.

use proptest::prelude::*;
use protocol::ByteString;

use super::Shard;
use crate::rights::{Rights, topics_of};
use crate::session::{FlightState, InFlight, Session};
use crate::{Access, AclRule, Principal, SessionLimits, Who};

/// Rules that allow most, so that runs have something to take away.
pub(super) fn rules() -> impl Strategy<Value = Vec<AclRule>> {
    let filter = vec!["t", "t/#", "#", "#", "+/+", "im/#", "dev/%c/cmd", "im/room"];
    let who = vec![Who::All, Who::All, Who::Client("a".into()), Who::Group("g".into())];
    let access = vec![Access::Publish, Access::Subscribe, Access::Both, Access::Both];
    let (filter, who) = (prop::sample::select(filter), prop::sample::select(who));
    let rule = (prop::bool::weighted(0.7), who, prop::sample::select(access), filter);
    let rule = rule.prop_map(|(allow, who, access, filter)| {
        let filter = ByteString::from(filter);
        AclRule { allow, who, access, filter }
    });
    prop::collection::vec(rule, 0..5)
}

/// Anonymous clients with and without a group, rules and bounds of their own.
pub(super) fn principal() -> impl Strategy<Value = Box<Principal>> {
    let own = prop_oneof![2 => Just(Vec::new()), 1 => rules()];
    let bounds = (prop::option::of(1usize..4), prop::option::of(1u16..4));
    (any::<bool>(), own, bounds).prop_map(|(is_member, own, (queue_messages_max, window))| {
        let groups = is_member.then(|| ByteString::from("g")).into_iter().collect();
        let inflight_max = window.and_then(std::num::NonZeroU16::new);
        let limits = SessionLimits { queue_messages_max, inflight_max, ..SessionLimits::default() };
        Box::new(Principal { user: None, groups, rules: own.into(), limits })
    })
}

/// A session that was checked has nothing that the rules of now forbid.
pub(super) fn check(shard: &Shard, s: &Session) {
    let is_checked = s.checked_epoch == shard.rights_epoch;
    let Some(principal) = s.principal.as_ref().filter(|_| is_checked) else { return };
    let rights = Rights::new(&shard.rules, principal, &s.client_id, &s.user);
    for filter in s.subscriptions.keys() {
        assert_eq!(rights.may_subscribe(topics_of(filter)), Ok(()), "{filter}");
    }
    assert!(s.queue.outlines().all(|m| rights.may_read(m.topic)));
    let may_be_sent =
        |f: &InFlight| f.state != FlightState::Sent || rights.may_read(&f.delivery.message.topic);
    assert!(s.holds_unreadable || s.in_flight.iter().all(may_be_sent));
}
