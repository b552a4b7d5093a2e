//! The load's connections: one thread, one poller, every client non-blocking.
//!
//! What arrives in one turn is answered in one write a connection, as clients do that are busy; a paced load
//! has one packet in each. Knows nothing of rows.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use protocol::{
    ConnAck, Connect, ConnectProperties, Decoder, Disconnect, DisconnectProperties, Packet, PacketId,
    ProtocolVersion, QoS, ReasonCode, Role, Subscribe, SubscribeFilter, SubscribeOptions,
};

const SCRATCH_BYTES: usize = 64 * 1024;
const PACKET_BYTES_MAX: u32 = 1024 * 1024;
/// Requests under way while a load is set up; mosquitto lets 100 connections wait for it.
const AT_ONCE: usize = 64;
/// A server that says nothing for this long has failed.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);

struct Link {
    stream: TcpStream,
    decoder: Decoder,
    input: BytesMut,
    out: BytesMut,
    is_dirty: bool,
}

/// Clients of one server.
pub(crate) struct Clients {
    server: SocketAddr,
    version: ProtocolVersion,
    poll: Poll,
    events: Events,
    scratch: Box<[u8]>,
    links: Vec<Option<Link>>,
    dirty: Vec<usize>,
}

impl Clients {
    pub(crate) fn new(server: SocketAddr, version: ProtocolVersion) -> Result<Self> {
        Ok(Self {
            server,
            version,
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            links: Vec::new(),
            dirty: Vec::new(),
        })
    }

    /// Opens a socket and sends CONNECT; the answer is a packet of a later turn.
    pub(crate) fn open(&mut self, client_id: &str, clean: bool) -> Result<usize> {
        let stream = std::net::TcpStream::connect(self.server).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let id = self.links.len();
        self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
        self.links.push(Some(Link {
            stream,
            decoder: Decoder::new(Role::Client, Some(self.version), PACKET_BYTES_MAX),
            input: BytesMut::new(),
            out: BytesMut::new(),
            is_dirty: false,
        }));
        let expiry = (!clean && self.version == ProtocolVersion::V5).then_some(3600);
        let properties =
            ConnectProperties { session_expiry_interval_s: expiry, ..ConnectProperties::default() };
        self.send(
            id,
            &Packet::Connect(Box::new(Connect {
                version: self.version,
                clean_start: clean,
                keep_alive_s: 0,
                client_id: client_id.into(),
                will: None,
                username: None,
                password: None,
                properties,
            })),
        )?;
        Ok(id)
    }

    /// Opens connections and waits for their CONNACKs.
    pub(crate) fn connect(&mut self, client_ids: &[String], clean: bool) -> Result<Vec<usize>> {
        let mut links = Vec::new();
        for some in client_ids.chunks(AT_ONCE) {
            for client_id in some {
                links.push(self.open(client_id, clean)?);
            }
            for packet in self.answers(some.len())? {
                match packet {
                    Packet::ConnAck(connack) => accepted(&connack)?,
                    other => bail!("{other:?} came for a CONNECT"),
                }
            }
        }
        Ok(links)
    }

    /// Subscribes each link to its filter and waits for the SUBACKs.
    pub(crate) fn subscribe(&mut self, subscriptions: &[(usize, String)], qos: QoS) -> Result<()> {
        for some in subscriptions.chunks(AT_ONCE) {
            for (link, filter) in some {
                self.send_subscribe(*link, filter, qos)?;
            }
            for packet in self.answers(some.len())? {
                match packet {
                    Packet::SubAck(suback) => granted(&suback.reasons)?,
                    other => bail!("{other:?} came for a SUBSCRIBE"),
                }
            }
        }
        Ok(())
    }

    pub(crate) fn send_subscribe(&mut self, id: usize, filter: &str, qos: QoS) -> Result<()> {
        let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
        self.send(
            id,
            &Packet::Subscribe(Subscribe {
                packet_id: PacketId::MIN,
                subscription_identifier: None,
                user_properties: Vec::new(),
                filters: vec![SubscribeFilter { filter: filter.into(), options }],
            }),
        )
    }

    /// Says goodbye and closes the socket.
    pub(crate) fn disconnect(&mut self, id: usize) -> Result<()> {
        let properties = DisconnectProperties::default();
        self.send(id, &Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }))?;
        self.flush()?;
        if let Some(mut link) = self.links[id].take() {
            self.poll.registry().deregister(&mut link.stream)?;
        }
        Ok(())
    }

    /// Encodes a packet; it goes out with the next turn or flush.
    pub(crate) fn send(&mut self, id: usize, packet: &Packet) -> Result<()> {
        let link = self.links[id].as_mut().expect("a row sends only on links it has open");
        protocol::encode(packet, self.version, &mut link.out)?;
        if !std::mem::replace(&mut link.is_dirty, true) {
            self.dirty.push(id);
        }
        Ok(())
    }

    /// Writes what was sent, waits for sockets, and reads: packets are added to `packets` with their link.
    pub(crate) fn turn(
        &mut self,
        timeout: Option<Duration>,
        packets: &mut Vec<(usize, Packet)>,
    ) -> Result<()> {
        self.flush()?;
        if let Err(error) = self.poll.poll(&mut self.events, timeout)
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error.into());
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let id = event.token().0;
            if event.is_writable() {
                self.write(id)?;
            }
            if event.is_readable() || event.is_read_closed() {
                self.read(id, packets)?;
            }
        }
        self.events = events;
        Ok(())
    }

    /// Waits for that many packets; nothing else may come.
    fn answers(&mut self, count: usize) -> Result<Vec<Packet>> {
        let mut packets = Vec::new();
        let begin = Instant::now();
        while packets.len() < count {
            self.turn(Some(Duration::from_millis(100)), &mut packets)?;
            ensure!(begin.elapsed() < SILENCE_MAX, "{} of {count} answers in {SILENCE_MAX:?}", packets.len());
        }
        ensure!(packets.len() == count, "more than the {count} answers came: {packets:?}");
        Ok(packets.into_iter().map(|(_, packet)| packet).collect())
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            if let Some(link) = &mut self.links[id] {
                link.is_dirty = false;
                self.write(id)?;
            }
        }
        self.dirty = dirty;
        Ok(())
    }

    fn write(&mut self, id: usize) -> Result<()> {
        let Some(link) = &mut self.links[id] else { return Ok(()) };
        while !link.out.is_empty() {
            match link.stream.write(&link.out) {
                Ok(written) => link.out.advance(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("the server closed a connection"),
            }
        }
        Ok(())
    }

    fn read(&mut self, id: usize, packets: &mut Vec<(usize, Packet)>) -> Result<()> {
        let Some(link) = &mut self.links[id] else { return Ok(()) };
        loop {
            let bytes = match link.stream.read(&mut self.scratch) {
                Ok(0) => bail!("the server closed connection {id}"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading"),
            };
            link.input.extend_from_slice(&self.scratch[..bytes]);
            while let Some(packet) = link.decoder.decode(&mut link.input)? {
                packets.push((id, packet));
            }
            // Fewer bytes than there was room for: the socket is empty, and the poller tells of new ones.
            if bytes < SCRATCH_BYTES {
                return Ok(());
            }
        }
    }
}

pub(crate) fn accepted(connack: &ConnAck) -> Result<()> {
    ensure!(connack.reason == ReasonCode::Success, "CONNECT was refused: {:?}", connack.reason);
    Ok(())
}

pub(crate) fn granted(reasons: &[ReasonCode]) -> Result<()> {
    ensure!(reasons.iter().all(|reason| (*reason as u8) < 0x80), "SUBSCRIBE was refused: {reasons:?}");
    Ok(())
}
