//! What a bridge is told: which broker, which vehicles to watch, where alerts go, which commands exist.
//!
//! Owns the checked form, made from a TOML file by [`Config::load`] or by a program that embeds the bridge
//! ([`Config::new`]). Whatever is in here has been parsed: a route is a line on Earth, a sink's address is one.

mod file;
mod route_file;
mod rule;
mod sink;

use std::{fmt, path::PathBuf, sync::Arc};

use device_sdk::TlsOptions;
use reqwest::Url;
use tracks::{corridor::Corridor, fence::Circle, plausibility::GateOptions};

pub use crate::sinks::{
    alertmanager::Alertmanager,
    dingtalk::DingTalk,
    discord::Discord,
    email::{Email, SmtpTls},
    feishu::Feishu,
    file::FileSettings,
    matrix::Matrix,
    mqtt::Mqtt,
    ntfy::Ntfy,
    pagerduty::PagerDuty,
    slack::Slack,
    teams::Teams,
    telegram::{ChatId, Telegram},
    webhook::{Webhook, WebhookFormat},
    wecom::WeCom,
};
pub use route_file::{NamedLine, RouteFileError, lines};
pub(crate) use rule::DISPATCH;
pub use sink::{Quota, SinkKind, SinkRule};

pub use crate::rules::{Quiet, Rule, Rules, Source, Step};

/// The most rules or commands a configuration may have, each.
pub const RULES_MAX: usize = 1_000;

/// A bridge's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker and the session there.
    pub broker: BrokerSettings,
    /// Where the outbox and what it knows of vehicles and commands are kept; one process at a time.
    pub data_dir: PathBuf,
    /// Which fixes are believed.
    pub gate: GateOptions,
    /// The conversation for alerts and commands.
    pub dispatch_topic: String,
    /// What is watched; the first rule that matches a device counts.
    pub vehicles: Vec<VehicleRule>,
    /// Where alerts go besides the conversation.
    pub sinks: Vec<SinkRule>,
    /// What is told to whom; without any, everything to all sinks.
    pub rules: Rules,
    /// The commands that may be given in the conversation; without any the bridge takes none.
    pub commands: Vec<CommandRule>,
    /// Limits and pauses of the outbox.
    pub outbox: OutboxSettings,
}

impl Config {
    /// Makes a configuration that watches nothing and takes no commands yet, with `im/dispatch` as the conversation.
    pub fn new(
        address: impl Into<String>,
        client_id: impl Into<String>,
        data_dir: impl Into<PathBuf>,
    ) -> Config {
        Config {
            broker: BrokerSettings {
                address: address.into(),
                tls: None,
                client_id: client_id.into(),
                username: None,
                password: None,
                session_expiry_s: SESSION_EXPIRY_S,
            },
            data_dir: data_dir.into(),
            gate: GateOptions::default(),
            dispatch_topic: "im/dispatch".to_owned(),
            vehicles: Vec::new(),
            sinks: Vec::new(),
            rules: Rules::default(),
            commands: Vec::new(),
            outbox: OutboxSettings::default(),
        }
    }
}

/// The default of [`BrokerSettings::session_expiry_s`]: a week.
pub const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;

/// The broker and the session there.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// `host:port`.
    pub address: String,
    /// TLS to it; `None` = plain TCP.
    pub tls: Option<TlsOptions>,
    /// The client id, whose session keeps what was not acknowledged. One running bridge an id.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// How long the broker keeps the session of a bridge that is away, seconds.
    pub session_expiry_s: u32,
}

/// What is watched for the devices that match.
#[derive(Clone, Debug)]
pub struct VehicleRule {
    /// Which devices.
    pub devices: DevicePattern,
    /// The route to stay on, and how far beside it is still on it.
    pub corridor: Option<Arc<Corridor>>,
    /// Where to arrive.
    pub fence: Option<FenceRule>,
}

/// One device, or all whose id starts alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevicePattern {
    /// This device.
    Exactly(String),
    /// Devices whose id starts so; everything if empty.
    StartingWith(String),
}

impl DevicePattern {
    /// Whether a device id is meant.
    pub fn matches(&self, device: &str) -> bool {
        match self {
            DevicePattern::Exactly(id) => id == device,
            DevicePattern::StartingWith(prefix) => device.starts_with(prefix.as_str()),
        }
    }
}

impl fmt::Display for DevicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DevicePattern::Exactly(id) => f.write_str(id),
            DevicePattern::StartingWith(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// A place to arrive at.
#[derive(Clone, Debug)]
pub struct FenceRule {
    /// What people call it.
    pub name: String,
    /// Where it is.
    pub area: Circle,
}

/// A command that may be given in the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRule {
    /// What is written behind the slash and what the device is told.
    pub name: String,
    /// How long a command lives, counted from when it was written, seconds.
    pub ttl_s: u32,
}

/// The default of [`CommandRule::ttl_s`].
pub const COMMAND_TTL_S: u32 = 60;

/// Limits and pauses of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxSettings {
    /// Most messages that wait for one sink; beyond it the oldest becomes a dead letter.
    pub entries_max: usize,
    /// How long a message is tried before it becomes a dead letter, seconds.
    pub age_max_s: u64,
    /// Shortest pause after a failed attempt, milliseconds.
    pub retry_min_ms: u64,
    /// Longest pause after a failed attempt, milliseconds; a server's Retry-After may ask for more.
    pub retry_max_ms: u64,
    /// Most bytes on disk.
    pub bytes_max: u64,
}

impl Default for OutboxSettings {
    fn default() -> Self {
        Self {
            entries_max: 10_000,
            age_max_s: 24 * 3600,
            retry_min_ms: 1_000,
            retry_max_ms: 300_000,
            bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A sink's address: path and query often are the key to it, so only scheme, host and port are ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(pub Url);

impl SecretUrl {
    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/***", self.origin())
    }
}

/// What is wrong with a configuration: the file, the place in it, the key, the value and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {what}")]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// What is wrong.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let url = SecretUrl(Url::parse("https://hooks.example:8443/services/T0K3N?key=s3cret").unwrap());
        let shown = format!("{:?} {:?}", url, Secret("hunter2".into()));
        assert_eq!(shown, "https://hooks.example:8443/*** ***");
    }

    #[test]
    fn a_pattern_matches_one_device_or_all_that_start_alike() {
        let exactly = DevicePattern::Exactly("truck-7".into());
        let starting = DevicePattern::StartingWith("truck-".into());
        for (device, by_exactly, by_starting) in
            [("truck-7", true, true), ("truck-77", false, true), ("van-7", false, false)]
        {
            assert_eq!(exactly.matches(device), by_exactly, "{device}");
            assert_eq!(starting.matches(device), by_starting, "{device}");
        }
        assert_eq!((exactly.to_string(), starting.to_string()), ("truck-7".into(), "truck-*".into()));
    }
}
