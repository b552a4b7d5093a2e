//! Messages from publishers to subscribers with a bounded number under way, each one followed.
//!
//! Every message carries its publisher, its number there and when it was due, so that what is lost, comes twice or out of
//! order fails the measurement, and latency counts from the time at which a message was due (no coordinated omission).
//! Invariant: a publisher is never more than its window ahead of its slowest confirmation (deliveries, and
//! acknowledgements above QoS 0), so no server has a reason to drop anything: what does not arrive is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use protocol::{Packet, QoS};

use crate::{
    clients::{Clients, SILENCE_MAX, granted},
    frame::{AckKind, Frame, Template},
};

/// Payload of a message where the row says nothing else.
pub(crate) const PAYLOAD_BYTES: usize = 100;
const STAMP_BYTES: usize = 20;
/// A load whose messages went out later than this after they were due, one in a hundred, has measured itself.
const LATE_MAX: Duration = Duration::from_millis(10);
/// Latencies that are told apart.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    publisher: u32,
    /// From 1 on.
    seq: u64,
    /// Nanoseconds since the flow began.
    due_ns: u64,
}

impl Stamp {
    fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..4].copy_from_slice(&self.publisher.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.seq.to_be_bytes());
        bytes[12..].copy_from_slice(&self.due_ns.to_be_bytes());
        bytes
    }

    fn of(payload: &[u8]) -> Result<Self> {
        let word = |at: usize| {
            payload.get(at..at + 8).and_then(|b| b.first_chunk().copied()).map(u64::from_be_bytes)
        };
        let publisher = payload.first_chunk().copied().map(u32::from_be_bytes);
        match (publisher, word(4), word(12)) {
            (Some(publisher), Some(seq), Some(due_ns)) => Ok(Self { publisher, seq, due_ns }),
            _ => bail!("a payload of {} bytes is none of ours", payload.len()),
        }
    }
}

#[derive(Debug)]
struct Publisher {
    link: usize,
    templates: Vec<Template>,
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

/// What the messages of a flow are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) qos: QoS,
    /// Each topic gets one message then.
    pub(crate) retain: bool,
    pub(crate) payload_bytes: usize,
    /// Deliveries of each message that come back here; 0 when nobody is connected.
    pub(crate) fan_out: u64,
    /// Messages a publisher may be ahead.
    pub(crate) window: u64,
    /// Messages a second of all publishers together; as fast as it goes without.
    pub(crate) rate: Option<f64>,
}

impl Shape {
    pub(crate) fn new(qos: QoS, fan_out: u64, window: u64) -> Self {
        Self { qos, retain: false, payload_bytes: PAYLOAD_BYTES, fan_out, window, rate: None }
    }
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) shape: Shape,
    publishers: Vec<Publisher>,
    /// Publisher by link.
    by_link: Vec<Option<usize>>,
    /// The newest number that came, by link and publisher; without an entry where a publisher has many topics.
    seen: Vec<Vec<u64>>,
    turn: usize,
    begin: Instant,
    sent: u64,
    /// From due to delivered, nanoseconds; of the run under way.
    pub(crate) latency: Histogram<u64>,
    /// From due to sent.
    late: Histogram<u64>,
    unconfirmed: u64,
}

impl Flow {
    pub(crate) fn new(shape: Shape) -> Self {
        let histogram =
            || Histogram::new_with_max(LATENCY_MAX_NS, 3).expect("the bounds are constants that fit");
        Self {
            shape,
            publishers: Vec::new(),
            by_link: Vec::new(),
            seen: Vec::new(),
            turn: 0,
            begin: Instant::now(),
            sent: 0,
            latency: histogram(),
            late: histogram(),
            unconfirmed: 0,
        }
    }

    /// Adds a publisher that uses its topics in turn.
    pub(crate) fn publisher(&mut self, clients: &Clients, link: usize, topics: &[String]) -> Result<()> {
        let Shape { qos, retain, payload_bytes, .. } = self.shape;
        ensure!(payload_bytes >= STAMP_BYTES, "{payload_bytes} bytes of payload have no room for a stamp");
        if self.by_link.len() <= link {
            self.by_link.resize(link + 1, None);
        }
        self.by_link[link] = Some(self.publishers.len());
        let template = |topic: &String| Template::new(topic, qos, retain, payload_bytes, clients.version);
        let templates = topics.iter().map(template).collect::<Result<_>>()?;
        self.publishers.push(Publisher { link, templates, sent: 0, acked: 0, delivered: 0 });
        Ok(())
    }

    /// Publishes until the bound, then waits until everything under way is confirmed. Returns how many
    /// messages were published.
    ///
    /// # Errors
    /// A message was refused, lost, came twice or out of order, or the load itself was late.
    pub(crate) fn run(&mut self, clients: &mut Clients, until: Until) -> Result<u64> {
        let begin = Instant::now();
        let first = self.sent;
        self.latency.reset();
        self.late.reset();
        let mut last_news = begin;
        let mut is_sending = true;
        loop {
            let elapsed = begin.elapsed().as_secs_f64();
            let published = self.sent - first;
            is_sending = is_sending && elapsed < until.seconds && published < until.messages;
            if is_sending {
                let due = self.shape.rate.map_or(until.messages, |rate| (elapsed * rate) as u64 + 1);
                self.publish(clients, begin, first, due.min(until.messages) - published.min(due))?;
            } else if self.unconfirmed == 0 {
                self.on_time()?;
                return Ok(published);
            }
            let timeout = match self.shape.rate {
                Some(rate) if is_sending => {
                    // The poller knows whole milliseconds only.
                    let next_s = (self.sent - first) as f64 / rate - begin.elapsed().as_secs_f64();
                    clients.flush()?;
                    std::thread::sleep(Duration::from_secs_f64(next_s.clamp(0.0, 0.01)));
                    Duration::ZERO
                }
                _ => Duration::from_millis(100),
            };
            let mut has_news = false;
            clients.turn(Some(timeout), |clients, link, frame| {
                has_news = true;
                self.take(clients, link, frame)
            })?;
            if has_news {
                last_news = Instant::now();
            }
            if last_news.elapsed() > SILENCE_MAX {
                bail!("{} of {} messages were not confirmed: lost", self.unconfirmed, self.sent);
            }
        }
    }

    /// # Errors
    /// It was the load that was slow, not the server.
    fn on_time(&self) -> Result<()> {
        let late = Duration::from_nanos(self.late.value_at_quantile(0.99));
        ensure!(
            late <= LATE_MAX,
            "the load was late: one message in a hundred went out {late:?} after it was due"
        );
        Ok(())
    }

    fn confirmed(shape: &Shape, publisher: &Publisher) -> u64 {
        let acked = if shape.qos == QoS::AtMostOnce { publisher.sent } else { publisher.acked };
        match shape.fan_out {
            0 => acked,
            1 => acked.min(publisher.delivered),
            fan_out => acked.min(publisher.delivered / fan_out),
        }
    }

    /// Publishes up to `most` messages, each publisher as many as its window allows; a paced load goes from
    /// publisher to publisher.
    fn publish(&mut self, clients: &mut Clients, begin: Instant, first: u64, mut most: u64) -> Result<()> {
        let count = self.publishers.len();
        for _ in 0..count {
            if most == 0 {
                return Ok(());
            }
            self.turn = (self.turn + 1) % count;
            let publisher = &self.publishers[self.turn];
            let under_way = publisher.sent - Self::confirmed(&self.shape, publisher);
            let mut free = self.shape.window.saturating_sub(under_way);
            if self.shape.retain {
                free = free.min((publisher.templates.len() as u64).saturating_sub(publisher.sent));
            }
            let now = free.min(most).min(if self.shape.rate.is_some() { 1 } else { u64::MAX });
            for _ in 0..now {
                let due_ns = match self.shape.rate {
                    None => 0,
                    Some(rate) => {
                        let due = Duration::from_secs_f64((self.sent - first) as f64 / rate);
                        let late = begin.elapsed().saturating_sub(due);
                        self.late.saturating_record(late.as_nanos() as u64);
                        ((begin - self.begin) + due).as_nanos() as u64
                    }
                };
                self.publish_one(clients, due_ns);
            }
            most -= now;
        }
        Ok(())
    }

    fn publish_one(&mut self, clients: &mut Clients, due_ns: u64) {
        let publisher = &mut self.publishers[self.turn];
        // The window is far smaller than the 65,535 ids, so an id is free again when its turn comes.
        let id = (publisher.sent % u64::from(u16::MAX)) as u16 + 1;
        let template = &publisher.templates[publisher.sent as usize % publisher.templates.len()];
        publisher.sent += 1;
        self.sent += 1;
        self.unconfirmed += 1;
        let stamp = Stamp { publisher: self.turn as u32, seq: publisher.sent, due_ns };
        clients.send_publish(publisher.link, template, id, &stamp.to_bytes());
    }

    fn take(&mut self, clients: &mut Clients, link: usize, frame: Frame<'_>) -> Result<()> {
        match frame {
            Frame::Publish { qos, packet_id, payload } => {
                clients.acknowledge(link, qos, packet_id);
                self.delivered(link, payload)
            }
            Frame::Ack { kind: AckKind::Ack | AckKind::Comp, .. } => {
                let at = self.by_link.get(link).copied().flatten().context("an ack without a publish")?;
                self.confirm(at, |publisher| publisher.acked += 1);
                Ok(())
            }
            Frame::Ack { kind, packet_id } => {
                answer(clients, link, kind, packet_id);
                Ok(())
            }
            Frame::Other(packet) => match *packet {
                Packet::SubAck(suback) => granted(&suback.reasons),
                other => bail!("unexpected {other:?}"),
            },
        }
    }

    fn delivered(&mut self, link: usize, payload: &[u8]) -> Result<()> {
        ensure!(payload.len() == self.shape.payload_bytes, "a payload of {} bytes", payload.len());
        let stamp = Stamp::of(payload)?;
        let at = stamp.publisher as usize;
        let publisher = self.publishers.get(at).with_context(|| format!("no publisher sent {stamp:?}"))?;
        if publisher.templates.len() == 1 {
            let seen = self.seen(link, at);
            ensure!(
                stamp.seq == *seen + 1,
                "message {} of publisher {at} came after {seen}: lost, twice, or out of order",
                stamp.seq
            );
            *seen = stamp.seq;
        }
        if self.shape.rate.is_some() {
            let now_ns = self.begin.elapsed().as_nanos() as u64;
            self.latency.saturating_record(now_ns.saturating_sub(stamp.due_ns));
        }
        self.confirm(at, |publisher| publisher.delivered += 1);
        Ok(())
    }

    fn confirm(&mut self, at: usize, change: impl FnOnce(&mut Publisher)) {
        let publisher = &mut self.publishers[at];
        let before = Self::confirmed(&self.shape, publisher);
        change(publisher);
        self.unconfirmed -= Self::confirmed(&self.shape, publisher) - before;
    }

    fn seen(&mut self, link: usize, publisher: usize) -> &mut u64 {
        if self.seen.len() <= link {
            self.seen.resize(link + 1, Vec::new());
        }
        let seen = &mut self.seen[link];
        // Mostly a subscriber hears one publisher, or all.
        if seen.len() <= publisher {
            seen.resize(publisher + 1, 0);
        }
        &mut seen[publisher]
    }
}

/// Goes on with a QoS 2 exchange.
pub(crate) fn answer(clients: &mut Clients, link: usize, kind: AckKind, packet_id: u16) {
    match kind {
        AckKind::Rec => clients.send_ack(link, AckKind::Rel, packet_id),
        AckKind::Rel => clients.send_ack(link, AckKind::Comp, packet_id),
        AckKind::Ack | AckKind::Comp => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp { publisher: 7, seq: 1 << 40, due_ns: 123_456_789_012 };
        let mut payload = stamp.to_bytes().to_vec();
        payload.resize(PAYLOAD_BYTES, b'x');
        assert_eq!(Stamp::of(&payload).unwrap(), stamp);
        assert!(Stamp::of(&payload[..STAMP_BYTES - 1]).is_err());
    }
}
