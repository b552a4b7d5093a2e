//! Rows in which the server keeps messages: offline queues and retained messages.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use protocol::{Packet, QoS};

use super::{Bench, WINDOW};
use crate::{
    clients::{SILENCE_MAX, accepted, granted},
    flow::{Flow, Shape, Until},
    frame::Frame,
    report::Figure,
};

/// Messages that one wildcard filter finds in the rows with retained messages.
const FOUND: usize = 1_000;
const RETAINED_PUBLISHERS: usize = 50;

impl Bench<'_> {
    /// A load for durable sessions with one subscription each, all offline.
    fn offline(&mut self, queues: usize) -> Result<Flow> {
        let topics: Vec<String> = (0..queues).map(|number| format!("queue/{number}")).collect();
        for link in self.subscribers(topics.clone(), QoS::AtLeastOnce, false)? {
            self.clients.disconnect(link)?;
        }
        let mut flow = Flow::new(Shape::new(QoS::AtLeastOnce, 0, WINDOW));
        for (topic, link) in topics.into_iter().zip(self.publishers(queues)?) {
            flow.publisher(&self.clients, link, &[topic])?;
        }
        Ok(flow)
    }

    fn until(&self) -> Until {
        Until { seconds: self.bounds.seconds, messages: self.bounds.messages }
    }

    pub(super) fn store(&mut self, queues: usize) -> Result<Vec<Figure>> {
        let mut flow = self.offline(queues)?;
        let (begun, before) = (self.begin()?, self.server.rss_bytes()?);
        let until = self.until();
        let stored = flow.run(&mut self.clients, until)?;
        let cpu = self.cpu("µs/message", stored, &begun)?;
        Ok(vec![cpu, self.memory("bytes/message", stored, before)?])
    }

    /// What was stored goes out again when its sessions come back; until the last PUBACK is sent.
    pub(super) fn drain(&mut self, queues: usize) -> Result<Vec<Figure>> {
        let mut flow = self.offline(queues)?;
        let until = self.until();
        let stored = flow.run(&mut self.clients, until)?;
        let begun = self.begin()?;
        for number in 0..queues {
            self.clients.open(&format!("s{number}"), false)?;
        }
        self.receive(stored)?;
        Ok(vec![self.cpu("µs/message", stored, &begun)?])
    }

    /// Sets messages on that many topics, then asks again and again for some of them with a wildcard.
    pub(super) fn retained(&mut self, topics: usize) -> Result<Vec<Figure>> {
        let mut flow = Flow::new(Shape { retain: true, ..Shape::new(QoS::AtLeastOnce, 0, WINDOW) });
        let groups = topics.div_ceil(FOUND);
        // The filter's wildcard comes before what tells the topics apart, as in `fleet/+/state`.
        let topic = |number: usize| format!("r/{}/{}/state", number / groups, number % groups);
        for (at, link) in self.publishers(RETAINED_PUBLISHERS)?.into_iter().enumerate() {
            let own: Vec<_> = (at..topics).step_by(RETAINED_PUBLISHERS).map(topic).collect();
            flow.publisher(&self.clients, link, &own)?;
        }
        let (begun, before) = (self.begin()?, self.server.rss_bytes()?);
        let until = Until { seconds: 120.0, messages: topics as u64 };
        let set = flow.run(&mut self.clients, until)?;
        ensure!(set == topics as u64, "{set} of {topics} topics were set in {:?}", begun.at.elapsed());
        let mut figures = vec![self.cpu("µs/message set", set, &begun)?];
        figures.push(self.memory("bytes/message", set, before)?);
        let link = self.clients.connect(&["s0".to_owned()], true)?[0];
        let begun = self.begin()?;
        let (mut delivered, mut slowest) = (0, Duration::ZERO);
        let mut group = 0;
        while delivered < self.bounds.messages && begun.at.elapsed().as_secs_f64() < self.bounds.seconds {
            let filter = format!("r/+/{}/state", group % groups);
            group += 1;
            let asked = Instant::now();
            self.clients.send_subscribe(link, &[filter], QoS::AtMostOnce)?;
            let found = FOUND.min(topics) as u64;
            self.receive(found)?;
            slowest = slowest.max(asked.elapsed());
            delivered += found;
        }
        figures.push(self.cpu("µs/message delivered", delivered, &begun)?);
        let value = slowest.as_secs_f64() * 1e3;
        figures.push(Figure { value, count: delivered, ..Figure::new("ms, slowest SUBSCRIBE") });
        Ok(figures)
    }

    /// Takes that many messages and acknowledges them.
    fn receive(&mut self, expected: u64) -> Result<()> {
        let mut received = 0;
        let mut last_news = Instant::now();
        while received < expected {
            self.clients.turn(Some(Duration::from_millis(100)), |clients, link, frame| {
                last_news = Instant::now();
                match frame {
                    Frame::Publish { qos, packet_id, .. } => {
                        received += 1;
                        clients.acknowledge(link, qos, packet_id);
                        Ok(())
                    }
                    Frame::Other(packet) => match *packet {
                        Packet::ConnAck(connack) => {
                            accepted(&connack)?;
                            ensure!(connack.session_present, "the server has lost a session");
                            Ok(())
                        }
                        Packet::SubAck(suback) => granted(&suback.reasons),
                        other => bail!("unexpected {other:?}"),
                    },
                    other => bail!("unexpected {other:?}"),
                }
            })?;
            ensure!(last_news.elapsed() < SILENCE_MAX, "{received} of {expected} messages came");
        }
        self.clients.flush()
    }
}
