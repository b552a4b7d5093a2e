//! Areas and crossings, one rule at a time.

use proptest::prelude::*;

use super::*;
use crate::fix::Fix;
use crate::geodesy::{LatLon, Plane};

/// Metres of fix after fix, and the events they make: which fix, which event.
type Case<'a> = (&'a [f64], &'a [(usize, char)]);

const YARD: LatLon = LatLon::new(60.17, 24.94);

fn circle() -> Fence {
    Circle::new(YARD, 100.0).unwrap().into()
}

/// A fix with sigma 5 m, so many metres east of the yard's middle.
fn fix(at_s: i64, east_m: f64) -> Fix {
    Fix { hdop: Some(1.0), ..Fix::at(at_s * 1_000, YARD.destination(90.0, east_m)) }
}

fn letter(event: &FenceEvent) -> char {
    match event {
        FenceEvent::Entered(_) => 'E',
        FenceEvent::Exited(_) => 'X',
        FenceEvent::Passed { .. } => 'P',
        FenceEvent::Dwelled { .. } => 'D',
        FenceEvent::Missing { .. } => 'M',
    }
}

fn story(watcher: &mut Watcher, easts_m: &[f64]) -> Vec<(usize, char)> {
    easts_m
        .iter()
        .enumerate()
        .flat_map(|(i, &east_m)| {
            watcher.push(&fix(i as i64, east_m)).into_iter().map(move |event| (i, letter(&event)))
        })
        .collect()
}

#[test]
fn three_fixes_inside_are_an_arrival_and_three_outside_a_departure() {
    // Inside is up to 95 m from the middle, outside from 120 m on.
    let out = [300.0, 300.0, 300.0];
    let table: [Case; 6] = [
        (&[90.0, 90.0, 90.0, 90.0], &[(5, 'E')]),
        (&[90.0, 90.0, 200.0, 90.0, 90.0, 200.0], &[]),
        (&[97.0, 97.0, 97.0, 97.0], &[]),
        (&[90.0, 97.0, 90.0, 97.0, 90.0], &[(7, 'E')]),
        (&[0.0, 0.0, 0.0, 115.0, 115.0, 115.0, 0.0, 0.0, 0.0], &[(5, 'E')]),
        (&[0.0, 0.0, 0.0, 125.0, 125.0, 125.0, 0.0, 0.0, 0.0], &[(5, 'E'), (8, 'X'), (11, 'E')]),
    ];
    for (easts_m, want) in table {
        let mut watcher = Watcher::new(circle(), WatcherOptions::default());
        assert_eq!(story(&mut watcher, &[&out[..], easts_m].concat()), want, "{easts_m:?}");
    }
}

#[test]
fn a_truck_that_stands_in_the_yard_when_the_fence_is_drawn_enters_only_if_asked() {
    let easts_m = [0.0, 0.0, 0.0, 0.0, 150.0, 150.0, 150.0, 0.0, 0.0, 0.0];
    let mut quiet = Watcher::new(circle(), WatcherOptions::default());
    assert_eq!(story(&mut quiet, &easts_m), [(6, 'X'), (9, 'E')]);
    let mut asked =
        Watcher::new(circle(), WatcherOptions { enter_at_start: true, ..WatcherOptions::default() });
    assert_eq!(story(&mut asked, &easts_m), [(2, 'E'), (6, 'X'), (9, 'E')]);
}

#[test]
fn an_arrival_during_a_restart_is_told_when_the_side_before_is_known() {
    let mut resumed = Watcher::resume(circle(), WatcherOptions::default(), Side::Outside);
    assert_eq!(story(&mut resumed, &[0.0, 0.0, 0.0, 0.0]), [(2, 'E')]);
    assert_eq!(resumed.side(), Some(Side::Inside));
    let mut still_there = Watcher::resume(circle(), WatcherOptions::default(), Side::Inside);
    assert_eq!(story(&mut still_there, &[0.0; 6]), []);
}

#[test]
fn a_fix_vaguer_than_the_area_says_nothing() {
    let mut watcher = Watcher::resume(circle(), WatcherOptions::default(), Side::Outside);
    for s in 0..10 {
        assert_eq!(watcher.push(&Fix { hdop: Some(21.0), ..fix(s, 0.0) }), []);
    }
}

#[test]
fn a_polygon_knows_its_inside_its_outside_and_the_distance_to_its_border() {
    let corner = |x_m, y_m| Plane::at(YARD).place(x_m, y_m);
    // An L: 200 m wide and high, its north-east quarter missing.
    let shape = [(0.0, 0.0), (200.0, 0.0), (200.0, 100.0), (100.0, 100.0), (100.0, 200.0), (0.0, 200.0)];
    let turned: Vec<(f64, f64)> = shape.iter().rev().copied().collect();
    for corners in [&shape[..], &turned[..]] {
        let fence = Fence::from(Polygon::new(corners.iter().map(|&(x, y)| corner(x, y))).unwrap());
        for ((x, y), want_m) in [
            ((50.0, 50.0), -50.0),
            ((150.0, 50.0), -50.0),
            ((150.0, 150.0), 50.0),
            ((-30.0, 100.0), 30.0),
            ((250.0, 50.0), 50.0),
            ((103.0, 104.0), 3.0),
            ((203.0, 104.0), 5.0),
        ] {
            let got_m = fence.outside_m(corner(x, y));
            assert!((got_m - want_m).abs() < 0.01, "{x} {y}: {got_m} is not {want_m}");
            assert_eq!(fence.contains(corner(x, y)), want_m <= 0.0);
        }
    }
}

#[test]
fn areas_that_are_none_are_refused_with_their_values() {
    let polygon =
        |corners: &[(f64, f64)]| Polygon::new(corners.iter().map(|&(a, b)| LatLon::new(a, b))).unwrap_err();
    let table = [
        (Circle::new(YARD, -1.0).unwrap_err(), "not -1"),
        (Circle::new(YARD, f64::NAN).unwrap_err(), "not NaN"),
        (Circle::new(LatLon::new(95.0, 0.0), 5.0).unwrap_err(), "latitude 95"),
        (polygon(&[]), "has 0"),
        (polygon(&[(60.0, 24.0), (60.1, 24.0), (60.0, 24.0)]), "has 2"),
        (polygon(&[(60.0, 24.0), (60.1, 24.0), (60.2, 24.0)]), "enclose no area"),
        (polygon(&[(60.0, 24.0), (60.1, 24.0), (60.2, 200.0)]), "place 2 of the fence is not on Earth"),
        (Polygon::new((0..20_000).map(|i| LatLon::new(0.0, f64::from(i) * 1e-3))).unwrap_err(), "3 to 10000"),
    ];
    for (error, want) in table {
        assert!(error.to_string().contains(want), "{error}");
    }
}

/// A square of so many metres with its south-west corner at these metres from the yard.
fn square(x_m: f64, y_m: f64, side_m: f64) -> Vec<LatLon> {
    let plane = Plane::at(YARD);
    [(0.0, 0.0), (side_m, 0.0), (side_m, side_m), (0.0, side_m)]
        .map(|(x, y)| plane.place(x_m + x, y_m + y))
        .to_vec()
}

#[test]
fn a_hole_is_outside_and_its_border_is_a_border() {
    let fence =
        Polygon::new(square(0.0, 0.0, 300.0)).unwrap().with_holes([square(100.0, 100.0, 100.0)]).unwrap();
    let fence = Fence::from(fence);
    for ((x, y), want_m) in [
        ((50.0, 150.0), -50.0),
        ((150.0, 150.0), 50.0),
        ((110.0, 150.0), 10.0),
        ((95.0, 150.0), -5.0),
        ((-20.0, 150.0), 20.0),
    ] {
        let got_m = fence.outside_m(Plane::at(YARD).place(x, y));
        assert!((got_m - want_m).abs() < 0.1, "{x} {y}: {got_m} is not {want_m}");
    }
    let too_many =
        Polygon::new(square(0.0, 0.0, 300.0)).unwrap().with_holes(vec![square(1.0, 1.0, 2.0); HOLES_MAX + 1]);
    assert!(too_many.unwrap_err().to_string().contains("1001"));
}

#[test]
fn areas_across_the_antimeridian_are_found_from_both_sides() {
    let fiji = [(-17.0, 179.0), (-17.0, -179.0), (-16.0, -179.0), (-16.0, 179.0)]
        .map(|(lat, lon)| LatLon::new(lat, lon));
    let polygon = Fence::from(Polygon::new(fiji).unwrap());
    let circle = Fence::from(Circle::new(LatLon::new(-16.5, 180.0), 50_000.0).unwrap());
    let index = Index::of([(1, polygon.clone()), (2, circle.clone())]).unwrap();
    for (lon, want) in [
        (179.5, vec![1]),
        (-179.5, vec![1]),
        (180.0, vec![1, 2]),
        (-180.0, vec![1, 2]),
        (179.8, vec![1, 2]),
        (-179.8, vec![1, 2]),
        (178.5, vec![]),
        (-178.5, vec![]),
    ] {
        assert_eq!(index.containing(LatLon::new(-16.5, lon)), want, "{lon}");
    }
    assert!(polygon.outside_m(LatLon::new(-16.5, -178.9)) < 15_000.0);
}

#[test]
fn a_border_and_a_corner_belong_to_the_area() {
    let corners = [(0.1, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 0.1)].map(|(lat, lon)| LatLon::new(lat, lon));
    let fence = Fence::from(Polygon::new(corners).unwrap());
    assert!(corners.iter().all(|&corner| fence.contains(corner)));
    assert!(fence.contains(LatLon::new(0.1, 0.2)) && !fence.contains(LatLon::new(0.1, 0.31)));
}

#[test]
fn a_vehicle_that_passes_between_two_fixes_is_seen_and_one_that_grazes_is_not() {
    let at = |s: i64, x_m: f64, y_m: f64| Fix {
        hdop: Some(1.0),
        ..Fix::at(s * 1_000, Plane::at(YARD).place(x_m, y_m))
    };
    for fence in [circle(), Fence::from(Polygon::new(square(-100.0, -100.0, 200.0)).unwrap())] {
        let mut watcher = Watcher::resume(fence, WatcherOptions::default(), Side::Outside);
        assert_eq!(watcher.push(&at(0, -300.0, 0.0)), []);
        let passed = watcher.push(&at(60, 300.0, 0.0));
        let [FenceEvent::Passed { entered_ms, exited_ms, inside_m }] = passed[..] else {
            panic!("{passed:?}")
        };
        assert!(
            (entered_ms - 20_000).abs() < 100
                && (exited_ms - 40_000).abs() < 100
                && (inside_m - 100.0).abs() < 1.0,
            "{passed:?}"
        );
        // 2 m inside at most, and a fix knows its place to 5 m.
        assert_eq!(watcher.push(&at(120, 300.0, 98.0)), []);
        assert_eq!(watcher.push(&at(180, -300.0, 98.0)), []);
        // An hour without a fix: it may have gone around.
        assert_eq!(watcher.push(&at(3_780, 300.0, 0.0)), []);
    }
}

#[test]
fn a_vehicle_dwells_once_a_visit_and_is_missed_when_it_should_be_inside() {
    let options = WatcherOptions {
        dwell_ms: Some(60_000),
        inside_during_ms: Some(500_000..=900_000),
        ..WatcherOptions::default()
    };
    let mut watcher = Watcher::resume(circle(), options, Side::Outside);
    let visit = |watcher: &mut Watcher, from_s: i64, to_s: i64, east_m: f64| {
        (from_s..to_s)
            .step_by(10)
            .flat_map(|s| watcher.push(&fix(s, east_m)))
            .map(|event| letter(&event))
            .collect::<String>()
    };
    assert_eq!(visit(&mut watcher, 0, 200, 0.0), "ED");
    assert_eq!(visit(&mut watcher, 200, 490, 300.0), "X");
    assert_eq!(watcher.tick(499_999), []);
    let missing = watcher.tick(500_000);
    assert!(
        matches!(missing[..], [FenceEvent::Missing { since_ms: 500_000, position: Some(_) }]),
        "{missing:?}"
    );
    assert_eq!(visit(&mut watcher, 510, 600, 300.0), "");
    assert_eq!(visit(&mut watcher, 600, 700, 0.0), "ED");
    assert_eq!(visit(&mut watcher, 700, 800, 300.0), "XM");
    assert_eq!(watcher.tick(901_000), []);
}

#[test]
fn a_rover_among_many_areas_tells_what_a_watcher_for_each_would_and_forgets_what_is_far() {
    let plane = Plane::at(YARD);
    let circles = (0..400u64).map(|n| {
        (n, Circle::new(plane.place((n % 20) as f64 * 400.0, (n / 20) as f64 * 400.0), 120.0).unwrap().into())
    });
    let mut index = Index::of(circles).unwrap();
    let mut rover = Rover::new(WatcherOptions::default());
    let at = |s: i64, x_m: f64| Fix { hdop: Some(1.0), ..Fix::at(s * 1_000, plane.place(x_m, 0.0)) };
    let mut story = String::new();
    for s in 0..200 {
        for (id, event) in rover.push(&index, &at(s, 200.0 + 10.0 * s as f64)) {
            story.push_str(&format!("{}{id} ", letter(&event)));
        }
        assert!(rover.near.len() <= 9, "{}", rover.near.len());
    }
    assert_eq!(story, "E1 X1 E2 X2 E3 X3 E4 X4 E5 X5 ");
    // Faster than its fixes: 30 s and 600 m between them.
    let sparse: Vec<_> =
        (1..=4).flat_map(|n| rover.push(&index, &at(200 + 30 * n, 2_190.0 + 600.0 * n as f64))).collect();
    assert!(sparse.iter().any(|(id, event)| *id == 8 && letter(event) == 'P'), "{sparse:?}");
    // A fence drawn around where it stands is not entered, and one that is taken away is not left.
    index.insert(1_000, Circle::new(plane.place(4_590.0, 0.0), 90.0).unwrap().into()).unwrap();
    let stands: Vec<_> = (0..10).flat_map(|s| rover.push(&index, &at(400 + s, 4_590.0))).collect();
    assert_eq!(stands, []);
    assert_eq!(rover.inside().collect::<Vec<_>>(), [1_000]);
    assert!(index.remove(1_000) && !index.remove(1_000));
    let moved: Vec<_> = (0..10).flat_map(|s| rover.push(&index, &at(500 + s, 4_600.0))).collect();
    assert_eq!((moved, index.len(), index.is_empty()), (vec![], 400, false));
}

proptest! {
    #[test]
    fn entering_and_leaving_alternate_whatever_comes(easts_m in prop::collection::vec(0.0..250.0f64, 0..200)) {
        let story = story(&mut Watcher::resume(circle(), WatcherOptions::default(), Side::Outside), &easts_m);
        for (n, (_, letter)) in story.iter().enumerate() {
            prop_assert_eq!(*letter, if n % 2 == 0 { 'E' } else { 'X' });
        }
    }

    #[test]
    fn a_polygon_with_many_corners_agrees_with_its_circle(bearing in 0.0..360.0f64, far_m in 0.0..400.0f64) {
        let ring = (0..360).map(|deg| YARD.destination(f64::from(deg), 200.0));
        let (polygon, circle) = (Fence::from(Polygon::new(ring).unwrap()), Fence::from(Circle::new(YARD, 200.0).unwrap()));
        let place = YARD.destination(bearing, far_m);
        prop_assert!((polygon.outside_m(place) - circle.outside_m(place)).abs() < 0.5);
    }

    #[test]
    fn any_numbers_are_taken_without_panic(fixes in prop::collection::vec((any::<i64>(), any::<f64>(), any::<f64>(), any::<Option<f64>>()), 0..30)) {
        let mut watcher = Watcher::new(circle(), WatcherOptions::default());
        for (ts_ms, lat, lon, hdop) in fixes {
            let _ = watcher.push(&Fix { hdop, ..Fix::at(ts_ms, LatLon::new(lat, lon)) });
        }
    }
}
