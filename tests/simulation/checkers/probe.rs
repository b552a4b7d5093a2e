//! Between the acknowledgement of a probe and its result nothing is published on that connection, the result comes in
//! its time, and says whether the silence was one.

use protocol::im::{PROBE_PREFIX, ProbeResult};

use super::{Checker, Evidence};
use crate::simulation::history::{Event, Number, Wish};
use crate::simulation::world::cast::CAST;

pub(super) const CHECKER: Checker = Checker { name: "probe", needs_rest: false, check };

/// A probe on a connection, as the broker takes it and its client sees it.
#[derive(Debug)]
struct Pending {
    number: Number,
    /// When the broker took it, and what else it took since.
    since_unix_ms: u64,
    heard_unix_ms: Vec<u64>,
    is_acked: bool,
}

impl Pending {
    fn after_s(&self, evidence: &Evidence<'_>) -> Option<u64> {
        match evidence.history.message(self.number)?.wish? {
            Wish::Probe { after_s } => Some(after_s.into()),
            Wish::Heartbeat { .. } => None,
        }
    }

    /// Whether it is not over yet. A result that a slow connection has no room for is not sent.
    fn lasts(&self, evidence: &Evidence<'_>, unix_ms: u64) -> bool {
        self.after_s(evidence).is_some_and(|after_s| unix_ms < self.since_unix_ms + after_s * 1_000)
    }
}

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    (0..CAST.len()).filter(|who| CAST[*who].is_watched).try_for_each(|who| check_client(evidence, who))
}

fn check_client(evidence: &Evidence<'_>, watched: usize) -> Result<(), String> {
    let mut pending: Vec<Pending> = Vec::new();
    for event in &evidence.history.events {
        match event {
            Event::Connecting { who, .. } | Event::Lost { who } if *who == watched => pending.clear(),
            Event::Heard { who, probe, at_unix_ms } if *who == watched => {
                pending.iter_mut().for_each(|p| p.heard_unix_ms.push(*at_unix_ms));
                let (since_unix_ms, heard_unix_ms) = (*at_unix_ms, Vec::new());
                pending.extend(probe.map(|number| Pending {
                    number,
                    since_unix_ms,
                    heard_unix_ms,
                    is_acked: false,
                }));
            }
            // Another one was pending.
            Event::Refused { number, .. } => pending.retain(|p| p.number != *number),
            Event::Acked { number, .. } => {
                pending.iter_mut().filter(|p| p.number == *number).for_each(|p| p.is_acked = true);
            }
            Event::Took { who, taken } if *who == watched => {
                let Some(id) = taken.topic.strip_prefix(PROBE_PREFIX) else {
                    let is_silent = |p: &&Pending| p.is_acked && p.lasts(evidence, taken.sent_unix_ms);
                    if let Some(pending) = pending.iter().find(is_silent) {
                        return Err(format!("c{watched} got {taken:?} during {pending:?}"));
                    }
                    continue;
                };
                let at = pending.iter().position(|p| id == format!("m-{}", p.number));
                let at = at.ok_or_else(|| format!("c{watched} got {taken:?} for no probe"))?;
                is_right(evidence, &pending.remove(at), &taken.payload)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_right(evidence: &Evidence<'_>, asked: &Pending, payload: &str) -> Result<(), String> {
    let result: ProbeResult = serde_json::from_str(payload).map_err(|e| format!("{payload}: {e}"))?;
    if asked.lasts(evidence, result.at) {
        return Err(format!("{result:?} came before its time, asked was {asked:?}"));
    }
    // What comes in the moment in which it ends is on either side.
    let is_spoiled = asked.heard_unix_ms.iter().any(|at| *at < result.at);
    let may_be_spoiled = asked.heard_unix_ms.iter().any(|at| *at <= result.at);
    if result.spoiled && !may_be_spoiled || !result.spoiled && is_spoiled {
        return Err(format!("{result:?} of {asked:?}"));
    }
    Ok(())
}
