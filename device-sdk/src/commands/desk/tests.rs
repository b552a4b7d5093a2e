//! The desk alone: what is durable before what is said, expiry, restarts.

use serde_json::json;
use storage::sim::SimDisk;

use super::*;
use crate::clock::{Interval, TimeUnknown};

const SEGMENT_BYTES: u64 = 64 * 1024;
const T: u64 = 1_800_000_000_000;

fn desk_on(disk: &SimDisk) -> CommandDesk<SimDisk> {
    CommandDesk::new(CommandJournal::open_on(disk.clone(), SEGMENT_BYTES).unwrap(), None)
}

fn payload(id: &str, expires_at: Option<u64>) -> Vec<u8> {
    serde_json::to_vec(&json!({ "id": id, "name": "unlock", "expires_at": expires_at })).unwrap()
}

fn arrival(payload: &[u8]) -> Arrival<'_> {
    Arrival { payload, expires_in_ms: None }
}

fn yes(_: &Command, _: u64) -> Result<(), String> {
    Ok(())
}

fn unknown(monotonic_ms: u64) -> Moment {
    Moment { monotonic_ms, time: Err(TimeUnknown::NoReading), reached_unix_ms: 0 }
}

fn reports(desk: &mut CommandDesk<SimDisk>) -> Vec<Status> {
    std::iter::from_fn(|| desk.poll_report()).map(|report| report.result.status).collect()
}

fn ended(taken: Taken) -> CommandResult {
    match taken {
        Taken::Ended(result) => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_has_no_usable_id_is_told_apart_from_what_can_be_answered() {
    let cases = [
        ("{", "no JSON"),
        ("[]", "no id"),
        ("{\"name\":\"x\"}", "no id"),
        ("{\"id\":7}", "a number"),
        ("{\"id\":\"\"}", "0 characters"),
    ];
    for (payload, expected) in cases {
        let why = parse(payload.as_bytes()).unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
    let (id, command) = parse(b"{\"id\":\"a\",\"expires_at\":-1}").unwrap();
    assert_eq!(id, "a");
    assert!(command.is_err());
    let (_, command) =
        parse(b"{\"id\":\"a\",\"name\":\"unlock\",\"args\":{\"door\":1},\"expires_at\":9,\"new\":1}")
            .unwrap();
    let command = command.unwrap();
    assert_eq!((command.args, command.expires_at), (json!({ "door": 1 }), Some(9)));
    let large = json!({ "id": "a", "name": "x", "args": "x".repeat(COMMAND_BYTES_MAX) }).to_string();
    assert!(parse(large.as_bytes()).unwrap().1.unwrap_err().contains("at most 61440 are taken"));
}

#[test]
fn a_result_too_large_to_keep_becomes_a_failure_that_says_so() {
    let data = Some(Value::String("x".repeat(RESULT_BYTES_MAX)));
    let result = bounded(CommandResult { id: "a".into(), status: Status::Done, data, reason: None, at: 1 });
    assert_eq!((result.status, &result.data), (Status::Failed, &None));
    assert!(result.reason.unwrap().contains("over the limit of 65536"));
}

#[test]
fn every_status_is_reported_in_order_and_is_on_disk_when_it_is() {
    let disk = SimDisk::new(1);
    let mut desk = desk_on(&disk);
    let mut rng = fastrand::Rng::with_seed(1);
    let found = |disk: &SimDisk, rng: &mut fastrand::Rng| -> Vec<Status> {
        // What the power leaves, whatever it takes.
        let journal = CommandJournal::open_on(disk.crash(rng), SEGMENT_BYTES).unwrap();
        journal.untold().iter().map(|result| result.status).collect()
    };
    let now = Moment::exact(T);
    let Taken::Run(running) = desk.take(arrival(&payload("c", Some(T + 9))), &now, &mut yes).unwrap() else {
        panic!("it runs")
    };
    assert_eq!(found(&disk, &mut rng), [Status::Accepted, Status::Executing, Status::Failed]);
    let LastLook::Fire(running) = desk.last_look(running, &now, &mut yes).unwrap() else { panic!("it runs") };
    desk.end(running, Ok(json!(1)), &now).unwrap();
    assert_eq!(found(&disk, &mut rng), [Status::Accepted, Status::Executing, Status::Done]);
    assert_eq!(reports(&mut desk), [Status::Accepted, Status::Executing, Status::Done]);
    // Nothing of it was acknowledged: all of it is reported again.
    drop(desk);
    let mut desk = desk_on(&disk);
    assert_eq!(desk.reports.len(), 3);
    while let Some(report) = desk.poll_report() {
        desk.told(&report).unwrap();
    }
    assert!(desk.journal().is_settled());
    let again = desk.take(arrival(&payload("c", Some(T + 9))), &now, &mut yes).unwrap();
    assert!(matches!(again, Taken::Repeated { status: Status::Done, .. }));
    assert!(desk.poll_report().unwrap().repeated);
}

#[test]
fn expiry_needs_a_known_time_and_is_looked_at_again_at_the_last_moment() {
    let disk = SimDisk::new(2);
    let mut desk = desk_on(&disk);
    let mut take = |id: &str, expires_at, in_ms, moment: &Moment| {
        let payload = payload(id, expires_at);
        let arrival = Arrival { payload: &payload, expires_in_ms: in_ms };
        desk.take(arrival, moment, &mut yes).unwrap()
    };
    let late = ended(take("late", Some(T), None, &Moment::exact(T)));
    assert_eq!((late.status, late.reason.as_deref()), (Status::Expired, Some("it is 0 ms after its expiry")));
    let vague = Moment {
        monotonic_ms: 5,
        time: Ok(Interval { earliest_unix_ms: T, latest_unix_ms: T + 2_000 }),
        reached_unix_ms: T,
    };
    assert_eq!(ended(take("maybe", Some(T + 2_000), None, &vague)).status, Status::Expired);
    assert!(matches!(take("surely", Some(T + 2_001), None, &vague), Taken::Run(_)));
    let blind = ended(take("blind", Some(T + 10), None, &unknown(5)));
    assert_eq!(blind.status, Status::Rejected);
    assert!(blind.reason.unwrap().contains("time unknown"));
    let passed = Moment { reached_unix_ms: T + 10, ..unknown(5) };
    assert_eq!(ended(take("passed", Some(T + 10), None, &passed)).status, Status::Expired);
    // Without its own expiry it needs no time; the message's is counted on the monotonic clock.
    assert!(matches!(take("timeless", None, None, &unknown(5)), Taken::Run(_)));
    assert_eq!(ended(take("message", None, Some(0), &unknown(5))).status, Status::Expired);
    let Taken::Run(running) = take("slow", None, Some(100), &unknown(5)) else { panic!("it runs") };
    let LastLook::Ended(slow) = desk.last_look(running, &unknown(105), &mut yes).unwrap() else {
        panic!("too late")
    };
    assert_eq!((slow.id.as_str(), slow.status), ("slow", Status::Expired));
}

#[test]
fn a_change_of_mind_at_the_last_moment_rejects() {
    let disk = SimDisk::new(3);
    let mut desk = desk_on(&disk);
    let now = Moment::exact(T);
    let Taken::Run(running) = desk.take(arrival(&payload("c", None)), &now, &mut yes).unwrap() else {
        panic!("it runs")
    };
    let mut no = |_: &Command, _: u64| Err("speed is 12 km/h, must be 0".to_owned());
    let LastLook::Ended(result) = desk.last_look(running, &now, &mut no).unwrap() else { panic!("it moves") };
    assert_eq!(result.status, Status::Rejected);
    assert_eq!(reports(&mut desk), [Status::Accepted, Status::Executing, Status::Rejected]);
}

/// The power fails while `executing` is written: a disk on which the command is accepted and no more.
fn accepted_only(in_ms: Option<u64>, moment: &Moment) -> SimDisk {
    for seed in 0.. {
        for cut in 1..20 {
            let disk = SimDisk::new(seed);
            let mut desk = desk_on(&disk);
            disk.cut_power(cut);
            let payload = payload("c", Some(T + 1_000));
            if desk.take(Arrival { payload: &payload, expires_in_ms: in_ms }, moment, &mut yes).is_ok() {
                break;
            }
            let left = disk.crash(&mut fastrand::Rng::with_seed(seed));
            let journal = CommandJournal::open_on(left.clone(), SEGMENT_BYTES).unwrap();
            if matches!(journal.find("c"), Some(Standing::Accepted(_))) {
                return left;
            }
        }
    }
    unreachable!("some cut leaves it")
}

#[test]
fn a_command_that_was_accepted_and_not_begun_goes_on_after_a_restart() {
    let now = Moment::exact(T);
    let disk = accepted_only(None, &now);
    let mut desk = desk_on(&disk);
    let Some(Taken::Run(running)) = desk.resume(&now, &mut yes).unwrap() else { panic!("it goes on") };
    assert_eq!(running.command().id, "c");
    desk.end(running, Ok(Value::Null), &now).unwrap();
    assert!(desk.resume(&now, &mut yes).unwrap().is_none());
    assert_eq!(reports(&mut desk), [Status::Accepted, Status::Executing, Status::Done]);

    // It goes on too when the broker sends it again, and ends when it is too late.
    let mut desk = desk_on(&accepted_only(None, &now));
    let taken = desk.take(arrival(&payload("c", Some(T + 1_000))), &Moment::exact(T + 1_000), &mut yes);
    assert_eq!(ended(taken.unwrap()).status, Status::Expired);
}

#[test]
fn a_messages_expiry_is_kept_over_a_restart_where_the_time_is_known() {
    let now = Moment::exact(T);
    for (later_ms, status) in [(100, None), (500, Some(Status::Expired))] {
        let mut desk = desk_on(&accepted_only(Some(500), &now));
        let later = Moment { monotonic_ms: 1, ..Moment::exact(T + later_ms) };
        match (desk.resume(&later, &mut yes).unwrap().unwrap(), status) {
            (Taken::Run(_), None) => {}
            (Taken::Ended(result), Some(status)) => assert_eq!(result.status, status),
            (taken, _) => panic!("{taken:?} after {later_ms} ms"),
        }
    }
    // A time that was known as an interval only: the sooner end counts.
    let vague =
        Moment { time: Ok(Interval { earliest_unix_ms: T - 300, latest_unix_ms: T + 300 }), ..now.clone() };
    let mut desk = desk_on(&accepted_only(Some(500), &vague));
    let taken = desk.resume(&Moment::exact(T + 200), &mut yes).unwrap().unwrap();
    assert_eq!(ended(taken).status, Status::Expired);
}

#[test]
fn answers_to_repeated_commands_are_bounded() {
    let disk = SimDisk::new(4);
    let mut desk = desk_on(&disk);
    let now = Moment::exact(T);
    for _ in 0..REPORTS_WAITING_MAX + 50 {
        desk.take(arrival(&payload("late", Some(1))), &now, &mut yes).unwrap();
    }
    assert_eq!(desk.reports.len(), REPORTS_WAITING_MAX);
}

#[test]
fn a_result_that_is_not_on_disk_is_told_to_nobody() {
    let disk = SimDisk::new(5);
    let mut desk = desk_on(&disk);
    let now = Moment::exact(T);
    disk.fail_sync(1);
    assert!(desk.take(arrival(&payload("c", Some(1))), &now, &mut yes).is_err());
    // Not now, and not when it comes again.
    assert!(desk.take(arrival(&payload("c", Some(1))), &now, &mut yes).is_err());
    assert_eq!(desk.poll_report(), None);
}
