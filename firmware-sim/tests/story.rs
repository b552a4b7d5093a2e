//! What a fleet does is what the rules on the other side see: one truck leaves its route and comes back, all arrive once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use device_sdk::commands::{Actuator, Command};
use firmware_sim::lock::{Lock, LockRules, UNLOCK};
use firmware_sim::plan::{DetourChoice, FleetOptions, PlannedTruck, TruckOverride};
use tracks::corridor::{self, CorridorEvent};
use tracks::fence::{self, FenceEvent};
use tracks::filter::{Filter, FilterOptions};

const START_MS: i64 = 1_800_000_000_000;

/// What is seen of a truck until two minutes after its arrival: D a departure from the route, R a return, A an arrival,
/// X an exit from the arrival fence, U the first second at which the lock would open, K the truck standing at its end.
fn story(truck: &PlannedTruck) -> String {
    let mut body = truck.body();
    let mut filter = Filter::new(FilterOptions::default());
    let mut route =
        corridor::Watcher::new(Arc::new(truck.route.corridor()), corridor::WatcherOptions::default());
    let mut yard =
        fence::Watcher::new(fence::Fence::from(truck.arrival.clone()), fence::WatcherOptions::default());
    let mut lock = Lock::new(LockRules::inside(truck.fence.clone()));
    let unlock = Command {
        id: "c".to_owned(),
        name: UNLOCK.to_owned(),
        args: serde_json::Value::Null,
        expires_at: None,
    };
    let mut story = String::new();
    let mut parked_s = 0;
    for second in 0.. {
        let ts_ms = START_MS + 1_000 * second;
        let tick = body.tick(ts_ms);
        lock.observe(ts_ms, tick.fix.as_ref());
        if tick.is_finished && parked_s == 0 {
            story.push('K');
        }
        if !story.contains('U') && lock.check(&unlock, ts_ms as u64).is_ok() {
            story.push('U');
        }
        if let Some(fix) = tick.fix.and_then(|fix| Some(filter.push(&fix, ts_ms).ok()?.fix(&fix))) {
            for event in route.push(&fix) {
                match event {
                    CorridorEvent::Deviated { .. } => story.push('D'),
                    CorridorEvent::Returned { .. } => story.push('R'),
                    _ => {}
                }
            }
            for event in yard.push(&fix) {
                match event {
                    FenceEvent::Entered(_) => story.push('A'),
                    FenceEvent::Exited(_) => story.push('X'),
                    _ => {}
                }
            }
        }
        parked_s += i64::from(tick.is_finished);
        if parked_s == 120 {
            return story;
        }
    }
    unreachable!("the loop ends with a return");
}

#[test]
fn one_truck_leaves_its_route_and_returns_and_every_truck_arrives_and_can_be_unlocked() {
    for seed in 0..25 {
        for name in ["route-1", "route-6", "route-7", "route-8"] {
            let on_route =
                |number| TruckOverride { number, route: Some(name.to_owned()), ..TruckOverride::default() };
            let plan = FleetOptions {
                devices: 2,
                seed,
                overrides: vec![on_route(1), TruckOverride { detour: DetourChoice::Clear, ..on_route(2) }],
                ..FleetOptions::new("127.0.0.1:1", "unused")
            }
            .plan()
            .unwrap();
            let (keeps, leaves) = (story(&plan[0]), story(&plan[1]));
            // A truck that waits at a corner inside its fence may already be unlocked, and its arrival is told.
            let arrivals = ["AKU", "KAU", "KUA", "UAK", "AUK", "UKA"];
            assert!(arrivals.contains(&&*keeps), "{name} seed {seed}: {keeps}");
            let rest = leaves.strip_prefix("DR").unwrap_or_else(|| panic!("{name} seed {seed}: {leaves}"));
            assert!(arrivals.contains(&rest), "{name} seed {seed}: {leaves}");
        }
    }
}
