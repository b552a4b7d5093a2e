//! The TOML file: its exact keys, and how they become a [`Config`].

use std::{collections::HashSet, path::Path, sync::Arc};

use device_sdk::{TlsIdentity, TlsOptions};
use serde::Deserialize;
use tracks::{LatLon, corridor::Corridor, fence::Circle, route::Polyline};

use super::{
    COMMAND_TTL_S, CommandRule, Config, ConfigError, DevicePattern, FenceRule, NamedLine, RULES_MAX, Secret,
    SinkRule, VehicleRule, lines,
    rule::{RulePart, RulesPart},
};
use crate::{chat::is_device, rules::Rules};

/// Longest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Longest route file, bytes.
const ROUTE_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most sinks: every alert may be written once for each.
const SINKS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    broker: BrokerPart,
    #[serde(default)]
    store: StorePart,
    #[serde(default)]
    dispatch: DispatchPart,
    #[serde(default)]
    gate: GatePart,
    #[serde(default)]
    outbox: OutboxPart,
    #[serde(default)]
    vehicle: Vec<VehiclePart>,
    #[serde(default)]
    sink: Vec<toml::Table>,
    /// A `[[sink]]` of the type webhook.
    #[serde(default)]
    webhook: Vec<toml::Table>,
    #[serde(default)]
    rules: RulesPart,
    #[serde(default)]
    rule: Vec<RulePart>,
    #[serde(default)]
    command: Vec<CommandPart>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrokerPart {
    address: Option<String>,
    client_id: Option<String>,
    username: Option<String>,
    password: Option<String>,
    tls: Option<bool>,
    ca_file: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    session_expiry_s: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StorePart {
    data_dir: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DispatchPart {
    topic: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GatePart {
    speed_max_mps: Option<f64>,
    hdop_max: Option<f64>,
    future_max_s: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutboxPart {
    entries_max: Option<usize>,
    age_max_s: Option<u64>,
    retry_min_ms: Option<u64>,
    retry_max_ms: Option<u64>,
    bytes_max: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VehiclePart {
    device: Option<String>,
    filter: Option<String>,
    route_file: Option<String>,
    route_name: Option<String>,
    route: Option<Vec<Place>>,
    corridor_half_width_m: Option<f64>,
    fence: Option<FencePart>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    lat: f64,
    lon: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FencePart {
    name: String,
    lat: f64,
    lon: f64,
    radius_m: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandPart {
    name: String,
    ttl_s: Option<u32>,
}

impl Config {
    /// Reads a TOML file; paths in it are relative to its directory.
    ///
    /// # Errors
    /// The file or a route file cannot be read, a key is unknown, missing or of the wrong type, or a value is out of its
    /// range.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let name = path.display().to_string();
        let text =
            read_bounded(path, FILE_BYTES_MAX).map_err(|what| ConfigError { file: name.clone(), what })?;
        Config::parse(&text, &name, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads TOML text; `name` is for error messages, paths in the text are relative to `dir`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, name: &str, dir: &Path) -> Result<Config, ConfigError> {
        let fail = |what: String| ConfigError { file: name.to_owned(), what };
        let file: File = toml::from_str(text).map_err(|error| fail(error.to_string()))?;
        file.into_config(dir).map_err(fail)
    }
}

impl File {
    fn into_config(self, dir: &Path) -> Result<Config, String> {
        let data_dir = self.store.data_dir.unwrap_or_else(|| "postrider-bridge".to_owned());
        if data_dir.is_empty() {
            return Err("store.data_dir is empty, it must name a directory".to_owned());
        }
        let broker = self.broker;
        let tls = tls(&broker, dir)?;
        let address = broker.address.unwrap_or_else(|| "127.0.0.1:1883".to_owned());
        check_address("broker.address", &address)?;
        let client_id = broker.client_id.unwrap_or_else(|| "postrider-bridge".to_owned());
        if client_id.is_empty() || client_id.len() > 1_024 {
            return Err(format!("broker.client_id has {} bytes, it must have 1 to 1024", client_id.len()));
        }
        let mut config = Config::new(address, client_id, dir.join(data_dir));
        config.broker.tls = tls;
        config.broker.username = broker.username;
        config.broker.password = broker.password.map(Secret);
        if let Some(seconds) = broker.session_expiry_s {
            config.broker.session_expiry_s = within("broker.session_expiry_s", seconds, 60, u32::MAX)?;
        }
        if let Some(topic) = self.dispatch.topic {
            if topic.is_empty()
                || topic.starts_with('$')
                || topic.contains(['+', '#', '\0'])
                || topic.len() > 1_024
            {
                return Err(format!(
                    "dispatch.topic = {topic:?}: it must be a topic of 1 to 1024 bytes without + and #, not starting with $"
                ));
            }
            config.dispatch_topic = topic;
        }
        self.gate.apply(&mut config)?;
        self.outbox.apply(&mut config)?;
        for (key, count, limit) in [
            ("vehicle", self.vehicle.len(), RULES_MAX),
            ("sink", self.sink.len() + self.webhook.len(), SINKS_MAX),
            ("rule", self.rule.len(), RULES_MAX),
            ("command", self.command.len(), RULES_MAX),
        ] {
            if count > limit {
                return Err(format!("there are {count} [[{key}]] parts, the limit is {limit}"));
            }
        }
        config.vehicles = numbered("vehicle", self.vehicle, |part| part.into_rule(dir))?;
        config.sinks = numbered("sink", self.sink, SinkRule::parse)?;
        config.sinks.extend(numbered("webhook", self.webhook, |table| SinkRule::parse_as("webhook", table))?);
        let names: Vec<_> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
        let zone = self.rules.zone()?;
        let rules = numbered("rule", self.rule, |part| part.into_rule(&zone, &names))?;
        unique("rule", "name", rules.iter().map(|rule| rule.name.clone()))?;
        config.rules = Rules::new(rules);
        config.commands = numbered("command", self.command, CommandPart::into_rule)?;
        unique("vehicle", "device or filter", config.vehicles.iter().map(|rule| rule.devices.to_string()))?;
        unique("sink", "name", config.sinks.iter().map(|sink| sink.name.clone()))?;
        unique("command", "name", config.commands.iter().map(|rule| rule.name.clone()))?;
        Ok(config)
    }
}

impl GatePart {
    fn apply(self, config: &mut Config) -> Result<(), String> {
        if let Some(speed) = self.speed_max_mps {
            config.gate.speed_max_mps = within("gate.speed_max_mps", speed, 1.0, 1_000.0)?;
        }
        if let Some(hdop) = self.hdop_max {
            config.gate.hdop_max = within("gate.hdop_max", hdop, 0.5, 100.0)?;
        }
        if let Some(seconds) = self.future_max_s {
            let seconds = within("gate.future_max_s", seconds, 0.0, 1e9)?;
            config.gate.future_max_ms = (seconds * 1_000.0) as i64;
        }
        Ok(())
    }
}

impl OutboxPart {
    fn apply(self, config: &mut Config) -> Result<(), String> {
        let outbox = &mut config.outbox;
        if let Some(entries) = self.entries_max {
            outbox.entries_max = within("outbox.entries_max", entries, 10, 100_000)?;
        }
        if let Some(seconds) = self.age_max_s {
            outbox.age_max_s = within("outbox.age_max_s", seconds, 1, 30 * 24 * 3600)?;
        }
        if let Some(ms) = self.retry_min_ms {
            outbox.retry_min_ms = within("outbox.retry_min_ms", ms, 1, 3_600_000)?;
        }
        if let Some(ms) = self.retry_max_ms {
            outbox.retry_max_ms = within("outbox.retry_max_ms", ms, 1, 3_600_000)?;
        }
        if let Some(bytes) = self.bytes_max {
            outbox.bytes_max = within("outbox.bytes_max", bytes, 16 * 1024 * 1024, 1 << 40)?;
        }
        if outbox.retry_min_ms > outbox.retry_max_ms {
            return Err(format!(
                "outbox.retry_min_ms = {} is above outbox.retry_max_ms = {}",
                outbox.retry_min_ms, outbox.retry_max_ms
            ));
        }
        Ok(())
    }
}

impl VehiclePart {
    fn into_rule(self, dir: &Path) -> Result<VehicleRule, String> {
        let devices = match (self.device, self.filter) {
            (Some(device), None) if is_device(&device) => DevicePattern::Exactly(device),
            (Some(device), None) => {
                return Err(format!("device = {device:?}: it must be one level of a topic, without / + #"));
            }
            (None, Some(filter)) => starting_with("filter", &filter)?,
            _ => return Err("it needs either device = \"truck-7\" or filter = \"truck-*\"".to_owned()),
        };
        let points = match (self.route_file, self.route) {
            (Some(_), Some(_)) => return Err("it has both route_file and route, one is enough".to_owned()),
            (Some(file), None) => Some(load_route(dir, &file, self.route_name.as_deref())?),
            (None, route) => {
                if self.route_name.is_some() {
                    return Err("route_name needs a route_file to choose from".to_owned());
                }
                route.map(|places| places.iter().map(|at| LatLon::new(at.lat, at.lon)).collect())
            }
        };
        let corridor = match (points, self.corridor_half_width_m) {
            (Some(points), width) => {
                let line = Polyline::new(points).map_err(|error| format!("route: {error}"))?;
                let width = width.unwrap_or(50.0);
                Some(Arc::new(
                    Corridor::new(line, width).map_err(|error| format!("corridor_half_width_m: {error}"))?,
                ))
            }
            (None, Some(_)) => {
                return Err("corridor_half_width_m needs a route (route_file or route)".to_owned());
            }
            (None, None) => None,
        };
        let fence = match self.fence {
            Some(part) => {
                let area = Circle::new(LatLon::new(part.lat, part.lon), part.radius_m)
                    .map_err(|error| format!("fence {:?}: {error}", part.name))?;
                Some(FenceRule { name: part.name, area })
            }
            None => None,
        };
        if corridor.is_none() && fence.is_none() {
            return Err("it watches nothing: give it a route_file, a route or a fence".to_owned());
        }
        Ok(VehicleRule { devices, corridor, fence })
    }
}

/// Reads one device id, or the start of device ids with a `*` behind.
pub(super) fn device_pattern(key: &str, text: &str) -> Result<DevicePattern, String> {
    if text.ends_with('*') {
        return starting_with(key, text);
    }
    if is_device(text) {
        return Ok(DevicePattern::Exactly(text.to_owned()));
    }
    Err(format!(
        "{key} = {text:?}: it must be a device id, or the start of some with a * behind, for instance \"truck-*\""
    ))
}

fn starting_with(key: &str, filter: &str) -> Result<DevicePattern, String> {
    let prefix = filter.strip_suffix('*').filter(|prefix| prefix.is_empty() || is_device(prefix));
    match prefix.filter(|prefix| !prefix.contains('*')) {
        Some(prefix) => Ok(DevicePattern::StartingWith(prefix.to_owned())),
        None => Err(format!(
            "{key} = {filter:?}: it must be the start of device ids with a * behind, for instance \"truck-*\""
        )),
    }
}

fn load_route(dir: &Path, file: &str, name: Option<&str>) -> Result<Vec<LatLon>, String> {
    let path = dir.join(file);
    let fail = |what: String| format!("route_file {}: {what}", path.display());
    let text = read_bounded(&path, ROUTE_FILE_BYTES_MAX).map_err(fail)?;
    let lines = lines(&text).map_err(|error| fail(error.to_string()))?;
    pick(lines, name).map_err(fail)
}

/// Picks a line by its name; without a name there must be one only.
fn pick(mut lines: Vec<NamedLine>, name: Option<&str>) -> Result<Vec<LatLon>, String> {
    let names = |lines: &[NamedLine]| -> String {
        let names: Vec<_> =
            lines.iter().take(20).map(|l| l.name.clone().unwrap_or("(no name)".into())).collect();
        names.join(", ")
    };
    match name {
        None if lines.len() == 1 => Ok(lines.remove(0).points),
        None => Err(format!("it holds {} lines, choose one with route_name: {}", lines.len(), names(&lines))),
        Some(name) => match lines.iter().position(|line| line.name.as_deref() == Some(name)) {
            Some(at) => Ok(lines.remove(at).points),
            None => Err(format!("no line is called route_name = {name:?}, there are: {}", names(&lines))),
        },
    }
}

impl CommandPart {
    fn into_rule(self) -> Result<CommandRule, String> {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let name = self.name;
        if name.len() > 32 || !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(word)
        {
            return Err(format!(
                "name = {name:?}: it must be a letter and up to 31 more letters, digits, - or _"
            ));
        }
        let ttl_s = within("ttl_s", self.ttl_s.unwrap_or(COMMAND_TTL_S), 1, 24 * 3600)?;
        Ok(CommandRule { name, ttl_s })
    }
}

fn numbered<P, T>(key: &str, parts: Vec<P>, read: impl Fn(P) -> Result<T, String>) -> Result<Vec<T>, String> {
    let read_one = |(at, part)| read(part).map_err(|what| format!("[[{key}]] number {}: {what}", at + 1));
    parts.into_iter().enumerate().map(read_one).collect()
}

fn unique(key: &str, what: &str, names: impl Iterator<Item = String>) -> Result<(), String> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            return Err(format!("two [[{key}]] parts have the same {what}, {name:?}"));
        }
    }
    Ok(())
}

pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    min: T,
    max: T,
) -> Result<T, String> {
    if value >= min && value <= max {
        Ok(value)
    } else {
        Err(format!("{key} = {value}: it must be {min} to {max}"))
    }
}

/// Makes the TLS options of `[broker]`: `tls = true`, or any of its files, asks for TLS.
fn tls(broker: &BrokerPart, dir: &Path) -> Result<Option<TlsOptions>, String> {
    let identity = match (&broker.cert_file, &broker.key_file) {
        (Some(cert), Some(key)) => Some(TlsIdentity { cert_file: dir.join(cert), key_file: dir.join(key) }),
        (None, None) => None,
        _ => {
            return Err("broker.cert_file and broker.key_file go together: one of them is missing".to_owned());
        }
    };
    let has_files = broker.ca_file.is_some() || identity.is_some();
    if broker.tls == Some(false) && has_files {
        return Err("broker.tls = false, yet a certificate file is named: leave one of them out".to_owned());
    }
    let ca_file = broker.ca_file.as_ref().map(|file| dir.join(file));
    let options = TlsOptions { ca_file, identity, ..TlsOptions::default() };
    Ok((broker.tls == Some(true) || has_files).then_some(options))
}

fn check_address(key: &str, address: &str) -> Result<(), String> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => Ok(()),
        _ => Err(format!("{key} = {address:?}: it must be host:port, for instance \"127.0.0.1:1883\"")),
    }
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, String> {
    let bytes = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if bytes > bytes_max {
        return Err(format!("it has {bytes} bytes, the limit is {bytes_max}"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
