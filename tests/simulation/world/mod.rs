//! One broker, its clients and the wires between them, on virtual time.

mod actor;
pub(super) mod cast;
mod device;
mod network;
mod node;
mod script;
pub(super) mod settle;

use std::collections::BTreeMap;

use engine::{Answer, AskId, ConnId, Input, Principal, Question, SessionLimits};
use protocol::im::{PROBE_TOPIC, ProbeRequest};
use protocol::{Disconnect, DisconnectProperties, Packet, QoS, ReasonCode};

use super::CONDUCT;
use super::checkers::{self, Finding};
use super::history::{Event, History, Message, Number, Who};
use super::ops::{self, Weighted};
use super::plan::Plan;
pub(super) use actor::{Actor, WINDOW_IN};
use cast::{CAST, Role, WILL_TOPIC};
use network::Network;
use node::Act;
pub(super) use node::Node;

/// When runs begin, milliseconds since the Unix epoch.
const BEGIN_UNIX_MS: u64 = 1_800_000_000_000;

/// Packets each way that are carried at once when there is hurry.
const HURRIED: u32 = 12;

/// What a run met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) crashes: u64,
    /// Runs of segments that were written anew.
    pub(super) rewrites: u64,
    pub(super) connections: u64,
    /// Damaged disks that were told from whole ones.
    pub(super) flips: u64,
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) plan: Plan,
    pub(super) node: Node,
    pub(super) actors: Vec<Actor>,
    network: Network,
    pub(super) history: History,
    pub(super) met: Met,
    /// Questions that are not answered: whose membership, in what, and whether it begins.
    asked: BTreeMap<AskId, (&'static str, &'static str, bool)>,
    next_ask: u64,
    /// The question what was set aside, and the ids that came.
    listing: Option<AskId>,
    pub(super) set_aside: Vec<String>,
    /// By how much the broker held more after some messages went through it at rest.
    pub(super) grown_bytes: u64,
    ops: Vec<Weighted>,
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ops = ops::weighted(&mut rng);
        let history = History { is_traced: plan.is_traced, ..History::default() };
        history.note(format_args!("seed {seed}, planted {}", node::planted_name(plan.planted)));
        Self {
            rng,
            plan,
            node: Node::new(seed, plan, BEGIN_UNIX_MS),
            actors: CAST.iter().enumerate().map(|(who, role)| Actor::new(who, role)).collect(),
            network: Network::default(),
            history,
            met: Met::default(),
            asked: BTreeMap::new(),
            next_ask: 0,
            listing: None,
            set_aside: Vec::new(),
            grown_bytes: 0,
            ops,
        }
    }

    /// Lets everything happen, then lets it come to rest.
    pub(super) fn run(&mut self) -> Result<(), Finding> {
        let conduct = |what| Finding { checker: CONDUCT, what };
        for _ in 0..self.plan.steps {
            let op = ops::pick(&self.ops, &mut self.rng);
            (op.run)(self).map_err(|what| conduct(format!("{}: {what}", op.name)))?;
            if self.node.is_dead {
                self.crash().map_err(conduct)?;
            }
            checkers::watch(self)?;
        }
        self.history.push(Event::Settling);
        self.settle().map_err(conduct)?;
        if self.plan.measures_memory {
            self.grown_bytes = self.go_through().map_err(conduct)?;
        }
        self.list_set_aside().map_err(conduct)?;
        self.history.push(Event::Rested);
        Ok(())
    }

    /// The clients' clock, and everybody's since the epoch.
    pub(super) fn unix_ms(&self) -> u64 {
        self.node.now.unix_ms
    }

    /// The clients' own clock.
    pub(super) fn now_ms(&self) -> u64 {
        self.unix_ms() - BEGIN_UNIX_MS
    }

    pub(super) fn role(&self, who: Who) -> &'static Role {
        &CAST[who]
    }

    /// One of the clients that the role says something of.
    pub(super) fn any_client(&mut self, is_it: impl Fn(&Role) -> bool) -> Who {
        let fitting: Vec<_> = (0..CAST.len()).filter(|who| is_it(&CAST[*who])).collect();
        fitting[self.rng.usize(0..fitting.len())]
    }

    /// A program makes a message; its number and time are set here.
    pub(super) fn make(&mut self, message: Message) -> Result<(), String> {
        if self.history.messages.len() as u64 >= self.plan.messages {
            return Ok(());
        }
        let who = message.by;
        // Receipts are owed only from the subscription on.
        if !self.actors[who].is_subscribed() {
            return Ok(());
        }
        let number = self.history.next_number();
        let id_number = if message.id_number == 0 { number } else { message.id_number };
        let made_unix_ms = self.unix_ms();
        let message = match self.role(who).is_old() {
            // It has no properties, and no id: at QoS 1 it would come twice.
            true => Message {
                qos: if message.qos == QoS::AtMostOnce { message.qos } else { QoS::ExactlyOnce },
                expiry_s: None,
                collapse: None,
                is_high: false,
                ..message
            },
            false => message,
        };
        self.history.push(Event::Made(Message { number, id_number, made_unix_ms, ..message }));
        let now_ms = self.now_ms();
        self.actors[who].publish(now_ms, number, &mut self.history)
    }

    pub(super) fn is_linked(&self, who: Who) -> bool {
        self.network.of(who).is_some()
    }

    /// A client makes a new connection; an old one, if there is one, loses what is on its way.
    pub(super) fn connect(&mut self, who: Who) -> Result<(), String> {
        if let Some(old) = self.network.of(who) {
            self.network.remove(old);
            self.lose(who)?;
            match self.rng.u8(0..3) {
                // The broker hears of the old connection's end first,
                0 => self.handle(Input::Closed { conn: old })?,
                // later,
                1 => self.network.ghosts.push(old),
                // or never.
                _ => {}
            }
        }
        let conn = self.network.open(who, self.role(who).keep_alive_s, self.unix_ms());
        self.met.connections += 1;
        let role = self.role(who);
        let will = role.has_will.then(|| self.make_will(who));
        let now_ms = self.now_ms();
        let connect = self.actors[who].connect(now_ms, will, &mut self.history)?;
        let queue_messages_max = role.has_short_queue().then_some(self.plan.queue_messages_max);
        let limits = SessionLimits { queue_messages_max, ..SessionLimits::default() };
        let principal = Principal { user: role.user.map(Into::into), limits, ..Principal::default() };
        let principal = Box::new(principal);
        self.handle(Input::Connect { conn, connect, principal, authentication: None })
    }

    fn make_will(&mut self, who: Who) -> Number {
        let (number, made_unix_ms) = (self.history.next_number(), self.unix_ms());
        self.history.push(Event::Made(Message {
            number,
            id_number: number,
            is_will: true,
            made_unix_ms,
            ..ops::publish::message(who, WILL_TOPIC, QoS::AtLeastOnce)
        }));
        number
    }

    /// A connection breaks; both ends hear of it.
    pub(super) fn cut_one(&mut self) -> Result<(), String> {
        match self.network.any(&mut self.rng) {
            Some(conn) => self.cut(conn),
            None => Ok(()),
        }
    }

    /// A client finds its connection gone.
    fn lose(&mut self, who: Who) -> Result<(), String> {
        let now_ms = self.now_ms();
        self.actors[who].lost(who, now_ms, &mut self.history)
    }

    fn cut(&mut self, conn: ConnId) -> Result<(), String> {
        if let Some(link) = self.network.remove(conn) {
            self.lose(link.who)?;
            self.handle(Input::Closed { conn })?;
        }
        Ok(())
    }

    /// The broker hears of the end of a connection that its client left long ago.
    pub(super) fn lay_a_ghost(&mut self) -> Result<(), String> {
        if self.network.ghosts.is_empty() {
            return Ok(());
        }
        let at = self.rng.usize(0..self.network.ghosts.len());
        let conn = self.network.ghosts.swap_remove(at);
        self.handle(Input::Closed { conn })
    }

    /// Nothing gets through on one connection for a while.
    pub(super) fn freeze_one(&mut self) {
        let until_ms = self.now_ms() + self.rng.u64(100..5_000);
        if let Some(conn) = self.network.any(&mut self.rng)
            && let Some(link) = self.network.link(conn)
        {
            link.frozen_until_ms = until_ms;
        }
    }

    /// A socket's buffer is full, or has room again.
    pub(super) fn congest_one(&mut self) -> Result<(), String> {
        match self.network.any(&mut self.rng) {
            Some(conn) => self.congest(conn),
            None => Ok(()),
        }
    }

    fn congest(&mut self, conn: ConnId) -> Result<(), String> {
        let Some(link) = self.network.link(conn).filter(|l| !l.is_closed) else {
            return Ok(());
        };
        link.is_congested = !link.is_congested;
        match link.is_congested {
            true => self.handle(Input::Congested { conn }),
            false => self.handle(Input::Drained { conn }),
        }
    }

    /// A client says goodbye.
    pub(super) fn leave_one(&mut self) -> Result<(), String> {
        let Some(conn) = self.network.any(&mut self.rng) else {
            return Ok(());
        };
        let Some(link) = self.network.link(conn).filter(|l| !l.is_closed) else {
            return Ok(());
        };
        let who = link.who;
        if !self.actors[who].is_connected() {
            return Ok(());
        }
        self.history.push(Event::Leaving { who });
        // What it has sent arrives before.
        while let Some(packet) = self.network.link(conn).and_then(|l| l.to_broker.pop_front()) {
            let packet = actor::over_the_wire(packet, &CAST[who], protocol::Role::Broker)?;
            self.handle(Input::Packet { conn, packet })?;
        }
        self.network.remove(conn);
        self.lose(who)?;
        let (reason, properties) = (ReasonCode::Success, DisconnectProperties::default());
        let goodbye = Packet::Disconnect(Disconnect { reason, properties: properties.into() });
        self.handle(Input::Packet { conn, packet: goodbye })?;
        self.handle(Input::Closed { conn })
    }

    /// A client works, and puts one packet on its way.
    pub(super) fn client_speaks(&mut self) -> Result<(), String> {
        match self.network.any(&mut self.rng) {
            Some(conn) => self.speak(conn),
            None => Ok(()),
        }
    }

    fn speak(&mut self, conn: ConnId) -> Result<(), String> {
        let (now_ms, unix_ms) = (self.now_ms(), self.unix_ms());
        let Some(link) = self.network.link(conn) else {
            return Ok(());
        };
        let actor = &mut self.actors[link.who];
        actor.work(now_ms, &mut self.history)?;
        if let Some(packet) = actor.next_packet(unix_ms, &mut self.history)
            && !link.is_closed
        {
            link.to_broker.push_back(packet);
        }
        if actor.hung_up() {
            self.cut(conn)?;
        }
        Ok(())
    }

    /// What a client has to send arrives, and so does what the broker answers at once.
    pub(super) fn hurry(&mut self, who: Who) -> Result<(), String> {
        for _ in 0..HURRIED {
            let Some(conn) = self.network.of(who) else { return Ok(()) };
            self.speak(conn)?;
            self.carry(conn, true)?;
            self.carry(conn, false)?;
        }
        Ok(())
    }

    /// Carries one packet of one link, in one direction.
    pub(super) fn carry_one(&mut self) -> Result<(), String> {
        let Some(conn) = self.network.any(&mut self.rng) else {
            return Ok(());
        };
        let up = self.rng.bool();
        self.carry(conn, up)
    }

    fn carry(&mut self, conn: ConnId, up: bool) -> Result<(), String> {
        let now_ms = self.now_ms();
        let Some(link) = self.network.link(conn).filter(|l| l.frozen_until_ms <= now_ms) else {
            return Ok(());
        };
        if up {
            let role = &CAST[link.who];
            return match link.to_broker.pop_front() {
                Some(packet) => {
                    let packet = actor::over_the_wire(packet, role, protocol::Role::Broker)?;
                    self.hear(conn, &packet);
                    self.handle(Input::Packet { conn, packet })
                }
                None => Ok(()),
            };
        }
        let who = link.who;
        match link.to_client.pop_front() {
            Some((packet, sent_ms)) => {
                let packet = actor::over_the_wire(packet, &CAST[who], protocol::Role::Client)?;
                self.actors[who].take(now_ms, packet, sent_ms, &mut self.history)?;
                if self.actors[who].hung_up() {
                    self.cut(conn)?;
                }
            }
            None if link.is_closed => {
                self.network.remove(conn);
                self.lose(who)?;
            }
            None => {}
        }
        Ok(())
    }

    fn hear(&mut self, conn: ConnId, packet: &Packet) {
        let at_unix_ms = self.unix_ms();
        self.network.hear(conn, packet, at_unix_ms);
        let Some(who) = self.network.link(conn).map(|l| l.who).filter(|who| CAST[*who].is_watched) else {
            return;
        };
        let probe = match packet {
            Packet::Publish(publish) if &*publish.topic == PROBE_TOPIC => {
                let asked = ProbeRequest::parse(&publish.payload).ok();
                asked.and_then(|asked| asked.id.strip_prefix("m-")?.parse().ok())
            }
            _ => None,
        };
        self.history.push(Event::Heard { who, probe, at_unix_ms });
    }

    /// Connections that the broker should have ended by now, for nothing came on them: who, for how long, and the
    /// heartbeat.
    pub(super) fn silent(&self) -> impl Iterator<Item = (Who, u64, u64)> {
        // Nothing is due that the broker has not been told of, and nothing waits for the disk: the end of a connection
        // does, too.
        let is_done = !self.node.is_due() && self.node.is_committed();
        let open = self.network.links().filter(move |(_, link)| is_done && !link.is_closed);
        let overdue = open.filter(|(_, link)| link.is_overdue(self.unix_ms()));
        overdue.map(|(_, l)| (l.who, self.unix_ms() - l.heard_unix_ms, l.heartbeat_s))
    }

    pub(super) fn pass_time(&mut self, ms: u64) -> Result<(), String> {
        self.node.now.monotonic_ms += ms;
        self.node.now.unix_ms += ms;
        self.node.tick(&mut self.rng)?;
        self.act()
    }

    pub(super) fn commit(&mut self) -> Result<(), String> {
        self.node.commit(&mut self.rng)?;
        self.act()
    }

    /// Records that the shard asked for are read.
    pub(super) fn fetch(&mut self) -> Result<(), String> {
        self.node.fetch(&mut self.rng)?;
        self.act()
    }

    pub(super) fn handle(&mut self, input: Input) -> Result<(), String> {
        self.node.handle(&mut self.rng, input)?;
        self.act()
    }

    /// Puts what the broker sends on its way; what it sends into a connection that is gone is lost.
    pub(super) fn act(&mut self) -> Result<(), String> {
        let sent_ms = self.unix_ms();
        for act in self.node.acts.drain(..) {
            match act {
                Act::Send(conn, packet) => {
                    if let Some(link) = self.network.link(conn).filter(|l| !l.is_closed) {
                        link.to_client.push_back((packet, sent_ms));
                    }
                }
                Act::Close(conn, is_silent) => {
                    if let Some(link) = self.network.link(conn) {
                        link.is_closed = true;
                        if is_silent {
                            let (who, heartbeat_s) = (link.who, link.heartbeat_s);
                            let idle_ms = sent_ms - link.heard_unix_ms;
                            let is_due = link.was_overdue || link.is_overdue(sent_ms);
                            self.history.push(Event::Silent { who, idle_ms, heartbeat_s, is_due });
                        }
                    }
                }
                Act::Answered(ask, Answer::Json(list)) if self.listing == Some(ask) => {
                    self.set_aside = set_aside(&list)?;
                }
                Act::Answered(ask, answer) => {
                    let (user, topic, joins) = self.asked.remove(&ask).ok_or("an answer to no question")?;
                    if answer != Answer::Done {
                        return Err(format!("membership of {user} in {topic}: {answer:?}"));
                    }
                    self.history.push(Event::Answered { user, topic, joins });
                }
            }
        }
        Ok(())
    }

    /// Somebody makes a user a member of a conversation, or ends that.
    pub(super) fn ask_membership(
        &mut self,
        user: &'static str,
        topic: &'static str,
        joins: bool,
    ) -> Result<(), String> {
        self.next_ask += 1;
        let ask = AskId(self.next_ask);
        self.asked.insert(ask, (user, topic, joins));
        self.history.push(Event::Asking { user, topic, joins });
        let (topic, user) = (topic.into(), user.into());
        let question = match joins {
            true => Question::Join { topic, user, by: None },
            false => Question::Leave { topic, user },
        };
        self.handle(Input::Asked { ask, question: Box::new(question) })
    }

    /// Asks what was set aside at the client with the frail program.
    fn list_set_aside(&mut self) -> Result<(), String> {
        self.next_ask += 1;
        let ask = AskId(self.next_ask);
        self.listing = Some(ask);
        let client = self.any_client(|role| role.is_frail);
        let question = Box::new(Question::SetAside { client: CAST[client].id.into() });
        self.handle(Input::Asked { ask, question })?;
        self.commit()
    }

    /// The power goes.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        self.met.crashes += 1;
        self.network.broker_died(&mut self.rng);
        self.asked.clear();
        self.history.push(Event::Died);
        self.node.restart(&mut self.rng)?;
        self.act()
    }
}

/// The ids in a list of what was set aside.
fn set_aside(list: &str) -> Result<Vec<String>, String> {
    let list: serde_json::Value = serde_json::from_str(list).map_err(|e| format!("{list}: {e}"))?;
    let messages = list["messages"].as_array().ok_or_else(|| format!("no messages: {list}"))?;
    messages
        .iter()
        .map(|m| m["id"].as_str().map(str::to_owned).ok_or_else(|| format!("no id: {m}")))
        .collect()
}
