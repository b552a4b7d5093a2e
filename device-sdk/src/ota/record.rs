//! A small value in two copies with checksums, written in turn: one of them is always whole.
//!
//! ```text
//! "PROT" | version u8 | sequence u64 | length u32 | JSON | CRC-32 of all before        (little endian)
//! ```

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::flash::{Flash, RECORD_BYTES_MAX};

const MAGIC: &[u8; 4] = b"PROT";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 17;

/// Where a value is kept: the records `first` and `first + 1` of a flash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    first: usize,
}

/// What decides which slot starts.
pub(super) const BOOT: Kept = Kept { first: 0 };
/// How far a download is.
pub(super) const DOWNLOAD: Kept = Kept { first: 2 };

impl Kept {
    /// Reads the newest whole copy.
    pub(super) fn load<T: DeserializeOwned>(self, flash: &impl Flash) -> io::Result<Option<T>> {
        Ok(self.newest(flash)?.and_then(|(_, json)| serde_json::from_slice(&json).ok()))
    }

    /// Overwrites the older copy; on return that is durable.
    pub(super) fn store<T: Serialize>(self, flash: &mut impl Flash, value: &T) -> io::Result<()> {
        let sequence = self.newest(flash)?.map_or(0, |(sequence, _)| sequence) + 1;
        let json = serde_json::to_vec(value)?;
        let copy = self.first + usize::from(sequence % 2 == 1);
        let bytes = encode(sequence, &json);
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(io::Error::other(format!("a record of {} bytes is too large", bytes.len())));
        }
        flash.write_record(copy, &bytes)
    }

    fn newest(self, flash: &impl Flash) -> io::Result<Option<(u64, Vec<u8>)>> {
        let copies = [flash.read_record(self.first)?, flash.read_record(self.first + 1)?];
        Ok(copies.iter().filter_map(|copy| decode(copy)).max_by_key(|(sequence, _)| *sequence))
    }
}

fn encode(sequence: u64, json: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + json.len() + 4);
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
    bytes.extend_from_slice(json);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Returns sequence and JSON of a whole copy; what is behind it is from a longer one before.
fn decode(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    if !header.starts_with(MAGIC) || header[4] != VERSION {
        return None;
    }
    let sequence = u64::from_le_bytes(header[5..13].try_into().ok()?);
    let length = u32::from_le_bytes(header[13..17].try_into().ok()?) as usize;
    let json = rest.get(..length)?;
    let crc = u32::from_le_bytes(rest.get(length..length.checked_add(4)?)?.try_into().ok()?);
    (crc32fast::hash(&bytes[..HEADER_BYTES + length]) == crc).then(|| (sequence, json.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_on_flash_keeps_its_form_and_any_change_to_it_is_seen() {
        let bytes = encode(7, br#"{"a":1}"#);
        let golden = b"PROT\x01\x07\0\0\0\0\0\0\0\x07\0\0\0{\"a\":1}";
        assert_eq!(&bytes[..golden.len()], golden);
        assert_eq!(decode(&bytes), Some((7, br#"{"a":1}"#.to_vec())));
        let longer_before = [&bytes[..], b"rest"].concat();
        assert_eq!(decode(&longer_before), decode(&bytes));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert_eq!(decode(&changed), None, "byte {at}");
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
