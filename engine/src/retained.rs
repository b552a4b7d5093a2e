//! The retained message of each topic (MQTT 5.0 section 3.3.1.3).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytestring::ByteString;
use protocol::filter_matches;

use crate::message::Message;

/// Ordered by topic, so that a filter scans only the topics that share its literal beginning.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    topics: BTreeMap<ByteString, Arc<Message>>,
}

impl Retained {
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    pub(crate) fn set(&mut self, message: Arc<Message>) {
        self.topics.insert(message.topic.clone(), message);
    }

    /// Says whether there was one.
    pub(crate) fn clear(&mut self, topic: &str) -> bool {
        self.topics.remove(topic).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.topics.values()
    }

    /// Returns the messages whose topic matches, in topic order.
    pub(crate) fn matching(&self, filter: &str) -> Vec<Arc<Message>> {
        let Some(wildcard) = filter.find(['+', '#']) else {
            return self.topics.get(filter).cloned().into_iter().collect();
        };
        // `a/#` matches `a` too, so the level's own slash is not part of the beginning.
        let prefix = filter[..wildcard].trim_end_matches('/');
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.topics
            .range::<str, _>(from)
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, _)| filter_matches(filter, topic))
            .map(|(_, message)| message.clone())
            .collect()
    }
}
