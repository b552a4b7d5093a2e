//! Where the view is, and the space that is kept for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use storage::{DiskFile, FjallView, ViewConfig, ViewError};

/// Most bytes kept in reserve for the view.
const RESERVE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Where the view is, and a file whose space is given up for it when the disk is full: without the view no space would
/// ever be given back.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct ViewPlace {
    dir: PathBuf,
    reserve: PathBuf,
    reserve_bytes: u64,
}

impl ViewPlace {
    /// In this data directory, for a log with segments of this size.
    pub(in crate::runtime) fn new(data_dir: &Path, segment_bytes: u64) -> Self {
        Self {
            dir: data_dir.join("view"),
            reserve: data_dir.join("view.reserve"),
            reserve_bytes: segment_bytes.min(RESERVE_BYTES_MAX),
        }
    }

    /// Opens the view; a full disk does not prevent it.
    pub(in crate::runtime) fn open(&self) -> Result<FjallView, ViewError> {
        FjallView::open(&self.dir, ViewConfig::default()).or_else(|error| {
            match fs::remove_file(&self.reserve) {
                Ok(()) => FjallView::open(&self.dir, ViewConfig::default()),
                Err(_) => Err(error),
            }
        })
    }

    /// Makes the reserve again, if there is space for it.
    pub(super) fn keep_reserve(&self) {
        // One that is short was cut off by a full disk or a crash.
        if fs::metadata(&self.reserve).is_ok_and(|about| about.len() >= self.reserve_bytes) {
            return;
        }
        let made =
            fs::File::create(&self.reserve).and_then(|file| DiskFile::allocate(&file, self.reserve_bytes));
        if made.is_err() {
            // A part of it is of no use; it is tried again after the next batch.
            self.give_up_reserve();
        }
    }

    pub(super) fn give_up_reserve(&self) {
        // If it is not there, it was given up before.
        let _ = fs::remove_file(&self.reserve);
    }
}
