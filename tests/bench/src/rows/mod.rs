//! The rows of the table: what each one does to a server, and what is counted.

mod flows;
mod many;
mod stored;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use protocol::QoS;

use crate::{
    Bounds,
    clients::Clients,
    flow::Shape,
    relay::Pattern,
    report::Figure,
    servers::{Durability, Programs, Server, ServerKind, thread_cpu_ns},
};

/// After the last confirmation a server may still have acknowledgements to take in.
const AFTERGLOW: Duration = Duration::from_millis(30);
const WINDOW: u64 = 20;
/// Messages a QoS 0 publisher may be ahead of its deliveries.
const WINDOW_QOS_0: u64 = 50;
/// Messages a paced publisher may be ahead: it is the pace that holds it back.
const WINDOW_PACED: u64 = 1_000;

/// One row: a load and the figures it yields.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    durability: Durability,
    work: Work,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    FanIn { publishers: usize, shape: Shape },
    Pairs { pairs: usize, shape: Shape },
    FanOut { subscribers: usize, qos: QoS },
    Filters { filters: usize },
    Store { queues: usize },
    Drain { queues: usize },
    Retained { topics: usize },
    Connect,
    Resume { sessions: usize },
    Idle { clean: bool },
    Away { sessions: usize },
}

/// All rows.
pub(crate) fn all() -> Vec<Row> {
    use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    use Work::{Away, Connect, Drain, FanIn, FanOut, Filters, Idle, Pairs, Resume, Retained, Store};
    let power = |name: &str, work| Row { name: name.to_owned(), durability: Durability::Power, work };
    let process = |name: &str, work| Row { name: name.to_owned(), durability: Durability::Process, work };
    let pairs = |qos, window| Pairs { pairs: 50, shape: Shape::new(qos, 1, window) };
    let paced = |qos, rate| Shape { rate: Some(rate), ..Shape::new(qos, 1, WINDOW_PACED) };
    let large = Shape { payload_bytes: 16 * 1024, ..Shape::new(AtMostOnce, 1, WINDOW) };
    vec![
        power("fan-in 50:1, QoS 0", FanIn { publishers: 50, shape: Shape::new(AtMostOnce, 1, WINDOW_QOS_0) }),
        power("50 pairs, QoS 0", pairs(AtMostOnce, WINDOW_QOS_0)),
        power("50 pairs, QoS 1", pairs(AtLeastOnce, WINDOW)),
        power("50 pairs, QoS 2", pairs(ExactlyOnce, WINDOW)),
        power("50 pairs, one message at a time, QoS 0", pairs(AtMostOnce, 1)),
        power("50 pairs, one message at a time, QoS 1", pairs(AtLeastOnce, 1)),
        power("20 pairs of 16 KiB, QoS 0", Pairs { pairs: 20, shape: large }),
        power("fan-out 1:1,000, QoS 0", FanOut { subscribers: 1_000, qos: AtMostOnce }),
        power("fan-out 1:1,000, QoS 1", FanOut { subscribers: 1_000, qos: AtLeastOnce }),
        power("100 pairs at 4,000/s, QoS 0", Pairs { pairs: 100, shape: paced(AtMostOnce, 4_000.0) }),
        power("100 pairs at 4,000/s, QoS 1", Pairs { pairs: 100, shape: paced(AtLeastOnce, 4_000.0) }),
        power("1,000 pairs at 10,000/s, QoS 1", Pairs { pairs: 1_000, shape: paced(AtLeastOnce, 10_000.0) }),
        power(
            "1,000 publishers to 1 at 5,000/s, QoS 1",
            FanIn { publishers: 1_000, shape: paced(AtLeastOnce, 5_000.0) },
        ),
        power("1,000 filters", Filters { filters: 1_000 }),
        power("1,000,000 filters", Filters { filters: 1_000_000 }),
        power("store for 50 offline, QoS 1, power", Store { queues: 50 }),
        process("store for 50 offline, QoS 1, process", Store { queues: 50 }),
        power("drain 50 offline queues, QoS 1, power", Drain { queues: 50 }),
        process("drain 50 offline queues, QoS 1, process", Drain { queues: 50 }),
        power("retained, 1,000 topics", Retained { topics: 1_000 }),
        power("retained, 1,000,000 topics", Retained { topics: 1_000_000 }),
        power("connect and disconnect", Connect),
        power("resume 15,000 sessions", Resume { sessions: 15_000 }),
        power("idle connection, 1 subscription", Idle { clean: true }),
        power("idle durable session, 1 subscription", Idle { clean: false }),
        power("100,000 offline durable sessions, 1 subscription", Away { sessions: 100_000 }),
    ]
}

/// A server with its clients while a row is measured.
struct Bench<'a> {
    server: &'a Server,
    clients: Clients,
    /// A broker wants subscriptions; the relay has none.
    subscribes: bool,
    bounds: Bounds,
}

/// When a measurement began, and what had been used until then.
struct Begun {
    at: Instant,
    server_ns: u64,
    load_ns: u64,
}

impl Row {
    /// Who can do this row.
    pub(crate) fn is_for(&self, kind: ServerKind) -> bool {
        let is_flow = matches!(
            self.work,
            Work::FanIn { .. } | Work::Pairs { .. } | Work::FanOut { .. } | Work::Connect
        );
        match kind {
            ServerKind::Relay => is_flow,
            // Others keep sessions and queues in memory only: there is nothing to compare.
            _ => {
                self.durability == Durability::Power
                    || kind == ServerKind::Postrider
                    || kind == ServerKind::Mosquitto
            }
        }
    }

    /// Starts the server and measures it once.
    pub(crate) fn measure(
        &self,
        programs: &Programs,
        kind: ServerKind,
        bounds: Bounds,
    ) -> Result<Vec<Figure>> {
        let pattern = match self.work {
            Work::FanIn { .. } => Pattern::FanIn,
            Work::FanOut { .. } => Pattern::FanOut,
            _ => Pattern::Pairs,
        };
        let keeps_files = matches!(
            self.work,
            Work::Store { .. }
                | Work::Drain { .. }
                | Work::Retained { .. }
                | Work::Resume { .. }
                | Work::Idle { clean: false }
                | Work::Away { .. }
        );
        let server = Server::start(programs, kind, self.durability, keeps_files, pattern)?;
        let clients = Clients::new(server.addr, bounds.version)?;
        let mut bench = Bench { server: &server, clients, subscribes: kind != ServerKind::Relay, bounds };
        match self.work {
            Work::FanIn { publishers, shape } => bench.fan_in(publishers, shape),
            Work::Pairs { pairs, shape } => bench.pairs(pairs, shape),
            Work::FanOut { subscribers, qos } => bench.fan_out(subscribers, qos),
            Work::Filters { filters } => bench.filters(filters),
            Work::Store { queues } => bench.store(queues),
            Work::Drain { queues } => bench.drain(queues),
            Work::Retained { topics } => bench.retained(topics),
            Work::Connect => bench.connect(),
            Work::Resume { sessions } => bench.resume(sessions),
            Work::Idle { clean } => bench.idle(clean),
            Work::Away { sessions } => bench.away(sessions),
        }
    }
}

impl Bench<'_> {
    /// Connects `p0`, `p1` and so on.
    fn publishers(&mut self, count: usize) -> Result<Vec<usize>> {
        let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
        self.clients.connect(&names, true)
    }

    /// Connects `s0`, `s1` and so on, each with its filter.
    fn subscribers(&mut self, filters: Vec<String>, qos: QoS, clean: bool) -> Result<Vec<usize>> {
        let names: Vec<String> = (0..filters.len()).map(|number| format!("s{number}")).collect();
        let links = self.clients.connect(&names, clean)?;
        if self.subscribes {
            let subscriptions: Vec<_> = links.iter().copied().zip(filters).collect();
            self.clients.subscribe(&subscriptions, qos)?;
        }
        Ok(links)
    }

    fn begin(&self) -> Result<Begun> {
        thread::sleep(AFTERGLOW);
        Ok(Begun { at: Instant::now(), server_ns: self.server.cpu_ns()?, load_ns: thread_cpu_ns()? })
    }

    /// CPU time of the server for each of so many things since then.
    fn cpu(&mut self, unit: &'static str, count: u64, begun: &Begun) -> Result<Figure> {
        let wall_s = begun.at.elapsed().as_secs_f64();
        let load_ns = thread_cpu_ns()? - begun.load_ns;
        self.clients.flush()?;
        thread::sleep(AFTERGLOW);
        let cpu_ns = self.server.cpu_ns()? - begun.server_ns;
        ensure!(count > 0, "nothing was counted");
        let shares = Some([cpu_ns, load_ns].map(|ns| ns as f64 / 1e9 / wall_s));
        Ok(Figure {
            value: cpu_ns as f64 / 1000.0 / count as f64,
            count,
            wall_s,
            shares,
            ..Figure::new(unit)
        })
    }

    /// What the server's memory grew by for each of so many things.
    fn memory(&self, unit: &'static str, count: u64, before: u64) -> Result<Figure> {
        let grown = self.server.rss_bytes()?.saturating_sub(before);
        Ok(Figure { value: grown as f64 / count as f64, count, ..Figure::new(unit) })
    }
}
