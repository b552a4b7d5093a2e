//! What is a scenario, and what is told of a file that is none.

use super::*;

const SMALL: &str = "name = \"small\"\nduration_s = 60\n[fleet]\ndevices = 3\n";

#[test]
fn a_scenario_says_the_least_and_gets_the_rest() {
    let scenario = Scenario::parse("small.toml", SMALL).unwrap();
    assert_eq!((scenario.seed, scenario.settle_s, scenario.fleet.record_every_ms), (1, 300, 1_000));
    assert_eq!(scenario.end_ms(), 360_000);
    assert_eq!(scenario.link, Links::default());
    assert!(!scenario.fleet.detours.contains(1), "nobody leaves the route unless told");
}

#[test]
fn devices_are_all_numbers_or_ranges() {
    let devices = Devices::try_from("2, 5-7".to_owned()).unwrap();
    assert_eq!(devices.numbers(6).collect::<Vec<_>>(), [2, 5, 6]);
    assert_eq!(Devices::all().numbers(3).count(), 3);
    assert_eq!(Devices::none().numbers(3).count(), 0);
    for wrong in ["", "0", "3-1", "all, 2", "a-b", "-4"] {
        let error = Devices::try_from(wrong.to_owned()).unwrap_err();
        assert!(error.contains(&format!("{wrong:?}")), "{error}");
    }
}

#[test]
fn what_is_no_scenario_is_refused_with_the_place_and_what_is_allowed() {
    let table = [
        ("colour = 3\n", "unknown field `colour`"),
        ("[link]\ndelay = 3\n", "unknown field `delay`"),
        ("[[outage]]\nat_s = 1\nfor_s = 2\nmode = \"odd\"\n", "unknown variant `odd`"),
        ("[[outage]]\nat_s = 50\nfor_s = 11\n", "outage.for_s is 11: it must be 1 to 10"),
        ("[[tunnel]]\nat_s = 61\nfor_s = 1\n", "tunnel.at_s is 61: it must be 0 to 60"),
        (
            "[[tunnel]]\nat_s = 1\nfor_s = 1\ndevices = \"4\"\n",
            "tunnel.devices names device 4: there are 1 to 3",
        ),
        ("[[tunnel]]\nat_s = 1\nfor_s = 1\ndevices = \"x\"\n", "devices \"x\""),
        ("[link]\nloss_percent = 70.0\n", "link.loss_percent is 70: it must be 0 to 50"),
        ("[link]\nloss_percent = nan\n", "link.loss_percent is NaN"),
        (
            "[[power_cut]]\nat_s = 1\nevery_s = 3\n",
            "power_cut.every_s is 3: it must be 0 or more than off_s, 5",
        ),
        (
            "[[power_cut]]\nat_s = 1\nin_write = true\nin_update = true\n",
            "it is one of in_command, in_write and in_update",
        ),
        ("[[nat]]\nat_s = 61\ntimeout_s = 1\n", "nat.at_s is 61: it must be 0 to 60"),
        ("[[update]]\nat_s = 1\nrelease = 2\nkind = \"odd\"\n", "unknown variant `odd`"),
        ("[[update]]\nat_s = 1\nrelease = 301\nkind = \"good\"\n", "update.release is 301"),
        ("[[spoof]]\nat_s = 1\nfor_s = 2\neast_m = 5.0\n", "east_m and north_m go together"),
        ("[[command]]\nat_s = 1\nname = \"explode\"\n", "command.name is \"explode\""),
        ("[broker]\nkeeps_log = false\n[[broker_power_cut]]\nat_s = 1\n", "survives no broker_power_cut"),
        ("[expect]\nlatency_p99_max_s = -1.0\n", "expect.latency_p99_max_s is -1"),
    ];
    for (more, want) in table {
        let error = Scenario::parse("odd.toml", &format!("{SMALL}{more}")).unwrap_err();
        let told = format!("{error}");
        assert!(told.starts_with("scenario odd.toml:") && told.contains(want), "{told}");
    }
}

#[test]
fn what_comes_again_comes_until_its_end() {
    let times = |at_s, every_s, until_s| trouble::repeated_ms(at_s, every_s, until_s).collect::<Vec<_>>();
    assert_eq!(times(5, 0, 60), [5_000]);
    assert_eq!(times(5, 10, 30), [5_000, 15_000, 25_000]);
    assert_eq!(times(5, 10, 3), [5_000]);
}
