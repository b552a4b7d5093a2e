//! Which clients are connected, and which were (docs/protocol.md section 5).
//!
//! Knows nothing of connections, the log or subscriptions: it says whose state changed, and the shard writes and
//! publishes it. Several changes of one client before that are one: the newest.
//!
//! Invariants: a client's epoch only grows while its state is kept; a client in `ending` is offline and its session
//! has ended; a client in `changed` stands there once.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;

use bytestring::ByteString;
use hashbrown::HashTable;

use crate::CloseReason;
use crate::memory::{Account, Held, PRESENCE_BYTES};
use crate::places::Places;

/// Why a client's state is what it is; its name is what clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cause {
    /// Its connection began: the only one of a client that is online.
    Connected = 0,
    /// It sent DISCONNECT.
    Disconnected = 1,
    /// Its socket closed without.
    Lost = 2,
    /// It was silent for too long.
    KeepAlive = 3,
    /// Another connection took its client id.
    TakenOver = 4,
    /// It broke the protocol.
    ProtocolError = 5,
    /// The broker's operator or rules ended it.
    Kicked = 6,
    /// The broker began anew: the end of the connection was seen by nobody.
    BrokerRestart = 7,
}

impl Cause {
    /// All of them, each at its number.
    pub(crate) const ALL: [Self; 8] = [
        Self::Connected,
        Self::Disconnected,
        Self::Lost,
        Self::KeepAlive,
        Self::TakenOver,
        Self::ProtocolError,
        Self::Kicked,
        Self::BrokerRestart,
    ];

    /// The value of `reason`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Lost => "lost",
            Self::KeepAlive => "keep_alive",
            Self::TakenOver => "taken_over",
            Self::ProtocolError => "protocol_error",
            Self::Kicked => "kicked",
            Self::BrokerRestart => "broker_restart",
        }
    }

    pub(crate) fn of(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::Disconnected => Self::Disconnected,
            CloseReason::Lost => Self::Lost,
            CloseReason::KeepAlive { .. } => Self::KeepAlive,
            CloseReason::TakenOver => Self::TakenOver,
            CloseReason::Refused(_) | CloseReason::Violation(_) => Self::ProtocolError,
            CloseReason::Ended(_) => Self::Kicked,
            CloseReason::Shutdown => Self::BrokerRestart,
        }
    }
}

/// The state of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) user: ByteString,
    pub(crate) epoch: u64,
    pub(crate) cause: Cause,
    pub(crate) since_unix_ms: u64,
    pub(crate) last_seen_unix_ms: u64,
    pub(crate) keepalive_s: u16,
    /// When its session ended, if it did: some time later the state is forgotten.
    pub(crate) ended_unix_ms: Option<u64>,
}

impl State {
    pub(crate) fn is_online(&self) -> bool {
        self.cause == Cause::Connected
    }
}

/// What is to be done about a client whose state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// The log must say so; nobody is told.
    Write,
    /// The log must say so, and those who listen are told.
    Publish,
    /// The state is forgotten, and those who listen are told.
    Clear,
}

/// What is kept of a client: as little as there is to it, since there are as many as clients.
#[derive(Debug)]
struct Kept {
    /// The client id, then the user.
    names: Box<str>,
    client_bytes: u32,
    keepalive_s: u16,
    cause: Cause,
    change: Option<Change>,
    epoch: u64,
    since_unix_ms: u64,
    last_seen_unix_ms: u64,
    ended_unix_ms: Option<NonZeroU64>,
}

impl Kept {
    fn new(client: &str, state: &State) -> Self {
        let client_bytes = u32::try_from(client.len()).expect("a client id is no longer than MQTT allows");
        let mut kept = Self {
            names: [client, &state.user].concat().into(),
            client_bytes,
            keepalive_s: 0,
            cause: Cause::Connected,
            change: None,
            epoch: 0,
            since_unix_ms: 0,
            last_seen_unix_ms: 0,
            ended_unix_ms: None,
        };
        kept.set(state);
        kept
    }

    /// Takes another state of the client; its user must be the same.
    fn set(&mut self, state: &State) {
        (self.epoch, self.cause, self.keepalive_s) = (state.epoch, state.cause, state.keepalive_s);
        (self.since_unix_ms, self.last_seen_unix_ms) = (state.since_unix_ms, state.last_seen_unix_ms);
        self.ended_unix_ms = state.ended_unix_ms.and_then(NonZeroU64::new);
    }

    fn client(&self) -> &str {
        &self.names[..self.client_bytes as usize]
    }

    fn user(&self) -> &str {
        &self.names[self.client_bytes as usize..]
    }

    fn is_online(&self) -> bool {
        self.cause == Cause::Connected
    }

    fn state(&self) -> State {
        State {
            user: self.user().into(),
            epoch: self.epoch,
            cause: self.cause,
            since_unix_ms: self.since_unix_ms,
            last_seen_unix_ms: self.last_seen_unix_ms,
            keepalive_s: self.keepalive_s,
            ended_unix_ms: self.ended_unix_ms.map(NonZeroU64::get),
        }
    }

    fn held_bytes(&self) -> usize {
        PRESENCE_BYTES + self.names.len()
    }
}

/// All clients that are known. The tables hold places only: what is compared stands there.
#[derive(Debug)]
pub(crate) struct Presences {
    clients: Places<Kept>,
    by_client: HashTable<u32>,
    /// Keyed anew in each process, so that nobody can choose client ids that all fall into one place.
    hasher: RandomState,
    /// Clients whose session ended, the one that ended first first.
    ending: BTreeSet<(u64, u32)>,
    /// May name a place whose client has no change any more.
    changed: VecDeque<u32>,
    clients_max: usize,
    /// The highest epoch of a client that was forgotten: none that comes back may begin below it.
    forgotten_epoch: u64,
    held: Held,
}

impl Presences {
    pub(crate) fn new(clients_max: usize, account: &Account) -> Self {
        Self {
            clients: Places::new(),
            by_client: HashTable::new(),
            hasher: RandomState::new(),
            ending: BTreeSet::new(),
            changed: VecDeque::new(),
            clients_max,
            forgotten_epoch: 0,
            held: account.hold(0),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    fn place(&self, client: &str) -> Option<u32> {
        let is_it = |at: &u32| self.clients[*at as usize].client() == client;
        self.by_client.find(self.hasher.hash_one(client), is_it).copied()
    }

    fn kept(&self, client: &str) -> Option<&Kept> {
        self.place(client).map(|at| &self.clients[at as usize])
    }

    pub(crate) fn get(&self, client: &str) -> Option<State> {
        self.kept(client).map(Kept::state)
    }

    pub(crate) fn contains(&self, client: &str) -> bool {
        self.place(client).is_some()
    }

    /// Notes a new connection; `previous` epochs are passed over. Where there is no room for another client, the one
    /// whose session ended first is forgotten; without one the new client stays unknown.
    pub(crate) fn connected(&mut self, client: &str, user: &ByteString, keepalive_s: u16, now_unix_ms: u64) {
        let previous = self.kept(client).map(|kept| kept.epoch);
        if previous.is_none() && self.clients.len() >= self.clients_max {
            let Some((_, oldest)) = self.ending.pop_first() else { return };
            self.note(oldest, Change::Clear);
            // Not above the bound for long: it is cleared in the turn after this one.
        }
        // The clock may have gone back, since it was forgotten too.
        let epoch = now_unix_ms.max(previous.unwrap_or(self.forgotten_epoch) + 1);
        let state = State {
            user: user.clone(),
            epoch,
            cause: Cause::Connected,
            since_unix_ms: now_unix_ms,
            last_seen_unix_ms: now_unix_ms,
            keepalive_s,
            ended_unix_ms: None,
        };
        let at = self.put(client, &state);
        self.note(at, Change::Publish);
    }

    /// Notes the end of the client's connection.
    pub(crate) fn disconnected(
        &mut self,
        client: &str,
        cause: Cause,
        now_unix_ms: u64,
        last_seen_unix_ms: u64,
        keepalive_s: u16,
    ) {
        let Some(at) = self.place(client) else { return };
        let kept = &mut self.clients[at as usize];
        if kept.is_online() {
            (kept.cause, kept.since_unix_ms, kept.keepalive_s) = (cause, now_unix_ms, keepalive_s);
            kept.last_seen_unix_ms = last_seen_unix_ms;
            self.note(at, Change::Publish);
        }
    }

    /// Notes the end of the client's session, after that of its connection.
    pub(crate) fn session_ended(&mut self, client: &str, now_unix_ms: u64) {
        let Some(at) = self.place(client) else { return };
        let kept = &mut self.clients[at as usize];
        if !kept.is_online() && kept.ended_unix_ms.is_none() {
            let ended_unix_ms = NonZeroU64::MIN.max(NonZeroU64::new(now_unix_ms).unwrap_or(NonZeroU64::MIN));
            kept.ended_unix_ms = Some(ended_unix_ms);
            self.ending.insert((ended_unix_ms.get(), at));
            self.note(at, Change::Write);
        }
    }

    /// Sets a client's state as the log says.
    pub(crate) fn restore(&mut self, client: &str, state: &State) {
        self.put(client, state);
    }

    /// Sets a client's state; a change of it that waits goes on waiting.
    fn put(&mut self, client: &str, state: &State) -> u32 {
        let mut change = None;
        if let Some(at) = self.place(client) {
            let kept = &mut self.clients[at as usize];
            if kept.user() == &*state.user {
                if let Some(ended) = kept.ended_unix_ms {
                    self.ending.remove(&(ended.get(), at));
                }
                kept.set(state);
                self.note_ending(at);
                return at;
            }
            // Another user has the client id now.
            change = kept.change;
            self.forget(at);
        }
        let kept = Kept { change, ..Kept::new(client, state) };
        self.held.grow(kept.held_bytes());
        let at = u32::try_from(self.clients.insert(kept)).expect("clients are fewer than four billions");
        let Self { clients, by_client, hasher, .. } = self;
        let hash = |at: &u32| hasher.hash_one(clients[*at as usize].client());
        by_client.insert_unique(hash(&at), at, hash);
        if change.is_some() {
            self.changed.push_back(at);
        }
        self.note_ending(at);
        at
    }

    fn note_ending(&mut self, at: u32) {
        if let Some(ended) = self.clients[at as usize].ended_unix_ms {
            self.ending.insert((ended.get(), at));
        }
    }

    /// The highest epoch of a client that was forgotten.
    pub(crate) fn forgotten_epoch(&self) -> u64 {
        self.forgotten_epoch
    }

    /// Takes it back from the log.
    pub(crate) fn restore_forgotten(&mut self, epoch: u64) {
        self.forgotten_epoch = self.forgotten_epoch.max(epoch);
    }

    /// Forgets a client as the log says.
    pub(crate) fn cleared(&mut self, client: &str) {
        if let Some(at) = self.place(client) {
            self.forget(at);
        }
    }

    fn forget(&mut self, at: u32) {
        let kept = self.clients.remove(at as usize);
        if let Ok(found) = self.by_client.find_entry(self.hasher.hash_one(kept.client()), |it| *it == at) {
            found.remove();
        }
        if let Some(ended) = kept.ended_unix_ms {
            self.ending.remove(&(ended.get(), at));
        }
        self.held.shrink(kept.held_bytes());
        if self.clients.len() == 0 {
            // What was needed for many is given back with the last.
            (self.by_client, self.changed) = Default::default();
        }
    }

    /// Makes all that the last process left as online offline, and forgets all where presence is switched off. Says
    /// which sessions are to be looked for.
    pub(crate) fn resume(&mut self, is_on: bool, now_unix_ms: u64, has_session: impl Fn(&str) -> bool) {
        let concerns = |kept: &Kept| {
            !is_on || kept.is_online() || (kept.ended_unix_ms.is_none() && !has_session(kept.client()))
        };
        let concerned = self.clients.iter().filter(|(_, kept)| concerns(kept));
        let mut clients: Vec<(String, u32)> =
            concerned.map(|(at, kept)| (kept.client().to_owned(), at as u32)).collect();
        clients.sort_unstable();
        for (client, at) in clients {
            let kept = &self.clients[at as usize];
            let (last_seen, keepalive_s) = (kept.last_seen_unix_ms, kept.keepalive_s);
            self.disconnected(&client, Cause::BrokerRestart, now_unix_ms, last_seen, keepalive_s);
            if !has_session(&client) {
                self.session_ended(&client, now_unix_ms);
            }
            if !is_on {
                self.note(at, Change::Clear);
            }
        }
    }

    /// Has the clients cleared whose session ended so long ago; says when the next one is due.
    pub(crate) fn clear_due(&mut self, keep_ms: u64, now_unix_ms: u64, most: usize) -> Option<u64> {
        for _ in 0..most {
            let &(ended_unix_ms, at) = self.ending.first()?;
            let due_unix_ms = ended_unix_ms.saturating_add(keep_ms);
            if due_unix_ms > now_unix_ms {
                return Some(due_unix_ms);
            }
            self.ending.pop_first();
            self.note(at, Change::Clear);
        }
        self.ending.first().map(|(ended_unix_ms, _)| ended_unix_ms.saturating_add(keep_ms))
    }

    fn note(&mut self, at: u32, change: Change) {
        let kept = &mut self.clients[at as usize];
        if kept.change.is_none() {
            self.changed.push_back(at);
        }
        // A new connection takes back that the client was to be forgotten.
        let takes_back = kept.ended_unix_ms.is_none() && change == Change::Publish;
        kept.change = if takes_back { Some(change) } else { kept.change.max(Some(change)) };
    }

    /// Returns how many changes wait, at most.
    pub(crate) fn changes(&self) -> usize {
        self.changed.len()
    }

    /// Says that nobody has heard of what waits, and who begins to listen now sees the states themselves.
    pub(crate) fn hush(&mut self) {
        for at in &self.changed {
            let kept = self.clients.get_mut(*at as usize);
            if let Some(change) = kept.and_then(|kept| kept.change.as_mut()) {
                *change = if *change == Change::Publish { Change::Write } else { *change };
            }
        }
    }

    /// Takes the next client whose state changed out, with what is to be done and its state. A cleared one is
    /// forgotten.
    pub(crate) fn take_change(&mut self) -> Option<(ByteString, Change, State)> {
        while let Some(at) = self.changed.pop_front() {
            let Some(kept) = self.clients.get_mut(at as usize) else { continue };
            let Some(change) = kept.change.take() else { continue };
            let (client, state) = (kept.client().into(), kept.state());
            if change == Change::Clear {
                self.forgotten_epoch = self.forgotten_epoch.max(state.epoch);
                self.forget(at);
            }
            return Some((client, change, state));
        }
        None
    }

    /// Whether the log does not yet say what is here.
    pub(crate) fn is_changed(&self, client: &str) -> bool {
        self.kept(client).is_some_and(|kept| kept.change.is_some())
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        self.clients.iter().map(|(_, kept)| kept.held_bytes()).sum()
    }

    /// All clients, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, State)> {
        self.clients.iter().map(|(_, kept)| (kept.client(), kept.state()))
    }

    /// Their names, in no order.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &str> {
        self.clients.iter().map(|(_, kept)| kept.client())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn presences(clients_max: usize) -> Presences {
        Presences::new(clients_max, &Account::default())
    }

    fn changes(of: &mut Presences) -> Vec<(String, Change)> {
        std::iter::from_fn(|| of.take_change())
            .map(|(client, change, _)| (client.to_string(), change))
            .collect()
    }

    fn come(of: &mut Presences, client: &str, at: u64) -> u64 {
        of.connected(client, &"u".into(), 60, at);
        of.get(client).map_or(0, |state| state.epoch)
    }

    fn go(of: &mut Presences, client: &str, at: u64) {
        of.disconnected(client, Cause::Lost, at, at - 1, 60);
        of.session_ended(client, at);
    }

    #[test]
    fn an_epoch_grows_with_each_connection_whatever_the_clock_does() {
        let mut of = presences(10);
        assert_eq!(come(&mut of, "a", NOW), NOW);
        assert_eq!(come(&mut of, "a", NOW), NOW + 1);
        assert_eq!(come(&mut of, "a", NOW - 86_400_000), NOW + 2, "the clock went back");
        assert_eq!(come(&mut of, "a", NOW + 500), NOW + 500);
    }

    #[test]
    fn several_changes_are_one_and_the_newest() {
        let mut of = presences(10);
        come(&mut of, "a", NOW);
        go(&mut of, "a", NOW + 1);
        come(&mut of, "a", NOW + 2);
        assert!(of.is_changed("a"));
        assert_eq!(changes(&mut of), [("a".into(), Change::Publish)]);
        assert!(of.get("a").unwrap().is_online() && !of.is_changed("a") && of.changes() == 0);
        go(&mut of, "a", NOW + 3);
        assert_eq!(changes(&mut of), [("a".into(), Change::Publish)], "written and published together");
    }

    #[test]
    fn what_ended_is_forgotten_later_unless_it_comes_back() {
        let mut of = presences(10);
        for (n, client) in (0..).zip(["a", "b", "c"]) {
            come(&mut of, client, NOW);
            go(&mut of, client, NOW + n);
        }
        changes(&mut of);
        assert_eq!(of.clear_due(10, NOW + 9, 5), Some(NOW + 10));
        assert_eq!(of.clear_due(10, NOW + 12, 2), Some(NOW + 12));
        assert_eq!(come(&mut of, "a", NOW + 12), NOW + 12, "before it was forgotten");
        assert_eq!(changes(&mut of), [("a".into(), Change::Publish), ("b".into(), Change::Clear)]);
        assert_eq!(of.clear_due(10, NOW + 12, 2), None);
        assert_eq!(changes(&mut of), [("c".into(), Change::Clear)]);
        assert_eq!(of.clients().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn clients_are_bounded_and_who_ended_first_makes_room() {
        let account = Account::default();
        let mut of = Presences::new(2, &account);
        come(&mut of, "a", NOW);
        come(&mut of, "b", NOW);
        assert_eq!((come(&mut of, "c", NOW), of.len()), (0, 2), "nobody makes room");
        go(&mut of, "b", NOW + 1);
        changes(&mut of);
        assert_ne!(come(&mut of, "c", NOW + 2), 0);
        assert_eq!(changes(&mut of), [("b".into(), Change::Clear), ("c".into(), Change::Publish)]);
        assert_eq!(of.len(), 2);
        drop(of);
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn a_restart_makes_everyone_offline_and_switching_it_off_forgets_all() {
        for is_on in [true, false] {
            let mut of = presences(10);
            come(&mut of, "here", NOW);
            come(&mut of, "gone", NOW);
            come(&mut of, "away", NOW);
            of.disconnected("away", Cause::Lost, NOW + 1, NOW, 60);
            changes(&mut of);
            of.resume(is_on, NOW + 5, |client| client != "gone");
            let changed = changes(&mut of);
            if is_on {
                assert_eq!(changed, [("gone".into(), Change::Publish), ("here".into(), Change::Publish)]);
                let state = of.get("here").unwrap();
                assert_eq!((state.cause, state.since_unix_ms), (Cause::BrokerRestart, NOW + 5));
                assert_eq!(of.clear_due(10, NOW + 5, 5), Some(NOW + 15), "the one without a session");
            } else {
                assert_eq!(changed.len(), 3);
                assert!(changed.iter().all(|(_, change)| *change == Change::Clear) && of.len() == 0);
            }
        }
    }

    #[test]
    fn who_begins_to_listen_is_not_told_again_what_it_sees() {
        let mut of = presences(10);
        come(&mut of, "a", NOW);
        go(&mut of, "b", NOW);
        come(&mut of, "b", NOW);
        of.hush();
        assert_eq!(changes(&mut of), [("a".into(), Change::Write), ("b".into(), Change::Write)]);
        come(&mut of, "c", NOW);
        go(&mut of, "c", NOW + 1);
        changes(&mut of);
        assert_eq!(of.clear_due(10, NOW + 11, 5), None);
        of.hush();
        assert_eq!(changes(&mut of), [("c".into(), Change::Clear)], "it must be forgotten all the same");
    }

    #[test]
    fn a_client_that_another_user_has_now_is_the_other_users() {
        let mut of = presences(10);
        come(&mut of, "a", NOW);
        go(&mut of, "a", NOW + 1);
        of.connected("a", &"another".into(), 60, NOW + 2);
        assert_eq!(of.get("a").map(|state| state.user), Some("another".into()));
        assert_eq!((changes(&mut of), of.len()), (vec![("a".into(), Change::Publish)], 1));
        assert_eq!(of.clear_due(10, NOW + 100, 5), None, "its end was that of the other one");
        assert_eq!(size_of::<Option<Kept>>(), 56);
    }

    #[test]
    fn causes_have_their_numbers() {
        assert!(Cause::ALL.into_iter().enumerate().all(|(at, cause)| cause as usize == at));
    }
}
