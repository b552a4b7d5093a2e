//! Joins a twin to a client: publishes the newest of what is reported, and hands over what is wanted.
//!
//! The disk is written on blocking threads; publishing is a task of its own, which waits through reconnects.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::QoS;
use protocol::im::{desired_state_topic, reported_state_topic};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::{Desired, Twin, TwinError};
use crate::{Client, Incoming, Message, PublishError};

/// The twin of one device at its client. Subscribe to [`TwinRunner::topic`] and hand over what comes.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use device_sdk::twin::{Desired, Twin, TwinRunner};
/// use device_sdk::{Client, Event, Options, QoS};
/// use serde_json::json;
///
/// let (client, mut events) = Client::spawn(Options::new("127.0.0.1:1883", "truck-7"))?;
/// let twin = TwinRunner::new(client.clone(), "truck-7", Twin::open("state/twin".as_ref())?);
/// client.subscribe(&[(twin.topic().as_str(), QoS::AtLeastOnce)]).await?;
/// twin.report(json!({ "firmware": "1.4.2", "interval_s": 10 })).await?;
/// while let Some(event) = events.next().await {
///     let Event::Message(message) = event else { continue };
///     if let Some(Desired::Taken { delta: Some(delta) }) = twin.handle(&message).await? {
///         // Do it, then say so.
///         twin.report(json!({ "interval_s": delta["interval_s"] })).await?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TwinRunner {
    device: String,
    desk: Arc<Desk>,
    publisher: AbortHandle,
}

#[derive(Debug)]
struct Desk {
    twin: Mutex<Twin>,
    changed: Notify,
    told: Notify,
}

impl Desk {
    fn twin(&self) -> MutexGuard<'_, Twin> {
        self.twin.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TwinRunner {
    /// Makes the twin of a device, and publishes what the broker does not have. Must be called inside a tokio runtime.
    pub fn new(client: Client, device: impl Into<String>, twin: Twin) -> Self {
        let device = device.into();
        let desk = Arc::new(Desk { twin: Mutex::new(twin), changed: Notify::new(), told: Notify::new() });
        let topic = reported_state_topic(&device);
        let publisher = tokio::spawn(publish(client, topic, desk.clone())).abort_handle();
        Self { device, desk, publisher }
    }

    /// Returns the topic to subscribe to, of what is wanted.
    pub fn topic(&self) -> String {
        desired_state_topic(&self.device)
    }

    /// Changes what is reported by a merge patch: durable on return, published when there is a connection. Returns whether
    /// anything is different now.
    ///
    /// # Errors
    /// As for [`Twin::report`].
    pub async fn report(&self, patch: Value) -> Result<bool, TwinError> {
        let is_new = self.write(move |twin| twin.report(patch)).await?;
        self.desk.changed.notify_one();
        Ok(is_new)
    }

    /// Takes an incoming message, `None` if it is of another topic. Acknowledge it when this returns `Ok`. What is refused is
    /// logged too.
    ///
    /// # Errors
    /// As for [`Twin::take_desired`].
    pub async fn handle(&self, incoming: &Incoming) -> Result<Option<Desired>, TwinError> {
        if incoming.topic != self.topic() {
            return Ok(None);
        }
        let payload = incoming.payload.clone();
        let desired = self.write(move |twin| twin.take_desired(&payload)).await?;
        if let Desired::Refused { why } = &desired {
            tracing::warn!(why, "a desired state was not taken");
        }
        self.desk.changed.notify_one();
        Ok(Some(desired))
    }

    /// Returns what is reported, as it is published.
    pub fn document(&self) -> bytes::Bytes {
        self.desk.twin().document()
    }

    /// Returns what is wanted, as it was taken last.
    pub fn desired(&self) -> Option<Value> {
        self.desk.twin().desired().cloned()
    }

    /// Returns what is wanted and not reported: what is still to be done after a restart.
    pub fn delta(&self) -> Option<Value> {
        self.desk.twin().delta()
    }

    /// Waits until the broker has what is reported.
    pub async fn settled(&self) {
        loop {
            let told = self.desk.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.desk.twin().pending().is_none() {
                return;
            }
            told.await;
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Twin) -> Result<T, TwinError> + Send + 'static,
    ) -> Result<T, TwinError> {
        let desk = self.desk.clone();
        let work = tokio::task::spawn_blocking(move || change(&mut desk.twin()));
        match work.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Drop for TwinRunner {
    fn drop(&mut self) {
        self.publisher.abort();
    }
}

async fn publish(client: Client, topic: String, desk: Arc<Desk>) {
    loop {
        let pending = desk.twin().pending();
        let Some((version, payload)) = pending else {
            desk.changed.notified().await;
            continue;
        };
        let message = Message::new(&*topic, payload).qos(QoS::AtLeastOnce).retain(true);
        match client.publish(message).await {
            Ok(_) => {
                if let Err(error) = desk.twin().told(version) {
                    tracing::error!(%error, "the twin did not note a published state");
                    return;
                }
                desk.told.notify_waiters();
            }
            Err(PublishError::Stopped) => return,
            Err(error) => {
                tracing::error!(%error, version, "the broker did not take the reported state");
                // The same again would be refused again: the next change is tried.
                desk.changed.notified().await;
            }
        }
    }
}
