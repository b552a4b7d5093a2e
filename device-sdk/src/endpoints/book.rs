//! Which ways to the broker are tried in which order: pure, time is an argument.
//!
//! ```text
//!   0x9C / 0x9D of the broker ──▶ where it referred to ─┐
//!   worked last on this network ────────────────────────┤ first
//!   configured addresses, each with its ladder ─────────┴▶ after them, by step
//! ```
//!
//! A way that was open but led nowhere (no CONNACK, or a refusal) stands behind the others until a connection is accepted
//! again. Invariants: every configured way is in every order, so that no note about the past can lock a device out; from
//! TLS nobody is led to a plain connection.

use protocol::ReasonCode;

use super::memory::Memory;
use super::{Endpoint, Ladder, endpoint};

/// Most addresses that can be configured.
pub(crate) const ENDPOINTS_MAX: usize = 16;
/// References followed at once one after the other; then the usual pause comes between.
pub(super) const REFERRALS_MAX: u32 = 4;
/// References taken out of one packet.
const REFERENCES_MAX: usize = 4;
/// How long "use another server" holds, milliseconds.
pub(super) const TEMPORARY_MS: u64 = 10 * 60_000;
/// A connection that lasted so long ends a chain of references, milliseconds.
pub(super) const SETTLED_MS: u64 = 60_000;

/// A way, and when its turn comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// With a port.
    pub(crate) endpoint: Endpoint,
    /// 0 = at once; each further step waits for those before it.
    pub(crate) step: u32,
}

/// What became of a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Referral {
    /// It is the first to be tried, without a pause.
    Followed(Endpoint),
    /// It is not followed; why, for people.
    NotFollowed(String),
}

/// Where the broker referred to.
#[derive(Clone, Debug)]
struct Referred {
    /// Best first.
    ways: Vec<Endpoint>,
    /// `None` = for good.
    until_ms: Option<u64>,
}

/// What is known about the ways to one broker.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    /// Not empty.
    configured: Vec<Endpoint>,
    ladder: Ladder,
    /// Ways that led nowhere since a connection was accepted, with how often.
    faults: Vec<(Endpoint, u32)>,
    referred: Option<Referred>,
    /// References since a connection lasted.
    hops: u32,
    memory: Memory,
    network: String,
}

impl Book {
    pub(super) fn new(configured: Vec<Endpoint>, ladder: Ladder, memory: Memory, network: String) -> Self {
        let mut book =
            Self { faults: Vec::new(), referred: None, hops: 0, configured, ladder, memory, network };
        if let Some(moved) = book.memory.moved(&book.configured[0]) {
            let ways = book.ladder.ways(&moved);
            book.referred = Some(Referred { ways, until_ms: None });
        }
        book
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Says whether the network is another one now.
    pub(super) fn set_network(&mut self, network: &str) -> bool {
        let is_new = self.network != network;
        if is_new {
            network.clone_into(&mut self.network);
            // They tell of the network that was left.
            self.faults.clear();
        }
        is_new
    }

    /// Returns all ways, the next to be tried first, their steps ascending from 0.
    pub(super) fn ways(&self, now_ms: u64, unix_ms: u64) -> Vec<Way> {
        let mut ranked: Vec<((u32, u32), Endpoint)> = Vec::new();
        let mut add = |rank: u32, way: Endpoint| {
            if ranked.iter().all(|(_, known)| *known != way) {
                ranked.push(((self.faults_of(&way), rank), way));
            }
        };
        for way in self.referral(now_ms).into_iter().flat_map(|referred| &referred.ways) {
            add(0, way.clone());
        }
        let ladders: Vec<Vec<Endpoint>> =
            self.configured.iter().map(|endpoint| self.ladder.ways(endpoint)).collect();
        // A choice that is no way any more was remembered for another configuration.
        let choice = self.memory.choice(&self.network, unix_ms);
        if let Some(choice) = choice.filter(|choice| ladders.iter().flatten().any(|way| way == choice)) {
            add(1, choice);
        }
        for (step, rank) in (0..ladders.iter().map(Vec::len).max().unwrap_or(0)).zip(2..) {
            for ladder in &ladders {
                if let Some(way) = ladder.get(step) {
                    add(rank, way.clone());
                }
            }
        }
        // Stable: the order of the configuration stays inside a step.
        ranked.sort_by_key(|(rank, _)| *rank);
        let (mut step, mut last) = (0, None);
        ranked
            .into_iter()
            .map(|(rank, endpoint)| {
                step += u32::from(last.is_some_and(|last| last != rank));
                last = Some(rank);
                Way { endpoint, step }
            })
            .collect()
    }

    fn referral(&self, now_ms: u64) -> Option<&Referred> {
        self.referred.as_ref().filter(|referred| referred.until_ms.is_none_or(|until| now_ms < until))
    }

    fn faults_of(&self, way: &Endpoint) -> u32 {
        self.faults.iter().find(|(known, _)| known == way).map_or(0, |(_, count)| *count)
    }

    fn add_fault(&mut self, way: &Endpoint) {
        match self.faults.iter_mut().find(|(known, _)| known == way) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.faults.push((way.clone(), 1)),
        }
        // At most the ways there are: others have been forgotten by the broker that named them.
        let excess = self.faults.len().saturating_sub(ENDPOINTS_MAX * 4);
        self.faults.drain(..excess);
    }

    /// The broker accepted a connection on this way. Says whether the memory changed.
    pub(super) fn accepted(&mut self, way: &Endpoint, unix_ms: u64) -> bool {
        self.faults.clear();
        let is_referred = self.referred.as_ref().is_some_and(|referred| referred.ways.contains(way));
        let mut is_news = false;
        if !is_referred && self.referred.take().is_some() {
            // It was tried first and did not answer: the broker is back, or the note was wrong.
            is_news = self.memory.set_moved(&self.configured[0], None);
        }
        if !is_referred {
            is_news |= self.memory.choose(&self.network, way, unix_ms);
        }
        is_news
    }

    /// The way was open, but no CONNACK came.
    pub(super) fn unanswered(&mut self, way: &Endpoint) {
        self.add_fault(way);
    }

    /// The broker answered and refused: the other ways to it that its address stands for are no better.
    pub(super) fn refused(&mut self, way: &Endpoint) {
        let ladders = self.configured.iter().map(|endpoint| self.ladder.ways(endpoint));
        let alike: Vec<Endpoint> = ladders.filter(|ladder| ladder.contains(way)).flatten().collect();
        for other in alike.iter().filter(|other| *other != way) {
            self.add_fault(other);
        }
        self.add_fault(way);
    }

    /// A connection ended that lasted so long.
    pub(super) fn ended(&mut self, lasted_ms: u64) {
        if lasted_ms >= SETTLED_MS {
            self.hops = 0;
        }
    }

    /// The broker wants this client elsewhere: for now (0x9C) or for good (0x9D), perhaps saying where. Says what became of
    /// it and whether the memory changed.
    pub(super) fn refer(
        &mut self,
        from: &Endpoint,
        reason: ReasonCode,
        reference: Option<&str>,
        now_ms: u64,
    ) -> (Referral, bool) {
        let is_for_good = reason == ReasonCode::ServerMoved;
        let Some(reference) = reference else {
            self.refused(from);
            return (Referral::NotFollowed("without saying where".to_owned()), false);
        };
        let ways = match self.read_references(from, reference) {
            Ok(ways) => ways,
            Err(why) => {
                self.refused(from);
                return (Referral::NotFollowed(why), false);
            }
        };
        self.hops += 1;
        if self.hops > REFERRALS_MAX {
            self.hops = 0;
            self.referred = None;
            self.faults.clear();
            let why = format!("after {REFERRALS_MAX} others in a row");
            return (Referral::NotFollowed(why), self.memory.set_moved(&self.configured[0], None));
        }
        let target = ways[0].clone();
        // Where it leads is judged anew.
        self.faults.retain(|(way, _)| !ways.contains(way));
        let is_news = is_for_good && self.memory.set_moved(&self.configured[0], Some(&target));
        let until_ms = (!is_for_good).then(|| now_ms.saturating_add(TEMPORARY_MS));
        self.referred = Some(Referred { ways, until_ms });
        (Referral::Followed(target), is_news)
    }

    /// Reads a Server Reference: names or addresses, each perhaps with a port, separated by spaces (MQTT 5, section 4.11);
    /// URLs too.
    fn read_references(&self, from: &Endpoint, reference: &str) -> Result<Vec<Endpoint>, String> {
        let shown: String = reference.chars().take(128).collect();
        let mut ways = Vec::new();
        for text in reference.split_ascii_whitespace().take(REFERENCES_MAX) {
            let target = if text.contains("://") {
                text.parse::<Endpoint>().map_err(|error| error.to_string())
            } else {
                endpoint::split_host(text).map(|(host, port)| Endpoint {
                    host,
                    port: port.or(from.port),
                    ..from.clone()
                })
            };
            let Ok(target) = target else { continue };
            if from.carrier.is_secure() && !target.carrier.is_secure() {
                return Err(format!("its reference {shown:?} leads out of TLS"));
            }
            if !target.carrier.is_supported() {
                continue;
            }
            ways.extend(self.ladder.ways(&target));
        }
        if ways.is_empty() {
            return Err(format!("its reference {shown:?} names no address"));
        }
        Ok(ways)
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
