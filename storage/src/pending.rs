//! What was appended and is not written yet: encoded groups in one buffer, each with its place in a segment.

use crate::format::{ALIGN_BYTES, GROUP_HEADER_BYTES, GroupHeader, encode_record, group_bytes, record_bytes};

/// Capacity of the buffer that is kept between commits.
const BUFFER_BYTES_KEPT: usize = 4 * 1024 * 1024;

/// A group that is being filled.
#[derive(Debug)]
pub(crate) struct PendingGroup {
    /// Which of the log's tail segments it goes to.
    pub(crate) tail_index: usize,
    /// Nonce of that segment.
    nonce: u64,
    /// Where in that segment.
    pub(crate) offset: u64,
    pub(crate) first_lsn: u64,
    pub(crate) count: u32,
    body_bytes: u64,
    /// Where in the buffer.
    start: usize,
}

/// Groups that wait for the next commit.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    groups: Vec<PendingGroup>,
    buffer: Vec<u8>,
}

impl PendingGroup {
    /// Returns where the group after this one goes.
    pub(crate) fn end(&self) -> u64 {
        self.offset + group_bytes(self.body_bytes)
    }

    /// Returns where it would end with one more record.
    pub(crate) fn end_with(&self, payload_bytes: usize) -> u64 {
        self.offset + group_bytes(self.body_bytes + record_bytes(payload_bytes))
    }

    pub(crate) fn next_lsn(&self) -> u64 {
        self.first_lsn + u64::from(self.count)
    }
}

impl Pending {
    pub(crate) fn last(&self) -> Option<&PendingGroup> {
        self.groups.last()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn groups(&self) -> &[PendingGroup] {
        &self.groups
    }

    /// Starts a group at this place.
    pub(crate) fn begin(&mut self, tail_index: usize, nonce: u64, offset: u64, first_lsn: u64) {
        self.pad();
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; GROUP_HEADER_BYTES]);
        self.groups.push(PendingGroup {
            tail_index,
            nonce,
            offset,
            first_lsn,
            count: 0,
            body_bytes: 0,
            start,
        });
    }

    /// Adds a record to the last group.
    pub(crate) fn push(&mut self, payload: &[u8]) {
        let group = self.groups.last_mut().expect("a group was begun");
        encode_record(&mut self.buffer, group.nonce, group.next_lsn(), payload);
        group.count += 1;
        group.body_bytes += record_bytes(payload.len());
    }

    /// Returns a group's bytes, its header now complete.
    pub(crate) fn seal(&mut self, index: usize, durable_lsn: u64, start_lsn: u64, flags: u32) -> &[u8] {
        self.pad();
        let group = &self.groups[index];
        let header = GroupHeader {
            offset: group.offset,
            first_lsn: group.first_lsn,
            durable_lsn,
            start_lsn,
            body_bytes: u32::try_from(group.body_bytes).expect("segments are far below 4 GiB"),
            count: group.count,
            flags,
        };
        let bytes = &mut self.buffer[group.start..group.start + header.stride() as usize];
        bytes[..GROUP_HEADER_BYTES].copy_from_slice(&header.encode(group.nonce));
        bytes
    }

    /// Forgets everything; keeps a buffer of usual size.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
    }

    fn pad(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(ALIGN_BYTES as usize), 0);
    }
}
