//! Where messages go besides the conversation: `[[sink]]`, one a channel.
//!
//! Keys that all sinks have are read here; those of a type are read by the type's own settings, which know no others.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::{Secret, SecretUrl, file::within};
use crate::sinks::{ntfy::Ntfy, webhook::Webhook};

/// How long one attempt may take unless the sink says otherwise.
const TIMEOUT_S: u64 = 10;

/// A channel to people or programs.
#[derive(Clone, Debug)]
pub struct SinkRule {
    /// What it is called in logs and in the outbox: the address may be a secret. Unique.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// What a sink is, with the settings of its type.
#[derive(Clone, Debug)]
pub enum SinkKind {
    /// A web server that takes the message's JSON.
    Webhook(Webhook),
    /// A topic of ntfy.
    Ntfy(Ntfy),
}

/// The types as they are written.
const TYPES: &str = "webhook, ntfy";

impl SinkRule {
    /// Makes a sink with the defaults of all sinks.
    pub fn new(name: impl Into<String>, kind: SinkKind) -> SinkRule {
        SinkRule { name: name.into(), kind, timeout: Duration::from_secs(TIMEOUT_S) }
    }

    /// Reads one `[[sink]]`.
    pub(super) fn parse(mut table: toml::Table) -> Result<SinkRule, String> {
        let kind = take::<String>(&mut table, "type")?
            .ok_or_else(|| format!("it has no type; there are {TYPES}"))?;
        SinkRule::parse_as(&kind, table)
    }

    /// Reads a sink whose type is known, as `[[webhook]]` is.
    pub(super) fn parse_as(kind: &str, mut table: toml::Table) -> Result<SinkRule, String> {
        let name = take::<String>(&mut table, "name")?;
        let timeout_s = take::<u64>(&mut table, "timeout_s")?.unwrap_or(TIMEOUT_S);
        let timeout_s = within("timeout_s", timeout_s, 1, 300)?;
        let kind = SinkKind::parse(kind, table)?;
        let name = name.unwrap_or_else(|| kind.default_name());
        if name.is_empty() || name.len() > 256 {
            return Err(format!("name has {} bytes, it must have 1 to 256", name.len()));
        }
        Ok(SinkRule { name, kind, timeout: Duration::from_secs(timeout_s) })
    }
}

impl SinkKind {
    fn parse(kind: &str, table: toml::Table) -> Result<SinkKind, String> {
        Ok(match kind {
            "webhook" => {
                let webhook: Webhook = read(table)?;
                webhook.header_map()?;
                SinkKind::Webhook(webhook)
            }
            "ntfy" => SinkKind::Ntfy(read(table)?),
            _ => return Err(format!("type = {kind:?} is unknown; there are {TYPES}")),
        })
    }

    /// The type as it is written, then where it leads to as far as that is no secret.
    fn default_name(&self) -> String {
        match self {
            SinkKind::Webhook(webhook) => webhook.url.origin(),
            SinkKind::Ntfy(ntfy) => format!("ntfy {}", ntfy.url.origin()),
        }
    }
}

fn take<'de, T: Deserialize<'de>>(table: &mut toml::Table, key: &str) -> Result<Option<T>, String> {
    let Some(value) = table.remove(key) else { return Ok(None) };
    value.try_into().map(Some).map_err(|error: toml::de::Error| format!("{key}: {}", error.message()))
}

fn read<T: de::DeserializeOwned>(table: toml::Table) -> Result<T, String> {
    table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

impl<'de> Deserialize<'de> for SecretUrl {
    /// The address may be a secret: what is wrong with it is told without it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretUrl, D::Error> {
        let wrong = |what: &dyn fmt::Display| de::Error::custom(format!("url: {what}"));
        let url = reqwest::Url::parse(&String::deserialize(deserializer)?).map_err(|error| wrong(&error))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong(&format!("the scheme is {:?}, it must be http or https", url.scheme())));
        }
        Ok(SecretUrl(url))
    }
}
