//! The flash: two slots for images and a few small records.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use storage::{Disk, DiskFile, FileDisk};

/// One of the two places for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Returns the one that this is not.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

/// What updates need of a device's flash. What was written and not synced may be there after a power cut or not, in any part.
pub trait Flash: Send {
    /// Returns the bytes that fit into a slot.
    fn slot_bytes(&self) -> u64;

    /// Writes a part of an image.
    ///
    /// # Errors
    /// Those of the device, as for all that follow.
    fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written to a slot durable.
    fn sync(&mut self, slot: Slot) -> io::Result<()>;

    /// Fills `bytes` with a part of an image.
    fn read(&self, slot: Slot, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes one of four records, of at most 8 KiB, durable on return. A power cut may leave anything in it, and leaves the other
    /// records as they are.
    fn write_record(&mut self, number: usize, bytes: &[u8]) -> io::Result<()>;

    /// Reads a record; what was never written is empty.
    fn read_record(&self, number: usize) -> io::Result<Vec<u8>>;
}

/// Most bytes of a record.
pub(super) const RECORD_BYTES_MAX: usize = 8 * 1024;
const SLOTS: [&str; 2] = ["slot-a.img", "slot-b.img"];
const RECORDS: [&str; 4] = ["boot-0.rec", "boot-1.rec", "download-0.rec", "download-1.rec"];

/// Slots and records as files of one directory: for gateways whose boot loader, or whose supervisor, reads files.
#[derive(Debug)]
pub struct DiskFlash<D: Disk = FileDisk> {
    disk: D,
    slots: Vec<D::File>,
    records: Vec<D::File>,
    slot_bytes: u64,
    _lock: D::Lock,
}

impl DiskFlash {
    /// Opens the directory, made if absent, with slots of this size; one process at a time.
    ///
    /// # Errors
    /// The directory is locked by another process or not accessible, or its disk is full.
    pub fn open(dir: &Path, slot_bytes: u64) -> io::Result<Self> {
        Self::open_on(FileDisk::open(dir)?, slot_bytes)
    }
}

impl<D: Disk> DiskFlash<D> {
    /// Opens slots and records on this disk: see [`DiskFlash::open`].
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_on(disk: D, slot_bytes: u64) -> io::Result<Self> {
        let lock = disk.lock().map_err(|error| io::Error::other(format!("slots in use: {error:?}")))?;
        let there = disk.list()?;
        let mut is_new = false;
        let mut open = |name: &str| {
            if there.iter().any(|file| file == name) {
                return disk.open(name);
            }
            is_new = true;
            disk.create(name)
        };
        let slots: Vec<D::File> = SLOTS.into_iter().map(&mut open).collect::<io::Result<_>>()?;
        let records: Vec<D::File> = RECORDS.into_iter().map(&mut open).collect::<io::Result<_>>()?;
        if is_new {
            disk.sync_dir()?;
        }
        Ok(Self { disk, slots, records, slot_bytes, _lock: lock })
    }

    /// Returns the path of a slot's file: what a supervisor starts.
    pub fn path(&self, slot: Slot) -> std::path::PathBuf {
        self.disk.path(SLOTS[slot.index()])
    }
}

impl<D: Disk> Flash for DiskFlash<D> {
    fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.slots[slot.index()].write_at(bytes, offset)
    }

    fn sync(&mut self, slot: Slot) -> io::Result<()> {
        self.slots[slot.index()].sync()
    }

    fn read(&self, slot: Slot, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.slots[slot.index()].read_at(bytes, offset)
    }

    fn write_record(&mut self, number: usize, bytes: &[u8]) -> io::Result<()> {
        self.records[number].write_at(bytes, 0)?;
        self.records[number].sync()
    }

    fn read_record(&self, number: usize) -> io::Result<Vec<u8>> {
        let file = &self.records[number];
        let length = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(RECORD_BYTES_MAX);
        let mut bytes = vec![0; length];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}
