//! Rows about many of a thing: filters, connections, sessions.

use std::{
    collections::VecDeque,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use protocol::{ConnAck, Packet, QoS};

use super::{AFTERGLOW, Bench, WINDOW_QOS_0};
use crate::{
    clients::{SILENCE_MAX, accepted},
    flow::{Flow, Shape},
    frame::Frame,
    report::Figure,
};

const CONNECTS_AT_ONCE: usize = 16;
const CONNECTS_MAX: u64 = 8000;
const IDLE_CONNECTIONS: u64 = 6000;
/// Filters of one client, of one SUBSCRIBE.
const FILTERS_A_CLIENT: usize = 1_000;
const FILTERS_A_PACKET: usize = 100;
const SUBSCRIBES_AT_ONCE: usize = 64;
/// Clients that publish while there are many filters, and the topics of each.
const PUBLISHERS: usize = 50;
const TOPICS: usize = 200;

/// Of eight filters six are exact, one has a `+` in its middle and one ends with `#`.
fn filter(number: usize) -> String {
    let fleet = number / FILTERS_A_CLIENT;
    match number % 8 {
        6 => format!("fleet/{fleet}/+/door/{number}"),
        7 => format!("fleet/{fleet}/truck{number}/log/#"),
        _ => format!("fleet/{fleet}/truck{number}/position"),
    }
}

fn connack(frame: Frame<'_>) -> Result<ConnAck> {
    match frame {
        Frame::Other(packet) => match *packet {
            Packet::ConnAck(connack) => Ok(*connack),
            other => bail!("{other:?} came for a CONNECT"),
        },
        other => bail!("{other:?} came for a CONNECT"),
    }
}

/// Clients that are there at once in the row with sessions whose clients are not.
const AWAY_AT_ONCE: usize = 1_000;
/// How long a server may take to bring such sessions to rest.
const AWAY_SETTLES: Duration = Duration::from_secs(3);

impl Bench<'_> {
    /// Many clients with many filters; each message matches one of them.
    pub(super) fn filters(&mut self, filters: usize) -> Result<Vec<Figure>> {
        // A small number of filters is spread over a few clients too.
        let a_client = FILTERS_A_CLIENT.min(filters / 10);
        let names: Vec<String> = (0..filters / a_client).map(|number| format!("s{number}")).collect();
        let links = self.clients.connect(&names, true)?;
        let publishers = self.publishers(PUBLISHERS)?;
        let (begun, before) = (self.begin()?, self.server.rss_bytes()?);
        // One packet a client is under way at a time: each goes on to its next hundred in the next round.
        for from in (0..a_client).step_by(FILTERS_A_PACKET) {
            for (some, first) in links.chunks(SUBSCRIBES_AT_ONCE).zip((0..).step_by(SUBSCRIBES_AT_ONCE)) {
                for (link, client) in some.iter().zip(first..) {
                    let own = from..(from + FILTERS_A_PACKET).min(a_client);
                    let own: Vec<_> = own.map(|number| filter(client * a_client + number)).collect();
                    self.clients.send_subscribe(*link, &own, QoS::AtMostOnce)?;
                }
                self.clients.granted(some.len())?;
            }
        }
        let mut figures = vec![self.cpu("µs/filter", filters as u64, &begun)?];
        figures.push(self.memory("bytes/filter", filters as u64, before)?);
        let mut flow = Flow::new(Shape::new(QoS::AtMostOnce, 1, WINDOW_QOS_0));
        let exact = |number: &usize| number % 8 < 6;
        let topics: Vec<_> =
            (0..filters).filter(exact).step_by((filters / (PUBLISHERS * TOPICS)).max(1)).collect();
        for (at, link) in publishers.into_iter().enumerate() {
            let own: Vec<_> =
                topics.iter().skip(at).step_by(PUBLISHERS).map(|number| filter(*number)).collect();
            flow.publisher(&self.clients, link, &own)?;
        }
        figures.extend(self.measure(flow)?);
        Ok(figures)
    }

    pub(super) fn connect(&mut self) -> Result<Vec<Figure>> {
        let begun = self.begin()?;
        let (mut opened, mut closed) = (0, 0);
        let mut waiting = VecDeque::new();
        let mut last_news = Instant::now();
        loop {
            let is_time = begun.at.elapsed().as_secs_f64() < self.bounds.seconds;
            while is_time && opened < CONNECTS_MAX && waiting.len() < CONNECTS_AT_ONCE {
                waiting.push_back(self.clients.open(&format!("p{opened}"), true)?);
                opened += 1;
            }
            if waiting.is_empty() {
                return Ok(vec![self.cpu("µs/connect", closed, &begun)?]);
            }
            self.clients.turn(Some(Duration::from_millis(100)), |clients, link, frame| {
                let connack = connack(frame)?;
                accepted(&connack)?;
                clients.disconnect(link)?;
                waiting.retain(|waits| *waits != link);
                closed += 1;
                last_news = Instant::now();
                Ok(())
            })?;
            ensure!(last_news.elapsed() < SILENCE_MAX, "no CONNACK in {SILENCE_MAX:?}");
        }
    }

    /// Durable sessions lose their connections all at once and come back all at once.
    pub(super) fn resume(&mut self, sessions: usize) -> Result<Vec<Figure>> {
        let filters = (0..sessions).map(|number| format!("dev/{number}/state")).collect();
        for link in self.subscribers(filters, QoS::AtLeastOnce, false)? {
            self.clients.close(link)?;
        }
        // A server takes notice of their ends first.
        thread::sleep(Duration::from_secs(1));
        let begun = self.begin()?;
        let (mut opened, mut resumed) = (0, 0);
        let mut last_news = Instant::now();
        while resumed < sessions {
            // As many as the shortest backlog of a listening socket holds.
            while opened < sessions && opened - resumed < 100 {
                self.clients.open(&format!("s{opened}"), false)?;
                opened += 1;
            }
            self.clients.turn(Some(Duration::from_millis(100)), |_, _, frame| {
                let connack = connack(frame)?;
                accepted(&connack)?;
                ensure!(connack.session_present, "the server has lost a session");
                resumed += 1;
                last_news = Instant::now();
                Ok(())
            })?;
            ensure!(last_news.elapsed() < SILENCE_MAX, "{resumed} of {sessions} sessions came back");
        }
        let value = begun.at.elapsed().as_secs_f64();
        let cpu = self.cpu("µs/session", sessions as u64, &begun)?;
        Ok(vec![cpu, Figure { value, count: sessions as u64, ..Figure::new("s, all") }])
    }

    pub(super) fn idle(&mut self, clean: bool) -> Result<Vec<Figure>> {
        let warm_up = self.clients.connect(&["warm-up".to_owned()], clean)?[0];
        self.clients.subscribe(&[(warm_up, "dev/0/state".to_owned())], QoS::AtLeastOnce)?;
        let before = self.server.rss_bytes()?;
        let filters = (1..=IDLE_CONNECTIONS).map(|number| format!("dev/{number}/state")).collect();
        self.subscribers(filters, QoS::AtLeastOnce, clean)?;
        thread::sleep(AFTERGLOW);
        Ok(vec![self.memory("bytes/connection", IDLE_CONNECTIONS, before)?])
    }

    /// What a session takes whose client is not there: some connect, subscribe and go, then the next.
    pub(super) fn away(&mut self, sessions: usize) -> Result<Vec<Figure>> {
        let before = self.server.rss_bytes()?;
        let begun = self.begin()?;
        let numbers: Vec<usize> = (0..sessions).collect();
        for some in numbers.chunks(AWAY_AT_ONCE) {
            let names: Vec<String> = some.iter().map(|number| format!("s{number}")).collect();
            let links = self.clients.connect(&names, false)?;
            let filters = some.iter().map(|number| format!("dev/{number}/state"));
            let subscriptions: Vec<_> = links.iter().copied().zip(filters).collect();
            self.clients.subscribe(&subscriptions, QoS::AtLeastOnce)?;
            for link in links {
                self.clients.disconnect(link)?;
            }
        }
        let cpu = self.cpu("µs/session", sessions as u64, &begun)?;
        // What is written behind them is written, and memory that is no longer needed may be given back.
        thread::sleep(AWAY_SETTLES);
        Ok(vec![cpu, self.memory("bytes/session", sessions as u64, before)?])
    }
}
