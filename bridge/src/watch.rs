//! Watches one vehicle: a fix in, what people should hear of out.
//!
//! Pure: whether a fix can be true, whether the vehicle keeps to its corridor and whether it arrived are judged by
//! `tracks`; this puts them together and names what must be remembered across a restart ([`VehicleMark`]). Fixes that
//! have begun to confirm a change are not remembered: after a crash it takes three new ones.

use std::sync::Arc;

use tracks::{
    Fix, LatLon,
    corridor::{self, CorridorEvent},
    fence::{self, FenceEvent, Side},
    filter::{Filter, FilterOptions},
    plausibility::{GateOptions, Rejected},
};

use crate::{config::VehicleRule, state::VehicleMark};

/// One vehicle under watch.
#[derive(Debug)]
pub(crate) struct Vehicle {
    filter: Filter,
    corridor: Option<corridor::Watcher>,
    fence: Option<(String, fence::Watcher, LatLon)>,
}

/// Something that people should hear of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sighting {
    /// Time of the fix that confirmed it, milliseconds since the Unix epoch.
    pub(crate) ts_ms: i64,
    /// Where the vehicle is.
    pub(crate) position: LatLon,
    pub(crate) what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// It left its corridor.
    Deviated { distance_m: f64, half_width_m: f64 },
    /// It is back.
    Returned { distance_m: f64, away_ms: i64, distance_max_m: f64 },
    /// It entered its fence.
    Arrived { fence: String, distance_m: f64 },
    /// It left it.
    LeftFence { fence: String, distance_m: f64 },
    /// It drives its route backwards.
    WrongWay,
    /// It drives it forwards again.
    RightWay,
    /// It stands on its route for longer than it may.
    Standing { for_ms: i64 },
    /// It has moved on.
    MovedOn { stood_ms: i64 },
    /// Its fixes come again.
    GpsFound { lost_ms: i64 },
}

impl Vehicle {
    /// Begins, or goes on, to watch a vehicle by a rule.
    pub(crate) fn new(gate: &GateOptions, rule: &VehicleRule, mark: VehicleMark) -> Vehicle {
        let corridor = rule.corridor.as_ref().map(|corridor| {
            let options = corridor::WatcherOptions::default();
            match mark.off_route_since_ms {
                Some(since_ms) => {
                    corridor::Watcher::resume_off_route(Arc::clone(corridor), options, since_ms)
                }
                None => corridor::Watcher::new(Arc::clone(corridor), options),
            }
        });
        let fence = rule.fence.as_ref().map(|rule| {
            let options = fence::WatcherOptions::default();
            let area = fence::Fence::from(rule.area.clone());
            let watcher = match mark.inside {
                Some(inside) => {
                    fence::Watcher::resume(area, options, if inside { Side::Inside } else { Side::Outside })
                }
                None => fence::Watcher::new(area, options),
            };
            (rule.name.clone(), watcher, rule.area.centre())
        });
        let options = FilterOptions { gate: gate.clone(), ..FilterOptions::default() };
        Vehicle { filter: Filter::new(options), corridor, fence }
    }

    /// Takes the next fix; a departure from the route is told before an arrival.
    ///
    /// # Errors
    /// The fix cannot be true.
    pub(crate) fn push(&mut self, fix: &Fix, now_ms: u64) -> Result<Vec<Sighting>, Rejected> {
        let estimate = self.filter.push(fix, i64::try_from(now_ms).unwrap_or(i64::MAX))?;
        let fix = &estimate.fix(fix);
        let events =
            self.corridor.as_mut().map(|watcher| (watcher.corridor().half_width_m(), watcher.push(fix)));
        let (half_width_m, events) = events.unwrap_or_default();
        let on_route = events.into_iter().filter_map(|event| match event {
            CorridorEvent::Deviated { ts_ms, position, distance_m, .. } => {
                Some(Sighting { ts_ms, position, what: What::Deviated { distance_m, half_width_m } })
            }
            CorridorEvent::Returned { ts_ms, away_ms, position, distance_m, distance_max_m, .. } => {
                let what = What::Returned { distance_m, away_ms, distance_max_m };
                Some(Sighting { ts_ms, position, what })
            }
            CorridorEvent::WrongWay(at) => Some(on_plan(&at, What::WrongWay)),
            CorridorEvent::RightWay(at) => Some(on_plan(&at, What::RightWay)),
            CorridorEvent::Stands { since_ts_ms, at } => {
                Some(on_plan(&at, What::Standing { for_ms: at.ts_ms - since_ts_ms }))
            }
            CorridorEvent::MovedOn { stood_ms, at } => Some(on_plan(&at, What::MovedOn { stood_ms })),
            CorridorEvent::GpsFound { ts_ms, lost_ms } => {
                Some(Sighting { ts_ms, position: fix.position(), what: What::GpsFound { lost_ms } })
            }
            // Routes have no waypoints here, and nobody asks the watcher while no fix comes.
            CorridorEvent::Reached { .. }
            | CorridorEvent::Skipped { .. }
            | CorridorEvent::Early { .. }
            | CorridorEvent::Late { .. }
            | CorridorEvent::GpsLost { .. } => None,
        });
        let mut at_fence = Vec::new();
        if let Some((name, watcher, centre)) = &mut self.fence {
            for event in watcher.push(fix) {
                let (at, has_entered) = match event {
                    FenceEvent::Entered(at) => (at, true),
                    FenceEvent::Exited(at) => (at, false),
                    // It was not there for anybody, and no rule says for how long or when it is to be there.
                    FenceEvent::Passed { .. } | FenceEvent::Dwelled { .. } | FenceEvent::Missing { .. } => {
                        continue;
                    }
                };
                let (fence, distance_m) = (name.clone(), centre.distance_m(at.position));
                let what = if has_entered {
                    What::Arrived { fence, distance_m }
                } else {
                    What::LeftFence { fence, distance_m }
                };
                at_fence.push(Sighting { ts_ms: at.ts_ms, position: at.position, what });
            }
        }
        Ok(on_route.chain(at_fence).collect())
    }

    /// What must be remembered.
    pub(crate) fn mark(&self) -> VehicleMark {
        VehicleMark {
            off_route_since_ms: self.corridor.as_ref().and_then(corridor::Watcher::off_route_since_ms),
            inside: self
                .fence
                .as_ref()
                .and_then(|(_, watcher, _)| watcher.side())
                .map(|side| side == Side::Inside),
        }
    }
}

fn on_plan(at: &corridor::OnPlan, what: What) -> Sighting {
    Sighting { ts_ms: at.ts_ms, position: at.position, what }
}

#[cfg(test)]
pub(crate) mod tests {
    use tracks::{corridor::Corridor, fence::Circle, route::Polyline};

    use super::*;
    use crate::config::{DevicePattern, FenceRule};

    pub(crate) const START: LatLon = LatLon::new(60.17, 24.93);

    /// A road 2 km to the east with 50 m to either side, and a yard of 60 m around its end.
    pub(crate) fn rule() -> VehicleRule {
        let end = START.destination(90.0, 2_000.0);
        let corridor = Corridor::new(Polyline::new([START, end]).unwrap(), 50.0).unwrap();
        let fence = FenceRule { name: "Depot".into(), area: Circle::new(end, 60.0).unwrap() };
        VehicleRule {
            devices: DevicePattern::StartingWith("truck-".into()),
            corridor: Some(Arc::new(corridor)),
            fence: Some(fence),
        }
    }

    /// A fix `second` seconds into the drive, at metres along and beside the road.
    pub(crate) fn fix(second: i64, along_m: f64, beside_m: f64) -> Fix {
        let at = START.destination(90.0, along_m).destination(0.0, beside_m);
        Fix { hdop: Some(1.0), ..Fix::at(second * 1_000, at) }
    }

    fn drive(vehicle: &mut Vehicle, fixes: &[(f64, f64)], from_second: i64) -> Vec<(i64, &'static str)> {
        let mut told = Vec::new();
        for (second, (along_m, beside_m)) in (from_second..).zip(fixes) {
            let sightings = vehicle.push(&fix(second, *along_m, *beside_m), second as u64 * 1_000);
            told.extend(sightings.unwrap_or_else(|why| panic!("{second}: {why}")).iter().map(|s| {
                let name = match s.what {
                    What::Deviated { .. } => "deviated",
                    What::Returned { .. } => "returned",
                    What::Arrived { .. } => "arrived",
                    What::LeftFence { .. } => "left_fence",
                    What::WrongWay => "wrong_way",
                    What::RightWay => "right_way",
                    What::Standing { .. } => "standing",
                    What::MovedOn { .. } => "moved_on",
                    What::GpsFound { .. } => "gps_found",
                };
                (second, name)
            }));
        }
        told
    }

    #[test]
    fn a_vehicle_that_leaves_returns_and_arrives_is_told_once_each() {
        let mut vehicle = Vehicle::new(&GateOptions::default(), &rule(), VehicleMark::default());
        let mut fixes: Vec<(f64, f64)> = Vec::new();
        fixes.extend((0..10).map(|i| (f64::from(i) * 20.0, 0.0)));
        fixes.extend((0..8).map(|i| (200.0, f64::from(i) * 18.0)));
        // It turns round as vehicles do.
        fixes.extend([134.0, 136.0, 136.0, 134.0].map(|beside_m| (200.0, beside_m)));
        fixes.extend((0..8).rev().map(|i| (200.0, f64::from(i) * 18.0)));
        fixes.extend((0..95).map(|i| (200.0 + f64::from(i) * 20.0, 0.0)));
        let told = drive(&mut vehicle, &fixes, 0);
        let names: Vec<_> = told.iter().map(|(_, name)| *name).collect();
        assert_eq!(names, ["deviated", "returned", "arrived"], "{told:?}");
        // Further than 50 m and 2 × 5 m on the fixes at 72, 90 and 108 m.
        assert!((16..=17).contains(&told[0].0), "{told:?}");
        assert_eq!(vehicle.mark(), VehicleMark { off_route_since_ms: None, inside: Some(true) });
    }

    #[test]
    fn a_vehicle_that_is_off_its_route_is_not_told_again_after_a_restart_but_its_return_is() {
        let mut before = Vehicle::new(&GateOptions::default(), &rule(), VehicleMark::default());
        let out: Vec<(f64, f64)> = (0..10).map(|i| (200.0, f64::from(i) * 20.0)).collect();
        assert_eq!(drive(&mut before, &out, 0).len(), 1);
        let mut after = Vehicle::new(&GateOptions::default(), &rule(), before.mark());
        let stays: Vec<(f64, f64)> = vec![(200.0, 180.0); 5];
        assert_eq!(drive(&mut after, &stays, 10), []);
        let back: Vec<(f64, f64)> = (0..12).rev().map(|i| (200.0, f64::from(i) * 16.0)).collect();
        let told = drive(&mut after, &back, 15);
        assert_eq!(told.iter().map(|(_, name)| *name).collect::<Vec<_>>(), ["returned"]);
    }

    #[test]
    fn an_arrival_while_the_bridge_was_away_is_told_and_a_parked_vehicle_is_not() {
        let gate = GateOptions::default();
        let parked: Vec<(f64, f64)> = vec![(2_000.0, 0.0); 6];
        for (inside, want) in [(Some(false), 1), (Some(true), 0), (None, 0)] {
            let mark = VehicleMark { off_route_since_ms: None, inside };
            let mut vehicle = Vehicle::new(&gate, &rule(), mark);
            assert_eq!(drive(&mut vehicle, &parked, 0).len(), want, "{inside:?}");
        }
    }

    #[test]
    fn a_vehicle_that_turns_round_stands_and_drives_on_is_seen() {
        let mut vehicle = Vehicle::new(&GateOptions::default(), &rule(), VehicleMark::default());
        let mut fixes: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i) * 15.0, 0.0)).collect();
        fixes.extend([(595.0, 0.0), (600.0, 0.0), (600.0, 0.0), (595.0, 0.0)]);
        fixes.extend((0..30).map(|i| (585.0 - f64::from(i) * 10.0, 0.0)));
        fixes.extend(vec![(295.0, 0.0); 1_000]);
        let names: Vec<_> = drive(&mut vehicle, &fixes, 0).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["wrong_way", "standing"]);
    }

    #[test]
    fn impossible_fixes_are_rejected_and_raise_no_alarm() {
        let mut vehicle = Vehicle::new(&GateOptions::default(), &rule(), VehicleMark::default());
        drive(&mut vehicle, &[(0.0, 0.0), (15.0, 0.0)], 0);
        // Four reflections in a row, 800 m off within a second each: fewer than the gate adopts.
        for second in 2..6 {
            let why = vehicle.push(&fix(second, 30.0, 800.0), second as u64 * 1_000).expect_err("impossible");
            assert!(why.to_string().contains("impossible"), "{why}");
        }
        assert_eq!(drive(&mut vehicle, &[(90.0, 0.0), (105.0, 0.0), (120.0, 0.0)], 6), []);
        assert_eq!(vehicle.mark().off_route_since_ms, None);
    }
}
