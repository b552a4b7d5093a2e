//! MQTT packets in a stream of bytes, as far as the network looks into them: the answer to CONNECT, and a thief for tests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use device_sdk::Bytes;
use tokio::sync::Notify;

const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;

/// Whether the broker's first bytes say that it takes the connection.
pub(super) fn is_accepted(first: &[u8]) -> bool {
    // CONNACK, a remaining length of one byte, flags, and the reason code: success.
    matches!(first, [0x20, _, _, 0, ..])
}

/// Test only: somebody on the way who takes a record and acknowledges it in the broker's name.
#[derive(Debug)]
pub(super) struct Theft {
    /// Records that pass before.
    pass: AtomicU64,
    /// Acknowledgements that nobody's broker sent.
    forged: Mutex<VecDeque<Bytes>>,
    pub(super) has_forged: Notify,
}

impl Theft {
    pub(super) fn at(pass: u64) -> Theft {
        Theft { pass: AtomicU64::new(pass), forged: Mutex::default(), has_forged: Notify::new() }
    }

    pub(super) fn take_forged(&self) -> Option<Bytes> {
        self.forged.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Looks at a packet from the device: `None` when it is taken.
    pub(super) fn look(&self, packet: Bytes) -> Option<Bytes> {
        let is_record = packet[0] >> 4 == PUBLISH && (packet[0] >> 1) & 3 == 1;
        let Some(id) = is_record.then(|| packet_id(&packet)).flatten() else { return Some(packet) };
        // It wraps once it is done: nobody sends so many records.
        if self.pass.fetch_sub(1, Ordering::Relaxed) != 0 {
            return Some(packet);
        }
        let forged = Bytes::from(vec![PUBACK << 4, 2, id[0], id[1]]);
        self.forged.lock().unwrap_or_else(PoisonError::into_inner).push_back(forged);
        self.has_forged.notify_one();
        None
    }
}

/// The packet identifier of a PUBLISH.
fn packet_id(packet: &[u8]) -> Option<[u8; 2]> {
    let (header, _) = lengths(packet)?;
    let topic = u16::from_be_bytes(packet.get(header..header + 2)?.try_into().ok()?);
    let at = header + 2 + usize::from(topic);
    packet.get(at..at + 2)?.try_into().ok()
}

/// Bytes of the fixed header, and of the packet with it; `None` while too few are there.
fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (place, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((place + 2, place + 2 + length));
        }
    }
    None
}

/// Cuts a stream into packets.
#[derive(Debug, Default)]
pub(super) struct Frames {
    rest: Vec<u8>,
}

impl Frames {
    /// Takes what came; returns the packets that are whole with it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        self.rest.extend_from_slice(bytes);
        let mut packets = Vec::new();
        while let Some((_, whole)) = lengths(&self.rest).filter(|(_, whole)| *whole <= self.rest.len()) {
            packets.push(self.rest.drain(..whole).collect());
        }
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PUBLISH at QoS 1 to "a/b".
    const RECORD: [u8; 10] = [0x32, 8, 0, 3, b'a', b'/', b'b', 0x12, 0x34, 0];

    #[test]
    fn packets_come_whole_however_the_stream_is_cut() {
        let large = [&[0x30, 0xc8, 0x01][..], &[7; 200]].concat();
        let stream = [&RECORD[..], &[0xc0, 0], &large].concat();
        for step in 1..stream.len() {
            let mut frames = Frames::default();
            let packets: Vec<Bytes> = stream.chunks(step).flat_map(|piece| frames.push(piece)).collect();
            let want: [&[u8]; 3] = [&RECORD, &[0xc0, 0], &large];
            assert_eq!(packets, want, "pieces of {step}");
        }
    }

    #[test]
    fn the_thief_takes_one_record_and_forges_its_acknowledgement() {
        let theft = Theft::at(1);
        let record = Bytes::from_static(&RECORD);
        assert_eq!(theft.look(record.clone()), Some(record.clone()));
        assert_eq!(theft.look(Bytes::from_static(&[0xc0, 0])).as_deref(), Some(&[0xc0, 0][..]));
        assert_eq!(
            (theft.look(record.clone()), theft.take_forged().as_deref()),
            (None, Some(&[0x40, 2, 0x12, 0x34][..]))
        );
        assert_eq!((theft.look(record.clone()), theft.take_forged()), (Some(record), None));
    }
}
