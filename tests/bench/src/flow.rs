//! Messages from publishers to subscribers with a bounded number under way, each one counted.
//!
//! Invariant: a publisher is never more than its window ahead of its slowest confirmation (deliveries, and
//! acknowledgements above QoS 0), so no server has a reason to drop anything: what does not arrive is lost,
//! and the measurement fails.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::{Ack, ByteString, Bytes, Packet, PacketId, Publish, QoS, ReasonCode};

use crate::clients::{Clients, SILENCE_MAX, granted};

/// Payload of every message; it begins with the publisher's number.
pub(crate) const PAYLOAD_BYTES: usize = 100;

#[derive(Debug)]
struct Publisher {
    link: usize,
    topics: Vec<ByteString>,
    payload: Bytes,
    sent: u64,
    acked: u64,
    delivered: u64,
}

/// When to stop sending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    pub(crate) seconds: f64,
    /// Messages published.
    pub(crate) messages: u64,
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Flow {
    publishers: Vec<Publisher>,
    /// Publisher by link.
    by_link: Vec<Option<usize>>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Deliveries of each message that come back here; 0 when nobody is connected.
    pub(crate) fan_out: u64,
    /// Messages a publisher may be ahead.
    pub(crate) window: u64,
    /// Messages a second of all publishers together; as fast as it goes without.
    pub(crate) rate: Option<f64>,
    packets: Vec<(usize, Packet)>,
    turn: usize,
}

impl Flow {
    pub(crate) fn new(qos: QoS, fan_out: u64, window: u64) -> Self {
        Self {
            publishers: Vec::new(),
            by_link: Vec::new(),
            qos,
            retain: false,
            fan_out,
            window,
            rate: None,
            packets: Vec::new(),
            turn: 0,
        }
    }

    /// Adds a publisher that uses its topics in turn.
    pub(crate) fn publisher(&mut self, link: usize, topics: Vec<ByteString>) {
        let mut payload = vec![b'x'; PAYLOAD_BYTES];
        payload[..4].copy_from_slice(&(self.publishers.len() as u32).to_be_bytes());
        if self.by_link.len() <= link {
            self.by_link.resize(link + 1, None);
        }
        self.by_link[link] = Some(self.publishers.len());
        let payload = payload.into();
        self.publishers.push(Publisher { link, topics, payload, sent: 0, acked: 0, delivered: 0 });
    }

    fn sent(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.sent).sum()
    }

    /// Publishes until the bound, then waits until everything under way is confirmed. Returns how many
    /// messages were published.
    pub(crate) fn run(&mut self, clients: &mut Clients, until: Until) -> Result<u64> {
        let begin = Instant::now();
        let first = self.sent();
        let mut last_news = begin;
        let mut is_sending = true;
        loop {
            let elapsed = begin.elapsed().as_secs_f64();
            let published = self.sent() - first;
            is_sending = is_sending && elapsed < until.seconds && published < until.messages;
            if is_sending {
                let due = self.rate.map_or(until.messages, |rate| (elapsed * rate) as u64 + 1);
                self.publish(clients, due.min(until.messages) - published.min(due))?;
            } else if self.is_settled() {
                return Ok(published);
            }
            let timeout = match self.rate {
                Some(rate) if is_sending => {
                    // The poller knows whole milliseconds only.
                    let next_s = (self.sent() - first) as f64 / rate - begin.elapsed().as_secs_f64();
                    clients.flush()?;
                    std::thread::sleep(Duration::from_secs_f64(next_s.clamp(0.0, 0.01)));
                    Duration::ZERO
                }
                _ => Duration::from_millis(100),
            };
            let mut packets = std::mem::take(&mut self.packets);
            clients.turn(Some(timeout), &mut packets)?;
            if !packets.is_empty() {
                last_news = Instant::now();
            }
            for (link, packet) in packets.drain(..) {
                self.packet(clients, link, packet)?;
            }
            self.packets = packets;
            if last_news.elapsed() > SILENCE_MAX {
                bail!("{} of {} messages were not confirmed: lost", self.unconfirmed(), self.sent());
            }
        }
    }

    fn confirmed(&self, publisher: &Publisher) -> u64 {
        let acked = if self.qos == QoS::AtMostOnce { publisher.sent } else { publisher.acked };
        match self.fan_out {
            0 => acked,
            fan_out => acked.min(publisher.delivered / fan_out),
        }
    }

    fn unconfirmed(&self) -> u64 {
        self.publishers.iter().map(|publisher| publisher.sent - self.confirmed(publisher)).sum()
    }

    fn is_settled(&self) -> bool {
        self.publishers.iter().all(|publisher| publisher.sent == self.confirmed(publisher))
    }

    /// Publishes up to `most` messages, each publisher as many as its window allows; a paced load goes from
    /// publisher to publisher.
    fn publish(&mut self, clients: &mut Clients, mut most: u64) -> Result<()> {
        let count = self.publishers.len();
        for _ in 0..count {
            if most == 0 {
                return Ok(());
            }
            self.turn = (self.turn + 1) % count;
            let publisher = &self.publishers[self.turn];
            let free = self.window.saturating_sub(publisher.sent - self.confirmed(publisher));
            let now = free.min(most).min(if self.rate.is_some() { 1 } else { u64::MAX });
            for _ in 0..now {
                self.publish_one(clients, self.turn)?;
            }
            most -= now;
        }
        Ok(())
    }

    fn publish_one(&mut self, clients: &mut Clients, at: usize) -> Result<()> {
        let publisher = &mut self.publishers[at];
        // The window is far smaller than the 65,535 ids, so an id is free again when its turn comes.
        let id = (publisher.sent % u64::from(u16::MAX)) as u16 + 1;
        let packet_id = PacketId::new(id).filter(|_| self.qos != QoS::AtMostOnce);
        let topic = publisher.topics[publisher.sent as usize % publisher.topics.len()].clone();
        publisher.sent += 1;
        let publish = Publish {
            qos: self.qos,
            retain: self.retain,
            topic,
            packet_id,
            payload: publisher.payload.clone(),
            ..Publish::default()
        };
        clients.send(publisher.link, &Packet::Publish(publish))
    }

    fn packet(&mut self, clients: &mut Clients, link: usize, packet: Packet) -> Result<()> {
        match packet {
            Packet::Publish(publish) => {
                acknowledge(clients, link, &publish)?;
                self.publishers[number(&publish)?].delivered += 1;
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                check(&ack)?;
                let at = self.by_link.get(link).copied().flatten().context("an ack without a publish")?;
                self.publishers[at].acked += 1;
            }
            Packet::PubRec(_) | Packet::PubRel(_) => answer(clients, link, packet)?,
            Packet::SubAck(suback) => granted(&suback.reasons)?,
            other => bail!("unexpected {other:?}"),
        }
        Ok(())
    }
}

/// The publisher's number in a payload.
fn number(publish: &Publish) -> Result<usize> {
    ensure!(publish.payload.len() == PAYLOAD_BYTES, "a payload of {} bytes", publish.payload.len());
    let number = publish.payload.first_chunk().copied().map(u32::from_be_bytes).context("a short payload")?;
    Ok(number as usize)
}

/// Answers a delivered PUBLISH.
pub(crate) fn acknowledge(clients: &mut Clients, link: usize, publish: &Publish) -> Result<()> {
    let Some(packet_id) = publish.packet_id else { return Ok(()) };
    let ack = Ack::new(packet_id, ReasonCode::Success);
    let is_qos_1 = publish.qos == QoS::AtLeastOnce;
    clients.send(link, &if is_qos_1 { Packet::PubAck(ack) } else { Packet::PubRec(ack) })
}

/// Goes on with a QoS 2 exchange.
pub(crate) fn answer(clients: &mut Clients, link: usize, packet: Packet) -> Result<()> {
    match packet {
        Packet::PubRec(ack) => {
            check(&ack)?;
            clients.send(link, &Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)))
        }
        Packet::PubRel(ack) => {
            clients.send(link, &Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)))
        }
        other => bail!("unexpected {other:?}"),
    }
}

fn check(ack: &Ack) -> Result<()> {
    ensure!((ack.reason as u8) < 0x80, "a publish was refused: {:?}", ack.reason);
    Ok(())
}
