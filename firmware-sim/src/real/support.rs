//! What of a scenario real time does not have: told by table and reason before anything begins.

use super::DEVICES_MAX;
use super::gateway::GATEWAYS_MAX;
use crate::scenario::{
    BrokerOptions, Fleet, RecordClass, Scenario, backoff_max_ms, backoff_min_ms, queue_bytes_max,
    queue_records_max,
};

/// Why a scenario cannot be run in real time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{table} is not supported in real time: {why}")]
pub struct Unsupported {
    /// Which table or key.
    pub table: &'static str,
    /// Why not, and what to do.
    pub why: String,
}

/// Looks whether a scenario can be run as it asks. `owns_broker`: the broker's process is the run's own; `has_gateways`: devices are
/// processes of the gateway program.
///
/// # Errors
/// It asks for what real time does not have.
pub fn check(scenario: &Scenario, owns_broker: bool, has_gateways: bool) -> Result<(), Unsupported> {
    let unsupported = |table, why: &str| Err(Unsupported { table, why: why.to_owned() });
    let (fleet, devices_max) = (&scenario.fleet, if has_gateways { GATEWAYS_MAX } else { DEVICES_MAX });
    if fleet.devices > devices_max {
        let why = format!("{} devices, there may be {devices_max} (--devices)", fleet.devices);
        return Err(Unsupported { table: "fleet.devices", why });
    }
    if has_gateways {
        check_fleet(fleet)?;
    }
    if !scenario.flash_faults.is_empty() {
        return unsupported("[[flash_fault]]", "the queue is on real files, which do not fail on demand");
    }
    if scenario.power_cuts.iter().any(|cut| cut.in_command) && !has_gateways {
        return unsupported(
            "power_cut.in_command",
            "a device in this process cannot be killed between two steps; with --gateway it can",
        );
    }
    if scenario.power_cuts.iter().any(|cut| cut.in_write) {
        return unsupported("power_cut.in_write", "nobody can cut a real file's writes at a given one");
    }
    if !scenario.updates.is_empty() {
        return unsupported("[[update]]", "there are no slots to boot from; it runs on virtual time");
    }
    if scenario.expect.pings_max.is_some() {
        return unsupported("expect.pings_max", "nobody counts the pings of real clients; leave it out");
    }
    if scenario.expect.heartbeat_min_s.is_some() || scenario.expect.heartbeat_max_s.is_some() {
        return unsupported(
            "expect.heartbeat_min_s or _max_s",
            "learning takes hours; it runs on virtual time",
        );
    }
    if !scenario.broker_power_cuts.is_empty() && !owns_broker {
        return unsupported(
            "[[broker_power_cut]]",
            "the broker of --broker is not this run's to kill; without --broker it starts its own",
        );
    }
    if scenario.broker.commit_ms != BrokerOptions::default().commit_ms {
        return unsupported("broker.commit_ms", "a real disk takes as long as it takes");
    }
    Ok(())
}

/// Looks whether the gateway program has the settings that a fleet asks for.
fn check_fleet(fleet: &Fleet) -> Result<(), Unsupported> {
    let settings = [
        ("fleet.record_every_ms", fleet.record_every_ms != 1_000),
        ("fleet.record_expiry_s", fleet.record_expiry_s != 0),
        ("fleet.adaptive_keep_alive", fleet.adaptive_keep_alive),
        ("fleet.record_class", fleet.record_class != RecordClass::default()),
        ("fleet.queue_bytes_max", fleet.queue_bytes_max != queue_bytes_max()),
        ("fleet.queue_records_max", fleet.queue_records_max != queue_records_max()),
        ("fleet.backoff_min_ms", fleet.backoff_min_ms != backoff_min_ms()),
        ("fleet.backoff_max_ms", fleet.backoff_max_ms != backoff_max_ms()),
    ];
    match settings.into_iter().find(|(_, is_asked_for)| *is_asked_for) {
        Some((table, _)) => {
            let why = "the gateway program has no such setting; leave it out, or run without --gateway";
            Err(Unsupported { table, why: why.to_owned() })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(more: &str) -> Scenario {
        let text = format!("name = \"a\"\nduration_s = 20\n[fleet]\ndevices = 2\n{more}");
        Scenario::parse("a.toml", &text).unwrap()
    }

    #[test]
    fn what_cannot_be_done_in_real_time_is_told_by_its_table() {
        let cases = [
            ("[[flash_fault]]\nat_s = 1\nfor_s = 2\n", "[[flash_fault]] is not supported in real time"),
            ("[[power_cut]]\nat_s = 1\nin_command = true\n", "power_cut.in_command is not"),
            ("[[power_cut]]\nat_s = 1\nin_write = true\n", "power_cut.in_write is not"),
            ("[[broker_power_cut]]\nat_s = 1\n", "[[broker_power_cut]] is not"),
            ("[broker]\ncommit_ms = 500\n", "broker.commit_ms is not"),
        ];
        for (more, want) in cases {
            let error = check(&scenario(more), false, false).unwrap_err().to_string();
            assert!(error.starts_with(want), "{error}");
        }
        assert_eq!(check(&scenario("[[broker_power_cut]]\nat_s = 1\n"), true, false), Ok(()));
        let in_command = scenario("[[power_cut]]\nat_s = 1\nin_command = true\n");
        assert_eq!(check(&in_command, true, true), Ok(()));
        let thin = Scenario::parse(
            "a",
            "name = \"a\"\nduration_s = 9\n[fleet]\ndevices = 1\nrecord_every_ms = 5000\n",
        );
        let error = check(&thin.unwrap(), true, true).unwrap_err().to_string();
        assert!(error.starts_with("fleet.record_every_ms is not supported"), "{error}");
        let mut many = scenario("");
        many.set_devices(DEVICES_MAX + 1).unwrap();
        assert!(
            check(&many, true, false).unwrap_err().to_string().contains("1001 devices, there may be 1000")
        );
    }
}
