//! The bytes on disk: segment header, group header, record. All numbers are little-endian.
//!
//! ```text
//! file    = segment header (64) , group* , zeros up to the preallocated size
//! group   = group header (56) , record* , zeros up to a multiple of 8
//! record  = crc u32 , length u32 , payload
//! footer  = group header , body: (first LSN u64 , offset u64)* , records u64 , offset u64 of the footer ,
//!           entries u32 , crc u32
//!
//! segment header:  0 magic "POSTRLOG"   8 version u16  10 kind u8 (1 segment, 2 checkpoint, 3 kept)
//!                 16 id u64            24 nonce u64    60 crc u32 of 0..60; zeros between
//!                 of a kept file: 32 first id u64   40 first LSN u64   48 next LSN u64
//! group header:    0 nonce u64          8 offset u64 of this header in the file  16 first LSN u64
//!                 24 durable LSN u64   32 start LSN u64   40 body length u32 (without the zeros after it)
//!                 44 record count u32  48 flags u32 (1 end of checkpoint, 2 footer, 4 sparse)
//!                 52 crc u32 of 0..52
//! ```
//!
//! Every version keeps magic, version and the header's length and CRC where they are. The nonce is random,
//! new for each file and never zero: it starts every group header and seeds every CRC, so that bytes of
//! another file, of another place in this one, or chosen by a client, never decode. A record's CRC is also
//! seeded with its LSN and covers its length. Zeros where a group header would be are the end.
//!
//! A full segment ends with a footer, a group without records: its body says where groups start, about each 64 KB,
//! and its last 24 bytes are the file's last ones, so that opening finds it from the end. The footer's CRC is seeded
//! as a record's with the footer's offset, and covers its body before it.
//!
//! A kept file holds what is left of the segments from its first id to its id, which it replaces. Its groups are
//! sparse: a record's first four bytes of payload, which its length counts, are its LSN less the group's first one.
//!
//! Version 1 has neither footers nor kept files.

use crc32fast::Hasher;

use crate::index::{Entry, GroupIndex};

/// Version of the files that are made.
pub(crate) const VERSION: u16 = 2;
/// Oldest version that is read.
pub(crate) const VERSION_MIN: u16 = 1;
/// First version whose segments end with a footer.
pub(crate) const FOOTER_VERSION: u16 = 2;
pub(crate) const FILE_HEADER_BYTES: usize = 64;
pub(crate) const GROUP_HEADER_BYTES: usize = 56;
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Groups start at multiples of this.
pub(crate) const ALIGN_BYTES: u64 = 8;
/// No log lives this long; keeps sums of record numbers in their type.
const LSN_MAX: u64 = 1 << 62;
/// Flag of the last group of a checkpoint.
pub(crate) const END_OF_CHECKPOINT: u32 = 1;
/// Flag of a group whose records tell their numbers.
pub(crate) const SPARSE: u32 = 4;
/// Flag of a footer.
pub(crate) const FOOTER: u32 = 2;
/// The end of a footer, of which the rest is found.
pub(crate) const TRAILER_BYTES: usize = 24;
const INDEX_ENTRY_BYTES: usize = 16;
/// A number in a record of a sparse group.
const SPARSE_BYTES: usize = 4;

const MAGIC: [u8; 8] = *b"POSTRLOG";

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A part of the log.
    Segment,
    /// The records that replace all segments up to and including its id.
    Checkpoint,
    /// Some records of the segments that it replaces, with their numbers.
    Kept,
}

/// The first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) version: u16,
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) nonce: u64,
    /// Of a kept file; zeros for others.
    pub(crate) replaces: Replaces,
}

/// What a kept file replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replaces {
    /// The oldest segment; 0 with a checkpoint among them.
    pub(crate) first_id: u64,
    /// The first record number of them, whether it is kept or not.
    pub(crate) first_lsn: u64,
    /// The number after their last record.
    pub(crate) next_lsn: u64,
}

/// Why the first bytes of a file are no header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged(&'static str),
    Version(u16),
}

impl FileHeader {
    pub(crate) fn new(kind: Kind, id: u64, nonce: u64) -> Self {
        Self { version: VERSION, kind, id, nonce, replaces: Replaces::default() }
    }

    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10] = match self.kind {
            Kind::Segment => 1,
            Kind::Checkpoint => 2,
            Kind::Kept => 3,
        };
        bytes[16..24].copy_from_slice(&self.id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.replaces.first_id.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.replaces.first_lsn.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.replaces.next_lsn.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; FILE_HEADER_BYTES]) -> Result<Self, HeaderError> {
        if bytes[..8] != MAGIC {
            return Err(HeaderError::Damaged("the file header does not start with POSTRLOG"));
        }
        if crc32fast::hash(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(HeaderError::Damaged("the file header's checksum does not match"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let kind = match bytes[10] {
            1 => Kind::Segment,
            2 => Kind::Checkpoint,
            3 => Kind::Kept,
            _ => return Err(HeaderError::Damaged("the file header names an unknown kind of file")),
        };
        let (id, nonce) = (u64_at(bytes, 16), u64_at(bytes, 24));
        if nonce == 0 {
            return Err(HeaderError::Damaged("the file header's nonce is zero"));
        }
        let (first_id, first_lsn, next_lsn) = (u64_at(bytes, 32), u64_at(bytes, 40), u64_at(bytes, 48));
        if kind == Kind::Kept
            && (first_id > id || first_lsn > next_lsn || next_lsn > LSN_MAX || first_lsn == 0)
        {
            return Err(HeaderError::Damaged("the file header's numbers make no sense"));
        }
        Ok(Self { version, kind, id, nonce, replaces: Replaces { first_id, first_lsn, next_lsn } })
    }
}

/// The frame of the records that were written together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// Where it is in the file.
    pub(crate) offset: u64,
    /// Number of its first record; without records, the next that will be given.
    pub(crate) first_lsn: u64,
    /// Everything up to this record was synced before this group was written.
    pub(crate) durable_lsn: u64,
    /// Everything below this record was given up before this group was written; this record and all later ones
    /// were still in the log.
    pub(crate) start_lsn: u64,
    pub(crate) body_bytes: u32,
    pub(crate) count: u32,
    pub(crate) flags: u32,
}

impl GroupHeader {
    pub(crate) fn encode(&self, nonce: u64) -> [u8; GROUP_HEADER_BYTES] {
        let mut bytes = [0; GROUP_HEADER_BYTES];
        bytes[..8].copy_from_slice(&nonce.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_lsn.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable_lsn.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.start_lsn.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.count.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.flags.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..52]);
        bytes[52..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a header that belongs at `offset` of the file with this nonce.
    pub(crate) fn decode(bytes: &[u8], nonce: u64, offset: u64) -> Result<Self, &'static str> {
        let Some(bytes) = bytes.first_chunk::<GROUP_HEADER_BYTES>() else {
            return Err("the file ends inside a group header");
        };
        if u64_at(bytes, 0) != nonce {
            return Err("no group of this file starts here");
        }
        if crc32fast::hash(&bytes[..52]) != u32_at(bytes, 52) {
            return Err("a group header's checksum does not match");
        }
        if u64_at(bytes, 8) != offset {
            return Err("a group header belongs to another place");
        }
        let (first_lsn, durable_lsn, start_lsn) = (u64_at(bytes, 16), u64_at(bytes, 24), u64_at(bytes, 32));
        if durable_lsn >= first_lsn || first_lsn > LSN_MAX || start_lsn > first_lsn {
            return Err("a group header's record numbers make no sense");
        }
        Ok(Self {
            offset,
            first_lsn,
            durable_lsn,
            start_lsn,
            body_bytes: u32_at(bytes, 40),
            count: u32_at(bytes, 44),
            flags: u32_at(bytes, 48),
        })
    }

    /// Returns the bytes from this group's start to the next one's.
    pub(crate) fn stride(&self) -> u64 {
        group_bytes(u64::from(self.body_bytes))
    }
}

/// Returns the size of a group whose records take `body_bytes`.
pub(crate) fn group_bytes(body_bytes: u64) -> u64 {
    (GROUP_HEADER_BYTES as u64 + body_bytes).next_multiple_of(ALIGN_BYTES)
}

/// Returns the size of a record in a sparse group.
pub(crate) fn sparse_record_bytes(payload_bytes: usize) -> u64 {
    record_bytes(payload_bytes) + SPARSE_BYTES as u64
}

/// Returns the size of a record in a group.
pub(crate) fn record_bytes(payload_bytes: usize) -> u64 {
    RECORD_HEADER_BYTES as u64 + payload_bytes as u64
}

/// Appends a record to a group's body.
pub(crate) fn encode_record(body: &mut Vec<u8>, nonce: u64, lsn: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("records are limited to 1 GiB");
    body.reserve(RECORD_HEADER_BYTES + payload.len());
    let start = body.len();
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(payload);
    let crc = record_crc(nonce, lsn, &body[start + 4..]);
    body[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Appends a record to a sparse group's body.
pub(crate) fn encode_sparse_record(body: &mut Vec<u8>, nonce: u64, first_lsn: u64, lsn: u64, payload: &[u8]) {
    let length = u32::try_from(payload.len() + SPARSE_BYTES).expect("records are limited to 1 GiB");
    let after = u32::try_from(lsn - first_lsn).expect("the caller begins a group when it no longer fits");
    let start = body.len();
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(&after.to_le_bytes());
    body.extend_from_slice(payload);
    let crc = record_crc(nonce, lsn, &body[start + 4..]);
    body[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Splits the first record off a group's body: its number, its payload, and the rest. `expected_lsn` is what follows the
/// one before.
pub(crate) fn split_next<'a>(
    body: &'a [u8],
    nonce: u64,
    group: &GroupHeader,
    expected_lsn: u64,
) -> Result<(u64, &'a [u8], &'a [u8]), &'static str> {
    if group.flags & SPARSE == 0 {
        let (payload, rest) = split_record(body, nonce, expected_lsn)?;
        return Ok((expected_lsn, payload, rest));
    }
    let after = body.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + SPARSE_BYTES);
    let after = after.ok_or("a record's header goes beyond its group")?;
    let lsn = group.first_lsn + u64::from(u32_at(after, 0));
    let (payload, rest) = split_record(body, nonce, lsn)?;
    match payload.get(SPARSE_BYTES..) {
        Some(payload) if lsn >= expected_lsn => Ok((lsn, payload, rest)),
        _ => Err("a record's number does not follow the last one before it"),
    }
}

/// Steps over the first record of a group's body, whatever is in it; `None` if its length cannot be true.
pub(crate) fn skip_record(body: &[u8]) -> Option<&[u8]> {
    let (header, rest) = body.split_first_chunk::<RECORD_HEADER_BYTES>()?;
    rest.get(u32_at(header, 4) as usize..)
}

/// Splits the first record off a group's body.
fn split_record(body: &[u8], nonce: u64, lsn: u64) -> Result<(&[u8], &[u8]), &'static str> {
    let Some((header, rest)) = body.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Err("a record's header goes beyond its group");
    };
    let length = u32_at(header, 4) as usize;
    let Some((payload, rest)) = rest.split_at_checked(length) else {
        return Err("a record's length goes beyond its group");
    };
    if record_crc(nonce, lsn, &body[4..RECORD_HEADER_BYTES + length]) != u32_at(header, 0) {
        return Err("a record's checksum does not match");
    }
    Ok((payload, rest))
}

/// Encodes the footer that belongs at `offset`, of a file whose records end before `next_lsn` and are all synced.
pub(crate) fn encode_footer(
    nonce: u64,
    offset: u64,
    next_lsn: u64,
    start_lsn: u64,
    records: u64,
    index: &GroupIndex,
) -> Vec<u8> {
    let entries = index.entries();
    let count = u32::try_from(entries.len()).expect("segments are limited to 1 GiB");
    let header = GroupHeader {
        offset,
        first_lsn: next_lsn,
        durable_lsn: next_lsn - 1,
        start_lsn,
        body_bytes: count * INDEX_ENTRY_BYTES as u32 + TRAILER_BYTES as u32,
        count: 0,
        flags: FOOTER,
    };
    let mut bytes = header.encode(nonce).to_vec();
    for entry in entries {
        bytes.extend_from_slice(&entry.first_lsn.to_le_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
    }
    bytes.extend_from_slice(&records.to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    let crc = record_crc(nonce, offset, &bytes[GROUP_HEADER_BYTES..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads from the last bytes of a file where its footer would start; `None` if they cannot be those of one.
pub(crate) fn footer_offset(trailer: &[u8; TRAILER_BYTES], file_bytes: u64) -> Option<u64> {
    let (offset, count) = (u64_at(trailer, 8), u64::from(u32_at(trailer, 16)));
    let bytes = (GROUP_HEADER_BYTES + TRAILER_BYTES) as u64 + count * INDEX_ENTRY_BYTES as u64;
    (offset >= FILE_HEADER_BYTES as u64 && offset.checked_add(bytes) == Some(file_bytes)).then_some(offset)
}

/// Decodes the body of the footer with this header: the index, and how many records there are.
pub(crate) fn decode_footer(
    body: &[u8],
    nonce: u64,
    header: &GroupHeader,
) -> Result<(GroupIndex, u64), &'static str> {
    let Some((entries, trailer)) = body.split_last_chunk::<TRAILER_BYTES>() else {
        return Err("a footer is too short");
    };
    if record_crc(nonce, header.offset, &body[..body.len() - 4]) != u32_at(trailer, 20) {
        return Err("a footer's checksum does not match");
    }
    let (entries, rest) = entries.as_chunks::<INDEX_ENTRY_BYTES>();
    let entry =
        |bytes: &[u8; INDEX_ENTRY_BYTES]| Entry { first_lsn: u64_at(bytes, 0), offset: u64_at(bytes, 8) };
    let index = GroupIndex::from_entries(entries.iter().map(entry).collect());
    if !rest.is_empty()
        || u32_at(trailer, 16) as usize != entries.len()
        || !index.is_below(header.first_lsn, header.offset)
    {
        return Err("a footer's index makes no sense");
    }
    Ok((index, u64_at(trailer, 0)))
}

fn record_crc(nonce: u64, lsn: u64, length_and_payload: &[u8]) -> u32 {
    let seed = nonce ^ lsn;
    let mut hasher = Hasher::new_with_initial((seed ^ (seed >> 32)) as u32);
    hasher.update(length_and_payload);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller's array is longer"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller's array is longer"))
}
