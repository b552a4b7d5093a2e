//! The command ids seen, on disk.

use std::path::Path;

/// The ids and final results of commands, durable.
#[derive(Debug)]
pub struct CommandJournal {}

/// Why the journal failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk failed.
    #[error("command journal: {what}")]
    Disk {
        /// The operating system's words.
        what: String,
    },
}

impl CommandJournal {
    /// Opens the journal in this directory, made if absent; one process at a time.
    ///
    /// # Errors
    /// It is locked by another process, corrupt, or not accessible.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        Err(JournalError::Disk { what: format!("{} is not readable yet", dir.display()) })
    }
}
