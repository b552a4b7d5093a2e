//! What happens to devices, links, clocks and the broker, and what is asked of the devices.

use serde::Deserialize;

use super::{Devices, between, within};

/// How the end of a connection shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutageMode {
    /// A reset: whoever sends next is told.
    #[default]
    Reset,
    /// Silence: nobody is told anything.
    Silent,
}

/// From when on, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Seconds after the start.
    pub at_s: u64,
    /// Seconds.
    pub for_s: u64,
}

impl Times {
    fn check(self, key: &str, end_s: u64) -> Result<(), String> {
        within(&format!("{key}.at_s"), self.at_s, 0, end_s)?;
        within(&format!("{key}.for_s"), self.for_s, 1, end_s - self.at_s)
    }

    /// The same in milliseconds, from and to.
    pub fn ms(self) -> (u64, u64) {
        (self.at_s * 1_000, (self.at_s + self.for_s) * 1_000)
    }
}

/// A time without network.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// When, seconds after the start.
    pub at_s: u64,
    /// How long, seconds.
    pub for_s: u64,
    /// Whose.
    #[serde(default)]
    pub devices: Devices,
    /// How it shows.
    #[serde(default)]
    pub mode: OutageMode,
}

/// A tunnel: neither network nor fixes. Connections stand still; how many survive depends on how long it is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// When, seconds after the start.
    pub at_s: u64,
    /// How long, seconds.
    pub for_s: u64,
    /// Who drives through.
    #[serde(default)]
    pub devices: Devices,
    /// Whether the network reaches into it: then it is a jammed sky.
    #[serde(default)]
    pub network: bool,
}

/// Power cuts of devices: what is not synced is gone, the connection is silent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerCut {
    /// When, seconds after the start.
    pub at_s: u64,
    /// Whose.
    #[serde(default)]
    pub devices: Devices,
    /// How long the power is away, seconds.
    #[serde(default = "boot_s")]
    pub off_s: u64,
    /// Again after so many seconds; 0 = once.
    #[serde(default)]
    pub every_s: u64,
    /// Until when it comes again; else until the end.
    #[serde(default)]
    pub until_s: Option<u64>,
    /// Whether it comes in the middle of the next command instead of at a moment: at each of its steps in turn.
    #[serde(default)]
    pub in_command: bool,
    /// Whether it comes in the middle of one of the next writes of the queue of records instead of at a moment: at the first of
    /// them on one device, at the second on the next …
    #[serde(default)]
    pub in_write: bool,
    /// Whether it comes in the middle of one of the next writes of an update, by chance.
    #[serde(default)]
    pub in_update: bool,
}

/// A power cut of the broker, which then recovers from its disk.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerPowerCut {
    /// When, seconds after the start.
    pub at_s: u64,
    /// How long it is away, seconds.
    #[serde(default = "boot_s")]
    pub off_s: u64,
    /// Again after so many seconds; 0 = once.
    #[serde(default)]
    pub every_s: u64,
}

/// A time in which a device's flash fails each write.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlashFault {
    /// When, seconds after the start.
    pub at_s: u64,
    /// How long, seconds.
    pub for_s: u64,
    /// Whose.
    #[serde(default)]
    pub devices: Devices,
}

/// A carrier that forgets silent connections after another time than before.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// From when on, seconds after the start.
    pub at_s: u64,
    /// After which silence, seconds; 0 = never.
    pub timeout_s: u64,
}

/// A clock that is wrong when its device is switched on; fixes then say what time it is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Whose.
    #[serde(default)]
    pub devices: Devices,
    /// How far it is ahead, seconds; negative = behind.
    pub ahead_s: i64,
}

/// A false position from outside: the receiver believes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spoof {
    /// When, seconds after the start.
    pub at_s: u64,
    /// How long, seconds.
    pub for_s: u64,
    /// Whose receivers.
    #[serde(default)]
    pub devices: Devices,
    /// How far to the east the truck seems, metres; without both, at the middle of its fence.
    #[serde(default)]
    pub east_m: Option<f64>,
    /// The same to the north.
    #[serde(default)]
    pub north_m: Option<f64>,
}

/// What a release is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateKind {
    /// It works.
    Good,
    /// It is signed, and does not work: it says so, hangs, or starts over and over, in turn by device.
    Sick,
    /// It was altered on its way, its manifest was not.
    Tampered,
    /// Somebody else signed it.
    Forged,
}

/// An update of the firmware. Devices leave the factory with release 1.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// When its manifest is published, seconds after the start.
    pub at_s: u64,
    /// To whom.
    #[serde(default)]
    pub devices: Devices,
    /// Its number. One that is not above what a device has confirmed is a downgrade, which is refused.
    pub release: u64,
    /// What it is like.
    pub kind: UpdateKind,
}

/// A command from outside.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// When, seconds after the start.
    pub at_s: u64,
    /// To whom.
    #[serde(default)]
    pub devices: Devices,
    /// Its name.
    #[serde(default = "unlock")]
    pub name: String,
    /// How long it is valid, seconds; 0 = for ever.
    #[serde(default = "ttl_s")]
    pub ttl_s: u64,
    /// How often it is sent, each under the same id.
    #[serde(default = "once")]
    pub copies: u32,
    /// Seconds between two copies.
    #[serde(default = "copy_every_s")]
    pub copy_every_s: u64,
    /// A new one again after so many seconds; 0 = once.
    #[serde(default)]
    pub every_s: u64,
    /// Until when; else until the end.
    #[serde(default)]
    pub until_s: Option<u64>,
}

impl Outage {
    /// When it is.
    pub fn times(&self) -> Times {
        Times { at_s: self.at_s, for_s: self.for_s }
    }

    pub(super) fn check(&self, devices: u32, end_s: u64) -> Result<(), String> {
        self.times().check("outage", end_s)?;
        self.devices.check("outage.devices", devices)
    }
}

impl Tunnel {
    /// When it is.
    pub fn times(&self) -> Times {
        Times { at_s: self.at_s, for_s: self.for_s }
    }

    pub(super) fn check(&self, devices: u32, end_s: u64) -> Result<(), String> {
        self.times().check("tunnel", end_s)?;
        self.devices.check("tunnel.devices", devices)
    }
}

impl FlashFault {
    /// When it is.
    pub fn times(&self) -> Times {
        Times { at_s: self.at_s, for_s: self.for_s }
    }

    pub(super) fn check(&self, devices: u32, end_s: u64) -> Result<(), String> {
        self.times().check("flash_fault", end_s)?;
        self.devices.check("flash_fault.devices", devices)
    }
}

impl Spoof {
    /// When it is.
    pub fn times(&self) -> Times {
        Times { at_s: self.at_s, for_s: self.for_s }
    }

    pub(super) fn check(&self, devices: u32, end_s: u64) -> Result<(), String> {
        self.times().check("spoof", end_s)?;
        if self.east_m.is_some() != self.north_m.is_some() {
            return Err(
                "spoof: east_m and north_m go together; without both the truck seems inside its fence"
                    .to_owned(),
            );
        }
        for (key, value) in [("spoof.east_m", self.east_m), ("spoof.north_m", self.north_m)] {
            between(key, value.unwrap_or(0.0), -1e6, 1e6)?;
        }
        self.devices.check("spoof.devices", devices)
    }
}

impl PowerCut {
    pub(super) fn check(&self, devices: u32, end_s: u64) -> Result<(), String> {
        within("power_cut.at_s", self.at_s, 0, end_s)?;
        within("power_cut.off_s", self.off_s, 1, end_s)?;
        if self.every_s > 0 && self.every_s <= self.off_s {
            return Err(format!(
                "power_cut.every_s is {}: it must be 0 or more than off_s, {}",
                self.every_s, self.off_s
            ));
        }
        if self.in_command && self.every_s > 0 {
            return Err("power_cut: in_command comes once from at_s on, every_s must be 0".to_owned());
        }
        if [self.in_command, self.in_write, self.in_update].into_iter().filter(|is_in| *is_in).count() > 1 {
            return Err("power_cut: it is one of in_command, in_write and in_update".to_owned());
        }
        self.devices.check("power_cut.devices", devices)
    }
}

impl BrokerPowerCut {
    pub(super) fn check(&self, end_s: u64) -> Result<(), String> {
        within("broker_power_cut.at_s", self.at_s, 0, end_s)?;
        within("broker_power_cut.off_s", self.off_s, 1, end_s)?;
        if self.every_s > 0 && self.every_s <= self.off_s {
            return Err(format!(
                "broker_power_cut.every_s is {}: it must be 0 or more than off_s, {}",
                self.every_s, self.off_s
            ));
        }
        Ok(())
    }
}

impl Update {
    pub(super) fn check(&self, devices: u32, end_s: u64) -> Result<(), String> {
        within("update.at_s", self.at_s, 0, end_s)?;
        // The image grows with its number, to half a slot.
        within("update.release", self.release, 1, 300)?;
        self.devices.check("update.devices", devices)
    }
}

impl Nat {
    pub(super) fn check(&self, end_s: u64) -> Result<(), String> {
        within("nat.at_s", self.at_s, 0, end_s)?;
        within("nat.timeout_s", self.timeout_s, 0, super::DURATION_MAX_S)
    }
}

impl Clock {
    pub(super) fn check(&self, devices: u32) -> Result<(), String> {
        within("clock.ahead_s", self.ahead_s.unsigned_abs(), 0, 3_000_000_000)?;
        self.devices.check("clock.devices", devices)
    }
}

impl Command {
    pub(super) fn check(&self, devices: u32, end_s: u64) -> Result<(), String> {
        within("command.at_s", self.at_s, 0, end_s)?;
        within("command.copies", self.copies.into(), 1, 100)?;
        within("command.copy_every_s", self.copy_every_s, 0, end_s)?;
        within("command.ttl_s", self.ttl_s, 0, super::DURATION_MAX_S)?;
        if self.name != crate::lock::UNLOCK && self.name != crate::lock::LOCK {
            return Err(format!("command.name is {:?}: there are \"unlock\" and \"lock\"", self.name));
        }
        self.devices.check("command.devices", devices)
    }
}

/// When something comes that comes again: from `at_s` on, each `every_s` (0 = once), before `until_s`.
pub(crate) fn repeated_ms(at_s: u64, every_s: u64, until_s: u64) -> impl Iterator<Item = u64> {
    let count = if every_s == 0 { 1 } else { until_s.saturating_sub(at_s).div_ceil(every_s).max(1) };
    (0..count).map(move |again| (at_s + again * every_s) * 1_000)
}

fn boot_s() -> u64 {
    5
}

fn unlock() -> String {
    crate::lock::UNLOCK.to_owned()
}

fn ttl_s() -> u64 {
    60
}

fn once() -> u32 {
    1
}

fn copy_every_s() -> u64 {
    5
}
