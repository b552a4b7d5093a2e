//! The view on disk: an LSM tree by `fjall`, small in memory.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::log::Lsn;
use crate::view::{Row, View, ViewError};

/// Of what is in the rows' keyspace and about it.
const VERSION: u16 = 1;
const VERSION_KEY: &str = "version";
const APPLIED_KEY: &str = "applied";
/// The least that `fjall` allows. With small memtables far less is in use.
const JOURNALS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes written since the view was last tidied from which on it is worth it, ...
const TIDY_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// ... if they are at least one part of this many of what it takes: all that is left is written once more.
const TIDY_PART: u64 = 4;
/// Tidying waits this long for what is in memory to become files.
const FLUSH_MAX: Duration = Duration::from_secs(10);
/// Files that are kept open.
const FILES_OPEN_MAX: usize = 64;

/// The settings of a view.
#[derive(Clone, Copy, Debug)]
pub struct ViewConfig {
    /// Memory for what was read.
    pub cache_bytes: u64,
    /// Memory for what was written, until it becomes a file; a few such may be on their way. What is in it is
    /// read from a journal when the view is opened.
    pub memtable_bytes: u64,
}

impl Default for ViewConfig {
    fn default() -> Self {
        Self { cache_bytes: 16 * 1024 * 1024, memtable_bytes: 8 * 1024 * 1024 }
    }
}

/// A view in a directory that it has for itself.
pub struct FjallView {
    dir: PathBuf,
    database: Database,
    rows: Keyspace,
    about: Keyspace,
    applied: u64,
    /// Bytes of keys and values written since it was tidied.
    written: u64,
}

impl std::fmt::Debug for FjallView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallView")
            .field("dir", &self.dir)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl FjallView {
    /// Opens the view in a directory, making it where it is missing.
    ///
    /// # Errors
    /// It cannot be opened, or is of another version.
    pub fn open(dir: &Path, config: ViewConfig) -> Result<Self, ViewError> {
        let unusable = |error: fjall::Error| ViewError::Open { dir: dir.to_owned(), why: error.to_string() };
        // Rows tell what the log tells, which only its owner may read; fjall leaves its files open to all.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| ViewError::Open { dir: dir.to_owned(), why: error.to_string() })?;
        let builder = Database::builder(dir).cache_size(config.cache_bytes).worker_threads(1);
        let builder = builder.max_journaling_size(JOURNALS_BYTES_MAX).max_cached_files(Some(FILES_OPEN_MAX));
        let database = builder.open().map_err(unusable)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(config.memtable_bytes);
        let rows = database.keyspace("rows", options).map_err(unusable)?;
        let about = database.keyspace("about", options).map_err(unusable)?;
        match about.get(VERSION_KEY).map_err(unusable)? {
            Some(version) if *version == VERSION.to_le_bytes() => {}
            Some(version) => {
                let found = version.to_vec();
                return Err(ViewError::Version { dir: dir.to_owned(), found, supported: VERSION });
            }
            None => {
                about.insert(VERSION_KEY, VERSION.to_le_bytes()).map_err(unusable)?;
                database.persist(PersistMode::SyncAll).map_err(unusable)?;
            }
        }
        let applied = match about.get(APPLIED_KEY).map_err(unusable)? {
            None => 0,
            Some(applied) => {
                let why =
                    || ViewError::Open { dir: dir.to_owned(), why: "its mark has a wrong size".to_owned() };
                u64::from_le_bytes(applied.as_ref().try_into().map_err(|_| why())?)
            }
        };
        Ok(Self { dir: dir.to_owned(), database, rows, about, applied, written: 0 })
    }

    /// Gives back the space of rows that are gone or were written again, if so much was written that it is worth it: to be
    /// called when nothing else is to be done, as it writes all that is left. Returns whether it was done. A few tens of
    /// MB of journal stay.
    ///
    /// # Errors
    /// The view cannot be written; it must be opened again.
    pub fn tidy(&mut self) -> Result<bool, ViewError> {
        if self.written < TIDY_BYTES_MIN || self.written < self.disk_bytes() / TIDY_PART {
            return Ok(false);
        }
        self.written = 0;
        // A journal goes when both keyspaces have files of all that is in it.
        for keyspace in [&self.rows, &self.about] {
            keyspace.rotate_memtable().map_err(|error| self.failed(&error))?;
        }
        let begin = Instant::now();
        while self.rows.sealed_memtable_count() + self.about.sealed_memtable_count() > 0 {
            if begin.elapsed() > FLUSH_MAX {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.rows.major_compact().map_err(|error| self.failed(&error))?;
        Ok(true)
    }

    /// Returns what it takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        // It asks for the size of the journals only to add it; without it the rest is told.
        self.database.disk_space().unwrap_or_else(|_| self.rows.disk_space() + self.about.disk_space())
    }

    fn failed(&self, error: &fjall::Error) -> ViewError {
        failed(&self.dir, error)
    }
}

fn failed(dir: &Path, error: &fjall::Error) -> ViewError {
    ViewError::Failed { dir: dir.to_owned(), why: error.to_string() }
}

impl View for FjallView {
    fn applied(&self) -> Lsn {
        Lsn(self.applied)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let value = self.rows.get(key).map_err(|error| self.failed(&error))?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, prefix: &[u8]) -> impl Iterator<Item = Result<Row, ViewError>> + Send + use<> {
        let dir = self.dir.clone();
        self.rows.prefix(prefix).map(move |row| {
            let (key, value) = row.into_inner().map_err(|error| failed(&dir, &error))?;
            Ok((Bytes::from(key), Bytes::from(value)))
        })
    }

    fn write(&mut self, rows: Vec<(Bytes, Option<Bytes>)>, applied: Lsn) -> Result<(), ViewError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in rows {
            self.written += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
            match value {
                Some(value) => batch.insert(&self.rows, key, value),
                None => batch.remove(&self.rows, key),
            }
        }
        batch.insert(&self.about, APPLIED_KEY, applied.0.to_le_bytes());
        batch.commit().map_err(|error| self.failed(&error))?;
        self.applied = applied.0;
        Ok(())
    }
}
