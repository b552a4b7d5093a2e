//! `[[user_limit]]`, and the same bounds as `limits` of `[[listener]]`.
//!
//! Each key is declared once below with its documentation and range; the struct, the checks and the
//! reference come from that declaration.

use std::num::{NonZeroU16, NonZeroU32};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{ClientLimits, OnFull, UserLimits};
use crate::limits::{ListenerBounds, RateBounds, UserBounds};

/// `[[user_limit]]` entries at most.
pub(crate) const USER_LIMITS_MAX: usize = 1_000;

/// One key of [`Bounds`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoundKey {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    /// Smallest and largest value, for integers.
    pub(crate) range: Option<(u64, u64)>,
    /// A value as TOML, for the reference.
    pub(crate) example: &'static str,
}

/// Declares the keys: struct, documentation, ranges and examples from one text.
macro_rules! bound_keys {
    ($( $(#[doc = $doc:literal])+ $key:ident: $ty:ty = $example:literal $(, $min:literal..=$max:literal)?; )+) => {
        /// Bounds of a user, or of those who come in by a listener; what is left out is not bounded here.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Bounds { $(
            $(#[doc = $doc])+
            #[serde(skip_serializing_if = "Option::is_none")]
            pub $key: Option<$ty>,
        )+ }

        /// The keys of [`Bounds`].
        pub(crate) const BOUND_KEYS: &[BoundKey] = &[ $( BoundKey {
            name: stringify!($key),
            doc: &[$($doc),+],
            range: bound_keys!(@range $($min, $max)?),
            example: $example,
        }, )+ ];
    };
    (@range) => { None };
    (@range $min:literal, $max:literal) => { Some(($min, $max)) };
}

bound_keys! {
    /// Clients of the user connected; connections of the listener. 0 here and in the next six = no bound.
    connections_max: u32 = "100", 0..=16_000_000;
    /// CONNECTs in a second, at a listener; one more is refused (0x9F) ...
    connects_per_s: u32 = "1000", 0..=1_000_000;
    /// ... after a burst of this many.
    connects_burst: u32 = "2000", 0..=1_000_000;
    /// PUBLISH packets in a second, of all clients of the user together; of each client of the listener ...
    messages_per_s: u32 = "1000", 0..=1_000_000_000;
    /// ... after a burst of this many.
    messages_burst: u32 = "5000", 0..=1_000_000_000;
    /// Bytes of PUBLISH packets in a second, counted likewise ...
    bytes_per_s: u32 = "1000000", 0..=1_000_000_000;
    /// ... after a burst of this many; at least one largest packet.
    bytes_burst: u32 = "4000000", 0..=4_000_000_000;
    /// Subscriptions of each client; from here on the lower value holds of this one and the broker's own.
    subscriptions_max: u32 = "100", 1..=1_000_000;
    /// Messages in the queue of each client.
    queue_messages_max: u32 = "1000", 1..=1_000_000_000;
    /// Bytes in the queue of each client.
    queue_bytes_max: u64 = "1048576", 1_024..=1_099_511_627_776;
    /// What a full queue of such a client does, as `queue.on_full`; the user's wins over the listener's.
    on_full: OnFull = "\"drop-newest\"";
    /// QoS 1 and 2 messages sent to a client and not yet acknowledged by it.
    inflight_max: NonZeroU16 = "20", 1..=65_535;
    /// QoS 1 and 2 publishes a client may have unacknowledged.
    receive_maximum: NonZeroU16 = "20", 1..=65_535;
    /// Largest packet taken from a client.
    packet_bytes_max: NonZeroU32 = "65536", 256..=268_435_455;
    /// Levels of a topic or filter.
    topic_levels_max: u32 = "16", 1..=32_768;
    /// Longest time a session outlives its connection, seconds.
    session_expiry_max_s: u32 = "3600", 0..=4_294_967_295;
}

/// One `[[user_limit]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLimit {
    /// The user it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The group of users it is for, each of them on their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What they may do.
    #[serde(flatten)]
    pub bounds: Bounds,
}

/// Documentation of `[[user_limit]]`.
pub(crate) const USER_LIMIT_DOC: &[&str] = &[
    " Other bounds for some users; there are none by default. The first entry that names the user, or a group of",
    " the user, replaces [user_limits] for that user: `user` or `group`, and what follows. The same keys",
    " (without these two) may stand in `limits = { ... }` of a [[listener]], for those who come in by it.",
];

/// Checks one `[[user_limit]]` whose keys are all known.
pub(super) fn check_user_limit(entry: &Table) -> Result<(), String> {
    check_ranges(entry)?;
    let limit = UserLimit::deserialize(Value::Table(entry.clone())).map_err(|e| e.message().to_owned())?;
    match (&limit.user, &limit.group) {
        (Some(_), Some(_)) => Err("`user` and `group` in one entry: write two".to_owned()),
        (None, None) => Err("`user` or `group` is missing, for instance user = \"ann\"".to_owned()),
        (Some(name), None) | (None, Some(name)) if name.is_empty() => Err("the name is empty".to_owned()),
        _ if limit.bounds == Bounds::default() => {
            Err("it bounds nothing: add for instance messages_per_s = 100".to_owned())
        }
        _ if limit.bounds.connects_per_s.or(limit.bounds.connects_burst).is_some() => {
            Err("`connects_per_s` and `connects_burst` are bounds of a [[listener]] only".to_owned())
        }
        _ => Ok(()),
    }
}

/// Checks the numbers of one table of bounds.
pub(super) fn check_ranges(table: &Table) -> Result<(), String> {
    for key in BOUND_KEYS {
        if let (Some((min, max)), Some(value)) = (key.range, table.get(key.name)) {
            let Some(number) = value.as_integer() else {
                return Err(format!("{} = {value} is not a whole number", key.name));
            };
            if !u64::try_from(number).is_ok_and(|number| (min..=max).contains(&number)) {
                return Err(format!("{} = {number} is out of range, allowed are {min} to {max}", key.name));
            }
        }
    }
    Ok(())
}

impl UserLimit {
    /// Finds the entry of a user.
    pub(crate) fn of<'a>(all: &'a [Self], user: &str, in_group: impl Fn(&str) -> bool) -> Option<&'a Self> {
        all.iter().find(|limit| {
            limit.user.as_deref() == Some(user) || limit.group.as_deref().is_some_and(&in_group)
        })
    }
}

impl Bounds {
    /// Returns what holds for the listener as a whole.
    pub(crate) fn listener(&self) -> ListenerBounds {
        ListenerBounds {
            connections_max: number(self.connections_max),
            connects_per_s: number(self.connects_per_s),
            connects_burst: number(self.connects_burst),
        }
    }

    /// Returns the rates of each client of a listener; those that it does not set are the general ones.
    pub(crate) fn client_rates(&self, general: &ClientLimits) -> RateBounds {
        self.rates(RateBounds {
            messages_per_s: general.messages_per_s.into(),
            messages_burst: general.messages_burst.into(),
            bytes_per_s: general.bytes_per_s.into(),
            bytes_burst: general.bytes_burst.into(),
        })
    }

    /// Returns the bounds of a user; those that are not set here are the general ones.
    pub(crate) fn user(&self, general: &UserLimits, packet_bytes_max: u32) -> UserBounds {
        UserBounds {
            connections_max: self.connections_max.unwrap_or(general.connections_max).into(),
            rates: self.rates(RateBounds {
                messages_per_s: general.messages_per_s.into(),
                messages_burst: general.messages_burst.into(),
                bytes_per_s: general.bytes_per_s.into(),
                bytes_burst: general.bytes_burst.into(),
            }),
            packet_bytes_max: packet_bytes_max.into(),
        }
    }

    /// A rate that is set brings its own burst.
    fn rates(&self, general: RateBounds) -> RateBounds {
        let pick = |rate: Option<u32>, burst: Option<u32>, general: (u64, u64)| match rate {
            Some(rate) => (rate.into(), number(burst)),
            None => (general.0, burst.map_or(general.1, u64::from)),
        };
        let (messages_per_s, messages_burst) =
            pick(self.messages_per_s, self.messages_burst, (general.messages_per_s, general.messages_burst));
        let (bytes_per_s, bytes_burst) =
            pick(self.bytes_per_s, self.bytes_burst, (general.bytes_per_s, general.bytes_burst));
        RateBounds { messages_per_s, messages_burst, bytes_per_s, bytes_burst }
    }

    /// Lowers the bounds of a session to these.
    pub(crate) fn lower(&self, limits: &mut engine::SessionLimits) {
        at_most(&mut limits.subscriptions_max, self.subscriptions_max.map(|n| n as usize));
        at_most(&mut limits.queue_messages_max, self.queue_messages_max.map(|n| n as usize));
        at_most(&mut limits.queue_bytes_max, self.queue_bytes_max.map(|n| n as usize));
        at_most(&mut limits.inflight_max, self.inflight_max);
        at_most(&mut limits.receive_maximum, self.receive_maximum);
        at_most(&mut limits.packet_bytes_max, self.packet_bytes_max);
        at_most(&mut limits.topic_levels_max, self.topic_levels_max.map(|n| n as usize));
        at_most(&mut limits.session_expiry_max_s, self.session_expiry_max_s);
        limits.on_full = limits.on_full.or(self.on_full.map(OnFull::engine));
    }
}

fn number(bound: Option<u32>) -> u64 {
    bound.map_or(0, u64::from)
}

/// The lower one holds where both are set.
fn at_most<T: Copy + Ord>(limit: &mut Option<T>, bound: Option<T>) {
    *limit = match (*limit, bound) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(text: &str) -> Bounds {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn of_two_bounds_of_a_session_the_lower_one_holds() {
        let mut limits = engine::SessionLimits { subscriptions_max: Some(5), ..Default::default() };
        bounds("subscriptions_max = 10\ninflight_max = 3\non_full = \"reject\"").lower(&mut limits);
        bounds("subscriptions_max = 4\ninflight_max = 7\non_full = \"drop-newest\"").lower(&mut limits);
        let expected = engine::SessionLimits {
            subscriptions_max: Some(4),
            inflight_max: NonZeroU16::new(3),
            on_full: Some(engine::OnFull::Reject),
            ..Default::default()
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn every_key_of_the_reference_is_a_key_with_its_example() {
        for key in BOUND_KEYS {
            let text = format!("{} = {}", key.name, key.example);
            assert_ne!(bounds(&text), Bounds::default(), "{text}");
            check_ranges(&toml::from_str(&text).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_rate_that_is_set_brings_its_own_burst() {
        let general = ClientLimits { messages_per_s: 10, messages_burst: 50, ..ClientLimits::default() };
        let rates = |text| {
            let rates = bounds(text).client_rates(&general);
            (rates.messages_per_s, rates.messages_burst)
        };
        assert_eq!(rates(""), (10, 50));
        assert_eq!(rates("messages_per_s = 100"), (100, 0));
        assert_eq!(rates("messages_burst = 7"), (10, 7));
        assert_eq!(rates("messages_per_s = 0"), (0, 0));
    }

    #[test]
    fn the_first_entry_of_a_user_or_of_a_group_counts() {
        let entry = |user: Option<&str>, group: Option<&str>, n| UserLimit {
            user: user.map(str::to_owned),
            group: group.map(str::to_owned),
            bounds: Bounds { connections_max: Some(n), ..Bounds::default() },
        };
        let all = [entry(Some("ann"), None, 1), entry(None, Some("staff"), 2), entry(Some("bob"), None, 3)];
        let found = |user: &str, groups: &[&str]| {
            UserLimit::of(&all, user, |group| groups.contains(&group))
                .and_then(|limit| limit.bounds.connections_max)
        };
        assert_eq!(found("ann", &["staff"]), Some(1));
        assert_eq!(found("bob", &["staff"]), Some(2));
        assert_eq!(found("bob", &[]), Some(3));
        assert_eq!(found("eve", &["guests"]), None);
    }
}
