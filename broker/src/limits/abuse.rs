//! Who may come in: bans, bounds on connections and on how often they are made, and what is done about
//! those who flap, guess passwords or send garbage.
//!
//! Pure but for the log: the runtime says what happens, with the time; the answer says what to do. Knows no
//! socket and no session. Invariants: every [`Seat`] that [`Abuse::admit`] gives comes back by
//! [`Abuse::leave`], so that the counts are those of the open connections; every table is bounded, by its
//! capacity or by the number of connections.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    net::IpAddr,
    rc::Rc,
    sync::mpsc::SyncSender,
    time::Duration,
};

use bytestring::ByteString;
use engine::Now;
use protocol::ReasonCode;

use super::{
    address::{AddressKey, Networks},
    bans::{BanChange, BanKey, BanView, Bans, Offence, SavedBan},
    rate::Rate,
    rates::{RateBounds, Rates},
    strikes::{Measure, Rule, Strikes},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Connections above a bound that are let in to be told so.
const TOLD_MAX: u64 = 100;

/// What is counted of those who come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// Nothing.
    Nothing,
    /// Failed logins, by user name.
    Users,
    /// Also connects, by client id.
    Clients,
    /// All of it, also by address.
    Address,
}

/// The bounds and rules; 0 = none, unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct AbuseRules {
    pub(crate) loopback: Counted,
    pub(crate) shared_addresses: Networks,
    pub(crate) connections_per_address_max: u64,
    pub(crate) unconnected_per_address_max: u64,
    pub(crate) address_connects_per_s: u64,
    pub(crate) address_connects_burst: u64,
    pub(crate) client_connects_per_minute: u64,
    pub(crate) flapping_per_minute: u32,
    pub(crate) guesses_per_minute: u32,
    pub(crate) malformed_per_minute: u32,
    pub(crate) slow_first_ms: u64,
    pub(crate) slow_max_ms: u64,
    pub(crate) strikes_max: u32,
    pub(crate) ban_s: u64,
    pub(crate) tracked_max: usize,
}

/// The bounds of one listener.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ListenerBounds {
    pub(crate) connections_max: u64,
    pub(crate) connects_per_s: u64,
    pub(crate) connects_burst: u64,
}

/// The bounds of one user.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UserBounds {
    pub(crate) connections_max: u64,
    pub(crate) rates: RateBounds,
    pub(crate) packet_bytes_max: u64,
}

/// What becomes of a connection at its CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It goes on.
    Admit,
    /// It goes on later.
    Delay {
        /// So much later.
        ms: u64,
    },
    /// It ends.
    Refuse {
        /// The reason code of the CONNACK.
        reason: ReasonCode,
        /// Why, with the values.
        what: String,
    },
}

/// What the counts know of one open connection.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Where it comes from, if that is counted.
    address: Option<AddressKey>,
    counted: Counted,
    listener: u32,
    is_unconnected: bool,
    /// Its user and client id, where users are bounded.
    user: Option<Box<(ByteString, ByteString)>>,
}

impl Seat {
    /// Says whether its CONNECT has not been taken.
    pub(crate) fn is_unconnected(&self) -> bool {
        self.is_unconnected
    }
}

#[derive(Debug, Default)]
struct AtAddress {
    open: u64,
    unconnected: u64,
}

#[derive(Debug)]
struct AtListener {
    name: String,
    bounds: ListenerBounds,
    rate: Option<Rate>,
    open: u64,
}

#[derive(Debug, Default)]
struct AtUser {
    /// Connections by client id: a client that takes over its own session needs no second place.
    clients: HashMap<ByteString, u32>,
    rates: Option<Rc<Rates>>,
}

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Abuse {
    rules: AbuseRules,
    bans: Bans,
    addresses: HashMap<AddressKey, AtAddress>,
    listeners: Vec<AtListener>,
    users: HashMap<ByteString, AtUser>,
    unconnected: u64,
    address_connects: RateTable<AddressKey>,
    client_connects: RateTable<ByteString>,
    flapping: Strikes<ByteString>,
    guesses_by_address: Strikes<AddressKey>,
    guesses_by_user: Strikes<ByteString>,
    malformed: Strikes<AddressKey>,
    logins: Logins,
}

impl Abuse {
    /// Starts with clean tables.
    pub(crate) fn new(rules: AbuseRules) -> Self {
        let AbuseRules { slow_first_ms, slow_max_ms, strikes_max, tracked_max, .. } = rules;
        let rule =
            |per_minute, is_strict| Rule { per_minute, is_strict, slow_first_ms, slow_max_ms, strikes_max };
        Self {
            bans: Bans::new(rules.ban_s * 1000, tracked_max),
            addresses: HashMap::new(),
            listeners: Vec::new(),
            users: HashMap::new(),
            unconnected: 0,
            address_connects: RateTable::new(
                (rules.address_connects_per_s, SECOND, rules.address_connects_burst),
                tracked_max,
            ),
            client_connects: RateTable::new((rules.client_connects_per_minute, MINUTE, 0), tracked_max),
            flapping: Strikes::new(rule(rules.flapping_per_minute, false), tracked_max),
            guesses_by_address: Strikes::new(rule(rules.guesses_per_minute, true), tracked_max),
            guesses_by_user: Strikes::new(rule(rules.guesses_per_minute, true), tracked_max),
            malformed: Strikes::new(rule(rules.malformed_per_minute, true), tracked_max),
            logins: Logins::new(tracked_max),
            rules,
        }
    }

    /// Takes a connection in that was just accepted at a listener of this name, or says in words why it is closed
    /// without an answer.
    pub(crate) fn admit(
        &mut self,
        now_ms: u64,
        address: Option<IpAddr>,
        listener: &str,
        bounds: ListenerBounds,
    ) -> Result<Seat, &'static str> {
        let counted = self.counted(address);
        let address = address.filter(|_| counted == Counted::Address).map(AddressKey::of);
        if let Some(address) = address {
            if self.bans.refuse(now_ms, &BanKey::Address(address)).is_some() {
                return Err("banned");
            }
            let AbuseRules { connections_per_address_max, unconnected_per_address_max, .. } = self.rules;
            let at = self.addresses.get(&address);
            let (open, unconnected) = at.map_or((0, 0), |at| (at.open, at.unconnected));
            if is_over(open, connections_per_address_max, TOLD_MAX) {
                return Err("too many connections from its address");
            }
            if is_over(unconnected, unconnected_per_address_max, 0) {
                return Err("too many connections without CONNECT from its address");
            }
        }
        let listener = self.listener(now_ms, listener, bounds);
        let at_listener = &mut self.listeners[listener as usize];
        if is_over(at_listener.open, at_listener.bounds.connections_max, TOLD_MAX) {
            return Err("too many connections at its listener");
        }
        at_listener.open += 1;
        self.unconnected += 1;
        if let Some(address) = address {
            let at = self.addresses.entry(address).or_default();
            at.open += 1;
            at.unconnected += 1;
        }
        Ok(Seat { address, counted, listener, is_unconnected: true, user: None })
    }

    /// Judges a CONNECT before its user is authenticated. After a delay [`Abuse::is_kept_out`] is asked
    /// instead.
    pub(crate) fn connect(
        &mut self,
        now: Now,
        seat: &mut Seat,
        client: &str,
        user: Option<&str>,
    ) -> Admission {
        self.connected(seat);
        if let Some(refusal) = self.is_kept_out(now.monotonic_ms, seat, client, user) {
            return refusal;
        }
        if let Some(refusal) = self.over_bounds(now.monotonic_ms, seat, client) {
            return refusal;
        }
        let flapping = match self.flap(now, seat, client) {
            Ok(ms) => ms,
            Err(refusal) => return refusal,
        };
        match flapping.max(self.guessing_ms(now.monotonic_ms, seat, user)) {
            0 => Admission::Admit,
            ms => Admission::Delay { ms },
        }
    }

    /// Refuses who is banned.
    pub(crate) fn is_kept_out(
        &mut self,
        now_ms: u64,
        seat: &Seat,
        client: &str,
        user: Option<&str>,
    ) -> Option<Admission> {
        let address = seat.address.map(BanKey::Address);
        let client = (seat.counted >= Counted::Clients).then(|| BanKey::Client(client.into()));
        let user = user.filter(|user| seat.counted >= Counted::Users && !self.is_known(seat, user));
        let user = user.map(|user| BanKey::User(user.into()));
        let mut keys = [address, client, user].into_iter().flatten();
        keys.find_map(|key| self.bans.refuse(now_ms, &key).map(|left_s| banned(&key, left_s)))
    }

    /// Counts a failed authentication. The answer to the next attempt waits, or there is a ban.
    pub(crate) fn auth_failed(&mut self, now: Now, seat: &Seat, user: Option<&str>) {
        if let Some(address) = seat.address
            && self.guesses_by_address.count(now.monotonic_ms, &address) == Measure::Ban
        {
            self.bans.ban(now, BanKey::Address(address), Offence::Guessing);
        }
        if let Some(user) = user.filter(|user| seat.counted >= Counted::Users && !self.is_known(seat, user)) {
            let user = ByteString::from(user);
            if self.guesses_by_user.count(now.monotonic_ms, &user) == Measure::Ban {
                self.bans.ban(now, BanKey::User(user), Offence::Guessing);
            }
        }
    }

    /// Judges a login that makes no connection to be counted.
    pub(crate) fn login(&mut self, now_ms: u64, address: IpAddr, user: Option<&str>) -> Admission {
        let seat = self.seat_of(address);
        if let Some(refusal) = self.is_kept_out(now_ms, &seat, "", user) {
            return refusal;
        }
        match self.guessing_ms(now_ms, &seat, user) {
            0 => Admission::Admit,
            ms => Admission::Delay { ms },
        }
    }

    /// Counts such a login that failed.
    pub(crate) fn login_failed(&mut self, now: Now, address: IpAddr, user: Option<&str>) {
        let seat = self.seat_of(address);
        self.auth_failed(now, &seat, user);
    }

    /// Notes such a login that was right.
    pub(crate) fn logged_in(&mut self, address: IpAddr, user: &str) {
        let seat = self.seat_of(address);
        self.remember_login(&seat, user);
    }

    fn remember_login(&mut self, seat: &Seat, user: &str) {
        if let Some(address) = seat.address {
            self.logins.remember(user, address);
        }
        if seat.counted >= Counted::Users {
            self.guesses_by_user.forgive(&ByteString::from(user));
        }
    }

    /// A place that nobody sits on: it is never given back.
    fn seat_of(&self, address: IpAddr) -> Seat {
        let counted = self.counted(Some(address));
        let address = Some(address).filter(|_| counted == Counted::Address).map(AddressKey::of);
        Seat { address, counted, listener: u32::MAX, is_unconnected: false, user: None }
    }

    /// Takes a client in whose user is known now; gives the rates that the user's connections share.
    pub(crate) fn authenticated(
        &mut self,
        now_ms: u64,
        seat: &mut Seat,
        client: &str,
        user: &str,
        bounds: UserBounds,
    ) -> Result<Option<Rc<Rates>>, Admission> {
        self.remember_login(seat, user);
        if bounds.connections_max == 0 && bounds.rates == RateBounds::default() {
            return Ok(None);
        }
        let (user, client) = (ByteString::from(user), ByteString::from(client));
        let at = self.users.entry(user.clone()).or_default();
        if is_over(at.clients.len() as u64, bounds.connections_max, 0) && !at.clients.contains_key(&client) {
            let what = format!("user {user:?} has {} clients connected, the limit", at.clients.len());
            return Err(refuse(ReasonCode::QuotaExceeded, what));
        }
        if at.rates.is_none() {
            at.rates = Rates::new(now_ms, bounds.rates, bounds.packet_bytes_max).map(Rc::new);
        }
        *at.clients.entry(client.clone()).or_default() += 1;
        let rates = at.rates.clone();
        seat.user = Some(Box::new((user, client)));
        Ok(rates)
    }

    /// Counts a connection that sent what is no MQTT.
    pub(crate) fn malformed(&mut self, now: Now, seat: &Seat) {
        if let Some(address) = seat.address
            && self.malformed.count(now.monotonic_ms, &address) == Measure::Ban
        {
            self.bans.ban(now, BanKey::Address(address), Offence::Malformed);
        }
    }

    /// Takes the seat of a connection back that is gone.
    pub(crate) fn leave(&mut self, mut seat: Seat) {
        self.connected(&mut seat);
        if let Some(at) = self.listeners.get_mut(seat.listener as usize) {
            at.open = at.open.saturating_sub(1);
        }
        if let Some(address) = seat.address
            && let Some(at) = self.addresses.get_mut(&address)
        {
            at.open = at.open.saturating_sub(1);
            if at.open == 0 {
                self.addresses.remove(&address);
            }
        }
        let Some((user, client)) = seat.user.map(|user| *user) else { return };
        let Some(at) = self.users.get_mut(&user) else { return };
        if let Some(open) = at.clients.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                at.clients.remove(&client);
            }
        }
        if at.clients.is_empty() {
            self.users.remove(&user);
        }
    }

    /// Returns how many connections have sent no CONNECT.
    pub(crate) fn unconnected(&self) -> u64 {
        self.unconnected
    }

    /// Takes the bans of the last process back, and tells changes to whoever keeps them for the next one.
    pub(crate) fn restore_bans(&mut self, now: Now, saved: Vec<SavedBan>, keeper: SyncSender<BanChange>) {
        self.bans.restore(now, saved, keeper);
    }

    /// Lists the bans in force.
    pub(crate) fn bans(&mut self, now_ms: u64) -> Vec<BanView> {
        self.bans.list(now_ms)
    }

    /// Returns how many bans are in force, with those that have just ended.
    pub(crate) fn bans_len(&self) -> u64 {
        self.bans.len() as u64
    }

    /// Ends a ban; says whether there was one.
    pub(crate) fn lift(&mut self, now_ms: u64, key: &BanKey) -> bool {
        self.bans.lift(now_ms, key)
    }

    /// Returns a listener's place in the table; there are as many as the configuration has.
    fn listener(&mut self, now_ms: u64, name: &str, bounds: ListenerBounds) -> u32 {
        let at = self.listeners.iter().position(|at| at.name == name).unwrap_or_else(|| {
            let rate = Rate::new(now_ms, bounds.connects_per_s, SECOND, bounds.connects_burst);
            self.listeners.push(AtListener { name: name.to_owned(), bounds, rate, open: 0 });
            self.listeners.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    fn counted(&self, address: Option<IpAddr>) -> Counted {
        match address {
            Some(address) if self.rules.shared_addresses.contains(address) => Counted::Clients,
            Some(address) if !address.to_canonical().is_loopback() => Counted::Address,
            // Unix sockets are of this machine too, and have no address.
            Some(_) => self.rules.loopback,
            None => self.rules.loopback.min(Counted::Clients),
        }
    }

    /// Whoever logged in from this address before is not kept out by others who guess.
    fn is_known(&self, seat: &Seat, user: &str) -> bool {
        seat.address.is_some_and(|address| self.logins.contains(user, address))
    }

    fn connected(&mut self, seat: &mut Seat) {
        if !std::mem::take(&mut seat.is_unconnected) {
            return;
        }
        self.unconnected = self.unconnected.saturating_sub(1);
        if let Some(at) = seat.address.and_then(|address| self.addresses.get_mut(&address)) {
            at.unconnected = at.unconnected.saturating_sub(1);
        }
    }

    /// Bounds that no delay helps against: the client is told to come back later.
    fn over_bounds(&mut self, now_ms: u64, seat: &Seat, client: &str) -> Option<Admission> {
        let quota = |what| Some(refuse(ReasonCode::QuotaExceeded, what));
        let rate = |what| Some(refuse(ReasonCode::ConnectionRateExceeded, what));
        let at_listener = &self.listeners[seat.listener as usize];
        let ListenerBounds { connections_max, connects_per_s, .. } = at_listener.bounds;
        if is_over(at_listener.open, connections_max, 1) {
            return quota(format!("the listener has {connections_max} connections, its limit"));
        }
        if at_listener.rate.as_ref().is_some_and(|rate| rate.take(now_ms, 1).is_err()) {
            return rate(format!("the listener takes {connects_per_s} connects a second"));
        }
        if let Some(address) = seat.address {
            let max = self.rules.connections_per_address_max;
            let open = self.addresses.get(&address).map_or(0, |at| at.open);
            if is_over(open, max, 1) {
                return quota(format!("your address has {max} connections, the limit"));
            }
            if !self.address_connects.take(now_ms, &address) {
                let per_s = self.rules.address_connects_per_s;
                return rate(format!("an address may connect {per_s} times a second"));
            }
        }
        if !client.is_empty() && !self.client_connects.take(now_ms, &client.into()) {
            let per_minute = self.rules.client_connects_per_minute;
            return rate(format!("a client may connect {per_minute} times a minute"));
        }
        None
    }

    fn flap(&mut self, now: Now, seat: &Seat, client: &str) -> Result<u64, Admission> {
        if client.is_empty() || seat.counted < Counted::Clients {
            return Ok(0);
        }
        let client = ByteString::from(client);
        match self.flapping.count(now.monotonic_ms, &client) {
            Measure::Free => Ok(0),
            Measure::Slow { ms } => Ok(ms),
            Measure::Ban => {
                let key = BanKey::Client(client);
                if !self.bans.ban(now, key.clone(), Offence::Flapping) {
                    return Ok(self.rules.slow_max_ms);
                }
                Err(banned(&key, self.rules.ban_s))
            }
        }
    }

    fn guessing_ms(&self, now_ms: u64, seat: &Seat, user: Option<&str>) -> u64 {
        let by_address =
            seat.address.map_or(0, |address| self.guesses_by_address.slowed_ms(now_ms, &address));
        let user = user.filter(|user| seat.counted >= Counted::Users && !self.is_known(seat, user));
        let by_user = user.map_or(0, |user| self.guesses_by_user.slowed_ms(now_ms, &user.into()));
        by_address.max(by_user)
    }
}

fn is_over(count: u64, max: u64, slack: u64) -> bool {
    max > 0 && count >= max.saturating_add(slack)
}

fn refuse(reason: ReasonCode, what: String) -> Admission {
    Admission::Refuse { reason, what }
}

fn banned(key: &BanKey, left_s: u64) -> Admission {
    refuse(ReasonCode::Banned, format!("this {} is banned, try again in {left_s} s", key.kind()))
}

/// One rate for each of many; when the table is full all of it is forgotten, which only gives everyone a burst.
#[derive(Debug)]
struct RateTable<K> {
    bounds: (u64, Duration, u64),
    capacity: usize,
    rates: HashMap<K, Rate>,
}

impl<K: Hash + Eq + Clone> RateTable<K> {
    fn new(bounds: (u64, Duration, u64), capacity: usize) -> Self {
        Self { bounds, capacity: capacity.max(1), rates: HashMap::new() }
    }

    fn take(&mut self, now_ms: u64, key: &K) -> bool {
        if let Some(rate) = self.rates.get(key) {
            return rate.take(now_ms, 1).is_ok();
        }
        let (count, period, burst) = self.bounds;
        let Some(rate) = Rate::new(now_ms, count, period, burst) else { return true };
        if self.rates.len() >= self.capacity {
            self.rates.clear();
        }
        let passes = rate.take(now_ms, 1).is_ok();
        self.rates.insert(key.clone(), rate);
        passes
    }
}

/// From where users have logged in; the oldest are forgotten.
#[derive(Debug)]
struct Logins {
    capacity: usize,
    known: std::collections::HashSet<(ByteString, AddressKey)>,
    order: VecDeque<(ByteString, AddressKey)>,
}

impl Logins {
    fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), known: Default::default(), order: VecDeque::new() }
    }

    fn remember(&mut self, user: &str, address: AddressKey) {
        let login = (ByteString::from(user), address);
        if !self.known.insert(login.clone()) {
            return;
        }
        self.order.push_back(login);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn contains(&self, user: &str, address: AddressKey) -> bool {
        self.known.contains(&(ByteString::from(user), address))
    }
}
