//! The segment after the current one, made aside while the log goes on; and the space in reserve for one more.
//!
//! Making one takes several syncs; whoever commits need not wait for them. The log orders one ([`Log::order_spare`]),
//! any thread makes it ([`SpareOrder::make`]), the log takes it when it is there. Until it is taken it has no name that
//! counts: opening removes it.
//!
//! Invariant: nothing else makes a segment while an order is out, so the number it was given stays the next one.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::file_disk::is_no_space;
use crate::format::{FILE_HEADER_BYTES, FileHeader, Kind, VERSION};
use crate::log::{Durability, Log};
use crate::segment::{Segment, TEMPORARY, name};

/// The file that is kept in reserve.
const RESERVE: &str = "log.reserve";
/// Bytes written and synced at once where space is filled: what is committed meanwhile waits behind no more.
const FILL_BYTES: usize = 256 * 1024;

/// An order for a segment; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct SpareOrder<D: Disk> {
    disk: Arc<D>,
    id: u64,
    capacity: u64,
    is_filled: bool,
    made: SyncSender<io::Result<Segment<D::File>>>,
}

/// What the log knows of an order that is out.
#[derive(Debug)]
pub(crate) struct Ordered<F> {
    id: u64,
    pub(crate) capacity: u64,
    made: Receiver<io::Result<Segment<F>>>,
}

impl<D: Disk> SpareOrder<D> {
    /// Makes the segment, on any thread; the log takes it.
    pub(crate) fn make(self) {
        let made = make(&*self.disk, self.id, self.capacity, self.is_filled);
        // The log may have been closed.
        let _ = self.made.send(made);
    }
}

/// Makes an empty segment under its temporary name. Filled means that its space is written and not only reserved: then a
/// commit changes nothing but bytes that are there, and its sync need not wait for the file system's own log.
pub(crate) fn make<D: Disk>(
    disk: &D,
    id: u64,
    capacity: u64,
    is_filled: bool,
) -> io::Result<Segment<D::File>> {
    let header = FileHeader::new(Kind::Segment, id, disk.nonce());
    let file = disk.create(&temporary_name(id))?;
    file.allocate(capacity)?;
    let end = FILE_HEADER_BYTES as u64;
    if is_filled {
        let zeros = vec![0; FILL_BYTES.min(capacity as usize)];
        let mut at = end;
        while at < capacity {
            let bytes = (capacity - at).min(zeros.len() as u64) as usize;
            file.write_at(&zeros[..bytes], at)?;
            file.sync()?;
            at += bytes as u64;
        }
    }
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    Ok(Segment { id, nonce: header.nonce, version: VERSION, file, capacity, end })
}

/// Returns the name that a segment has until it is whole.
pub(crate) fn temporary_name(id: u64) -> String {
    format!("{}{TEMPORARY}", name(Kind::Segment, id))
}

impl<D: Disk> Log<D> {
    /// Orders the segment after the current one if it is missing and there is space for it by the quota; whoever gets the
    /// order makes it. To have it filled is worth it with syncs on a message's way.
    ///
    /// # Errors
    /// `Poisoned`.
    pub(crate) fn order_spare(&mut self, is_busy: bool) -> Result<Option<SpareOrder<D>>, LogError> {
        self.check_poison()?;
        let capacity = self.config.segment_bytes;
        if self.tail.len() != 1 || self.ordered.is_some() || self.is_full || !self.is_within_quota(capacity) {
            return Ok(None);
        }
        let id = self.next_segment_id();
        let (made, is_made) = sync_channel(1);
        self.ordered = Some(Ordered { id, capacity, made: is_made });
        let is_filled = is_busy && self.config.durability == Durability::Power;
        Ok(Some(SpareOrder { disk: self.disk.clone(), id, capacity, is_filled, made }))
    }

    /// Whether the segment after the current one is missing, is not ordered, and is not known to have no space.
    pub(crate) fn lacks_spare(&self) -> bool {
        self.tail.len() < 2 && self.ordered.is_none() && !self.is_full
    }

    /// Takes the ordered segment if it is there, or waits for it. Says whether one was taken.
    ///
    /// # Errors
    /// A failure other than want of space, after which the log is full, poisons the log.
    pub(crate) fn take_spare(&mut self, waits: bool) -> Result<bool, LogError> {
        let Some(Ordered { id, made, .. }) = &self.ordered else { return Ok(false) };
        let (id, made) = match made.try_recv() {
            Err(TryRecvError::Empty) if !waits => return Ok(false),
            Err(TryRecvError::Empty) => (*id, made.recv().ok()),
            Err(TryRecvError::Disconnected) => (*id, None),
            Ok(made) => (*id, Some(made)),
        };
        self.ordered = None;
        match made {
            Some(made) => self.add_made(id, made),
            // Nobody made it: it is made when it is needed.
            None => Ok(false),
        }
    }

    /// Gives a segment its name and adds it to the tail; returns whether there was space for it.
    pub(crate) fn add_made(&mut self, id: u64, made: io::Result<Segment<D::File>>) -> Result<bool, LogError> {
        let temporary = temporary_name(id);
        // A file gets its name when its header is on disk: a named file without a header is damage.
        let named = made.and_then(|segment| {
            self.disk.rename(&temporary, &segment.name())?;
            self.disk.sync_dir()?;
            Ok(segment)
        });
        match named {
            Ok(segment) => {
                self.tail.push_back(segment);
                if self.tail.len() == 1 {
                    self.tell_files();
                }
                Ok(true)
            }
            Err(error) if is_no_space(&error) => {
                self.remove_temporary(&temporary)?;
                Ok(false)
            }
            Err(source) => Err(self.poison("preallocate", &temporary, source)),
        }
    }

    /// Makes the reserve where it is missing; returns whether it is there, or not asked for.
    pub(crate) fn keep_reserve(&mut self) -> Result<bool, LogError> {
        if self.has_reserve || !self.config.keeps_reserve {
            return Ok(true);
        }
        let bytes = self.config.segment_bytes;
        // One that was left is whole only if all of it has its space.
        let made = self.disk.create(RESERVE).and_then(|file| file.allocate(bytes));
        match made {
            Ok(()) => self.has_reserve = true,
            // A part of it is of no use.
            Err(error) if is_no_space(&error) => self.remove_temporary(RESERVE)?,
            Err(source) => return Err(self.poison("preallocate", RESERVE, source)),
        }
        Ok(self.has_reserve)
    }

    /// Makes a segment beyond the quota, if nothing is beyond it yet, for records that found no space; says whether there
    /// is one. The current segment is left then, so that it can be rewritten: with the reserve used up nothing else
    /// may end the records that fill the others.
    pub(crate) fn make_way(&mut self) -> Result<bool, LogError> {
        self.check_poison()?;
        if self.tail.len() > 1 || !self.is_within_quota(0) {
            return Ok(false);
        }
        let mut made = self.add_segment(self.config.segment_bytes)?;
        if !made && std::mem::take(&mut self.has_reserve) {
            self.remove_temporary(RESERVE)?;
            self.sync_dir()?;
            made = self.add_segment(self.config.segment_bytes)?;
        }
        self.is_over_quota = !self.is_within_quota(0);
        // Until the reserve is there again.
        self.is_full |= !self.has_reserve && self.config.keeps_reserve;
        Ok(made)
    }
}
