//! GPS processing as pure functions: what a position fix means, whether it can be true, how far it is from a
//! planned route, and whether it is inside a fence.
//!
//! Nothing here reads a clock, a file or a socket. Time comes in with the fixes and as arguments, so that the
//! same fixes always give the same events: in the bridge, in the simulator and in a test.
//!
//! | module | answers |
//! | --- | --- |
//! | [`fix`] | what a device said, in the JSON of `dev/{id}/telemetry/gps` |
//! | [`geodesy`] | distances, bearings, and a flat plane around a place |
//! | [`route`] | a line on the ground: length, point at a distance, nearest point |
//! | [`plausibility`] | which fixes cannot be true |
//! | [`filter`] | where is the vehicle, how does it move, is it parked, how far did it drive? |
//! | [`trip`] | when did it set out, where did it stop, did it speed? |
//! | [`smooth`] | the same for a trip that is over, with all of it known |
//! | [`datum`] | the map datums of China, to and from WGS 84 |
//! | [`corridor`] | has the vehicle left its route, is it back, on its way, in time? |
//! | [`fence`] | has the vehicle entered or left an area? |

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod calendar;
pub mod corridor;
pub mod datum;
pub mod fence;
pub mod filter;
pub mod fix;
pub mod formats;
pub mod geodesy;
pub mod plausibility;
pub mod route;
pub mod smooth;
pub mod trip;

pub use fix::{Fix, FixKind};
pub use geodesy::LatLon;
