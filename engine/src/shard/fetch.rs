//! Reading again what left memory: bodies of messages that are to be sent or handed on now.
//!
//! Whoever meets a message without its body asks here and stops; when the bodies are back it goes on. Nobody else
//! waits for it. Not more than `OPEN_MAX` requests are out at once, the others stand in a row, each session once. What
//! a session needs is looked at when its turn comes: until then somebody else may have had the same bodies read.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::Shard;
use super::backlog::Work;
use super::preview::Previews;
use crate::body::Body;
use crate::message::{Delivery, Message};
use crate::record::{GroupNo, SessionNo, Source, read_body};
use crate::session::{FlightState, InFlight};
use crate::{FetchId, Now, Output, Ticket};

/// Requests that are out at once.
const OPEN_MAX: usize = 64;

/// Messages that are read ahead for one session.
pub(super) const AHEAD_MESSAGES: usize = 64;

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

/// A request that is out.
#[derive(Debug)]
struct Fetching {
    wanted: Vec<Arc<Message>>,
    /// How many of them somebody holds; the others are wanted while their conversations keep them.
    held: usize,
    purpose: FetchFor,
}

/// The requests of a shard.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    open: FxHashMap<FetchId, Fetching>,
    waiting: VecDeque<FetchFor>,
    next: u64,
}

#[cfg(test)]
impl Fetches {
    /// The messages whose bodies are being read.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.open.values().flat_map(|fetching| &fetching.wanted)
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
        while self.fetches.open.len() < OPEN_MAX {
            let Some(purpose) = self.fetches.waiting.pop_front() else { return };
            let (wanted, held) = self.wanted(&purpose);
            if wanted.is_empty() {
                // Somebody else has had it read, or it is gone.
                self.goes_on(purpose);
                continue;
            }
            let fetch = FetchId(self.fetches.next);
            self.fetches.next += 1;
            let places = wanted.iter().map(|message| Ticket(message.place())).collect();
            self.gate.fetch(Output::Fetch { fetch, places });
            self.fetches.open.insert(fetch, Fetching { wanted, held, purpose });
        }
    }

    /// Takes the records that were asked for.
    pub(super) fn fetched(&mut self, now: Now, fetch: FetchId, records: &[Option<Bytes>]) {
        let Some(Fetching { wanted, held, purpose }) = self.fetches.open.remove(&fetch) else { return };
        for (at, message) in wanted.iter().enumerate() {
            // What has ended meanwhile nobody needs; its record may be gone too.
            if message.body.is_here() || Arc::strong_count(message) == 1 {
                continue;
            }
            let record = records.get(at).and_then(Option::as_ref);
            let body = record.and_then(|record| read_body(record, message.no));
            self.stats.bodies_fetched += u64::from(body.is_some());
            // What its conversation gave up meanwhile is not lost: nobody wants it any more.
            let is_kept = |seq| self.conversations.get(&message.topic, seq).is_some();
            let is_wanted = at < held || message.seq.is_some_and(is_kept);
            self.stats.bodies_lost += u64::from(body.is_none() && is_wanted);
            self.bodies.restore(message, body.unwrap_or_else(Body::lost));
        }
        drop(wanted);
        match purpose {
            FetchFor::Session(session) => {
                let Some(key) = self.sessions.numbered(session) else { return };
                self.sessions[key].is_fetching = false;
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

    /// The messages without a body among those that are needed next, and how many of them somebody holds.
    fn wanted(&self, purpose: &FetchFor) -> (Vec<Arc<Message>>, usize) {
        let held = match *purpose {
            FetchFor::One { ref message, .. } if message.body.is_here() => Vec::new(),
            FetchFor::One { ref message, .. } => vec![message.clone()],
            FetchFor::Previews(Previews { ref messages, .. }) => {
                return (messages.iter().map(|(_, message)| message.clone()).collect(), 0);
            }
            FetchFor::Session(session) => {
                let session = self.sessions.numbered(session).map(|key| &self.sessions[key]);
                let Some(session) = session.filter(|s| s.conn.is_some()) else { return Default::default() };
                let is_due = |f: &&InFlight| !f.on_this_connection && f.state == FlightState::Sent;
                let in_flight = session.in_flight.iter().filter(is_due).map(|f| &f.delivery);
                let mut wanted = absent(in_flight.chain(session.queue.iter_out()));
                let held = wanted.len();
                let ahead = session.replays.iter().flat_map(|replays| replays.ahead());
                let mut bytes = 0;
                let has_room = |message: &&Arc<Message>| {
                    let has_room = bytes < AHEAD_BYTES;
                    bytes += message.bytes();
                    has_room
                };
                let ahead = ahead.filter(|message| !message.body.is_here());
                wanted.extend(ahead.take(AHEAD_MESSAGES).take_while(has_room).cloned());
                return (wanted, held);
            }
            FetchFor::Group { session, group, .. } => {
                let is_of = |d: &&Delivery| group.is_none_or(|group| d.source() == Source::Group(group));
                if let Some(key) = self.sessions.numbered(session) {
                    absent(self.sessions[key].queue.iter().filter(is_of))
                } else {
                    let remains = self.remains.get(&session);
                    absent(remains.into_iter().flat_map(|r| r.iter()).map(|(_, d)| d).filter(is_of))
                }
            }
        };
        let all = held.len();
        (held, all)
    }
}

/// Takes the messages without a body out of the first ones.
fn absent<'a>(deliveries: impl Iterator<Item = &'a Delivery>) -> Vec<Arc<Message>> {
    let (mut wanted, mut bytes) = (Vec::new(), 0);
    for delivery in deliveries.take(AHEAD_MESSAGES) {
        if bytes >= AHEAD_BYTES {
            break;
        }
        bytes += delivery.message.bytes();
        if !delivery.message.body.is_here() {
            wanted.push(delivery.message.clone());
        }
    }
    wanted
}
