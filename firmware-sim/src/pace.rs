//! When what is sent over a mobile network arrives: delay and jitter, a rate, loss as TCP shows it, times without signal.
//!
//! One direction of one connection; nothing overtakes. What is lost, and all behind it, comes later, by retransmission
//! timeouts that double.

use crate::scenario::Links;

/// The first retransmission timeout, milliseconds.
const RETRANSMIT_MS: u64 = 300;
/// Doublings of it after which the rest of a stall is the same.
const RETRANSMITS_MAX: u32 = 7;

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the last of what was sent arrives.
    last_ms: u64,
    /// Until when the radio is busy with what was sent.
    busy_until_ms: u64,
}

impl Pace {
    /// When so many bytes that are sent now arrive. `no_signal_until_ms`: nothing gets through before.
    pub(crate) fn arrives_ms(
        &mut self,
        bytes: u64,
        now_ms: u64,
        no_signal_until_ms: u64,
        links: &Links,
        chance: &mut fastrand::Rng,
    ) -> u64 {
        let mut sent_ms = now_ms;
        if no_signal_until_ms > now_ms {
            // TCP tries again ever more rarely, so that it comes some time after the end.
            let rest_ms = (no_signal_until_ms - now_ms).clamp(RETRANSMIT_MS, 60_000);
            sent_ms = no_signal_until_ms + chance.u64(0..=rest_ms / 2);
        }
        if links.bytes_per_s > 0 {
            let busy_ms = (bytes * 1_000).div_ceil(links.bytes_per_s);
            sent_ms = sent_ms.max(self.busy_until_ms) + busy_ms;
            self.busy_until_ms = sent_ms;
        }
        sent_ms += stall_ms(links, chance);
        let jitter_ms = if links.jitter_ms > 0 { chance.u64(0..=links.jitter_ms) } else { 0 };
        self.last_ms = self.last_ms.max(sent_ms + links.delay_ms + jitter_ms);
        self.last_ms
    }

    /// When all that was sent has arrived.
    pub(crate) fn last_ms(&self) -> u64 {
        self.last_ms
    }
}

/// How much later something comes for loss: retransmissions that double, until one is not lost.
fn stall_ms(links: &Links, chance: &mut fastrand::Rng) -> u64 {
    let share = links.loss_percent / 100.0;
    let (mut stalled_ms, mut tries) = (0, 0);
    while share > 0.0 && tries < RETRANSMITS_MAX && chance.f64() < share {
        stalled_ms += RETRANSMIT_MS << tries;
        tries += 1;
    }
    stalled_ms
}
