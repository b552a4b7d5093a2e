//! What each truck of a fleet is to do, worked out and checked before any of them starts.
//!
//! Whoever configures the other side (corridors and fences in the bridge) works from the same plan.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use device_sdk::TlsOptions;
use tracks::fence::{Circle, Fence};

use crate::body::Body;
use crate::detour::Detour;
use crate::gps::ReceiverOptions;
use crate::motion::{DriveError, DriveOptions};
use crate::route::{self, Route};

/// The most trucks of one fleet: each has a socket and two open logs.
pub const DEVICES_MAX: u32 = 1_000;
/// The fastest a simulated second may pass: a hundredth of a real one.
pub const SPEEDUP_MAX: f64 = 100.0;
/// The most drives of one truck.
pub const TRIPS_MAX: u32 = 100;
/// The most characters of the prefix of the trucks' names.
const PREFIX_CHARS_MAX: usize = 32;
/// How wide and how long a detour is whose place is not given, in metres.
const DETOUR_OFFSET_M: f64 = 150.0;
const DETOUR_LENGTH_M: f64 = 900.0;

/// What a fleet is made with.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// Broker as `host:port`.
    pub address: String,
    /// TLS to it; `None` = plain TCP.
    pub tls: Option<TlsOptions>,
    /// User name of all trucks.
    pub username: Option<String>,
    /// Password of all trucks.
    pub password: Option<Vec<u8>>,
    /// How many trucks, 1 to [`DEVICES_MAX`].
    pub devices: u32,
    /// Names are the prefix and a number from 1 on; letters, digits, `-`, `_` and `.`.
    pub prefix: String,
    /// Where all chance comes from.
    pub seed: u64,
    /// The routes, given out in turn: truck 1 drives the first.
    pub routes: Vec<Route>,
    /// Where the trucks keep their queues and journals, a directory each.
    pub data_dir: PathBuf,
    /// How many simulated seconds pass in a real one while a truck is on its way, 1 to [`SPEEDUP_MAX`].
    pub speedup: f64,
    /// How many drives: there, back, there …
    pub trips: u32,
    /// Whether trucks that have arrived for good stay connected until the fleet is stopped.
    pub stay: bool,
    /// When to stop, in real time.
    pub duration_max: Option<Duration>,
    /// What single trucks do differently.
    pub overrides: Vec<TruckOverride>,
}

impl FleetOptions {
    /// Makes options for one truck on the first built-in route in real time, there, which stays.
    pub fn new(address: impl Into<String>, data_dir: impl Into<PathBuf>) -> FleetOptions {
        FleetOptions {
            address: address.into(),
            tls: None,
            username: None,
            password: None,
            devices: 1,
            prefix: "truck-".to_owned(),
            seed: 1,
            routes: route::builtin(),
            data_dir: data_dir.into(),
            speedup: 1.0,
            trips: 1,
            stay: true,
            duration_max: None,
            overrides: Vec::new(),
        }
    }
}

/// What one truck does differently; `None` and the default: as the others.
#[derive(Debug, Clone, Default)]
pub struct TruckOverride {
    /// Which truck, from 1 on.
    pub number: u32,
    /// Drives the route of this name.
    pub route: Option<String>,
    /// Leaves its route on the first drive.
    pub detour: DetourChoice,
    /// Where its lock may open; else the circle around the route's end.
    pub fence: Option<Fence>,
    /// When it departs, in simulated milliseconds after its start.
    pub depart_after_ms: Option<u64>,
    /// How far along its route it starts, in metres.
    pub start_m: Option<f64>,
}

/// Whether and where a truck leaves its route.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum DetourChoice {
    /// It does not.
    #[default]
    None,
    /// Where it is seen best: 150 m aside over 900 m, away from all parts of the route.
    Clear,
    /// Here.
    At(Detour),
}

/// What one truck does.
#[derive(Debug, Clone)]
pub struct PlannedTruck {
    /// Its name, which is also its MQTT client id.
    pub id: Arc<str>,
    /// The route it is to keep to.
    pub route: Arc<Route>,
    /// Where it leaves the route.
    pub detour: Option<Detour>,
    /// Where its lock may open.
    pub fence: Fence,
    /// The circle around the route's end.
    pub arrival: Circle,
    /// How long it takes until it has arrived for good, in simulated milliseconds.
    pub journey_ms: u64,
    /// The truck itself, which stands at its start.
    pub(crate) body: Body,
}

impl PlannedTruck {
    /// The truck without its connection, at its start: what it will do can be looked at beforehand.
    pub fn body(&self) -> Body {
        self.body.clone()
    }
}

/// Why a fleet cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An option is out of its range.
    #[error("{what}")]
    Option {
        /// Which, with its value and what is allowed.
        what: String,
    },
    /// A truck has no such route.
    #[error("truck {number} is to drive route {name:?}, but there are only {have}")]
    Route {
        /// Which truck.
        number: u32,
        /// The route it was to drive.
        name: String,
        /// The names of those that there are.
        have: String,
    },
    /// A truck cannot drive so.
    #[error("{id} on {route}: {source}")]
    Drive {
        /// Which truck.
        id: Arc<str>,
        /// Its route.
        route: String,
        /// Why not.
        source: DriveError,
    },
    /// A route is too short or too winding to leave it.
    #[error(
        "{id} cannot leave {route}: no stretch of {DETOUR_LENGTH_M} m has free ground {DETOUR_OFFSET_M} m aside; choose a longer route or say where"
    )]
    NoDetour {
        /// Which truck.
        id: Arc<str>,
        /// Its route.
        route: String,
    },
}

impl FleetOptions {
    /// Works out what each truck does.
    ///
    /// # Errors
    /// An option is out of its range, or a truck cannot drive what it is to drive.
    pub fn plan(&self) -> Result<Vec<PlannedTruck>, PlanError> {
        self.check()?;
        let routes: Vec<Arc<Route>> = self.routes.iter().cloned().map(Arc::new).collect();
        (1..=self.devices).map(|number| self.plan_truck(number, &routes)).collect()
    }

    fn check(&self) -> Result<(), PlanError> {
        let bad = |what: String| Err(PlanError::Option { what });
        if !(1..=DEVICES_MAX).contains(&self.devices) {
            return bad(format!("{} devices: there must be 1 to {DEVICES_MAX}", self.devices));
        }
        if !(1.0..=SPEEDUP_MAX).contains(&self.speedup) {
            return bad(format!("speedup {}: it must be 1 to {SPEEDUP_MAX}", self.speedup));
        }
        if !(1..=TRIPS_MAX).contains(&self.trips) {
            return bad(format!("{} trips: there must be 1 to {TRIPS_MAX}", self.trips));
        }
        // The name becomes a topic level and a directory.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let starts_well = self.prefix.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts_well || self.prefix.len() > PREFIX_CHARS_MAX || !self.prefix.chars().all(is_plain) {
            let shown: String = self.prefix.chars().take(2 * PREFIX_CHARS_MAX).collect();
            return bad(format!(
                "prefix {shown:?}: it must have 1 to {PREFIX_CHARS_MAX} letters, digits, '-', '_' or '.', the first a letter or digit"
            ));
        }
        if self.routes.is_empty() {
            return bad("there are no routes to drive".to_owned());
        }
        for (index, entry) in self.overrides.iter().enumerate() {
            if !(1..=self.devices).contains(&entry.number) {
                return bad(format!(
                    "an override for truck {}: there are 1 to {}",
                    entry.number, self.devices
                ));
            }
            if self.overrides[..index].iter().any(|other| other.number == entry.number) {
                return bad(format!("truck {} is overridden twice", entry.number));
            }
        }
        Ok(())
    }

    fn plan_truck(&self, number: u32, routes: &[Arc<Route>]) -> Result<PlannedTruck, PlanError> {
        let id: Arc<str> = format!("{}{number}", self.prefix).into();
        let entry = self.overrides.iter().find(|entry| entry.number == number).cloned().unwrap_or_default();
        let route = match &entry.route {
            None => routes[(number - 1) as usize % routes.len()].clone(),
            Some(name) => {
                routes.iter().find(|route| route.name == *name).cloned().ok_or_else(|| PlanError::Route {
                    number,
                    name: name.clone(),
                    // A file may hold thousands.
                    have: routes
                        .iter()
                        .take(10)
                        .map(|route| route.name.as_str())
                        .collect::<Vec<_>>()
                        .join(", "),
                })?
            }
        };
        let detour = match entry.detour {
            DetourChoice::None => None,
            DetourChoice::At(detour) => Some(detour),
            DetourChoice::Clear => {
                let found = Detour::clear_of(&route.line, DETOUR_OFFSET_M, DETOUR_LENGTH_M);
                let none = || PlanError::NoDetour { id: id.clone(), route: route.name.clone() };
                Some(found.ok_or_else(none)?)
            }
        };
        // Neighbours in number must not be neighbours in chance.
        let seed =
            fastrand::Rng::with_seed(self.seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .u64(..);
        let depart_after_ms = entry.depart_after_ms.unwrap_or(6_000 + seed % 15_000);
        let options = DriveOptions { detour, ..DriveOptions::default() };
        let drive_error = |source| PlanError::Drive { id: id.clone(), route: route.name.clone(), source };
        let receiver = ReceiverOptions::default();
        let body = Body::new(
            &route.line,
            options,
            entry.start_m.unwrap_or(0.0),
            self.trips,
            depart_after_ms,
            receiver,
            seed,
        )
        .map_err(drive_error)?;
        let journey_ms = body.journey_ms().map_err(drive_error)?;
        let arrival = route.arrival_fence();
        let fence = entry.fence.unwrap_or_else(|| arrival.clone().into());
        Ok(PlannedTruck { id, route, detour, fence, arrival, journey_ms, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> FleetOptions {
        FleetOptions { devices: 6, ..FleetOptions::new("127.0.0.1:1", "unused") }
    }

    #[test]
    fn trucks_get_names_and_routes_in_turn_and_overrides_hold() {
        let fence: Fence = Circle::new(route::builtin()[0].destination(), 200.0).unwrap().into();
        let overrides = vec![
            TruckOverride { number: 2, detour: DetourChoice::Clear, ..TruckOverride::default() },
            TruckOverride {
                number: 3,
                route: Some("route-1".to_owned()),
                fence: Some(fence),
                depart_after_ms: Some(0),
                start_m: Some(2_000.0),
                ..TruckOverride::default()
            },
        ];
        let plan = FleetOptions { overrides, ..options() }.plan().unwrap();
        let names: Vec<(&str, &str)> =
            plan.iter().map(|truck| (&*truck.id, truck.route.name.as_str())).collect();
        assert_eq!(
            names,
            [
                ("truck-1", "route-1"),
                ("truck-2", "route-6"),
                ("truck-3", "route-1"),
                ("truck-4", "route-8"),
                ("truck-5", "route-1"),
                ("truck-6", "route-6"),
            ]
        );
        assert!(plan.iter().all(|truck| truck.detour.is_some() == (&*truck.id == "truck-2")));
        assert!(plan[2].journey_ms < plan[0].journey_ms / 2, "it starts near its end");
        let beside = plan[2].route.destination().destination(0.0, 100.0);
        assert!(plan[2].fence.contains(beside) && !plan[4].fence.contains(beside));
        assert_eq!(plan[0].arrival, plan[0].route.arrival_fence());
    }

    #[test]
    fn options_that_cannot_work_are_refused_with_their_values() {
        let with = |entry: TruckOverride| FleetOptions { overrides: vec![entry], ..options() };
        let short = Route {
            name: "short".to_owned(),
            line: tracks::route::Polyline::new([
                tracks::LatLon::new(60.0, 24.0),
                tracks::LatLon::new(60.001, 24.0),
            ])
            .unwrap(),
        };
        let detour = Detour { from_m: 9e9, to_m: 9.1e9, offset_m: 1.0 };
        let table = [
            (FleetOptions { devices: 0, ..options() }, "0 devices: there must be 1 to 1000"),
            (FleetOptions { devices: 1_001, ..options() }, "1001 devices"),
            (FleetOptions { speedup: 0.5, ..options() }, "speedup 0.5: it must be 1 to 100"),
            (FleetOptions { speedup: f64::NAN, ..options() }, "speedup NaN"),
            (FleetOptions { trips: 0, ..options() }, "0 trips"),
            (FleetOptions { prefix: String::new(), ..options() }, "prefix \"\""),
            (FleetOptions { prefix: "../x".to_owned(), ..options() }, "prefix \"../x\""),
            (FleetOptions { prefix: "a/#".to_owned(), ..options() }, "prefix \"a/#\""),
            (FleetOptions { prefix: "ü".to_owned(), ..options() }, "prefix"),
            (FleetOptions { routes: Vec::new(), ..options() }, "no routes"),
            (with(TruckOverride { number: 7, ..TruckOverride::default() }), "truck 7: there are 1 to 6"),
            (
                FleetOptions {
                    overrides: vec![TruckOverride { number: 1, ..TruckOverride::default() }; 2],
                    ..options()
                },
                "truck 1 is overridden twice",
            ),
            (
                with(TruckOverride {
                    number: 1,
                    route: Some("route-9".to_owned()),
                    ..TruckOverride::default()
                }),
                "\"route-9\", but there are only route-1, route-6, route-7, route-8",
            ),
            (
                with(TruckOverride { number: 1, start_m: Some(9_999.0), ..TruckOverride::default() }),
                "truck-1 on route-1: a truck cannot start 9999 m along",
            ),
            (
                with(TruckOverride {
                    number: 1,
                    detour: DetourChoice::At(detour),
                    ..TruckOverride::default()
                }),
                "truck-1 on route-1: a detour from",
            ),
            (
                FleetOptions {
                    routes: vec![short],
                    ..with(TruckOverride {
                        number: 1,
                        detour: DetourChoice::Clear,
                        ..TruckOverride::default()
                    })
                },
                "truck-1 cannot leave short",
            ),
        ];
        for (options, want) in table {
            let error = options.plan().unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
