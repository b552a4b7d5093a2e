//! Which messages of one conversation are kept, and where: the index of its part of the log.
//!
//! Numbers are given without gaps, so a piece holds its first one and the rest follows from the place. Only a
//! conversation that was numbered before messages were kept has holes: a new piece begins behind each.

use std::collections::VecDeque;

use protocol::QoS;

use super::senders::SenderNo;
use crate::message::MsgNo;

/// Messages in one piece at most: what is moved when it grows is small.
const PIECE: usize = 256;

/// One message that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) seq: u64,
    /// The record that holds it.
    pub(crate) place: u64,
    pub(crate) no: MsgNo,
    pub(crate) ts_unix_ms: u64,
    /// When it expires, 0 = never.
    pub(crate) expiry_unix_ms: u64,
    /// Bytes as a queue counts them.
    pub(crate) bytes: u32,
    /// QoS it was published at.
    pub(crate) qos: QoS,
    pub(crate) sender: SenderNo,
}

/// The same without its number.
#[derive(Clone, Copy, Debug)]
struct Slot {
    place: u64,
    no: MsgNo,
    ts_unix_ms: u64,
    expiry_unix_ms: u64,
    /// Bytes and QoS in one.
    size: u32,
    sender: SenderNo,
}

/// Bits of a size that are its bytes: more than any packet has.
const BYTES_BITS: u32 = 30;

/// Bytes that one message needs here.
pub(crate) const STORED_BYTES: usize = size_of::<Slot>();

#[derive(Debug)]
struct Piece {
    first_seq: u64,
    /// How many of the first slots are gone.
    gone: usize,
    slots: Vec<Slot>,
}

impl Piece {
    fn next_seq(&self) -> u64 {
        self.first_seq + self.slots.len() as u64
    }

    fn kept_from(&self) -> u64 {
        self.first_seq + self.gone as u64
    }

    fn stored(&self, at: usize) -> Option<Stored> {
        let Slot { place, no, ts_unix_ms, expiry_unix_ms, size, sender } = *self.slots.get(at)?;
        let seq = self.first_seq + at as u64;
        let bytes = size & ((1 << BYTES_BITS) - 1);
        let qos = QoS::from_u8((size >> BYTES_BITS) as u8).unwrap_or_default();
        Some(Stored { seq, place, no, ts_unix_ms, expiry_unix_ms, bytes, qos, sender })
    }
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pieces: VecDeque<Piece>,
    len: usize,
    bytes: u64,
}

impl Index {
    /// Messages kept.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of all messages.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn first(&self) -> Option<Stored> {
        self.pieces.front().and_then(|piece| piece.stored(piece.gone))
    }

    pub(crate) fn last_seq(&self) -> Option<u64> {
        self.pieces.back().map(|piece| piece.next_seq() - 1)
    }

    /// Adds a message behind all others; one that is not behind them is ignored. Says whether it was added.
    pub(crate) fn push(&mut self, stored: Stored) -> bool {
        let Stored { seq, place, no, ts_unix_ms, expiry_unix_ms, bytes, qos, sender } = stored;
        let bytes = bytes.min((1 << BYTES_BITS) - 1);
        if self.last_seq().is_some_and(|last| seq <= last) {
            return false;
        }
        let fits = |piece: &Piece| piece.next_seq() == seq && piece.slots.len() < PIECE;
        if !self.pieces.back().is_some_and(fits) {
            self.pieces.push_back(Piece { first_seq: seq, gone: 0, slots: Vec::new() });
        }
        if let Some(piece) = self.pieces.back_mut() {
            let size = bytes | u32::from(qos as u8) << BYTES_BITS;
            piece.slots.push(Slot { place, no, ts_unix_ms, expiry_unix_ms, size, sender });
        }
        self.len += 1;
        self.bytes += u64::from(bytes);
        true
    }

    /// Takes the oldest out.
    pub(crate) fn pop(&mut self) -> Option<Stored> {
        let piece = self.pieces.front_mut()?;
        let popped = piece.stored(piece.gone)?;
        piece.gone += 1;
        if piece.gone == piece.slots.len() {
            self.pieces.pop_front();
        }
        self.len -= 1;
        self.bytes -= u64::from(popped.bytes);
        Some(popped)
    }

    pub(crate) fn get(&self, seq: u64) -> Option<Stored> {
        self.range(seq).next().filter(|stored| stored.seq == seq)
    }

    /// Goes through the messages from a number on.
    pub(crate) fn range(&self, from_seq: u64) -> impl Iterator<Item = Stored> + '_ {
        let at = self.pieces.partition_point(|piece| piece.next_seq() <= from_seq);
        self.pieces.range(at..).flat_map(move |piece| {
            let from = from_seq.max(piece.kept_from()) - piece.first_seq;
            (from as usize..piece.slots.len()).filter_map(|at| piece.stored(at))
        })
    }

    /// Returns the first number whose message was accepted at this time or later; accept times never go back.
    pub(crate) fn seq_at(&self, ts_unix_ms: u64) -> Option<u64> {
        self.first_not(|slot| slot.ts_unix_ms < ts_unix_ms)
    }

    /// Returns the first number whose message is this one or came after it.
    pub(crate) fn seq_of(&self, no: MsgNo) -> Option<u64> {
        self.first_not(|slot| slot.no < no)
    }

    /// Finds the first message that is not before something, where all those before it stand first.
    fn first_not(&self, is_before: impl Fn(&Slot) -> bool) -> Option<u64> {
        let at = self.pieces.partition_point(|piece| piece.slots.last().is_some_and(&is_before));
        let piece = self.pieces.get(at)?;
        let slots = &piece.slots[piece.gone..];
        Some(piece.kept_from() + slots.partition_point(is_before) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored(seq: u64, ts_unix_ms: u64) -> Stored {
        let (place, no, bytes) = (seq * 3, MsgNo(seq * 2), seq as u32 % 7);
        let qos = QoS::from_u8((seq % 3) as u8).unwrap();
        Stored { seq, place, no, ts_unix_ms, expiry_unix_ms: 0, bytes, qos, sender: SenderNo(0) }
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_list_holds(
            steps in prop::collection::vec((0u8..10, 0u64..5), 1..900),
            asked in prop::collection::vec(0u64..1_200, 8),
        ) {
            let (mut index, mut list) = (Index::default(), Vec::<Stored>::new());
            let (mut seq, mut ts) = (0, 100);
            for (kind, n) in steps {
                if kind == 0 {
                    let oldest = (!list.is_empty()).then(|| list.remove(0));
                    prop_assert_eq!(index.pop(), oldest);
                    continue;
                }
                // Holes are rare.
                seq += if kind == 1 { 1 + n } else { 1 };
                ts += n / 3;
                prop_assert!(index.push(stored(seq, ts)));
                prop_assert!(!index.push(stored(seq, ts)), "a number stands there twice");
                list.push(stored(seq, ts));
            }
            prop_assert_eq!((index.len(), index.first()), (list.len(), list.first().copied()));
            prop_assert_eq!(index.bytes(), list.iter().map(|s| u64::from(s.bytes)).sum::<u64>());
            for asked in asked {
                let from: Vec<_> = list.iter().copied().filter(|s| s.seq >= asked).collect();
                prop_assert_eq!(index.get(asked), from.first().copied().filter(|s| s.seq == asked));
                prop_assert_eq!(index.range(asked).collect::<Vec<_>>(), from);
                let at = list.iter().find(|s| s.ts_unix_ms >= asked).map(|s| s.seq);
                prop_assert_eq!(index.seq_at(asked), at);
                let at = list.iter().find(|s| s.no >= MsgNo(asked)).map(|s| s.seq);
                prop_assert_eq!(index.seq_of(MsgNo(asked)), at);
            }
        }
    }

    #[test]
    fn a_message_needs_forty_bytes() {
        assert_eq!(STORED_BYTES, 40);
    }
}
