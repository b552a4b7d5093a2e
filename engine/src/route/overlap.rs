//! Many filters of one session that match the same topic: taken together before anything is sorted.
//!
//! Hundreds of clients with hundreds of such filters each are matches by the hundred thousand, and as few recipients.
//! Going over them once costs a tenth of sorting them.

use super::Subscriber;

/// Nodes that a topic led to from which on sessions are likely to stand in several.
const NODES_MIN: usize = 16;

/// Matches from which on it pays.
const MATCHES_MIN: usize = 512;

/// Where each session stands in what is gone over.
#[derive(Debug, Default)]
pub(super) struct Overlap {
    seen: Vec<Seen>,
    /// Counts the times, so that nothing is cleared between them.
    round: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    round: u32,
    at: u32,
}

impl Overlap {
    /// Leaves one subscription of each session besides those with an identifier, which are all told: at the highest
    /// level, and with what any of them asks for. They stand at so many `nodes`.
    pub(super) fn merge(&mut self, nodes: usize, subscribers: &mut Vec<Subscriber>) {
        if nodes < NODES_MIN || subscribers.len() < MATCHES_MIN {
            return;
        }
        if self.round == u32::MAX {
            *self = Self::default();
        }
        self.round += 1;
        let mut kept = 0;
        for at in 0..subscribers.len() {
            let subscriber = subscribers[at];
            if subscriber.identifier == 0 {
                if subscriber.session >= self.seen.len() {
                    self.seen.resize(subscriber.session + 1, Seen::default());
                }
                let seen = &mut self.seen[subscriber.session];
                if seen.round == self.round {
                    let first = &mut subscribers[seen.at as usize].options;
                    first.qos = first.qos.max(subscriber.options.qos);
                    first.retain_as_published |= subscriber.options.retain_as_published;
                    continue;
                }
                *seen = Seen { round: self.round, at: kept as u32 };
            }
            subscribers[kept] = subscriber;
            kept += 1;
        }
        subscribers.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use protocol::{QoS, SubscribeOptions};

    #[test]
    fn a_session_is_left_once_with_the_most_that_it_asks_for_and_every_identifier() {
        let mut overlap = Overlap::default();
        for seed in 0..20 {
            let mut rng = Rng::with_seed(seed);
            let subscribers: Vec<_> = (0..3_000)
                .map(|_| Subscriber {
                    session: rng.usize(..200),
                    options: SubscribeOptions {
                        qos: [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][rng.usize(..3)],
                        retain_as_published: rng.u8(..20) == 0,
                        ..SubscribeOptions::default()
                    },
                    identifier: rng.u32(..40).saturating_sub(35),
                })
                .collect();
            let mut merged = subscribers.clone();
            overlap.merge(NODES_MIN, &mut merged);
            assert!(merged.len() < subscribers.len());
            for session in 0..200 {
                let of = |all: &[Subscriber]| {
                    let mut of: Vec<_> = all.iter().filter(|s| s.session == session).copied().collect();
                    let asked = |s: &Subscriber| (s.options.qos, s.options.retain_as_published);
                    let most = (of.iter().map(|s| asked(s).0).max(), of.iter().any(|s| asked(s).1));
                    of.retain(|s| s.identifier != 0);
                    (most, of)
                };
                assert_eq!(of(&merged), of(&subscribers), "seed {seed}, session {session}");
                let plain = merged.iter().filter(|s| s.session == session && s.identifier == 0);
                assert!(plain.count() <= 1, "seed {seed}, session {session}");
            }
        }
    }

    #[test]
    fn few_matches_and_those_of_few_nodes_are_left_as_they_are() {
        let one = Subscriber { session: 7, options: SubscribeOptions::default(), identifier: 0 };
        for (nodes, count) in [(NODES_MIN, MATCHES_MIN - 1), (NODES_MIN - 1, MATCHES_MIN)] {
            let mut subscribers = vec![one; count];
            Overlap::default().merge(nodes, &mut subscribers);
            assert_eq!(subscribers.len(), count);
        }
        let mut subscribers = vec![one; MATCHES_MIN];
        Overlap { round: u32::MAX, ..Overlap::default() }.merge(NODES_MIN, &mut subscribers);
        assert_eq!(subscribers, [one]);
    }
}
