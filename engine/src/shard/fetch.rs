//! Reading again what left memory: bodies of messages that are to be sent or handed on now.
//!
//! Whoever meets a message without its body asks here and stops; when the bodies are back it goes on. Nobody else
//! waits for it. Not more than `OPEN_MAX` requests for `OPEN_BYTES_MAX` are out at once, the others stand in a row, each
//! session once. What a session needs is looked at when its turn comes: until then somebody else may have had the same
//! bodies read. Many small requests are out together because they are read together: what waits at sessions that come
//! back at the same time lies side by side in the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::Shard;
use super::backlog::Work;
use super::preview::Previews;
use crate::body::Body;
use crate::message::{Delivery, Message, MsgNo};
use crate::record::{GroupNo, SessionNo, Source, read_body};
use crate::route::SessionKey;
use crate::session::{FlightState, InFlight};
use crate::waiting::Outline;
use crate::{FetchId, Now, Output, Ticket};

/// Requests that are out at once ...
const OPEN_MAX: usize = 512;

/// ... and bytes of messages that they ask for, the last one's not counted.
const OPEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Messages that are read ahead for one session at least ...
pub(super) const AHEAD_MESSAGES: usize = 64;

/// ... and at most: as many as its client takes without an acknowledgement. Each request costs a turn of two threads,
/// so those of clients that take much are few and large.
const AHEAD_MESSAGES_MAX: usize = 256;

/// Bytes of messages that are read ahead for one session, the last one's not counted.
pub(super) const AHEAD_BYTES: usize = 256 * 1024;

/// What is to be read, and what for.
#[derive(Debug)]
pub(super) enum FetchFor {
    /// What a session sends next; it is drained then.
    Session(SessionNo),
    /// What a session has of a group, or left to all its groups when it ended; the work goes on then.
    Group { session: SessionNo, group: Option<GroupNo>, then: Work },
    /// One message that another member of its group gets; the work goes on then.
    One { message: Arc<Message>, then: Work },
    /// Newest messages of conversations, for who looks at the list of them.
    Previews(Previews),
}

/// What is read.
#[derive(Debug)]
enum Wanted {
    /// The body of a message.
    Body(Arc<Message>),
    /// That of one that nobody holds: it is wanted while its conversation keeps it.
    Stored(Arc<Message>),
    /// A message whose place is packed.
    Packed { no: MsgNo, place: u64, bytes: usize },
}

impl Wanted {
    fn place(&self) -> Ticket {
        Ticket(match self {
            Self::Body(message) | Self::Stored(message) => message.place(),
            Self::Packed { place, .. } => *place,
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Body(message) | Self::Stored(message) => message.bytes(),
            Self::Packed { bytes, .. } => *bytes,
        }
    }
}

/// A request that is out.
#[derive(Debug)]
struct Fetching {
    wanted: Vec<Wanted>,
    bytes: usize,
    purpose: FetchFor,
}

/// The requests of a shard.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    open: FxHashMap<FetchId, Fetching>,
    /// Bytes of messages that are asked for.
    open_bytes: usize,
    waiting: VecDeque<FetchFor>,
    next: u64,
}

#[cfg(test)]
impl Fetches {
    /// The messages whose bodies are being read.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Arc<Message>> {
        let wanted = self.open.values().flat_map(|fetching| &fetching.wanted);
        wanted.filter_map(|wanted| match wanted {
            Wanted::Body(message) | Wanted::Stored(message) => Some(message),
            Wanted::Packed { .. } => None,
        })
    }
}

impl Shard {
    /// Has what a session sends next read; once it is being read, it is not asked for again.
    pub(super) fn fetch_for_session(&mut self, key: usize) {
        let session = &mut self.sessions[key];
        if !std::mem::replace(&mut session.is_fetching, true) {
            let purpose = FetchFor::Session(session.no);
            self.fetches.waiting.push_back(purpose);
        }
    }

    /// Has what a session has of a group read; the work that needs it goes on then.
    pub(super) fn fetch_for_group(&mut self, session: SessionNo, group: Option<GroupNo>, then: Work) {
        self.fetches.waiting.push_back(FetchFor::Group { session, group, then });
    }

    /// Has one message read; the work that needs it goes on then.
    pub(super) fn fetch_one(&mut self, message: Arc<Message>, then: Work) {
        self.fetches.waiting.push_back(FetchFor::One { message, then });
    }

    /// Has messages read for their previews.
    pub(super) fn fetch_previews(&mut self, previews: Previews) {
        self.fetches.waiting.push_back(FetchFor::Previews(previews));
    }

    /// Sends the requests whose turn it is.
    pub(super) fn start_fetches(&mut self) {
        while self.fetches.open.len() < OPEN_MAX && self.fetches.open_bytes < OPEN_BYTES_MAX {
            let Some(purpose) = self.fetches.waiting.pop_front() else { return };
            let wanted = self.wanted(&purpose);
            if wanted.is_empty() {
                // Somebody else has had it read, or it is gone.
                if let FetchFor::Session(session) = purpose {
                    self.unpack_ahead(session, FxHashMap::default());
                }
                self.goes_on(purpose);
                continue;
            }
            let fetch = FetchId(self.fetches.next);
            self.fetches.next += 1;
            let places = wanted.iter().map(Wanted::place).collect();
            self.gate.fetch(Output::Fetch { fetch, places });
            let bytes = wanted.iter().map(Wanted::bytes).sum();
            self.fetches.open_bytes += bytes;
            self.fetches.open.insert(fetch, Fetching { wanted, bytes, purpose });
        }
    }

    /// Takes the records that were asked for.
    pub(super) fn fetched(&mut self, now: Now, fetch: FetchId, records: &[Option<Bytes>]) {
        let Some(Fetching { wanted, bytes, purpose }) = self.fetches.open.remove(&fetch) else { return };
        self.fetches.open_bytes -= bytes;
        let mut read = FxHashMap::default();
        for (wanted, record) in wanted.into_iter().zip(records) {
            let (no, is_wanted) = match &wanted {
                // What has ended meanwhile nobody needs; its record may be gone too.
                Wanted::Body(m) | Wanted::Stored(m) if m.body.is_here() || Arc::strong_count(m) == 1 => {
                    continue;
                }
                Wanted::Body(message) => (message.no, true),
                // What its conversation gave up meanwhile is not lost: nobody wants it any more.
                Wanted::Stored(message) => {
                    let is_kept = |seq| self.conversations.get(&message.topic, seq).is_some();
                    (message.no, message.seq.is_some_and(is_kept))
                }
                Wanted::Packed { no, .. } => (*no, false),
            };
            let body = record.as_ref().and_then(|record| read_body(record, no));
            self.stats.bodies_fetched += u64::from(body.is_some());
            self.stats.bodies_lost += u64::from(body.is_none() && is_wanted);
            let body = body.unwrap_or_else(Body::lost);
            match wanted {
                Wanted::Body(message) | Wanted::Stored(message) => self.bodies.restore(&message, body),
                Wanted::Packed { .. } => drop(read.insert(no, body)),
            }
        }
        match purpose {
            FetchFor::Session(session) => {
                let Some(key) = self.sessions.numbered(session) else { return };
                self.sessions[key].is_fetching = false;
                self.unpack_ahead(session, read);
                self.drain(now, key);
            }
            // At once: what was read may have to leave again at the turn's end.
            FetchFor::Group { then, .. } | FetchFor::One { then, .. } => {
                self.backlog.push_front(then);
                self.work_off(now);
            }
            FetchFor::Previews(previews) => self.previews_read(now, previews),
        }
    }

    /// Makes the packed messages again that a session sends next, with what was read of them.
    fn unpack_ahead(&mut self, session: SessionNo, mut read: FxHashMap<MsgNo, Body>) {
        let Some(key) = self.sessions.numbered(session) else { return };
        let ahead = self.ahead_of(key);
        let session = &mut self.sessions[key];
        if session.conn.is_some() {
            let stats = &mut self.stats;
            session.unpack_waiting(ahead, &mut self.bodies, |no| {
                let body = read.remove(&no);
                stats.bodies_lost += u64::from(body.as_ref().is_some_and(|body| body.is_lost));
                body
            });
        }
    }

    fn goes_on(&mut self, purpose: FetchFor) {
        match purpose {
            FetchFor::Session(session) => {
                if let Some(key) = self.sessions.numbered(session) {
                    self.sessions[key].is_fetching = false;
                    self.drain_later(key);
                }
            }
            FetchFor::Group { then, .. } | FetchFor::One { then, .. } => self.backlog.push_back(then),
            // Nobody else has these messages: their bodies are away.
            FetchFor::Previews(_) => {}
        }
    }

    /// What is to be read of the messages that are needed next.
    fn wanted(&self, purpose: &FetchFor) -> Vec<Wanted> {
        match *purpose {
            FetchFor::One { ref message, .. } if message.body.is_here() => Vec::new(),
            FetchFor::One { ref message, .. } => vec![Wanted::Body(message.clone())],
            FetchFor::Previews(Previews { ref messages, .. }) => {
                messages.iter().map(|(_, message)| Wanted::Stored(message.clone())).collect()
            }
            FetchFor::Session(session) => {
                let key = self.sessions.numbered(session);
                let key = key.filter(|key| self.sessions[*key].conn.is_some());
                key.map_or(Vec::new(), |key| self.wanted_of(key))
            }
            FetchFor::Group { session, group, .. } => {
                let is_of = |d: &&Delivery| group.is_none_or(|group| d.source() == Source::Group(group));
                let mut wanted = Absent::of(AHEAD_MESSAGES);
                // What came by a group is never packed.
                if let Some(key) = self.sessions.numbered(session) {
                    wanted.look_at_all(self.sessions[key].queue.iter_whole().filter(is_of));
                } else if let Some(remains) = self.remains.get(&session) {
                    wanted.look_at_all(remains.iter().map(|(_, delivery)| delivery).filter(is_of));
                }
                wanted.wanted
            }
        }
    }

    /// How many messages are read ahead for a session.
    fn ahead_of(&self, key: SessionKey) -> usize {
        let conn = self.sessions[key].conn.and_then(|conn| self.conns.get(&conn));
        let window = conn.map_or(0, |conn| self.window(key, conn.window));
        window.clamp(AHEAD_MESSAGES, AHEAD_MESSAGES_MAX)
    }

    /// What a session sends next: in flight, waiting, and of stored messages.
    fn wanted_of(&self, key: SessionKey) -> Vec<Wanted> {
        let (session, messages) = (&self.sessions[key], self.ahead_of(key));
        let is_due = |f: &&InFlight| !f.on_this_connection && f.state == FlightState::Sent;
        let mut absent = Absent::of(messages);
        absent.look_at_all(session.in_flight.iter().filter(is_due).map(|f| &f.delivery));
        if absent.has_room() {
            for (outline, whole) in session.queue.ahead(messages) {
                let is_looked_at = match whole {
                    Some(delivery) => absent.look_at(&delivery.message),
                    None => absent.look_at_packed(&outline, self.bodies.has_shared(outline.no)),
                };
                if !is_looked_at {
                    break;
                }
            }
        }
        let mut wanted = absent.wanted;
        let mut ahead = Absent::of(AHEAD_MESSAGES);
        let replays = session.replays.iter().flat_map(|replays| replays.ahead());
        for message in replays.filter(|message| !message.body.is_here()) {
            if !ahead.has_room() {
                break;
            }
            ahead.count(message.bytes());
            wanted.push(Wanted::Stored(message.clone()));
        }
        wanted
    }
}

/// Collects what is to be read of the first messages.
#[derive(Debug)]
struct Absent {
    wanted: Vec<Wanted>,
    messages_max: usize,
    messages: usize,
    bytes: usize,
}

impl Absent {
    fn of(messages_max: usize) -> Self {
        Self { wanted: Vec::new(), messages_max, messages: 0, bytes: 0 }
    }

    fn has_room(&self) -> bool {
        self.messages < self.messages_max && self.bytes < AHEAD_BYTES
    }

    fn count(&mut self, bytes: usize) {
        (self.messages, self.bytes) = (self.messages + 1, self.bytes + bytes);
    }

    fn look_at_all<'a>(&mut self, mut deliveries: impl Iterator<Item = &'a Delivery>) {
        while self.has_room()
            && let Some(delivery) = deliveries.next()
        {
            self.look_at(&delivery.message);
        }
    }

    /// Says whether there was room for it.
    fn look_at(&mut self, message: &Arc<Message>) -> bool {
        if !self.has_room() {
            return false;
        }
        self.count(message.bytes());
        if !message.body.is_here() {
            self.wanted.push(Wanted::Body(message.clone()));
        }
        true
    }

    /// Looks at one that is packed. Those of one run are all looked at: they are made again together.
    fn look_at_packed(&mut self, outline: &Outline<'_>, is_here: bool) -> bool {
        if self.bytes >= AHEAD_BYTES {
            return false;
        }
        let bytes = outline.bytes as usize;
        self.count(bytes);
        if !is_here {
            self.wanted.push(Wanted::Packed { no: outline.no, place: outline.place, bytes });
        }
        true
    }
}
