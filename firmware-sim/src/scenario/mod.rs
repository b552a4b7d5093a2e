//! A scenario: what a fleet goes through, and what must come of it. TOML and a seed; nothing else decides a run.
//!
//! Parsed strictly: an unknown key, a number out of its range or a device that is not there is an error with the
//! value and what is allowed. Times are simulated seconds since the start.

mod devices;
mod expect;
pub(crate) mod timetable;
pub(crate) mod trouble;

use std::path::Path;

use serde::Deserialize;

use crate::route::{self, Route};

pub use devices::Devices;
pub use expect::Expect;
pub use trouble::{
    BrokerPowerCut, Clock, Command, FlashFault, Nat, Outage, OutageMode, PowerCut, Spoof, Times, Tunnel,
    Update, UpdateKind,
};

/// The most devices of one scenario.
pub const DEVICES_MAX: u32 = 200_000;
/// The longest scenario, seconds.
pub const DURATION_MAX_S: u64 = 14 * 24 * 3600;
/// The largest scenario file, bytes.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The most entries of one kind of trouble.
pub const TROUBLES_MAX: usize = 1_000;

/// What a fleet goes through.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, one line.
    pub name: String,
    /// What it is about.
    #[serde(default)]
    pub about: String,
    /// The seed of a run that is given none.
    #[serde(default = "one")]
    pub seed: u64,
    /// When it begins, seconds since the Unix epoch.
    #[serde(default = "start_unix_s")]
    pub start_unix_s: u64,
    /// How long devices make records, seconds.
    pub duration_s: u64,
    /// How long they then may take to bring everything to its end, without further trouble, seconds.
    #[serde(default = "settle_s")]
    pub settle_s: u64,
    /// The devices.
    pub fleet: Fleet,
    /// The links of all devices.
    #[serde(default)]
    pub link: Links,
    /// Their receivers.
    #[serde(default)]
    pub gps: Gps,
    /// The broker.
    #[serde(default)]
    pub broker: BrokerOptions,
    /// Times without network.
    #[serde(default, rename = "outage")]
    pub outages: Vec<Outage>,
    /// Tunnels: neither network nor fixes.
    #[serde(default, rename = "tunnel")]
    pub tunnels: Vec<Tunnel>,
    /// Power cuts of devices.
    #[serde(default, rename = "power_cut")]
    pub power_cuts: Vec<PowerCut>,
    /// Power cuts of the broker.
    #[serde(default, rename = "broker_power_cut")]
    pub broker_power_cuts: Vec<BrokerPowerCut>,
    /// Carriers that forget sooner or later than before.
    #[serde(default, rename = "nat")]
    pub nats: Vec<Nat>,
    /// Times in which flash does not write.
    #[serde(default, rename = "flash_fault")]
    pub flash_faults: Vec<FlashFault>,
    /// Clocks that are wrong.
    #[serde(default, rename = "clock")]
    pub clocks: Vec<Clock>,
    /// False positions from outside.
    #[serde(default, rename = "spoof")]
    pub spoofs: Vec<Spoof>,
    /// Updates of the firmware.
    #[serde(default, rename = "update")]
    pub updates: Vec<Update>,
    /// Commands from outside.
    #[serde(default, rename = "command")]
    pub commands: Vec<Command>,
    /// What must come of it beyond that nothing is lost.
    #[serde(default)]
    pub expect: Expect,
}

/// The devices of a scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// How many.
    pub devices: u32,
    /// A GeoJSON or GPX file with routes, beside the scenario; else the built-in roads.
    #[serde(default)]
    pub routes: Option<String>,
    /// Simulated milliseconds between two records of a device, whole seconds.
    #[serde(default = "second_ms")]
    pub record_every_ms: u64,
    /// Devices are switched on within so many seconds from the start.
    #[serde(default = "ten")]
    pub start_within_s: u64,
    /// Drives of each truck: there, back, there …
    #[serde(default = "one_trip")]
    pub trips: u32,
    /// Where trucks begin, in percent of their way.
    #[serde(default)]
    pub start_percent: f64,
    /// Trucks that leave their route on the first drive.
    #[serde(default = "Devices::none")]
    pub detours: Devices,
    /// Radius of the fence around each route's end, inside which locks open, metres.
    #[serde(default = "fence_m")]
    pub fence_m: f64,
    /// How far to the east of the route's end the middle of the fence lies, metres.
    #[serde(default)]
    pub fence_aside_m: f64,
    /// Keep Alive, seconds.
    #[serde(default = "keep_alive_s")]
    pub keep_alive_s: u16,
    /// Whether heartbeats learn instead, with probes on connections of their own, how long the carrier remembers.
    #[serde(default)]
    pub adaptive_keep_alive: bool,
    /// What records are for the queue: who goes first, and who gives way when it is full.
    #[serde(default)]
    pub record_class: RecordClass,
    /// Records that a device keeps at most.
    #[serde(default = "queue_records_max")]
    pub queue_records_max: usize,
    /// Bytes that they may take on its flash; a segment is a 64th of them, 4 to 256 KiB.
    #[serde(default = "queue_bytes_max")]
    pub queue_bytes_max: u64,
    /// How long a record is worth sending, seconds; 0 = for ever.
    #[serde(default)]
    pub record_expiry_s: u64,
    /// Shortest pause between two attempts to connect, milliseconds.
    #[serde(default = "backoff_min_ms")]
    pub backoff_min_ms: u64,
    /// Longest one.
    #[serde(default = "backoff_max_ms")]
    pub backoff_max_ms: u64,
}

/// A class of the SDK's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordClass {
    /// In order; refused when the queue is full.
    #[default]
    Event,
    /// The newest overtake the backlog; refused when the queue is full.
    Live,
    /// The newest overtake the backlog; thinned when the queue is full.
    Track,
    /// In order; the oldest are dropped when the queue is full.
    Debug,
}

impl RecordClass {
    /// Whether a record may come after a later one.
    pub fn overtakes(self) -> bool {
        matches!(self, RecordClass::Live | RecordClass::Track)
    }
}

/// The links of all devices.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Links {
    /// One way, milliseconds.
    pub delay_ms: u64,
    /// Added to it by chance, at most, milliseconds.
    pub jitter_ms: u64,
    /// Packets that TCP has to send again, percent: each stalls what is behind it.
    pub loss_percent: f64,
    /// Bytes a second each way; 0 = no bound.
    pub bytes_per_s: u64,
    /// Cuts of a link in an hour, on average.
    pub cuts_per_hour: f64,
    /// How a cut shows.
    pub cut: OutageMode,
    /// After such a silence the carrier forgets the connection, seconds; 0 = never.
    pub nat_timeout_s: u64,
    /// How that shows.
    pub nat: OutageMode,
}

impl Default for Links {
    fn default() -> Links {
        Links {
            delay_ms: 40,
            jitter_ms: 20,
            loss_percent: 0.5,
            bytes_per_s: 0,
            cuts_per_hour: 0.0,
            cut: OutageMode::Reset,
            nat_timeout_s: 0,
            nat: OutageMode::Silent,
        }
    }
}

/// The receivers of all devices.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gps {
    /// Error without memory on each axis at a dilution of 1, one standard deviation, metres.
    pub white_m: f64,
    /// Error that drifts (first-order autoregressive), the same way, metres.
    pub drift_m: f64,
    /// How far a reflection moves the position, metres.
    pub multipath_m: f64,
    /// Mean time between reflections while driving, seconds; 0 = none.
    pub multipath_every_s: f64,
    /// From switching on, or the end of a long tunnel, to the first fix, seconds.
    pub cold_start_s: u64,
    /// Weeks that the receiver's date lies in the past, as after a rollover of its week number.
    pub weeks_back: u32,
}

impl Default for Gps {
    fn default() -> Gps {
        Gps {
            white_m: 0.3,
            drift_m: 3.5,
            multipath_m: 60.0,
            multipath_every_s: 180.0,
            cold_start_s: 4,
            weeks_back: 0,
        }
    }
}

/// The broker of a scenario on virtual time.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerOptions {
    /// How long it takes from a record to its being durable, milliseconds.
    pub commit_ms: u64,
    /// Connections that it takes in a second; more are refused. 0 = no bound.
    pub connects_per_s: u64,
    /// Whether its log is kept, so that it survives power cuts. Very large fleets need more memory for it than there is.
    pub keeps_log: bool,
}

impl Default for BrokerOptions {
    fn default() -> BrokerOptions {
        BrokerOptions { commit_ms: 2, connects_per_s: 0, keeps_log: true }
    }
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Its file cannot be read.
    #[error("scenario {file}: {source}")]
    Read {
        /// Which file.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no scenario.
    #[error("scenario {file}: {source}")]
    Parse {
        /// Which file.
        file: String,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A value is out of its range.
    #[error("scenario {file}: {what}")]
    Value {
        /// Which file.
        file: String,
        /// Which value, and what is allowed.
        what: String,
    },
    /// Its routes cannot be read.
    #[error("scenario {file}: {source}")]
    Routes {
        /// Which file.
        file: String,
        /// Why not.
        source: route::RouteError,
    },
}

impl Scenario {
    /// Reads a scenario file and the routes that it names.
    ///
    /// # Errors
    /// A file that cannot be read or is no scenario, with the place and what is allowed.
    pub fn load(path: &Path) -> Result<(Scenario, Vec<Route>), ScenarioError> {
        let file = path.display().to_string();
        let read = |source| ScenarioError::Read { file: file.clone(), source };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            let what = format!("it has {bytes} bytes, {FILE_BYTES_MAX} are allowed");
            return Err(ScenarioError::Value { file, what });
        }
        let scenario = Scenario::parse(&file, &std::fs::read_to_string(path).map_err(read)?)?;
        let routes = match &scenario.fleet.routes {
            None => route::builtin(),
            Some(name) => {
                let beside = path.parent().unwrap_or(Path::new(".")).join(name);
                route::load(&beside).map_err(|source| ScenarioError::Routes { file, source })?
            }
        };
        Ok((scenario, routes))
    }

    /// Parses a scenario; `file` is for errors.
    ///
    /// # Errors
    /// It is no scenario, or a value is out of its range.
    pub fn parse(file: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let scenario: Scenario = toml::from_str(text)
            .map_err(|source| ScenarioError::Parse { file: file.to_owned(), source: Box::new(source) })?;
        scenario.check().map_err(|what| ScenarioError::Value { file: file.to_owned(), what })?;
        Ok(scenario)
    }

    /// Makes the fleet larger or smaller.
    ///
    /// # Errors
    /// Too many, or too few for the devices that the scenario names.
    pub fn set_devices(&mut self, devices: u32) -> Result<(), String> {
        self.fleet.devices = devices;
        self.check()
    }

    /// The last moment of the run, milliseconds since its start.
    pub fn end_ms(&self) -> u64 {
        (self.duration_s + self.settle_s) * 1_000
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.chars().count() > 100 || self.name.contains('\n') {
            return Err("name: it must have 1 to 100 characters in one line".to_owned());
        }
        within("duration_s", self.duration_s, 1, DURATION_MAX_S)?;
        within("settle_s", self.settle_s, 0, DURATION_MAX_S)?;
        within("start_unix_s", self.start_unix_s, 1_000_000_000, 7_000_000_000)?;
        self.fleet.check()?;
        self.link.check()?;
        self.gps.check()?;
        within("broker.commit_ms", self.broker.commit_ms, 0, 60_000)?;
        if !self.broker.keeps_log && !self.broker_power_cuts.is_empty() {
            return Err(
                "broker.keeps_log = false: a broker without a log survives no broker_power_cut".to_owned()
            );
        }
        self.check_troubles()?;
        self.expect.check()
    }

    fn check_troubles(&self) -> Result<(), String> {
        let (devices, end_s) = (self.fleet.devices, self.duration_s);
        few("outage", self.outages.len())?;
        few("tunnel", self.tunnels.len())?;
        few("power_cut", self.power_cuts.len())?;
        few("broker_power_cut", self.broker_power_cuts.len())?;
        few("flash_fault", self.flash_faults.len())?;
        few("clock", self.clocks.len())?;
        few("nat", self.nats.len())?;
        few("update", self.updates.len())?;
        few("spoof", self.spoofs.len())?;
        few("command", self.commands.len())?;
        self.fleet.detours.check("fleet.detours", devices)?;
        self.outages.iter().try_for_each(|outage| outage.check(devices, end_s))?;
        self.tunnels.iter().try_for_each(|tunnel| tunnel.check(devices, end_s))?;
        self.power_cuts.iter().try_for_each(|cut| cut.check(devices, end_s))?;
        self.broker_power_cuts.iter().try_for_each(|cut| cut.check(end_s))?;
        self.flash_faults.iter().try_for_each(|fault| fault.check(devices, end_s))?;
        self.nats.iter().try_for_each(|nat| nat.check(end_s))?;
        self.updates.iter().try_for_each(|update| update.check(devices, end_s))?;
        self.clocks.iter().try_for_each(|clock| clock.check(devices))?;
        self.spoofs.iter().try_for_each(|spoof| spoof.check(devices, end_s))?;
        self.commands.iter().try_for_each(|command| command.check(devices, end_s))
    }
}

impl Fleet {
    fn check(&self) -> Result<(), String> {
        within("fleet.devices", self.devices.into(), 1, DEVICES_MAX.into())?;
        within("fleet.record_every_ms", self.record_every_ms, 1_000, 24 * 3_600_000)?;
        if !self.record_every_ms.is_multiple_of(1_000) {
            return Err(format!(
                "fleet.record_every_ms is {}: it must be whole seconds",
                self.record_every_ms
            ));
        }
        within("fleet.start_within_s", self.start_within_s, 0, DURATION_MAX_S)?;
        within("fleet.trips", self.trips.into(), 1, crate::plan::TRIPS_MAX.into())?;
        between("fleet.start_percent", self.start_percent, 0.0, 99.0)?;
        between("fleet.fence_m", self.fence_m, 10.0, 10_000.0)?;
        between("fleet.fence_aside_m", self.fence_aside_m, -10_000.0, 10_000.0)?;
        within("fleet.queue_records_max", self.queue_records_max as u64, 10, 10_000_000)?;
        within("fleet.queue_bytes_max", self.queue_bytes_max, 256 * 1024, 1 << 40)?;
        within("fleet.record_expiry_s", self.record_expiry_s, 0, DURATION_MAX_S)?;
        within("fleet.backoff_min_ms", self.backoff_min_ms, 1, self.backoff_max_ms)?;
        within("fleet.backoff_max_ms", self.backoff_max_ms, 1, 24 * 3_600_000)
    }
}

impl Links {
    fn check(&self) -> Result<(), String> {
        within("link.delay_ms", self.delay_ms, 0, 10_000)?;
        within("link.jitter_ms", self.jitter_ms, 0, 10_000)?;
        between("link.loss_percent", self.loss_percent, 0.0, 50.0)?;
        between("link.cuts_per_hour", self.cuts_per_hour, 0.0, 3_600.0)?;
        within("link.nat_timeout_s", self.nat_timeout_s, 0, DURATION_MAX_S)
    }
}

impl Gps {
    fn check(&self) -> Result<(), String> {
        between("gps.white_m", self.white_m, 0.0, 100.0)?;
        between("gps.drift_m", self.drift_m, 0.0, 100.0)?;
        between("gps.multipath_m", self.multipath_m, 0.0, 10_000.0)?;
        between("gps.multipath_every_s", self.multipath_every_s, 0.0, 1e9)?;
        within("gps.cold_start_s", self.cold_start_s, 0, 3_600)?;
        within("gps.weeks_back", self.weeks_back.into(), 0, 4_096)
    }
}

/// Checks a whole number against its bounds.
fn within(key: &str, value: u64, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{key} is {value}: it must be {min} to {max}"))
}

/// Checks a number against its bounds; NaN is in none.
fn between(key: &str, value: f64, min: f64, max: f64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{key} is {value}: it must be {min} to {max}"))
}

fn few(key: &str, count: usize) -> Result<(), String> {
    if count <= TROUBLES_MAX {
        return Ok(());
    }
    Err(format!("[[{key}]] comes {count} times: at most {TROUBLES_MAX} are allowed"))
}

fn one() -> u64 {
    1
}

fn one_trip() -> u32 {
    1
}

fn ten() -> u64 {
    10
}

fn second_ms() -> u64 {
    1_000
}

fn start_unix_s() -> u64 {
    1_780_300_800
}

fn settle_s() -> u64 {
    300
}

fn fence_m() -> f64 {
    100.0
}

fn keep_alive_s() -> u16 {
    30
}

pub(crate) fn queue_records_max() -> usize {
    300_000
}

pub(crate) fn queue_bytes_max() -> u64 {
    1024 * 1024
}

pub(crate) fn backoff_min_ms() -> u64 {
    500
}

pub(crate) fn backoff_max_ms() -> u64 {
    60_000
}

#[cfg(test)]
mod tests;
