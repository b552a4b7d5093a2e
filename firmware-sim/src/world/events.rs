//! What happens next: a queue ordered by time, and by the order of asking where times are the same.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Something that happens at its time. Devices go by their place, from 0 on; `link` tells a device's connections apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A device is switched on.
    Boot { device: u32 },
    /// A second of a device's life begins; `boot` tells its lives apart.
    Second { device: u32, boot: u32 },
    /// A device tries to connect.
    Dial { device: u32, boot: u32 },
    /// A device's connection is open.
    Opened { device: u32, link: u32 },
    /// The oldest packet on its way to the broker arrives.
    Up { device: u32, link: u32 },
    /// The oldest packet on its way to the device arrives.
    Down { device: u32, link: u32 },
    /// A device is told that its connection is gone.
    Ended { device: u32, link: u32 },
    /// The broker is told so.
    Gone { conn: u64 },
    /// The broker's records are durable.
    Commit,
    /// The broker's deadline.
    Timer,
    /// The broker has power again.
    BrokerUp,
    /// The office tries to connect.
    OfficeDials,
    /// The next entry of the scenario.
    Happens { index: u32 },
    /// A second of the run is over.
    Tell,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    asked: u64,
}

impl Events {
    pub(super) fn at(&mut self, ms: u64, event: Event) {
        self.asked += 1;
        self.heap.push(Reverse((ms, self.asked, event)));
    }

    pub(super) fn next(&mut self, until_ms: u64) -> Option<(u64, Event)> {
        let Reverse((ms, ..)) = self.heap.peek()?;
        if *ms > until_ms {
            return None;
        }
        self.heap.pop().map(|Reverse((ms, _, event))| (ms, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_asking() {
        let mut events = Events::default();
        events.at(20, Event::Tell);
        events.at(10, Event::Timer);
        events.at(10, Event::Commit);
        events.at(30, Event::BrokerUp);
        let order: Vec<_> = std::iter::from_fn(|| events.next(25)).collect();
        assert_eq!(order, [(10, Event::Timer), (10, Event::Commit), (20, Event::Tell)]);
    }
}
