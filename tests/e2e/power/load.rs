//! The load: publishers and subscribers that do what good clients do when their broker dies, each on a thread.
//!
//! A publisher sends again what was not acknowledged, in order, under the same packet ids; a subscriber acknowledges
//! what it has noted. Both say nothing about the broker: what they saw is judged by `ledger`.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use protocol::{Ack, Packet, PacketId, Publish, QoS, ReasonCode, Subscribe, SubscribeFilter, im};

use super::link::{Gone, Link};
use crate::raw_client::{PATIENCE, at, id, message, property, user_properties};

/// Messages of one publisher that are not acknowledged, at most.
const WINDOW: usize = 40;
/// How often a client that waits looks whether it is to do something else.
const LOOK: Duration = Duration::from_millis(20);

/// What a publisher publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) publisher: usize,
    pub(super) topic: &'static str,
    pub(super) qos: QoS,
}

/// One publisher of each kind; two share a conversation.
pub(super) const LINES: [Line; 5] = [
    Line { publisher: 0, topic: "power/one", qos: QoS::AtLeastOnce },
    Line { publisher: 1, topic: "power/two", qos: QoS::ExactlyOnce },
    Line { publisher: 2, topic: "im/power/room", qos: QoS::AtLeastOnce },
    Line { publisher: 3, topic: "im/power/room", qos: QoS::AtLeastOnce },
    Line { publisher: 4, topic: "im/power/other", qos: QoS::ExactlyOnce },
];

/// Everything that the load's topics match.
pub(super) const FILTERS: [&str; 2] = ["power/#", "im/power/#"];

/// A message that a subscriber got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Got {
    pub(super) publisher: usize,
    pub(super) number: u32,
    /// `im-seq`.
    pub(super) seq: Option<u64>,
}

impl Got {
    /// Reads a message of a publisher; `None` if it is another one.
    pub(super) fn of(publish: &Publish) -> Option<Self> {
        let (publisher, number) = numbered(&publish.payload)?;
        let seq =
            property(&publish.properties.user_properties, im::IM_SEQ).map(|seq| seq.parse().expect("a seq"));
        Some(Self { publisher, number, seq })
    }
}

/// What each payload begins with.
pub(super) const MARK: &str = "power-";

/// The payload of a message: it names publisher and number, and is found in the log's files.
fn payload(publisher: usize, number: u32) -> String {
    format!("{MARK}{publisher}-{number:08}")
}

/// Reads what [`payload`] wrote at the beginning of some bytes.
pub(super) fn numbered(bytes: &[u8]) -> Option<(usize, u32)> {
    let text = std::str::from_utf8(bytes.get(..MARK.len() + 10)?).ok()?.strip_prefix(MARK)?;
    let (publisher, number) = text.split_once('-')?;
    Some((publisher.parse().ok()?, number.parse().ok()?))
}

/// What a publisher knows of what it published.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    /// `im-seq` of each message that was acknowledged, in order; `None` outside conversations.
    pub(super) acknowledged: Vec<Option<u64>>,
    /// How many were sent, acknowledged or not.
    pub(super) sent: u32,
}

/// What the test and its clients say to each other.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
    /// Clients end as they are.
    pub(super) is_over: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// How many messages each publisher may have sent.
    allowed: u32,
    /// Publishers with a connection that they have not seen the end of.
    linked: usize,
    pub(super) published: Vec<Published>,
    /// Subscribers that are subscribed.
    subscribed: usize,
    /// What the members of the shared group got.
    pub(super) shared: BTreeSet<(usize, u32)>,
}

impl Board {
    pub(super) fn new() -> Arc<Self> {
        let published = vec![Published::default(); LINES.len()];
        Arc::new(Self { state: Mutex::new(State { published, ..State::default() }), ..Self::default() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no client panicked")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until something is so, for as long as messages are acknowledged and come.
    #[track_caller]
    pub(super) fn wait(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        let progress = |state: &State| (state.acknowledged(), state.shared.len());
        let (mut deadline, mut before) = (Instant::now() + 3 * PATIENCE, progress(&state));
        while !is_so(&state) {
            if progress(&state) != before {
                (deadline, before) = (Instant::now() + 3 * PATIENCE, progress(&state));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{what} did not come: {:?} of {} acknowledged, {:?} in flight, {} publishers connected",
                state.published.iter().map(|p| p.acknowledged.len()).collect::<Vec<_>>(),
                state.allowed,
                state.published.iter().map(|p| p.sent as usize - p.acknowledged.len()).collect::<Vec<_>>(),
                state.linked,
            );
            state = self.changed.wait_timeout(state, left).expect("no client panicked").0;
        }
    }

    /// Allows each publisher so many messages more than are acknowledged.
    pub(super) fn allow(&self, more: u32) {
        self.change(|state| {
            let acknowledged = state.published.iter().map(|p| p.acknowledged.len()).max();
            state.allowed = state.allowed.max(acknowledged.unwrap_or(0) as u32 + more);
        });
    }

    /// Waits until all subscribers are subscribed.
    pub(super) fn wait_for_subscribers(&self, count: usize) {
        self.wait("the subscriptions", |state| state.subscribed == count);
    }

    /// Returns what the publishers know once they have taken all that a broker sent that is gone. None may be there.
    pub(super) fn take_stock(&self) -> Vec<Published> {
        self.wait("the end of the publishers' connections", |state| state.linked == 0);
        self.lock().published.clone()
    }
}

impl State {
    /// Messages that were acknowledged, of all publishers.
    pub(super) fn acknowledged(&self) -> usize {
        self.published.iter().map(|p| p.acknowledged.len()).sum()
    }

    /// Whether all that was allowed is acknowledged.
    pub(super) fn is_all_acknowledged(&self) -> bool {
        self.published.iter().all(|p| p.acknowledged.len() == self.allowed as usize)
    }
}

struct InFlight {
    number: u32,
    packet_id: PacketId,
    /// Whether PUBREC came, so that only PUBREL may follow.
    received: bool,
}

/// Publishes until the test is over.
pub(super) struct Publisher {
    line: Line,
    board: Arc<Board>,
    in_flight: VecDeque<InFlight>,
    next: u32,
}

impl Publisher {
    pub(super) fn new(line: Line, board: &Arc<Board>) -> Self {
        Self { line, board: board.clone(), in_flight: VecDeque::new(), next: 0 }
    }

    pub(super) fn run(mut self, broker: SocketAddr) {
        let client_id = format!("publisher-{}", self.line.publisher);
        let mut is_known = false;
        while let Some((mut link, present)) = Link::open(broker, &client_id, &self.board.is_over) {
            assert!(present || !is_known, "the session of {client_id} is lost");
            is_known = true;
            self.board.change(|state| state.linked += 1);
            // Ends when the broker or the test does.
            let Gone = self.serve(&mut link);
            self.board.change(|state| state.linked -= 1);
        }
    }

    /// Ends with the connection, after all that came over it.
    fn serve(&mut self, link: &mut Link) -> Gone {
        let Gone = self.publish_all(link);
        while let Ok(Some(packet)) = link.receive(LOOK) {
            self.take(&packet);
        }
        Gone
    }

    fn publish_all(&mut self, link: &mut Link) -> Gone {
        if link.send(&self.again()).is_err() {
            return Gone;
        }
        while !self.board.is_over.load(Ordering::Relaxed) {
            let allowed = self.board.lock().allowed;
            let mut batch = Vec::new();
            while self.next < allowed && self.in_flight.len() < WINDOW {
                let packet_id = id((self.next % 50_000) as u16 + 1);
                batch.push(self.publish(self.next, packet_id, false));
                self.in_flight.push_back(InFlight { number: self.next, packet_id, received: false });
                self.next += 1;
            }
            self.board.lock().published[self.line.publisher].sent = self.next;
            if link.send(&batch).is_err() {
                return Gone;
            }
            match link.receive(LOOK) {
                Ok(Some(packet)) => {
                    if let Some(answer) = self.take(&packet)
                        && link.send(&[answer]).is_err()
                    {
                        return Gone;
                    }
                }
                Ok(None) => {}
                Err(Gone) => return Gone,
            }
        }
        Gone
    }

    fn publish(&self, number: u32, packet_id: PacketId, dup: bool) -> Packet {
        let Line { publisher, topic, qos } = self.line;
        let text = payload(publisher, number);
        let mut publish = Publish { dup, packet_id: Some(packet_id), ..message(topic, &text, qos) };
        publish.properties.user_properties = user_properties(&[(im::IM_ID, &text)]);
        Packet::Publish(publish)
    }

    /// [MQTT-4.4.0-1], in the order sent first [MQTT-4.6.0-1].
    fn again(&self) -> Vec<Packet> {
        let again = self.in_flight.iter().map(|open| match open.received {
            true => Packet::PubRel(Ack::new(open.packet_id, ReasonCode::Success)),
            false => self.publish(open.number, open.packet_id, true),
        });
        again.collect()
    }

    /// Takes an acknowledgement; returns what it is answered with.
    fn take(&mut self, packet: &Packet) -> Option<Packet> {
        match packet {
            Packet::PubAck(ack) => {
                let open = self.in_flight.pop_front().expect("an ack for something sent");
                self.acknowledged(&open, ack);
            }
            Packet::PubRec(ack) => {
                let at = self.in_flight.iter().position(|open| !open.received);
                let at = at.expect("a PUBREC for something sent");
                self.acknowledged(&self.in_flight[at], ack);
                self.in_flight[at].received = true;
                return Some(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)));
            }
            Packet::PubComp(ack) => {
                let open = self.in_flight.pop_front().expect("a PUBCOMP for something sent");
                assert_eq!(ack.packet_id, open.packet_id, "acknowledgements out of order");
            }
            other => panic!("publisher {} got {other:?}", self.line.publisher),
        }
        None
    }

    fn acknowledged(&self, open: &InFlight, ack: &Ack) {
        // [MQTT-4.6.0-2], [MQTT-4.6.0-3]
        assert_eq!(ack.packet_id, open.packet_id, "acknowledgements out of order");
        assert!(!ack.reason.is_failure(), "{ack:?}");
        let seq =
            property(&ack.properties.user_properties, im::IM_SEQ).map(|seq| seq.parse().expect("a seq"));
        self.board.change(|state| {
            let acknowledged = &mut state.published[self.line.publisher].acknowledged;
            assert_eq!(acknowledged.len(), open.number as usize, "a number was left out");
            acknowledged.push(seq);
        });
    }
}

/// Takes messages until the last one has come, or the test is over.
pub(super) struct Subscriber {
    client_id: &'static str,
    filters: Vec<String>,
    qos: QoS,
    board: Arc<Board>,
    is_known: bool,
    got: Vec<Got>,
    /// Packet ids of QoS 2 messages between PUBLISH and PUBREL [MQTT-4.3.3-10].
    open: BTreeSet<PacketId>,
}

/// The topic of the message after which nothing comes.
pub(super) const LAST: &str = "power/last";

impl Subscriber {
    pub(super) fn new(client_id: &'static str, qos: QoS, board: &Arc<Board>) -> Self {
        let filters = FILTERS.map(str::to_owned).into();
        let (board, is_known) = (board.clone(), false);
        Self { client_id, filters, qos, board, is_known, got: Vec::new(), open: BTreeSet::new() }
    }

    /// A member of the shared group.
    pub(super) fn member(client_id: &'static str, board: &Arc<Board>) -> Self {
        let filters = FILTERS.map(|filter| format!("$share/power/{filter}")).into();
        Self { filters, ..Self::new(client_id, QoS::AtLeastOnce, board) }
    }

    /// Subscribes and goes away: what comes waits in its queue.
    pub(super) fn away(mut self, broker: SocketAddr) -> Self {
        let (mut link, _) =
            Link::open(broker, self.client_id, &self.board.is_over).expect("the test goes on");
        self.subscribe(&mut link).expect("nobody kills the broker yet");
        self.is_known = true;
        self
    }

    /// The same client with another broker, which has its session.
    pub(super) fn returning(&self, board: &Arc<Board>) -> Self {
        Self { is_known: true, ..Self::new(self.client_id, self.qos, board) }
    }

    /// Returns all that came, in order.
    pub(super) fn run(mut self, broker: SocketAddr) -> Vec<Got> {
        while let Some((mut link, present)) = Link::open(broker, self.client_id, &self.board.is_over) {
            assert!(present || !self.is_known, "the session of {} is lost", self.client_id);
            if !self.is_known && self.subscribe(&mut link).is_ok() {
                self.is_known = true;
                self.board.change(|state| state.subscribed += 1);
            }
            if self.is_known && self.serve(&mut link).is_ok() {
                break;
            }
        }
        self.got
    }

    fn subscribe(&self, link: &mut Link) -> Result<(), Gone> {
        let options = at(self.qos);
        let filters = self.filters.iter().map(|f| SubscribeFilter { filter: f.as_str().into(), options });
        let filters = filters.collect();
        let subscribe = Subscribe {
            packet_id: id(1),
            subscription_identifier: None,
            user_properties: Vec::new(),
            filters,
        };
        link.send(&[Packet::Subscribe(subscribe)])?;
        match link.receive(PATIENCE)? {
            Some(Packet::SubAck(ack)) if ack.reasons.iter().all(|reason| !reason.is_failure()) => Ok(()),
            other => panic!("{} got {other:?} for its SUBSCRIBE", self.client_id),
        }
    }

    /// Ends when the last message has come.
    fn serve(&mut self, link: &mut Link) -> Result<(), Gone> {
        while !self.board.is_over.load(Ordering::Relaxed) {
            let Some(packet) = link.receive(LOOK)? else { continue };
            let answer = match packet {
                Packet::Publish(publish) if &*publish.topic == LAST => return Ok(()),
                Packet::Publish(publish) => self.take(&publish),
                Packet::PubRel(ack) => {
                    self.open.remove(&ack.packet_id);
                    Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success))
                }
                other => panic!("{} got {other:?}", self.client_id),
            };
            link.send(&[answer])?;
        }
        Ok(())
    }

    fn take(&mut self, publish: &Publish) -> Packet {
        let packet_id = publish.packet_id.expect("QoS 1 and 2 have one");
        let got = Got::of(publish).unwrap_or_else(|| panic!("{} got {publish:?}", self.client_id));
        let is_new = publish.qos < QoS::ExactlyOnce || self.open.insert(packet_id);
        if is_new {
            self.got.push(got);
            if self.filters[0].starts_with("$share/") {
                self.board.change(|state| {
                    state.shared.insert((got.publisher, got.number));
                });
            }
        }
        match publish.qos {
            QoS::ExactlyOnce => Packet::PubRec(Ack::new(packet_id, ReasonCode::Success)),
            _ => Packet::PubAck(Ack::new(packet_id, ReasonCode::Success)),
        }
    }
}
