//! Who a connection is: from its CONNECT to the verdict, and again while it is open.
//!
//! ```text
//! New --CONNECT--> Authenticating --verdict--> Open | refused
//!  \--CONNECT with a method--> Challenged --AUTH, as often as it takes--> Open | refused
//! Open --AUTH 0x19--> Open, asked again --AUTH--> Open with what it may now | DISCONNECT
//! ```
//! In `Authenticating` nothing is decoded: what the client sends behind its CONNECT waits in `cut`, up to a
//! bound, and is decoded when it is open. A client that leaves takes the work for its verdict with it. AUTH packets
//! of a connection with a method never reach the engine, which knows only the result.
//!
//! What let a client in is kept for as long as it is connected and looked at again when a file changes.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use engine::{Acl, Authentication, ConnId, Input, Now};
use protocol::{Auth as AuthPacket, ByteString, Connect, Packet, ReasonCode};
use tokio::sync::oneshot;

use super::{Core, connection::Phase};
use crate::{
    auth::{Auth, Claim, Denial, Enhanced, Grant, Pending, Recheck, Secret, Step, Verdict, policy::Door},
    peer::Peer,
};

/// Bytes behind a CONNECT that are read before its verdict.
pub(super) const WAITING_BYTES_MAX: usize = 64 * 1024;

/// What the shard knows of who is connected.
pub(super) struct Logins {
    auth: Auth,
    /// The rules that the engine has.
    acl: Arc<Acl>,
    /// When tokens end.
    expiries: BTreeSet<(u64, ConnId)>,
}

/// A CONNECT that was taken and is not judged.
#[derive(Debug)]
pub(super) struct Waiting {
    connect: Box<Connect>,
    how: How,
}

#[derive(Debug)]
enum How {
    /// For the verdict, which wakes the shard.
    Verdict(oneshot::Receiver<Verdict>, Waker),
    /// For the client's next AUTH.
    Enhanced(Enhanced),
}

/// Who an open connection is.
#[derive(Debug)]
pub(super) struct Login {
    grant: Grant,
    /// The method that CONNECT named; it may authenticate again by no other.
    method: Option<ByteString>,
    /// Authentication again that goes on.
    again: Option<Enhanced>,
    expires_ms: Option<u64>,
}

impl Logins {
    pub(super) fn new(auth: Auth) -> Self {
        Self { auth, acl: Arc::default(), expiries: BTreeSet::new() }
    }

    /// Returns when the next token ends.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.expiries.first().map(|(ms, _)| *ms)
    }

    /// Forgets a connection that is gone.
    pub(super) fn forget(&mut self, id: ConnId, login: &Login) {
        if let Some(ms) = login.expires_ms {
            self.expiries.remove(&(ms, id));
        }
    }

    /// Notes when a connection's token ends.
    fn expire(&mut self, now: Now, id: ConnId, login: &mut Login) {
        self.forget(id, login);
        let expires = login.grant.expires_unix_ms;
        login.expires_ms = expires.map(|unix_ms| now.monotonic_ms + unix_ms.saturating_sub(now.unix_ms));
        self.expiries.extend(login.expires_ms.map(|ms| (ms, id)));
    }
}

fn claim(peer: &Peer, connect: &mut Connect, auth: &Auth) -> Claim {
    let listener = &peer.listener;
    // The packet loses its password here: nothing later needs it.
    let password = connect.password.take().map(|password| Secret::from(&password[..]));
    Claim {
        client_id: connect.client_id.clone(),
        // MQTT 3.1.1 has no password without a user name, so an empty one is none.
        username: connect.username.clone().filter(|name| !name.is_empty()),
        password: password.filter(|password| !password.expose().is_empty()),
        certificate: peer.certificate.as_ref().map(|certificate| certificate.identity.as_str().into()),
        certificate_is_user: listener.config.certificate_is_user,
        version: connect.version,
        address: peer.address.to_string(),
        listener: listener.name.clone(),
        anonymous_allowed: auth.anonymous_allowed(&Door::of(listener)),
    }
}

impl Core {
    /// Begins to find out who sent a CONNECT.
    pub(super) fn authenticate(&mut self, now: Now, id: ConnId, mut connect: Box<Connect>) {
        let auth = self.logins.auth.clone();
        let Some(connection) = self.connection(id) else { return };
        tracing::debug!(conn = id.0, peer = %connection.peer, client = %connect.client_id, "connect");
        let claim = claim(&connection.peer, &mut connect, &auth);
        let Some(method) = connect.properties.authentication_method.clone() else {
            return match auth.begin(claim) {
                Pending::Now(verdict) => self.decided(now, id, connect, None, verdict),
                Pending::Later(verdict) => {
                    let waker = self.inbox.verdict_waker(id);
                    let Some(connection) = self.connection(id) else { return };
                    connection.phase = Phase::Authenticating;
                    connection.waiting =
                        Some(Box::new(Waiting { connect, how: How::Verdict(verdict, waker) }));
                    // It looks for the verdict first of all then.
                    self.ready_later(id);
                }
            };
        };
        // [MQTT-4.12.0-1] a method that is not served is refused with 0x8C.
        let Some(enhanced) = auth.begin_enhanced(&method) else {
            let what = format!("authentication method {method:?} is not served");
            return self.refuse(id, ReasonCode::BadAuthenticationMethod, &what);
        };
        let data = connect.properties.authentication_data.take();
        connection.phase = Phase::Challenged;
        connection.waiting = Some(Box::new(Waiting { connect, how: How::Enhanced(enhanced) }));
        self.challenge(now, id, data.as_deref());
    }

    /// Looks whether a verdict came, and does what it says.
    pub(super) fn look_for_verdict(&mut self, id: ConnId) {
        let Some(connection) = self.connection(id).filter(|c| c.phase == Phase::Authenticating) else {
            return;
        };
        let Some(How::Verdict(verdict, waker)) = connection.waiting.as_mut().map(|waiting| &mut waiting.how)
        else {
            return;
        };
        let Poll::Ready(verdict) = Pin::new(verdict).poll(&mut Context::from_waker(waker)) else { return };
        let Some(waiting) = connection.waiting.take() else { return };
        let verdict = verdict.unwrap_or_else(|_| {
            let what = "the broker could not find out who comes in";
            Verdict::Deny(Denial::unavailable(ReasonCode::ServerUnavailable, what))
        });
        let now = self.clock.now();
        self.decided(now, id, waiting.connect, None, verdict);
        self.decode_waiting(now, id);
    }

    /// Gives the client's data to the method and sends what it says.
    fn challenge(&mut self, now: Now, id: ConnId, data: Option<&[u8]>) {
        let auth = self.logins.auth.clone();
        let Some(connection) = self.connection(id) else { return };
        let Some(mut waiting) = connection.waiting.take() else { return };
        let How::Enhanced(enhanced) = &mut waiting.how else { return };
        let method = enhanced.method().clone();
        match auth.continue_enhanced(enhanced, data) {
            Ok(Step::Challenge(data)) => {
                // [MQTT-4.12.0-2] the broker asks on with 0x18.
                let packet = auth_packet(ReasonCode::ContinueAuthentication, method, data);
                let limit = waiting.connect.properties.packet_bytes_max;
                let version = waiting.connect.version;
                connection.waiting = Some(waiting);
                if limit.is_some_and(|limit| protocol::encoded_len(&packet, version) > limit.get() as usize) {
                    // [MQTT-3.1.2-24]
                    let what = "AUTH is larger than the client's Maximum Packet Size";
                    return self.refuse(id, ReasonCode::PacketTooLarge, what);
                }
                self.send(id, &packet);
            }
            Ok(Step::Done(grant, data)) => {
                let authentication = Authentication { method, data: Some(data.into()) };
                self.decided(now, id, waiting.connect, Some(authentication), Verdict::Allow(grant));
            }
            Err(denial) => {
                // For the log and the limits: who it would be, if the client came so far.
                waiting.connect.username = enhanced.user().map(ByteString::from);
                self.decided(now, id, waiting.connect, None, Verdict::Deny(denial));
            }
        }
    }

    /// Takes a packet of a client that was asked for more before its CONNACK.
    pub(super) fn challenged(&mut self, now: Now, id: ConnId, packet: Packet) {
        let method =
            self.connection(id).and_then(|connection| connection.waiting.as_ref()).and_then(|waiting| {
                match &waiting.how {
                    How::Enhanced(enhanced) => Some(enhanced.method().clone()),
                    How::Verdict(..) => None,
                }
            });
        match packet {
            // [MQTT-4.12.0-3] the client goes on with 0x18, [MQTT-4.12.0-5] by the method of its CONNECT.
            Packet::Auth(auth) if auth.authentication_method != method => {
                let what = "AUTH names another authentication method than CONNECT";
                self.refuse(id, ReasonCode::BadAuthenticationMethod, what);
            }
            Packet::Auth(auth) if auth.reason == ReasonCode::ContinueAuthentication => {
                self.challenge(now, id, auth.authentication_data.as_deref());
            }
            Packet::Disconnect(_) => self.begin_close(id, false, &"client disconnected before it was in"),
            // [MQTT-3.1.2-30] nothing but AUTH and DISCONNECT before CONNACK.
            _ => {
                let what = "only AUTH 0x18 or DISCONNECT may follow a CONNECT with an authentication method";
                self.refuse(id, ReasonCode::ProtocolError, what);
            }
        }
    }

    /// Does what the verdict says.
    fn decided(
        &mut self,
        now: Now,
        id: ConnId,
        connect: Box<Connect>,
        authentication: Option<Authentication>,
        verdict: Verdict,
    ) {
        let is_stopping = self.stop.is_some();
        let verdict = match verdict {
            Verdict::Allow(grant) => self.logins.renewed(grant),
            denied @ Verdict::Deny(_) => denied,
        };
        let Some(connection) = self.connection(id) else { return };
        let grant = match verdict {
            Verdict::Deny(Denial { reason, what, why }) => {
                let (peer, client, user) =
                    (&connection.peer, &connect.client_id, connect.username.as_deref());
                let reason_code = reason as u8;
                tracing::info!(conn = id.0, %peer, %client, user, reason_code, why, "client not let in");
                let user = user.map(ByteString::from);
                self.count_guess(now, id, reason, user);
                // [MQTT-4.12.0-4] a failed authentication ends with a CONNACK that says why.
                return self.refuse(id, reason, &what);
            }
            // The end has begun while the verdict was awaited.
            Verdict::Allow(_) if is_stopping => {
                return self.refuse(id, ReasonCode::ServerUnavailable, "the broker is shutting down");
            }
            Verdict::Allow(grant) => *grant,
        };
        let principal = Box::new(grant.principal.clone());
        let method = authentication.as_ref().map(|authentication| authentication.method.clone());
        // Who is anonymous needs no memory.
        if grant.principal.user.is_some() || method.is_some() {
            let mut login = Box::new(Login { grant, method, again: None, expires_ms: None });
            self.logins.expire(now, id, &mut login);
            if let Some(connection) = self.connection(id) {
                connection.login = Some(login);
            }
        }
        self.open(now, id, connect, principal, authentication);
    }

    /// Takes an AUTH of an open connection with a method; without one the engine answers.
    pub(super) fn authenticate_again(&mut self, now: Now, id: ConnId, packet: AuthPacket) {
        let auth = self.logins.auth.clone();
        // The engine does not see the packet, but for Keep Alive it counts.
        self.input(now, Input::Reading { conn: Some(id), paused: false });
        let login = self.connection(id).and_then(|connection| connection.login.as_deref_mut());
        let Some((login, method)) =
            login.and_then(|login| login.method.clone().map(|method| (login, method)))
        else {
            return;
        };
        // [MQTT-4.12.1-1] it must be the method of CONNECT.
        let what = if packet.authentication_method.as_ref() != Some(&method) {
            Some("AUTH names another authentication method than CONNECT")
        } else {
            match (packet.reason, &login.again) {
                (ReasonCode::ReAuthenticate, Some(_)) => Some("AUTH 0x19 while an authentication goes on"),
                (ReasonCode::ContinueAuthentication, None) => Some("AUTH 0x18 without an authentication"),
                _ => None,
            }
        };
        if let Some(what) = what {
            return self.end(now, id, ReasonCode::ProtocolError, what.to_owned());
        }
        if login.again.is_none() {
            login.again = auth.begin_enhanced(&method);
        }
        let step = match &mut login.again {
            Some(again) => auth.continue_enhanced(again, packet.authentication_data.as_deref()),
            None => Err(Denial::not_authorized("the authentication method is not served any more")),
        };
        match step {
            Ok(Step::Challenge(data)) => {
                self.send(id, &auth_packet(ReasonCode::ContinueAuthentication, method, data));
            }
            Ok(Step::Done(grant, data)) if grant.principal.user == login.grant.principal.user => {
                login.again = None;
                login.grant = *grant;
                let mut principal = Box::new(login.grant.principal.clone());
                self.lower_bounds(id, &mut principal);
                self.input(now, Input::Principal { conn: id, principal });
                self.send(id, &auth_packet(ReasonCode::Success, method, Some(data)));
            }
            Ok(Step::Done(..)) => {
                self.end(now, id, ReasonCode::NotAuthorized, "a session stays with its user".to_owned());
            }
            // [MQTT-4.12.1-2] a failed one ends the connection.
            Err(Denial { reason, what, why }) => {
                tracing::info!(conn = id.0, why, "client not let in again");
                let user = login.grant.principal.user.clone();
                self.count_guess(now, id, reason, user);
                self.end(now, id, ReasonCode::NotAuthorized, what);
            }
        }
    }

    /// Tells the limits of a wrong password.
    fn count_guess(&mut self, now: Now, id: ConnId, reason: ReasonCode, user: Option<ByteString>) {
        let connection = self.connections.get(super::slot(id)).filter(|c| c.id == id);
        let seat = connection.and_then(|connection| connection.seat.as_ref());
        if let Some(seat) = seat.filter(|_| reason == ReasonCode::BadUserNameOrPassword) {
            self.abuse.auth_failed(now, seat, user.as_deref());
        }
    }

    fn end(&mut self, now: Now, id: ConnId, reason: ReasonCode, what: String) {
        self.input(now, Input::End { conn: id, reason, what });
    }

    /// Ends connections whose tokens have.
    pub(super) fn end_expired(&mut self, now: Now) {
        while let Some(&(_, id)) = self.logins.expiries.first().filter(|(due, _)| *due <= now.monotonic_ms) {
            self.logins.expiries.pop_first();
            self.end(now, id, ReasonCode::NotAuthorized, "the token has expired".to_owned());
        }
    }

    /// Gives the engine the rules in force, if they are others.
    pub(super) fn renew_acl(&mut self, now: Now) {
        let acl = self.logins.auth.acl();
        if *acl != *self.logins.acl {
            self.logins.acl = Arc::clone(&acl);
            self.input(now, Input::Acl { acl });
        }
    }

    /// Looks again at everyone who is connected, after a file changed.
    pub(super) fn recheck(&mut self, now: Now) {
        self.renew_acl(now);
        let auth = self.logins.auth.clone();
        let mut changes = Vec::new();
        for (_, connection) in &mut self.connections {
            let Some(login) = connection.login.as_mut().filter(|_| connection.phase == Phase::Open) else {
                continue;
            };
            match auth.recheck(&login.grant) {
                Recheck::Keep => {}
                Recheck::Become(principal) => {
                    login.grant.principal = (*principal).clone();
                    changes.push(Input::Principal { conn: connection.id, principal });
                }
                Recheck::End(what) => {
                    let (conn, reason) = (connection.id, ReasonCode::NotAuthorized);
                    tracing::info!(conn = conn.0, peer = %connection.peer, what, "client no longer let in");
                    changes.push(Input::End { conn, reason, what: what.to_owned() });
                }
            }
        }
        for mut change in changes {
            if let Input::Principal { conn, principal } = &mut change {
                self.lower_bounds(*conn, principal);
            }
            self.input(now, change);
        }
    }
}

impl Login {
    /// Says whether CONNECT named a method.
    pub(super) fn has_method(&self) -> bool {
        self.method.is_some()
    }
}

impl Logins {
    /// Judges anew what was judged by files that may have changed since.
    fn renewed(&self, mut grant: Box<Grant>) -> Verdict {
        match self.auth.recheck(&grant) {
            Recheck::Keep => {}
            Recheck::Become(principal) => grant.principal = *principal,
            Recheck::End(why) => return Verdict::Deny(Denial::credentials(why)),
        }
        Verdict::Allow(grant)
    }
}

// [MQTT-3.15.2-2] [MQTT-3.15.2-3] without what could be left out, so that it is never too large because of that.
fn auth_packet(reason: ReasonCode, method: ByteString, data: Option<String>) -> Packet {
    Packet::Auth(Box::new(AuthPacket {
        reason,
        authentication_method: Some(method),
        authentication_data: data.map(Bytes::from),
        reason_string: None,
        user_properties: Vec::new(),
    }))
}
