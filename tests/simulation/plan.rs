//! What kind of run a seed makes.

use engine::Planted;

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
    /// A mistake of the engine's.
    pub(super) planted: Option<Planted>,
    /// A mistake of the log's: it vouches for what is not on the disk.
    pub(super) skips_sync: bool,
    /// Print everything as it happens.
    pub(super) is_traced: bool,
}

impl Plan {
    /// The plan of a seed: each fifth has short queues, each second keeps few bodies in memory.
    pub(super) fn of(seed: u64) -> Self {
        Self {
            steps: 4_000,
            messages: 250,
            queue_messages_max: if seed % 5 == 4 { 12 } else { 100_000 },
            bodies_bytes_max: if seed.is_multiple_of(2) { 2_000 } else { 0 },
            planted: None,
            skips_sync: false,
            is_traced: false,
        }
    }

    /// Whether messages may end because a queue is full.
    pub(super) fn has_short_queues(&self) -> bool {
        self.queue_messages_max < self.messages as usize
    }
}
