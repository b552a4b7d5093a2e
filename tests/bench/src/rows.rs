//! The rows of the table: what each one does to a server, and what is counted.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use protocol::{Packet, QoS};

use crate::{
    Bounds,
    clients::{Clients, SILENCE_MAX, accepted, granted},
    flow::{self, Flow, Until},
    relay::Pattern,
    report::Sample,
    servers::{Durability, Programs, Server, ServerKind},
};

/// Messages of the whole load before the measured ones, as a part of them.
const WARM_UP: f64 = 0.15;
/// After the last confirmation a server may still have acknowledgements to take in.
const AFTERGLOW: Duration = Duration::from_millis(30);
const WINDOW: u64 = 20;
/// Messages a QoS 0 publisher may be ahead of its deliveries.
const WINDOW_QOS_0: u64 = 50;
const RETAINED_TOPICS: usize = 1000;
const CONNECTS_AT_ONCE: usize = 16;
const CONNECTS_MAX: u64 = 8000;
const IDLE_CONNECTIONS: u64 = 6000;

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    durability: Durability,
    work: Work,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    FanIn { publishers: usize },
    Pairs { pairs: usize, qos: QoS, window: u64, rate: Option<f64> },
    FanOut { subscribers: usize, qos: QoS },
    Store { queues: usize },
    Drain { queues: usize },
    RetainedSet { publishers: usize },
    RetainedDeliver,
    Connect,
    Idle,
}

/// All rows.
pub(crate) fn all() -> Vec<Row> {
    use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    use Work::{Connect, Drain, FanIn, FanOut, Idle, Pairs, RetainedDeliver, RetainedSet, Store};
    let power = |name: &str, work| Row { name: name.to_owned(), durability: Durability::Power, work };
    let process = |name: &str, work| Row { name: name.to_owned(), durability: Durability::Process, work };
    let pairs = |qos, window| Pairs { pairs: 50, qos, window, rate: None };
    let paced = |qos| Pairs { pairs: 100, qos, window: WINDOW, rate: Some(4000.0) };
    vec![
        power("fan-in 50:1, QoS 0", FanIn { publishers: 50 }),
        power("50 pairs, QoS 0", pairs(AtMostOnce, WINDOW_QOS_0)),
        power("50 pairs, QoS 1", pairs(AtLeastOnce, WINDOW)),
        power("50 pairs, QoS 2", pairs(ExactlyOnce, WINDOW)),
        power("50 pairs, one message at a time, QoS 0", pairs(AtMostOnce, 1)),
        power("50 pairs, one message at a time, QoS 1", pairs(AtLeastOnce, 1)),
        power("fan-out 1:500, QoS 0", FanOut { subscribers: 500, qos: AtMostOnce }),
        power("fan-out 1:500, QoS 1", FanOut { subscribers: 500, qos: AtLeastOnce }),
        power("100 pairs at 4,000/s, QoS 0", paced(AtMostOnce)),
        power("100 pairs at 4,000/s, QoS 1", paced(AtLeastOnce)),
        power("store for 50 offline, QoS 1, power", Store { queues: 50 }),
        process("store for 50 offline, QoS 1, process", Store { queues: 50 }),
        power("drain 50 offline queues, QoS 1, power", Drain { queues: 50 }),
        process("drain 50 offline queues, QoS 1, process", Drain { queues: 50 }),
        power("retained set, QoS 1, power", RetainedSet { publishers: 50 }),
        process("retained set, QoS 1, process", RetainedSet { publishers: 50 }),
        power("retained deliver, QoS 0", RetainedDeliver),
        power("connect and disconnect", Connect),
        power("idle durable session, 1 subscription", Idle),
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

impl Row {
    /// Who can do this row.
    pub(crate) fn servers(&self) -> impl Iterator<Item = ServerKind> + use<> {
        let has_floor = matches!(
            self.work,
            Work::FanIn { .. } | Work::Pairs { .. } | Work::FanOut { .. } | Work::Connect
        );
        [ServerKind::Relay, ServerKind::Mosquitto, ServerKind::Postrider]
            .into_iter()
            .filter(move |kind| has_floor || *kind != ServerKind::Relay)
    }

    /// What the row's number is.
    pub(crate) fn unit(&self) -> &'static str {
        match self.work {
            Work::Connect => "µs/connect",
            Work::Idle => "bytes/connection",
            _ => "µs/message",
        }
    }

    /// Starts the server and measures it once.
    pub(crate) fn measure(&self, programs: &Programs, kind: ServerKind, bounds: Bounds) -> Result<Sample> {
        let pattern = match self.work {
            Work::FanIn { .. } => Pattern::FanIn,
            Work::FanOut { .. } => Pattern::FanOut,
            _ => Pattern::Pairs,
        };
        let keeps_files = matches!(
            self.work,
            Work::Store { .. } | Work::Drain { .. } | Work::RetainedSet { .. } | Work::Idle
        );
        let server = Server::start(programs, kind, self.durability, keeps_files, pattern)?;
        let clients = Clients::new(server.addr, bounds.version)?;
        let mut bench = Bench { server: &server, clients, subscribes: kind != ServerKind::Relay, bounds };
        match self.work {
            Work::FanIn { publishers } => bench.fan_in(publishers),
            Work::Pairs { pairs, qos, window, rate } => bench.pairs(pairs, Flow::new(qos, 1, window), rate),
            Work::FanOut { subscribers, qos } => bench.fan_out(subscribers, qos),
            Work::Store { queues } => bench.store(queues),
            Work::Drain { queues } => bench.drain(queues),
            Work::RetainedSet { publishers } => bench.retained_set(publishers),
            Work::RetainedDeliver => bench.retained_deliver(),
            Work::Connect => bench.connect(),
            Work::Idle => bench.idle(),
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

    fn fan_in(&mut self, publishers: usize) -> Result<Sample> {
        self.subscribers(vec!["in/+".to_owned()], QoS::AtMostOnce, true)?;
        let mut flow = Flow::new(QoS::AtMostOnce, 1, WINDOW_QOS_0);
        for (number, link) in self.publishers(publishers)?.into_iter().enumerate() {
            flow.publisher(link, vec![format!("in/{number}").into()]);
        }
        self.measure(flow)
    }

    fn pairs(&mut self, pairs: usize, mut flow: Flow, rate: Option<f64>) -> Result<Sample> {
        flow.rate = rate;
        let topics: Vec<String> = (0..pairs).map(|number| format!("pair/{number}")).collect();
        self.subscribers(topics.clone(), flow.qos, true)?;
        for (topic, link) in topics.into_iter().zip(self.publishers(pairs)?) {
            flow.publisher(link, vec![topic.into()]);
        }
        self.measure(flow)
    }

    fn fan_out(&mut self, subscribers: usize, qos: QoS) -> Result<Sample> {
        self.subscribers(vec!["out".to_owned(); subscribers], qos, true)?;
        let mut flow = Flow::new(qos, subscribers as u64, WINDOW);
        flow.publisher(self.publishers(1)?[0], vec!["out".into()]);
        self.measure(flow)
    }

    /// A load for durable sessions with one subscription each, all offline.
    fn offline(&mut self, queues: usize) -> Result<Flow> {
        let topics: Vec<String> = (0..queues).map(|number| format!("queue/{number}")).collect();
        for link in self.subscribers(topics.clone(), QoS::AtLeastOnce, false)? {
            self.clients.disconnect(link)?;
        }
        let mut flow = Flow::new(QoS::AtLeastOnce, 0, WINDOW);
        for (topic, link) in topics.into_iter().zip(self.publishers(queues)?) {
            flow.publisher(link, vec![topic.into()]);
        }
        Ok(flow)
    }

    fn store(&mut self, queues: usize) -> Result<Sample> {
        let flow = self.offline(queues)?;
        self.measure(flow)
    }

    /// What was stored goes out again when its sessions come back; until the last PUBACK is sent.
    fn drain(&mut self, queues: usize) -> Result<Sample> {
        let mut flow = self.offline(queues)?;
        let until = Until { seconds: self.bounds.seconds, messages: self.bounds.messages };
        let stored = flow.run(&mut self.clients, until)?;
        thread::sleep(AFTERGLOW);
        let (begin, before) = (Instant::now(), self.server.cpu_ns()?);
        for number in 0..queues {
            self.clients.open(&format!("s{number}"), false)?;
        }
        self.receive(stored)?;
        self.sample(stored, begin, before)
    }

    fn retained_set(&mut self, publishers: usize) -> Result<Sample> {
        let mut flow = Flow::new(QoS::AtLeastOnce, 0, WINDOW);
        flow.retain = true;
        for (number, link) in self.publishers(publishers)?.into_iter().enumerate() {
            let topics = (0..RETAINED_TOPICS / publishers).map(|n| format!("r/{number}/{n}").into());
            flow.publisher(link, topics.collect());
        }
        self.measure(flow)
    }

    fn retained_deliver(&mut self) -> Result<Sample> {
        let mut flow = Flow::new(QoS::AtLeastOnce, 0, WINDOW);
        flow.retain = true;
        let topics = (0..RETAINED_TOPICS).map(|number| format!("r/{number}").into());
        flow.publisher(self.publishers(1)?[0], topics.collect());
        let until = Until { seconds: SILENCE_MAX.as_secs_f64(), messages: RETAINED_TOPICS as u64 };
        ensure!(flow.run(&mut self.clients, until)? == RETAINED_TOPICS as u64, "setting took too long");
        let link = self.clients.connect(&["s0".to_owned()], true)?[0];
        let (begin, before) = (Instant::now(), self.server.cpu_ns()?);
        let mut delivered = 0;
        while delivered < self.bounds.messages && begin.elapsed().as_secs_f64() < self.bounds.seconds {
            // Each SUBSCRIBE of the same filter brings them all again.
            self.clients.send_subscribe(link, "r/+", QoS::AtMostOnce)?;
            self.receive(RETAINED_TOPICS as u64)?;
            delivered += RETAINED_TOPICS as u64;
        }
        self.sample(delivered, begin, before)
    }

    /// Takes that many messages and acknowledges them.
    fn receive(&mut self, expected: u64) -> Result<()> {
        let (mut received, mut packets) = (0, Vec::new());
        let mut last_news = Instant::now();
        while received < expected {
            self.clients.turn(Some(Duration::from_millis(100)), &mut packets)?;
            if !packets.is_empty() {
                last_news = Instant::now();
            }
            for (link, packet) in packets.drain(..) {
                match packet {
                    Packet::Publish(publish) => {
                        received += 1;
                        flow::acknowledge(&mut self.clients, link, &publish)?;
                    }
                    Packet::ConnAck(connack) => {
                        accepted(&connack)?;
                        ensure!(connack.session_present, "the server has lost a session");
                    }
                    Packet::SubAck(suback) => granted(&suback.reasons)?,
                    other => bail!("unexpected {other:?}"),
                }
            }
            ensure!(last_news.elapsed() < SILENCE_MAX, "{received} of {expected} messages came");
        }
        self.clients.flush()
    }

    fn connect(&mut self) -> Result<Sample> {
        let (begin, before) = (Instant::now(), self.server.cpu_ns()?);
        let (mut opened, mut closed) = (0, 0);
        let mut waiting = VecDeque::new();
        let mut packets = Vec::new();
        loop {
            let is_time = begin.elapsed().as_secs_f64() < self.bounds.seconds;
            while is_time && opened < CONNECTS_MAX && waiting.len() < CONNECTS_AT_ONCE {
                waiting.push_back(self.clients.open(&format!("p{opened}"), true)?);
                opened += 1;
            }
            if waiting.is_empty() {
                return self.sample(closed, begin, before);
            }
            self.clients.turn(Some(SILENCE_MAX), &mut packets)?;
            ensure!(!packets.is_empty() || begin.elapsed() < SILENCE_MAX, "no CONNACK in {SILENCE_MAX:?}");
            for (link, packet) in packets.drain(..) {
                let Packet::ConnAck(connack) = packet else { bail!("{packet:?} for a CONNECT") };
                accepted(&connack)?;
                self.clients.disconnect(link)?;
                waiting.retain(|waits| *waits != link);
                closed += 1;
            }
        }
    }

    fn idle(&mut self) -> Result<Sample> {
        let begin = Instant::now();
        let warm_up = self.clients.connect(&["warm-up".to_owned()], false)?[0];
        self.clients.subscribe(&[(warm_up, "dev/0/state".to_owned())], QoS::AtLeastOnce)?;
        let before = self.server.rss_bytes()?;
        let filters = (1..=IDLE_CONNECTIONS).map(|number| format!("dev/{number}/state")).collect();
        self.subscribers(filters, QoS::AtLeastOnce, false)?;
        thread::sleep(AFTERGLOW);
        let used = self.server.rss_bytes()?.saturating_sub(before);
        let value = used as f64 / IDLE_CONNECTIONS as f64;
        Ok(Sample { value, count: IDLE_CONNECTIONS, wall_s: begin.elapsed().as_secs_f64() })
    }

    /// Warms up, then measures what a delivered message (or, without deliveries, an accepted one) costs.
    fn measure(&mut self, mut flow: Flow) -> Result<Sample> {
        let deliveries = flow.fan_out.max(1);
        let until = |part: f64| Until {
            seconds: self.bounds.seconds * part,
            messages: ((self.bounds.messages as f64 * part) as u64).div_ceil(deliveries),
        };
        let (warm_up, measured) = (until(WARM_UP), until(1.0));
        flow.run(&mut self.clients, warm_up)?;
        thread::sleep(AFTERGLOW);
        let (begin, before) = (Instant::now(), self.server.cpu_ns()?);
        let published = flow.run(&mut self.clients, measured)?;
        self.sample(published * deliveries, begin, before)
    }

    fn sample(&mut self, count: u64, begin: Instant, cpu_before_ns: u64) -> Result<Sample> {
        let wall_s = begin.elapsed().as_secs_f64();
        self.clients.flush()?;
        thread::sleep(AFTERGLOW);
        let cpu_ns = self.server.cpu_ns()? - cpu_before_ns;
        ensure!(count > 0, "nothing was delivered");
        Ok(Sample { value: cpu_ns as f64 / 1000.0 / count as f64, count, wall_s })
    }
}
