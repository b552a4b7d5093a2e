//! Where the queue's logs lie, real or simulated, and how much is written there.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::{Disk, DiskFile, FileDisk, LockError};

/// The directories of a queue.
pub(super) trait Places: Send + 'static {
    type Disk: Disk;

    /// Opens the directory of this name, "" for the queue's own, and makes it where it is missing.
    fn open(&self, name: &str) -> io::Result<Self::Disk>;
    /// Says whether it is there.
    fn exists(&self, name: &str) -> bool;
    /// Returns its path, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// Directories below the queue's own.
#[derive(Debug)]
pub(super) struct FilePlaces {
    pub(super) root: PathBuf,
}

impl Places for FilePlaces {
    type Disk = FileDisk;

    fn open(&self, name: &str) -> io::Result<FileDisk> {
        FileDisk::open(&self.path(name))
    }

    fn exists(&self, name: &str) -> bool {
        self.path(name).is_dir()
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }
}

/// A disk that counts the bytes handed to it for writing. Space that is only reserved is not among them: the file system notes
/// that it is taken and writes nothing there.
#[derive(Debug)]
pub(super) struct Metered<D> {
    disk: D,
    written: Arc<AtomicU64>,
}

/// A file of a [`Metered`] disk.
#[derive(Debug)]
pub(super) struct MeteredFile<F> {
    file: F,
    written: Arc<AtomicU64>,
}

impl<D: Disk> Metered<D> {
    pub(super) fn new(disk: D, written: Arc<AtomicU64>) -> Self {
        Self { disk, written }
    }

    fn meter(&self, file: D::File) -> MeteredFile<D::File> {
        MeteredFile { file, written: self.written.clone() }
    }
}

impl<D: Disk> Disk for Metered<D> {
    type File = MeteredFile<D::File>;
    type Lock = D::Lock;

    fn lock(&self) -> Result<Self::Lock, LockError> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.disk.create(name).map(|file| self.meter(file))
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.disk.open(name).map(|file| self.meter(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

impl<F: DiskFile> DiskFile for MeteredFile<F> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, bytes_min: u64) -> io::Result<()> {
        self.file.allocate(bytes_min)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}
