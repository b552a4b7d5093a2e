//! `postrider bridge check` and `bridge try`: what a configuration would do, without a broker.

use std::process::Output;

use crate::broker_process::{Build, postrider};

const CONFIG: &str = r#"
[[vehicle]]
filter = "truck-*"
route = [{ lat = 60.17, lon = 24.93 }, { lat = 60.17, lon = 24.95 }]
corridor_half_width_m = 50.0
[[sink]]
name = "pager"
type = "webhook"
url = "https://pager.example/T0K3N"
[[rule]]
name = "off-route"
on = ["route_deviation"]
severity = "critical"
text = "{{ device }} left its route"
to = ["dispatch"]
escalate = [{ after_s = 300, to = ["pager"] }]
"#;

fn bridge(args: &[&str]) -> Output {
    postrider(Build::Test).arg("bridge").args(args).output().expect("the program runs")
}

#[test]
fn a_recorded_track_shows_what_would_have_been_told_and_a_wrong_configuration_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("bridge.toml"), CONFIG).expect("a file");
    // Eastwards on the route, then 20 m a second to the north.
    let lines: Vec<_> = (0..40_i32)
        .map(|second| {
            let north = f64::from((second - 10).max(0)) * 0.00018;
            let east = f64::from(second.min(10)) * 0.0003;
            format!(
                "{{\"ts\":{},\"lat\":{},\"lon\":{},\"hdop\":1.0}}",
                1_795_694_400_000 + i64::from(second) * 1_000,
                60.17 + north,
                24.93 + east
            )
        })
        .collect();
    std::fs::write(path("track.jsonl"), lines.join("\n")).expect("a file");

    let checked = bridge(&["check", "--config", &path("bridge.toml")]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(
        checked.status.success() && said.contains("rule off-route: route_deviation of * to dispatch"),
        "{said}"
    );
    assert!(!said.contains("T0K3N"), "{said}");

    let tried =
        bridge(&["try", "--config", &path("bridge.toml"), "--device", "truck-7", &path("track.jsonl")]);
    let said = String::from_utf8_lossy(&tried.stdout).into_owned();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("2026-11-26 12:00:") && lines[0].contains("critical  dispatch"), "{said}");
    assert!(lines[0].ends_with("truck-7 left its route"), "{said}");
    assert!(
        lines[1].contains("pager")
            && lines[1].ends_with("nobody acknowledged for 5 min: truck-7 left its route"),
        "{said}"
    );
    let summary = String::from_utf8_lossy(&tried.stderr).into_owned();
    assert!(summary.contains("40 fixes believed, 0 rejected") && summary.contains("1 alerts"), "{summary}");

    std::fs::write(path("wrong.toml"), CONFIG.replace("to = [\"dispatch\"]", "to = [\"nobody\"]"))
        .expect("a file");
    let wrong = bridge(&["check", "--config", &path("wrong.toml")]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    assert!(
        said.contains("[[rule]] number 1: to: no sink is called \"nobody\"; there are dispatch, pager"),
        "{said}"
    );
}
