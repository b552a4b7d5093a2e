//! A view that follows the log of a run: at any time its rows and the rest of the log say what the whole log says.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Shard, World, config, share};
use crate::message::MsgNo;
use crate::record::read_body;
use crate::view::{Projector, live_places};
use crate::{Recovery, Ticket};

#[derive(Default)]
pub(super) struct View {
    rows: BTreeMap<Bytes, Bytes>,
    projector: Projector,
    pushed: usize,
    applied: usize,
    steps: usize,
}

impl View {
    /// Takes in what is durable, and writes it sometimes.
    fn follow(&mut self, log: &[Bytes], flushes: bool) {
        for (at, record) in log.iter().enumerate().skip(self.pushed) {
            self.projector.push(Ticket(at as u64 + 1), record).unwrap();
        }
        self.pushed = log.len();
        if flushes {
            let rows = &self.rows;
            for (key, value) in self.projector.flush(|key| rows.get(key).cloned()).unwrap() {
                match value {
                    Some(value) => drop(self.rows.insert(key, value)),
                    None => assert!(self.rows.remove(&key).is_some(), "{key:?} is not there"),
                }
            }
            self.applied = self.pushed;
        }
    }

    fn recovery(
        &self,
        log: &[Bytes],
    ) -> Recovery<impl Iterator<Item = (Bytes, Bytes)>, impl Iterator<Item = (Ticket, Bytes)>> {
        let rows: Vec<_> = self.rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let numbered = (1..).map(Ticket).zip(log.to_vec()).skip(self.applied);
        let (applied, next) = (Ticket(self.applied as u64), Ticket(log.len() as u64 + 1));
        Recovery { rows: rows.into_iter(), applied, records: numbered, next }
    }
}

pub(super) fn check(world: &mut World) {
    // Two whole replays: not after every step.
    world.view.steps += 1;
    if !world.view.steps.is_multiple_of(4) {
        return;
    }
    let durable = world.committed.min(world.log.len());
    // Batches of all sizes.
    let flushes = world.view.steps % 7 < 4;
    world.view.follow(&world.log[..durable], flushes);
    let whole =
        Shard::replay(config(world.bounds), 3, world.now, Recovery::of_log(world.log.iter().cloned()));
    let from_rows = Shard::replay(config(world.bounds), 4, world.now, world.view.recovery(&world.log));
    let (mut whole, mut from_rows) = (whole.unwrap(), from_rows.unwrap());
    for shard in [&mut whole, &mut from_rows] {
        shard.groups.sweep_now();
    }
    assert_eq!(
        share::named(&from_rows.state()),
        share::named(&whole.state()),
        "rows say something else than the log"
    );
    check_places(world, &from_rows);
}

/// Every place holds the message that is looked for there, and the view tells of exactly these places.
fn check_places(world: &World, shard: &Shard) {
    let mut needed = BTreeSet::new();
    let mut see = |place: u64, no: MsgNo| {
        if place > 0 {
            let record = &world.log[place as usize - 1];
            assert!(read_body(record, no).is_some(), "record {place} does not hold message {}", no.0);
            needed.insert(place);
        }
    };
    for (_, s) in shard.sessions.iter() {
        s.in_flight.iter().for_each(|f| see(f.delivery.message.place(), f.delivery.message.no));
        s.queue.outlines().for_each(|m| see(m.place, m.no));
    }
    for remains in shard.remains.values() {
        remains.iter().for_each(|(_, d)| see(d.message.place(), d.message.no));
    }
    for topic in super::TOPICS {
        shard.conversations.range(topic, 0).for_each(|stored| see(stored.place, stored.no));
    }
    let rows = &world.view.rows;
    let live =
        live_places(Ticket(0), Ticket(world.log.len() as u64 + 1), |key| rows.get(key).cloned()).unwrap();
    let live: BTreeSet<_> = live.into_iter().map(|place| place.0).collect();
    let applied = world.view.applied as u64;
    if world.view.applied == world.log.len() {
        // A retained message needs its record too, for whoever it is queued for next.
        let missing: Vec<_> = needed.difference(&live).collect();
        assert!(missing.is_empty(), "{missing:?} may go though they are needed");
        let more = live.difference(&needed).count();
        assert!(more <= shard.retained.len(), "{live:?} are kept, {needed:?} are needed");
    }
    assert!(live.last().is_none_or(|last| *last <= applied));
}
