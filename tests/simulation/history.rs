//! What happened in a run as its clients saw it: what the checkers judge by.

use std::fmt;

use protocol::{PacketId, QoS, ReasonCode};

use super::world::cast::CAST;

/// Number of a message, counted over all publishers; it is the payload too.
pub(super) type Number = u64;

/// A client's place in the cast.
pub(super) type Who = usize;

/// What a client asks of the broker about its connection, by publishing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A silence, and a message that ends it.
    Probe { after_s: u32 },
    /// Another heartbeat.
    Heartbeat { interval_s: u32 },
}

/// One message as its publisher made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) number: Number,
    /// The number that its id is made of; another one's where it uses that one's id.
    pub(super) id_number: Number,
    pub(super) by: Who,
    pub(super) topic: &'static str,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) is_will: bool,
    pub(super) expiry_s: Option<u32>,
    /// Collapse key.
    pub(super) collapse: Option<&'static str>,
    /// It is a request of `$im/read`: of which conversation, and how far.
    pub(super) read: Option<(&'static str, u64)>,
    /// It is a request about its connection.
    pub(super) wish: Option<Wish>,
    /// Some program ends when it gets it.
    pub(super) is_poison: bool,
    /// Priority `high`.
    pub(super) is_high: bool,
    pub(super) made_unix_ms: u64,
}

impl Message {
    /// Whether the sender gives it an id: one that nobody hears of has none, at QoS 2, where the packet id does, and
    /// neither has one of MQTT 3.1.1.
    pub(super) fn has_id(&self) -> bool {
        let by = &CAST[self.by];
        !self.is_request() && !by.is_old() && (self.qos != QoS::ExactlyOnce || by.hears_receipts())
    }

    /// Whether it is the broker's to act on, and nobody's to get.
    pub(super) fn is_request(&self) -> bool {
        self.read.is_some() || self.wish.is_some()
    }

    /// Its `im-id`.
    pub(super) fn id(&self) -> String {
        format!("m-{}", self.id_number)
    }
}

/// Where stored messages are asked for from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Seq(u64),
    /// The first that is kept.
    First,
    /// The first that was accepted then or later.
    At {
        unix_ms: u64,
    },
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seq(seq) => write!(f, "{seq}"),
            Self::First => f.write_str("first"),
            Self::At { unix_ms } => write!(f, "@{unix_ms}"),
        }
    }
}

/// What only an envelope says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Enveloped {
    /// The topic that it came on.
    pub(super) on: String,
    pub(super) id: String,
    pub(super) from: Option<String>,
}

/// One message as a client's program got it; of an envelope the message in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) seq: Option<u64>,
    /// `im-gap`.
    pub(super) gap: Option<u64>,
    /// `im-ts`.
    pub(super) accepted_unix_ms: Option<u64>,
    /// Message Expiry Interval left.
    pub(super) expiry_s: Option<u32>,
    /// `None` for a message as it is.
    pub(super) envelope: Option<Enveloped>,
    /// When the broker sent it.
    pub(super) sent_unix_ms: u64,
}

impl Taken {
    /// The number of a client's message; `None` for the broker's own.
    pub(super) fn number(&self) -> Option<Number> {
        if self.topic.starts_with('$') { None } else { self.payload.parse().ok() }
    }
}

/// Something that a client did or saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The program gave a message to its client.
    Made(Message),
    /// The program gave a message again, with its id and as a new publish.
    MadeAgain { number: Number, by: Who },
    /// The acknowledgement came with success.
    Acked { number: Number, seq: Option<u64>, is_dup: bool },
    /// The acknowledgement came with a failure.
    Refused { number: Number, reason: ReasonCode },
    /// CONNECT went out. `anew` ends the session that was there.
    Connecting { who: Who, anew: bool, will: Option<Number> },
    /// CONNACK came with success.
    Connected { who: Who, is_present: bool },
    /// The connection is gone, as the client sees it.
    Lost { who: Who },
    /// DISCONNECT went out.
    Leaving { who: Who },
    /// SUBSCRIBE went out.
    Subscribing { who: Who, filter: &'static str, qos: QoS, from: Option<From>, at_unix_ms: u64 },
    /// SUBACK came.
    Subscribed { who: Who, filter: &'static str },
    /// UNSUBSCRIBE went out.
    Unsubscribing { who: Who, filter: &'static str },
    /// A PUBLISH came in.
    Came { who: Who, packet_id: Option<PacketId>, number: Option<Number>, dup: bool },
    /// The program got a message.
    Took { who: Who, taken: Taken },
    /// The client is done with a packet id: PUBACK or PUBCOMP went out.
    Done { who: Who, packet_id: PacketId },
    /// Membership was asked for, or its end.
    Asking { user: &'static str, topic: &'static str, joins: bool },
    /// The broker says that it is done.
    Answered { user: &'static str, topic: &'static str, joins: bool },
    /// The broker took a packet of a client whose silences are watched; `probe` asked for one.
    Heard { who: Who, probe: Option<Number>, at_unix_ms: u64 },
    /// The broker ended a connection because nothing came for so long; `is_due` says whether it had to.
    Silent { who: Who, idle_ms: u64, heartbeat_s: u64, is_due: bool },
    /// A program ended when it got a message, and its connection with it.
    Crashed { who: Who, number: Number },
    /// The broker died.
    Died,
    /// No more trouble from here on.
    Settling,
    /// All that was due has arrived.
    Rested,
}

/// Everything that happened, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    pub(super) events: Vec<Event>,
    /// All messages, the one with number n at n - 1.
    pub(super) messages: Vec<Message>,
    /// Print everything as it happens.
    pub(super) is_traced: bool,
}

impl History {
    pub(super) fn push(&mut self, event: Event) {
        if self.is_traced {
            println!("{:>6}  {event}", self.events.len());
        }
        if let Event::Made(message) = &event {
            self.messages.push(message.clone());
        }
        self.events.push(event);
    }

    /// Prints something that is no client's business.
    pub(super) fn note(&self, what: impl fmt::Display) {
        if self.is_traced {
            println!("        {what}");
        }
    }

    pub(super) fn message(&self, number: Number) -> Option<&Message> {
        self.messages.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }

    pub(super) fn next_number(&self) -> Number {
        self.messages.len() as Number + 1
    }

    /// What each client's program got, in order.
    pub(super) fn taken(&self) -> impl Iterator<Item = (Who, &Taken)> {
        self.events.iter().filter_map(|event| match event {
            Event::Took { who, taken } => Some((*who, taken)),
            _ => None,
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(m) => {
                write!(f, "c{} makes {} for {} at {:?}", m.by, m.number, m.topic, m.qos)?;
                write!(f, " retain {} expiry {:?} collapse {:?}", m.retain, m.expiry_s, m.collapse)
            }
            Self::Came { who, packet_id, number, dup } => {
                let id = packet_id.map_or(0, PacketId::get);
                write!(f, "c{who} <- PUBLISH id {id} dup {dup} number {number:?}")
            }
            Self::Took { who, taken } => {
                write!(f, "c{who} takes {} from {} seq {:?}", taken.payload, taken.topic, taken.seq)?;
                write!(f, " at {:?} gap {:?} retain {}", taken.qos, taken.gap, taken.retain)
            }
            other => write!(f, "{other:?}"),
        }
    }
}
