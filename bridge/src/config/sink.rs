//! Where messages go besides the conversation: `[[sink]]`, one a channel.
//!
//! Keys that all sinks have are read here; those of a type are read by the type's own settings, which know no others.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::{Secret, SecretUrl, file::within};
use crate::{
    outbox::Service,
    sinks::{
        alertmanager::{self, Alertmanager},
        dingtalk::{self, DingTalk},
        discord::{self, Discord},
        email::{self, Email},
        feishu::{self, Feishu},
        file::FileSettings,
        matrix::{self, Matrix},
        mqtt::Mqtt,
        ntfy::{self, Ntfy},
        pagerduty::{self, PagerDuty},
        slack::{self, Slack},
        teams::{self, Teams},
        telegram::{self, Telegram},
        webhook::Webhook,
        wecom::{self, WeCom},
    },
};

/// How long one attempt may take unless the sink says otherwise.
const TIMEOUT_S: u64 = 10;
/// How long messages may wait for the quota before they are told as one.
const DIGEST_AFTER_S: u64 = 60;
/// Messages that may be under way to a sink that recognises repeats.
const WINDOW: usize = 64;

/// A channel to people or programs.
#[derive(Clone, Debug)]
pub struct SinkRule {
    /// What it is called in logs and in the outbox: the address may be a secret. Unique.
    pub name: String,
    /// What it is.
    pub kind: SinkKind,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Whether its name may lead to this host or into a private network.
    pub private: bool,
    /// How often it may be spoken to.
    pub quota: Option<Quota>,
    /// Messages are told as one when it would take longer than this until the last of them is told; never if absent or without a quota.
    pub digest_after: Option<Duration>,
}

/// How often a sink may be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Messages in each span.
    pub count: u32,
    /// The span, milliseconds.
    pub per_ms: u64,
}

impl Quota {
    /// Reads `20/min`: a number, and `s`, `min`, `h` or `d`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Quota, String> {
        let wrong = || format!("quota = {text:?}: it must be like \"20/min\" (s, min, h, d), or \"none\"");
        let (count, per) = text.split_once('/').ok_or_else(wrong)?;
        let per_ms = match per.trim() {
            "s" => 1_000,
            "min" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            _ => return Err(wrong()),
        };
        match count.trim().parse() {
            Ok(count @ 1..=1_000_000) => Ok(Quota { count, per_ms }),
            _ => Err(wrong()),
        }
    }

    /// The time between two messages, milliseconds: a twentieth more than the quota says, since messages take different times on their way. Without
    /// bursts, so that no span of any length has more than its share.
    pub(crate) fn spacing_ms(self) -> u64 {
        (self.per_ms + self.per_ms / 20).div_ceil(u64::from(self.count))
    }
}

/// What a sink is, with the settings of its type.
#[derive(Clone, Debug)]
pub enum SinkKind {
    /// A web server that takes the message's JSON.
    Webhook(Webhook),
    /// A topic of ntfy.
    Ntfy(Ntfy),
    /// An SMTP server.
    Email(Email),
    /// Another MQTT broker.
    Mqtt(Mqtt),
    /// A file.
    File(FileSettings),
    /// A channel of Slack.
    Slack(Slack),
    /// A channel of Discord.
    Discord(Discord),
    /// A channel of Microsoft Teams.
    Teams(Teams),
    /// A chat of Telegram.
    Telegram(Telegram),
    /// A group of DingTalk.
    DingTalk(DingTalk),
    /// A group of Feishu.
    Feishu(Feishu),
    /// A group of WeCom.
    WeCom(WeCom),
    /// A room of Matrix.
    Matrix(Matrix),
    /// A service of PagerDuty.
    PagerDuty(PagerDuty),
    /// Prometheus Alertmanager.
    Alertmanager(Alertmanager),
}

/// The types as they are written.
const TYPES: &str = "webhook, ntfy, slack, discord, teams, telegram, dingtalk, feishu, wecom, matrix, pagerduty, alertmanager, email, mqtt, file";

impl SinkRule {
    /// Makes a sink with the defaults of all sinks.
    pub fn new(name: impl Into<String>, kind: SinkKind) -> SinkRule {
        let quota = kind.quota();
        let digest_after = quota.map(|_| Duration::from_secs(DIGEST_AFTER_S));
        SinkRule {
            name: name.into(),
            kind,
            timeout: Duration::from_secs(TIMEOUT_S),
            private: false,
            quota,
            digest_after,
        }
    }

    /// How its messages are served.
    pub(crate) fn service(&self) -> Service {
        let spacing_ms = self.quota.map_or(0, Quota::spacing_ms);
        // What is under way cannot be told as one with others.
        let window = if self.kind.knows_repeats() && spacing_ms == 0 { WINDOW } else { 1 };
        Service { spacing_ms, ages: true, window }
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
        let private = take::<bool>(&mut table, "private")?.unwrap_or(false);
        let quota = take::<String>(&mut table, "quota")?;
        let digest_after_s = take::<u64>(&mut table, "digest_after_s")?;
        let is_digested = take::<bool>(&mut table, "digest")?;
        let kind = SinkKind::parse(kind, table)?;
        let name = name.unwrap_or_else(|| kind.default_name());
        if name.is_empty() || name.len() > 256 {
            return Err(format!("name has {} bytes, it must have 1 to 256", name.len()));
        }
        let mut rule =
            SinkRule { timeout: Duration::from_secs(timeout_s), private, ..SinkRule::new(name, kind) };
        match quota.as_deref() {
            None => {}
            Some("none") => rule.quota = None,
            Some(text) => rule.quota = Some(Quota::parse(text)?),
        }
        let after_s = within("digest_after_s", digest_after_s.unwrap_or(DIGEST_AFTER_S), 1, 24 * 3_600)?;
        let is_digested = is_digested.unwrap_or(rule.quota.is_some());
        if is_digested && rule.quota.is_none() {
            return Err("digest = true needs a quota: without one every message is told at once".to_owned());
        }
        rule.digest_after = is_digested.then(|| Duration::from_secs(after_s));
        Ok(rule)
    }
}

impl SinkKind {
    fn parse(kind: &str, table: toml::Table) -> Result<SinkKind, String> {
        Ok(match kind {
            "webhook" => {
                let webhook: Webhook = read(table)?;
                webhook.check()?;
                SinkKind::Webhook(webhook)
            }
            "ntfy" => SinkKind::Ntfy(read(table)?),
            "slack" => SinkKind::Slack(read(table)?),
            "discord" => SinkKind::Discord(read(table)?),
            "teams" => SinkKind::Teams(read(table)?),
            "telegram" => SinkKind::Telegram(read(table)?),
            "dingtalk" => SinkKind::DingTalk(read(table)?),
            "feishu" => SinkKind::Feishu(read(table)?),
            "wecom" => SinkKind::WeCom(read(table)?),
            "matrix" => SinkKind::Matrix(read(table)?),
            "pagerduty" => SinkKind::PagerDuty(read(table)?),
            "alertmanager" => SinkKind::Alertmanager(read(table)?),
            "email" => {
                let email: Email = read(table)?;
                email.check()?;
                SinkKind::Email(email)
            }
            "mqtt" => {
                let mqtt: Mqtt = read(table)?;
                mqtt.check()?;
                SinkKind::Mqtt(mqtt)
            }
            "file" => {
                let file: FileSettings = read(table)?;
                file.check()?;
                SinkKind::File(file)
            }
            _ => return Err(format!("type = {kind:?} is unknown; there are {TYPES}")),
        })
    }

    /// What the channel's documentation allows; for one's own server as a rule more.
    fn quota(&self) -> Option<Quota> {
        let a_minute = |count| Some(Quota { count, per_ms: 60_000 });
        match self {
            SinkKind::Webhook(_) => None,
            SinkKind::File(_) | SinkKind::Alertmanager(_) | SinkKind::Mqtt(_) => None,
            // Its limit on visitors: 60 at once, then one every 5 s.
            SinkKind::Ntfy(_) => a_minute(12),
            // One message a second and webhook.
            SinkKind::Slack(_) => a_minute(60),
            SinkKind::Discord(_) => a_minute(30),
            // Four requests a second.
            SinkKind::Teams(_) => a_minute(200),
            // In a group; to a person one a second.
            SinkKind::Telegram(_) => a_minute(20),
            SinkKind::DingTalk(_) | SinkKind::WeCom(_) => a_minute(20),
            // 100 a minute and 5 a second.
            SinkKind::Feishu(_) => a_minute(90),
            // What a server allows is its own affair; Synapse's default is one in five seconds and ten at once.
            SinkKind::Matrix(_) => a_minute(12),
            SinkKind::PagerDuty(_) => a_minute(120),
            // Nobody reads more.
            SinkKind::Email(_) => a_minute(30),
        }
    }

    /// Whether the other side can tell a repeat by its id.
    fn knows_repeats(&self) -> bool {
        matches!(
            self,
            SinkKind::Webhook(_) | SinkKind::Matrix(_) | SinkKind::PagerDuty(_) | SinkKind::Alertmanager(_)
        )
    }

    /// The longest text of one message, bytes.
    pub(crate) fn text_bytes_max(&self) -> usize {
        match self {
            SinkKind::Webhook(_) => 64 * 1_024,
            SinkKind::Ntfy(_) => ntfy::MESSAGE_BYTES_MAX,
            SinkKind::File(_) | SinkKind::Mqtt(_) => 64 * 1_024,
            SinkKind::Email(_) => email::TEXT_BYTES_MAX,
            SinkKind::Slack(_) => slack::TEXT_BYTES_MAX,
            SinkKind::Discord(_) => discord::TEXT_BYTES_MAX,
            SinkKind::Teams(_) => teams::TEXT_BYTES_MAX,
            SinkKind::Telegram(_) => telegram::TEXT_BYTES_MAX,
            SinkKind::DingTalk(_) => dingtalk::TEXT_BYTES_MAX,
            SinkKind::Feishu(_) => feishu::TEXT_BYTES_MAX,
            SinkKind::WeCom(_) => wecom::TEXT_BYTES_MAX,
            SinkKind::Matrix(_) => matrix::TEXT_BYTES_MAX,
            SinkKind::PagerDuty(_) => pagerduty::TEXT_BYTES_MAX,
            SinkKind::Alertmanager(_) => alertmanager::TEXT_BYTES_MAX,
        }
    }

    /// The type as it is written, then where it leads to as far as that is no secret.
    fn default_name(&self) -> String {
        match self {
            SinkKind::Webhook(webhook) => webhook.url.origin(),
            SinkKind::Ntfy(ntfy) => format!("ntfy {}", ntfy.url.origin()),
            SinkKind::Email(email) => format!("email {}", email.host),
            SinkKind::Mqtt(mqtt) => format!("mqtt {}", mqtt.client_id),
            SinkKind::File(file) => format!("file {}", file.path.display()),
            SinkKind::Slack(_) => "slack".to_owned(),
            SinkKind::Discord(_) => "discord".to_owned(),
            SinkKind::Teams(_) => "teams".to_owned(),
            SinkKind::Telegram(_) => "telegram".to_owned(),
            SinkKind::DingTalk(_) => "dingtalk".to_owned(),
            SinkKind::Feishu(_) => "feishu".to_owned(),
            SinkKind::WeCom(_) => "wecom".to_owned(),
            SinkKind::Matrix(_) => "matrix".to_owned(),
            SinkKind::PagerDuty(_) => "pagerduty".to_owned(),
            SinkKind::Alertmanager(_) => "alertmanager".to_owned(),
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
