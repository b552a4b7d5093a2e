//! The floor: an epoll loop that moves the same bytes between the same sockets and knows no MQTT.
//!
//! It reads once a socket and turn and writes once a destination and turn. Of a client's first packet, its
//! CONNECT, it takes the client id from its fixed place (`p7` publishes, `s7` subscribes) and answers with a
//! ready-made CONNACK; all other bytes it moves unseen. An acknowledgement of a subscriber goes through to its
//! publisher, so as many packets cross as with a broker.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
};

use anyhow::Result;
use bytes::{Buf, BytesMut};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const SCRATCH_BYTES: usize = 64 * 1024;
const LISTENER: Token = Token(usize::MAX);
/// Where a 3.1.1 CONNECT of less than 128 bytes has its client id; in 5.0 it is behind empty properties.
const CLIENT_ID_AT: usize = 14;

/// Whose bytes go where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pattern {
    /// `p7` to `s7` and back.
    Pairs,
    /// Every publisher to `s0`.
    FanIn,
    /// `p0` to every subscriber; what `s0` says goes back.
    FanOut,
}

struct Peer {
    stream: TcpStream,
    out: BytesMut,
    is_dirty: bool,
    targets: Vec<usize>,
    is_known: bool,
}

struct Relay {
    pattern: Pattern,
    poll: Poll,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    names: HashMap<String, usize>,
    dirty: Vec<usize>,
    scratch: Box<[u8]>,
}

/// Relays until it is killed; prints where it listens.
pub(crate) fn run(pattern: Pattern) -> Result<()> {
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    println!("relay: listening on {}", listener.local_addr()?);
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut relay = Relay {
        pattern,
        poll,
        peers: Vec::new(),
        free: Vec::new(),
        names: HashMap::new(),
        dirty: Vec::new(),
        scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
    };
    let mut events = Events::with_capacity(1024);
    loop {
        relay.poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                LISTENER => relay.accept(&listener)?,
                Token(at) => {
                    if event.is_writable() {
                        relay.write(at);
                    }
                    if event.is_readable() || event.is_read_closed() {
                        relay.read(at);
                    }
                }
            }
        }
        relay.flush();
    }
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let at = self.free.pop().unwrap_or(self.peers.len());
            self.poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
            let peer = Some(Peer {
                stream,
                out: BytesMut::new(),
                is_dirty: false,
                targets: Vec::new(),
                is_known: false,
            });
            if at == self.peers.len() { self.peers.push(peer) } else { self.peers[at] = peer }
        }
    }

    fn read(&mut self, at: usize) {
        loop {
            let Some(peer) = self.peers.get_mut(at).and_then(Option::as_mut) else { return };
            let bytes = match peer.stream.read(&mut self.scratch) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => return self.close(at),
                Ok(bytes) => bytes,
            };
            if peer.is_known {
                self.pass_on(at, bytes);
            } else {
                self.welcome(at, bytes);
            }
            if bytes < SCRATCH_BYTES {
                return;
            }
        }
    }

    fn pass_on(&mut self, from: usize, bytes: usize) {
        let targets = self.peers[from].as_mut().map(|peer| std::mem::take(&mut peer.targets));
        let targets = targets.unwrap_or_default();
        for &to in &targets {
            let Some(peer) = &mut self.peers[to] else { continue };
            peer.out.extend_from_slice(&self.scratch[..bytes]);
            if !std::mem::replace(&mut peer.is_dirty, true) {
                self.dirty.push(to);
            }
        }
        if let Some(peer) = &mut self.peers[from] {
            peer.targets = targets;
        }
    }

    /// Answers a CONNECT and joins the client with those it talks to.
    fn welcome(&mut self, at: usize, bytes: usize) {
        let connect = &self.scratch[..bytes];
        let is_v5 = connect.get(8) == Some(&5);
        let from = CLIENT_ID_AT + if is_v5 { 1 + usize::from(connect[12]) } else { 0 };
        let length = connect.get(from - 1).map_or(0, |length| usize::from(*length));
        let name = connect.get(from..from + length).map(String::from_utf8_lossy);
        let Some(name) = name.map(std::borrow::Cow::into_owned) else { return self.close(at) };
        let connack: &[u8] = if is_v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
        let others: Vec<usize> = self
            .names
            .iter()
            .filter(|(other, _)| self.pattern.joins(&name, other))
            .map(|(_, other)| *other)
            .collect();
        for other in others {
            self.join(at, &name, other);
        }
        self.names.insert(name, at);
        let Some(peer) = &mut self.peers[at] else { return };
        peer.is_known = true;
        peer.out.extend_from_slice(connack);
        if !std::mem::replace(&mut peer.is_dirty, true) {
            self.dirty.push(at);
        }
    }

    fn join(&mut self, one: usize, name: &str, other: usize) {
        let (publisher, subscriber) = if name.starts_with('p') { (one, other) } else { (other, one) };
        let is_first = self.pattern != Pattern::FanOut
            || self.peers[publisher].as_ref().is_some_and(|peer| peer.targets.is_empty());
        if let Some(peer) = &mut self.peers[publisher] {
            peer.targets.push(subscriber);
        }
        if is_first && let Some(peer) = &mut self.peers[subscriber] {
            peer.targets.push(publisher);
        }
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for at in dirty.drain(..) {
            self.write(at);
        }
        self.dirty = dirty;
    }

    fn write(&mut self, at: usize) {
        let Some(peer) = self.peers.get_mut(at).and_then(Option::as_mut) else { return };
        peer.is_dirty = false;
        while !peer.out.is_empty() {
            match peer.stream.write(&peer.out) {
                Ok(written) => peer.out.advance(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The end is read too.
                Err(_) => return peer.out.clear(),
            }
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(peer) = &mut self.peers[at].take() {
            // The socket closes with it; a failure to deregister changes nothing.
            let _ = self.poll.registry().deregister(&mut peer.stream);
            self.names.retain(|_, other| *other != at);
            self.free.push(at);
        }
    }
}

impl Pattern {
    /// Says whether two clients talk to each other.
    fn joins(self, one: &str, other: &str) -> bool {
        let is_pair = one.as_bytes().first() != other.as_bytes().first();
        is_pair && (self != Self::Pairs || one[1..] == other[1..])
    }
}
