//! The simulated twin of the view: in memory, with power cuts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::log::Lsn;
use crate::view::{Row, View, ViewError};

/// A simulated view. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct SimView {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug)]
struct State {
    rng: fastrand::Rng,
    rows: BTreeMap<Bytes, Bytes>,
    applied: u64,
    /// Writes until the power ends; 0 = it has ended.
    writes_left: Option<u64>,
}

impl SimView {
    /// Makes an empty view.
    pub fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self::from_state(State { rng, rows: BTreeMap::new(), applied: 0, writes_left: None })
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Ends the power in the middle of the `nth` write from now, 1 is the next: it fails, and chance decides whether it
    /// is there or not; everything after it fails. Then [`SimView::crash`] gives the view that is left.
    pub fn cut_power(&self, nth: u64) {
        self.state().writes_left = Some(nth);
    }

    /// Returns the view as a power cut now leaves it. This one has nothing to do with it any more.
    #[must_use]
    pub fn crash(&self, rng: &mut fastrand::Rng) -> Self {
        let state = self.state();
        Self::from_state(State { rng: rng.fork(), writes_left: None, ..state.clone() })
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.state().rows.len()
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn check_power(&self) -> Result<(), ViewError> {
        if self.writes_left == Some(0) { Err(power_cut()) } else { Ok(()) }
    }

    fn apply(&mut self, rows: Vec<(Bytes, Option<Bytes>)>, applied: Lsn) {
        for (key, value) in rows {
            match value {
                Some(value) => drop(self.rows.insert(key, value)),
                None => drop(self.rows.remove(&key)),
            }
        }
        self.applied = applied.0;
    }
}

fn power_cut() -> ViewError {
    ViewError::Failed { dir: PathBuf::from("/simulated"), why: "simulated power cut".to_owned() }
}

impl View for SimView {
    fn applied(&self) -> Lsn {
        Lsn(self.state().applied)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let state = self.state();
        state.check_power()?;
        Ok(state.rows.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8]) -> impl Iterator<Item = Result<Row, ViewError>> + Send + use<> {
        let state = self.state();
        let rows: Vec<_> = match state.check_power() {
            Err(error) => vec![Err(error)],
            Ok(()) => {
                let from = state.rows.range(Bytes::copy_from_slice(prefix)..);
                let rows = from.take_while(|(key, _)| key.starts_with(prefix));
                rows.map(|(key, value)| Ok((key.clone(), value.clone()))).collect()
            }
        };
        rows.into_iter()
    }

    fn write(&mut self, rows: Vec<(Bytes, Option<Bytes>)>, applied: Lsn) -> Result<(), ViewError> {
        let mut state = self.state();
        state.check_power()?;
        if let Some(left) = &mut state.writes_left {
            *left -= 1;
        }
        let is_cut = state.writes_left == Some(0);
        if !is_cut || state.rng.bool() {
            state.apply(rows, applied);
        }
        if is_cut { Err(power_cut()) } else { Ok(()) }
    }
}
