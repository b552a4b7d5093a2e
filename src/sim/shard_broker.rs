//! The broker of a fleet on virtual time: the real engine, one shard, its log on a simulated disk.

use std::sync::Arc;

use engine::{Config, ConnId, Input, Now, Output, Principal, Recovery, Shard, Ticket};
use firmware_sim::world::{Broker, FromBroker, Moment, ToBroker};
use protocol::Packet;
use storage::sim::SimDisk;
use storage::{Log, LogConfig, Lsn};

/// Small enough that a run crosses many.
const SEGMENT_BYTES: u64 = 1024 * 1024;

/// A node of one shard.
pub(crate) struct ShardBroker {
    config: Config,
    shard: Shard,
    /// `None` where the log is not kept: what is written counts as durable and is forgotten.
    store: Option<Store>,
    appended: Ticket,
    committed: Ticket,
    waiting: std::collections::VecDeque<FromBroker>,
    chance: fastrand::Rng,
}

struct Store {
    disk: Arc<SimDisk>,
    log: Log<Arc<SimDisk>>,
}

impl ShardBroker {
    /// Makes a node with an empty disk.
    pub(crate) fn new(mut config: Config, seed: u64, keeps_log: bool) -> Result<Self, String> {
        if !keeps_log {
            // Nothing can be read again from a log that is not kept.
            config.bodies_bytes_max = 0;
        }
        let store = if keeps_log {
            let disk = Arc::new(SimDisk::new(seed));
            let log = open(&disk)?;
            Some(Store { disk, log })
        } else {
            None
        };
        let now = Now { monotonic_ms: 0, unix_ms: 0 };
        let shard = Shard::recover(config.clone(), seed, now, Recovery::of_log([]))
            .map_err(|error| format!("an empty log is no log: {error}"))?;
        Ok(Self {
            config,
            shard,
            store,
            appended: Ticket(0),
            committed: Ticket(0),
            waiting: std::collections::VecDeque::new(),
            chance: fastrand::Rng::with_seed(seed),
        })
    }

    fn give(&mut self, now: Moment, input: Input) -> Result<(), String> {
        let now = Now { monotonic_ms: now.run_ms + 1, unix_ms: now.unix_ms };
        self.shard.handle(now, input);
        let mut fetches = Vec::new();
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Append { ticket, record } => {
                    if let Some(store) = &mut self.store {
                        store.log.append(&record).map_err(|error| format!("the log: {error}"))?;
                    }
                    self.appended = ticket;
                }
                Output::Send { conn, packet } => {
                    self.waiting.push_back(FromBroker::Send { conn: conn.0, packet })
                }
                Output::Close { conn, .. } => self.waiting.push_back(FromBroker::Close { conn: conn.0 }),
                Output::Answered { .. } => {}
                Output::Fetch { fetch, places } => fetches.push((fetch, places)),
            }
        }
        for (fetch, places) in fetches {
            let store = self.store.as_ref().ok_or("the engine asked for a log that is not kept")?;
            let reader = store.log.reader();
            let records: Result<Vec<_>, _> = places.iter().map(|place| reader.read(Lsn(place.0))).collect();
            let records = records.map_err(|error| format!("the log: {error}"))?;
            self.give(
                Moment { run_ms: now.monotonic_ms - 1, unix_ms: now.unix_ms },
                Input::Fetched { fetch, records },
            )?;
        }
        Ok(())
    }
}

fn open(disk: &Arc<SimDisk>) -> Result<Log<Arc<SimDisk>>, String> {
    let config = LogConfig { segment_bytes: SEGMENT_BYTES, ..LogConfig::default() };
    Log::open_on(disk.clone(), config).map_err(|error| format!("the log: {error}"))
}

impl Broker for ShardBroker {
    fn handle(&mut self, now: Moment, input: ToBroker) -> Result<(), String> {
        let input = match input {
            ToBroker::Packet { conn, packet: Packet::Connect(connect) } => {
                let (conn, principal) = (ConnId(conn), Box::new(Principal::default()));
                Input::Connect { conn, connect, principal, authentication: None }
            }
            ToBroker::Packet { conn, packet } => Input::Packet { conn: ConnId(conn), packet },
            ToBroker::Closed { conn } => Input::Closed { conn: ConnId(conn) },
            ToBroker::Timer => Input::Timer,
            ToBroker::Commit => {
                if let Some(store) = &mut self.store {
                    store.log.commit().map_err(|error| format!("the log: {error}"))?;
                }
                self.committed = self.appended;
                Input::Committed { ticket: self.committed }
            }
        };
        self.give(now, input)
    }

    fn poll(&mut self) -> Option<FromBroker> {
        self.waiting.pop_front()
    }

    fn next_deadline_ms(&self) -> Option<u64> {
        self.shard.next_deadline_ms().map(|due_ms| due_ms.saturating_sub(1))
    }

    fn waits_for_commit(&self) -> bool {
        self.committed != self.appended
    }

    fn power_cut(&mut self, now: Moment) -> Result<(), String> {
        let store = self.store.as_mut().ok_or("a broker without a log survives no power cut")?;
        self.waiting.clear();
        store.disk = Arc::new(store.disk.crash(&mut self.chance));
        store.log = open(&store.disk)?;
        let records = store.log.replay_from(Lsn(1)).map_err(|error| format!("the log: {error}"))?;
        let records: Result<Vec<_>, _> = records.map(|record| record.map(|(_, bytes)| bytes)).collect();
        let records = records.map_err(|error| format!("the log: {error}"))?;
        let next = Ticket(store.log.next_lsn().0);
        let seed = self.chance.u64(..);
        let at = Now { monotonic_ms: now.run_ms + 1, unix_ms: now.unix_ms };
        self.shard = Shard::recover(self.config.clone(), seed, at, Recovery::of_log(records))
            .map_err(|error| format!("the broker cannot be started again: {error}"))?;
        (self.appended, self.committed) = (Ticket(next.0 - 1), Ticket(next.0 - 1));
        // Recovery itself may have something to write.
        self.give(now, Input::Timer)
    }

    fn memory_bytes(&self) -> u64 {
        self.shard.stats().memory_bytes
    }
}
