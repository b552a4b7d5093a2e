//! What one client may do: the rules that are about it, asked for every publish and subscription.
//!
//! Rules are sorted by whom they name once for the node, and picked for a client once a connection, so that
//! a publish looks only at those that are about it. What docs/protocol.md section 11 grants to everyone is
//! granted here. Knows nothing of sessions and connections.

use std::sync::Arc;

use bytestring::ByteString;
use protocol::im::{ENVELOPE_PREFIX, ERRORS_TOPIC, FROM_PREFIX, IM_PREFIX, RECEIPTS_TOPIC};
use protocol::{filter_covers, filter_matches, filters_overlap};

use crate::acl::{Access, Acl, AclRule, Who};
use crate::names::ByName;
use crate::principal::Principal;
use crate::record::Form;

/// The node's rules, by whom they are about.
#[derive(Debug, Default)]
pub(crate) struct NodeRules {
    acl: Arc<Acl>,
    /// Rules for all, for the anonymous or for the authenticated.
    open: Vec<u32>,
    by_user: ByName<Vec<u32>>,
    by_group: ByName<Vec<u32>>,
    by_client: ByName<Vec<u32>>,
}

/// Why something is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    /// The filter of the rule that says so, as it was written; `None` = no rule allows it.
    rule: Option<ByteString>,
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.rule {
            Some(filter) => write!(f, "a rule denies {filter:?}"),
            None => f.write_str("no rule allows it"),
        }
    }
}

/// One rule as it is for a client.
#[derive(Clone, Copy, Debug)]
struct Applied {
    /// Its place: the principal's rules first, then the node's.
    rule: u32,
    /// Where its filter stands with the names in it, `NOT_NAMED` if it has none.
    named: u32,
}

const NOT_NAMED: u32 = u32::MAX;

/// The rights of one client.
#[derive(Debug)]
pub(crate) struct Rights {
    node: Arc<NodeRules>,
    /// `None` where no rule exists, so that everything is allowed.
    picked: Option<Box<Picked>>,
}

/// The rules that are about one client.
#[derive(Debug)]
struct Picked {
    own: Arc<[AclRule]>,
    /// The rules that are about it, the first that matches decides.
    rules: Box<[Applied]>,
    /// Filters with the client's names in them.
    named: Box<[ByteString]>,
    /// Topics that it was allowed to publish to a short while ago.
    recent: Recent,
}

/// Rules from which on it pays to remember what they allowed.
const REMEMBERED_FROM: usize = 4;

/// Topics remembered, and the longest one.
const RECENT_MAX: usize = 4;
const RECENT_BYTES_MAX: usize = 256;

#[derive(Debug, Default)]
struct Recent {
    topics: Vec<ByteString>,
    next: usize,
}

impl NodeRules {
    pub(crate) fn new(acl: Arc<Acl>) -> Self {
        let mut rules = Self::default();
        for (at, rule) in (0..).zip(&acl.rules) {
            let list = match &rule.who {
                Who::All | Who::Anonymous | Who::Authenticated => &mut rules.open,
                Who::User(name) => rules.by_user.entry(name.clone()).or_default(),
                Who::Group(name) => rules.by_group.entry(name.clone()).or_default(),
                Who::Client(name) => rules.by_client.entry(name.clone()).or_default(),
            };
            list.push(at);
        }
        Self { acl, ..rules }
    }

    /// Whether no rule exists, neither here nor of the principal's own, so that everything is allowed.
    pub(crate) fn leave_unrestricted(&self, principal: &Principal) -> bool {
        self.acl.rules.is_empty() && principal.rules.is_empty()
    }

    /// Returns the places of the rules that are about the client, in their order.
    fn about(&self, client_id: &str, principal: &Principal) -> Vec<u32> {
        let places = |of: Option<&Vec<u32>>| of.cloned().unwrap_or_default();
        let mut about = self.open.clone();
        about.retain(|at| self.acl.rules[*at as usize].is_about(client_id, principal));
        about.extend(places(self.by_client.get(client_id)));
        about.extend(places(principal.user.as_ref().and_then(|user| self.by_user.get(user))));
        about.extend(principal.groups.iter().flat_map(|group| places(self.by_group.get(group))));
        about.sort_unstable();
        about.dedup();
        about
    }
}

impl AclRule {
    fn is_about(&self, client_id: &str, principal: &Principal) -> bool {
        match &self.who {
            Who::All => true,
            Who::Anonymous => principal.user.is_none(),
            Who::Authenticated => principal.user.is_some(),
            Who::User(name) => principal.user.as_ref() == Some(name),
            Who::Group(name) => principal.groups.contains(name),
            Who::Client(name) => name == client_id,
        }
    }

    fn is_for(&self, access: Access) -> bool {
        self.access == Access::Both || self.access == access
    }
}

impl Rights {
    /// Picks the rules that are about a client. `user` is its session's, so that the anonymous have one.
    pub(crate) fn new(node: &Arc<NodeRules>, principal: &Principal, client_id: &str, user: &str) -> Self {
        let is_restricted = !node.leave_unrestricted(principal);
        let picked = is_restricted.then(|| Box::new(Picked::new(node, principal, client_id, user)));
        Self { node: Arc::clone(node), picked }
    }

    /// Whether these are the rights by the node's rules of now.
    pub(crate) fn are_of(&self, node: &Arc<NodeRules>) -> bool {
        Arc::ptr_eq(&self.node, node)
    }

    /// How many rules are about the client.
    pub(crate) fn rules(&self) -> usize {
        self.picked.as_ref().map_or(0, |picked| picked.rules.len())
    }

    /// Whether no rule exists, so that everything is allowed.
    pub(crate) fn is_unrestricted(&self) -> bool {
        self.picked.is_none()
    }

    /// Says whether the client may publish to the topic: the first rule whose filter matches decides. What it
    /// may do with `$im/...` is no matter of rules.
    pub(crate) fn may_publish(&mut self, topic: &ByteString) -> Result<(), Denied> {
        let Some(picked) = &mut self.picked else { return Ok(()) };
        if picked.recent.has(topic) || topic.starts_with(IM_PREFIX) {
            return Ok(());
        }
        let first =
            picked.about(&self.node, Access::Publish).find(|(_, filter)| filter_matches(filter, topic));
        match first {
            Some((rule, _)) if rule.allow => {}
            first => return Err(Denied { rule: first.map(|(rule, _)| rule.filter.clone()) }),
        }
        if picked.rules.len() >= REMEMBERED_FROM {
            picked.recent.add(topic);
        }
        Ok(())
    }

    /// Says whether the client may subscribe to the filter, its prefixes taken off by [`topics_of`]: a rule
    /// that allows all of it allows it, one that denies any of it before refuses it. One that allows a part
    /// of it says nothing: so no message comes through a wildcard that may not be read.
    pub(crate) fn may_subscribe(&self, filter: &str) -> Result<(), Denied> {
        let Some(picked) = self.picked.as_ref().filter(|_| !is_everyones(filter)) else { return Ok(()) };
        for (rule, of_rule) in picked.about(&self.node, Access::Subscribe) {
            match rule.allow {
                true if filter_covers(of_rule, filter) => return Ok(()),
                false if filters_overlap(of_rule, filter) => {
                    return Err(Denied { rule: Some(rule.filter.clone()) });
                }
                _ => {}
            }
        }
        Err(Denied { rule: None })
    }

    /// Says whether the client may read messages of the topic: whether it may subscribe to just that.
    pub(crate) fn may_read(&self, topic: &str) -> bool {
        let Some(picked) = self.picked.as_ref().filter(|_| !is_everyones(topic)) else { return true };
        let first =
            picked.about(&self.node, Access::Subscribe).find(|(_, filter)| filter_matches(filter, topic));
        first.is_some_and(|(rule, _)| rule.allow)
    }
}

impl Picked {
    fn new(node: &Arc<NodeRules>, principal: &Principal, client_id: &str, user: &str) -> Self {
        let own = &principal.rules;
        let own_places = (0..).zip(own.iter()).filter(|(_, rule)| rule.is_about(client_id, principal));
        let mut places: Vec<u32> = own_places.map(|(at, _)| at).collect();
        places.extend(node.about(client_id, principal).into_iter().map(|at| at + own.len() as u32));
        let (mut rules, mut named) = (Vec::with_capacity(places.len()), Vec::new());
        for rule in places {
            let filter = &rule_at(own, node, rule).filter;
            match with_names(filter, client_id, user) {
                Named::Nothing => {}
                Named::Unchanged => rules.push(Applied { rule, named: NOT_NAMED }),
                Named::Filter(filter) => {
                    rules.push(Applied { rule, named: named.len() as u32 });
                    named.push(filter.into());
                }
            }
        }
        let (rules, named) = (rules.into_boxed_slice(), named.into_boxed_slice());
        Self { own: Arc::clone(own), rules, named, recent: Recent::default() }
    }

    fn about<'a>(
        &'a self,
        node: &'a NodeRules,
        access: Access,
    ) -> impl Iterator<Item = (&'a AclRule, &'a ByteString)> {
        self.rules.iter().filter_map(move |applied| {
            let rule = rule_at(&self.own, node, applied.rule);
            let filter = self.named.get(applied.named as usize).unwrap_or(&rule.filter);
            rule.is_for(access).then_some((rule, filter))
        })
    }
}

impl Recent {
    fn has(&self, topic: &ByteString) -> bool {
        self.topics.contains(topic)
    }

    /// Remembers a topic instead of the one remembered longest ago.
    fn add(&mut self, topic: &ByteString) {
        if topic.len() > RECENT_BYTES_MAX {
            return;
        }
        // A copy: a slice would keep the packet that it came in.
        let topic = ByteString::from(&**topic);
        match self.topics.get_mut(self.next) {
            Some(oldest) => *oldest = topic,
            None => self.topics.push(topic),
        }
        self.next = (self.next + 1) % RECENT_MAX;
    }
}

fn rule_at<'a>(own: &'a [AclRule], node: &'a NodeRules, at: u32) -> &'a AclRule {
    own.get(at as usize).unwrap_or_else(|| &node.acl.rules[at as usize - own.len()])
}

/// A rule's filter with a client's names in it.
enum Named {
    /// It has no place for a name.
    Unchanged,
    /// A name could mean something else than itself: the rule matches nothing.
    Nothing,
    Filter(String),
}

fn with_names(filter: &str, client_id: &str, user: &str) -> Named {
    if !filter.split('/').any(|level| matches!(level, "%c" | "%u")) {
        return Named::Unchanged;
    }
    let mut named = String::with_capacity(filter.len() + client_id.len() + user.len());
    for (at, level) in filter.split('/').enumerate() {
        let name = match level {
            "%c" => client_id,
            "%u" => user,
            other => other,
        };
        let is_name = matches!(level, "%c" | "%u");
        // At the beginning a `$` would reach what is the broker's.
        if is_name
            && (name.is_empty() || name.contains(['/', '+', '#']) || (at == 0 && name.starts_with('$')))
        {
            return Named::Nothing;
        }
        if at > 0 {
            named.push('/');
        }
        named.push_str(name);
    }
    Named::Filter(named)
}

/// Takes the prefixes off that say how messages are to come, not which: rights are about the topics. The one
/// place to do it (docs/protocol.md section 11).
pub(crate) fn topics_of(full: &str) -> &str {
    let shared = full.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    let filter = shared.map_or(full, |(_, filter)| filter);
    let stored = filter.strip_prefix(FROM_PREFIX).and_then(|rest| rest.split_once('/'));
    let filter = stored.map_or(filter, |(_, filter)| filter);
    filter.strip_prefix(ENVELOPE_PREFIX).unwrap_or(filter)
}

/// Returns the form in which messages come to a subscription.
pub(crate) fn form_of(full: &str) -> Form {
    let shared = full.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    let filter = shared.map_or(full, |(_, filter)| filter);
    if filter.starts_with(ENVELOPE_PREFIX) { Form::Envelope } else { Form::Plain }
}

/// What every client may subscribe to without a rule: it brings only what is its own.
fn is_everyones(filter: &str) -> bool {
    let Some(rest) = filter.strip_prefix(IM_PREFIX) else { return false };
    matches!(filter, RECEIPTS_TOPIC | ERRORS_TOPIC)
        || matches!(rest, "mine" | "inbox")
        || rest.strip_prefix("probe/").is_some_and(|id| !id.contains('/') && id != "#")
}

#[cfg(test)]
mod tests;
