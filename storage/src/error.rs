//! The errors of the log, one enum for opening and one for everything after.

use std::io;
use std::path::PathBuf;

/// Why a log cannot be opened. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by {}: end that process or use another directory", .dir.display(), process(.pid))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The process that has it open, where it could be told.
        pid: Option<u32>,
    },
    /// Bytes that were durable once are damaged or gone.
    #[error(
        "{} is damaged at byte {offset}: {what}. It holds what was acknowledged, so nothing was cut off or changed: \
         restore the directory from a copy, or move it away to start empty", .file.display()
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it the damage starts.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The files are of a format that this version does not know.
    #[error(
        "{} has format version {found}, this program reads versions 1 to {supported}: use the program version that wrote it",
        .file.display()
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// The version in its header.
        found: u16,
        /// The newest version that this program reads, and the one it writes.
        supported: u16,
    },
    /// A setting is out of its range.
    #[error("{name} = {value} is out of range, allowed are {min} to {max}")]
    Config {
        /// The field of `LogConfig`.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", .file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why an open log cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The record does not fit into what is left, and no further segment could be preallocated. The log is
    /// unchanged and usable: smaller records may still fit, and `retry_space` may find space again.
    #[error(
        "no space for a record of {record_bytes} bytes, {left_bytes} bytes are left: \
         free space on the disk or raise the quota"
    )]
    Full {
        /// The record's size.
        record_bytes: usize,
        /// What is left in the current segment.
        left_bytes: u64,
    },
    /// A checkpoint or a rewritten segment could not be written for want of space. The log is unchanged and usable.
    #[error("no space to write {}: free space on the disk", .file.display())]
    NoSpace {
        /// The file that was to be written.
        file: PathBuf,
    },
    /// Segments that were to be rewritten are not in the log. The log is unchanged and usable.
    #[error("segments {first_id} to {last_id} are not in the log any more: look again which there are")]
    Gone {
        /// The number of the first one.
        first_id: u64,
        /// The number of the last one.
        last_id: u64,
    },
    /// The record is larger than `record_bytes_max`. The log is unchanged and usable.
    #[error("a record of {bytes} bytes is above the limit of {bytes_max} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Bytes that were whole when the log was opened are damaged now.
    #[error("{} is damaged at byte {offset}: {what}; restore the directory from a copy", .file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it the damage starts.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// Reading, writing or syncing failed. After a failed write or sync the log is poisoned.
    #[error("cannot {action} {}: {source}", .file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An earlier write or sync failed: what is on disk is not known any more, so nothing more is written.
    /// Opening the log again finds out.
    #[error("the log takes nothing more since an earlier failure ({why}): check the disk, then restart")]
    Poisoned {
        /// The failure.
        why: String,
    },
}

fn process(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
