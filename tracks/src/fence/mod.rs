//! Watches whether a vehicle enters or leaves an area.
//!
//! Every area answers one question: how far is a place outside its border (negative: inside)? A fix says "inside" when it
//! is inside by a standard deviation, "outside" when it is outside by the hysteresis and two standard deviations, else
//! nothing. Several fixes that say the same make an event:
//!
//! ```text
//!             confirm x inside            confirm x outside
//!   unknown ------------------> inside <-------------------> outside
//!      \_______________________________________________________^
//!                        confirm x outside
//! ```
//!
//! Leaving `unknown` is no event unless asked for: a truck that stood in the yard when the fence was drawn did not arrive.
//! One vehicle and one area are a [`Watcher`]; any number of areas are an [`Index`], and one vehicle among them is a
//! [`Rover`].

mod area;
mod index;
#[cfg(test)]
mod tests;
mod watcher;

pub use area::{CORNERS_MAX, Circle, Fence, FenceError, HOLES_MAX, Polygon};
pub use index::{FENCES_MAX, FenceId, Index, IndexFull, Rover};
pub use watcher::{Crossing, FenceEvent, Side, Watcher, WatcherOptions};
