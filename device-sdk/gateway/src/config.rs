//! The gateway's configuration: one TOML file, unknown keys are errors.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use device_sdk::clock::{ClockRules, DeviceClock};
use device_sdk::guard::{Approvers, Area, GuardRules, LockGuard, Position};
use device_sdk::ota::{DiskFlash, ReleaseKeys};
use device_sdk::serial::{BAUDS, GpsOptions, LOCK_BAUD, SerialLock};
use device_sdk::{Options, QueueOptions, TlsIdentity, TlsOptions};
use serde::Deserialize;

use crate::state::INTERVAL_S_MAX;

/// Commands that wait for their turn at the lock: the broker sends no more before one is acknowledged.
pub(crate) const COMMANDS_WAITING_MAX: usize = 32;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The device's name in topics, and its client id.
    pub(crate) device: String,
    /// Where the queue, the journal of commands and the twin live.
    pub(crate) data_dir: PathBuf,
    pub(crate) broker: Broker,
    #[serde(default)]
    pub(crate) queue: Queue,
    #[serde(default)]
    clock: Clock,
    pub(crate) gps: Gps,
    pub(crate) lock: Option<Lock>,
    #[serde(default)]
    pub(crate) twin: Twin,
    pub(crate) update: Option<Update>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Broker {
    address: String,
    username: Option<String>,
    /// A file with the password alone.
    password_file: Option<PathBuf>,
    #[serde(default)]
    tls: bool,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default = "keep_alive_s")]
    keep_alive_s: u16,
}

/// Names no password file's content.
impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("address", &self.address)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Queue {
    bytes_max: u64,
    group_ms: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self { bytes_max: 64 * 1024 * 1024, group_ms: 500 }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clock {
    /// The system's time counts beside the receiver's: somebody keeps it right.
    #[serde(default)]
    system: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gps {
    path: String,
    /// Empty: all that receivers use.
    #[serde(default)]
    bauds: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    path: String,
    #[serde(default = "lock_baud")]
    baud: u32,
    /// Where it may open.
    fence: Fence,
    #[serde(default)]
    guard: Guard,
    /// Who may approve; empty: no approval is asked for.
    #[serde(default)]
    approvers: Vec<NamedKey>,
}

/// A circle, or a polygon of `[lat, lon]`.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Fence {
    Circle { lat: f64, lon: f64, radius_m: f64 },
    Polygon { polygon: Vec<[f64; 2]> },
}

/// What differs from the guard's defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guard {
    accuracy_m_max: Option<f64>,
    speed_mps_max: Option<f64>,
    still_s: Option<f64>,
    settle_s: Option<f64>,
}

/// A name and the key that is believed to be its.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKey {
    name: String,
    /// Ed25519, 64 hexadecimal digits.
    public_key: String,
}

/// What the twin begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Twin {
    /// Seconds between positions that are sent, at least.
    pub(crate) interval_s: u64,
}

/// Updates over the air.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Update {
    pub(crate) model: String,
    slots: PathBuf,
    #[serde(default = "slot_bytes")]
    slot_bytes: u64,
    #[serde(default = "confirm_within_s")]
    pub(crate) confirm_within_s: u64,
    /// Authorities of the server with the images.
    ca_file: Option<PathBuf>,
    keys: Vec<NamedKey>,
}

fn keep_alive_s() -> u16 {
    60
}

fn lock_baud() -> u32 {
    LOCK_BAUD
}

fn slot_bytes() -> u64 {
    16 * 1024 * 1024
}

fn confirm_within_s() -> u64 {
    600
}

impl Config {
    /// Reads a configuration; files that it names are relative to `folder`.
    pub(crate) fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let mut config: Self = toml::from_str(text)?;
        config.data_dir = folder.join(&config.data_dir);
        let broker = &mut config.broker;
        for file in
            [&mut broker.password_file, &mut broker.ca_file, &mut broker.cert_file, &mut broker.key_file]
        {
            *file = file.take().map(|file| folder.join(file));
        }
        let is_name = !config.device.is_empty() && !config.device.contains(['/', '+', '#', '\0']);
        ensure!(
            is_name,
            "device {:?} cannot stand in a topic: it is empty or has one of / + #",
            config.device
        );
        ensure!(!config.gps.bauds.contains(&0), "gps.bauds has a 0");
        ensure!(
            config.twin.interval_s <= INTERVAL_S_MAX,
            "twin.interval_s is {}, the limit is {INTERVAL_S_MAX}",
            config.twin.interval_s
        );
        if let Some(update) = &mut config.update {
            update.slots = folder.join(&update.slots);
            update.ca_file = update.ca_file.take().map(|file| folder.join(file));
            update.check()?;
        }
        // What else is wrong is found where it is used.
        if let Some(lock) = &config.lock {
            lock.guard(&config.device)?;
        }
        Ok(config)
    }

    /// What the client is made with.
    pub(crate) fn options(&self) -> anyhow::Result<Options> {
        let broker = &self.broker;
        let password = match &broker.password_file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("broker.password_file {} cannot be read", file.display()))?;
                Some(text.trim_end_matches(['\r', '\n']).as_bytes().to_vec())
            }
            None => None,
        };
        let identity = match (&broker.cert_file, &broker.key_file) {
            (Some(cert_file), Some(key_file)) => {
                Some(TlsIdentity { cert_file: cert_file.clone(), key_file: key_file.clone() })
            }
            (None, None) => None,
            _ => bail!("broker.cert_file and broker.key_file go together: one is missing"),
        };
        ensure!(
            broker.tls || (identity.is_none() && broker.ca_file.is_none()),
            "broker has certificates and tls is false"
        );
        let tls = TlsOptions { ca_file: broker.ca_file.clone(), identity, ..TlsOptions::default() };
        let mut queue = QueueOptions::new(self.data_dir.join("queue"), self.queue.bytes_max);
        queue.group_ms = self.queue.group_ms;
        Ok(Options {
            username: broker.username.clone(),
            password,
            tls: broker.tls.then_some(tls),
            keep_alive_s: broker.keep_alive_s,
            // A truck is away for days.
            session_expiry_s: 7 * 24 * 3_600,
            queue: Some(queue),
            manual_ack: true,
            // Fixes have a topic longer than what is new in them.
            topic_aliases_max: 8,
            inflight_max: COMMANDS_WAITING_MAX as u16,
            ..Options::new(&broker.address, &self.device)
        })
    }

    /// What expiry is judged by; the receiver's time goes in.
    pub(crate) fn clock(&self) -> DeviceClock {
        if self.clock.system { DeviceClock::system() } else { DeviceClock::new(ClockRules::default()) }
    }

    /// Where the receiver is.
    pub(crate) fn gps(&self) -> GpsOptions {
        let bauds = if self.gps.bauds.is_empty() { BAUDS.to_vec() } else { self.gps.bauds.clone() };
        GpsOptions { bauds, ..GpsOptions::new(&self.gps.path) }
    }
}

impl Lock {
    /// The lock itself.
    pub(crate) fn line(&self) -> SerialLock {
        SerialLock::new(&self.path).baud(self.baud)
    }

    /// What stands before it.
    pub(crate) fn guard(&self, device: &str) -> anyhow::Result<LockGuard> {
        let at = |lat, lon| Position { lat, lon };
        let area = match &self.fence {
            Fence::Circle { lat, lon, radius_m } => Area::circle(at(*lat, *lon), *radius_m),
            Fence::Polygon { polygon } => {
                Area::polygon(polygon.iter().map(|[lat, lon]| at(*lat, *lon)).collect(), Vec::new())
            }
        };
        let mut rules = GuardRules::inside(area.context("lock.fence")?);
        let ms = |name: &str, seconds: Option<f64>, default: u64| match seconds {
            Some(s) if !(0.0..=3_600.0).contains(&s) => {
                bail!("lock.guard.{name} is {s}: it is 0 to 3600 seconds")
            }
            Some(s) => Ok((s * 1_000.0) as u64),
            None => Ok(default),
        };
        rules.still_ms = ms("still_s", self.guard.still_s, rules.still_ms)?;
        rules.settle_ms = ms("settle_s", self.guard.settle_s, rules.settle_ms)?;
        let number = |name: &str, value: Option<f64>, default: f64| match value {
            Some(value) if !value.is_finite() || value < 0.0 => {
                bail!("lock.guard.{name} is {value}: it is 0 or more")
            }
            value => Ok(value.unwrap_or(default)),
        };
        rules.accuracy_m_max = number("accuracy_m_max", self.guard.accuracy_m_max, rules.accuracy_m_max)?;
        rules.speed_mps_max = number("speed_mps_max", self.guard.speed_mps_max, rules.speed_mps_max)?;
        let guard = LockGuard::new(device, [crate::actuator::UNLOCK], rules);
        if self.approvers.is_empty() {
            return Ok(guard);
        }
        let mut approvers = Approvers::default();
        for key in &self.approvers {
            let added = key.bytes().and_then(|bytes| Ok(approvers.add(&key.name, &bytes)?));
            added.with_context(|| format!("lock.approvers: {}", key.name))?;
        }
        Ok(guard.approved_by(approvers))
    }
}

impl Update {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.keys.is_empty(), "update.keys: without a key no release is taken");
        ensure!(self.slot_bytes > 0, "update.slot_bytes is 0");
        let confirm_within_s = self.confirm_within_s;
        ensure!(
            (1..=86_400).contains(&confirm_within_s),
            "update.confirm_within_s is {confirm_within_s}: it is 1 to 86400"
        );
        self.release_keys().map(drop)
    }

    /// Who may sign releases.
    pub(crate) fn release_keys(&self) -> anyhow::Result<ReleaseKeys> {
        let mut keys = ReleaseKeys::default();
        for key in &self.keys {
            let added = key.bytes().and_then(|bytes| Ok(keys.add(&key.name, &bytes)?));
            added.with_context(|| format!("update.keys: {}", key.name))?;
        }
        Ok(keys)
    }

    /// The slots.
    pub(crate) fn flash(&self) -> anyhow::Result<DiskFlash> {
        DiskFlash::open(&self.slots, self.slot_bytes)
            .with_context(|| format!("update.slots {} cannot be used", self.slots.display()))
    }

    /// How the server with the images is reached.
    pub(crate) fn tls(&self) -> TlsOptions {
        TlsOptions { ca_file: self.ca_file.clone(), ..TlsOptions::default() }
    }
}

impl NamedKey {
    fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        let digits = |at: usize| u8::from_str_radix(self.public_key.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..self.public_key.len()).step_by(2).map(digits).collect();
        bytes.context("its public_key is not in hexadecimal digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../configs/gateway.toml");

    fn wrong(change: impl Fn(&str) -> String) -> String {
        let text = change(SHIPPED);
        assert_ne!(text, SHIPPED, "the test changes nothing");
        format!("{:#}", Config::parse(&text, Path::new("/etc")).map(drop).expect_err("it is wrong"))
    }

    #[test]
    fn the_shipped_configuration_is_in_order() {
        let config = Config::parse(SHIPPED, Path::new("/etc")).expect("it is in order");
        let options = config.options().expect("so are its parts");
        assert_eq!((&*options.client_id, options.tls.is_some()), ("truck-7", false));
        assert_eq!(config.gps().bauds, BAUDS);
        assert!(config.lock.is_some());
        // Commented out settings are in order too.
        let is_setting = |line: &&str| {
            let key = line.split_once(" = ").map_or("", |(key, _)| key);
            line.starts_with('[')
                || (!key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        };
        let all = SHIPPED.lines().map(|line| line.trim_start_matches("# ")).filter(is_setting);
        let text = all.collect::<Vec<_>>().join("\n");
        assert!(text.contains("password_file"), "{text}");
        Config::parse(&text, Path::new("/etc")).expect("it is in order");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = wrong(|text| text.replace("truck-7", "a/b"));
        assert!(said.contains(r#"device "a/b" cannot stand in a topic"#), "{said}");
        let said = wrong(|text| text.replace("[broker]", "[broker]\nadress = 1"));
        assert!(said.contains("unknown field `adress`"), "{said}");
        let said = wrong(|text| text.replace("radius_m = 80", "radius_m = -1"));
        assert!(said.contains("lock.fence"), "{said}");
        let update = |what: &str| {
            let section = format!("\n[update]\nmodel = \"m\"\nslots = \"s\"\n{what}\n");
            wrong(|text| text.to_owned() + &section)
        };
        let key = |digits: &str| format!("keys = [{{ name = \"2026\", public_key = \"{digits}\" }}]");
        for (what, expected) in [
            (String::from("keys = []"), "update.keys: without a key"),
            (key("d75"), "update.keys: 2026: its public_key is not in hexadecimal digits"),
            (key("d75a"), "update.keys: 2026: release key \"2026\" has 2 bytes"),
            (key(&"d7".repeat(32)) + "\nconfirm_within_s = 0", "update.confirm_within_s is 0"),
            (key(&"d7".repeat(32)) + "\nslot_bytes = 0", "update.slot_bytes is 0"),
            (key(&"d7".repeat(32)) + "\nkey = 1", "unknown field `key`"),
        ] {
            let said = update(&what);
            assert!(said.contains(expected), "{said}");
        }
        let said = wrong(|text| text.replace("# interval_s = 0", "interval_s = 3601"));
        assert!(said.contains("twin.interval_s is 3601"), "{said}");
    }
}
