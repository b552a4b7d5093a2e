//! Where many trucks are, second by second, at little memory: some journeys are worked out once, and all trucks drive them.
//!
//! Each truck has a journey of its own as long as there are at most [`JOURNEYS_MAX`]; beyond that trucks share them, each
//! after a pause of its own, and with a receiver of its own.

use std::sync::Arc;

use tracks::LatLon;
use tracks::fence::{Circle, Fence, FenceError};
use tracks::geodesy::Plane;

use crate::body::{Body, TICK_MS};
use crate::detour::Detour;
use crate::gps::ReceiverOptions;
use crate::motion::{DriveError, DriveOptions, Truth};
use crate::route::Route;
use crate::scenario::Scenario;

/// Journeys that are worked out.
pub(crate) const JOURNEYS_MAX: u32 = 64;
/// How wide and how long detours are, metres.
const DETOUR_OFFSET_M: f64 = 150.0;
const DETOUR_LENGTH_M: f64 = 900.0;
/// Trucks that share a journey start within so many seconds of each other.
const SHARED_WITHIN_S: u32 = 60;

/// Why the trucks of a scenario cannot drive.
#[derive(Debug, thiserror::Error)]
pub enum RideError {
    /// There are no routes.
    #[error("there are no routes to drive")]
    NoRoutes,
    /// A route cannot be driven so.
    #[error("route {route}: {source}")]
    Drive {
        /// Its name.
        route: String,
        /// Why not.
        source: DriveError,
    },
    /// A route has no place to leave it.
    #[error("a truck cannot leave {route}: no stretch of it is clear of its other parts")]
    NoDetour {
        /// Its name.
        route: String,
    },
    /// The fence around a route's end is none.
    #[error("route {route}: {source}")]
    Fence {
        /// Its name.
        route: String,
        /// Why not.
        source: FenceError,
    },
}

/// One journey, worked out.
#[derive(Debug)]
pub(crate) struct Journey {
    pub(crate) route: Arc<Route>,
    pub(crate) fence: Fence,
    truths: Vec<Truth>,
    /// The second from which on it has arrived for good, if it does within the run.
    arrived_s: Option<usize>,
}

/// A truck's place in its journey.
#[derive(Debug, Clone)]
pub(crate) struct Ride {
    pub(crate) journey: Arc<Journey>,
    late_s: u32,
}

impl Ride {
    /// Where the truck really is, so many seconds after the start of the run.
    pub(crate) fn truth(&self, second: u64) -> Truth {
        let second = usize::try_from(second.saturating_sub(self.late_s.into())).unwrap_or(usize::MAX);
        self.journey.truths[second.min(self.journey.truths.len() - 1)]
    }

    /// Where a false signal makes the truck of this number (from 1 on) seem to be, and whether it makes it seem to stand.
    pub(crate) fn spoofed(&self, scenario: &Scenario, number: u32, now_ms: u64) -> Option<(LatLon, bool)> {
        let is_now = |(from_ms, to_ms): (u64, u64)| (from_ms..to_ms).contains(&now_ms);
        let mut spoofs = scenario.spoofs.iter();
        let spoof = spoofs.find(|spoof| is_now(spoof.times().ms()) && spoof.devices.contains(number))?;
        Some(match (spoof.east_m, spoof.north_m) {
            (Some(east_m), Some(north_m)) => {
                let truth = self.truth(now_ms / 1_000);
                (Plane::at(truth.position).place(east_m, north_m), false)
            }
            _ => (self.journey.route.destination(), true),
        })
    }

    /// What a receiver there would measure, if the signal is not a false one.
    pub(crate) fn signal(&self, scenario: &Scenario, number: u32, now_ms: u64) -> Truth {
        let mut truth = self.truth(now_ms / 1_000);
        if let Some((position, stands)) = self.spoofed(scenario, number, now_ms) {
            truth.position = position;
            truth.speed_mps = if stands { 0.0 } else { truth.speed_mps };
        }
        truth
    }

    pub(crate) fn has_arrived(&self, second: u64) -> bool {
        self.journey.arrived_s.is_some_and(|arrived_s| second >= arrived_s as u64 + u64::from(self.late_s))
    }
}

/// Works out the journeys of a scenario and gives each truck its own.
pub(crate) fn rides(scenario: &Scenario, routes: &[Route], seed: u64) -> Result<Vec<Ride>, RideError> {
    if routes.is_empty() {
        return Err(RideError::NoRoutes);
    }
    let routes: Vec<Arc<Route>> = routes.iter().cloned().map(Arc::new).collect();
    let devices = scenario.fleet.devices;
    let mut journeys = Vec::new();
    for number in 1..=devices.min(JOURNEYS_MAX) {
        let route = routes[(number - 1) as usize % routes.len()].clone();
        journeys.push(Arc::new(journey(scenario, route, number, seed)?));
    }
    let mut chance = fastrand::Rng::with_seed(seed ^ 0x5249_4445);
    let ride = |number: u32| {
        let late_s = if number < JOURNEYS_MAX { 0 } else { chance.u32(0..SHARED_WITHIN_S) };
        Ride { journey: journeys[(number % JOURNEYS_MAX) as usize % journeys.len()].clone(), late_s }
    };
    Ok((0..devices).map(ride).collect())
}

fn journey(scenario: &Scenario, route: Arc<Route>, number: u32, seed: u64) -> Result<Journey, RideError> {
    let (fleet, name) = (&scenario.fleet, route.name.clone());
    let detour = match fleet.detours.contains(number) {
        false => None,
        true => {
            let found = Detour::clear_of(&route.line, DETOUR_OFFSET_M, DETOUR_LENGTH_M);
            Some(found.ok_or_else(|| RideError::NoDetour { route: name.clone() })?)
        }
    };
    let start_m = route.line.length_m() * fleet.start_percent / 100.0;
    let mut chance = fastrand::Rng::with_seed(crate::ledger::mix(seed, number.into()));
    let options = DriveOptions { detour, ..DriveOptions::default() };
    let depart_after_ms = 6_000 + chance.u64(0..15_000);
    let receiver = ReceiverOptions::default();
    let seed = chance.u64(..);
    let body = Body::new(&route.line, options, start_m, fleet.trips, depart_after_ms, receiver, seed);
    let mut body = body.map_err(|source| RideError::Drive { route: name.clone(), source })?;
    let (mut truths, mut arrived_s) = (Vec::new(), None);
    for second in 0..=scenario.end_ms() / TICK_MS {
        let tick = body.tick(0);
        truths.push(tick.truth);
        if tick.is_finished {
            arrived_s = Some(second as usize);
            break;
        }
    }
    let middle = Plane::at(route.destination()).place(fleet.fence_aside_m, 0.0);
    let circle = Circle::new(middle, fleet.fence_m);
    let fence = circle.map_err(|source| RideError::Fence { route: name, source })?.into();
    Ok(Journey { route, fence, truths, arrived_s })
}
