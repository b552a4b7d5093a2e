//! Where messages go, one file a channel: how it is spoken to, and what its answers mean.
//!
//! A sink tries once and says what came of it; when and how often is the outbox's. It keeps nothing that must not be lost.

pub(crate) mod alertmanager;
pub(crate) mod broker;
mod channel;
pub(crate) mod dingtalk;
pub(crate) mod discord;
pub(crate) mod email;
pub(crate) mod feishu;
pub(crate) mod file;
mod guard;
mod http;
mod markup;
pub(crate) mod matrix;
pub(crate) mod mqtt;
pub(crate) mod ntfy;
pub(crate) mod pagerduty;
#[cfg(test)]
mod peer_tests;
#[cfg(test)]
mod signature_tests;
pub(crate) mod slack;
pub(crate) mod teams;
pub(crate) mod telegram;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod webhook;
pub(crate) mod wecom;

use self::{
    channel::ChannelSink, email::EmailSink, file::FileSink, mqtt::MqttSink, ntfy::NtfySink,
    webhook::WebhookSink,
};
use crate::{
    config::{SinkKind, SinkRule},
    outbox::{Attempt, Verdict},
    state::Entry,
};

/// A sink of any type.
#[derive(Debug)]
pub(crate) enum AnySink {
    Webhook(WebhookSink),
    Ntfy(NtfySink),
    File(FileSink),
    Mqtt(MqttSink),
    Email(EmailSink),
    Channel(ChannelSink),
}

impl AnySink {
    /// Makes a sink ready; nothing is sent.
    ///
    /// # Errors
    /// What its type says of its settings.
    pub(crate) fn new(rule: &SinkRule) -> Result<AnySink, String> {
        Ok(match &rule.kind {
            SinkKind::Webhook(webhook) => AnySink::Webhook(WebhookSink::new(rule, webhook)?),
            SinkKind::Ntfy(ntfy) => AnySink::Ntfy(NtfySink::new(rule, ntfy)?),
            SinkKind::Email(email) => AnySink::Email(EmailSink::new(rule, email)?),
            SinkKind::Mqtt(mqtt) => AnySink::Mqtt(MqttSink::new(mqtt)),
            SinkKind::File(file) => AnySink::File(FileSink::new(file)),
            SinkKind::Slack(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::Discord(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::Teams(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::Telegram(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::DingTalk(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::Feishu(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::WeCom(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::Matrix(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::PagerDuty(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
            SinkKind::Alertmanager(it) => AnySink::Channel(ChannelSink::new(rule, &it.url.0, it.clone())?),
        })
    }
}

impl Attempt for AnySink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        match self {
            AnySink::Webhook(sink) => sink.attempt(entry).await,
            AnySink::Ntfy(sink) => sink.attempt(entry).await,
            AnySink::File(sink) => sink.attempt(entry).await,
            AnySink::Mqtt(sink) => sink.attempt(entry).await,
            AnySink::Email(sink) => sink.attempt(entry).await,
            AnySink::Channel(sink) => sink.attempt(entry).await,
        }
    }
}
