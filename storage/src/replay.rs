//! Reading the committed records back, oldest first.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use crate::disk::Disk;
use crate::error::LogError;
use crate::format::{FILE_HEADER_BYTES, Kind};
use crate::log::{Log, Lsn};
use crate::scan::{Bad, Found, Window, read_group};
use crate::segment::name;

/// A file to read, as it was when the reading began.
#[derive(Debug)]
struct Part {
    name: String,
    nonce: u64,
    end: u64,
}

/// The committed records from some number on, one group in memory at a time.
#[derive(Debug)]
struct Replay<'a, D: Disk> {
    disk: &'a D,
    from: u64,
    parts: VecDeque<Part>,
    window: Option<Window<D::File>>,
    offset: u64,
    records: VecDeque<(Lsn, Bytes)>,
}

impl<D: Disk> Log<D> {
    /// Returns all committed records that are still in the log, oldest first. Reads one group at a time;
    /// appended records that are not committed do not appear. After an error it ends.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn replay(&self) -> Result<impl Iterator<Item = Result<(Lsn, Bytes), LogError>>, LogError> {
        self.replay_from(Lsn(1))
    }

    /// Returns the committed records from this number on; see [`Log::replay`].
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn replay_from(
        &self,
        lsn: Lsn,
    ) -> Result<impl Iterator<Item = Result<(Lsn, Bytes), LogError>>, LogError> {
        self.check_poison()?;
        let sealed = self.sealed.iter().filter(|file| file.next_lsn > lsn.0);
        let sealed = sealed.map(|file| Part { name: file.name(), nonce: file.nonce, end: file.end });
        let current = self.tail.front().map(|current| Part {
            name: name(Kind::Segment, current.id),
            nonce: current.nonce,
            end: current.end,
        });
        Ok(Replay {
            disk: &self.disk,
            from: lsn.0,
            parts: sealed.chain(current).collect(),
            window: None,
            offset: 0,
            records: VecDeque::new(),
        })
    }
}

impl<D: Disk> Replay<'_, D> {
    /// Reads the next group; `false` at the end.
    fn fill(&mut self) -> Result<bool, LogError> {
        while let Some(part) = self.parts.front() {
            let failed =
                |source: io::Error| LogError::Io { action: "read", file: self.disk.path(&part.name), source };
            let window = match &mut self.window {
                Some(window) => window,
                none => {
                    let file = self.disk.open(&part.name).map_err(failed)?;
                    self.offset = FILE_HEADER_BYTES as u64;
                    none.insert(Window::new(file).map_err(failed)?)
                }
            };
            if self.offset >= part.end {
                self.parts.pop_front();
                self.window = None;
                continue;
            }
            let (from, records) = (self.from, &mut self.records);
            let found = read_group(window, part.nonce, self.offset, |lsn, payload| {
                if lsn >= from {
                    // A copy: a slice would keep its whole group in memory.
                    records.push_back((Lsn(lsn), Bytes::copy_from_slice(payload)));
                }
            });
            match found.map_err(failed)? {
                Found::Group(group) => self.offset += group.stride(),
                Found::Bad(Bad { offset, what }) => {
                    return Err(LogError::Corrupt {
                        file: self.disk.path(&part.name),
                        offset,
                        what: what.to_owned(),
                    });
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}

impl<D: Disk> Iterator for Replay<'_, D> {
    type Item = Result<(Lsn, Bytes), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Some(Ok(record));
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.parts.clear();
                    self.records.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}
