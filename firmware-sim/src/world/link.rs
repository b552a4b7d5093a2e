//! One TCP connection over a mobile network: delay, loss as stalls, rate, silence and resets.
//!
//! Packets of one direction never overtake each other. Loss shows as TCP shows it: the lost packet and all behind it come
//! later, by retransmission timeouts that double.

use std::collections::VecDeque;

use device_sdk::ProtocolVersion;
use device_sdk::client::{Packet, encoded_len};

use crate::pace::Pace;
use crate::scenario::{Links, OutageMode};

/// How a connection has ended without its ends knowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dead {
    /// Not at all.
    No,
    /// What is sent vanishes.
    Silent,
    /// Whoever sends is told.
    Reset,
}

/// Packets under way in one direction.
#[derive(Debug, Default)]
struct Lane {
    packets: VecDeque<Packet>,
    pace: Pace,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) number: u32,
    pub(super) is_open: bool,
    up: Lane,
    down: Lane,
    dead: Dead,
    /// When the carrier last saw a packet.
    passed_ms: u64,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

/// What became of a packet that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It arrives then.
    ArrivesAt(u64),
    /// It vanished.
    Vanished,
    /// It was answered with a reset.
    Reset,
}

impl Link {
    pub(super) fn new(number: u32, now_ms: u64) -> Link {
        let (up, down) = (Lane::default(), Lane::default());
        Link { number, is_open: false, up, down, dead: Dead::No, passed_ms: now_ms }
    }

    /// Ends it, with what is under way.
    pub(super) fn kill(&mut self, mode: OutageMode) {
        self.dead = match mode {
            OutageMode::Silent => Dead::Silent,
            OutageMode::Reset => Dead::Reset,
        };
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead != Dead::No
    }

    /// Sends a packet. `no_signal_until_ms`: nothing gets through before.
    pub(super) fn send(
        &mut self,
        way: Way,
        packet: Packet,
        now_ms: u64,
        no_signal_until_ms: u64,
        links: &Links,
        chance: &mut fastrand::Rng,
    ) -> Sent {
        self.forget(now_ms, links);
        match self.dead {
            Dead::No => {}
            Dead::Silent => return Sent::Vanished,
            Dead::Reset => return Sent::Reset,
        }
        let lane = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        let bytes = if links.bytes_per_s > 0 { encoded_len(&packet, ProtocolVersion::V5) } else { 0 };
        let arrives_ms = lane.pace.arrives_ms(bytes as u64, now_ms, no_signal_until_ms, links, chance);
        self.passed_ms = self.passed_ms.max(arrives_ms);
        lane.packets.push_back(packet);
        Sent::ArrivesAt(arrives_ms)
    }

    /// The carrier forgets a connection that was silent for too long.
    fn forget(&mut self, now_ms: u64, links: &Links) {
        let timeout_ms = links.nat_timeout_s * 1_000;
        if timeout_ms > 0 && self.is_open && now_ms > self.passed_ms + timeout_ms && !self.is_dead() {
            self.kill(links.nat);
        }
    }

    /// The oldest packet of a direction arrives, unless the connection has ended meanwhile.
    pub(super) fn arrive(&mut self, way: Way) -> Option<Packet> {
        let lane = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        let packet = lane.packets.pop_front();
        packet.filter(|_| self.dead == Dead::No)
    }

    /// What is still on its way to the broker when the device ends the connection in order.
    pub(super) fn rest_up(&mut self) -> VecDeque<Packet> {
        std::mem::take(&mut self.up.packets)
    }

    /// When all that is on its way to the device has arrived.
    pub(super) fn down_done_ms(&self, now_ms: u64) -> u64 {
        self.down.pace.last_ms().max(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(link: &mut Link, now_ms: u64, no_signal_until_ms: u64, links: &Links) -> Sent {
        let mut chance = fastrand::Rng::with_seed(now_ms);
        link.send(Way::Up, Packet::PingReq, now_ms, no_signal_until_ms, links, &mut chance)
    }

    fn open(links: &Links) -> Link {
        let mut link = Link::new(1, 0);
        link.is_open = true;
        assert!(matches!(send(&mut link, 0, 0, links), Sent::ArrivesAt(_)));
        link
    }

    #[test]
    fn packets_never_overtake_each_other_whatever_is_lost() {
        let links = Links { loss_percent: 30.0, jitter_ms: 500, ..Links::default() };
        let mut link = open(&links);
        let mut last = 0;
        for now_ms in 1..500 {
            let Sent::ArrivesAt(ms) = send(&mut link, now_ms, 0, &links) else { panic!("a live link") };
            assert!(ms >= last && ms >= now_ms + links.delay_ms);
            last = ms;
        }
        assert!(last > 1_500, "loss stalls: {last}");
    }

    #[test]
    fn a_rate_makes_a_queue() {
        let links =
            Links { bytes_per_s: 10, loss_percent: 0.0, jitter_ms: 0, delay_ms: 0, ..Links::default() };
        let mut link = open(&links);
        // A ping has two bytes: 200 ms each, the first one sent by `open`.
        assert_eq!(send(&mut link, 0, 0, &links), Sent::ArrivesAt(400));
        assert_eq!(send(&mut link, 0, 0, &links), Sent::ArrivesAt(600));
    }

    #[test]
    fn a_carrier_forgets_what_is_silent_for_too_long() {
        for (nat, want) in [(OutageMode::Silent, Sent::Vanished), (OutageMode::Reset, Sent::Reset)] {
            let links =
                Links { nat_timeout_s: 120, nat, loss_percent: 0.0, jitter_ms: 0, ..Links::default() };
            let mut link = open(&links);
            assert!(matches!(send(&mut link, 120_000, 0, &links), Sent::ArrivesAt(_)));
            assert_eq!(send(&mut link, 240_200, 0, &links), want);
        }
    }

    #[test]
    fn what_is_sent_without_signal_comes_after_it() {
        let links = Links::default();
        let mut link = open(&links);
        let Sent::ArrivesAt(ms) = send(&mut link, 1_000, 31_000, &links) else { panic!("a live link") };
        assert!((31_000..48_000).contains(&ms), "{ms}");
    }
}
