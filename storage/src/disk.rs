//! What the log needs of a directory and its files: the seam between the log and the real or simulated disk.
//!
//! What a `Disk` promises after a power cut: a file holds what it held at its last successful `sync`; of what
//! was written since, each 512-byte sector may be there or not, in any order, and where nothing was before
//! there may be anything. A sector is never half written over other content. A name change is there for sure
//! after `sync_dir` and maybe before; a rename over an existing name shows the old file or the new one.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A directory.
pub trait Disk: Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// Holds the lock until it is dropped.
    type Lock: Debug + Send + 'static;

    /// Takes the directory's lock, without waiting.
    ///
    /// # Errors
    /// It is taken, or could not be asked for.
    fn lock(&self) -> Result<Self::Lock, LockError>;
    /// Lists the names of the files.
    ///
    /// # Errors
    /// Those of the operating system, as for all that follow.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file; one with this name is emptied.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Renames a file, replacing one that has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all name changes so far durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Returns a number that cannot be guessed, never zero.
    fn nonce(&self) -> u64;
    /// Returns the file's path for messages; the directory's own for an empty name.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub trait DiskFile: Debug + Send + 'static {
    /// Returns its length in bytes.
    ///
    /// # Errors
    /// Those of the operating system, as for all that follow.
    fn len(&self) -> io::Result<u64>;
    /// Returns whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `bytes` from `offset` on.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Lengthens it to `bytes_min` if it is shorter, with zeros that have their space on disk.
    fn allocate(&self, bytes_min: u64) -> io::Result<()>;
    /// Cuts it to `bytes`.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Makes its content and length durable.
    fn sync(&self) -> io::Result<()>;
}

/// Why the lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Somebody has it.
    Locked {
        /// The process, where it could be told.
        pid: Option<u32>,
    },
    /// The operating system refused.
    Io {
        /// On which file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl<D: Disk> Disk for Arc<D> {
    type File = D::File;
    type Lock = D::Lock;

    fn lock(&self) -> Result<Self::Lock, LockError> {
        (**self).lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        (**self).list()
    }

    fn create(&self, name: &str) -> io::Result<Self::File> {
        (**self).create(name)
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        (**self).open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        (**self).sync_dir()
    }

    fn nonce(&self) -> u64 {
        (**self).nonce()
    }

    fn path(&self, name: &str) -> PathBuf {
        (**self).path(name)
    }
}
