//! The messages that a session sent and that have not ended, and the packet ids they have.

use std::num::NonZeroU64;

use protocol::PacketId;

use super::Session;
use crate::memory::entry_bytes;
use crate::message::Delivery;

/// How far a message in flight has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlightState {
    /// PUBLISH is out, or to be sent again.
    Sent,
    /// PUBREC came; PUBREL is out, or to be sent again.
    Released {
        /// Orders those of a session by their PUBREC.
        at: NonZeroU64,
    },
}

/// A message with a packet id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) packet_id: PacketId,
    pub(crate) delivery: Delivery,
    pub(crate) state: FlightState,
    /// Whether it went out on the current connection.
    pub(crate) on_this_connection: bool,
}

/// How many packet ids there are.
const IDS: usize = u16::MAX as usize;

/// The id after this one in the circle of 1 to 65,535.
fn after(id: u16) -> u16 {
    id % u16::MAX + 1
}

impl Session {
    /// Gives a free packet id. [MQTT-2.2.1-4] none that is in flight is given again.
    pub(crate) fn take_packet_id(&mut self) -> Option<PacketId> {
        if self.in_flight.len() >= IDS {
            return None;
        }
        if self.free_ids == 0 {
            self.find_free_ids();
        }
        let id = PacketId::new(self.next_packet_id);
        self.next_packet_id = after(self.next_packet_id);
        self.free_ids -= 1;
        id
    }

    /// Moves on to the next id that is free, and counts how many free ones follow it: ids are given in a
    /// circle, so this is needed only when it meets one that is still in flight.
    fn find_free_ids(&mut self) {
        let next = usize::from(self.next_packet_id);
        let ahead = |id: PacketId| (usize::from(id.get()) + IDS - next) % IDS;
        let mut taken: Vec<usize> = self.in_flight.iter().map(|f| ahead(f.packet_id)).collect();
        taken.sort_unstable();
        taken.dedup();
        let mut taken = taken.into_iter().peekable();
        let mut free = 0;
        while taken.next_if_eq(&free).is_some() {
            free += 1;
        }
        self.free_ids = (taken.next().unwrap_or(IDS) - free) as u16;
        self.next_packet_id = ((next - 1 + free) % IDS + 1) as u16;
    }

    /// Puts a message in flight under an id that `take_packet_id` gave; the window counts it when it is
    /// sent now.
    pub(crate) fn push_in_flight(&mut self, packet_id: PacketId, delivery: Delivery, sent_now: bool) {
        self.window_used += usize::from(sent_now);
        self.share.grow(entry_bytes(&delivery));
        let state = FlightState::Sent;
        self.in_flight.push_back(InFlight { packet_id, delivery, state, on_this_connection: sent_now });
    }

    /// Puts a message back in flight, from the log.
    pub(crate) fn restore_in_flight(&mut self, packet_id: PacketId, delivery: Delivery) {
        self.push_in_flight(packet_id, delivery, false);
        self.next_packet_id = after(packet_id.get());
        self.free_ids = 0;
    }

    pub(crate) fn in_flight(&self, packet_id: PacketId) -> Option<&InFlight> {
        self.in_flight.iter().find(|f| f.packet_id == packet_id)
    }

    pub(crate) fn in_flight_mut(&mut self, packet_id: PacketId) -> Option<&mut InFlight> {
        self.in_flight.get_mut()?.iter_mut().find(|f| f.packet_id == packet_id)
    }

    /// Notes that the PUBREC of a message in flight came; says whether it is the first one.
    pub(crate) fn release(&mut self, packet_id: PacketId) -> bool {
        let at = NonZeroU64::MIN.saturating_add(self.released);
        let is_first = self.in_flight_mut(packet_id).is_some_and(|entry| {
            let is_first = entry.state == FlightState::Sent;
            if is_first {
                entry.state = FlightState::Released { at };
            }
            is_first
        });
        self.released += u64::from(is_first);
        is_first
    }

    /// Places in flight of the messages whose PUBREC came, in the order it came in.
    pub(crate) fn released(&self) -> Vec<usize> {
        let places = self.in_flight.iter().enumerate().filter_map(|(place, f)| match f.state {
            FlightState::Released { at } => Some((at, place)),
            FlightState::Sent => None,
        });
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        places.into_iter().map(|(_, place)| place).collect()
    }

    /// Ends an in-flight message.
    pub(crate) fn end_in_flight(&mut self, packet_id: PacketId) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|f| f.packet_id == packet_id)?;
        let ended = self.in_flight.remove(at)?;
        self.share.shrink(entry_bytes(&ended.delivery));
        self.window_used -= usize::from(ended.on_this_connection);
        Some(ended)
    }
}
