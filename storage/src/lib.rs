//! The segmented log, the truth of a node, and its simulated twin

mod checkpoint;
mod committer;
mod disk;
mod error;
mod file_disk;
mod format;
mod log;
mod pending;
mod recover;
mod replay;
mod scan;
mod segment;
pub mod sim;

pub use committer::{CommitEvent, Committer};
pub use disk::{Disk, DiskFile, LockError};
pub use error::{LogError, OpenError};
pub use file_disk::FileDisk;
pub use log::{Durability, Log, LogConfig, Lsn};
pub use recover::TornTail;
