//! A million areas, and one vehicle among them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rstar::primitives::{GeomWithData, Rectangle};
use rstar::{AABB, RTree};

use super::area::Fence;
use super::watcher::{FenceEvent, Side, Watcher, WatcherOptions};
use crate::fix::Fix;
use crate::geodesy::{LatLon, METRES_PER_DEGREE};

/// The most areas of one index.
pub const FENCES_MAX: usize = 4_000_000;

/// How far around a vehicle areas are looked at, beyond what its fix and its way need, in metres.
const MARGIN_M: f64 = 100.0;

/// The name of an area: whatever number its owner gives it.
pub type FenceId = u64;

type Leaf = GeomWithData<Rectangle<[f64; 2]>, FenceId>;

/// The index has no room for one more area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an index holds at most {FENCES_MAX} fences: remove some or use a second one")]
pub struct IndexFull;

/// Areas by place (an R-tree). They may come and go.
#[derive(Debug, Clone, Default)]
pub struct Index {
    tree: RTree<Leaf>,
    fences: BTreeMap<FenceId, Known>,
    /// Counts what was added.
    age: u64,
}

#[derive(Debug, Clone)]
struct Known {
    fence: Arc<Fence>,
    added: u64,
}

impl Index {
    /// Makes an index of many areas at once: far faster than one by one.
    ///
    /// # Errors
    /// More than [`FENCES_MAX`] of them.
    pub fn of(fences: impl IntoIterator<Item = (FenceId, Fence)>) -> Result<Index, IndexFull> {
        let known = |(id, fence)| (id, Known { fence: Arc::new(fence), added: 1 });
        let fences: BTreeMap<FenceId, Known> = fences.into_iter().take(FENCES_MAX + 1).map(known).collect();
        if fences.len() > FENCES_MAX {
            return Err(IndexFull);
        }
        let leaves = fences.iter().flat_map(|(id, known)| leaves(*id, &known.fence)).collect();
        Ok(Index { tree: RTree::bulk_load(leaves), fences, age: 1 })
    }

    /// Adds an area; one with the same id is replaced.
    ///
    /// # Errors
    /// There are [`FENCES_MAX`] already.
    pub fn insert(&mut self, id: FenceId, fence: Fence) -> Result<(), IndexFull> {
        self.remove(id);
        if self.fences.len() >= FENCES_MAX {
            return Err(IndexFull);
        }
        self.age += 1;
        leaves(id, &fence).into_iter().for_each(|leaf| self.tree.insert(leaf));
        self.fences.insert(id, Known { fence: Arc::new(fence), added: self.age });
        Ok(())
    }

    /// Takes an area out; tells whether it was there.
    pub fn remove(&mut self, id: FenceId) -> bool {
        let Some(known) = self.fences.remove(&id) else { return false };
        for leaf in leaves(id, &known.fence) {
            self.tree.remove(&leaf);
        }
        true
    }

    /// How many areas there are.
    pub fn len(&self) -> usize {
        self.fences.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }

    /// The areas that a place is inside or on the border of, in the order of their ids.
    pub fn containing(&self, place: LatLon) -> Vec<FenceId> {
        let mut ids = self.near(place, place, 0.0);
        ids.retain(|id| self.fences.get(id).is_some_and(|known| known.fence.contains(place)));
        ids
    }

    /// The areas whose boxes come within so many metres of the box around a way.
    fn near(&self, from: LatLon, to: LatLon, margin_m: f64) -> Vec<FenceId> {
        if !from.is_valid() || !to.is_valid() {
            return Vec::new();
        }
        let lat_deg = margin_m / METRES_PER_DEGREE;
        let widest = (from.lat.abs().max(to.lat.abs()) + lat_deg).min(89.9).to_radians().cos();
        let lon_deg = (lat_deg / widest).min(180.0);
        let low = LatLon::new(from.lat.min(to.lat) - lat_deg, from.lon.min(to.lon) - lon_deg);
        let high = LatLon::new(from.lat.max(to.lat) + lat_deg, from.lon.max(to.lon) + lon_deg);
        let crosses = (from.lon - to.lon).abs() > 180.0;
        let boxes = if crosses {
            // The short way goes over the antimeridian: from the eastern longitude on, and up to the western one.
            let (east, west) = (from.lon.max(to.lon) - lon_deg, from.lon.min(to.lon) + lon_deg);
            split(low.lat, east, high.lat, west + 360.0)
        } else {
            split(low.lat, low.lon, high.lat, high.lon)
        };
        let found = boxes.iter().flat_map(|(low, high)| {
            self.tree.locate_in_envelope_intersecting(&AABB::from_corners(*low, *high)).map(|leaf| leaf.data)
        });
        let mut ids: Vec<FenceId> = found.collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// A box in degrees, or two where it crosses the antimeridian. East first.
fn split(south: f64, west: f64, north: f64, east: f64) -> Vec<([f64; 2], [f64; 2])> {
    if east - west >= 360.0 {
        return vec![([-180.0, south], [180.0, north])];
    }
    let mut boxes = vec![([west.max(-180.0), south], [east.min(180.0), north])];
    if west < -180.0 {
        boxes.push(([west + 360.0, south], [180.0, north]));
    }
    if east > 180.0 {
        boxes.push(([-180.0, south], [east - 360.0, north]));
    }
    boxes
}

fn leaves(id: FenceId, fence: &Fence) -> Vec<Leaf> {
    let (low, high) = fence.bounds();
    let boxes = split(low.lat, low.lon, high.lat, high.lon).into_iter();
    boxes.map(|(low, high)| GeomWithData::new(Rectangle::from_corners(low, high), id)).collect()
}

/// One vehicle among all areas of an index: remembers only those that it is in or near.
#[derive(Debug, Clone)]
pub struct Rover {
    options: WatcherOptions,
    pub(super) near: BTreeMap<FenceId, (u64, Watcher)>,
    last: Option<(i64, LatLon)>,
    /// What the index had when this vehicle was last seen.
    age: u64,
}

impl Rover {
    /// Watches a vehicle of which nothing is known yet.
    pub fn new(options: WatcherOptions) -> Rover {
        Rover { options, near: BTreeMap::new(), last: None, age: 0 }
    }

    /// The areas that the vehicle is in, in the order of their ids.
    pub fn inside(&self) -> impl Iterator<Item = FenceId> + '_ {
        self.near.iter().filter(|(_, (_, watcher))| watcher.side() == Some(Side::Inside)).map(|(id, _)| *id)
    }

    /// Takes the next fix; gives what it confirms, in the order of ids.
    pub fn push(&mut self, index: &Index, fix: &Fix) -> Vec<(FenceId, FenceEvent)> {
        if !fix.is_usable() {
            return Vec::new();
        }
        let from = self.last.map_or(fix.position(), |(_, place)| place);
        let margin_m = MARGIN_M + self.options.hysteresis_m.max(0.0) + 2.0 * fix.sigma_m().min(10_000.0);
        for id in index.near(from, fix.position(), margin_m) {
            let Some(known) = index.fences.get(&id) else { continue };
            let is_same = self.near.get(&id).is_some_and(|(added, _)| *added == known.added);
            if is_same {
                continue;
            }
            // What was there before and not near is an area that the vehicle was outside of.
            let was_outside = self.last.is_some() && known.added <= self.age;
            let mut watcher = if was_outside {
                Watcher::resume(known.fence.clone(), self.options.clone(), Side::Outside)
            } else {
                Watcher::new(known.fence.clone(), self.options.clone())
            };
            if let Some((ts_ms, place)) = self.last.filter(|_| was_outside) {
                watcher.was_at(ts_ms, place);
            }
            self.near.insert(id, (known.added, watcher));
        }
        self.last = Some((fix.ts_ms, fix.position()));
        self.age = index.age;
        let mut events = Vec::new();
        self.near.retain(|id, (added, watcher)| {
            if index.fences.get(id).is_none_or(|known| known.added != *added) {
                return false;
            }
            events.extend(watcher.push(fix).into_iter().map(|event| (*id, event)));
            let is_far = watcher.outside_m(fix.position()) > margin_m;
            !(is_far && watcher.side() == Some(Side::Outside) && watcher.is_settled())
        });
        events
    }
}
