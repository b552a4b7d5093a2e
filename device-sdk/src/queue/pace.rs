//! How much of the backlog is under way at a time: as much as the broker acknowledges within a second.
//!
//! Whatever is under way is ahead of an entry that comes now, on the link and at the broker. So the backlog's share grows
//! while acknowledgements come soon and shrinks when they do not, as congestion windows do; the time an entry
//! of now spends behind it stays near the target on a slow link, and a fast link is filled.

use std::collections::BTreeMap;

/// Acknowledgements within this let the share grow.
const TARGET_MS: u64 = 700;
/// Later than this, and it is halved.
const LATE_MS: u64 = 1_000;
/// Least and most bytes under way.
const BYTES_MIN: usize = 512;
const BYTES_MAX: usize = 1024 * 1024;
const BYTES_FIRST: usize = 2 * 1024;
/// Counted for an entry beside its record: packet header, properties, the transport's frames.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// The backlog's share of the link.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_max: usize,
    bytes: usize,
    /// When each was sent, and its bytes; by class and number.
    under_way: BTreeMap<(usize, u64), (u64, usize)>,
    /// One halving for all that was sent before it.
    halved_at_ms: u64,
    /// Doubles while nothing was late yet.
    has_been_late: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            bytes_max: BYTES_FIRST,
            bytes: 0,
            under_way: BTreeMap::new(),
            halved_at_ms: 0,
            has_been_late: false,
        }
    }
}

/// The room in the window of unacknowledged messages that the broker and the options allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    /// In use.
    pub(crate) used: usize,
    /// The limit.
    pub(crate) max: usize,
}

impl Pace {
    /// Says whether another entry of the backlog may go out. A quarter of the slots stays free for entries of now.
    pub(super) fn has_room(&self, slots: Slots) -> bool {
        let slots_max = (slots.max - slots.max / 4).max(1);
        slots.used < slots_max && (self.under_way.is_empty() || self.bytes < self.bytes_max)
    }

    pub(super) fn sent(&mut self, key: (usize, u64), now_ms: u64, record_bytes: usize) {
        let bytes = record_bytes + ENTRY_OVERHEAD_BYTES;
        self.bytes += bytes;
        if let Some((_, bytes)) = self.under_way.insert(key, (now_ms, bytes)) {
            self.bytes -= bytes;
        }
    }

    /// It was acknowledged.
    pub(super) fn acked(&mut self, key: (usize, u64), now_ms: u64) {
        let Some((sent_ms, bytes)) = self.forget(key) else { return };
        let took_ms = now_ms.saturating_sub(sent_ms);
        if took_ms > LATE_MS {
            if sent_ms >= self.halved_at_ms {
                self.bytes_max = (self.bytes_max / 2).max(BYTES_MIN);
                self.halved_at_ms = now_ms;
            }
            self.has_been_late = true;
        } else if took_ms < TARGET_MS {
            let more = if self.has_been_late { (bytes * bytes / self.bytes_max).max(16) } else { bytes };
            self.bytes_max = (self.bytes_max + more).min(BYTES_MAX);
        }
    }

    /// It is not under way any more, without an acknowledgement.
    pub(super) fn forget(&mut self, key: (usize, u64)) -> Option<(u64, usize)> {
        let (sent_ms, bytes) = self.under_way.remove(&key)?;
        self.bytes -= bytes;
        Some((sent_ms, bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const RECORD_BYTES: usize = 172;
    const SLOTS_MAX: usize = 64;

    /// A link of this rate with the backlog on it and an entry of now each second; returns how long those took to the other
    /// end, sorted, and the backlog's share of the link.
    fn drain(bytes_per_s: u64, delay_ms: u64) -> (Vec<u64>, f64) {
        let mut pace = Pace::default();
        // Sent, bytes, and whether it is an entry of now; the link is first in, first out.
        let mut link: VecDeque<(u64, u64, Option<u64>)> = VecDeque::new();
        let mut acks: VecDeque<(u64, u64)> = VecDeque::new();
        let (mut free_at_ms, mut number, mut took, mut carried) = (0_u64, 0_u64, Vec::new(), 0_u64);
        for now_ms in 0..600_000_u64 {
            let mut send = |number: Option<u64>, link: &mut VecDeque<_>| {
                let bytes = (RECORD_BYTES + ENTRY_OVERHEAD_BYTES) as u64;
                free_at_ms = free_at_ms.max(now_ms) + (bytes * 1_000).div_ceil(bytes_per_s);
                link.push_back((free_at_ms, now_ms, number));
            };
            if now_ms % 1_000 == 0 {
                send(None, &mut link);
            }
            while pace.has_room(Slots { used: link.len() + acks.len(), max: SLOTS_MAX }) {
                number += 1;
                pace.sent((3, number), now_ms, RECORD_BYTES);
                send(Some(number), &mut link);
            }
            while link.front().is_some_and(|(at_ms, ..)| *at_ms + delay_ms <= now_ms) {
                let (_, sent_ms, number) = link.pop_front().unwrap();
                match number {
                    Some(number) => acks.push_back((now_ms + delay_ms, number)),
                    None => took.push(now_ms - sent_ms),
                }
                carried += (RECORD_BYTES + ENTRY_OVERHEAD_BYTES) as u64;
            }
            while acks.front().is_some_and(|(at_ms, _)| *at_ms <= now_ms) {
                pace.acked((3, acks.pop_front().unwrap().1), now_ms);
            }
        }
        took.sort_unstable();
        (took, carried as f64 / (bytes_per_s as f64 * 600.0))
    }

    #[test]
    fn an_entry_of_now_waits_little_behind_the_backlog_at_any_rate_of_the_link() {
        // From 2G to Wi-Fi; the least share of the link that must be in use.
        for (bytes_per_s, delay_ms, used_min) in
            [(1_500, 150, 0.6), (5_000, 150, 0.9), (20_000, 60, 0.5), (200_000, 20, 0.3)]
        {
            let (took, used) = drain(bytes_per_s, delay_ms);
            let p99 = took[took.len() * 99 / 100];
            println!("{bytes_per_s} bytes/s: p99 {p99} ms, {used:.2} of the link used");
            assert!(p99 <= 2_000, "{bytes_per_s} bytes/s: p99 {p99} ms");
            assert!(used >= used_min, "{bytes_per_s} bytes/s: {used:.2} of the link is used");
        }
    }

    #[test]
    fn slots_stay_free_for_entries_of_now_and_one_slot_is_enough_to_go_on() {
        let pace = Pace::default();
        assert!(pace.has_room(Slots { used: 0, max: 1 }) && !pace.has_room(Slots { used: 1, max: 1 }));
        assert!(pace.has_room(Slots { used: 2, max: 4 }) && !pace.has_room(Slots { used: 3, max: 4 }));
        assert!(pace.has_room(Slots { used: 47, max: 64 }) && !pace.has_room(Slots { used: 48, max: 64 }));
    }

    #[test]
    fn an_entry_larger_than_the_share_goes_alone() {
        let mut pace = Pace::default();
        pace.sent((3, 1), 0, 4 * BYTES_MAX);
        assert!(!pace.has_room(Slots { used: 0, max: 64 }));
        assert_eq!(pace.forget((3, 1)).map(|(sent_ms, _)| sent_ms), Some(0));
        assert!(pace.has_room(Slots { used: 0, max: 64 }) && pace.bytes == 0);
    }
}
