//! What gives way when the quota is used up: what has expired, the oldest debug entries, then points of tracks that their shape
//! does not need.
//!
//! One step at a time, each bounded: a segment, or some neighbouring segments of tracks that are together no
//! larger than one. Alarms, results, events and live entries never give way before they expire.

use std::collections::{BTreeSet, HashMap};

use bytestring::ByteString;
use storage::{Disk, LogError, SegmentInfo};

use super::place::Places;
use super::record::{self, Record};
use super::store::{Lane, Store, segment_bytes};
use super::window::Known;
use super::{Class, DropReason};
use crate::thinning::{Point, needed};

/// Most records that are thinned at once.
const THINNED_RECORDS_MAX: u64 = 8_192;

/// What a step gave up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relief {
    pub(super) class: Class,
    pub(super) reason: DropReason,
    /// Entries that are not on disk any more and were not done with.
    pub(super) gone: Vec<u64>,
    /// Everything of the class below this number is gone; 0 if it is not that simple.
    pub(super) before: u64,
    /// How coarse tracks are now, metres.
    pub(super) tolerance_m: u32,
}

impl<P: Places> Store<P> {
    /// Takes one step to make room for an entry of this class; `None` if there is nothing to give up for it.
    pub(super) fn relieve(
        &mut self,
        class: Class,
        now_ms: u64,
        known: &dyn Fn(Class) -> Known,
    ) -> Result<Option<Relief>, String> {
        for expiring in Class::ALL {
            if let Some(relief) = self.drop_expired(expiring, now_ms, known)? {
                return Ok(Some(relief));
            }
        }
        if let Some(relief) = self.drop_debug(&known(Class::Debug))? {
            return Ok(Some(relief));
        }
        // A debug entry is no reason to touch anything else.
        if class == Class::Debug { Ok(None) } else { self.thin(&known(Class::Track)) }
    }

    /// Drops a class's oldest segment if everything in it has expired or is done with.
    fn drop_expired(
        &mut self,
        class: Class,
        now_ms: u64,
        known: &dyn Fn(Class) -> Known,
    ) -> Result<Option<Relief>, String> {
        let Some(lane) = self.lane_mut(class) else { return Ok(None) };
        let sealed = lane.log.sealed();
        let Some(oldest) = sealed.first() else { return Ok(None) };
        // Looked at once, and again when its time has come.
        if lane.oldest_expires.is_some_and(|(id, at_ms)| id == oldest.id && at_ms > now_ms) {
            return Ok(None);
        }
        let known = known(class);
        let (mut expires_ms, mut gone) = (0, Vec::new());
        lane.each_record(oldest.first.0, |number, bytes| {
            if number >= oldest.next.0 {
                return Ok(false);
            }
            if record::is_entry(bytes) && !known.is_done(number) {
                let Record::Entry(stored) = record::decode(bytes)? else { return Ok(true) };
                expires_ms = expires_ms.max(stored.expiry.map_or(u64::MAX, |expiry| expiry.at_ms()));
                gone.push(number);
            }
            // One that stays decides it.
            Ok(expires_ms <= now_ms)
        })?;
        lane.oldest_expires = Some((oldest.id, expires_ms));
        if expires_ms > now_ms {
            return Ok(None);
        }
        lane.drop_oldest(class, oldest, DropReason::Expired, gone)
    }

    /// Drops the oldest segment of debug entries.
    fn drop_debug(&mut self, known: &Known) -> Result<Option<Relief>, String> {
        let Some(lane) = self.lane_mut(Class::Debug) else { return Ok(None) };
        let sealed = lane.log.sealed();
        let Some(oldest) = sealed.first() else { return Ok(None) };
        let (next, mut gone) = (oldest.next.0, Vec::new());
        lane.each_record(oldest.first.0, |number, bytes| {
            if number < next && record::is_entry(bytes) && !known.is_done(number) {
                gone.push(number);
            }
            Ok(number < next)
        })?;
        lane.drop_oldest(Class::Debug, oldest, DropReason::Quota, gone)
    }

    /// Thins the least thinned part of the tracks further, the oldest of those first.
    fn thin(&mut self, known: &Known) -> Result<Option<Relief>, String> {
        let Some(thinning) = self.limits.thinning else { return Ok(None) };
        let span_bytes = segment_bytes(self.limits.bytes_max);
        let Some(lane) = self.lane_mut(Class::Track) else { return Ok(None) };
        let sealed = lane.log.sealed();
        lane.thinned_m.retain(|id, _| sealed.iter().any(|file| file.id == *id));
        let level = |file: &SegmentInfo| lane.thinned_m.get(&file.id).copied().unwrap_or(0);
        let Some(first) = (0..sealed.len()).min_by_key(|at| level(&sealed[*at])) else { return Ok(None) };
        let before_m = level(&sealed[first]);
        let Some(tolerance_m) = thinning.next(before_m) else { return Ok(None) };
        let (mut bytes, mut records) = (0, 0);
        let span = sealed[first..].iter().take_while(|file| {
            (bytes, records) = (bytes + file.bytes, records + file.records);
            level(file) == before_m && bytes <= span_bytes && records <= THINNED_RECORDS_MAX
        });
        let span: &[SegmentInfo] = &sealed[first..first + span.count().max(1)];
        let (from, to) = (&span[0], &span[span.len() - 1]);

        let log_from = sealed[0].first.0;
        let surplus = self.surplus(known, from.first.0..to.next.0, log_from, f64::from(tolerance_m))?;
        let lane = self.lane_mut(Class::Track).expect("it is there, as was seen");
        let gone = surplus.iter().filter(|(_, is_lost)| *is_lost).map(|(number, _)| *number).collect();
        if !surplus.is_empty() {
            let surplus: BTreeSet<u64> = surplus.into_iter().map(|(number, _)| number).collect();
            let rewritten = lane.log.reader().rewrite(from.id..=to.id, |lsn, _| !surplus.contains(&lsn.0));
            let rewritten = match rewritten {
                // No room to write what is left: the disk is fuller than the quota says.
                Err(LogError::NoSpace { .. }) => return Ok(None),
                result => result.map_err(|error| error.to_string())?,
            };
            lane.log.swap(rewritten).map_err(|error| error.to_string())?;
        }
        lane.thinned_m.extend(span.iter().map(|file| (file.id, tolerance_m)));
        let (class, reason) = (Class::Track, DropReason::Thinned);
        Ok(Some(Relief { class, reason, gone, before: 0, tolerance_m }))
    }

    /// Returns the records in this range that are not needed any more, with whether a point is lost with them.
    fn surplus(
        &self,
        known: &Known,
        range: std::ops::Range<u64>,
        log_from: u64,
        tolerance_m: f64,
    ) -> Result<Vec<(u64, bool)>, String> {
        let Some(lane) = self.lane(Class::Track) else { return Ok(Vec::new()) };
        let mut surplus = Vec::new();
        let mut lines: HashMap<(u64, ByteString), Vec<(u64, Point)>> = HashMap::new();
        lane.each_record(range.start, |number, bytes| {
            if number >= range.end {
                return Ok(false);
            }
            match record::decode(bytes)? {
                Record::Entry(_) if known.is_done(number) => surplus.push((number, false)),
                Record::Entry(stored) => {
                    if let Some(point) = Point::parse(&stored.publish.payload) {
                        let line = lines.entry((stored.topic_number, stored.publish.topic)).or_default();
                        line.push((number, point));
                    }
                }
                // Of entries that are not on disk any more.
                Record::Acks { done: entries, .. } | Record::Ahead { entries, .. } => {
                    if entries.iter().all(|(_, last)| last < log_from) {
                        surplus.push((number, false));
                    }
                }
            }
            Ok(true)
        })?;
        for line in lines.into_values() {
            let points: Vec<Point> = line.iter().map(|(_, point)| *point).collect();
            let needed = needed(&points, tolerance_m);
            let unneeded =
                line.iter().zip(needed).filter(|(_, is_needed)| !is_needed).map(|((number, _), _)| *number);
            // What is in memory is about to be sent, or was.
            surplus.extend(unneeded.filter(|number| !known.is_held(*number)).map(|number| (number, true)));
        }
        Ok(surplus)
    }
}

impl<D: Disk> Lane<D> {
    /// Drops the oldest segment; `None` if the disk has not even room to note it.
    fn drop_oldest(
        &mut self,
        class: Class,
        oldest: &SegmentInfo,
        reason: DropReason,
        gone: Vec<u64>,
    ) -> Result<Option<Relief>, String> {
        let before = self.log.sealed().len();
        self.log.drop_before(oldest.next).map_err(|error| error.to_string())?;
        let is_dropped = self.log.sealed().len() < before;
        let relief = Relief { class, reason, gone, before: oldest.next.0, tolerance_m: 0 };
        Ok(is_dropped.then_some(relief))
    }
}
