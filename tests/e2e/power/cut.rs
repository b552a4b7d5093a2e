//! A store as a power cut could have left it: a copy, with some of what was not synced lost.
//!
//! With `durability = "power"` everything up to the group of the newest acknowledged message was synced: all of a
//! group is, before anything of it is acknowledged; and so was what the view knows, which never runs ahead of the log.
//! What lies behind that may be there or not, sector by sector. The store must be nobody's when it is copied.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use storage::{FjallView, View, ViewConfig};

use super::load::{MARK, Published, numbered};

/// Layout of the log's files (storage/src/format.rs).
const FILE_HEADER_BYTES: usize = 64;
const GROUP_HEADER_BYTES: usize = 56;
const SECTOR_BYTES: usize = 512;

/// How a copy was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cut {
    /// Everything had been acknowledged: there was nothing to lose.
    Nothing,
    /// The file ends in the middle of what was not synced.
    Truncated,
    /// Zeros from there on.
    Zeros,
    /// Some sectors are zeros, others are there.
    Sectors,
    /// Some sectors hold something else.
    Garbage,
}

/// Copies a store's directory.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory for the copy");
    for entry in fs::read_dir(from).expect("the store's directory") {
        let entry = entry.expect("an entry of the store's directory");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("a type").is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a file of the store can be copied");
        }
    }
}

/// Loses a random part of what was not synced in a copied store.
pub(super) fn cut(store: &Path, published: &[Published], chance: &mut fastrand::Rng) -> Cut {
    let segment = newest_segment(store);
    let mut bytes = Vec::new();
    File::open(&segment).and_then(|mut file| file.read_to_end(&mut bytes)).expect("the newest segment");
    // Only the last group can be without its sync.
    let Some(Group { from, end, last_lsn }) = groups(&bytes).pop() else {
        return Cut::Nothing;
    };
    if last_lsn <= view_applied(store) || holds_acknowledged(&bytes[from..end], published) {
        return Cut::Nothing;
    }
    let at = chance.usize(from..end);
    let mut file = File::options().write(true).open(&segment).expect("the copy can be written");
    let cut = *chance.choice(&[Cut::Truncated, Cut::Zeros, Cut::Sectors, Cut::Garbage]).expect("four");
    let mut write = |at: usize, bytes: &[u8]| {
        file.seek(SeekFrom::Start(at as u64))
            .and_then(|_| file.write_all(bytes))
            .expect("the copy can be written");
    };
    match cut {
        Cut::Zeros => write(at, &vec![0; end - at]),
        Cut::Sectors | Cut::Garbage => {
            for sector in from / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                if chance.bool() {
                    continue;
                }
                let (first, last) =
                    ((sector * SECTOR_BYTES).max(from), ((sector + 1) * SECTOR_BYTES).min(end));
                let fill = if cut == Cut::Garbage { chance.u8(..) } else { 0 };
                write(first, &vec![fill; last - first]);
            }
        }
        Cut::Truncated | Cut::Nothing => file.set_len(at as u64).expect("the copy can be cut"),
    }
    cut
}

/// The newest segment with a group: the one after it is only preallocated.
fn newest_segment(store: &Path) -> PathBuf {
    let entries = fs::read_dir(store).expect("the store's directory");
    let mut segments: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort_unstable();
    let holds_groups = |path: &PathBuf| !groups(&fs::read(path).expect("a segment")).is_empty();
    segments.into_iter().rfind(holds_groups).expect("a segment with groups")
}

/// The record up to which the view knows the log. It is read from a copy, for opening it may change it.
fn view_applied(store: &Path) -> u64 {
    let again = tempfile::tempdir().expect("a temporary directory");
    copy(&store.join("view"), again.path());
    FjallView::open(again.path(), ViewConfig::default()).expect("the view opens").applied().0
}

/// A group in a segment: where it begins and ends, and the number of its last record.
#[derive(Clone, Copy, Debug)]
struct Group {
    from: usize,
    end: usize,
    last_lsn: u64,
}

fn groups(bytes: &[u8]) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut at = FILE_HEADER_BYTES;
    while let Some(header) = bytes.get(at..at + GROUP_HEADER_BYTES) {
        let u64_at = |from: usize| u64::from_le_bytes(header[from..from + 8].try_into().expect("8 bytes"));
        // A header names its own place; elsewhere there are zeros.
        if u64_at(0) == 0 || u64_at(8) != at as u64 {
            break;
        }
        let u32_at = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().expect("4 bytes"));
        let end = at + (GROUP_HEADER_BYTES + u32_at(40) as usize).next_multiple_of(8);
        let last_lsn = u64_at(16) + u64::from(u32_at(44)).saturating_sub(1);
        groups.push(Group { from: at, end: end.min(bytes.len()), last_lsn });
        at = end;
    }
    groups
}

/// Whether a message stands there that was acknowledged: payloads name themselves.
fn holds_acknowledged(bytes: &[u8], published: &[Published]) -> bool {
    let begins = bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK.as_bytes());
    begins.filter_map(|(at, _)| numbered(&bytes[at..])).any(|(publisher, number)| {
        published.get(publisher).is_some_and(|of| (number as usize) < of.acknowledged.len())
    })
}
