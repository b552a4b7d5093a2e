//! `postrider sim run`: scenarios from the command line, their verdicts and reports.

use std::path::PathBuf;
use std::process::Output;

use crate::broker_process::{Build, postrider};

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        postrider(Build::Test).args(["sim", "run"]).args(args).output().expect("postrider starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

fn shipped(name: &str) -> String {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/scenarios");
    dir.join(name).display().to_string()
}

/// What a line of the text says, after its first word.
fn line<'a>(text: &'a str, word: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(word));
    found.unwrap_or_else(|| panic!("no line {word:?} in {text}")).trim()
}

#[test]
fn the_same_seed_gives_the_same_ledger_from_the_command_line() {
    let file = shipped("wrong-clock.toml");
    let hash = |seed| {
        let (code, stdout, stderr) = run(&[&file, "--seed", seed, "--quiet"]);
        assert_eq!(code, 0, "{stdout}{stderr}");
        assert!(stdout.ends_with("passed\n"), "{stdout}");
        line(&stdout, "ledger").to_owned()
    };
    let (first, again, other) = (hash("3"), hash("3"), hash("4"));
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn a_run_that_fails_says_the_command_that_repeats_it_in_each_report() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("never.toml");
    let text =
        "name = \"never\"\nduration_s = 20\nsettle_s = 20\n[fleet]\ndevices = 1\n[expect]\nunlocks_min = 1\n";
    std::fs::write(&file, text).expect("a file");
    let file = file.display().to_string();
    let repeat = format!("postrider sim run {file} --seed 5");
    let (code, stdout, _) = run(&[&file, "--seed", "5"]);
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("locks opened: 0, at least 1") && stdout.contains(&repeat), "{stdout}");
    for (format, start) in [("junit", "<?xml"), ("json", "{"), ("html", "<!doctype html>")] {
        let (code, stdout, _) = run(&[&file, "--seed", "5", "--report", format]);
        assert_eq!(code, 1);
        assert!(stdout.starts_with(start) && stdout.contains(&repeat), "{format}: {stdout}");
    }
    let report = dir.path().join("report.json");
    let output = report.display().to_string();
    let (code, stdout, _) = run(&[&file, "--seed", "5", "--report", "json", "--output", &output]);
    assert_eq!(code, 1);
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&report).expect("a report")).expect("JSON");
    assert_eq!(json["ledger_hash"], line(&stdout, "ledger"));
    assert_eq!((json["passed"].as_bool(), json["seed"].as_u64()), (Some(false), Some(5)));
}

#[test]
fn what_is_no_scenario_is_misuse() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("odd.toml");
    std::fs::write(&file, "name = \"odd\"\nduration_s = 0\n[fleet]\ndevices = 1\n").expect("a file");
    let (code, _, stderr) = run(&[&file.display().to_string()]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("duration_s is 0: it must be 1 to"), "{stderr}");
    let (code, _, stderr) = run(&[&shipped("wrong-clock.toml"), "--devices", "3"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("clock.devices names device 5: there are 1 to 3"), "{stderr}");
}
