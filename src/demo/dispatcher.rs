//! The dispatcher: an ordinary MQTT client with a durable session, as a person's app would be.

use std::time::Duration;

use anyhow::{Context, bail};
use device_sdk::{Client, Event, Events, Incoming, Message, Options, QoS};

pub(super) struct Dispatcher {
    client: Client,
    events: Events,
}

/// How long the broker in the same process may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

impl Dispatcher {
    pub(super) async fn connect(address: &str) -> anyhow::Result<Self> {
        let (client, events) = Client::spawn(Options::new(address, "dispatcher"))?;
        let filters = [
            ("im/dispatch", QoS::AtLeastOnce),
            ("dev/+/telemetry/gps", QoS::AtMostOnce),
            ("dev/+/state/reported", QoS::AtLeastOnce),
        ];
        let granted = tokio::time::timeout(ANSWER_MAX, client.subscribe(&filters)).await;
        let reasons = granted.context("the broker does not answer")??;
        if let Some(refused) = reasons.iter().find(|reason| reason.is_failure()) {
            bail!("the broker refused a subscription: {}", refused.text());
        }
        Ok(Self { client, events })
    }

    /// Returns the next message.
    pub(super) async fn hear(&mut self) -> anyhow::Result<Incoming> {
        loop {
            match self.events.next().await {
                Some(Event::Message(message)) => return Ok(message),
                Some(_) => {}
                None => bail!("the dispatcher's client ended"),
            }
        }
    }

    /// Posts into the conversation; returns when the broker has it on disk.
    pub(super) async fn write(&self, text: &str) -> anyhow::Result<()> {
        let message = Message::new("im/dispatch", text.to_owned()).qos(QoS::AtLeastOnce);
        let published = self.client.publish(message).await?;
        if published.reason.is_failure() {
            bail!("the broker refused a message: {}", published.reason.text());
        }
        Ok(())
    }

    pub(super) async fn leave(self) {
        // The demo ends either way.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.client.disconnect()).await;
    }
}
