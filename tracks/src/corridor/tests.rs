//! Votes, widths, waypoints and the two directions of one road, one rule at a time.

use proptest::prelude::*;

use std::sync::Arc;

use super::*;
use crate::fix::Fix;
use crate::route::Polyline;

/// Metres of fix after fix, and the events they make: which fix, which event.
type Case<'a> = (&'a [f64], &'a [(usize, char)]);

const START: LatLon = LatLon::new(60.17, 24.90);

/// 10 km to the east, 50 m on either side.
fn corridor() -> Arc<Corridor> {
    let line = Polyline::new([START, START.destination(90.0, 10_000.0)]).unwrap();
    Arc::new(Corridor::new(line, 50.0).unwrap())
}

/// A letter for each event.
fn letters(events: &[CorridorEvent]) -> Vec<char> {
    let letter = |event: &CorridorEvent| match event {
        CorridorEvent::Deviated { .. } => 'D',
        CorridorEvent::Returned { .. } => 'R',
        CorridorEvent::WrongWay(_) => 'W',
        CorridorEvent::RightWay(_) => 'F',
        CorridorEvent::Reached { .. } => 'o',
        CorridorEvent::Skipped { .. } => 'x',
        CorridorEvent::Early { .. } => 'e',
        CorridorEvent::Late { .. } => 'l',
        CorridorEvent::Stands { .. } => 'S',
        CorridorEvent::MovedOn { .. } => 'M',
        CorridorEvent::GpsLost { .. } => 'L',
        CorridorEvent::GpsFound { .. } => 'G',
    };
    events.iter().map(letter).collect()
}

fn watcher() -> Watcher {
    Watcher::new(corridor(), WatcherOptions::default())
}

/// A fix with sigma 5 m, `off_m` metres beside the line.
fn fix(at_s: i64, off_m: f64) -> Fix {
    let on_line = corridor().line().point_at(1_000.0 + 10.0 * at_s as f64);
    Fix { hdop: Some(1.0), ..Fix::at(at_s * 1_000, on_line.destination(0.0, off_m)) }
}

/// The events for fixes beside the line by these metres, as (index of the fix, letter).
fn story(watcher: &mut Watcher, offs_m: &[f64]) -> Vec<(usize, char)> {
    offs_m
        .iter()
        .enumerate()
        .flat_map(|(i, &off_m)| {
            letters(&watcher.push(&fix(i as i64, off_m))).into_iter().map(move |letter| (i, letter))
        })
        .collect()
}

#[test]
fn the_third_fix_outside_is_the_alarm_and_the_third_well_inside_ends_it() {
    // The threshold out is 50 + 2 × 5 = 60 m, the one back 40 m.
    let table: [Case; 9] = [
        (&[0.0, 61.0, 62.0, 63.0, 64.0, 65.0], &[(3, 'D')]),
        (&[61.0, 62.0, 0.0, 0.0, 61.0, 62.0, 0.0, 0.0], &[]),
        // Three of four are enough.
        (&[61.0, 62.0, 0.0, 61.0], &[(3, 'D')]),
        // Between 50 and 60 m nothing is said, and nothing is unsaid.
        (&[61.0, 55.0, 62.0, 55.0, 63.0], &[(4, 'D')]),
        (&[55.0, 59.0, 55.0, 59.0, 55.0], &[]),
        (&[70.0, 70.0, 70.0, 45.0, 45.0, 45.0, 45.0], &[(2, 'D')]),
        (&[70.0, 70.0, 70.0, 39.0, 39.0, 39.0], &[(2, 'D'), (5, 'R')]),
        (&[70.0, 70.0, 70.0, 39.0, 39.0, 70.0, 70.0, 39.0, 39.0], &[(2, 'D')]),
        (&[70.0, 70.0, 70.0, 0.0, 0.0, 0.0, 70.0, 70.0, 70.0], &[(2, 'D'), (5, 'R'), (8, 'D')]),
    ];
    for (offs_m, want) in table {
        assert_eq!(story(&mut watcher(), offs_m), want, "{offs_m:?}");
    }
}

#[test]
fn an_event_tells_what_was_measured() {
    let mut watcher = watcher();
    for (s, off_m) in [(10, 90.0), (11, 130.0)] {
        assert_eq!(watcher.push(&fix(s, off_m)), []);
    }
    let events = watcher.push(&fix(12, 100.0));
    let [CorridorEvent::Deviated { ts_ms, since_ts_ms, distance_m, threshold_m, along_m, .. }] = events[..]
    else {
        panic!("no departure");
    };
    assert_eq!((ts_ms, since_ts_ms, threshold_m), (12_000, 10_000, 60.0));
    assert!((distance_m - 100.0).abs() < 0.5 && (along_m - 1_120.0).abs() < 2.0, "{distance_m} {along_m}");
    assert_eq!(watcher.off_route_since_ms(), Some(10_000));
    for s in 20..22 {
        assert_eq!(watcher.push(&fix(s, 5.0)), []);
    }
    let events = watcher.push(&fix(22, 5.0));
    let [CorridorEvent::Returned { ts_ms, away_ms, distance_max_m, .. }] = events[..] else {
        panic!("no return");
    };
    assert_eq!((ts_ms, away_ms), (22_000, 10_000));
    assert!((distance_max_m - 130.0).abs() < 0.5, "{distance_max_m}");
    assert_eq!(watcher.off_route_since_ms(), None);
}

#[test]
fn a_vague_fix_neither_alarms_nor_ends_an_alarm() {
    let vague = |s, off_m| Fix { hdop: Some(12.0), ..fix(s, off_m) };
    let mut on_route = watcher();
    assert!((0..20).all(|s| on_route.push(&vague(s, 150.0)).is_empty()));
    let mut away = Watcher::resume_off_route(corridor(), WatcherOptions::default(), 0);
    assert!((0..20).all(|s| away.push(&vague(s, 0.0)).is_empty()));
    assert_eq!(away.off_route_since_ms(), Some(0));
}

#[test]
fn a_resumed_alarm_is_not_raised_again_and_ends_once() {
    let mut watcher = Watcher::resume_off_route(corridor(), WatcherOptions::default(), 0);
    assert_eq!(story(&mut watcher, &[90.0, 90.0, 90.0, 90.0, 0.0, 0.0, 0.0, 0.0]), [(6, 'R')]);
}

#[test]
fn a_width_that_is_no_length_is_refused_with_its_value() {
    for half_width_m in [0.0, -5.0, f64::NAN, f64::INFINITY] {
        let error = Corridor::new(corridor().line().clone(), half_width_m).unwrap_err().to_string();
        assert!(error.contains(&half_width_m.to_string()), "{error}");
    }
}

/// A fix with sigma 5 m at a time, so many metres along the line of a watcher and beside it.
fn on(watcher: &Watcher, at_s: i64, along_m: f64, off_m: f64) -> Fix {
    let line = watcher.corridor().line();
    let place = line.point_at(along_m).destination(line.bearing_at_deg(along_m) + 90.0, off_m);
    Fix { hdop: Some(1.0), ..Fix::at(at_s * 1_000, place) }
}

/// Drives from one distance along to another at 10 m/s with a fix every 5 s, beside the line by so much.
fn drive(watcher: &mut Watcher, at_s: &mut i64, from_m: f64, to_m: f64, off_m: f64) -> Vec<char> {
    let steps = ((to_m - from_m).abs() / 50.0) as i64;
    let mut story = Vec::new();
    for step in 1..=steps {
        *at_s += 5;
        let along_m = from_m + (to_m - from_m) * step as f64 / steps as f64;
        story.extend(letters(&watcher.push(&on(watcher, *at_s, along_m, off_m))));
    }
    story
}

fn waypoint(along_m: f64, due_s: Option<(i64, i64)>) -> Waypoint {
    Waypoint { along_m, radius_m: 40.0, due_ms: due_s.map(|(from_s, to_s)| from_s * 1_000..=to_s * 1_000) }
}

fn with(waypoints: Vec<Waypoint>) -> Watcher {
    let corridor = Corridor::clone(&corridor()).with_waypoints(waypoints).unwrap();
    Watcher::new(Arc::new(corridor), WatcherOptions::default())
}

#[test]
fn a_stretch_has_its_own_width() {
    let corridor =
        Corridor::clone(&corridor()).with_stretches(vec![(3_000.0, 200.0), (5_000.0, 20.0)]).unwrap();
    for (along_m, off_m, want) in [
        (1_000.0, 100.0, "D"),
        (4_000.0, 180.0, ""),
        (4_000.0, 215.0, "D"),
        (6_000.0, 25.0, ""),
        (6_000.0, 35.0, "D"),
    ] {
        let mut watcher = Watcher::new(Arc::new(corridor.clone()), WatcherOptions::default());
        let story: Vec<char> =
            (0..4).flat_map(|s| letters(&watcher.push(&on(&watcher, s, along_m, off_m)))).collect();
        assert_eq!(story.iter().collect::<String>(), want, "{along_m} {off_m}");
    }
    // Beside the narrow stretch, but inside the wide one.
    let mut watcher = Watcher::new(Arc::new(corridor), WatcherOptions::default());
    assert!((0..5).all(|s| watcher.push(&on(&watcher, s, 5_050.0, 150.0)).is_empty()));
}

#[test]
fn waypoints_are_reached_in_their_order_even_between_two_fixes_and_told_when_skipped() {
    let mut watcher = with(vec![
        waypoint(0.0, None),
        waypoint(1_010.0, None),
        waypoint(3_000.0, None),
        waypoint(9_990.0, None),
    ]);
    let mut at_s = 0;
    assert_eq!(drive(&mut watcher, &mut at_s, 0.0, 500.0, 0.0), []);
    assert_eq!(drive(&mut watcher, &mut at_s, 500.0, 2_500.0, 0.0), ['o']);
    // Around the third one on another road.
    assert_eq!(drive(&mut watcher, &mut at_s, 2_500.0, 3_500.0, 300.0), ['D']);
    assert_eq!(drive(&mut watcher, &mut at_s, 3_500.0, 4_000.0, 0.0), ['R', 'x']);
    assert_eq!(drive(&mut watcher, &mut at_s, 4_000.0, 10_000.0, 0.0), ['o']);
    assert_eq!(
        watcher.mark(),
        Mark { off_route_since_ms: None, along_m: watcher.mark().along_m, next_waypoint: 4 }
    );
}

#[test]
fn a_plan_is_late_when_its_moment_is_over_and_early_when_it_is_not_yet_there() {
    let plan = vec![
        waypoint(1_000.0, Some((200, 300))),
        waypoint(5_000.0, Some((400, 500))),
        waypoint(9_000.0, Some((100, 2_000))),
    ];
    let mut watcher = with(plan);
    let mut at_s = 0;
    assert_eq!(drive(&mut watcher, &mut at_s, 0.0, 2_000.0, 0.0), ['o', 'e']);
    at_s = 350;
    assert_eq!(drive(&mut watcher, &mut at_s, 2_000.0, 2_500.0, 0.0), ['L', 'G']);
    assert_eq!(letters(&watcher.tick(499_000)), []);
    let late = watcher.tick(501_000);
    assert!(matches!(late[..], [CorridorEvent::Late { waypoint: 1, by_ms: 1_000, .. }]), "{late:?}");
    assert_eq!(letters(&watcher.tick(502_000)), []);
    at_s = 502;
    assert_eq!(drive(&mut watcher, &mut at_s, 2_500.0, 10_000.0, 0.0), ['o', 'o']);
}

#[test]
fn a_vehicle_that_turns_round_is_told_once_and_when_it_turns_back() {
    let mut watcher = watcher();
    let mut at_s = 0;
    assert_eq!(drive(&mut watcher, &mut at_s, 0.0, 3_000.0, 0.0), []);
    assert_eq!(drive(&mut watcher, &mut at_s, 3_000.0, 2_000.0, 0.0), ['W']);
    assert_eq!(drive(&mut watcher, &mut at_s, 2_000.0, 5_000.0, 0.0), ['F']);
    assert!((watcher.progress_m().unwrap() - 5_000.0).abs() < 5.0);
}

#[test]
fn a_vehicle_that_stands_where_it_should_not_is_told_once_and_when_it_moves_on() {
    let mut watcher = with(vec![waypoint(1_000.0, None)]);
    let mut at_s = 0;
    assert_eq!(drive(&mut watcher, &mut at_s, 0.0, 1_000.0, 0.0), ['o']);
    let stand = |watcher: &mut Watcher, at_s: &mut i64, along_m: f64| {
        let mut story = Vec::new();
        for _ in 0..40 {
            *at_s += 30;
            story.extend(letters(&watcher.push(&on(watcher, *at_s, along_m, 3.0))));
        }
        story
    };
    // Unloading at a waypoint is what it came for.
    assert_eq!(stand(&mut watcher, &mut at_s, 1_000.0), []);
    assert_eq!(drive(&mut watcher, &mut at_s, 1_000.0, 2_000.0, 0.0), []);
    assert_eq!(stand(&mut watcher, &mut at_s, 2_000.0), ['S']);
    assert_eq!(drive(&mut watcher, &mut at_s, 2_000.0, 3_000.0, 0.0), ['M']);
}

#[test]
fn a_receiver_that_is_silent_is_lost_once_and_found_again() {
    let mut watcher = watcher();
    assert_eq!(letters(&watcher.push(&on(&watcher, 10, 100.0, 0.0))), []);
    assert_eq!(letters(&watcher.tick(129_000)), []);
    assert_eq!(watcher.tick(131_000), [CorridorEvent::GpsLost { since_ts_ms: 10_000 }]);
    let nothing = Fix { fix: crate::FixKind::None, ..on(&watcher, 150, 0.0, 0.0) };
    assert_eq!(watcher.push(&nothing), []);
    assert_eq!(
        watcher.push(&on(&watcher, 200, 900.0, 0.0)),
        [CorridorEvent::GpsFound { ts_ms: 200_000, lost_ms: 190_000 }]
    );
    // Nobody asked for the time meanwhile.
    assert_eq!(letters(&watcher.push(&on(&watcher, 400, 2_000.0, 0.0))), ['L', 'G']);
}

#[test]
fn a_road_driven_there_and_back_is_two_places_of_the_plan() {
    let far = START.destination(90.0, 5_000.0);
    let there_and_back = Corridor::new(Polyline::new([START, far, START]).unwrap(), 50.0).unwrap();
    let plan = there_and_back.with_waypoints(vec![
        waypoint(2_000.0, None),
        waypoint(5_000.0, None),
        waypoint(8_000.0, None),
        waypoint(10_000.0, None),
    ]);
    let mut watcher = Watcher::new(Arc::new(plan.unwrap()), WatcherOptions::default());
    let mut at_s = 0;
    assert_eq!(drive(&mut watcher, &mut at_s, 0.0, 3_000.0, 5.0), ['o']);
    assert!((watcher.progress_m().unwrap() - 3_000.0).abs() < 60.0);
    assert_eq!(drive(&mut watcher, &mut at_s, 3_000.0, 7_500.0, 5.0), ['o']);
    assert!((watcher.progress_m().unwrap() - 7_500.0).abs() < 60.0, "{:?}", watcher.progress_m());
    assert_eq!(drive(&mut watcher, &mut at_s, 7_500.0, 10_000.0, 5.0), ['o', 'o']);
    // Who turns round before the end has not been there.
    let mut watcher = Watcher::new(watcher.corridor().clone(), WatcherOptions::default());
    assert_eq!(drive(&mut watcher, &mut at_s, 0.0, 3_000.0, 0.0), ['o']);
    assert_eq!(drive(&mut watcher, &mut at_s, 3_000.0, 1_000.0, 0.0), ['W']);
}

#[test]
fn a_loop_and_a_figure_of_eight_are_driven_to_their_end() {
    // Two squares that share a corner; the crossing is passed three times.
    let corner = |x_m: f64, y_m: f64| crate::geodesy::Plane::at(START).place(x_m, y_m);
    let eight = [
        (0.0, 0.0),
        (1_000.0, 0.0),
        (1_000.0, 1_000.0),
        (0.0, 1_000.0),
        (0.0, 0.0),
        (-1_000.0, 0.0),
        (-1_000.0, -1_000.0),
        (0.0, -1_000.0),
        (0.0, 0.0),
    ];
    let line = Polyline::new(eight.map(|(x, y)| corner(x, y))).unwrap();
    let corridor = Corridor::new(line, 40.0)
        .unwrap()
        .with_waypoints((1..=8).map(|n| waypoint(1_000.0 * f64::from(n) - 10.0, None)).collect());
    let mut watcher = Watcher::new(Arc::new(corridor.unwrap()), WatcherOptions::default());
    let mut at_s = 0;
    let story = drive(&mut watcher, &mut at_s, 0.0, 8_000.0, 0.0);
    assert_eq!(story, ['o'; 8]);
    assert!((watcher.progress_m().unwrap() - 8_000.0).abs() < 20.0);
}

#[test]
fn a_mark_goes_on_where_it_was() {
    let mut watcher = with(vec![waypoint(1_000.0, None), waypoint(5_000.0, None)]);
    let mut at_s = 0;
    assert_eq!(drive(&mut watcher, &mut at_s, 0.0, 2_000.0, 0.0), ['o']);
    let mut after = Watcher::resume(watcher.corridor().clone(), WatcherOptions::default(), watcher.mark());
    assert_eq!(drive(&mut after, &mut at_s, 2_000.0, 6_000.0, 0.0), ['o']);
    assert_eq!(after.mark().next_waypoint, 2);
}

#[test]
fn plans_that_make_no_sense_are_refused_with_their_values() {
    let plan = || Corridor::clone(&corridor());
    let table = [
        (plan().with_stretches(vec![(5.0, -1.0)]).unwrap_err(), "not -1"),
        (plan().with_stretches(vec![(500.0, 20.0), (400.0, 20.0)]).unwrap_err(), "stretch 1 begins at 400 m"),
        (plan().with_waypoints(vec![waypoint(11_000.0, None)]).unwrap_err(), "waypoint 0 at 11000 m"),
        (
            plan().with_waypoints(vec![waypoint(500.0, None), waypoint(400.0, None)]).unwrap_err(),
            "waypoint 1 at 400 m",
        ),
        (plan().with_waypoints(vec![waypoint(1.0, None); WAYPOINTS_MAX + 1]).unwrap_err(), "has 10001"),
    ];
    for (error, want) in table {
        assert!(error.to_string().contains(want), "{error}");
    }
}

proptest! {
    #[test]
    fn departures_and_returns_alternate_whatever_comes(offs_m in prop::collection::vec(0.0..150.0f64, 0..200)) {
        let story = story(&mut watcher(), &offs_m);
        for (n, (_, letter)) in story.iter().enumerate() {
            prop_assert_eq!(*letter, if n % 2 == 0 { 'D' } else { 'R' });
        }
    }

    #[test]
    fn any_numbers_are_taken_without_panic(fixes in prop::collection::vec((any::<i64>(), any::<f64>(), any::<f64>(), any::<Option<f64>>()), 0..30)) {
        let mut watcher = watcher();
        for (ts_ms, lat, lon, hdop) in fixes {
            let _ = watcher.push(&Fix { hdop, ..Fix::at(ts_ms, LatLon::new(lat, lon)) });
        }
    }
}
