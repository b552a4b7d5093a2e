//! What a message asks of the queues that it waits in: to replace an older one, to go out first
//! (docs/protocol.md section 2, `im-collapse` and `im-priority`).

use std::hash::Hasher;
use std::num::NonZeroU64;

use protocol::{UserProperties, im};
use siphasher::sip::SipHasher13;

use crate::config::ConversationRule;
use crate::message::user_property;

/// Returns the collapse key of a message, and whether it goes out first.
pub(crate) fn asked(
    properties: &UserProperties,
    rule: Option<&ConversationRule>,
    user: &str,
    topic: &str,
) -> (Option<NonZeroU64>, bool) {
    if properties.is_empty() && !rule.is_some_and(|rule| rule.collapse || rule.is_high) {
        return (None, false);
    }
    (collapse(properties, rule, user, topic), is_high(properties, rule))
}

/// Returns what stands for the messages that a message collapses with: those of the same user, topic and key. A
/// rule gives all messages of a topic one key.
fn collapse(
    properties: &UserProperties,
    rule: Option<&ConversationRule>,
    user: &str,
    topic: &str,
) -> Option<NonZeroU64> {
    let key = user_property(properties, im::IM_COLLAPSE);
    if key.is_none() && !rule.is_some_and(|rule| rule.collapse) {
        return None;
    }
    // It is in the log: these keys never change.
    let mut hasher = SipHasher13::new_with_keys(0x696d_2d63_6f6c_6c61, 0x7073_6521_7269_6465);
    for name in [user, topic] {
        hasher.write_u64(name.len() as u64);
        hasher.write(name.as_bytes());
    }
    hasher.write_u8(u8::from(key.is_some()));
    hasher.write(key.map_or("", |key| &**key).as_bytes());
    // One of them stands for two.
    Some(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
}

/// Whether a message goes out before others: its own word counts before the rule's; another word is none.
fn is_high(properties: &UserProperties, rule: Option<&ConversationRule>) -> bool {
    match user_property(properties, im::IM_PRIORITY).map(|value| &**value) {
        Some("high") => true,
        Some("normal") => false,
        _ => rule.is_some_and(|rule| rule.is_high),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn properties(name: &str, value: &str) -> UserProperties {
        vec![(name.into(), value.into())]
    }

    #[test]
    fn what_collapses_is_told_apart_by_user_topic_and_key() {
        let of = |user, topic, key| collapse(&properties(im::IM_COLLAPSE, key), None, user, topic);
        let all = [
            of("u", "t", "k"),
            of("u", "tk", ""),
            of("ut", "k", ""),
            of("v", "t", "k"),
            of("u", "t", ""),
            of("u", "s", "k"),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(of("u", "t", "k"), NonZeroU64::new(14_723_801_662_804_794_913), "it is in logs");
        assert_eq!(collapse(&Vec::new(), None, "u", "t"), None);
    }

    #[test]
    fn a_rule_speaks_where_the_sender_does_not() {
        let filter = Config::default().conversations[0].filter.clone();
        let mut rule = ConversationRule { collapse: true, is_high: true, ..ConversationRule::new(filter) };
        let by_rule = collapse(&Vec::new(), Some(&rule), "u", "t");
        assert!(by_rule.is_some());
        assert_ne!(by_rule, collapse(&properties(im::IM_COLLAPSE, ""), Some(&rule), "u", "t"));
        for (value, high) in [("high", true), ("normal", false), ("urgent", true)] {
            assert_eq!(is_high(&properties(im::IM_PRIORITY, value), Some(&rule)), high, "{value}");
        }
        rule.is_high = false;
        assert!(is_high(&properties(im::IM_PRIORITY, "high"), Some(&rule)));
        assert!(!is_high(&properties(im::IM_PRIORITY, "urgent"), None));
    }
}
