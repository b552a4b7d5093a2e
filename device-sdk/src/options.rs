//! What a client is made with.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
#[cfg(feature = "tls")]
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use protocol::{Connect, ConnectProperties, Packet, ProtocolVersion, Will, encode};

use crate::client::{CoreConfig, NETWORK_PROPERTY};
use crate::endpoints::{self, Dialer, Layers};
use crate::heartbeat::{AdaptiveKeepalive, Heartbeat, KnownNetwork};
use crate::{Backoff, Message, ReachOptions, StartError, Thinning, TlsOptions};

/// How to reach a broker and what session to keep there.
///
/// ```
/// use device_sdk::{Backoff, Message, Options, QoS};
///
/// let options = Options {
///     session_expiry_s: 7 * 24 * 3_600,
///     backoff: Backoff { min_ms: 1_000, max_ms: 300_000 },
///     will: Some(Message::new("dev/truck-7/event/lost", "{}").qos(QoS::AtLeastOnce)),
///     // A tunnel is no loss.
///     will_delay_s: 300,
///     username: Some("truck-7".to_owned()),
///     password: Some(b"open sesame".to_vec()),
///     ..Options::new("broker.example:1883", "truck-7")
/// };
/// // No log gets the password.
/// assert!(!format!("{options:?}").contains("sesame"));
/// ```
#[derive(Clone)]
pub struct Options {
    /// Broker as `host:port` or as a URL: `mqtt://`, `mqtts://`, `ws://`, `wss://`, see [`crate::Endpoint`]. A URL without a
    /// port stands for several ways, see [`crate::Ladder`].
    pub address: String,
    /// More addresses, proxy, and how to get to the broker when the first way does not work.
    pub reach: ReachOptions,
    /// TLS to the broker: `host:port` means TLS with it, and `mqtts://` and `wss://` without it trust the system's
    /// authorities.
    pub tls: Option<TlsOptions>,
    /// Client identifier; may be empty only with `clean_start`, the broker then chooses one.
    pub client_id: String,
    /// Protocol level.
    pub version: ProtocolVersion,
    /// Whether the first connection begins a new session. Reconnects of this client resume its own
    /// session (5.0 with a session expiry above 0); with 3.1.1 every connection begins a new one.
    pub clean_start: bool,
    /// How long the broker keeps the session after the connection ended, seconds; `u32::MAX` = for
    /// ever. 5.0 only: a 3.1.1 session lasts for ever unless `clean_start`.
    pub session_expiry_s: u32,
    /// Keep Alive, seconds; 0 = off, a dead link is then noticed only by writing.
    pub keep_alive_s: u16,
    /// Learns the longest interval that the network survives instead of keeping [`Self::keep_alive_s`]: an idle connection
    /// costs as little as the network allows.
    pub adaptive_keepalive: Option<AdaptiveKeepalive>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// What the broker publishes when the connection breaks.
    pub will: Option<Message>,
    /// How long the broker waits with the will, seconds (5.0): who is back by then has never been away.
    pub will_delay_s: u32,
    /// Most topics that are sent by a number after the first time on a connection (topic aliases, 5.0), as far as the broker takes them too.
    /// Saves the topic's bytes on links that are paid by the byte; by default none.
    pub topic_aliases_max: u16,
    /// User properties of CONNECT (5.0).
    pub user_properties: Vec<(String, String)>,
    /// Pauses between connection attempts.
    pub backoff: Backoff,
    /// Longest wait for the connection (TLS included) and for CONNACK, each, milliseconds.
    pub connect_timeout_ms: u64,
    /// Whether incoming QoS 1/2 messages are acknowledged by [`crate::Client::ack`] instead of when they
    /// enter the event channel. An acknowledged message that the program did not finish is gone after
    /// a crash; with manual acknowledgement the broker sends it again.
    pub manual_ack: bool,
    /// The disk queue behind [`crate::Client::enqueue`].
    pub queue: Option<QueueOptions>,
    /// The directory, made if absent, in which the identifiers of incoming QoS 2 messages are kept that the program has done with: none
    /// of them is handed over again after a restart or a power cut. Two small writes a message, synced before PUBREC and PUBCOMP.
    /// Without it such a message is handed over once while the program runs, and perhaps again after a restart.
    pub received_dir: Option<PathBuf>,
    /// Most unacknowledged QoS 1/2 messages each way, 1 to 65,000; the broker's own limit counts too.
    pub inflight_max: u16,
    /// Largest packet to accept, bytes.
    pub packet_bytes_max: u32,
}

/// Where the disk queue lives and how large it may grow.
///
/// ```
/// # use device_sdk::{QueueOptions, Thinning};
/// // 32 MB of flash, for three days of positions; their line is never more than 50 m off.
/// let queue = QueueOptions {
///     thinning: Some(Thinning { tolerance_m: 5, tolerance_m_max: 50 }),
///     ..QueueOptions::new("/var/lib/gateway/queue", 32_000_000)
/// };
/// # assert_eq!(queue.group_ms, 2_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// Its directory, made if absent; one process at a time.
    pub dir: PathBuf,
    /// Most bytes on disk, at least 1 MiB, preallocated ones included. Beyond it some entries give way to others, as
    /// [`crate::Class`] says, or [`crate::QueueError::Full`].
    pub bytes_max: u64,
    /// Most entries that the broker has not acknowledged; the same beyond it.
    pub entries_max: u64,
    /// How long an entry waits at most for others to share its write, milliseconds: tracks and debug always, live ones while
    /// there is no connection. With more in a write less is written and the flash lives longer.
    pub group_ms: u64,
    /// How tracks are thinned when the queue is full; `None` = not at all.
    pub thinning: Option<Thinning>,
}

impl QueueOptions {
    /// Makes options for at most 10,000,000 entries, 2 s for a write to be shared, and thinning as by default.
    pub fn new(dir: impl Into<PathBuf>, bytes_max: u64) -> Self {
        Self {
            dir: dir.into(),
            bytes_max,
            entries_max: 10_000_000,
            group_ms: 2_000,
            thinning: Some(Thinning::default()),
        }
    }
}

/// Most messages in flight that can be asked for: some of the 65,535 packet identifiers stay free for
/// SUBSCRIBE and UNSUBSCRIBE.
pub(crate) const INFLIGHT_LIMIT: u16 = 65_000;

impl Options {
    /// Makes options for an MQTT 5 session that the broker keeps for an hour.
    pub fn new(address: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            reach: ReachOptions::default(),
            tls: None,
            client_id: client_id.into(),
            version: ProtocolVersion::V5,
            clean_start: false,
            session_expiry_s: 3600,
            keep_alive_s: 30,
            adaptive_keepalive: None,
            username: None,
            password: None,
            will: None,
            will_delay_s: 0,
            topic_aliases_max: 0,
            user_properties: Vec::new(),
            backoff: Backoff::default(),
            connect_timeout_ms: 10_000,
            manual_ack: false,
            queue: None,
            received_dir: None,
            inflight_max: 64,
            packet_bytes_max: 1024 * 1024,
        }
    }

    /// Makes the core's configuration, CONNECT included: [`crate::Client`] does so itself, programs that drive a
    /// [`crate::client::Core`] on a transport and a clock of their own begin with it.
    ///
    /// ```
    /// use device_sdk::Options;
    /// assert_eq!(Options::new("broker.example:1883", "truck-7").core_config()?.connect.keep_alive_s, 30);
    /// assert!(Options { inflight_max: 0, ..Options::new("broker.example:1883", "truck-7") }.core_config().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// An option is out of range.
    pub fn core_config(&self) -> Result<CoreConfig, StartError> {
        self.check()?;
        let version = self.version;
        let properties = match version {
            ProtocolVersion::V311 => ConnectProperties::default(),
            ProtocolVersion::V5 => ConnectProperties {
                session_expiry_interval_s: Some(self.session_expiry_s),
                receive_maximum: NonZeroU16::new(self.inflight_max),
                packet_bytes_max: NonZeroU32::new(self.packet_bytes_max),
                user_properties: self
                    .user_properties
                    .iter()
                    .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                    .collect(),
                ..ConnectProperties::default()
            },
        };
        let connect = Connect {
            version,
            clean_start: self.clean_start,
            // The interval in force is declared on `$im/keepalive`, and only downwards.
            keep_alive_s: self
                .adaptive_keepalive
                .as_ref()
                .map_or(self.keep_alive_s, |adaptive| adaptive.max_s),
            client_id: self.client_id.as_str().into(),
            will: self.will.clone().map(|will| {
                let has_delay = version == ProtocolVersion::V5 && self.will_delay_s > 0;
                let delay_interval_s = has_delay.then_some(self.will_delay_s);
                Box::new(Will { delay_interval_s, ..will.into_will() })
            }),
            username: self.username.as_deref().map(ByteString::from),
            password: self.password.clone().map(Bytes::from),
            properties,
        };
        let packet = Packet::Connect(Box::new(connect.clone()));
        if let Err(error) = encode(&packet, version, &mut BytesMut::new()) {
            return Err(StartError::Options { what: format!("CONNECT cannot be encoded: {error}") });
        }
        Ok(CoreConfig {
            connect,
            inflight_max: self.inflight_max,
            manual_ack: self.manual_ack,
            connect_timeout_ms: self.connect_timeout_ms,
        })
    }

    /// Makes the heartbeat for a [`crate::client::Core`] that a program drives itself.
    pub fn heartbeat(&self, known: Vec<KnownNetwork>) -> Heartbeat {
        match &self.adaptive_keepalive {
            None => Heartbeat::fixed(),
            Some(adaptive) => Heartbeat::adaptive(adaptive.min_s, adaptive.max_s, known),
        }
    }

    /// Makes what opens connections.
    pub(crate) fn dialer(&self) -> Result<Dialer, StartError> {
        let endpoints = endpoints::read_addresses(&self.address, &self.reach, self.tls.is_some())?;
        #[cfg(feature = "tls")]
        let tls = match &self.tls {
            Some(tls) => Some(Arc::new(crate::tls::TlsSettings::new(tls)?)),
            // A plain broker may refer to one with TLS, then the system's authorities are read.
            None if endpoints.iter().all(|endpoint| !endpoint.carrier().is_secure()) => None,
            None => Some(Arc::new(crate::tls::TlsSettings::new(&TlsOptions::default())?)),
        };
        let layers = Layers {
            #[cfg(feature = "tls")]
            tls,
            proxy: self.reach.proxy.clone(),
        };
        let named = self.user_properties.iter().find(|(name, _)| name == NETWORK_PROPERTY);
        let network = named.map_or_else(String::new, |(_, network)| network.clone());
        Ok(Dialer::new(endpoints, layers, &self.reach, network, self.connect_timeout_ms))
    }

    /// Checks what can be checked without a broker.
    fn check(&self) -> Result<(), StartError> {
        let bad = |what: String| Err(StartError::Options { what });
        if self.client_id.is_empty() && !self.clean_start {
            return bad(
                "an empty client id needs clean_start: the broker chooses an id for one session".to_owned()
            );
        }
        if self.client_id.len() > usize::from(u16::MAX) {
            return bad(format!("client id has {} bytes, the limit is 65535", self.client_id.len()));
        }
        if self.inflight_max == 0 || self.inflight_max > INFLIGHT_LIMIT {
            return bad(format!("inflight_max is {}, it must be 1 to {INFLIGHT_LIMIT}", self.inflight_max));
        }
        if self.packet_bytes_max < 64 {
            return bad(format!("packet_bytes_max is {}, it must be at least 64", self.packet_bytes_max));
        }
        if self.backoff.min_ms == 0 || self.backoff.min_ms > self.backoff.max_ms {
            let Backoff { min_ms, max_ms } = self.backoff;
            return bad(format!(
                "backoff of {min_ms} to {max_ms} ms: the minimum must be 1 or more and not above the maximum"
            ));
        }
        if let Some(AdaptiveKeepalive { min_s, max_s, .. }) = self.adaptive_keepalive
            && (min_s == 0 || min_s > max_s || u32::from(max_s) > protocol::im::PROBE_AFTER_S_MAX)
        {
            let longest_s = protocol::im::PROBE_AFTER_S_MAX;
            return bad(format!(
                "adaptive_keepalive of {min_s} to {max_s} s: the bounds must be 1 to {longest_s}, the lower one first"
            ));
        }
        if self.version == ProtocolVersion::V311 && self.password.is_some() && self.username.is_none() {
            return bad(
                "MQTT 3.1.1 allows no password without a user name [MQTT-3.1.2-22] (3.1.1)".to_owned()
            );
        }
        if let Some(will) = &self.will {
            if let Err(error) = protocol::validate_topic_name(&will.topic) {
                return bad(format!("will topic {:?}: {error}", will.topic));
            }
            // The will's payload is a string of at most 65,535 bytes in CONNECT.
            if will.payload.len() > usize::from(u16::MAX) {
                return bad(format!("will payload has {} bytes, the limit is 65535", will.payload.len()));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Options {
    /// Shows everything but the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("address", &self.address)
            .field("reach", &self.reach)
            .field("tls", &self.tls)
            .field("client_id", &self.client_id)
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("session_expiry_s", &self.session_expiry_s)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("manual_ack", &self.manual_ack)
            .field("queue", &self.queue)
            .field("received_dir", &self.received_dir)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_work_are_refused_with_their_values() {
        let good = || Options::new("localhost:1883", "a");
        assert!(good().check().is_ok());
        let adaptive = |min_s, max_s| Options {
            adaptive_keepalive: Some(AdaptiveKeepalive { min_s, max_s, file: None }),
            ..good()
        };
        let cases: [(Options, &str); 9] = [
            (Options { client_id: String::new(), ..good() }, "empty client id"),
            (Options { inflight_max: 65_001, ..good() }, "65001"),
            (adaptive(0, 60), "0 to 60 s"),
            (adaptive(60, 30), "60 to 30 s"),
            (adaptive(15, 7_201), "1 to 7200"),
            (Options { packet_bytes_max: 3, ..good() }, "packet_bytes_max is 3"),
            (Options { backoff: Backoff { min_ms: 9, max_ms: 8 }, ..good() }, "9 to 8 ms"),
            (Options { will: Some(Message::new("a/#", "")), ..good() }, "\"a/#\""),
            (
                Options { version: ProtocolVersion::V311, password: Some(b"p".to_vec()), ..good() },
                "user name",
            ),
        ];
        for (options, expected) in cases {
            let message = options.check().expect_err("refused").to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let options = Options { password: Some(b"hunter2".to_vec()), ..Options::new("a:1", "b") };
        let shown = format!("{options:?}");
        assert!(shown.contains("***") && !shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
