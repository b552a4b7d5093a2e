//! What the program holds: cheap handles to the driver's task.

use std::sync::{Arc, Mutex, PoisonError};

use bytestring::ByteString;
use protocol::{
    QoS, ReasonCode, SubscribeFilter, SubscribeOptions, TopicFilter, UserProperties, validate_topic_name,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::probes::SharedStatus;
use super::task::{Ends, Task};
use crate::endpoints::NETWORK_BYTES_MAX;
use crate::heartbeat::HeartbeatStatus;
use crate::queue::Queue;
use crate::received::ReceivedLog;
use crate::{
    AckToken, Class, ClientError, Endpoint, Event, Message, Options, PendingEntry, PublishError, Published,
    QueueError, QueueStatus, StartError,
};

/// Publishes that may wait for the driver.
const PUBLISHES_QUEUED_MAX: usize = 64;
/// Subscribes, unsubscribes and disconnects that may wait for the driver.
const CONTROLS_QUEUED_MAX: usize = 16;
/// Events that may wait for the program; when they are full the socket is not read.
const EVENTS_QUEUED_MAX: usize = 256;

/// A message to publish.
#[derive(Debug)]
pub(super) struct PublishRequest {
    pub(super) message: Message,
    pub(super) reply: PublishReply,
}

/// What else handles ask of the driver. A channel of its own, so that publishes that wait for the broker's window
/// hold up none of it.
#[derive(Debug)]
pub(super) enum Control {
    Subscribe { filters: Vec<SubscribeFilter>, user_properties: UserProperties, reply: Reply },
    Unsubscribe { filters: Vec<ByteString>, reply: Reply },
    SetNetwork { network: String },
    Reconnect,
    Disconnect { reply: oneshot::Sender<()> },
}

pub(super) type PublishReply = oneshot::Sender<Result<Published, PublishError>>;
pub(super) type Reply = oneshot::Sender<Result<Vec<ReasonCode>, ClientError>>;

/// Acknowledgements on their way to the driver. As many as messages were handed over: the bound is the
/// Receive Maximum, since a token can be given back only once.
#[derive(Debug, Default)]
pub(super) struct Acks {
    tokens: Mutex<Vec<AckToken>>,
    pub(super) arrived: Notify,
}

impl Acks {
    pub(super) fn take(&self) -> Vec<AckToken> {
        std::mem::take(&mut *self.tokens.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A cheap handle to a running client. The client ends with [`Client::disconnect`], or when all handles and the
/// [`Events`] are dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let directory = dir.path();
/// use device_sdk::{Client, Message, Options, QueueOptions};
///
/// let mut options = Options::new("127.0.0.1:1", "truck-7");
/// options.queue = Some(QueueOptions::new(directory, 8_000_000));
/// let (client, events) = Client::spawn(options)?;
/// drop(events); // this program only sends
/// // Nobody answers there. It is accepted all the same, and sent when somebody does.
/// client.enqueue(Message::new("dev/truck-7/event/start", "{}")).await?;
/// assert_eq!(client.queue_status().map(|status| status.entries), Some(1));
/// client.disconnect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    publishes: mpsc::Sender<PublishRequest>,
    controls: mpsc::Sender<Control>,
    acks: Arc<Acks>,
    queue: Option<Queue>,
    /// The way to the broker that is in use.
    way: Arc<Mutex<Option<Endpoint>>>,
    heartbeat: SharedStatus,
}

/// What happens on the connection, in order.
///
/// A program that does not want events drops this. One that keeps it must take what comes: while 256 messages
/// wait the socket is not read, which slows the broker down instead of filling the memory.
///
/// ```no_run
/// # async fn example(mut events: device_sdk::Events) {
/// use device_sdk::Event;
/// while let Some(event) = events.next().await {
///     match event {
///         Event::Message(message) => println!("{}: {} bytes", message.topic, message.payload.len()),
///         Event::Disconnected { why, retry_in_ms } => println!("{why}; again in {retry_in_ms} ms"),
///         other => println!("{other:?}"),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
}

/// A publish that was handed to the client, see [`Client::submit`].
#[derive(Debug)]
pub struct Pending {
    receiver: oneshot::Receiver<Result<Published, PublishError>>,
}

impl Client {
    /// Starts a client on the current tokio runtime: it connects, and reconnects for ever with jittered pauses;
    /// subscriptions are renewed when the broker lost the session. Opening a disk queue reads it once, on this thread.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use device_sdk::{Client, Event, Options};
    /// let (client, mut events) = Client::spawn(Options::new("127.0.0.1:1", "truck-7"))?;
    /// // Nobody is there; it goes on trying.
    /// assert!(matches!(events.next().await, Some(Event::Disconnected { .. })));
    /// client.disconnect().await?;
    /// assert!(Client::spawn(Options::new("no port here", "truck-7")).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An option is out of range, there is no runtime, or the queue's directory is locked, corrupt or not accessible.
    pub fn spawn(options: Options) -> Result<(Self, Events), StartError> {
        let config = options.core_config()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let dialer = options.dialer()?;
        let queue = options.queue.as_ref().map(Queue::open).transpose()?;
        let received = options.received_dir.as_deref().map(ReceivedLog::open).transpose()?;
        let (publishes, publish_receiver) = mpsc::channel(PUBLISHES_QUEUED_MAX);
        let (controls, control_receiver) = mpsc::channel(CONTROLS_QUEUED_MAX);
        let (events, receiver) = mpsc::channel(EVENTS_QUEUED_MAX);
        let acks = Arc::new(Acks::default());
        let heartbeat = SharedStatus::default();
        let ends = Ends {
            publishes: publish_receiver,
            controls: control_receiver,
            events,
            acks: acks.clone(),
            heartbeat: heartbeat.clone(),
        };
        let way = dialer.shown();
        runtime.spawn(Task::new(options, config, dialer, ends, queue.clone(), received).run());
        Ok((Self { publishes, controls, acks, queue, way, heartbeat }, Events { receiver }))
    }

    /// Publishes a message and waits for the broker: PUBACK at QoS 1, PUBCOMP at QoS 2, written to the socket at
    /// QoS 0. Waits through reconnects; the message is sent again as MQTT prescribes.
    ///
    /// Not to be awaited in the loop that takes [`Events`]: while that loop stands still and many messages arrive, the socket
    /// is not read, and the acknowledgement with it. Use [`Self::submit`] there, or a task of its own. The same holds for
    /// [`Self::subscribe`] and [`Self::unsubscribe`].
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use device_sdk::{Message, QoS};
    /// let position = Message::new("dev/truck-7/state/position", r#"{"lat":60.17,"lon":24.94}"#);
    /// let published = client.publish(position.qos(QoS::AtLeastOnce).retain(true)).await?;
    /// println!("the broker has it: {:?}", published.reason);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The message is not allowed, too large for the broker, or refused by it; the client has stopped.
    pub async fn publish(&self, message: Message) -> Result<Published, PublishError> {
        self.submit(message).await?.wait().await
    }

    /// Hands a message over without waiting for the broker: messages handed over one after another go out in
    /// that order. Waits only while the client's buffer is full. What becomes of the message is in the [`Pending`],
    /// which may be dropped.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use device_sdk::{Message, QoS};
    /// let mut pending = Vec::new();
    /// for number in 0..10 {
    ///     let message = Message::new("dev/truck-7/log", format!("line {number}")).qos(QoS::AtLeastOnce);
    ///     pending.push(client.submit(message).await?);
    /// }
    /// for publish in pending {
    ///     publish.wait().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The topic is not allowed, or the client has stopped.
    pub async fn submit(&self, message: Message) -> Result<Pending, PublishError> {
        if let Err(why) = validate_topic_name(&message.topic) {
            return Err(PublishError::Topic { topic: cut(&message.topic), why });
        }
        message.check_lengths().map_err(|what| PublishError::Unencodable { what })?;
        let (reply, receiver) = oneshot::channel();
        self.publishes.send(PublishRequest { message, reply }).await.map_err(|_| PublishError::Stopped)?;
        Ok(Pending { receiver })
    }

    /// Puts a message into the disk queue and waits until it is on disk: accepted. From then on it survives crashes; it is sent
    /// when there is a connection, in order with all others of [`Class::Event`], and removed when the broker acknowledges it. A
    /// QoS 0 message is sent at QoS 1, since only an acknowledgement can remove it. With 5.0 it carries an `im-id`,
    /// the caller's or a made one, by which the broker recognises a message sent again after a crash. A Message Expiry
    /// Interval begins now; time for which the device is off does not count.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use device_sdk::Message;
    /// client.enqueue(Message::new("dev/truck-7/event/door", r#"{"open":true}"#).expiry_s(86_400)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// There is no queue, it is full or its disk failed, the message is not allowed, or the client has stopped.
    pub async fn enqueue(&self, message: Message) -> Result<(), QueueError> {
        self.enqueue_as(Class::Event, message).await
    }

    /// Puts a message into the disk queue as [`Self::enqueue`] does, as what the class says: the class decides what goes first
    /// and what gives way when the quota is used up.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), device_sdk::QueueError> {
    /// use device_sdk::{Class, Message};
    /// client.enqueue_as(Class::Alarm, Message::new("dev/truck-7/event/door", r#"{"ts":1764156795123}"#)).await?;
    /// // After ten minutes nobody needs it any more.
    /// let temperature = Message::new("dev/truck-7/telemetry/tank", r#"{"ts":1764156795123,"celsius":7.5}"#);
    /// client.enqueue_as(Class::Live, temperature.expiry_s(600)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::enqueue`].
    pub async fn enqueue_as(&self, class: Class, message: Message) -> Result<(), QueueError> {
        self.enqueue_soon(class, message).await?.wait().await
    }

    /// Hands a message to the disk queue without waiting for the disk, for programs that do not stand still for
    /// [`crate::QueueOptions::group_ms`]. Waits only while very many are on their way to the disk. The message is accepted when
    /// [`PendingEntry::wait`] says so; a power cut before may take it.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use device_sdk::{Class, Message};
    /// let fix = Message::new("dev/truck-7/telemetry/gps", r#"{"ts":1764156795123,"lat":60.17,"lon":24.94}"#);
    /// let pending = client.enqueue_soon(Class::Track, fix).await?;
    /// // Later, or never: a power cut within the next seconds may take it.
    /// pending.wait().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::enqueue`].
    pub async fn enqueue_soon(&self, class: Class, message: Message) -> Result<PendingEntry, QueueError> {
        let queue = self.queue.as_ref().ok_or(QueueError::NoQueue)?;
        if let Err(why) = validate_topic_name(&message.topic) {
            return Err(QueueError::Topic { topic: cut(&message.topic), why });
        }
        message.check_lengths().map_err(|what| QueueError::Unencodable { what })?;
        queue.enqueue(class, message).await
    }

    /// Returns how full the disk queue is, `None` without one.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use device_sdk::Class;
    /// if let Some(status) = client.queue_status() {
    ///     println!("{} of {} entries, {} alarms", status.entries, status.entries_max, status.entries_of(Class::Alarm));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn queue_status(&self) -> Option<QueueStatus> {
        self.queue.as_ref().map(Queue::status)
    }

    /// Waits until the broker has acknowledged every entry of the disk queue; returns at once without a queue.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// // Before the ignition goes off for good: half a minute to get rid of what there is.
    /// let limit = std::time::Duration::from_secs(30);
    /// let is_empty = tokio::time::timeout(limit, client.queue_drained()).await.is_ok();
    /// # let _ = is_empty;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn queue_drained(&self) {
        if let Some(queue) = &self.queue {
            queue.drained().await;
        }
    }

    /// Subscribes and waits for SUBACK: one code a filter, in order. The subscriptions granted are renewed when
    /// the broker loses the session.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use device_sdk::QoS;
    /// let codes = client.subscribe(&[("dev/truck-7/cmd", QoS::AtLeastOnce), ("fleet/news", QoS::AtMostOnce)]).await?;
    /// assert!(codes.iter().all(|code| !code.is_failure()), "{codes:?}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A filter is not allowed, there are too many, or the client has stopped. A refusal by the broker is a code, no error.
    pub async fn subscribe(&self, filters: &[(&str, QoS)]) -> Result<Vec<ReasonCode>, ClientError> {
        let filters = filters
            .iter()
            .map(|(filter, qos)| SubscribeFilter {
                filter: ByteString::from(*filter),
                options: SubscribeOptions { qos: *qos, ..SubscribeOptions::default() },
            })
            .collect();
        self.subscribe_with(filters, &[]).await
    }

    /// Subscribes with all options of MQTT 5, and user properties on the SUBSCRIBE; see [`Self::subscribe`].
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use device_sdk::{QoS, RetainHandling, SubscribeFilter, SubscribeOptions};
    /// let options = SubscribeOptions {
    ///     qos: QoS::AtLeastOnce,
    ///     no_local: true,
    ///     retain_handling: RetainHandling::SendIfNew,
    ///     ..SubscribeOptions::default()
    /// };
    /// let filters = vec![SubscribeFilter { filter: "im/depot/+".into(), options }];
    /// // What the conversation had from its number 1200 on, then what comes.
    /// client.subscribe_with(filters, &[("im-from-seq", "1200")]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub async fn subscribe_with(
        &self,
        filters: Vec<SubscribeFilter>,
        user_properties: &[(&str, &str)],
    ) -> Result<Vec<ReasonCode>, ClientError> {
        for entry in &filters {
            check_filter(&entry.filter)?;
        }
        let user_properties = user_properties
            .iter()
            .map(|(name, value)| (ByteString::from(*name), ByteString::from(*value)))
            .collect();
        self.ask(|reply| Control::Subscribe { filters, user_properties, reply }).await
    }

    /// Unsubscribes and waits for UNSUBACK: one code a filter, in order.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.unsubscribe(&["fleet/news"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub async fn unsubscribe(&self, filters: &[&str]) -> Result<Vec<ReasonCode>, ClientError> {
        for filter in filters {
            check_filter(&ByteString::from(*filter))?;
        }
        let filters = filters.iter().map(|filter| ByteString::from(*filter)).collect();
        self.ask(|reply| Control::Unsubscribe { filters, reply }).await
    }

    /// Returns the way by which the broker is connected now: carrier, host and port; `None` without a connection.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// match client.endpoint() {
    ///     Some(endpoint) => println!("connected by {endpoint}"),
    ///     None => println!("not connected"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns where the heartbeat stands: the interval in force, and what was learned of the network with
    /// [`Options::adaptive_keepalive`].
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let heartbeat = client.heartbeat();
    /// println!("a ping after {} s of silence, proven: {} s", heartbeat.interval_ms / 1_000, heartbeat.proven_s);
    /// # Ok(())
    /// # }
    /// ```
    pub fn heartbeat(&self) -> HeartbeatStatus {
        self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells that the device is on another network, by a name of at most 64 bytes: an SSID, a carrier. The connection is
    /// begun anew at once, by the way that worked last on this network, and the broker gets the name as `im-net`. With
    /// the name it has already nothing happens.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), device_sdk::ClientError> {
    /// // The modem took over from the depot's Wi-Fi.
    /// client.set_network("carrier-lte").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The name is empty or too long, or the client has stopped.
    pub async fn set_network(&self, name: &str) -> Result<(), ClientError> {
        if name.is_empty() || name.len() > NETWORK_BYTES_MAX {
            let what =
                format!("the network's name has {} bytes, it must have 1 to {NETWORK_BYTES_MAX}", name.len());
            return Err(ClientError::Limit { what });
        }
        self.controls
            .send(Control::SetNetwork { network: name.to_owned() })
            .await
            .map_err(|_| ClientError::Stopped)
    }

    /// Ends the connection and begins a new one at once; session, subscriptions and messages stay. A renewed certificate
    /// comes into use with it.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// // The certificate on disk was renewed.
    /// client.reconnect().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn reconnect(&self) -> Result<(), ClientError> {
        self.controls.send(Control::Reconnect).await.map_err(|_| ClientError::Stopped)
    }

    /// Sends DISCONNECT and ends the client; what waits in memory gets [`PublishError::Stopped`], what is in the disk
    /// queue stays there. Returns when the connection is closed and the queue's directory is free again.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.disconnect().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The client had stopped before.
    pub async fn disconnect(&self) -> Result<(), ClientError> {
        let (reply, receiver) = oneshot::channel();
        self.controls.send(Control::Disconnect { reply }).await.map_err(|_| ClientError::Stopped)?;
        receiver.await.map_err(|_| ClientError::Stopped)
    }

    /// Acknowledges a message (manual acknowledgement only). Acknowledgements reach the broker in the order the messages
    /// came, so one held back holds those behind it. The token of a message that the broker has sent again, or whose
    /// session it lost, does nothing.
    ///
    /// ```no_run
    /// # async fn example(client: device_sdk::Client, mut events: device_sdk::Events) {
    /// use device_sdk::Event;
    /// // With `Options::manual_ack`.
    /// while let Some(event) = events.next().await {
    ///     if let Event::Message(message) = event {
    ///         println!("done with {}", message.topic);
    ///         message.ack.into_iter().for_each(|token| client.ack(token));
    ///     }
    /// }
    /// # }
    /// ```
    pub fn ack(&self, token: AckToken) {
        self.acks.tokens.lock().unwrap_or_else(PoisonError::into_inner).push(token);
        self.acks.arrived.notify_one();
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> Control) -> Result<Vec<ReasonCode>, ClientError> {
        let (reply, receiver) = oneshot::channel();
        self.controls.send(request(reply)).await.map_err(|_| ClientError::Stopped)?;
        receiver.await.unwrap_or(Err(ClientError::Stopped))
    }
}

impl Events {
    /// Returns the next event, `None` when the client has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

impl Pending {
    /// Waits for the broker, as [`Client::publish`] does.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn wait(self) -> Result<Published, PublishError> {
        self.receiver.await.unwrap_or(Err(PublishError::Stopped))
    }
}

fn check_filter(filter: &ByteString) -> Result<(), ClientError> {
    match TopicFilter::parse(filter.clone()) {
        Ok(_) => Ok(()),
        Err(why) => Err(ClientError::Filter { filter: cut(filter), why }),
    }
}

/// Cuts a name that came from outside to what an error message can carry.
fn cut(name: &str) -> String {
    name.chars().take(128).collect()
}
