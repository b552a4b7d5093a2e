//! A fleet without a broker: what it does while it is offline, how it starts and how it ends.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::future::Future;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use firmware_sim::fleet::{FleetReport, PROGRESS_QUEUED, run};
use firmware_sim::plan::{FleetOptions, TruckOverride};
use firmware_sim::truck::{Progress, Step};
use tokio::sync::{mpsc, oneshot};

/// An address where nobody listens.
fn nowhere() -> String {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    address.to_string()
}

fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Runs a fleet until `enough` says so.
fn run_until(options: FleetOptions, mut enough: impl FnMut(Progress) -> bool) -> FleetReport {
    on_runtime(async {
        let (sender, mut receiver) = mpsc::channel(PROGRESS_QUEUED);
        let (stop, stopped) = oneshot::channel::<()>();
        let watch = async {
            while !enough(receiver.recv().await.expect("the fleet ended by itself")) {}
            stop.send(()).unwrap();
            while receiver.recv().await.is_some() {}
        };
        let (report, ()) = tokio::join!(run(options, sender, async { drop(stopped.await) }), watch);
        report.unwrap()
    })
}

#[test]
fn a_fleet_without_a_broker_keeps_its_fixes_stops_when_told_and_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let options = FleetOptions { devices: 2, speedup: 100.0, ..FleetOptions::new(nowhere(), dir.path()) };
        let (mut positions, mut disconnected) = ([0, 0], 0);
        let report = run_until(options, |progress| {
            match progress.step {
                Step::Position { .. } => positions[usize::from(&*progress.truck == "truck-2")] += 1,
                Step::Disconnected { .. } => disconnected += 1,
                other => panic!("{other:?}"),
            }
            positions.iter().all(|count| *count >= 20) && disconnected > 0
        });
        let names: Vec<&str> = report.trucks.iter().map(|truck| &*truck.id).collect();
        assert_eq!(names, ["truck-1", "truck-2"]);
        for truck in report.trucks {
            assert!(truck.fixes_queued >= 20 && truck.fixes_refused == 0, "{truck:?}");
            assert!(!truck.arrived && !truck.lock_is_open, "{truck:?}");
        }
    }
}

#[test]
fn a_truck_that_has_arrived_goes_on_in_real_time() {
    let dir = tempfile::tempdir().unwrap();
    let near_its_end = TruckOverride {
        number: 1,
        start_m: Some(2_700.0),
        depart_after_ms: Some(0),
        ..TruckOverride::default()
    };
    let options = FleetOptions {
        speedup: 100.0,
        overrides: vec![near_its_end],
        ..FleetOptions::new(nowhere(), dir.path())
    };
    let (mut arrived, mut parked) = (None, 0);
    let report = run_until(options, |progress| {
        match progress.step {
            Step::Arrived { .. } => arrived = Some(Instant::now()),
            Step::Position { .. } => parked += u32::from(arrived.is_some()),
            _ => {}
        }
        parked == 2
    });
    assert!(report.trucks[0].arrived);
    // Two seconds of simulated time, of which the first may have begun before the arrival was told.
    let took = arrived.unwrap().elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
}

#[test]
fn a_fleet_ends_when_its_time_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let options = FleetOptions {
        duration_max: Some(Duration::from_millis(50)),
        ..FleetOptions::new(nowhere(), dir.path())
    };
    let (sender, _receiver) = mpsc::channel(PROGRESS_QUEUED);
    let report = on_runtime(run(options, sender, std::future::pending())).unwrap();
    assert!(!report.trucks[0].arrived);
}

#[test]
fn a_truck_that_cannot_start_ends_the_fleet_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("truck-2"), "a file where a directory should be").unwrap();
    let options = FleetOptions { devices: 3, ..FleetOptions::new(nowhere(), dir.path()) };
    let (sender, _receiver) = mpsc::channel(PROGRESS_QUEUED);
    let error = on_runtime(run(options, sender, std::future::pending())).unwrap_err().to_string();
    assert!(error.starts_with("truck-2 cannot start"), "{error}");
}
