//! Reading a file of the log: group by group, every checksum checked, and what a bad place means.

use std::io;

use crate::disk::DiskFile;
use crate::format::{
    ALIGN_BYTES, END_OF_CHECKPOINT, FILE_HEADER_BYTES, FOOTER, FileHeader, GROUP_HEADER_BYTES, GroupHeader,
    HeaderError, TRAILER_BYTES, decode_footer, footer_offset, split_next,
};
use crate::index::GroupIndex;

/// Read ahead; a larger group is read whole.
const WINDOW_BYTES: usize = 256 * 1024;
/// Looked through at once; far below the window, so that a hit does not make it read again.
const STEP_BYTES: usize = 4096;

/// A file read front to back through a buffer.
#[derive(Debug)]
pub(crate) struct Window<F> {
    file: F,
    len: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl<F: DiskFile> Window<F> {
    pub(crate) fn new(file: F) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, len, buffer: Vec::new(), start: 0 })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the bytes from `offset` on, fewer at the end of the file.
    pub(crate) fn get(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let bytes = clamp(bytes, self.len.saturating_sub(offset));
        let is_inside =
            offset >= self.start && offset + bytes as u64 <= self.start + self.buffer.len() as u64;
        if !is_inside {
            let ahead = clamp(bytes.max(WINDOW_BYTES), self.len - offset);
            self.buffer.clear();
            self.buffer.resize(ahead, 0);
            self.file.read_at(&mut self.buffer, offset)?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..from + bytes])
    }

    /// Returns where the last byte that is not zero ends, at or after `from`.
    fn content_end(&mut self, from: u64) -> io::Result<u64> {
        let (mut end, mut at) = (from, from);
        while at < self.len {
            let chunk = self.get(at, WINDOW_BYTES)?;
            if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
                end = at + last as u64 + 1;
            }
            at += chunk.len() as u64;
        }
        Ok(end)
    }
}

fn clamp(bytes: usize, left: u64) -> usize {
    usize::try_from(left).map_or(bytes, |left| bytes.min(left))
}

/// What is where a group is expected.
pub(crate) enum Found {
    Group(GroupHeader),
    /// No group starts here, or it is damaged.
    Bad(Bad),
}

/// A place that does not decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) offset: u64,
    pub(crate) what: &'static str,
}

/// Reads the file's header.
pub(crate) fn read_file_header<F: DiskFile>(
    window: &mut Window<F>,
) -> io::Result<Result<FileHeader, HeaderError>> {
    let bytes = window.get(0, FILE_HEADER_BYTES)?;
    Ok(match bytes.first_chunk() {
        Some(bytes) => FileHeader::decode(bytes),
        None => Err(HeaderError::Damaged("the file ends inside its header")),
    })
}

/// Reads the group at `offset` and checks its records.
pub(crate) fn read_group<F: DiskFile>(window: &mut Window<F>, nonce: u64, offset: u64) -> io::Result<Found> {
    let bad = |offset, what| Ok(Found::Bad(Bad { offset, what }));
    let header = match GroupHeader::decode(window.get(offset, GROUP_HEADER_BYTES)?, nonce, offset) {
        Ok(header) => header,
        Err(what) => return bad(offset, what),
    };
    let body_at = offset + GROUP_HEADER_BYTES as u64;
    if header.stride() > window.len() - offset {
        return bad(offset, "a group goes beyond the end of the file");
    }
    let mut body = window.get(body_at, header.body_bytes as usize)?;
    if header.flags & FOOTER != 0 {
        return match decode_footer(body, nonce, &header) {
            Ok(_) => Ok(Found::Group(header)),
            Err(what) => bad(offset, what),
        };
    }
    let mut next_lsn = header.first_lsn;
    for _ in 0..header.count {
        match split_next(body, nonce, &header, next_lsn) {
            Ok((lsn, _, rest)) => (next_lsn, body) = (lsn + 1, rest),
            Err(what) => return bad(body_at + u64::from(header.body_bytes) - body.len() as u64, what),
        }
    }
    if !body.is_empty() {
        return bad(
            body_at + u64::from(header.body_bytes) - body.len() as u64,
            "a group has more bytes than records",
        );
    }
    Ok(Found::Group(header))
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Number of the first record; `None` without any group.
    pub(crate) first_lsn: Option<u64>,
    /// The highest start that a group names; 0 without any group.
    pub(crate) start_lsn: u64,
    /// Number after the last record; as expected without any group.
    pub(crate) next_lsn: Option<u64>,
    /// Where the good groups end.
    pub(crate) end: u64,
    /// Where the last content that is not zero ends.
    pub(crate) content_end: u64,
    /// Where the groups start that no later group proves to have been synced.
    pub(crate) unproven_from: u64,
    /// What is wrong at `end`, if not all zeros.
    pub(crate) bad: Option<Bad>,
    pub(crate) is_ended_checkpoint: bool,
    pub(crate) records: u64,
    pub(crate) index: GroupIndex,
    /// A footer follows the groups.
    pub(crate) has_footer: bool,
}

impl Scan {
    /// Returns whether it has no good group.
    pub(crate) fn is_empty(&self) -> bool {
        self.end == FILE_HEADER_BYTES as u64
    }

    fn note(&mut self, group: &GroupHeader) {
        self.first_lsn.get_or_insert(group.first_lsn);
        self.start_lsn = self.start_lsn.max(group.start_lsn);
        self.next_lsn = Some(group.first_lsn + u64::from(group.count));
        self.records += u64::from(group.count);
    }
}

/// Reads all groups of a file. `expected_lsn` is where the file before ended, `None` for the oldest.
pub(crate) fn scan<F: DiskFile>(
    window: &mut Window<F>,
    nonce: u64,
    expected_lsn: Option<u64>,
) -> io::Result<Scan> {
    let start = FILE_HEADER_BYTES as u64;
    let mut scan = Scan {
        first_lsn: None,
        start_lsn: 0,
        next_lsn: expected_lsn,
        end: start,
        content_end: start,
        unproven_from: start,
        bad: None,
        is_ended_checkpoint: false,
        records: 0,
        index: GroupIndex::default(),
        has_footer: false,
    };
    loop {
        let group = match read_group(window, nonce, scan.end)? {
            Found::Group(group) => group,
            Found::Bad(bad) => {
                scan.content_end = window.content_end(scan.end)?;
                scan.bad = (scan.content_end > scan.end).then_some(bad);
                return Ok(scan);
            }
        };
        if scan.next_lsn.is_some_and(|expected| expected != group.first_lsn) {
            // Its checksum holds, so it is no torn write: something before it is gone.
            let what = "a group's first record does not follow the last one before it";
            scan.bad = Some(Bad { offset: scan.end, what });
            scan.content_end = window.content_end(scan.end)?;
            return Ok(scan);
        }
        if group.flags & FOOTER != 0 {
            // Everything before it was synced before it was written.
            scan.unproven_from = scan.end;
            scan.has_footer = true;
            scan.note(&group);
            scan.content_end = scan.end + group.stride();
            return Ok(scan);
        }
        if group.durable_lsn + 1 == group.first_lsn {
            scan.unproven_from = scan.end;
        }
        if group.count > 0 {
            scan.index.note(group.first_lsn, scan.end);
        }
        scan.note(&group);
        scan.end += group.stride();
        if group.flags & END_OF_CHECKPOINT != 0 {
            scan.is_ended_checkpoint = true;
            scan.content_end = scan.end;
            return Ok(scan);
        }
    }
}

/// Takes what a segment holds from its footer; `None` if it does not end with one. Then its records are not looked at:
/// their checksums are checked when they are read.
pub(crate) fn scan_footer<F: DiskFile>(window: &mut Window<F>, nonce: u64) -> io::Result<Option<Scan>> {
    let Some(trailer_at) = window.len().checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let mut trailer = [0; TRAILER_BYTES];
    window.file.read_at(&mut trailer, trailer_at)?;
    let Some(offset) = footer_offset(&trailer, window.len()) else { return Ok(None) };
    let mut bytes =
        vec![0; usize::try_from(window.len() - offset).expect("its index was counted in 32 bits")];
    window.file.read_at(&mut bytes, offset)?;
    let Ok(header) = GroupHeader::decode(&bytes, nonce, offset) else { return Ok(None) };
    let body = &bytes[GROUP_HEADER_BYTES..];
    if header.flags & FOOTER == 0 || header.count > 0 || header.body_bytes as usize != body.len() {
        return Ok(None);
    }
    let Ok((index, records)) = decode_footer(body, nonce, &header) else { return Ok(None) };
    Ok(Some(Scan {
        first_lsn: Some(index.entries().first().map_or(header.first_lsn, |first| first.first_lsn)),
        start_lsn: header.start_lsn,
        next_lsn: Some(header.first_lsn),
        end: offset,
        content_end: window.len(),
        unproven_from: offset,
        bad: None,
        is_ended_checkpoint: false,
        records,
        index,
        has_footer: true,
    }))
}

/// Looks from `from` on for a group that was written after record `lsn` had been synced; returns its offset.
pub(crate) fn find_proof<F: DiskFile>(
    window: &mut Window<F>,
    nonce: u64,
    from: u64,
    lsn: u64,
) -> io::Result<Option<u64>> {
    let nonce_bytes = nonce.to_le_bytes();
    let mut at = from.next_multiple_of(ALIGN_BYTES);
    while at + GROUP_HEADER_BYTES as u64 <= window.len() {
        let chunk = window.get(at, STEP_BYTES)?;
        let candidates = chunk.len() / ALIGN_BYTES as usize;
        let hit = chunk.chunks_exact(ALIGN_BYTES as usize).position(|bytes| bytes == nonce_bytes);
        let Some(hit) = hit else {
            at += candidates as u64 * ALIGN_BYTES;
            continue;
        };
        at += hit as u64 * ALIGN_BYTES;
        if let Ok(group) = GroupHeader::decode(window.get(at, GROUP_HEADER_BYTES)?, nonce, at)
            && group.durable_lsn >= lsn
        {
            return Ok(Some(at));
        }
        at += ALIGN_BYTES;
    }
    Ok(None)
}
