//! Another MQTT broker, through the device SDK's client: a message is delivered when that broker has acknowledged it.

use std::path::PathBuf;

use device_sdk::{Client, Event, Events, Message, Options, QoS, TlsOptions};
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::broker::judge;
use crate::{
    config::Secret,
    notice::Notice,
    outbox::{Attempt, Verdict},
    state::Entry,
};

/// Longest topic, bytes.
const TOPIC_BYTES_MAX: usize = 1_024;

/// What another broker is told in the configuration (`type = "mqtt"`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// `host:port`, or a URL as the device SDK reads it.
    pub address: String,
    /// The client id there. One running bridge an id.
    pub client_id: String,
    /// The topic; `{device}` and `{kind}` stand for those of the message.
    pub topic: String,
    /// Whether the broker keeps the last message of each topic.
    #[serde(default)]
    pub retain: bool,
    /// TLS, trusting the system's certificate authorities.
    #[serde(default)]
    pub tls: bool,
    /// The certificate authorities to trust instead, PEM; TLS goes without saying then.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// User name.
    #[serde(default)]
    pub username: Option<String>,
    /// Password.
    #[serde(default)]
    pub password: Option<Secret>,
}

impl Mqtt {
    /// Checks what can be checked without a connection.
    ///
    /// # Errors
    /// The topic cannot be one, or the client id is empty.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.topic.is_empty()
            || self.topic.len() > TOPIC_BYTES_MAX
            || self.topic.contains(['+', '#', '\0'])
        {
            return Err(format!(
                "topic = {:?}: it must be a topic of 1 to {TOPIC_BYTES_MAX} bytes without + and #; {{device}} and {{kind}} are filled in",
                self.topic
            ));
        }
        if self.client_id.is_empty() {
            return Err("client_id is empty: the broker must know the bridge again".to_owned());
        }
        Ok(())
    }

    fn options(&self) -> Options {
        let mut options = Options::new(self.address.clone(), self.client_id.clone());
        options.username = self.username.clone();
        options.password = self.password.as_ref().map(|secret| secret.0.clone().into_bytes());
        options.tls = (self.tls || self.ca_file.is_some())
            .then(|| TlsOptions { ca_file: self.ca_file.clone(), ..TlsOptions::default() });
        options
    }

    /// The topic of a message; a device's name cannot make another level or a wildcard of it.
    fn topic_of(&self, notice: &Notice) -> String {
        let word = |text: &str| text.replace(['/', '+', '#', '\0'], "_");
        let device = word(notice.device.as_deref().unwrap_or("none"));
        self.topic.replace("{device}", &device).replace("{kind}", &word(&notice.kind))
    }
}

/// Another broker and the connection to it, which is made with the first message.
#[derive(Debug)]
pub(crate) struct MqttSink {
    settings: Mqtt,
    client: Option<(Client, JoinHandle<()>)>,
}

impl MqttSink {
    /// Makes a sink; it connects when there is something to say.
    pub(crate) fn new(settings: &Mqtt) -> MqttSink {
        MqttSink { settings: settings.clone(), client: None }
    }

    /// The client, started if need be.
    fn client(&mut self) -> Result<&Client, Verdict> {
        if self.client.is_none() {
            let (client, events) = Client::spawn(self.settings.options())
                .map_err(|error| super::channel::settings(error.to_string()))?;
            let address = self.settings.address.clone();
            self.client = Some((client, tokio::spawn(log_events(address, events))));
        }
        let (client, _) = self.client.as_ref().expect("it was just made if it was not there");
        Ok(client)
    }
}

impl Drop for MqttSink {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.client {
            task.abort();
        }
    }
}

impl Attempt for MqttSink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        let topic = self.settings.topic_of(&Notice::of(entry));
        let mut message = Message::new(topic, entry.payload.clone())
            .qos(QoS::AtLeastOnce)
            .user_property("im-id", entry.id.as_str());
        message.retain = self.settings.retain;
        message.properties.payload_format_utf8 = Some(true);
        message.properties.content_type = Some("application/json".into());
        let client = match self.client() {
            Ok(client) => client,
            Err(verdict) => return verdict,
        };
        match client.publish(message).await {
            Ok(_) => Verdict::Delivered,
            Err(error) => judge(error),
        }
    }
}

/// Reads the client's events, which would wait for a reader; what people should know of is logged.
async fn log_events(address: String, mut events: Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Disconnected { why, retry_in_ms } => {
                tracing::warn!(address, why, retry_in_ms, "no connection to the sink's broker");
            }
            Event::Refused { reason, why, retry_in_ms } => {
                tracing::error!(
                    address,
                    ?reason,
                    why,
                    retry_in_ms,
                    "the sink's broker refuses the connection"
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::channel::tests::notice;

    fn mqtt(topic: &str) -> Mqtt {
        Mqtt {
            address: "127.0.0.1:1".into(),
            client_id: "bridge".into(),
            topic: topic.into(),
            retain: false,
            tls: false,
            ca_file: None,
            username: None,
            password: Some(Secret("hunter2".into())),
        }
    }

    #[test]
    fn a_topic_is_filled_in_and_a_device_cannot_leave_its_level() {
        let mut evil = notice();
        evil.device = Some("a/#".to_owned());
        assert_eq!(mqtt("fleet/{device}/{kind}").topic_of(&evil), "fleet/a__/route_deviation");
        assert!(mqtt("fleet/#").check().unwrap_err().contains("without + and #"));
        assert!(!format!("{:?}", mqtt("a")).contains("hunter2"));
    }
}
