//! N of M: what several of the last fixes say is so.

/// The most votes that are remembered.
const OF_MAX: u32 = 16;

/// The last votes on one question.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Votes {
    /// The last votes, the newest in the lowest bit.
    yes: u16,
    since_ms: i64,
}

impl Votes {
    /// Takes a vote; gives the time of the first one when they are enough, and begins again.
    pub(super) fn push(&mut self, is_yes: bool, ts_ms: i64, confirm: u32, of: u32) -> Option<i64> {
        let confirm = confirm.clamp(1, OF_MAX);
        let mask = u16::MAX >> (OF_MAX - of.clamp(confirm, OF_MAX));
        self.yes = (self.yes << 1) & mask;
        if is_yes {
            if self.yes == 0 {
                self.since_ms = ts_ms;
            }
            self.yes |= 1;
        }
        if self.yes.count_ones() < confirm {
            return None;
        }
        *self = Votes { yes: 0, ..*self };
        Some(self.since_ms)
    }

    /// Whether nothing has been said for it.
    pub(super) fn is_clear(&self) -> bool {
        self.yes == 0
    }
}
