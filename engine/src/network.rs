//! Which silences the networks of clients let pass (docs/protocol.md section 7).
//!
//! Each user has one vote about a network: the longest silence of theirs that was seen to be survived on the
//! last day that one was seen. Networks and votes are bounded; what was heard of longest ago goes first.
//! Knows nothing of connections.

use bytestring::ByteString;

use crate::memory::{Account, Held, NETWORK_VOTE_BYTES};
use crate::names::ByName;

/// Users that must agree before anybody is told.
const USERS_MIN: usize = 5;
/// Votes kept about one network.
const VOTES_MAX: usize = 200;
/// Votes older than this say nothing any more.
const VOTE_LIFE_MS: u64 = 30 * DAY_MS;
const DAY_MS: u64 = 24 * 3600 * 1000;

#[derive(Debug)]
pub(crate) struct Networks {
    nets: ByName<ByName<Vote>>,
    nets_max: usize,
    account: Account,
}

#[derive(Debug)]
struct Vote {
    interval_s: u16,
    at_unix_ms: u64,
    _held: Held,
}

impl Networks {
    pub(crate) fn new(nets_max: usize, account: &Account) -> Self {
        Self { nets: ByName::default(), nets_max, account: account.clone() }
    }

    /// Takes a vote. On the same day the longest counts, another day begins anew. Says whether it changed
    /// something.
    pub(crate) fn vote(&mut self, net: &str, user: &str, interval_s: u16, at_unix_ms: u64) -> bool {
        if self.nets_max == 0 {
            return false;
        }
        let before = self.nets.get(net).and_then(|votes| votes.get(user));
        // A clock that went back makes no new day.
        let is_same_day = before.is_some_and(|vote| at_unix_ms / DAY_MS <= vote.at_unix_ms / DAY_MS);
        if is_same_day && before.is_some_and(|vote| vote.interval_s >= interval_s) {
            return false;
        }
        self.set(net, user, interval_s, at_unix_ms);
        true
    }

    /// Sets or, with an interval of 0, removes a vote, as the log says.
    pub(crate) fn set(&mut self, net: &str, user: &str, interval_s: u16, at_unix_ms: u64) {
        if interval_s == 0 {
            if let Some(votes) = self.nets.get_mut(net) {
                votes.remove(user);
                if votes.is_empty() {
                    self.nets.remove(net);
                }
            }
            return;
        }
        let held = self.account.hold(NETWORK_VOTE_BYTES + net.len() + user.len());
        let vote = Vote { interval_s, at_unix_ms, _held: held };
        // Copies: slices would keep the packets that they came in.
        self.nets.entry(net.to_owned().into()).or_default().insert(user.to_owned().into(), vote);
    }

    /// Removes what is over the bounds, and says whose votes about what these were.
    pub(crate) fn trim(&mut self) -> Vec<(ByteString, ByteString)> {
        let mut gone = Vec::new();
        while self.nets.len() > self.nets_max {
            let newest = |votes: &ByName<Vote>| votes.values().map(|vote| vote.at_unix_ms).max();
            let oldest = self.nets.iter().min_by_key(|(net, votes)| (newest(votes), *net));
            let Some(net) = oldest.map(|(net, _)| net.clone()) else { break };
            let votes = self.nets.remove(&net).unwrap_or_default();
            gone.extend(votes.into_keys().map(|user| (net.clone(), user)));
        }
        for (net, votes) in self.nets.iter_mut().filter(|(_, votes)| votes.len() > VOTES_MAX) {
            let oldest = votes.iter().min_by_key(|(user, vote)| (vote.at_unix_ms, *user));
            if let Some(user) = oldest.map(|(user, _)| user.clone()) {
                votes.remove(&user);
                gone.push((net.clone(), user));
            }
        }
        gone.sort_unstable();
        gone
    }

    /// The silence that nine of ten users of a network have proved at least, seconds; `None` while too few have.
    pub(crate) fn proved_s(&self, net: &str, now_unix_ms: u64) -> Option<u16> {
        let votes = self.nets.get(net)?.values();
        let votes = votes.filter(|vote| vote.at_unix_ms.saturating_add(VOTE_LIFE_MS) > now_unix_ms);
        let mut intervals_s: Vec<u16> = votes.map(|vote| vote.interval_s).collect();
        intervals_s.sort_unstable();
        // The nearest rank: of ten the lowest, of eleven the second.
        let rank = intervals_s.len().div_ceil(10).checked_sub(1)?;
        (intervals_s.len() >= USERS_MIN).then(|| intervals_s[rank])
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        self.iter().map(|(net, user, ..)| NETWORK_VOTE_BYTES + net.len() + user.len()).sum()
    }

    /// All votes: network, user, interval and time.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, &ByteString, u16, u64)> {
        let votes = self.nets.iter().flat_map(|(net, votes)| votes.iter().map(move |(u, v)| (net, u, v)));
        votes.map(|(net, user, vote)| (net, user, vote.interval_s, vote.at_unix_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn networks(nets_max: usize) -> Networks {
        Networks::new(nets_max, &Account::default())
    }

    #[test]
    fn five_users_agree_on_the_lowest_and_eleven_on_the_second_lowest() {
        let mut networks = networks(10);
        for user in 0..11u16 {
            let told = networks.proved_s("lte", NOW);
            assert_eq!(told, (user >= 5).then_some(300), "{user} users");
            assert!(networks.vote("lte", &format!("u{user}"), 300 + 10 * user, NOW));
        }
        assert_eq!(networks.proved_s("lte", NOW), Some(310));
        assert_eq!(networks.proved_s("wifi", NOW), None);
        assert_eq!(networks.proved_s("lte", NOW + VOTE_LIFE_MS), None, "old votes say nothing");
    }

    #[test]
    fn a_user_has_one_vote_a_day_and_the_newest_day_counts() {
        let mut networks = networks(10);
        let votes = |networks: &Networks| networks.iter().map(|(.., s, _)| s).collect::<Vec<_>>();
        for (interval_s, at, expected) in [
            (100, NOW, 100),
            (300, NOW + 1, 300),
            (200, NOW + 2, 300),
            (200, NOW - 5 * DAY_MS, 300),
            (50, NOW + DAY_MS, 50),
        ] {
            networks.vote("lte", "u", interval_s, at);
            assert_eq!(votes(&networks), [expected]);
        }
        networks.set("lte", "u", 0, NOW);
        assert!(votes(&networks).is_empty());
    }

    #[test]
    fn networks_and_votes_are_bounded_and_the_oldest_go() {
        let mut networks = networks(2);
        for (net, at) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            networks.vote(net, "u", 10 + at as u16, NOW + at * DAY_MS);
        }
        assert_eq!(networks.trim(), [("b".into(), "u".into())]);
        for n in 0..VOTES_MAX as u64 {
            networks.vote("c", &format!("u{n}"), 10, NOW + 5 * DAY_MS + n);
        }
        assert_eq!(networks.trim(), [("c".into(), "u".into())]);
        assert_eq!((networks.trim(), networks.iter().count()), (vec![], VOTES_MAX + 1));
        let account = networks.account.clone();
        assert!(account.bytes() > VOTES_MAX * NETWORK_VOTE_BYTES);
        drop(networks);
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn no_network_is_kept_where_none_is_allowed() {
        let mut networks = networks(0);
        assert!(!networks.vote("lte", "u", 10, NOW));
        assert_eq!(networks.iter().count(), 0);
    }
}
