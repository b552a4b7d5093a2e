//! `postrider sim run`: scenarios from the command line, their verdicts and reports.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use firmware_sim::ledger::Wrong;
use firmware_sim::real::{self, Options};
use firmware_sim::route;
use firmware_sim::scenario::Scenario;
use firmware_sim::world::Run;

use super::built::built;
use crate::broker_process::{Broker, Build, postrider};

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

/// Everything that real time can do to a fleet, in some seconds; each command has one end whatever the machine does meanwhile.
const TROUBLE: &str = r#"
name = "trouble"
duration_s = 16
settle_s = 120
[fleet]
devices = 6
start_within_s = 1
keep_alive_s = 5
backoff_max_ms = 2000
[gps]
cold_start_s = 1
[link]
loss_percent = 2.0
bytes_per_s = 20000
cuts_per_hour = 200.0
[[power_cut]]
at_s = 6
off_s = 2
devices = "1-2"
[[outage]]
at_s = 5
for_s = 4
mode = "silent"
devices = "3"
[[outage]]
at_s = 5
for_s = 3
devices = "4"
[[tunnel]]
at_s = 4
for_s = 5
devices = "5"
[[broker_power_cut]]
at_s = 11
off_s = 1
[[command]]
at_s = 8
name = "lock"
copies = 2
copy_every_s = 2
ttl_s = 0
[[command]]
at_s = 9
ttl_s = 600
devices = "6"
[expect]
refusals_min = 1
unlocks_max = 0
"#;

/// How late a record may be made on a machine that runs all other tests too.
const LATE_MAX: Duration = Duration::from_secs(20);

#[test]
fn in_real_time_a_scenario_has_the_ledger_that_it_has_on_virtual_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("trouble.toml");
    std::fs::write(&file, TROUBLE).expect("a file");
    let file = file.display().to_string();
    let (code, on_virtual, stderr) = run(&[&file, "--seed", "4"]);
    assert_eq!(code, 0, "{on_virtual}{stderr}");
    let late_max = LATE_MAX.as_millis().to_string();
    let (code, in_real, stderr) = run(&[&file, "--seed", "4", "--real", "--late-max", &late_max]);
    assert_eq!(code, 0, "{in_real}{stderr}");
    for word in ["records", "commands", "trouble  ", "ledger"] {
        assert_eq!(line(&in_real, word), line(&on_virtual, word), "{in_real}");
    }
    assert!(line(&in_real, "generator").ends_with("20.000 s allowed"), "{in_real}");
}

#[test]
fn a_record_that_is_acknowledged_and_lost_on_the_way_is_found() {
    let broker = Broker::start();
    let text = "name = \"thief\"\nduration_s = 8\nsettle_s = 4\n[fleet]\ndevices = 3\nstart_within_s = 0\n\
                [gps]\ncold_start_s = 1\n";
    let scenario = Scenario::parse("thief.toml", text).expect("a scenario");
    let routes = route::builtin();
    let options = Options {
        late_max: LATE_MAX,
        steals_at: Some(3),
        ..Options::new(broker.address(), broker.dir().join("devices"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(real::run(Run::new(&scenario, &routes, 1), options, |_| {}));
    let outcome = outcome.expect("a verdict");
    // Accepted by the device's queue, acknowledged in the broker's name, and never at the office.
    assert_eq!(outcome.broken.into_iter().collect::<Vec<_>>(), [(Wrong::Lost, 1)], "{:?}", outcome.findings);
    assert_eq!((outcome.findings[0].device, outcome.findings[0].number), (0, 3));
    assert_eq!(outcome.counts.delivered + 1, outcome.counts.made);
}

#[test]
fn what_real_time_does_not_have_is_told_by_its_table() {
    for (scenario, more, said) in [
        ("power-cuts.toml", "--real", "[[flash_fault]] is not supported in real time"),
        ("tanker-unlock.toml", "--real", "power_cut.in_command is not supported in real time"),
        ("login-storm.toml", "--real", "fleet.devices is not supported in real time: 20000 devices"),
        ("first-day.toml", "--broker=127.0.0.1:0", "[[broker_power_cut]] is not supported in real time"),
    ] {
        let (code, stdout, stderr) = run(&[&shipped(scenario), more]);
        assert_eq!(code, 2, "{scenario}: {stdout}{stderr}");
        assert!(stderr.contains(said), "{scenario}: {stderr}");
    }
}

/// Three gateways, one for each moment of a command at which the power goes, and once it goes without one.
const GATEWAYS: &str = r#"
name = "gateways"
duration_s = 28
settle_s = 120
[fleet]
devices = 3
start_within_s = 0
keep_alive_s = 5
[gps]
cold_start_s = 1
[[power_cut]]
at_s = 9
off_s = 1
devices = "1"
[[outage]]
at_s = 8
for_s = 3
mode = "silent"
devices = "2"
[[power_cut]]
at_s = 16
in_command = true
[[command]]
at_s = 17
name = "lock"
copies = 2
copy_every_s = 3
ttl_s = 0
[[command]]
at_s = 6
ttl_s = 600
[expect]
refusals_min = 3
unlocks_max = 0
"#;

#[test]
fn the_gateway_program_accounts_for_what_its_receiver_spoke_over_power_cuts() {
    let gateway = built("postrider-gateway").join("postrider-gateway").display().to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("gateways.toml");
    std::fs::write(&file, GATEWAYS).expect("a file");
    let file = file.display().to_string();
    let late_max = LATE_MAX.as_millis().to_string();
    let (code, stdout, stderr) = run(&[&file, "--gateway", &gateway, "--late-max", &late_max]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(line(&stdout, "trouble").starts_with("4 power cuts of devices"), "{stdout}");
    // Three refused, since nobody has stood long enough; three closed or not, which only a lock that answered knows.
    let commands = line(&stdout, "commands");
    assert!(commands.contains("failed") && commands.contains("3 rejected"), "{stdout}");
    let records: Vec<u64> =
        line(&stdout, "records").split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let (made, delivered) = (records[0], records[2]);
    assert!(delivered > 50 && made - delivered <= 7 * 13, "{stdout}");
}
