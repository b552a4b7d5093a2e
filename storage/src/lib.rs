//! The segmented log, the truth of a node, and its simulated twin.
//!
//! A [`Log`] is a directory of files that belongs to one process: numbered records, appended in groups, kept
//! by [`Log::commit`], given back by [`Log::drop_before`], out of the middle by [`LogReader::rewrite`], or replaced by
//! [`Log::checkpoint`]. A [`Committer`] is the thread that commits what others submit, many records a sync; a
//! [`LogReader`] reads what is committed, on any thread. The crate knows nothing of what the records mean.
//!
//! # Files
//!
//! ```text
//! LOCK                         locked while a process has the log open; holds its pid for the message
//! 00000000000000000007.ckpt    replaces everything up to segment 7; at most one counts
//! 00000000000000000007.kept    what is left of some segments up to 7, which it replaces
//! 00000000000000000008.seg     full: synced, ends with its footer, only read
//! 00000000000000000009.seg     the current one: groups, then zeros up to its preallocated size
//! 00000000000000000010.seg     the spare: preallocated, so that the log knows that it is full before it must refuse
//! log.reserve                  only its space counts: given up for a segment when the disk is full
//! *.tmp                        being made; removed when the log is opened
//! ```
//!
//! A group is what one commit wrote to one segment: a header and its records. `format` has the bytes. Numbers
//! ([`Lsn`]) go on without gaps from file to file. A file gets its final name when its header is synced, and
//! the directory is synced before the file is used, so a named file without a good header, or a hole in the
//! names, is damage.
//!
//! # Opening
//!
//! A full segment or kept file is opened by its footer, which says what numbers are in it and where; its records
//! are not read. The current segment is, and so are full ones without footer: those of an older version, and those that
//! had no space for it. What was not read at opening is checked when it is read.
//!
//! # Torn tail or damage
//!
//! When the machine stops, the sectors of a write that was not synced are there or not, in any order, and
//! where nothing was before there may be garbage. So the newest groups may be bad, and good ones may follow a
//! bad one: that is no damage, none of it was acknowledged. Damage to what was acknowledged must never be
//! taken for that, or it would be cut off in silence. What tells them apart is that every group's header
//! carries the *durable number*: up to which record everything had been synced when the group was written. At
//! a bad place, where record `n` was expected:
//!
//! - If any good group after it has a durable number of `n` or more, the bytes here had been good on disk:
//!   they are damaged. Opening refuses, names file and offset, and changes nothing.
//! - Else nothing proves that they ever were: the tail is torn. It is cut there, [`Log::torn_tail`] tells how
//!   much, and the log goes on.
//!
//! With [`Durability::Power`] the durable number is always the last record of the group before, so only the
//! last group can be torn. With [`Durability::Process`] it stands still between the syncs at each change of
//! segment, so all of the newest segment may be. A segment is synced before the next one gets its first
//! group, whatever the durability: a group in a later segment proves all earlier ones. What nothing can tell
//! is damage to the very last group from a torn write; [`Log::close`] adds an empty group, after which damage
//! to any record is told as such.
//!
//! Good groups are found behind a bad place by their file's random nonce, which no client knows: a payload
//! cannot imitate a group. Preallocated space is zeros, and zeros are no group. What is cut is truncated, not
//! left to be found later.
//!
//! # Missing files
//!
//! A hole in the names is damage; a kept file or a checkpoint stands for all numbers that it replaces. So that a missing oldest file is told from dropped records, every group also names
//! the first record that is still needed: dropping first makes a group durable that says so, then removes. If the
//! oldest record on disk is a later one, opening refuses.
//!
//! # Failing syncs
//!
//! After a failed sync the operating system may hold for written what is not. So a failed write or sync
//! poisons the log: every later call fails and the process must stop. When the log is opened again, the
//! groups that no later one proves are written and synced once more before they are shown to anyone.
//!
//! # Assumptions
//!
//! A 512-byte sector is written whole or not at all; a rename is atomic; a successful sync is true.

mod checkpoint;
mod committer;
mod disk;
mod error;
mod file_disk;
#[cfg(feature = "view")]
mod fjall_view;
mod format;
mod index;
mod log;
mod pending;
mod reader;
mod recover;
mod rewrite;
mod scan;
mod seal;
mod segment;
pub mod sim;
mod sim_file;
mod sim_view;
mod spare;
mod view;

pub use committer::{CommitEvent, Committer, Swapper};
pub use disk::{Disk, DiskFile, LockError};
pub use error::{LogError, OpenError};
pub use file_disk::{FileDisk, FileLock};
#[cfg(feature = "view")]
pub use fjall_view::{FjallView, ViewConfig};
pub use log::{Durability, Log, LogConfig, Lsn};
pub use reader::LogReader;
pub use recover::TornTail;
pub use rewrite::{Rewritten, SegmentInfo};
pub use view::{Row, View, ViewError};
