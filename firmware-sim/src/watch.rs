//! Looks in what arrives whether trucks leave their routes, if the scenario asks that.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracks::Fix;
use tracks::corridor::{CorridorEvent, Watcher, WatcherOptions};
use tracks::filter::{Filter, FilterOptions};

use crate::route::Route;
use crate::scenario::Expect;

/// Those who look.
pub(crate) struct Watch {
    is_wanted: bool,
    watchers: BTreeMap<u32, (Filter, Watcher)>,
    /// Trucks seen off their route so far.
    pub(crate) deviations: u64,
}

impl Watch {
    pub(crate) fn new(expect: &Expect) -> Watch {
        let is_wanted = expect.deviations_min.is_some() || expect.deviations_max.is_some();
        Watch { is_wanted, watchers: BTreeMap::new(), deviations: 0 }
    }

    /// Takes a record of a device that is to keep to this route.
    pub(crate) fn take(&mut self, device: u32, route: &Route, payload: &[u8], arrived_unix_ms: u64) {
        if !self.is_wanted {
            return;
        }
        let Ok(fix) = serde_json::from_slice::<Fix>(payload) else { return };
        let (filter, watcher) = self.watchers.entry(device).or_insert_with(|| {
            let watcher = Watcher::new(Arc::new(route.corridor()), WatcherOptions::default());
            (Filter::new(FilterOptions::default()), watcher)
        });
        let arrived_ms = i64::try_from(arrived_unix_ms).unwrap_or(i64::MAX);
        let Ok(estimate) = filter.push(&fix, arrived_ms) else { return };
        let events = watcher.push(&estimate.fix(&fix));
        let departures = events.iter().filter(|event| matches!(event, CorridorEvent::Deviated { .. }));
        self.deviations += departures.count() as u64;
    }
}
