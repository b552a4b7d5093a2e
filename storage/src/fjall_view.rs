//! The view on disk: an LSM tree by `fjall`, small in memory.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

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
        Ok(Self { dir: dir.to_owned(), database, rows, about, applied })
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
