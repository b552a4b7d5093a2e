//! Which clients are connected, and which were (docs/protocol.md section 5).
//!
//! Knows nothing of connections, the log or subscriptions: it says whose state changed, and the shard writes and
//! publishes it. Several changes of one client before that are one: the newest.
//!
//! Invariants: a client's epoch only grows while its state is kept; a client in `ending` is offline and its session
//! has ended; a client in `changed` stands there once.

use std::collections::{BTreeSet, VecDeque};

use bytestring::ByteString;

use crate::CloseReason;
use crate::memory::{Account, Held, PRESENCE_BYTES};
use crate::names::ByName;

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

#[derive(Debug)]
struct Kept {
    state: State,
    change: Option<Change>,
    _held: Held,
}

#[derive(Debug)]
pub(crate) struct Presences {
    clients: ByName<Kept>,
    /// Clients whose session ended, the one that ended first first.
    ending: BTreeSet<(u64, ByteString)>,
    changed: VecDeque<ByteString>,
    clients_max: usize,
    /// The highest epoch of a client that was forgotten: none that comes back may begin below it.
    forgotten_epoch: u64,
    account: Account,
}

impl Presences {
    pub(crate) fn new(clients_max: usize, account: &Account) -> Self {
        Self {
            clients: ByName::default(),
            ending: BTreeSet::new(),
            changed: VecDeque::new(),
            clients_max,
            forgotten_epoch: 0,
            account: account.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn get(&self, client: &str) -> Option<&State> {
        self.clients.get(client).map(|kept| &kept.state)
    }

    /// Notes a new connection; `previous` epochs are passed over. Where there is no room for another client, the one
    /// whose session ended first is forgotten; without one the new client stays unknown.
    pub(crate) fn connected(
        &mut self,
        client: &ByteString,
        user: &ByteString,
        keepalive_s: u16,
        now_unix_ms: u64,
    ) {
        let previous = self.get(client).map(|state| state.epoch);
        if previous.is_none() && self.clients.len() >= self.clients_max {
            let Some((_, oldest)) = self.ending.pop_first() else { return };
            self.note(&oldest, Change::Clear);
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
        self.restore(client.clone(), state);
        self.note(client, Change::Publish);
    }

    /// Notes the end of the client's connection.
    pub(crate) fn disconnected(
        &mut self,
        client: &ByteString,
        cause: Cause,
        now_unix_ms: u64,
        last_seen_unix_ms: u64,
        keepalive_s: u16,
    ) {
        let Some(kept) = self.clients.get_mut(client).filter(|kept| kept.state.is_online()) else { return };
        let state = &mut kept.state;
        (state.cause, state.since_unix_ms, state.keepalive_s) = (cause, now_unix_ms, keepalive_s);
        state.last_seen_unix_ms = last_seen_unix_ms;
        self.note(client, Change::Publish);
    }

    /// Notes the end of the client's session, after that of its connection.
    pub(crate) fn session_ended(&mut self, client: &ByteString, now_unix_ms: u64) {
        let Some(kept) = self.clients.get_mut(client).filter(|kept| !kept.state.is_online()) else { return };
        if kept.state.ended_unix_ms.is_none() {
            kept.state.ended_unix_ms = Some(now_unix_ms);
            self.ending.insert((now_unix_ms, client.clone()));
            self.note(client, Change::Write);
        }
    }

    /// Sets a client's state as the log says.
    pub(crate) fn restore(&mut self, client: ByteString, state: State) {
        let before = self.forget(&client);
        if let Some(ended_unix_ms) = state.ended_unix_ms {
            self.ending.insert((ended_unix_ms, client.clone()));
        }
        let held = self.account.hold(PRESENCE_BYTES + client.len() + state.user.len());
        // It stays in `changed` if it was there.
        let change = before.and_then(|kept| kept.change);
        self.clients.insert(client, Kept { state, change, _held: held });
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
        self.forget(client);
    }

    fn forget(&mut self, client: &str) -> Option<Kept> {
        let (client, kept) = self.clients.remove_entry(client)?;
        if let Some(ended_unix_ms) = kept.state.ended_unix_ms {
            self.ending.remove(&(ended_unix_ms, client));
        }
        Some(kept)
    }

    /// Makes all that the last process left as online offline, and forgets all where presence is switched off. Says
    /// which sessions are to be looked for.
    pub(crate) fn resume(&mut self, is_on: bool, now_unix_ms: u64, has_session: impl Fn(&str) -> bool) {
        let concerns = |client: &str, state: &State| {
            !is_on || state.is_online() || (state.ended_unix_ms.is_none() && !has_session(client))
        };
        let concerned = self.iter().filter(|(client, state)| concerns(client, state));
        let mut clients: Vec<_> = concerned.map(|(client, _)| client.clone()).collect();
        clients.sort_unstable();
        for client in clients {
            let Some(state) = self.get(&client) else { continue };
            let (last_seen, keepalive_s) = (state.last_seen_unix_ms, state.keepalive_s);
            self.disconnected(&client, Cause::BrokerRestart, now_unix_ms, last_seen, keepalive_s);
            if !has_session(&client) {
                self.session_ended(&client, now_unix_ms);
            }
            if !is_on {
                self.note(&client, Change::Clear);
            }
        }
    }

    /// Has the clients cleared whose session ended so long ago; says when the next one is due.
    pub(crate) fn clear_due(&mut self, keep_ms: u64, now_unix_ms: u64, most: usize) -> Option<u64> {
        for _ in 0..most {
            let (ended_unix_ms, client) = self.ending.first()?.clone();
            let due_unix_ms = ended_unix_ms.saturating_add(keep_ms);
            if due_unix_ms > now_unix_ms {
                return Some(due_unix_ms);
            }
            self.ending.pop_first();
            self.note(&client, Change::Clear);
        }
        self.ending.first().map(|(ended_unix_ms, _)| ended_unix_ms.saturating_add(keep_ms))
    }

    fn note(&mut self, client: &ByteString, change: Change) {
        let Some(kept) = self.clients.get_mut(client) else { return };
        if kept.change.is_none() {
            self.changed.push_back(client.clone());
        }
        // A new connection takes back that the client was to be forgotten.
        let takes_back = kept.state.ended_unix_ms.is_none() && change == Change::Publish;
        kept.change = if takes_back { Some(change) } else { kept.change.max(Some(change)) };
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes the next client whose state changed out, with what is to be done. A cleared one is forgotten.
    pub(crate) fn take_change(&mut self) -> Option<(ByteString, Change)> {
        while let Some(client) = self.changed.pop_front() {
            let change = self.clients.get_mut(&client).and_then(|kept| kept.change.take());
            let Some(change) = change else { continue };
            if change == Change::Clear {
                let forgotten = self.forget(&client).map_or(0, |kept| kept.state.epoch);
                self.forgotten_epoch = self.forgotten_epoch.max(forgotten);
            }
            return Some((client, change));
        }
        None
    }

    /// Whether the log does not yet say what is here.
    pub(crate) fn is_changed(&self, client: &str) -> bool {
        self.clients.get(client).is_some_and(|kept| kept.change.is_some())
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        self.iter().map(|(client, state)| PRESENCE_BYTES + client.len() + state.user.len()).sum()
    }

    /// All clients, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ByteString, &State)> {
        self.clients.iter().map(|(client, kept)| (client, &kept.state))
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
        std::iter::from_fn(|| of.take_change()).map(|(client, change)| (client.to_string(), change)).collect()
    }

    fn come(of: &mut Presences, client: &str, at: u64) -> u64 {
        of.connected(&client.into(), &"u".into(), 60, at);
        of.get(client).map_or(0, |state| state.epoch)
    }

    fn go(of: &mut Presences, client: &str, at: u64) {
        of.disconnected(&client.into(), Cause::Lost, at, at - 1, 60);
        of.session_ended(&client.into(), at);
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
        assert!(of.get("a").unwrap().is_online() && !of.is_changed("a") && !of.has_changes());
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
        assert_eq!(of.iter().map(|(client, _)| &**client).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn clients_are_bounded_and_who_ended_first_makes_room() {
        let mut of = presences(2);
        come(&mut of, "a", NOW);
        come(&mut of, "b", NOW);
        assert_eq!((come(&mut of, "c", NOW), of.len()), (0, 2), "nobody makes room");
        go(&mut of, "b", NOW + 1);
        changes(&mut of);
        assert_ne!(come(&mut of, "c", NOW + 2), 0);
        assert_eq!(changes(&mut of), [("b".into(), Change::Clear), ("c".into(), Change::Publish)]);
        assert_eq!(of.len(), 2);
        let account = of.account.clone();
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
            of.disconnected(&"away".into(), Cause::Lost, NOW + 1, NOW, 60);
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
    fn causes_have_their_numbers() {
        assert!(Cause::ALL.into_iter().enumerate().all(|(at, cause)| cause as usize == at));
    }
}
