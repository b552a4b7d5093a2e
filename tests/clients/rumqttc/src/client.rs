//! A client of either version whose events can be awaited one by one.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rumqttc::{Incoming, MqttOptions, Outgoing, Transport, v5};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Args;

const PATIENCE: Duration = Duration::from_secs(20);
const PACKET_BYTES_MAX: usize = 1024 * 1024;
const INBOX_MAX: usize = 1024;

/// The protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V3,
    V5,
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: Option<v5::mqttbytes::v5::PublishProperties>,
}

#[derive(Debug)]
enum Seen {
    Connected {
        session_present: bool,
    },
    Subscribed(Vec<Option<u8>>),
    /// The end of one publish of QoS 1 or 2.
    Published,
    Message(Message),
    /// DISCONNECT is on its way.
    Left,
    Failed(String),
}

#[derive(Debug)]
enum Handle {
    V3(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// How a client connects.
#[derive(Clone, Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) args: &'a Args,
    pub(crate) version: Version,
    pub(crate) clean: bool,
    pub(crate) will: Option<(&'a str, &'a str)>,
    /// Aliases that the broker may use; rumqttc leaves it to its user to look them up.
    pub(crate) topic_alias_max: Option<u16>,
}

#[derive(Debug)]
pub(crate) struct Client {
    handle: Handle,
    events: mpsc::Receiver<Seen>,
    messages: VecDeque<Message>,
    driver: JoinHandle<()>,
    pub(crate) session_present: bool,
}

fn transport(args: &Args) -> Result<Transport> {
    let read = |path: &Option<_>| path.as_ref().map(std::fs::read).transpose();
    // Without an authority those of the machine count, which do not know the broker's.
    let tls = || -> Result<_> {
        let (Some(ca), client_auth) = (read(&args.ca)?, read(&args.cert)?.zip(read(&args.key)?)) else {
            return Ok(rumqttc::TlsConfiguration::default());
        };
        Ok(rumqttc::TlsConfiguration::Simple { ca, alpn: None, client_auth })
    };
    Ok(match args.url.scheme() {
        "mqtt" => Transport::Tcp,
        "mqtts" => Transport::Tls(tls()?),
        "ws" => Transport::Ws,
        "wss" => Transport::Wss(tls()?),
        other => bail!("no transport is called {other}"),
    })
}

/// Where rumqttc is to connect: over WebSocket it wants the whole URL.
fn address(args: &Args) -> Result<(String, u16)> {
    let host = args.url.host_str().context("the URL has a host")?;
    let port = args.url.port().context("the URL has a port")?;
    let is_web = matches!(args.url.scheme(), "ws" | "wss");
    Ok((if is_web { args.url.to_string() } else { host.to_owned() }, port))
}

impl Client {
    /// Connects and waits for CONNACK.
    pub(crate) async fn connect(id: &str, settings: Settings<'_>) -> Result<Self> {
        let (sender, events) = mpsc::channel(INBOX_MAX);
        let (handle, driver) = match settings.version {
            Version::V3 => open_v3(id, &settings, sender)?,
            Version::V5 => open_v5(id, &settings, sender)?,
        };
        let mut client = Self { handle, events, messages: VecDeque::new(), driver, session_present: false };
        client.session_present = client
            .wait("CONNACK", |seen| match seen {
                Seen::Connected { session_present } => Some(*session_present),
                _ => None,
            })
            .await?;
        Ok(client)
    }

    /// Waits for an event; messages that come before it are kept.
    async fn wait<T>(&mut self, what: &str, wanted: impl Fn(&Seen) -> Option<T>) -> Result<T> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            let seen = next.with_context(|| format!("no {what} within {PATIENCE:?}"))?;
            let seen = seen.with_context(|| format!("the connection ended before {what}"))?;
            if let Some(found) = wanted(&seen) {
                return Ok(found);
            }
            match seen {
                Seen::Message(message) => self.messages.push_back(message),
                Seen::Failed(why) => bail!("no {what}: {why}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        match &self.handle {
            Handle::V3(client) => client.subscribe(filter, rumqttc::qos(qos)?).await?,
            Handle::V5(client) => client.subscribe(filter, qos_v5(qos)).await?,
        }
        let granted = self
            .wait("SUBACK", |seen| match seen {
                Seen::Subscribed(codes) => Some(codes.clone()),
                _ => None,
            })
            .await?;
        ensure!(granted == [Some(qos)], "granted QoS {granted:?}, wanted {qos}");
        Ok(())
    }

    /// Publishes and waits for the end of the QoS flow.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        qos: u8,
        retain: bool,
        payload: impl Into<Vec<u8>>,
    ) -> Result<()> {
        match &self.handle {
            Handle::V3(client) => client.publish(topic, rumqttc::qos(qos)?, retain, payload.into()).await?,
            Handle::V5(client) => client.publish(topic, qos_v5(qos), retain, payload.into()).await?,
        }
        if qos == 0 { Ok(()) } else { self.published().await }
    }

    /// Publishes at QoS 1 with properties; 5.0 only.
    pub(crate) async fn publish_with(
        &mut self,
        topic: &str,
        payload: &str,
        properties: v5::mqttbytes::v5::PublishProperties,
    ) -> Result<()> {
        let Handle::V5(client) = &self.handle else { bail!("3.1.1 has no properties") };
        client.publish_with_properties(topic, qos_v5(1), false, payload.to_owned(), properties).await?;
        self.published().await
    }

    async fn published(&mut self) -> Result<()> {
        self.wait("acknowledgement", |seen| matches!(seen, Seen::Published).then_some(())).await
    }

    /// Takes the next message.
    pub(crate) async fn next(&mut self) -> Result<Message> {
        if let Some(message) = self.messages.pop_front() {
            return Ok(message);
        }
        self.wait("message", |seen| match seen {
            Seen::Message(message) => Some(message.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn expect(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> Result<()> {
        let got = self.next().await?;
        let text = String::from_utf8_lossy(&got.payload);
        let same = got.topic == topic && text == payload && got.qos == qos && got.retain == retain;
        ensure!(same, "wanted {payload:?} on {topic} at QoS {qos}, retain {retain}; got {got:?}");
        Ok(())
    }

    /// Ends the connection in order.
    pub(crate) async fn disconnect(mut self) -> Result<()> {
        match &self.handle {
            Handle::V3(client) => client.disconnect().await?,
            Handle::V5(client) => client.disconnect().await?,
        }
        self.wait("end of the connection", |seen| matches!(seen, Seen::Left).then_some(())).await
    }

    /// Ends the connection without DISCONNECT.
    pub(crate) fn lose(self) {
        self.driver.abort();
    }
}

fn qos_v5(qos: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(qos).expect("0, 1 or 2")
}

/// Runs a client's event loop until its end; rumqttc would connect again.
macro_rules! drive {
    ($events:expr, $sender:expr, $seen:path) => {
        tokio::spawn(async move {
            let (mut events, sender) = ($events, $sender);
            loop {
                let seen = match events.poll().await {
                    Ok(event) => $seen(event),
                    Err(error) => Some(Seen::Failed(error.to_string())),
                };
                let is_last = matches!(seen, Some(Seen::Left | Seen::Failed(_)));
                let is_heard = match seen {
                    Some(seen) => sender.send(seen).await.is_ok(),
                    None => true,
                };
                if is_last || !is_heard {
                    return;
                }
            }
        })
    };
}

fn open_v3(
    id: &str,
    settings: &Settings<'_>,
    sender: mpsc::Sender<Seen>,
) -> Result<(Handle, JoinHandle<()>)> {
    let (host, port) = address(settings.args)?;
    let mut options = MqttOptions::new(id, host, port);
    options.set_clean_session(settings.clean).set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    options.set_transport(transport(settings.args)?);
    if let (Some(user), Some(password)) = (&settings.args.user, &settings.args.password) {
        options.set_credentials(user, password);
    }
    if let Some((topic, payload)) = settings.will {
        options.set_last_will(rumqttc::LastWill::new(topic, payload, rumqttc::QoS::AtLeastOnce, false));
    }
    let (client, events) = rumqttc::AsyncClient::new(options, 100);
    Ok((Handle::V3(client), drive!(events, sender, seen_v3)))
}

fn seen_v3(event: rumqttc::Event) -> Option<Seen> {
    let event = match event {
        rumqttc::Event::Incoming(event) => event,
        rumqttc::Event::Outgoing(Outgoing::Disconnect) => return Some(Seen::Left),
        rumqttc::Event::Outgoing(_) => return None,
    };
    Some(match event {
        Incoming::ConnAck(connack) => Seen::Connected { session_present: connack.session_present },
        Incoming::SubAck(suback) => Seen::Subscribed(
            suback
                .return_codes
                .iter()
                .map(|code| match code {
                    rumqttc::SubscribeReasonCode::Success(qos) => Some(*qos as u8),
                    rumqttc::SubscribeReasonCode::Failure => None,
                })
                .collect(),
        ),
        Incoming::PubAck(_) | Incoming::PubComp(_) => Seen::Published,
        Incoming::Publish(publish) => Seen::Message(Message {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
            properties: None,
        }),
        _ => return None,
    })
}

fn open_v5(
    id: &str,
    settings: &Settings<'_>,
    sender: mpsc::Sender<Seen>,
) -> Result<(Handle, JoinHandle<()>)> {
    let (host, port) = address(settings.args)?;
    let mut options = v5::MqttOptions::new(id, host, port);
    options.set_clean_start(settings.clean).set_max_packet_size(Some(PACKET_BYTES_MAX as u32));
    options
        .set_session_expiry_interval((!settings.clean).then_some(600))
        .set_topic_alias_max(settings.topic_alias_max);
    options.set_transport(transport(settings.args)?);
    if let (Some(user), Some(password)) = (&settings.args.user, &settings.args.password) {
        options.set_credentials(user, password);
    }
    if let Some((topic, payload)) = settings.will {
        options.set_last_will(v5::mqttbytes::v5::LastWill::new(topic, payload, qos_v5(1), false, None));
    }
    let (client, events) = v5::AsyncClient::new(options, 100);
    Ok((Handle::V5(client), drive!(events, sender, seen_v5)))
}

fn seen_v5(event: v5::Event) -> Option<Seen> {
    use v5::mqttbytes::v5::SubscribeReasonCode as Code;
    let event = match event {
        v5::Event::Incoming(event) => event,
        v5::Event::Outgoing(Outgoing::Disconnect) => return Some(Seen::Left),
        v5::Event::Outgoing(_) => return None,
    };
    Some(match event {
        v5::Incoming::ConnAck(connack) => Seen::Connected { session_present: connack.session_present },
        v5::Incoming::SubAck(suback) => Seen::Subscribed(
            suback
                .return_codes
                .iter()
                .map(|code| if let Code::Success(qos) = code { Some(*qos as u8) } else { None })
                .collect(),
        ),
        v5::Incoming::PubAck(_) | v5::Incoming::PubComp(_) => Seen::Published,
        v5::Incoming::Publish(publish) => Seen::Message(Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
            properties: publish.properties,
        }),
        _ => return None,
    })
}
