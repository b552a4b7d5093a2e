//! The other end: it takes every record, result and receipt, over a good link, and sends the commands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use device_sdk::{Client, Event, Events, Options, QoS};
use tokio::time::timeout;

use super::RealError;
use super::stage::Stage;

/// What it listens to.
const FILTERS: [&str; 3] = ["dev/+/telemetry/gps", "dev/+/cmd/result", "$im/receipts"];
/// Messages that the broker may send it before they are acknowledged.
const IN_FLIGHT_MAX: u16 = 1_000;
/// How long it may take to say goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// The office, connected and subscribed.
pub(super) struct Office {
    client: Client,
    /// `None` once it is being listened to.
    events: Option<Events>,
}

/// Where the office is, and as whom it goes to the broker.
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<Vec<u8>>,
    pub(super) session_expiry_s: u32,
}

impl Office {
    /// Connects and subscribes.
    pub(super) async fn open(place: Place, patience: Duration) -> Result<Office, RealError> {
        let broken = |what: String| RealError::Office { what };
        let options = Options {
            username: place.username,
            password: place.password,
            session_expiry_s: place.session_expiry_s,
            inflight_max: IN_FLIGHT_MAX,
            ..Options::new(place.address.to_string(), place.client_id)
        };
        let (client, mut events) = Client::spawn(options).map_err(|error| broken(error.to_string()))?;
        let filters = FILTERS.map(|filter| (filter, QoS::AtLeastOnce));
        let mut why = "no answer".to_owned();
        let subscribing = async {
            let subscribe = client.subscribe(&filters);
            tokio::pin!(subscribe);
            loop {
                tokio::select! {
                    codes = &mut subscribe => return codes,
                    Some(event) = events.next() => if let Event::Disconnected { why: said, .. } | Event::Refused { why: said, .. } = event {
                        why = said;
                    },
                }
            }
        };
        let codes = timeout(patience, subscribing).await;
        let Ok(codes) = codes else {
            return Err(broken(format!("not connected after {} s: {why}", patience.as_secs())));
        };
        let codes = codes.map_err(|error| broken(error.to_string()))?;
        // A broker without receipts may refuse them: commands that expire there then have no end.
        if let Some(at) = codes.iter().take(2).position(|code| code.is_failure()) {
            return Err(broken(format!("the broker refuses {}: {}", FILTERS[at], codes[at].text())));
        }
        Ok(Office { client, events: Some(events) })
    }

    /// What commands go out by.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Takes what comes, for as long as it is let.
    pub(super) fn listen(&mut self, stage: Arc<Stage>) -> impl Future<Output = ()> + use<> {
        let events = self.events.take();
        async move {
            let Some(mut events) = events else { return };
            while let Some(event) = events.next().await {
                match event {
                    Event::Message(incoming) => stage.office_hears(&incoming),
                    Event::SubscriptionRefused { filter, reason } => {
                        let why = reason.text();
                        stage.break_off(format!("the office's subscription {filter} was refused: {why}"));
                    }
                    other => tracing::debug!(event = ?other, "the office"),
                }
            }
        }
    }

    /// Says goodbye.
    pub(super) async fn close(self) {
        // Who does not answer is left.
        let _ = timeout(GOODBYE_MAX, self.client.disconnect()).await;
    }
}
