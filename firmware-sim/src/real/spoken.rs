//! What the receivers of gateways spoke, and which record each is: a gateway does not say the ledger's numbers.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;
use tracks::Fix;

use super::books::Books;
use super::gateway::{HEARS_AFTER_MS, TAKEN_AFTER_MS};

/// How far a place may be off that went over a line in minutes with five digits, degrees.
const PLACE_SLACK_DEG: f64 = 3e-7;
/// The same for a speed, metres a second.
const SPEED_SLACK_MPS: f64 = 0.01;

/// What is read of a gateway's position.
#[derive(Deserialize)]
struct Heard {
    ts: i64,
    lat: f64,
    lon: f64,
    speed: Option<f64>,
}

/// What one receiver spoke.
#[derive(Debug, Default)]
struct Speaker {
    /// By the scenario's date.
    fixes: BTreeMap<i64, (u64, Fix)>,
    /// Of this life, and not known to be on disk: when, and which.
    waiting: VecDeque<(u64, u64)>,
    life_from_ms: u64,
    /// The first record of this life that arrived: from then on the gateway hears its receiver.
    heard: Option<u64>,
    /// The first number of this life.
    first: Option<u64>,
}

/// What all of them spoke.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    speakers: BTreeMap<u32, Speaker>,
}

/// What the office makes of a position.
#[derive(Debug, PartialEq)]
pub(super) enum Match {
    /// It is this record, as it was spoken.
    Same(u64, Fix),
    /// It is this record, and says something else.
    Changed(u64),
    /// It was spoken after the last record.
    After,
    /// Nobody spoke it.
    None,
}

impl Spoken {
    /// A gateway is switched on.
    pub(super) fn begin_life(&mut self, at: u32, from_ms: u64) {
        let speaker = self.speakers.entry(at).or_default();
        (speaker.life_from_ms, speaker.heard, speaker.first) = (from_ms, None, None);
        speaker.waiting.clear();
    }

    /// A receiver spoke a record.
    pub(super) fn spoke(&mut self, at: u32, ms: u64, number: u64, fix: Fix) {
        let speaker = self.speakers.entry(at).or_default();
        speaker.first.get_or_insert(number);
        speaker.waiting.push_back((ms, number));
        speaker.fixes.insert(fix.ts_ms, (number, fix));
    }

    /// Says which record a position is that arrived; `shift_ms` is from the scenario's date to today's.
    pub(super) fn find(&mut self, at: u32, payload: &[u8], shift_ms: i64, last_ts_ms: i64) -> Match {
        let Ok(heard) = serde_json::from_slice::<Heard>(payload) else { return Match::None };
        let ts_ms = heard.ts.saturating_sub(shift_ms);
        if ts_ms > last_ts_ms {
            return Match::After;
        }
        let Some(speaker) = self.speakers.get_mut(&at) else { return Match::None };
        let Some((number, fix)) = speaker.fixes.get(&ts_ms) else { return Match::None };
        if speaker.first.is_some_and(|first| *number >= first) {
            speaker.heard = Some(speaker.heard.map_or(*number, |heard| heard.min(*number)));
        }
        let is_near = |value: f64, want: f64, slack: f64| (value - want).abs() <= slack;
        let is_same = is_near(heard.lat, fix.lat, PLACE_SLACK_DEG)
            && is_near(heard.lon, fix.lon, PLACE_SLACK_DEG)
            && match (heard.speed, fix.speed_mps) {
                (Some(heard), Some(spoken)) => is_near(heard, spoken, SPEED_SLACK_MPS),
                (heard, spoken) => heard.is_none() && spoken.is_none(),
            };
        if is_same { Match::Same(*number, fix.clone()) } else { Match::Changed(*number) }
    }

    /// Takes the records that are on disk by now: heard, and spoken long enough ago.
    fn taken(&mut self, at: u32, now_ms: u64) -> Vec<u64> {
        let Some(speaker) = self.speakers.get_mut(&at) else { return Vec::new() };
        let (heard, hears_ms) = (speaker.heard, speaker.life_from_ms + HEARS_AFTER_MS);
        let mut taken = Vec::new();
        speaker.waiting.retain(|(ms, number)| {
            let is_heard = *ms >= hears_ms || heard.is_some_and(|heard| *number > heard);
            let is_taken = is_heard && ms + TAKEN_AFTER_MS <= now_ms;
            if is_taken {
                taken.push(*number);
            }
            !is_taken
        });
        taken
    }
}

impl Books {
    /// Counts what a gateway has on disk by now as accepted.
    pub(super) fn accept_spoken(&mut self, at: u32, now_ms: u64) {
        for number in self.spoken.taken(at, now_ms) {
            self.ledger.accepted(at, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracks::LatLon;

    use super::*;

    fn fix(second: i64) -> Fix {
        Fix { speed_mps: Some(3.0), ..Fix::at(second * 1_000, LatLon::new(60.0 + second as f64 / 1e4, 24.0)) }
    }

    fn payload(second: i64, shift_ms: i64, off_deg: f64) -> Vec<u8> {
        let fix = fix(second);
        let (ts, lat) = (fix.ts_ms + shift_ms, fix.lat + off_deg);
        format!("{{\"ts\":{ts},\"lat\":{lat},\"lon\":24.0,\"speed\":3.001,\"fix\":\"3d\"}}").into_bytes()
    }

    #[test]
    fn a_position_is_the_record_of_its_second_or_is_told_to_be_another() {
        let mut spoken = Spoken::default();
        spoken.begin_life(0, 0);
        for second in 0..4 {
            spoken.spoke(0, second as u64 * 1_000, second as u64, fix(second));
        }
        let mut find = |payload: &[u8]| spoken.find(0, payload, 500_000, 3_000);
        assert_eq!(find(&payload(2, 500_000, 1e-7)), Match::Same(2, fix(2)));
        assert_eq!(find(&payload(2, 500_000, 1e-5)), Match::Changed(2));
        assert_eq!(find(&payload(9, 500_000, 0.0)), Match::After);
        assert_eq!((find(&payload(-1, 500_000, 0.0)), find(b"{}")), (Match::None, Match::None));
    }

    #[test]
    fn a_record_is_taken_when_it_was_heard_and_the_power_stayed() {
        let mut spoken = Spoken::default();
        spoken.begin_life(0, 500);
        for second in 1..=14 {
            spoken.spoke(0, second as u64 * 1_000, second as u64, fix(second));
        }
        // Nothing arrived, so that it may have begun to hear after 10 s.
        assert_eq!(spoken.taken(0, 14_000), [11]);
        spoken.find(0, &payload(4, 0, 0.0), 0, 99_000);
        assert_eq!(spoken.taken(0, 14_000), [5, 6, 7, 8, 9, 10]);
        spoken.begin_life(0, 20_000);
        assert_eq!(spoken.taken(0, 99_000), [0; 0]);
    }
}
