//! Who is let in, asked at accept, at CONNECT and when the user is known; what the limits say becomes an
//! answer to the client here.

use engine::{Authentication, ConnId, Input, Now, Principal};
use protocol::{Connect, ReasonCode};

use super::{Core, ban_file, connection::Phase, pause::Held};
use crate::{
    config::{ClientLimits, Config, UserLimit, UserLimits},
    limits::{Abuse, AbuseRules, Admission, Rates, Throttle},
};

/// What the configuration says of clients and users once they are known.
#[derive(Debug)]
pub(super) struct Grants {
    client: ClientLimits,
    user: UserLimits,
    users: Vec<UserLimit>,
    packet_bytes_max: u32,
}

impl Grants {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            client: config.client_limits.clone(),
            user: config.user_limits.clone(),
            users: config.user_limit.clone(),
            packet_bytes_max: config.mqtt.packet_bytes_max,
        }
    }
}

/// Makes the tables of the limits, with the bans of the last process.
pub(super) fn abuse(config: &Config, now: Now) -> Abuse {
    let (limits, abuse) = (&config.limits, &config.abuse);
    let rules = AbuseRules {
        loopback: abuse.loopback,
        shared_addresses: abuse.shared_addresses.clone(),
        connections_per_address_max: limits.connections_per_address_max.into(),
        unconnected_per_address_max: limits.unconnected_per_address_max.into(),
        address_connects_per_s: limits.connects_per_address_per_s.into(),
        address_connects_burst: limits.connects_per_address_burst.into(),
        client_connects_per_minute: limits.connects_per_client_per_minute.into(),
        flapping_per_minute: abuse.flapping_per_minute,
        guesses_per_minute: abuse.guesses_per_minute,
        malformed_per_minute: abuse.malformed_per_minute,
        slow_first_ms: abuse.slow_first_ms.into(),
        slow_max_ms: abuse.slow_max_ms.into(),
        strikes_max: abuse.strikes_max,
        ban_s: abuse.ban_s.into(),
        tracked_max: abuse.tracked_max as usize,
    };
    let mut abuse = Abuse::new(rules);
    let bans_max = config.abuse.tracked_max as usize;
    match ban_file::open(&config.store.data_dir, now.unix_ms, bans_max) {
        Ok((saved, keeper)) => abuse.restore_bans(now, saved, keeper),
        Err(error) => tracing::warn!(%error, "bans are not kept over a restart"),
    }
    abuse
}

impl Core {
    /// Asks the limits about a CONNECT, before its user is authenticated.
    pub(super) fn connect(&mut self, now: Now, id: ConnId, connect: Box<Connect>) {
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return;
        };
        let Some(seat) = &mut connection.seat else { return };
        match self.abuse.connect(now, seat, &connect.client_id, connect.username.as_deref()) {
            Admission::Admit => self.authenticate(now, id, connect),
            Admission::Delay { ms } => {
                self.counts.delayed += 1;
                tracing::debug!(conn = id.0, peer = %connection.peer, client = %connect.client_id, ms, "slowed");
                let until_ms = now.monotonic_ms + ms;
                self.hold(now, id, Held::Connect { connect, until_ms }, ms);
            }
            Admission::Refuse { reason, what } => self.refuse_connect(id, reason, &what),
        }
    }

    /// Goes on with a CONNECT that was slowed: there may be a ban now.
    pub(super) fn connect_later(&mut self, now: Now, id: ConnId, connect: Box<Connect>) {
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return;
        };
        let Some(seat) = &connection.seat else { return };
        let user = connect.username.as_deref();
        match self.abuse.is_kept_out(now.monotonic_ms, seat, &connect.client_id, user) {
            Some(Admission::Refuse { reason, what }) => self.refuse_connect(id, reason, &what),
            _ => self.authenticate(now, id, connect),
        }
    }

    /// Puts the bounds of an open connection's user and listener into its principal, which changed.
    pub(super) fn lower_bounds(&self, id: ConnId, principal: &mut Principal) {
        let connection = self.connections.get(super::slot(id)).filter(|c| c.id == id);
        let Some(connection) = connection else { return };
        let user = principal.user.as_deref().unwrap_or_default();
        let in_group = |name: &str| principal.groups.iter().any(|group| **group == *name);
        let own = UserLimit::of(&self.grants.users, user, in_group);
        own.map(|limit| limit.bounds).unwrap_or_default().lower(&mut principal.limits);
        connection.peer.listener.config.limits.lower(&mut principal.limits);
    }

    /// Gives a CONNECT whose user is known to the engine, with the bounds that hold for it.
    pub(super) fn open(
        &mut self,
        now: Now,
        id: ConnId,
        connect: Box<Connect>,
        mut principal: Box<Principal>,
        authentication: Option<Authentication>,
    ) {
        if let Err((reason, what)) = self.grant(now, id, &connect.client_id, &mut principal) {
            return self.refuse_connect(id, reason, &what);
        }
        let Some(connection) = self.connection(id) else { return };
        connection.phase = Phase::Open;
        self.input(now, Input::Connect { conn: id, connect, principal, authentication });
    }

    /// Finds the bounds of a client whose user is known: those of the session go into the principal.
    fn grant(
        &mut self,
        now: Now,
        id: ConnId,
        client: &str,
        principal: &mut Principal,
    ) -> Result<(), (ReasonCode, String)> {
        let Some(connection) = self.connections.get_mut(super::slot(id)).filter(|c| c.id == id) else {
            return Ok(());
        };
        let Some(seat) = &mut connection.seat else { return Ok(()) };
        let grants = &self.grants;
        // A client whose id is given later is one of its own.
        let nameless = client.is_empty().then(|| format!("\0{}", id.0));
        let client = nameless.as_deref().unwrap_or(client);
        let anonymous = principal.user.is_none().then(|| format!("anon:{client}"));
        let user = anonymous.as_deref().or(principal.user.as_deref()).unwrap_or_default();
        let in_group = |name: &str| principal.groups.iter().any(|group| **group == *name);
        let own = UserLimit::of(&grants.users, user, in_group).map(|limit| limit.bounds).unwrap_or_default();
        let of_listener = connection.peer.listener.config.limits;
        own.lower(&mut principal.limits);
        of_listener.lower(&mut principal.limits);
        let largest = principal.limits.packet_bytes_max.map_or(u32::MAX, |max| max.get());
        let packet_bytes_max = grants.packet_bytes_max.min(largest);
        connection.decoder.limit_packets(packet_bytes_max);

        let bounds = own.user(&grants.user, grants.packet_bytes_max);
        let shared = match self.abuse.authenticated(now.monotonic_ms, seat, client, user, bounds) {
            Ok(shared) => shared,
            Err(Admission::Refuse { reason, what }) => return Err((reason, what)),
            Err(_) => None,
        };
        let rates = of_listener.client_rates(&grants.client);
        let client_rates = Rates::new(now.monotonic_ms, rates, packet_bytes_max.into());
        let refusals_burst = grants.client.refusals_burst.into();
        connection.throttle =
            Throttle::new(now.monotonic_ms, client_rates, shared, refusals_burst).map(Box::new);
        Ok(())
    }

    fn refuse_connect(&mut self, id: ConnId, reason: ReasonCode, what: &str) {
        match reason {
            ReasonCode::Banned => self.counts.refused_banned += 1,
            ReasonCode::ConnectionRateExceeded => self.counts.refused_rate += 1,
            _ => self.counts.refused_quota += 1,
        }
        self.refuse(id, reason, what);
    }

    /// Closes the connection that waits longest without a CONNECT while there are too many of them.
    pub(super) fn bound_unconnected(&mut self) {
        let max = self.limits.unconnected_max;
        while max > 0 && self.abuse.unconnected() > max {
            let Some((_, id)) = self.connect_deadlines.pop_front() else { return };
            let is_waiting = |c: &&mut super::Connection| {
                c.phase == Phase::New && c.seat.as_ref().is_some_and(|seat| seat.is_unconnected())
            };
            if self.connection(id).as_ref().is_some_and(is_waiting) {
                self.counts.unconnected_closed += 1;
                tracing::debug!(conn = id.0, "closed: too many connections without CONNECT");
                self.remove(id);
            }
        }
    }
}
