//! One shard, one log on a simulated disk, a few clients and the wires between them, on virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine::{Config, ConnId, Input, Now, Output, Recovery, Shard, Ticket};
use protocol::{Packet, QoS};
use storage::sim::SimDisk;
use storage::{Log, LogConfig};

use super::checks;
use super::client::{Client, Made, WINDOW_IN};

/// What kind of run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) steps: u32,
    /// Messages that one run makes at most.
    pub(super) messages: u64,
    /// The planted bug.
    pub(super) ack_before_commit: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { steps: 4_000, messages: 300, ack_before_commit: false }
    }
}

/// What a run met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) crashes: u64,
    pub(super) checkpoints: u64,
    pub(super) connections: u64,
    pub(super) acknowledged: u64,
    pub(super) receipts: u64,
    /// Messages that came to the shared group, and sessions of it that ended.
    pub(super) shared: u64,
    pub(super) ended: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.checkpoints += other.checkpoints;
        self.connections += other.connections;
        self.acknowledged += other.acknowledged;
        self.receipts += other.receipts;
        self.shared += other.shared;
        self.ended += other.ended;
    }
}

/// A connection: packets on their way, in both directions, in order.
#[derive(Debug)]
struct Link {
    client: usize,
    to_broker: VecDeque<Packet>,
    to_client: VecDeque<Packet>,
    /// The broker closed it: it ends when all is delivered.
    closed: bool,
}

pub(super) struct World {
    rng: fastrand::Rng,
    plan: Plan,
    now: Now,
    disk: Arc<SimDisk>,
    log: Log<Arc<SimDisk>>,
    shard: Shard,
    appended: Ticket,
    committed: Ticket,
    clients: Vec<Client>,
    links: BTreeMap<ConnId, Link>,
    next_conn: u64,
    next_number: u64,
    counts: Counts,
}

const TOPICS: [&str; 5] = ["t/a", "t/b", "im/room", "im/other", "dev/1/cmd"];

fn clients() -> Vec<Client> {
    let receipts = ("$im/receipts", QoS::AtLeastOnce);
    vec![
        Client::new("p0".into(), vec![]),
        Client::new("p1".into(), vec![receipts]),
        Client::new("both".into(), vec![receipts, ("im/#", QoS::AtLeastOnce)]),
        Client::new("s0".into(), vec![("t/#", QoS::ExactlyOnce), ("im/room", QoS::ExactlyOnce)]),
        Client::new("s1".into(), vec![("+/+", QoS::AtLeastOnce), ("t/a", QoS::ExactlyOnce)]),
        Client::new("s2".into(), vec![("dev/+/cmd", QoS::ExactlyOnce), ("im/#", QoS::ExactlyOnce)]),
        Client::new("w0".into(), vec![(checks::GROUP, QoS::AtLeastOnce)]),
        Client::passing("x0".into(), vec![(checks::GROUP, QoS::AtLeastOnce)]),
        Client::new("w1".into(), vec![(checks::GROUP, QoS::ExactlyOnce)]),
        Client::new("w2".into(), vec![(checks::GROUP, QoS::ExactlyOnce)]),
    ]
}

fn config(plan: Plan) -> Config {
    Config {
        planted: plan.ack_before_commit.then_some(engine::Planted::AckBeforeCommit),
        session_expiry_max_s: u32::MAX,
        ..Config::default()
    }
}

fn log_config() -> LogConfig {
    // Small segments, so that a run crosses many.
    LogConfig { segment_bytes: 16 * 1024, ..LogConfig::default() }
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let disk = Arc::new(SimDisk::new(seed));
        let log = Log::open_on(disk.clone(), log_config()).expect("an empty disk opens");
        let now = Now { monotonic_ms: 1, unix_ms: 1_800_000_000_000 };
        let shard =
            Shard::recover(config(plan), seed, now, Recovery::of_log([])).expect("an empty log is right");
        Self {
            rng: fastrand::Rng::with_seed(seed),
            plan,
            now,
            disk,
            log,
            shard,
            appended: Ticket(0),
            committed: Ticket(0),
            clients: clients(),
            links: BTreeMap::new(),
            next_conn: 1,
            next_number: 1,
            counts: Counts::default(),
        }
    }

    pub(super) fn run(&mut self) -> Result<Counts, String> {
        for _ in 0..self.plan.steps {
            self.step()?;
        }
        self.settle()?;
        self.counts.acknowledged = checks::nothing_acknowledged_is_lost(&self.clients)?;
        checks::qos_2_arrives_once(&self.clients)?;
        checks::order_holds(&self.clients)?;
        checks::seqs_have_no_gaps(&self.clients)?;
        self.counts.receipts = checks::receipts_are_complete(&self.clients)?;
        self.counts.shared = checks::the_group_gets_everything(&self.clients, WINDOW_IN)?;
        self.counts.ended = self.clients.iter().map(|c| c.ended).sum();
        Ok(self.counts)
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.u32(0..1000) {
            0..4 => self.crash()?,
            4..14 => self.cut_a_link()?,
            14..20 => self.checkpoint()?,
            20..120 => self.commit()?,
            120..220 => self.make(),
            220..260 => self.pass_time()?,
            260..320 => self.connect_one()?,
            320..324 => self.end_a_session()?,
            324..520 => self.client_speaks()?,
            _ => self.carry()?,
        }
        Ok(())
    }

    fn make(&mut self) {
        if self.next_number > self.plan.messages {
            return;
        }
        let publisher = self.rng.usize(0..3);
        // Receipts are owed only from the subscription on.
        if !self.clients[publisher].subscribed {
            return;
        }
        let topic = TOPICS[self.rng.usize(0..TOPICS.len())];
        let lowest = u8::from(!topic.starts_with("t/"));
        let qos = QoS::from_u8(self.rng.u8(lowest..3)).expect("0, 1 or 2");
        let owed_to = if qos == QoS::AtMostOnce { Vec::new() } else { checks::owed_to(&self.clients, topic) };
        let owed_to_group = qos > QoS::AtMostOnce && checks::is_owed_to_group(&self.clients);
        let made = Made { topic, qos, acknowledged: false, seq: None, owed_to, owed_to_group };
        self.clients[publisher].make(self.next_number, made);
        self.next_number += 1;
    }

    fn connect_one(&mut self) -> Result<(), String> {
        let client = self.rng.usize(0..self.clients.len());
        if self.links.values().any(|l| l.client == client && !l.closed) && self.rng.u8(..) > 20 {
            return Ok(());
        }
        self.connect(client)
    }

    /// A member of the group comes with Clean Start: what it has not acknowledged is for the others.
    fn end_a_session(&mut self) -> Result<(), String> {
        let client = self.rng.usize(self.clients.len() - 2..self.clients.len());
        self.clients[client].begin_anew();
        self.connect(client)
    }

    /// A client makes a new connection; an old one, if there is one, loses what is on its way.
    fn connect(&mut self, client: usize) -> Result<(), String> {
        let old: Vec<_> = self.links.iter().filter(|(_, l)| l.client == client).map(|(c, _)| *c).collect();
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.counts.connections += 1;
        let connect = self.clients[client].connect();
        let link = Link { client, to_broker: VecDeque::new(), to_client: VecDeque::new(), closed: false };
        self.links.insert(conn, link);
        // Sometimes the broker hears of the old connection's end first, sometimes it must take over.
        if self.rng.bool() {
            for old in &old {
                self.handle(Input::Closed { conn: *old })?;
            }
        }
        for old in old {
            self.links.remove(&old);
        }
        self.handle(Input::Connect { conn, connect, principal: Box::default(), authentication: None })
    }

    fn cut_a_link(&mut self) -> Result<(), String> {
        let Some(conn) = self.any_link() else { return Ok(()) };
        self.cut(conn)
    }

    fn cut(&mut self, conn: ConnId) -> Result<(), String> {
        if let Some(link) = self.links.remove(&conn) {
            self.clients[link.client].connected = false;
            self.handle(Input::Closed { conn })?;
        }
        Ok(())
    }

    fn any_link(&mut self) -> Option<ConnId> {
        if self.links.is_empty() {
            return None;
        }
        let at = self.rng.usize(0..self.links.len());
        self.links.keys().nth(at).copied()
    }

    fn client_speaks(&mut self) -> Result<(), String> {
        let Some(conn) = self.any_link() else { return Ok(()) };
        let link = self.links.get_mut(&conn).ok_or("a link was there")?;
        if !link.closed
            && let Some(packet) = self.clients[link.client].next_packet()
        {
            link.to_broker.push_back(packet);
        }
        Ok(())
    }

    /// Carries one packet of one link, in one direction.
    fn carry(&mut self) -> Result<(), String> {
        let Some(conn) = self.any_link() else { return Ok(()) };
        let up = self.rng.bool();
        self.carry_on(conn, up)
    }

    fn carry_on(&mut self, conn: ConnId, up: bool) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&conn) else { return Ok(()) };
        if up {
            return match link.to_broker.pop_front() {
                Some(packet) => self.handle(Input::Packet { conn, packet }),
                None => Ok(()),
            };
        }
        match link.to_client.pop_front() {
            Some(packet) => self.clients[link.client].take(packet),
            None if link.closed => {
                self.clients[link.client].connected = false;
                self.links.remove(&conn);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn pass_time(&mut self) -> Result<(), String> {
        let ms = self.rng.u64(0..500);
        self.now.monotonic_ms += ms;
        self.now.unix_ms += ms;
        if self.shard.next_deadline_ms().is_some_and(|due| due <= self.now.monotonic_ms) {
            self.handle(Input::Timer)?;
        }
        Ok(())
    }

    fn handle(&mut self, input: Input) -> Result<(), String> {
        self.shard.handle(self.now, input);
        self.pump()
    }

    fn pump(&mut self) -> Result<(), String> {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { ticket, record } => {
                    if ticket.0 != self.appended.0 + 1 {
                        return Err(format!("record {} after {}", ticket.0, self.appended.0));
                    }
                    self.log.append(&record).map_err(|e| format!("append: {e}"))?;
                    self.appended = ticket;
                    // The disk may be ahead of what the shard was told, in the middle of one input's records.
                    if self.rng.u8(..) < 16 {
                        self.log.commit().map_err(|e| format!("commit: {e}"))?;
                    }
                }
                Output::Send { conn, packet } => {
                    if let Some(link) = self.links.get_mut(&conn).filter(|l| !l.closed) {
                        link.to_client.push_back(packet);
                    }
                }
                Output::Fetch { .. } => return Err("bodies stay in memory without a bound for them".into()),
                Output::Answered { .. } => {}
                Output::Close { conn, .. } => {
                    if let Some(link) = self.links.get_mut(&conn) {
                        link.closed = true;
                    }
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), String> {
        if self.committed == self.appended {
            return Ok(());
        }
        self.log.commit().map_err(|e| format!("commit: {e}"))?;
        self.committed = self.appended;
        self.handle(Input::Committed { ticket: self.committed })
    }

    fn checkpoint(&mut self) -> Result<(), String> {
        self.commit()?;
        let records = self.shard.checkpoint();
        self.log.checkpoint(records.into_iter()).map_err(|e| format!("checkpoint: {e}"))?;
        self.counts.checkpoints += 1;
        Ok(())
    }

    /// The power goes: every connection is gone, the disk keeps what was synced and some of the rest.
    fn crash(&mut self) -> Result<(), String> {
        self.counts.crashes += 1;
        self.links.clear();
        for client in &mut self.clients {
            client.connected = false;
        }
        self.disk = Arc::new(self.disk.crash(&mut self.rng));
        self.log =
            Log::open_on(self.disk.clone(), log_config()).map_err(|e| format!("open after a crash: {e}"))?;
        let records = self.log.replay().map_err(|e| e.to_string())?;
        let records: Result<Vec<_>, _> =
            records.map(|r| r.map(|(lsn, record)| (Ticket(lsn.0), record))).collect();
        let records = records.map_err(|e| format!("replay: {e}"))?;
        let next = Ticket(self.log.next_lsn().0);
        let (rows, applied) = (std::iter::empty(), Ticket(0));
        let from = Recovery { rows, applied, records: records.into_iter(), next };
        self.now.monotonic_ms = 1;
        let seed = self.rng.u64(..);
        let shard = Shard::recover(config(self.plan), seed, self.now, from);
        self.shard = shard.map_err(|e| format!("recover: {e}"))?;
        (self.appended, self.committed) = (Ticket(next.0 - 1), Ticket(next.0 - 1));
        self.pump()?;
        self.check_checkpoint()
    }

    /// A checkpoint must say the same as the log it stands for.
    fn check_checkpoint(&self) -> Result<(), String> {
        let records = self.shard.checkpoint();
        let rebuilt =
            Shard::recover(config(self.plan), 1, self.now, Recovery::of_log(records.iter().cloned()));
        let rebuilt = rebuilt.map_err(|e| format!("recover from a checkpoint: {e}"))?;
        if rebuilt.checkpoint() != records {
            return Err("a checkpoint rebuilds another state than its log".into());
        }
        Ok(())
    }

    /// No more trouble: everyone connects, all that is due arrives.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..200_000 {
            let away = (0..self.clients.len()).find(|i| !self.links.values().any(|l| l.client == *i));
            if let Some(client) = away {
                self.connect(client)?;
            }
            self.commit()?;
            if self.shard.next_deadline_ms().is_some_and(|due| due <= self.now.monotonic_ms) {
                self.handle(Input::Timer)?;
            }
            let conns: Vec<_> = self.links.keys().copied().collect();
            for conn in conns {
                if let Some(link) = self.links.get_mut(&conn)
                    && !link.closed
                    && let Some(packet) = self.clients[link.client].next_packet()
                {
                    link.to_broker.push_back(packet);
                }
                self.carry_on(conn, true)?;
                self.carry_on(conn, false)?;
            }
            let idle = self.links.values().all(|l| l.to_broker.is_empty() && l.to_client.is_empty());
            if idle && self.committed == self.appended && self.clients.iter().all(Client::is_quiet) {
                return Ok(());
            }
        }
        Err("the world does not come to rest".into())
    }
}
