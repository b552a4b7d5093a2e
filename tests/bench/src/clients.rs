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
use bytes::{BufMut, BytesMut};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use protocol::{
    ConnAck, Connect, ConnectProperties, Decoder, Disconnect, Packet, PacketId, ProtocolVersion, QoS,
    ReasonCode, Role, Subscribe, SubscribeFilter, SubscribeOptions,
};

use crate::frame::{self, AckKind, Frame, Template};

const SCRATCH_BYTES: usize = 256 * 1024;
const PACKET_BYTES_MAX: u32 = 1024 * 1024;
/// Requests under way while a load is set up; mosquitto lets 100 connections wait for it.
const AT_ONCE: usize = 64;
/// A server that says nothing for this long has failed.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);

struct Link {
    stream: TcpStream,
    decoder: Decoder,
    /// The beginning of a packet that was cut.
    input: Vec<u8>,
    out: Vec<u8>,
    /// How much of `out` is written.
    written: usize,
    is_dirty: bool,
}

/// Clients of one server.
pub(crate) struct Clients {
    server: SocketAddr,
    pub(crate) version: ProtocolVersion,
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
            input: Vec::new(),
            out: Vec::new(),
            written: 0,
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
                // Longer than any measurement; not all servers take clients that say nothing.
                keep_alive_s: 600,
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
                self.send_subscribe(*link, std::slice::from_ref(filter), qos)?;
            }
            self.granted(some.len())?;
        }
        Ok(())
    }

    /// Waits for that many SUBACKs.
    pub(crate) fn granted(&mut self, count: usize) -> Result<()> {
        for packet in self.answers(count)? {
            match packet {
                Packet::SubAck(suback) => granted(&suback.reasons)?,
                other => bail!("{other:?} came for a SUBSCRIBE"),
            }
        }
        Ok(())
    }

    pub(crate) fn send_subscribe(&mut self, id: usize, filters: &[String], qos: QoS) -> Result<()> {
        let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
        let filter = |filter: &String| SubscribeFilter { filter: filter.as_str().into(), options };
        self.send(
            id,
            &Packet::Subscribe(Subscribe {
                packet_id: PacketId::MIN,
                subscription_identifier: None,
                user_properties: Vec::new(),
                filters: filters.iter().map(filter).collect(),
            }),
        )
    }

    /// Says goodbye and closes the socket.
    pub(crate) fn disconnect(&mut self, id: usize) -> Result<()> {
        let properties = Default::default();
        self.send(id, &Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }))?;
        self.flush()?;
        self.close(id)
    }

    /// Closes the socket without a word.
    pub(crate) fn close(&mut self, id: usize) -> Result<()> {
        if let Some(mut link) = self.links[id].take() {
            self.poll.registry().deregister(&mut link.stream)?;
        }
        Ok(())
    }

    /// Encodes a packet; it goes out with the next turn or flush.
    pub(crate) fn send(&mut self, id: usize, packet: &Packet) -> Result<()> {
        let mut bytes = BytesMut::new();
        protocol::encode(packet, self.version, &mut bytes)?;
        self.out(id).put_slice(&bytes);
        Ok(())
    }

    pub(crate) fn send_publish(&mut self, id: usize, template: &Template, packet_id: u16, stamp: &[u8]) {
        template.put(packet_id, stamp, self.out(id));
    }

    pub(crate) fn send_ack(&mut self, id: usize, kind: AckKind, packet_id: u16) {
        frame::put_ack(kind, packet_id, self.out(id));
    }

    /// Answers a PUBLISH that came.
    pub(crate) fn acknowledge(&mut self, id: usize, qos: QoS, packet_id: u16) {
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.send_ack(id, AckKind::Ack, packet_id),
            QoS::ExactlyOnce => self.send_ack(id, AckKind::Rec, packet_id),
        }
    }

    /// What is to be written to a link, with the next turn or flush.
    fn out(&mut self, id: usize) -> &mut Vec<u8> {
        let link = self.links[id].as_mut().expect("a row sends only on links it has open");
        if !std::mem::replace(&mut link.is_dirty, true) {
            self.dirty.push(id);
        }
        &mut link.out
    }

    /// Writes what was sent, waits for sockets, and reads: `take` gets each packet with its link.
    pub(crate) fn turn(
        &mut self,
        timeout: Option<Duration>,
        mut take: impl FnMut(&mut Self, usize, Frame<'_>) -> Result<()>,
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
                self.read(id, &mut take)?;
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
            self.turn(Some(Duration::from_millis(100)), |_, _, frame| match frame {
                Frame::Other(packet) => {
                    packets.push(*packet);
                    Ok(())
                }
                other => bail!("{other:?} came before anything was published"),
            })?;
            ensure!(begin.elapsed() < SILENCE_MAX, "{} of {count} answers in {SILENCE_MAX:?}", packets.len());
        }
        ensure!(packets.len() == count, "more than the {count} answers came: {packets:?}");
        Ok(packets)
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
        while link.written < link.out.len() {
            match link.stream.write(&link.out[link.written..]) {
                Ok(written) => link.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("the server closed a connection"),
            }
        }
        link.out.clear();
        link.written = 0;
        Ok(())
    }

    fn read(
        &mut self,
        id: usize,
        take: &mut impl FnMut(&mut Self, usize, Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = self.read_into(id, &mut scratch, take);
        self.scratch = scratch;
        outcome
    }

    fn read_into(
        &mut self,
        id: usize,
        scratch: &mut [u8],
        take: &mut impl FnMut(&mut Self, usize, Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let Some(link) = &mut self.links[id] else { return Ok(()) };
            let bytes = match link.stream.read(scratch) {
                Ok(0) => bail!("the server closed connection {id}"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading"),
            };
            let mut input = std::mem::take(&mut link.input);
            if input.is_empty() {
                let taken = self.packets(id, &scratch[..bytes], take)?;
                input.extend_from_slice(&scratch[taken..bytes]);
            } else {
                input.extend_from_slice(&scratch[..bytes]);
                let taken = self.packets(id, &input, take)?;
                input.drain(..taken);
            }
            if let Some(link) = &mut self.links[id] {
                link.input = input;
            }
            // Fewer bytes than there was room for: the socket is empty, and the poller tells of new ones.
            if bytes < scratch.len() {
                return Ok(());
            }
        }
    }

    /// Takes all whole packets; says how many bytes they were.
    fn packets(
        &mut self,
        id: usize,
        input: &[u8],
        take: &mut impl FnMut(&mut Self, usize, Frame<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut taken = 0;
        while let Some(link) = &mut self.links[id]
            && let Some((length, frame)) = frame::first(&input[taken..], self.version, &mut link.decoder)?
        {
            taken += length;
            take(self, id, frame)?;
        }
        Ok(taken)
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
