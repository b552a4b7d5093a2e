//! Who takes part.

use protocol::im::{ENVELOPE_PREFIX, FROM_PREFIX, INBOX_TOPIC, MINE_FILTER};
use protocol::{ProtocolVersion, QoS};

/// What plays a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::simulation) enum Kind {
    /// The SDK's own state machine.
    Device,
    /// A client that obeys the standard to the letter, written for this simulation.
    Script,
}

/// One client: its name, whose it is, and what it does.
#[derive(Clone, Copy, Debug)]
pub(in crate::simulation) struct Role {
    pub(in crate::simulation) id: &'static str,
    /// The authenticated user; `None` is anonymous.
    pub(in crate::simulation) user: Option<&'static str>,
    pub(in crate::simulation) kind: Kind,
    pub(in crate::simulation) version: ProtocolVersion,
    /// Its sessions end with their connections.
    pub(in crate::simulation) is_passing: bool,
    pub(in crate::simulation) publishes: bool,
    /// Its session may be ended by Clean Start, and its subscriptions change.
    pub(in crate::simulation) is_fickle: bool,
    pub(in crate::simulation) has_will: bool,
    /// It is gone at the end of a run, without a word.
    pub(in crate::simulation) stays_away: bool,
    /// Its program ends when it gets a message that is poison to it.
    pub(in crate::simulation) is_frail: bool,
    /// Its silences are watched: it asks for some, and changes its heartbeat.
    pub(in crate::simulation) is_watched: bool,
    /// Keep Alive, seconds.
    pub(in crate::simulation) keep_alive_s: u16,
    /// It asks for the history of conversations, again and again.
    pub(in crate::simulation) replays: bool,
    /// What it subscribes to from the beginning.
    pub(in crate::simulation) filters: &'static [(&'static str, QoS)],
}

impl Role {
    /// The user as the broker names it.
    pub(in crate::simulation) fn user(&self) -> String {
        self.user.map_or_else(|| format!("anon:{}", self.id), str::to_owned)
    }

    /// Whether its MQTT has no properties.
    pub(in crate::simulation) fn is_old(&self) -> bool {
        self.version != ProtocolVersion::V5
    }

    /// What it asks for from a number on: where its MQTT has no properties it learns numbers from envelopes.
    pub(in crate::simulation) fn replayed_filters(&self) -> &'static [&'static str] {
        if self.is_old() { &REPLAYED_ENVELOPES } else { &REPLAYED_FILTERS }
    }

    pub(in crate::simulation) fn hears_receipts(&self) -> bool {
        self.filters.iter().any(|(filter, _)| *filter == RECEIPTS)
    }

    pub(in crate::simulation) fn watches_presence(&self) -> bool {
        self.filters.iter().any(|(filter, _)| *filter == PRESENCE)
    }

    pub(in crate::simulation) fn is_inbox(&self) -> bool {
        self.filters.iter().any(|(filter, _)| *filter == INBOX_TOPIC)
    }

    /// Whether its queue is short in runs where some are: where a message of it may end as dropped.
    pub(in crate::simulation) fn has_short_queue(&self) -> bool {
        !self.hears_receipts() && !self.is_member() && !self.watches_presence()
    }

    pub(in crate::simulation) fn is_member(&self) -> bool {
        self.filters.iter().any(|(filter, _)| *filter == GROUP)
    }
}

pub(in crate::simulation) const RECEIPTS: &str = "$im/receipts";

/// Everybody's presence.
pub(in crate::simulation) const PRESENCE: &str = "$im/presence/+";

/// What is asked for from a number on: conversations without QoS 0 messages, which may be lost on the way out.
pub(in crate::simulation) const REPLAYED_FILTERS: [&str; 2] = ["im/room", "dev/+/cmd"];

/// The same in envelopes.
pub(in crate::simulation) const REPLAYED_ENVELOPES: [&str; 2] = ["$im/env/im/room", "$im/env/dev/+/cmd"];

/// The topics of those.
pub(in crate::simulation) const REPLAYED_TOPICS: [&str; 2] = ["im/room", "dev/1/cmd"];

/// Users who are members of conversations, at times.
pub(in crate::simulation) const MEMBERS: [&str; 2] = ["ann", "bob"];

/// The group's filter. Its members have no other subscription, and the first one never ends its session.
pub(in crate::simulation) const GROUP: &str = "$share/workers/#";

/// Topics of ordinary publishes.
pub(in crate::simulation) const TOPICS: [&str; 5] = ["t/a", "t/b", "im/room", "im/other", "dev/1/cmd"];

/// All conversations.
pub(in crate::simulation) const CONVERSATIONS: [&str; 3] = ["im/room", "im/other", "dev/1/cmd"];

/// The conversation with QoS 0 messages too.
pub(in crate::simulation) const LOSSY_CONVERSATION: &str = "im/other";

/// Retained state of one publisher, and wills.
pub(in crate::simulation) const STATE_TOPIC: &str = "st/0";
pub(in crate::simulation) const WILL_TOPIC: &str = "will/v0";

/// What fickle clients subscribe to, at times.
pub(in crate::simulation) const FICKLE_FILTERS: [(&str, QoS); 5] = [
    ("t/a", QoS::AtLeastOnce),
    ("t/#", QoS::ExactlyOnce),
    ("im/room", QoS::AtLeastOnce),
    ("im/#", QoS::ExactlyOnce),
    ("st/+", QoS::AtLeastOnce),
];

const NOBODY: Role = Role {
    id: "",
    user: None,
    kind: Kind::Script,
    version: ProtocolVersion::V5,
    is_passing: false,
    publishes: false,
    is_fickle: false,
    has_will: false,
    replays: false,
    stays_away: false,
    is_frail: false,
    is_watched: false,
    keep_alive_s: 60,
    filters: &[],
};

const QOS_1: QoS = QoS::AtLeastOnce;
const QOS_2: QoS = QoS::ExactlyOnce;

/// All clients; the checkers know them by their place here.
pub(in crate::simulation) const CAST: &[Role] = &[
    Role { id: "d0", kind: Kind::Device, publishes: true, ..NOBODY },
    Role {
        id: "d1",
        user: Some("ann"),
        kind: Kind::Device,
        publishes: true,
        filters: &[(RECEIPTS, QOS_1)],
        ..NOBODY
    },
    Role {
        id: "d2",
        user: Some("ann"),
        kind: Kind::Device,
        publishes: true,
        filters: &[(RECEIPTS, QOS_1), ("im/#", QOS_1)],
        ..NOBODY
    },
    Role { id: "c0", kind: Kind::Device, filters: &[("dev/+/cmd", QOS_1)], ..NOBODY },
    Role { id: "p0", publishes: true, filters: &[(RECEIPTS, QOS_1)], ..NOBODY },
    Role { id: "s0", filters: &[("t/#", QOS_2), ("im/room", QOS_2)], ..NOBODY },
    Role { id: "s1", filters: &[("+/+", QOS_1), ("t/a", QOS_2)], ..NOBODY },
    Role { id: "s2", filters: &[("dev/+/cmd", QOS_2), ("im/#", QOS_2)], ..NOBODY },
    Role { id: "o0", filters: &[(PRESENCE, QOS_1)], ..NOBODY },
    Role {
        id: "b0",
        user: Some("bob"),
        publishes: true,
        filters: &[(INBOX_TOPIC, QoS::AtMostOnce), (MINE_FILTER, QOS_1)],
        ..NOBODY
    },
    Role { id: "z0", stays_away: true, ..NOBODY },
    Role { id: "r0", replays: true, ..NOBODY },
    Role { id: "r1", version: ProtocolVersion::V311, replays: true, ..NOBODY },
    Role { id: "y0", is_frail: true, filters: &[("t/#", QOS_1)], ..NOBODY },
    Role {
        id: "k0",
        is_watched: true,
        keep_alive_s: 4,
        filters: &[("$im/probe/+", QoS::AtMostOnce), ("t/a", QOS_1)],
        ..NOBODY
    },
    Role {
        id: "e0",
        user: Some("eve"),
        version: ProtocolVersion::V311,
        publishes: true,
        filters: &[("$im/env/im/#", QOS_1), ("t/#", QOS_2)],
        ..NOBODY
    },
    Role { id: "v0", is_fickle: true, has_will: true, ..NOBODY },
    Role { id: "w0", filters: &[(GROUP, QOS_1)], ..NOBODY },
    Role { id: "x0", is_passing: true, filters: &[(GROUP, QOS_1)], ..NOBODY },
    Role { id: "w1", is_fickle: true, filters: &[(GROUP, QOS_2)], ..NOBODY },
    Role { id: "w2", is_fickle: true, filters: &[(GROUP, QOS_2)], ..NOBODY },
];

/// What topics a filter without a group asks for.
pub(in crate::simulation) fn topics_of(filter: &str) -> &str {
    let rest = filter.strip_prefix(FROM_PREFIX).and_then(|rest| rest.split_once('/'));
    let rest = rest.map_or(filter, |(_, rest)| rest);
    rest.strip_prefix(ENVELOPE_PREFIX).unwrap_or(rest)
}

/// Whether a topic is a conversation in this world.
pub(in crate::simulation) fn is_conversation(topic: &str) -> bool {
    topic.starts_with("im/") || protocol::filter_matches("dev/+/cmd", topic)
}
