//! What `postrider pub` and `postrider sub` have in common: how to reach a broker, with mosquitto's flags.

use std::process::{self, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::{ArgAction, Args, ValueEnum};
use device_sdk::{
    Backoff, Client, Event, Events, Message, Options, ProtocolVersion, PublishProperties, QoS, ReachOptions,
};

use crate::tls_args::TlsArgs;

/// A failed or refused connection.
pub(crate) const FAILED: ExitCode = ExitCode::FAILURE;

/// Connection flags, named as mosquitto's clients name them.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// Host to connect to.
    #[arg(short = 'h', long, default_value = "localhost")]
    pub(crate) host: String,

    /// Port to connect to; default: 1883, with TLS 8883.
    #[arg(short = 'p', long)]
    pub(crate) port: Option<u16>,

    /// Broker as a URL instead of host and port: mqtt://, mqtts://, ws:// or wss://, a host, perhaps a port. May be repeated:
    /// the first that answers is used.
    #[arg(short = 'L', long = "url", value_name = "URL", conflicts_with_all = ["host", "port"])]
    pub(crate) urls: Vec<String>,

    /// Proxy to go through: http://, socks5:// or socks5h://, perhaps USER:PASSWORD@, HOST:PORT.
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    /// Client id; default: a new one each time.
    #[arg(short = 'i', long)]
    pub(crate) id: Option<String>,

    /// Keep alive, seconds; 0 = off.
    #[arg(short = 'k', long, default_value_t = 60)]
    pub(crate) keepalive: u16,

    /// User name.
    #[arg(short = 'u', long)]
    pub(crate) username: Option<String>,

    /// Password; visible to other users of this machine.
    #[arg(short = 'P', long = "pw", requires = "username")]
    pub(crate) password: Option<String>,

    /// Keep the session at the broker when the connection ends (needs -i).
    #[arg(short = 'c', long, requires = "id")]
    pub(crate) disable_clean_session: bool,

    /// How long the broker keeps the session, seconds; -1 = for ever (the default with -c). MQTT 5 only.
    #[arg(short = 'x', long, allow_negative_numbers = true)]
    pub(crate) session_expiry_interval: Option<i64>,

    /// Protocol version. mosquitto's clients default to 3.1.1.
    #[arg(short = 'V', long, value_enum, default_value_t = Version::V5)]
    pub(crate) protocol_version: Version,

    /// Topic of the will.
    #[arg(long)]
    pub(crate) will_topic: Option<String>,

    /// Payload of the will; default: empty.
    #[arg(long, requires = "will_topic")]
    pub(crate) will_payload: Option<String>,

    /// QoS of the will.
    #[arg(long, requires = "will_topic", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) will_qos: u8,

    /// Retain the will.
    #[arg(long, requires = "will_topic")]
    pub(crate) will_retain: bool,

    /// Most QoS 1/2 messages in flight each way.
    #[arg(short = 'M', long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) max_inflight: u16,

    /// MQTT 5 user property, NAME=VALUE; or mosquitto's form: PACKET PROPERTY [NAME] VALUE, as in
    /// `publish user-property trace 7` or `publish message-expiry-interval 60`. May be repeated.
    #[arg(short = 'D', long = "user-property", visible_alias = "property", num_args = 1..=4, action = ArgAction::Append, value_name = "NAME=VALUE")]
    pub(crate) properties: Vec<String>,

    /// Show what happens on the connection, on stderr.
    #[arg(short = 'd', long, visible_alias = "verbose-connection")]
    pub(crate) debug: bool,

    /// Print no errors.
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Print help.
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// A protocol version, under mosquitto's names too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    #[value(name = "mqttv311", aliases = ["311", "3.1.1", "4"])]
    V311,
    /// MQTT 5.
    #[value(name = "mqttv5", aliases = ["5", "5.0"])]
    V5,
}

/// What `-D` says, by packet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// For CONNECT.
    pub(crate) connect: Vec<(String, String)>,
    /// For each PUBLISH.
    pub(crate) publish: PublishProperties,
    /// For SUBSCRIBE.
    pub(crate) subscribe: Vec<(String, String)>,
}

/// Which packet a bare NAME=VALUE is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// `postrider pub`: the PUBLISH.
    Publisher,
    /// `postrider sub`: the SUBSCRIBE.
    Subscriber,
}

impl ConnectionArgs {
    /// Reads `-D`.
    pub(crate) fn properties(&self, side: Side) -> anyhow::Result<Properties> {
        if self.protocol_version == Version::V311 && !self.properties.is_empty() {
            bail!("properties (-D) need MQTT 5, and -V asks for 3.1.1");
        }
        Properties::parse(&self.properties, side)
    }

    /// Makes the client's options.
    pub(crate) fn options(&self, name: &str, properties: &Properties) -> anyhow::Result<Options> {
        let client_id = self.id.clone().unwrap_or_else(|| format!("{name}-{}-{:x}", process::id(), now_ns()));
        let session_expiry_s = match self.session_expiry_interval {
            None if self.disable_clean_session => u32::MAX,
            None => 0,
            Some(-1) => u32::MAX,
            Some(seconds) => u32::try_from(seconds)
                .with_context(|| format!("session expiry {seconds} is not -1 or 0 to {}", u32::MAX))?,
        };
        let will = self.will_topic.clone().map(|topic| {
            let payload = self.will_payload.clone().unwrap_or_default();
            Message::new(topic, payload).qos(qos(self.will_qos)).retain(self.will_retain)
        });
        let tls = self.tls.options();
        let port = self.port.unwrap_or(if tls.is_some() { 8883 } else { 1883 });
        let mut urls = self.urls.iter().cloned();
        let address = urls.next().unwrap_or_else(|| host_and_port(&self.host, port));
        let proxy = self.proxy.as_deref().map(str::parse).transpose()?;
        let reach = ReachOptions { alternatives: urls.collect(), proxy, ..ReachOptions::default() };
        Ok(Options {
            reach,
            tls,
            version: match self.protocol_version {
                Version::V311 => ProtocolVersion::V311,
                Version::V5 => ProtocolVersion::V5,
            },
            clean_start: !self.disable_clean_session,
            session_expiry_s,
            keep_alive_s: self.keepalive,
            username: self.username.clone(),
            password: self.password.clone().map(String::into_bytes),
            will,
            user_properties: properties.connect.clone(),
            backoff: Backoff { min_ms: 500, max_ms: 10_000 },
            inflight_max: self.max_inflight,
            // The most that MQTT can say: what the broker lets through is for the user to see.
            packet_bytes_max: 268_435_455,
            ..Options::new(address, client_id)
        })
    }

    /// Connects. Unlike a device's client this one gives up when the first attempt fails.
    pub(crate) async fn connect(&self, options: Options) -> anyhow::Result<(Client, Events)> {
        self.note(format_args!("connecting to {} as {:?}", options.address, options.client_id));
        let (client, mut events) = Client::spawn(options)?;
        // A broker that refers to another one has answered.
        let mut event = events.next().await;
        while let Some(Event::Refused { why, retry_in_ms: 0, .. }) = &event {
            self.note(format_args!("{why}"));
            event = events.next().await;
        }
        match event {
            Some(Event::Connected { session_present }) => {
                self.note(format_args!("connected, session present: {session_present}"));
                Ok((client, events))
            }
            Some(Event::Refused { why, .. } | Event::Disconnected { why, .. }) => bail!(why),
            other => bail!("the client ended at once: {other:?}"),
        }
    }

    /// Shows something with `-d`.
    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        if self.debug {
            eprintln!("{what}");
        }
    }

    /// Shows a warning unless `--quiet`.
    pub(crate) fn warn(&self, what: std::fmt::Arguments<'_>) {
        if !self.quiet {
            eprintln!("Warning: {what}");
        }
    }

    /// Ends a command that failed: says why unless `--quiet`.
    pub(crate) fn fail(&self, error: &anyhow::Error) -> ExitCode {
        if !self.quiet {
            eprintln!("Error: {error:#}");
        }
        FAILED
    }
}

impl Properties {
    fn parse(words: &[String], side: Side) -> anyhow::Result<Self> {
        let mut properties = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if let Some((name, value)) = word.split_once('=') {
                properties.add_user(
                    if side == Side::Publisher { "publish" } else { "subscribe" },
                    name,
                    value,
                )?;
                continue;
            }
            let mut next = |what: &str| {
                words.next().with_context(|| {
                    format!(
                        "-D {word}: {what} is missing; expected NAME=VALUE or PACKET PROPERTY [NAME] VALUE"
                    )
                })
            };
            let property = next("the property")?.clone();
            let value = next("the value")?.clone();
            if property == "user-property" {
                let user_value = next("the user property's value")?;
                properties.add_user(word, &value, user_value)?;
            } else {
                properties.add(word, &property, &value)?;
            }
        }
        Ok(properties)
    }

    fn add_user(&mut self, packet: &str, name: &str, value: &str) -> anyhow::Result<()> {
        match packet {
            "publish" => self.publish.user_properties.push((name.into(), value.into())),
            "subscribe" => self.subscribe.push((name.to_owned(), value.to_owned())),
            "connect" => self.connect.push((name.to_owned(), value.to_owned())),
            other => bail!("-D {other}: user properties go on connect, publish or subscribe"),
        }
        Ok(())
    }

    fn add(&mut self, packet: &str, property: &str, value: &str) -> anyhow::Result<()> {
        if packet != "publish" {
            bail!("-D {packet} {property}: only user-property is supported on {packet}");
        }
        let publish = &mut self.publish;
        match property {
            "content-type" => publish.content_type = Some(value.into()),
            "response-topic" => publish.response_topic = Some(value.into()),
            "correlation-data" => publish.correlation_data = Some(value.as_bytes().to_vec().into()),
            "message-expiry-interval" => {
                let seconds = value
                    .parse()
                    .with_context(|| format!("message-expiry-interval {value:?} is no number of seconds"))?;
                publish.message_expiry_interval_s = Some(seconds);
            }
            "payload-format-indicator" => {
                publish.payload_format_utf8 = Some(match value {
                    "0" => false,
                    "1" => true,
                    other => bail!("payload-format-indicator {other:?} is not 0 or 1"),
                });
            }
            other => bail!(
                "-D publish {other}: unknown; there are user-property, content-type, response-topic, \
                 correlation-data, message-expiry-interval and payload-format-indicator"
            ),
        }
        Ok(())
    }
}

/// Puts an IPv6 address into the brackets that it needs before a port.
fn host_and_port(host: &str, port: u16) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

/// Tells two runs with one process id apart, as in two containers.
fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// Turns a level that clap has checked into the type.
pub(crate) fn qos(level: u8) -> QoS {
    QoS::from_u8(level).expect("clap allows 0, 1 and 2 only")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str], side: Side) -> anyhow::Result<Properties> {
        Properties::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), side)
    }

    #[test]
    fn properties_are_read_in_the_short_and_in_mosquittos_form() {
        let words =
            ["a=b=c", "publish", "user-property", "x", "y", "publish", "message-expiry-interval", "60"];
        let properties = parse(&words, Side::Publisher).unwrap();
        assert_eq!(
            properties.publish.user_properties,
            [("a".into(), "b=c".into()), ("x".into(), "y".into())]
        );
        assert_eq!(properties.publish.message_expiry_interval_s, Some(60));
        let properties =
            parse(&["im-from-seq=1", "connect", "user-property", "im-net", "lte"], Side::Subscriber).unwrap();
        assert_eq!(properties.subscribe, [("im-from-seq".to_owned(), "1".to_owned())]);
        assert_eq!(properties.connect, [("im-net".to_owned(), "lte".to_owned())]);
    }

    #[test]
    fn properties_that_cannot_be_sent_are_refused_with_their_name() {
        let cases: [(&[&str], &str); 5] = [
            (&["oops"], "-D oops: the property is missing"),
            (&["publish", "user-property", "x"], "the user property's value is missing"),
            (&["publish", "topic-alias", "1"], "topic-alias: unknown"),
            (&["publish", "message-expiry-interval", "soon"], "\"soon\""),
            (&["connect", "session-expiry-interval", "1"], "only user-property"),
        ];
        for (words, expected) in cases {
            let error = format!("{:#}", parse(words, Side::Publisher).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
