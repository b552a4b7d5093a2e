//! Where the queue's logs lie, real or simulated, and how much is written there.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use storage::{Disk, DiskFile, FileDisk, LockError};

/// The directories of a queue.
pub trait Places: Send + 'static {
    /// One of them.
    type Disk: Disk;

    /// Opens the directory of this name, "" for the queue's own, and makes it where it is missing.
    ///
    /// # Errors
    /// Those of the operating system.
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

/// All directories of a queue on one disk, as a device's flash is one: the names of their files tell them apart. One power cut
/// meets them all.
#[derive(Debug)]
pub struct OneDisk<D: Disk> {
    disk: Arc<D>,
    lock: Arc<Mutex<Weak<D::Lock>>>,
}

/// A directory of [`OneDisk`].
#[derive(Debug)]
pub struct SubDisk<D: Disk> {
    disk: Arc<D>,
    /// Before the names of its files.
    prefix: String,
    lock: Arc<Mutex<Weak<D::Lock>>>,
}

impl<D: Disk> OneDisk<D> {
    /// Makes a queue's directories on this disk.
    pub fn new(disk: D) -> Self {
        Self { disk: Arc::new(disk), lock: Arc::default() }
    }
}

impl<D: Disk> Places for OneDisk<D>
where
    D::Lock: Sync,
{
    type Disk = SubDisk<D>;

    fn open(&self, name: &str) -> io::Result<SubDisk<D>> {
        let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
        Ok(SubDisk { disk: self.disk.clone(), prefix, lock: self.lock.clone() })
    }

    fn exists(&self, name: &str) -> bool {
        self.open(name).and_then(|disk| disk.list()).is_ok_and(|files| !files.is_empty())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

impl<D: Disk> SubDisk<D> {
    fn name(&self, name: &str) -> String {
        [&self.prefix, name].concat()
    }
}

impl<D: Disk> Disk for SubDisk<D>
where
    D::Lock: Sync,
{
    type File = D::File;
    type Lock = Arc<D::Lock>;

    /// The disk has one lock, which its directories share.
    fn lock(&self) -> Result<Self::Lock, LockError> {
        let mut shared = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = shared.upgrade() {
            return Ok(lock);
        }
        let lock = Arc::new(self.disk.lock()?);
        *shared = Arc::downgrade(&lock);
        Ok(lock)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let names = self.disk.list()?.into_iter();
        let own = names.filter_map(|name| name.strip_prefix(&self.prefix).map(str::to_owned));
        Ok(own.filter(|name| !name.contains('/')).collect())
    }

    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.disk.create(&self.name(name))
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.disk.open(&self.name(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(&self.name(from), &self.name(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(&self.name(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn nonce(&self) -> u64 {
        self.disk.nonce()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(&self.name(name))
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
