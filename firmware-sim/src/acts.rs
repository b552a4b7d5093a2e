//! What actuators did, held against the truth: not twice, not late, and no lock opened outside its fence or on the way.

use std::collections::BTreeSet;

use device_sdk::commands::Command;

use crate::ledger::{Ledger, Wrong};
use crate::lock::UNLOCK;
use crate::ride::Ride;

/// Faster than that a truck does not stand, in metres a second.
const STANDS_MPS: f64 = 0.3;
/// How old a fix may be that a lock trusts, in seconds: a truck may have started since.
const FIX_AGE_MAX_S: u64 = 5;

/// Who acted, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Act<'a> {
    pub(crate) device: u32,
    /// The command's number at its sender.
    pub(crate) number: u64,
    pub(crate) ride: &'a Ride,
    /// Since the start of the run.
    pub(crate) now_ms: u64,
    /// The true time, milliseconds since the Unix epoch.
    pub(crate) unix_ms: u64,
}

/// All that was carried out.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    done: BTreeSet<(u32, String)>,
    /// Locks that opened.
    pub(crate) unlocks: u64,
}

impl Acts {
    /// An actuator fired.
    pub(crate) fn fired(&mut self, act: Act<'_>, command: &Command, ledger: &mut Ledger) {
        let Act { device, number, .. } = act;
        if !self.done.insert((device, command.id.clone())) {
            ledger.wrong(Wrong::ActedTwice, device, number, format!("command {} again", command.id));
        }
        self.moved(act, &command.name, command.expires_at, ledger);
    }

    /// A lock moved for a command of this name and expiry.
    pub(crate) fn moved(&mut self, act: Act<'_>, name: &str, expires_at: Option<u64>, ledger: &mut Ledger) {
        if let Some(late_ms) = expires_at.and_then(|at_ms| act.unix_ms.checked_sub(at_ms)) {
            let what = format!("{name} was carried out {late_ms} ms after the command's expiry");
            ledger.wrong(Wrong::ActedLate, act.device, act.number, what);
        }
        if name == UNLOCK {
            self.opened(act, ledger);
        }
    }

    fn opened(&mut self, act: Act<'_>, ledger: &mut Ledger) {
        let Act { device, number, ride, now_ms, .. } = act;
        let second = now_ms / 1_000;
        let (truth, before) = (ride.truth(second), ride.truth(second.saturating_sub(FIX_AGE_MAX_S)));
        self.unlocks += 1;
        let outside_m = ride.journey.fence.outside_m(truth.position);
        if outside_m > 0.0 {
            let what = format!("it opened {outside_m:.0} m outside its fence");
            ledger.wrong(Wrong::OpenedOutside, device, number, what);
        }
        if truth.speed_mps > STANDS_MPS && before.speed_mps > STANDS_MPS {
            let what = format!("it opened at {:.1} m/s", truth.speed_mps);
            ledger.wrong(Wrong::OpenedOutside, device, number, what);
        }
    }
}
