//! What is on its way in one direction, with the time at which each piece arrives.

use std::collections::VecDeque;

use device_sdk::Bytes;

use crate::pace::Pace;
use crate::scenario::Links;

/// Bytes on their way in one direction beyond which no more are read.
pub(super) const LANE_BYTES_MAX: usize = 64 * 1024;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pieces: VecDeque<(u64, Bytes)>,
    bytes: usize,
    pace: Pace,
}

impl Lane {
    /// Takes a piece on its way; returns when it arrives.
    pub(super) fn push(
        &mut self,
        piece: Bytes,
        now_ms: u64,
        no_signal_until_ms: u64,
        links: &Links,
        chance: &mut fastrand::Rng,
    ) -> u64 {
        let ms = self.pace.arrives_ms(piece.len() as u64, now_ms, no_signal_until_ms, links, chance);
        self.bytes += piece.len();
        self.pieces.push_back((ms, piece));
        ms
    }

    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < LANE_BYTES_MAX
    }

    /// When the oldest piece arrives.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.pieces.front().map(|(ms, _)| *ms)
    }

    /// Takes the oldest piece, if it has arrived.
    pub(super) fn arrive(&mut self, now_ms: u64) -> Option<Bytes> {
        let (_, piece) = self.pieces.pop_front_if(|(ms, _)| *ms <= now_ms)?;
        self.bytes -= piece.len();
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_arrive_in_order_at_their_time_and_a_full_lane_takes_no_more() {
        let links = Links { jitter_ms: 30, loss_percent: 20.0, ..Links::default() };
        let (mut lane, mut chance) = (Lane::default(), fastrand::Rng::with_seed(1));
        let mut pushed = Vec::new();
        while lane.has_room() {
            let now_ms = pushed.len() as u64;
            pushed.push(lane.push(Bytes::from(vec![0; 1_000]), now_ms, 0, &links, &mut chance));
        }
        assert_eq!(pushed.len(), LANE_BYTES_MAX.div_ceil(1_000));
        assert!(pushed.is_sorted() && pushed[0] >= links.delay_ms, "{pushed:?}");
        assert_eq!((lane.next_ms(), lane.arrive(pushed[0] - 1)), (Some(pushed[0]), None));
        for ms in pushed {
            assert!(lane.arrive(ms).is_some());
        }
        assert!(lane.next_ms().is_none() && lane.bytes == 0);
    }
}
