//! The device library: an MQTT 3.1.1/5.0 client that survives bad links, crashes and power cuts.
//!
//! - [`client`]: the protocol as a pure state machine, without clock, socket or randomness.
//! - [`Client`] and [`Events`]: the tokio driver around it; it reconnects for ever.
//! - [`Client::enqueue`]: store and forward on disk for what must arrive although the link is down.
//! - [`commands`]: remote commands that run at most once, across restarts.
//! - [`clock`]: the time that expiry is judged by, from several clocks that may lie.
//! - [`guard`]: whether a lock may open here and now.
//! - `ota` (cargo feature `ota`): updates that cannot brick.
//! - [`twin`]: what the device says of itself and what is wanted of it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use device_sdk::{Client, Event, Message, Options, QoS};
//! let (client, mut events) = Client::spawn(Options::new("127.0.0.1:1883", "truck-7"))?;
//! client.subscribe(&[("dev/truck-7/cmd", QoS::AtLeastOnce)]).await?;
//! client.publish(Message::new("dev/truck-7/event/start", "{}").qos(QoS::AtLeastOnce)).await?;
//! while let Some(event) = events.next().await {
//!     if let Event::Message(message) = event {
//!         println!("{}: {} bytes", message.topic, message.payload.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

mod backoff;
pub mod client;
pub mod clock;
pub mod commands;
/// The disks that a journal can be on ([`commands::CommandJournal::open_on`]): the real one, and one that loses its power.
pub mod disk {
    pub use storage::sim::SimDisk;
    pub use storage::{Disk, DiskFile, FileDisk};
}
mod driver;
mod endpoints;
mod error;
mod event;
pub mod guard;
pub mod heartbeat;
mod hex;
mod message;
mod options;
#[cfg(feature = "ota")]
pub mod ota;
pub mod queue;
mod received;
#[cfg(feature = "serial")]
pub mod serial;
mod thinning;
mod tls;
mod topics;
pub mod twin;

pub use backoff::Backoff;
pub use driver::{Client, Events, Pending};
pub use endpoints::{Carrier, Endpoint, EndpointError, Ladder, Proxy, ProxyError, ReachOptions};
pub use error::{ClientError, PublishError, QueueError, StartError};
pub use event::{AckToken, Event, Incoming, Published};
pub use message::{Message, user_property};
pub use options::{Options, QueueOptions};
pub use queue::{Class, DropReason, Dropped, PendingEntry, QueueStatus};
pub use thinning::Thinning;
pub use tls::{IdentityPem, IdentitySource, TlsIdentity, TlsOptions};
pub use topics::topic_matches;

pub use protocol::{
    Bytes, ProtocolVersion, PublishProperties, QoS, ReasonCode, RetainHandling, SubscribeFilter,
    SubscribeOptions, TopicFilter,
};
