//! A broker in this process and clients that are bare sockets.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use broker::{Broker, Config, RunningBroker, config::HostPort};
use bytes::BytesMut;
use protocol::{
    Ack, Connect, ConnectProperties, Decoder, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode,
    Role, SubAck, Subscribe, SubscribeFilter, SubscribeOptions,
};
use tempfile::TempDir;

/// What never takes this long but when it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A configuration on free ports with its store in `dir`.
pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config::default();
    config.mqtt.listen = HostPort::new("127.0.0.1", 0);
    config.http.enabled = false;
    config.store.data_dir = dir.join("store");
    // The tests are about the runtime; what fsync is good for is the store's and the system's test.
    config.store.durability = broker::config::Durability::Process;
    config
}

/// A broker with a store of its own.
pub(crate) struct TestBroker {
    running: RunningBroker,
    dir: TempDir,
}

impl TestBroker {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change)
    }

    pub(crate) fn start_in(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(dir.path());
        change(&mut config);
        Self { running: Broker::start(config).unwrap(), dir }
    }

    pub(crate) fn running(&self) -> &RunningBroker {
        &self.running
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.running.mqtt_addr().unwrap()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends it in order; gives the directory for the next one.
    pub(crate) fn stop(self) -> TempDir {
        block_on(self.running.stop()).unwrap();
        self.dir
    }

    pub(crate) fn client(&self) -> RawClient {
        RawClient::new(self.addr(), ProtocolVersion::V5)
    }

    pub(crate) fn connected(&self, id: &str) -> RawClient {
        let mut client = self.client();
        client.send(&connect(ProtocolVersion::V5, id));
        client.expect_connack(ReasonCode::Success);
        client
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// What a client speaks over.
pub(crate) trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// Connects and sees to it that nothing waits for ever.
pub(crate) fn dial(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A socket that speaks MQTT packets, or any bytes.
pub(crate) struct RawClient {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    version: ProtocolVersion,
    buf: BytesMut,
}

impl RawClient {
    pub(crate) fn new(addr: SocketAddr, version: ProtocolVersion) -> Self {
        Self::over(dial(addr), version)
    }

    pub(crate) fn over(stream: impl Stream + 'static, version: ProtocolVersion) -> Self {
        let stream = Box::new(stream);
        let decoder = Decoder::new(Role::Client, Some(version), 268_435_455);
        Self { stream, decoder, version, buf: BytesMut::new() }
    }

    pub(crate) fn send(&mut self, packet: &Packet) {
        let bytes = self.encode(std::slice::from_ref(packet));
        self.send_bytes(&bytes);
    }

    pub(crate) fn encode(&self, packets: &[Packet]) -> BytesMut {
        let mut out = BytesMut::new();
        for packet in packets {
            protocol::encode(packet, self.version, &mut out).unwrap();
        }
        out
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Waits for the next packet; `None` is the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.buf).unwrap() {
                return Some(packet);
            }
            if self.read_more() == 0 {
                return None;
            }
        }
    }

    /// Reads so many bytes and throws them away.
    pub(crate) fn expect_bytes(&mut self, mut bytes: usize) {
        while bytes > 0 {
            self.buf.clear();
            let read = self.read_more();
            assert!(read > 0, "{bytes} bytes are missing");
            bytes = bytes.checked_sub(read).expect("no more than was asked for");
        }
        self.buf.clear();
    }

    fn read_more(&mut self) -> usize {
        let mut chunk = [0; 65_536];
        let read = self.stream.read(&mut chunk).expect("the broker answers or closes");
        self.buf.extend_from_slice(&chunk[..read]);
        read
    }

    /// Waits for the next packet.
    pub(crate) fn expect(&mut self) -> Packet {
        self.next().expect("a packet, not the end of the stream")
    }

    pub(crate) fn expect_connack(&mut self, reason: ReasonCode) -> protocol::ConnAck {
        match self.expect() {
            Packet::ConnAck(connack) if connack.reason == reason => *connack,
            other => panic!("expected CONNACK {reason:?}, got {other:?}"),
        }
    }

    /// Waits for DISCONNECT and the end of the stream.
    pub(crate) fn expect_disconnect(&mut self, reason: ReasonCode) {
        match self.expect() {
            Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason, reason, "{disconnect:?}"),
            other => panic!("expected DISCONNECT {reason:?}, got {other:?}"),
        }
        self.expect_end();
    }

    /// Waits for the end of the stream, and for nothing before it.
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.next(), None);
    }

    /// Returns every byte until the end of the stream.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        while self.read_more() > 0 {}
        self.buf.to_vec()
    }

    /// Proves that the connection is alive and everything before is answered.
    pub(crate) fn ping(&mut self) {
        self.send(&Packet::PingReq);
        assert_eq!(self.expect(), Packet::PingResp);
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.send(&subscribe(filter, qos));
        match self.expect() {
            Packet::SubAck(SubAck { reasons, .. }) => assert!(!reasons[0].is_failure(), "{reasons:?}"),
            other => panic!("expected SUBACK, got {other:?}"),
        }
    }

    pub(crate) fn expect_publish(&mut self) -> Publish {
        match self.expect() {
            Packet::Publish(publish) => publish,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }

    pub(crate) fn expect_puback(&mut self, id: u16) -> Ack {
        match self.expect() {
            Packet::PubAck(ack) if ack.packet_id.get() == id => ack,
            other => panic!("expected PUBACK {id}, got {other:?}"),
        }
    }
}

pub(crate) fn connect(version: ProtocolVersion, id: &str) -> Packet {
    Packet::Connect(Box::new(Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: id.into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }))
}

/// A CONNECT of 5.0 whose session stays.
pub(crate) fn connect_lasting(id: &str, clean_start: bool) -> Packet {
    let Packet::Connect(mut packet) = connect(ProtocolVersion::V5, id) else { unreachable!() };
    packet.clean_start = clean_start;
    packet.properties.session_expiry_interval_s = Some(3600);
    Packet::Connect(packet)
}

pub(crate) fn publish(topic: &str, qos: QoS, id: u16, payload: &[u8]) -> Packet {
    Packet::Publish(Publish {
        qos,
        topic: topic.into(),
        packet_id: if qos == QoS::AtMostOnce { None } else { PacketId::new(id) },
        payload: payload.to_vec().into(),
        ..Publish::default()
    })
}

pub(crate) fn subscribe(filter: &str, qos: QoS) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(60_000).unwrap(),
        subscription_identifier: None,
        user_properties: Vec::new(),
        filters: vec![SubscribeFilter {
            filter: filter.into(),
            options: SubscribeOptions { qos, ..SubscribeOptions::default() },
        }],
    })
}
