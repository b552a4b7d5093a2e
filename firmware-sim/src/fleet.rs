//! Runs a fleet: all its trucks on one tokio runtime, until they have arrived, or time is up, or it is stopped.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::plan::{FleetOptions, PlanError, PlannedTruck};
use crate::truck::{Link, Progress, Truck, TruckError, TruckReport};

/// A good size for the progress channel: a second of a hundred sped-up trucks.
pub const PROGRESS_QUEUED: usize = 1_024;

/// Why a fleet did not run.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// What it was to do makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A truck cannot start; those before it were stopped.
    #[error("{id} cannot start: {source}{}", hint(&source.to_string()))]
    Truck {
        /// Which truck.
        id: Arc<str>,
        /// Why not.
        source: TruckError,
    },
    /// A truck's task panicked: a bug.
    #[error("a truck broke off: {what}")]
    Broken {
        /// What the panic said.
        what: String,
    },
}

/// What to do about a start that failed for want of files: a truck has a socket, two logs of two segments, and their locks.
fn hint(why: &str) -> &'static str {
    // EMFILE; the errors of logs and sockets end with the system's number.
    if why.contains("(os error 24)") {
        "; each truck needs 9 open files: raise the limit (ulimit -n) or run fewer"
    } else {
        ""
    }
}

/// What became of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetReport {
    /// Its trucks, by number.
    pub trucks: Vec<TruckReport>,
}

/// Runs a fleet until `stop` completes, the longest duration is over, or (unless trucks stay) all have arrived and all
/// is sent. Must be called inside a tokio runtime.
///
/// `progress` gets what happens, see [`Truck::start`]; [`PROGRESS_QUEUED`] is a good size.
///
/// # Errors
/// The plan makes no sense, or a truck cannot start.
pub async fn run(
    options: FleetOptions,
    progress: mpsc::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<FleetReport, FleetError> {
    run_planned(&options, options.plan()?, progress, stop).await
}

/// As [`run`], with the trucks of [`FleetOptions::plan`], which the caller has looked at.
///
/// # Errors
/// A truck cannot start.
pub async fn run_planned(
    options: &FleetOptions,
    plan: Vec<PlannedTruck>,
    progress: mpsc::Sender<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<FleetReport, FleetError> {
    let link = Link {
        address: options.address.clone(),
        tls: options.tls.clone(),
        username: options.username.clone(),
        password: options.password.clone(),
        data_dir: options.data_dir.clone(),
        speedup: options.speedup,
        stay: options.stay,
    };
    let (stopper, stopped) = watch::channel(false);
    let mut running = JoinSet::new();
    let mut failed = None;
    for (index, truck) in plan.into_iter().enumerate() {
        let id = truck.id.clone();
        match Truck::start(truck, &link, progress.clone()) {
            Ok(truck) => {
                let stopped = stopped.clone();
                running.spawn(async move { (index, truck.run(stopped).await) });
            }
            Err(source) => {
                failed = Some(FleetError::Truck { id, source });
                break;
            }
        }
    }
    // The receiver must see the end when the last truck has ended.
    drop(progress);
    let until = async {
        match options.duration_max {
            Some(duration) => tokio::select! {
                () = stop => {}
                () = tokio::time::sleep(duration) => {}
            },
            None => stop.await,
        }
    };
    let mut reports = Vec::new();
    let mut take = |ended: Result<(usize, TruckReport), tokio::task::JoinError>,
                    failed: &mut Option<FleetError>| match ended {
        Ok(report) => reports.push(report),
        Err(error) => *failed = Some(FleetError::Broken { what: error.to_string() }),
    };
    if failed.is_none() {
        tokio::pin!(until);
        loop {
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(ended) => take(ended, &mut failed),
                    None => break,
                },
                () = &mut until => break,
            }
        }
    }
    stopper.send_replace(true);
    while let Some(ended) = running.join_next().await {
        take(ended, &mut failed);
    }
    match failed {
        Some(error) => Err(error),
        None => {
            reports.sort_by_key(|(index, _)| *index);
            Ok(FleetReport { trucks: reports.into_iter().map(|(_, report)| report).collect() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_runs_out_of_files_is_told_what_to_do() {
        let out_of_files = std::io::Error::from_raw_os_error(24).to_string();
        assert!(hint(&out_of_files).contains("ulimit -n"), "{out_of_files}");
        assert_eq!(hint(&std::io::Error::from_raw_os_error(13).to_string()), "");
    }
}
