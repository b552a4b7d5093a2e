//! The flash: two slots for images and a few small records.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

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
///
/// ```
/// use std::io;
/// use device_sdk::ota::{Boot, Flash, Slot};
///
/// /// Partitions as a maker has them; here in memory.
/// #[derive(Default)]
/// struct Partitions {
///     slots: [Vec<u8>; 2],
///     records: [Vec<u8>; 4],
/// }
///
/// fn at(slot: Slot) -> usize {
///     if slot == Slot::A { 0 } else { 1 }
/// }
///
/// impl Flash for Partitions {
///     fn slot_bytes(&self) -> u64 {
///         4096
///     }
///
///     fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> io::Result<()> {
///         let (slot, offset) = (&mut self.slots[at(slot)], offset as usize);
///         slot.resize(slot.len().max(offset + bytes.len()), 0xff);
///         slot[offset..offset + bytes.len()].copy_from_slice(bytes);
///         Ok(())
///     }
///
///     fn sync(&mut self, _: Slot) -> io::Result<()> {
///         Ok(())
///     }
///
///     fn read(&self, slot: Slot, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
///         let from = self.slots[at(slot)].get(offset as usize..offset as usize + bytes.len());
///         bytes.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
///         Ok(())
///     }
///
///     fn write_record(&mut self, number: usize, bytes: &[u8]) -> io::Result<()> {
///         self.records[number] = bytes.to_vec();
///         Ok(())
///     }
///
///     fn read_record(&self, number: usize) -> io::Result<Vec<u8>> {
///         Ok(self.records[number].clone())
///     }
/// }
///
/// let mut flash = Partitions::default();
/// Boot::provision(&mut flash, 1, "1.0.0", b"the first image")?;
/// assert_eq!(Boot::choose(&mut flash)?.image.name, "1.0.0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use device_sdk::ota::{Boot, DiskFlash, Slot};
///
/// let dir = tempfile::tempdir()?;
/// let mut flash = DiskFlash::open(dir.path(), 1024 * 1024)?;
/// Boot::provision(&mut flash, 1, "1.0.0", b"the first image")?;
/// let booted = Boot::choose(&mut flash)?;
/// assert_eq!((booted.slot, booted.image.release, booted.is_trial), (Slot::A, 1, false));
/// assert!(flash.path(booted.slot).is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DiskFlash<D: Disk = FileDisk> {
    disk: D,
    /// Opened when they are first needed: Linux lets nobody open a file for writing from which a program runs.
    slots: [OnceLock<D::File>; 2],
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
        for slot in SLOTS {
            if !there.iter().any(|file| file == slot) {
                open(slot)?;
            }
        }
        let records: Vec<D::File> = RECORDS.into_iter().map(&mut open).collect::<io::Result<_>>()?;
        if is_new {
            disk.sync_dir()?;
        }
        let slots = [OnceLock::new(), OnceLock::new()];
        Ok(Self { disk, slots, records, slot_bytes, _lock: lock })
    }

    /// Returns the path of a slot's file: what a supervisor starts.
    pub fn path(&self, slot: Slot) -> std::path::PathBuf {
        self.disk.path(SLOTS[slot.index()])
    }

    fn slot(&self, slot: Slot) -> io::Result<&D::File> {
        let (file, name) = (&self.slots[slot.index()], SLOTS[slot.index()]);
        match file.get() {
            Some(file) => Ok(file),
            None => {
                let opened = self.disk.open(name)?;
                Ok(file.get_or_init(|| opened))
            }
        }
    }
}

impl<D: Disk> Flash for DiskFlash<D> {
    fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.slot(slot)?.write_at(bytes, offset)
    }

    fn sync(&mut self, slot: Slot) -> io::Result<()> {
        self.slot(slot)?.sync()
    }

    fn read(&self, slot: Slot, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.slot(slot)?.read_at(bytes, offset)
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
