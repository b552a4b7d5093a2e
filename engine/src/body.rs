//! The part of a message that only sending needs, and how much of it is in memory.
//!
//! Once the record that holds a message is durable, its body may leave memory: it can be read again at its place. A
//! message whose record may go while it is still needed is pinned, and keeps its body: a retained one, and one for a
//! session that the log does not know. Where such a message waits, its place in the queue is packed then
//! (`crate::waiting`), and nothing of the message stays. Invariants: a body leaves only when its record is durable; the
//! newest come last in `order`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use bytestring::ByteString;
use protocol::{Publish, PublishProperties, Shared, UserProperties, im};
use rustc_hash::FxHashMap;

use crate::memory::{Account, BODY_BYTES, ENTRY_BYTES, HEAD_BYTES, Held, MESSAGE_BYTES};
use crate::message::{Message, MessageId, MsgNo, user_property};
use crate::record::SessionNo;

/// What of a message only sending needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) payload: Bytes,
    /// `im-id`, the sender's or ours.
    pub(crate) id: MessageId,
    /// `im-from`, empty for messages of the broker.
    pub(crate) from: ByteString,
    /// The publishing client, empty for messages of the broker.
    pub(crate) client: ByteString,
    /// What the sender set, broker's names removed; expiry, alias and subscription ids are unset.
    pub(crate) properties: Shared<PublishProperties>,
    /// The log did not have it any more: the store is damaged.
    pub(crate) is_lost: bool,
    /// Its share of the shard's memory; set by [`Bodies`].
    pub(crate) held: Held,
}

impl Body {
    /// Stands for one that is lost.
    pub(crate) fn lost() -> Self {
        Self { is_lost: true, ..Self::default() }
    }

    /// Takes what [`Message::to_publish`] added of the broker's own out again: a message that fits without is sent.
    pub(crate) fn leave_out_broker_properties(&self, publish: &mut Publish) {
        publish.properties.user_properties.truncate(self.properties.user_properties.len());
    }

    /// [MQTT-3.3.2-17] keeps the sender's user properties in order; the broker's come after them.
    pub(crate) fn push_broker_properties(&self, of: &Message, properties: &mut UserProperties) {
        let mut push =
            |name: &'static str, value: ByteString| properties.push((ByteString::from_static(name), value));
        if user_property(&self.properties.user_properties, im::IM_ID).is_none() {
            push(im::IM_ID, self.id.text());
        }
        if let Some(seq) = of.seq {
            push(im::IM_SEQ, seq.to_string().into());
        }
        if !self.from.is_empty() {
            push(im::IM_FROM, self.from.clone());
        }
        push(im::IM_TS, of.ts_unix_ms.to_string().into());
    }
}

/// Where a message's body is while it is in memory.
#[derive(Debug)]
pub(crate) enum BodySlot {
    /// It never leaves: no record holds it.
    Stays(Box<Body>),
    /// It may leave and come back. One thread looks: the lock is always free, and what it costs is less than what it
    /// takes to do without one.
    MayLeave(Mutex<Option<Arc<Body>>>),
}

/// A body that is looked at.
pub(crate) enum Loaded<'a> {
    /// One that never leaves.
    Stays(&'a Body),
    /// One that is kept for as long.
    MayLeave(Option<Arc<Body>>),
}

impl Loaded<'_> {
    /// The body, if it is in memory.
    #[inline]
    pub(crate) fn as_ref(&self) -> Option<&Body> {
        match self {
            Self::Stays(body) => Some(body),
            Self::MayLeave(body) => body.as_deref(),
        }
    }

    /// The same.
    pub(crate) fn as_deref(&self) -> Option<&Body> {
        self.as_ref()
    }
}

impl BodySlot {
    /// Keeps the body of a message that is in no record.
    pub(crate) fn of_one_that_stays(body: Body) -> Self {
        Self::Stays(Box::new(body))
    }

    fn of(body: Option<Arc<Body>>) -> Self {
        Self::MayLeave(Mutex::new(body))
    }

    /// The body, if it is in memory.
    #[inline]
    pub(crate) fn load(&self) -> Loaded<'_> {
        match self {
            Self::Stays(body) => Loaded::Stays(body),
            // A copy: whoever looks at it may look again meanwhile.
            Self::MayLeave(body) => Loaded::MayLeave(lock(body).clone()),
        }
    }

    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        match self {
            Self::Stays(_) => true,
            Self::MayLeave(body) => lock(body).is_some(),
        }
    }

    /// Puts a body that may leave there, or takes it away.
    fn set(&self, new: Option<Arc<Body>>) {
        if let Self::MayLeave(body) = self {
            *lock(body) = new;
        }
    }

    /// Changes the body of a message that nobody else has yet.
    fn change(&mut self, change: impl FnOnce(&mut Body)) {
        match self {
            Self::Stays(body) => change(body),
            Self::MayLeave(slot) => {
                if let Some(body) = &mut *lock(slot) {
                    change(Arc::make_mut(body));
                }
            }
        }
    }
}

fn lock(body: &Mutex<Option<Arc<Body>>>) -> MutexGuard<'_, Option<Arc<Body>>> {
    body.lock().expect("no holder of this lock panics")
}

impl Default for BodySlot {
    fn default() -> Self {
        Self::of(None)
    }
}

impl From<Body> for BodySlot {
    fn from(body: Body) -> Self {
        Self::of(Some(Arc::new(body)))
    }
}

/// A copy may be put into a record, and leave then.
impl Clone for BodySlot {
    fn clone(&self) -> Self {
        match self {
            Self::Stays(body) => Self::from(Body::clone(body)),
            Self::MayLeave(body) => Self::of(lock(body).clone()),
        }
    }
}

impl PartialEq for BodySlot {
    fn eq(&self, other: &Self) -> bool {
        self.load().as_ref() == other.load().as_ref()
    }
}

impl Eq for BodySlot {}

/// Keeps the bodies in memory that may leave it below a bound.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    /// 0 = no bound.
    bytes_max: usize,
    account: Account,
    /// Messages whose bodies may leave and places that may be packed, or that have ended meanwhile.
    order: VecDeque<Noted>,
    /// The sum of their bytes.
    bytes: usize,
    /// Length of `order` at which messages that have ended are taken out of it.
    sweep_at: usize,
    /// What was pinned last, and the pinned one: all who need it in one turn share it.
    pinned: (Weak<Message>, Weak<Message>),
    /// Messages that were packed where several waited for them, and of which one was made again since: the others get
    /// the same.
    shared: FxHashMap<MsgNo, Weak<Message>>,
    /// Length of `shared` at which messages that have ended are taken out of it.
    shared_sweep_at: usize,
}

/// Something in memory that could be read again.
#[derive(Debug)]
struct Noted {
    message: Weak<Message>,
    /// Where it waits, 0 = nowhere: this is about its body.
    session: SessionNo,
    /// 4 GiB are more than any message has.
    bytes: u32,
    is_body: bool,
}

/// Messages below which none is looked for that has ended.
const SWEPT_FROM: usize = 4_096;

impl Bodies {
    pub(crate) fn new(bytes_max: usize, account: &Account) -> Self {
        let (account, sweep_at, shared_sweep_at) = (account.clone(), SWEPT_FROM, SWEPT_FROM);
        Self { bytes_max, account, sweep_at, shared_sweep_at, ..Self::default() }
    }

    /// Counts a message from now on until nothing points to it any more.
    pub(crate) fn count(&self, mut message: Message) -> Arc<Message> {
        let bytes = message.body_bytes();
        message.body.change(|body| body.held = self.hold(bytes));
        self.count_head(message)
    }

    /// The same for one whose body is counted.
    pub(crate) fn count_head(&self, mut message: Message) -> Arc<Message> {
        message.held = self.hold_head(&message.topic);
        Arc::new(message)
    }

    /// Counts a message's head.
    pub(crate) fn hold_head(&self, topic: &str) -> Held {
        self.account.hold(HEAD_BYTES + topic.len())
    }

    /// Counts a body of so many bytes.
    pub(crate) fn hold(&self, body_bytes: usize) -> Held {
        self.account.hold(BODY_BYTES + body_bytes)
    }

    /// Notes that a message is in the record it belongs to: its body may leave memory when that is durable.
    pub(crate) fn written(&mut self, message: &Arc<Message>) {
        if !message.is_written.set() {
            self.note(message);
        }
    }

    /// Gives a message the body that was read again.
    pub(crate) fn restore(&mut self, message: &Arc<Message>, mut body: Body) {
        if !body.is_lost {
            body.held = self.hold(message.body_bytes());
            self.note(message);
        }
        message.body.set(Some(Arc::new(body)));
    }

    /// Makes the same message for somebody for whose sake its record would not be kept. One whose body is away is read
    /// at once by whoever needs it.
    pub(crate) fn pinned(&mut self, message: &Arc<Message>) -> Arc<Message> {
        let is_here = message.body.is_here();
        if self.bytes_max == 0 || message.is_pinned || !message.is_written.get() || !is_here {
            return message.clone();
        }
        let (of, pinned) = &self.pinned;
        if let Some(pinned) = pinned.upgrade().filter(|_| of.as_ptr() == Arc::as_ptr(message)) {
            return pinned;
        }
        let pinned = self.count(Message { is_pinned: true, ..Message::clone(message) });
        self.pinned = (Arc::downgrade(message), Arc::downgrade(&pinned));
        pinned
    }

    /// Counts a message that was packed; with its body, if that was read again. Those who wait for the same one share
    /// it.
    pub(crate) fn made(&mut self, mut message: Message, is_shared: bool, body: Option<Body>) -> Arc<Message> {
        if is_shared && let Some(known) = self.shared.get(&message.no).and_then(Weak::upgrade) {
            if let Some(body) = body.filter(|_| !known.body.is_here()) {
                self.restore(&known, body);
            }
            return known;
        }
        let has_body = body.as_ref().is_some_and(|body| !body.is_lost);
        if let Some(mut body) = body {
            if has_body {
                body.held = self.hold(message.body_bytes());
            }
            message.body = body.into();
        }
        let message = self.count_head(message);
        if has_body {
            self.note(&message);
        }
        if is_shared {
            self.share(&message);
        }
        message
    }

    /// Whether a message that was packed is in memory for somebody else, with its body.
    pub(crate) fn has_shared(&self, no: MsgNo) -> bool {
        self.shared.get(&no).and_then(Weak::upgrade).is_some_and(|message| message.body.is_here())
    }

    fn share(&mut self, message: &Arc<Message>) {
        if self.shared.len() >= self.shared_sweep_at {
            self.shared.retain(|_, message| message.strong_count() > 0);
            self.shared_sweep_at = SWEPT_FROM.max(self.shared.len() * 2);
        }
        self.shared.insert(message.no, Arc::downgrade(message));
    }

    /// Notes that a message waits at a session whose place may be packed.
    pub(crate) fn waits(&mut self, session: SessionNo, message: &Arc<Message>) {
        if self.bytes_max == 0 || message.is_pinned || !message.is_written.get() {
            return;
        }
        let bytes = (ENTRY_BYTES + HEAD_BYTES) as u32;
        self.bytes += bytes as usize;
        let is_it = |last: &&mut Noted| {
            last.session == SessionNo(0) && std::ptr::eq(last.message.as_ptr(), Arc::as_ptr(message))
        };
        match self.order.back_mut().filter(is_it) {
            // Mostly a message waits once, and was written just now.
            Some(last) => (last.session, last.bytes) = (session, last.bytes.saturating_add(bytes)),
            None => {
                let message = Arc::downgrade(message);
                self.push(Noted { message, session, bytes, is_body: false });
            }
        }
    }

    /// Lets the oldest bodies leave memory until the rest is below the bound; those stay whose record is not
    /// durable yet. `pack` packs the place of a message at a session, if it still waits there.
    pub(crate) fn evict(&mut self, committed: u64, mut pack: impl FnMut(SessionNo, MsgNo)) {
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some(message) = oldest.message.upgrade() {
                if message.place() > committed {
                    return self.order.push_front(oldest);
                }
                if oldest.session != SessionNo(0) {
                    pack(oldest.session, message.no);
                }
                // With its only place all of it is gone.
                if oldest.is_body && Arc::strong_count(&message) > 1 {
                    message.body.set(None);
                }
            }
            self.bytes -= oldest.bytes as usize;
        }
    }

    fn note(&mut self, message: &Arc<Message>) {
        if self.bytes_max == 0 || message.is_pinned {
            return;
        }
        // A message that ended needs its place until it is taken out of the order.
        let bytes = (MESSAGE_BYTES + message.bytes()).min(u32::MAX as usize) as u32;
        self.bytes += bytes as usize;
        let (message, session) = (Arc::downgrade(message), SessionNo(0));
        self.push(Noted { message, session, bytes, is_body: true });
    }

    fn push(&mut self, noted: Noted) {
        if self.order.len() >= self.sweep_at {
            self.order.retain(|noted| noted.message.strong_count() > 0);
            self.bytes = self.order.iter().map(|noted| noted.bytes as usize).sum();
            self.bytes += noted.bytes as usize;
            self.sweep_at = SWEPT_FROM.max(self.order.len() * 2);
        }
        self.order.push_back(noted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::message_for_tests;

    fn message(place: u64) -> Message {
        let body = Body { payload: vec![1; 1_000].into(), ..Body::default() };
        let head = Message::clone(&message_for_tests());
        Message { record: place, body: body.into(), ..head }.sized()
    }

    fn written(bodies: &mut Bodies, place: u64) -> Arc<Message> {
        let message = bodies.count(message(place));
        bodies.written(&message);
        message
    }

    #[test]
    fn the_oldest_bodies_leave_when_they_are_durable_and_there_are_too_many() {
        let account = Account::default();
        let one = message(1);
        let (head, body) = (HEAD_BYTES + one.topic.len(), BODY_BYTES + one.body_bytes());
        let mut bodies = Bodies::new(3 * (head + body), &account);
        let all: Vec<_> = (1..=5).map(|place| written(&mut bodies, place)).collect();
        let here = || all.iter().map(|m| m.body.is_here()).collect::<Vec<_>>();
        bodies.evict(0, |_, _| {});
        assert_eq!(here(), [true; 5], "not durable");
        bodies.evict(1, |_, _| {});
        assert_eq!(here(), [false, true, true, true, true]);
        bodies.evict(5, |_, _| {});
        assert_eq!(here(), [false, false, true, true, true]);
        assert_eq!(account.bytes(), 5 * head + 3 * body);
        // What was read again is the newest.
        bodies.restore(&all[0], Body { payload: vec![1; 1_000].into(), ..Body::default() });
        bodies.evict(5, |_, _| {});
        assert_eq!(here(), [true, false, false, true, true]);
        drop(all);
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn what_is_pinned_or_in_no_record_stays() {
        let mut bodies = Bodies::new(1, &Account::default());
        let unwritten = bodies.count(message(1));
        let written = written(&mut bodies, 2);
        let pinned = bodies.pinned(&written);
        assert!(Arc::ptr_eq(&pinned, &bodies.pinned(&written)), "those who need it share it");
        bodies.written(&pinned);
        bodies.evict(u64::MAX, |_, _| {});
        assert!(unwritten.body.is_here() && pinned.body.is_here() && !written.body.is_here());
        let mut unbounded = Bodies::new(0, &Account::default());
        let stays = super::tests::written(&mut unbounded, 2);
        assert!(Arc::ptr_eq(&stays, &unbounded.pinned(&stays)));
        unbounded.evict(u64::MAX, |_, _| {});
        assert!(stays.body.is_here());
    }

    #[test]
    fn messages_that_ended_are_not_remembered_for_ever() {
        let mut bodies = Bodies::new(1 << 30, &Account::default());
        for place in 1..=20_000 {
            written(&mut bodies, place);
            assert!(bodies.order.len() <= SWEPT_FROM && bodies.bytes <= SWEPT_FROM * 2_000);
        }
    }
}
