//! Who is kept out for a time.
//!
//! What changes is told to whoever keeps it over a restart, by Unix time; if that one cannot follow, it is not waited for.
//! Invariant: never more than the capacity; then the one that ends first makes room.

use std::{collections::HashMap, fmt, str::FromStr, sync::mpsc::SyncSender};

use bytestring::ByteString;
use engine::Now;
use serde::{Deserialize, Serialize};

use super::address::AddressKey;

/// Who is banned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum BanKey {
    /// All from an address.
    Address(AddressKey),
    /// A client id.
    Client(ByteString),
    /// A user name.
    User(ByteString),
}

impl BanKey {
    /// The names of the kinds, as users write them.
    pub(crate) const KINDS: [&'static str; 3] = ["address", "client", "user"];

    /// Returns the kind's name.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Client(_) => "client",
            Self::User(_) => "user",
        }
    }

    /// Reads a ban's kind and key as they are listed.
    pub(crate) fn parse(kind: &str, key: &str) -> Option<Self> {
        match kind {
            "address" => AddressKey::from_str(key).ok().map(Self::Address),
            "client" => Some(Self::Client(key.into())),
            "user" => Some(Self::User(key.into())),
            _ => None,
        }
    }

    /// Returns the key without its kind.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Client(name) | Self::User(name) => name.to_string(),
        }
    }
}

impl fmt::Display for BanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "address {address}"),
            Self::Client(name) => write!(f, "client {name:?}"),
            Self::User(name) => write!(f, "user {name:?}"),
        }
    }
}

/// Why somebody is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Offence {
    /// Connected again and again.
    Flapping,
    /// Failed to authenticate again and again.
    Guessing,
    /// Sent what is no MQTT again and again.
    Malformed,
}

impl Offence {
    /// Says it in words.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Flapping => "connects again and again",
            Self::Guessing => "guesses passwords",
            Self::Malformed => "sends malformed packets",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Ban {
    offence: Offence,
    since_unix_ms: u64,
    until_unix_ms: u64,
    until_ms: u64,
    refused: u64,
}

/// A ban as it is kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedBan {
    pub(crate) kind: String,
    pub(crate) key: String,
    pub(crate) offence: Offence,
    /// Milliseconds since the Unix epoch.
    pub(crate) since: u64,
    /// Milliseconds since the Unix epoch.
    pub(crate) until: u64,
}

/// What became of a ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BanChange {
    Banned(SavedBan),
    /// It was ended before its time: its kind and key.
    Lifted(String, String),
}

/// One ban as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BanView {
    /// `address`, `client` or `user`.
    pub(crate) kind: &'static str,
    /// Who it is.
    pub(crate) key: String,
    /// Why, in words.
    pub(crate) reason: &'static str,
    /// Since when, milliseconds since the Unix epoch.
    pub(crate) since: u64,
    /// Until when, milliseconds since the Unix epoch.
    pub(crate) until: u64,
    /// Seconds left.
    pub(crate) left_s: u64,
    /// Connections refused since.
    pub(crate) refused: u64,
}

/// All bans.
#[derive(Debug)]
pub(crate) struct Bans {
    ban_ms: u64,
    capacity: usize,
    by_key: HashMap<BanKey, Ban>,
    /// Who keeps them over a restart.
    keeper: Option<SyncSender<BanChange>>,
}

impl Bans {
    /// Makes an empty list; bans of 0 ms are none.
    pub(crate) fn new(ban_ms: u64, capacity: usize) -> Self {
        Self { ban_ms, capacity: capacity.max(1), by_key: HashMap::new(), keeper: None }
    }

    /// Takes bans of the last process back, and tells changes to their keeper from now on. While nobody is banned,
    /// they are not taken back either.
    pub(crate) fn restore(&mut self, now: Now, saved: Vec<SavedBan>, keeper: SyncSender<BanChange>) {
        self.keeper = Some(keeper);
        let in_force = saved.into_iter().filter(|ban| ban.until > now.unix_ms && self.ban_ms > 0);
        for SavedBan { kind, key, offence, since, until } in in_force.take(self.capacity) {
            // Should the clock have gone back, not longer than a new one.
            let left_ms = (until - now.unix_ms).min(self.ban_ms);
            let (until_unix_ms, until_ms) = (now.unix_ms + left_ms, now.monotonic_ms + left_ms);
            let ban = Ban { offence, since_unix_ms: since, until_unix_ms, until_ms, refused: 0 };
            if let Some(key) = BanKey::parse(&kind, &key) {
                self.by_key.insert(key, ban);
            }
        }
    }

    fn tell(&self, change: impl FnOnce() -> BanChange) {
        if let Some(keeper) = &self.keeper
            && keeper.try_send(change()).is_err()
        {
            tracing::debug!("a ban is not kept over a restart: too many change at once");
        }
    }

    /// Bans, and says so to who reads the log; says whether there are bans at all.
    pub(crate) fn ban(&mut self, now: Now, key: BanKey, offence: Offence) -> bool {
        if self.ban_ms == 0 {
            return false;
        }
        if self.by_key.len() >= self.capacity {
            self.by_key.retain(|_, ban| ban.until_ms > now.monotonic_ms);
        }
        if self.by_key.len() >= self.capacity
            && let Some(first) =
                self.by_key.iter().min_by_key(|(_, ban)| ban.until_ms).map(|(k, _)| k.clone())
        {
            self.by_key.remove(&first);
        }
        let (kind, why, ban_s) = (key.kind(), offence.as_str(), self.ban_ms / 1000);
        let lift = format!("postrider bans lift {kind} {}", shell_word(&key.key()));
        tracing::warn!(who = %key, why, ban_s, lift, "banned");
        let ban = Ban {
            offence,
            since_unix_ms: now.unix_ms,
            until_unix_ms: now.unix_ms + self.ban_ms,
            until_ms: now.monotonic_ms + self.ban_ms,
            refused: 0,
        };
        self.tell(|| {
            let (kind, key) = (key.kind().to_owned(), key.key());
            let (since, until) = (ban.since_unix_ms, ban.until_unix_ms);
            BanChange::Banned(SavedBan { kind, key, offence, since, until })
        });
        self.by_key.insert(key, ban);
        true
    }

    /// Returns the whole seconds that a ban still lasts, and counts that it refused a connection.
    pub(crate) fn refuse(&mut self, now_ms: u64, key: &BanKey) -> Option<u64> {
        let ban = self.by_key.get_mut(key)?;
        if ban.until_ms <= now_ms {
            self.by_key.remove(key);
            return None;
        }
        ban.refused += 1;
        Some((ban.until_ms - now_ms).div_ceil(1000))
    }

    /// Ends a ban; says whether there was one.
    pub(crate) fn lift(&mut self, now_ms: u64, key: &BanKey) -> bool {
        let lifted = self.by_key.remove(key).is_some_and(|ban| ban.until_ms > now_ms);
        if lifted {
            tracing::info!(who = %key, "ban lifted");
            self.tell(|| BanChange::Lifted(key.kind().to_owned(), key.key()));
        }
        lifted
    }

    /// Lists what is in force, the newest first.
    pub(crate) fn list(&mut self, now_ms: u64) -> Vec<BanView> {
        self.by_key.retain(|_, ban| ban.until_ms > now_ms);
        let mut bans: Vec<_> = self.by_key.iter().collect();
        bans.sort_by(|(a_key, a), (b_key, b)| b.until_ms.cmp(&a.until_ms).then_with(|| a_key.cmp(b_key)));
        let view = |(key, ban): (&BanKey, &Ban)| BanView {
            kind: key.kind(),
            key: key.key(),
            reason: ban.offence.as_str(),
            since: ban.since_unix_ms,
            until: ban.until_unix_ms,
            left_s: (ban.until_ms - now_ms).div_ceil(1000),
            refused: ban.refused,
        };
        bans.into_iter().map(view).collect()
    }

    /// Returns the number of entries, those that have just ended included.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// Quotes what a shell would not take as one plain word: the log's command is made of a client's words.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:/@%-".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("-- '{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { monotonic_ms: ms, unix_ms: 1_000_000 + ms }
    }

    fn client(name: &str) -> BanKey {
        BanKey::Client(name.into())
    }

    #[test]
    fn a_ban_holds_for_its_time_and_counts_whom_it_refused() {
        let mut bans = Bans::new(5_000, 10);
        assert!(bans.ban(at(100), client("a"), Offence::Flapping));
        assert_eq!(bans.refuse(100, &client("a")), Some(5));
        assert_eq!(bans.refuse(5_099, &client("a")), Some(1));
        assert_eq!(bans.refuse(100, &client("b")), None);
        let view = BanView {
            kind: "client",
            key: "a".to_owned(),
            reason: "connects again and again",
            since: 1_000_100,
            until: 1_005_100,
            left_s: 4,
            refused: 2,
        };
        assert_eq!(bans.list(1_500), [view]);
        assert_eq!(bans.refuse(5_100, &client("a")), None);
        assert_eq!(bans.len(), 0);
    }

    #[test]
    fn a_lifted_ban_is_gone() {
        let mut bans = Bans::new(5_000, 10);
        let address = BanKey::parse("address", "192.0.2.7").unwrap();
        bans.ban(at(0), address.clone(), Offence::Guessing);
        assert!(bans.lift(1, &address));
        assert!(!bans.lift(1, &address));
        assert_eq!(bans.refuse(1, &address), None);
    }

    #[test]
    fn bans_of_the_last_process_hold_for_what_is_left_of_them() {
        let (keeper, told) = std::sync::mpsc::sync_channel(10);
        let mut bans = Bans::new(5_000, 10);
        bans.restore(at(0), Vec::new(), keeper.clone());
        for name in ["a", "b", "c"] {
            bans.ban(at(if name == "c" { 2_000 } else { 0 }), client(name), Offence::Flapping);
        }
        bans.lift(1, &client("b"));
        let mut saved = Vec::new();
        for change in told.try_iter() {
            match change {
                BanChange::Banned(ban) => saved.push(ban),
                BanChange::Lifted(kind, key) => saved.retain(|ban| (&ban.kind, &ban.key) != (&kind, &key)),
            }
        }
        // The next one starts five seconds after the first; its monotonic clock begins anew.
        let now = Now { monotonic_ms: 70, unix_ms: 1_005_000 };
        let mut next = Bans::new(5_000, 10);
        next.restore(now, saved.clone(), keeper.clone());
        assert_eq!([client("a"), client("b")].map(|key| next.refuse(70, &key)), [None, None]);
        assert_eq!(next.refuse(70, &client("c")), Some(2));
        assert_eq!((next.list(70)[0].until, next.refuse(2_070, &client("c"))), (1_007_000, None));
        let mut none = Bans::new(0, 10);
        none.restore(now, saved, keeper);
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn the_list_is_bounded_and_keeps_the_newest() {
        let mut bans = Bans::new(5_000, 3);
        for i in 0..10 {
            bans.ban(at(i), client(&i.to_string()), Offence::Malformed);
        }
        let keys: Vec<_> = bans.list(10).into_iter().map(|ban| ban.key).collect();
        assert_eq!(keys, ["9", "8", "7"]);
    }

    #[test]
    fn a_ban_time_of_none_bans_nobody() {
        let mut bans = Bans::new(0, 3);
        assert!(!bans.ban(at(0), client("a"), Offence::Flapping));
        assert_eq!(bans.refuse(0, &client("a")), None);
    }

    #[test]
    fn a_key_is_read_as_it_is_listed() {
        for (kind, key) in
            [("address", "192.0.2.7"), ("address", "2001:db8::/64"), ("client", ""), ("user", "x")]
        {
            let parsed = BanKey::parse(kind, key).unwrap();
            assert_eq!((parsed.kind(), parsed.key().as_str()), (kind, key));
            assert!(BanKey::KINDS.contains(&kind));
        }
        assert_eq!(BanKey::parse("address", "x"), None);
        assert_eq!(BanKey::parse("ip", "192.0.2.7"), None);
    }

    #[test]
    fn the_command_in_the_log_is_safe_to_paste() {
        assert_eq!(shell_word("2001:db8::/64"), "2001:db8::/64");
        assert_eq!(shell_word("a; rm -rf '$HOME'"), r"-- 'a; rm -rf '\''$HOME'\'''");
        assert_eq!(shell_word("--json"), "-- '--json'");
        assert_eq!(shell_word(""), "-- ''");
    }
}
