//! Who gets the messages of topics that were published to a short while ago.
//!
//! A publisher mostly sends to the topic it sent to before: then nothing is searched, sorted or allocated. Kept is
//! only what holds for every publisher and every message of a topic outside conversations; what a subscription
//! changes ends what was found before it. A topic is kept when it comes the second time, so that those that come once
//! cost next to nothing. Invariants: never more than `TARGETS_MAX` recipients are kept; no topic is that is longer than
//! `TOPIC_BYTES_MAX`.

use std::hash::Hasher;
use std::ops::Deref;
use std::sync::Arc;

use bytestring::ByteString;
use rustc_hash::FxHasher;

use super::Shard;
use super::accept::{Offer, Target};
use super::limits::levels_of;
use super::share::Load;
use crate::message::compact;

/// Places for topics; which one is a topic's follows from its hash.
const PLACES: usize = 4_096;

/// Recipients kept, of all topics together.
const TARGETS_MAX: usize = 65_536;

/// The longest topic that is kept.
const TOPIC_BYTES_MAX: usize = 256;

/// What is known of topics.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Made when the first message comes.
    places: Vec<Place>,
    /// Recipients kept.
    targets: usize,
}

#[derive(Debug, Default)]
struct Place {
    /// Hash of the topic that came last.
    hash: u64,
    /// The state of the routes then.
    epoch: u64,
    known: Option<Known>,
}

/// What is known of one topic: it may be published to, and no conversation is on it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Kept once for all its messages.
    pub(super) topic: ByteString,
    pub(super) levels: usize,
    pub(super) targets: Arc<[Target]>,
}

/// The recipients of one message.
pub(super) enum Targets {
    /// Found for it.
    Own(Vec<Target>),
    /// Known before.
    Known(Arc<[Target]>),
}

impl Deref for Targets {
    type Target = [Target];

    fn deref(&self) -> &[Target] {
        match self {
            Self::Own(targets) => targets,
            Self::Known(targets) => targets,
        }
    }
}

impl Heard {
    /// Returns what is known of a topic while the routes are as they were.
    #[inline]
    pub(super) fn find(&self, topic: &str, epoch: u64) -> Option<&Known> {
        let place = self.places.get(place_of(hash(topic)))?;
        place.known.as_ref().filter(|known| place.epoch == epoch && known.topic == *topic)
    }

    /// Notes who gets the messages of a topic, if it came before.
    pub(super) fn note(&mut self, topic: &str, epoch: u64, levels: usize, targets: &[Target]) {
        if topic.len() > TOPIC_BYTES_MAX || targets.len() > TARGETS_MAX {
            return;
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, Place::default);
        }
        let hash = hash(topic);
        let place = &mut self.places[place_of(hash)];
        self.targets -= place.known.take().map_or(0, |known| known.targets.len());
        if (place.hash, place.epoch) != (hash, epoch) {
            (place.hash, place.epoch) = (hash, epoch);
            return;
        }
        if self.targets + targets.len() > TARGETS_MAX {
            self.places.iter_mut().for_each(|place| place.known = None);
            self.targets = 0;
        }
        self.targets += targets.len();
        let topic = compact(&ByteString::from(topic));
        self.places[place_of(hash)].known = Some(Known { topic, levels, targets: targets.into() });
    }
}

impl Shard {
    /// Returns what is known of a topic, if that is all there is to know.
    pub(super) fn known_of(&self, topic: &str) -> Option<Known> {
        let known = self.heard.find(topic, self.routes.epoch())?;
        self.envelope_routes.is_empty().then(|| known.clone())
    }

    /// Searches who gets an offer, and remembers it where it is the same for the next one.
    pub(super) fn targets_of(
        &mut self,
        offer: &Offer,
        in_conversation: bool,
        bytes: usize,
        is_tracked: bool,
    ) -> Vec<Target> {
        let load = Load {
            topic: &offer.topic,
            qos: offer.qos,
            in_conversation,
            bytes,
            packet_bytes_min: offer.topic.len() + offer.payload.len(),
            is_tracked,
        };
        let targets = self.targets(load, offer.by.session);
        if self.turn.is_general && !in_conversation && self.config.planted.is_none() {
            self.heard.note(&offer.topic, self.routes.epoch(), levels_of(&offer.topic), &targets);
        }
        targets
    }
}

/// Not keyed: topics that fall into one place only cost a search each.
fn hash(topic: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(topic.as_bytes());
    hasher.finish()
}

fn place_of(hash: u64) -> usize {
    (hash % PLACES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Subscriber;
    use protocol::SubscribeOptions;

    fn targets(count: usize) -> Vec<Target> {
        let options = SubscribeOptions::default();
        (0..count).map(|session| Target::of(&[Subscriber { session, options, identifier: 0 }])).collect()
    }

    fn found(heard: &Heard, topic: &str, epoch: u64) -> Option<usize> {
        heard.find(topic, epoch).map(|known| known.targets.len())
    }

    #[test]
    fn a_topic_is_known_when_it_came_twice_while_the_routes_were_the_same() {
        let mut heard = Heard::default();
        heard.note("a/b", 1, 2, &targets(3));
        assert_eq!(found(&heard, "a/b", 1), None, "it came once");
        heard.note("a/b", 1, 2, &targets(3));
        assert_eq!((found(&heard, "a/b", 1), found(&heard, "a/c", 1)), (Some(3), None));
        assert_eq!(found(&heard, "a/b", 2), None, "a subscription changed");
        heard.note("a/b", 2, 2, &targets(4));
        assert_eq!((found(&heard, "a/b", 1), found(&heard, "a/b", 2)), (None, None));
        heard.note("a/b", 2, 2, &targets(4));
        assert_eq!(found(&heard, "a/b", 2), Some(4));
        let long = "a".repeat(TOPIC_BYTES_MAX + 1);
        heard.note(&long, 2, 1, &[]);
        heard.note(&long, 2, 1, &[]);
        assert_eq!(found(&heard, &long, 2), None, "too long");
    }

    #[test]
    fn recipients_are_kept_up_to_their_bound() {
        let mut heard = Heard::default();
        for topic in 0..200 {
            let topic = format!("t/{topic}");
            for _ in 0..2 {
                heard.note(&topic, 1, 2, &targets(1_000));
            }
            assert_eq!(found(&heard, &topic, 1), Some(1_000));
            let kept: usize = heard.places.iter().flat_map(|p| &p.known).map(|k| k.targets.len()).sum();
            assert_eq!(kept, heard.targets);
            assert!(kept <= TARGETS_MAX);
        }
        heard.note("all", 1, 1, &targets(TARGETS_MAX + 1));
        heard.note("all", 1, 1, &targets(TARGETS_MAX + 1));
        assert_eq!(found(&heard, "all", 1), None, "more than all together may be");
    }
}
