//! What kind of run a seed makes.

use engine::{Planted, Retention};

/// The size of a run and what is wrong in it on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: u32,
    /// Messages that one run makes at most.
    pub(super) messages: u64,
    /// Messages in one queue; what is more is dropped.
    pub(super) queue_messages_max: usize,
    /// Bytes of bodies that stay in memory though the log has them; 0 = all stay.
    pub(super) bodies_bytes_max: usize,
    /// Recipients above which receipts are counted.
    pub(super) receipts_listed_max: usize,
    /// Connections in a row that a message may end; 0 = any number.
    pub(super) poison_after: u32,
    /// In the end messages go through while nothing else happens, and memory must not keep them.
    pub(super) measures_memory: bool,
    /// How much of each conversation is kept.
    pub(super) retention: Retention,
    /// A mistake of the engine's.
    pub(super) planted: Option<Planted>,
    /// A mistake of the log's: it vouches for what is not on the disk.
    pub(super) skips_sync: bool,
    /// Print everything as it happens.
    pub(super) is_traced: bool,
}

impl Plan {
    /// The plan of a seed: each fifth has short queues, each second keeps few bodies in memory, half keep all of
    /// conversations and the others little, some count receipts, and some set poison aside.
    pub(super) fn of(seed: u64) -> Self {
        Self {
            steps: 4_000,
            messages: 250,
            queue_messages_max: if seed % 5 == 4 { 12 } else { 100_000 },
            bodies_bytes_max: if seed.is_multiple_of(2) { 2_000 } else { 0 },
            receipts_listed_max: if seed % 5 == 2 { 2 } else { 50 },
            poison_after: if seed % 4 == 3 { 5 } else { 0 },
            // One of those that keep few messages.
            measures_memory: seed % 4 == 1,
            retention: retention(seed),
            planted: None,
            skips_sync: false,
            is_traced: false,
        }
    }

    /// Whether conversations give up what is old, all of it in the end.
    pub(super) fn has_short_memory(&self) -> bool {
        self.retention.age_s < Retention::default().age_s
    }

    /// Whether receipts of messages with few recipients are counted.
    pub(super) fn counts_receipts(&self) -> bool {
        self.receipts_listed_max < 10
    }

    /// Whether messages may end because a queue is full.
    pub(super) fn has_short_queues(&self) -> bool {
        self.queue_messages_max < self.messages as usize
    }
}

fn retention(seed: u64) -> Retention {
    let all = Retention::default();
    match seed % 6 {
        1 => Retention { messages: 9, ..all },
        3 => Retention { bytes: 4_000, ..all },
        5 => Retention { age_s: 15, ..all },
        _ => all,
    }
}
