//! What a SUBSCRIBE with a number brings begins there and goes on live, without a gap that was not told and without a
//! repeat, to the end.

use std::collections::BTreeMap;

use protocol::filter_matches;

use super::{Checker, Evidence};
use crate::simulation::history::{Event, From, Taken};
use crate::simulation::world::cast::{CAST, is_conversation, topics_of};

pub(super) const CHECKER: Checker = Checker { name: "replay", needs_rest: true, check };

/// One conversation, as one SUBSCRIBE brings it.
#[derive(Clone, Debug)]
struct Reading {
    filter: &'static str,
    from: u64,
    /// The highest number that the conversation was known to have when it was asked for.
    known: u64,
    /// SUBACK came.
    is_on: bool,
    last: Option<u64>,
    /// The highest number that came for the first time and not as a resend: of what was in flight before the
    /// SUBSCRIBE a resend may be the first that is seen.
    fresh: u64,
}

fn check(evidence: &Evidence<'_>) -> Result<(), String> {
    let times = times(evidence);
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    let mut readings: BTreeMap<(usize, &str), Reading> = BTreeMap::new();
    for event in &evidence.history.events {
        match event {
            Event::Subscribing { who, filter, from: Some(from), .. } => {
                for topic in evidence.history.messages.iter().map(|m| m.topic) {
                    if is_conversation(topic) && filter_matches(topics_of(filter), topic) {
                        let known = ends.get(topic).copied().unwrap_or(0);
                        let from = first_number(&times, topic, *from);
                        let reading = Reading { filter, from, known, is_on: false, last: None, fresh: 0 };
                        readings.insert((*who, topic), reading);
                    }
                }
            }
            Event::Subscribed { who, filter } => {
                let of = readings.iter_mut().filter(|((of, _), r)| of == who && r.filter == *filter);
                of.for_each(|(_, reading)| reading.is_on = true);
            }
            Event::Acked { number, seq: Some(seq), .. } => {
                if let Some(message) = evidence.history.message(*number) {
                    see(&mut ends, message.topic, *seq);
                }
            }
            Event::Took { who, taken } => {
                let Some((number, seq)) = taken.number().zip(taken.seq) else { continue };
                let Some(message) = evidence.history.message(number) else { continue };
                see(&mut ends, message.topic, seq);
                if let Some(reading) = readings.get_mut(&(*who, message.topic)).filter(|r| r.is_on) {
                    read(reading, taken, seq).map_err(|what| format!("c{who}: {what}"))?;
                }
            }
            _ => {}
        }
    }
    for ((who, topic), reading) in &readings {
        let end = ends.get(topic).copied().unwrap_or(0);
        let is_behind = reading.last.map_or(reading.known >= reading.from, |last| last < end);
        if is_behind && !evidence.plan.has_short_queues() && !evidence.plan.has_short_memory() {
            let (id, last) = (CAST[*who].id, reading.last);
            return Err(format!("{id} read {topic} from {} to {last:?}, its end is {end}", reading.from));
        }
    }
    Ok(())
}

/// When each message of a conversation was accepted, by all that anybody saw of it.
fn times<'a>(evidence: &Evidence<'a>) -> BTreeMap<(&'a str, u64), u64> {
    let history = evidence.history;
    let of_conversations = history.taken().filter_map(|(_, taken)| {
        let message = history.message(taken.number()?)?;
        Some(((message.topic, taken.seq?), taken.accepted_unix_ms?))
    });
    of_conversations.collect()
}

/// The first number that somebody asked for.
fn first_number(times: &BTreeMap<(&str, u64), u64>, topic: &str, from: From) -> u64 {
    match from {
        From::Seq(seq) => seq,
        From::First => 1,
        From::At { unix_ms } => {
            let mut of_topic = times.range((topic, 0)..=(topic, u64::MAX));
            of_topic.find(|(_, ts)| **ts >= unix_ms).map_or(u64::MAX, |((_, seq), _)| *seq)
        }
    }
}

fn see<'a>(ends: &mut BTreeMap<&'a str, u64>, topic: &'a str, seq: u64) {
    let end = ends.entry(topic).or_default();
    *end = seq.max(*end);
}

fn read(reading: &mut Reading, taken: &Taken, seq: u64) -> Result<(), String> {
    let (topic, from) = (&taken.topic, reading.from);
    let is_told = taken.gap == Some(seq);
    match reading.last {
        // What was in flight before comes again in its own order.
        Some(last) if taken.dup && seq != last + 1 && !is_told => return Ok(()),
        None if taken.dup && seq != from && !is_told => return Ok(()),
        Some(last) if !taken.dup && seq <= reading.fresh => {
            return Err(format!("{topic} went from {last} back to {seq}"));
        }
        Some(last) if seq > last + 1 && !is_told => {
            return Err(format!("{topic} jumped from {last} to {seq} without im-gap"));
        }
        None if seq < from && from <= reading.known => {
            return Err(format!("{topic} was asked for from {from} and began at {seq}"));
        }
        None if seq > from && from <= reading.known && !is_told => {
            return Err(format!("{topic} was asked for from {from} and began at {seq} without im-gap"));
        }
        _ => {}
    }
    reading.last = reading.last.max(Some(seq));
    if !taken.dup {
        reading.fresh = seq;
    }
    Ok(())
}
