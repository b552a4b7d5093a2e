//! Opening: finds the files, checks all of them, and only then repairs what a crash left.
//!
//! See the crate's documentation for how a torn tail and damage are told apart. Nothing is changed on disk
//! before everything is found good.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::file_disk::is_no_space;
use crate::format::{FILE_HEADER_BYTES, HeaderError, Kind, VERSION};
use crate::index::GroupIndex;
use crate::scan::{Bad, Scan, Window, find_proof, read_file_header, scan};
use crate::segment::{Sealed, Segment, TEMPORARY, name, parse_name};

/// Bytes written back at once.
const REWRITE_BYTES: usize = 1024 * 1024;

/// What opening cut off: the unfinished last write of a process or machine that ended in the middle of it.
/// It was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file it was cut from.
    pub file: PathBuf,
    /// Where.
    pub offset: u64,
    /// How many bytes were cut.
    pub bytes: u64,
}

/// What an opened log starts from.
#[derive(Debug)]
pub(crate) struct Recovered<F> {
    pub(crate) sealed: VecDeque<Sealed>,
    /// First the segment that is written to, then empty ones.
    pub(crate) tail: VecDeque<Segment<F>>,
    /// Where the groups of the first one are.
    pub(crate) current_index: GroupIndex,
    /// Number of the first record that is still needed.
    pub(crate) start_lsn: u64,
    pub(crate) next_lsn: u64,
    pub(crate) torn: Option<TornTail>,
}

/// Opens what is in the directory.
pub(crate) fn recover<D: Disk>(disk: &D, segment_bytes: u64) -> Result<Recovered<D::File>, OpenError> {
    let listing = Listing::read(disk)?;
    let checked = Check::run(disk, &listing)?;
    let sync = || disk.sync_dir().map_err(|source| failed(disk, "sync the directory", "", source));
    // The checkpoint's name may not be durable yet: it must be before anything that it replaces goes.
    sync()?;
    let recovered = repair(disk, &listing, checked, segment_bytes)?;
    sync()?;
    Ok(recovered)
}

fn failed<D: Disk>(disk: &D, action: &'static str, name: &str, source: io::Error) -> OpenError {
    OpenError::Io { action, file: disk.path(name), source }
}

/// The names in the directory.
#[derive(Debug, Default)]
struct Listing {
    checkpoint: Option<u64>,
    /// Newer than the checkpoint, sorted.
    segments: Vec<u64>,
    /// Unfinished, or replaced by the checkpoint.
    obsolete: Vec<String>,
}

impl Listing {
    fn read<D: Disk>(disk: &D) -> Result<Self, OpenError> {
        let names = disk.list().map_err(|source| failed(disk, "list", "", source))?;
        let files: Vec<_> = names.iter().filter_map(|name| parse_name(name)).collect();
        let ids = |wanted| files.iter().filter(move |(kind, _)| *kind == wanted).map(|(_, id)| *id);
        let checkpoint = ids(Kind::Checkpoint).max();
        let mut segments: Vec<_> =
            ids(Kind::Segment).filter(|id| checkpoint.is_none_or(|newest| *id > newest)).collect();
        segments.sort_unstable();
        let is_obsolete = |file: &String| match parse_name(file) {
            Some((Kind::Checkpoint, id)) => Some(id) != checkpoint,
            Some((Kind::Segment, id)) => checkpoint.is_some_and(|newest| id <= newest),
            None => file.strip_suffix(TEMPORARY).is_some_and(|file| parse_name(file).is_some()),
        };
        let obsolete = names.iter().filter(|file| is_obsolete(file)).cloned().collect();
        Ok(Self { checkpoint, segments, obsolete })
    }
}

/// A segment that was read.
struct Checked<F> {
    id: u64,
    nonce: u64,
    file: F,
    len: u64,
    scan: Scan,
}

/// The walk over all files, oldest first.
struct Check<F> {
    checkpoint: Option<Sealed>,
    segments: Vec<Checked<F>>,
    /// The oldest file with records, and its first one.
    first: Option<(PathBuf, u64)>,
    start_lsn: u64,
    next_lsn: Option<u64>,
    /// Where the log ends, once a segment without records or with a bad place was met.
    ended: Option<(PathBuf, Bad)>,
    torn: Option<TornTail>,
}

impl<F: DiskFile> Check<F> {
    fn run<D: Disk<File = F>>(disk: &D, listing: &Listing) -> Result<Self, OpenError> {
        let mut check = Self {
            checkpoint: None,
            segments: Vec::new(),
            first: None,
            start_lsn: 1,
            next_lsn: None,
            ended: None,
            torn: None,
        };
        if let Some(id) = listing.checkpoint {
            check.checkpoint(disk, id)?;
        }
        let mut previous = listing.checkpoint;
        for id in listing.segments.iter().copied() {
            if let Some(previous) = previous
                && id != previous + 1
            {
                let missing = disk.path(&name(Kind::Segment, previous + 1));
                return Err(corrupt(missing, 0, "the file is missing, later ones exist"));
            }
            if previous.is_none() && id == 1 {
                check.next_lsn = Some(1);
            }
            check.segment(disk, id)?;
            previous = Some(id);
        }
        match &check.first {
            Some((file, first_lsn)) if *first_lsn > check.start_lsn => {
                Err(corrupt(file.clone(), 0, "records before this file are missing, its groups say"))
            }
            _ => Ok(check),
        }
    }

    fn note(&mut self, file: PathBuf, scan: &Scan) {
        self.start_lsn = self.start_lsn.max(scan.start_lsn);
        if let (None, Some(first_lsn)) = (&self.first, scan.first_lsn) {
            self.first = Some((file, first_lsn));
        }
    }

    fn checkpoint<D: Disk<File = F>>(&mut self, disk: &D, id: u64) -> Result<(), OpenError> {
        let file = name(Kind::Checkpoint, id);
        let unreadable = |source| failed(disk, "read", &file, source);
        let (mut window, nonce) = open_file(disk, Kind::Checkpoint, id)?;
        let scan = scan(&mut window, nonce, None).map_err(unreadable)?;
        if let Some(bad) = scan.bad {
            return Err(corrupt(disk.path(&file), bad.offset, bad.what));
        }
        let (Some(next_lsn), true) = (scan.next_lsn, scan.is_ended_checkpoint) else {
            return Err(corrupt(disk.path(&file), scan.end, "the checkpoint has no end"));
        };
        self.note(disk.path(&file), &scan);
        self.next_lsn = Some(next_lsn);
        let capacity = window.len();
        self.checkpoint = Some(Sealed {
            kind: Kind::Checkpoint,
            id,
            nonce,
            capacity,
            end: scan.end,
            first_lsn: scan.first_lsn.unwrap_or(next_lsn),
            next_lsn,
            index: scan.index,
        });
        Ok(())
    }

    fn segment<D: Disk<File = F>>(&mut self, disk: &D, id: u64) -> Result<(), OpenError> {
        let file = name(Kind::Segment, id);
        let unreadable = |source| failed(disk, "read", &file, source);
        let (mut window, nonce) = open_file(disk, Kind::Segment, id)?;
        if let Some((ended_in, bad)) = &self.ended {
            // Whatever the durability, a segment is synced before the next one gets its first group.
            let start = FILE_HEADER_BYTES as u64;
            if find_proof(&mut window, nonce, start, 0).map_err(unreadable)?.is_some() {
                return Err(corrupt(ended_in.clone(), bad.offset, bad.what));
            }
        }
        let mut scan = scan(&mut window, nonce, self.next_lsn).map_err(unreadable)?;
        let Some(next_lsn) = scan.next_lsn else {
            // The segments before it were dropped, and they are only when this one has synced records.
            return Err(corrupt(disk.path(&file), scan.end, "the oldest segment has lost its records"));
        };
        if let Some(bad) = &scan.bad {
            let proof = find_proof(&mut window, nonce, scan.end, next_lsn).map_err(unreadable)?;
            if proof.is_some() {
                return Err(corrupt(disk.path(&file), bad.offset, bad.what));
            }
            let bytes = scan.content_end - scan.end;
            match &mut self.torn {
                Some(torn) => torn.bytes += bytes,
                torn => *torn = Some(TornTail { file: disk.path(&file), offset: scan.end, bytes }),
            }
        }
        if self.ended.is_none() && (scan.bad.is_some() || scan.is_empty()) {
            let what = "the records end here, but a later file goes on";
            let bad = scan.bad.take().unwrap_or(Bad { offset: scan.end, what });
            self.ended = Some((disk.path(&file), bad));
        }
        self.note(disk.path(&file), &scan);
        self.next_lsn = Some(next_lsn);
        let len = window.len();
        self.segments.push(Checked { id, nonce, file: window.into_file(), len, scan });
        Ok(())
    }
}

fn corrupt(file: PathBuf, offset: u64, what: &str) -> OpenError {
    OpenError::Corrupt { file, offset, what: what.to_owned() }
}

/// Opens a file and checks that it is what its name says.
fn open_file<D: Disk>(disk: &D, kind: Kind, id: u64) -> Result<(Window<D::File>, u64), OpenError> {
    let file = name(kind, id);
    let unreadable = |source| failed(disk, "read", &file, source);
    let opened = disk.open(&file).map_err(|source| failed(disk, "open", &file, source))?;
    let mut window = Window::new(opened).map_err(unreadable)?;
    match read_file_header(&mut window).map_err(unreadable)? {
        Ok(header) if header.kind == kind && header.id == id => Ok((window, header.nonce)),
        Ok(_) => Err(corrupt(disk.path(&file), 0, "the file header belongs to another file name")),
        Err(HeaderError::Damaged(what)) => Err(corrupt(disk.path(&file), 0, what)),
        Err(HeaderError::Version(found)) => {
            Err(OpenError::Version { file: disk.path(&file), found, supported: VERSION })
        }
    }
}

/// Removes leftovers, cuts the torn tail, and makes durable all that was read.
fn repair<D: Disk>(
    disk: &D,
    listing: &Listing,
    check: Check<D::File>,
    segment_bytes: u64,
) -> Result<Recovered<D::File>, OpenError> {
    for file in &listing.obsolete {
        disk.remove(file).map_err(|source| failed(disk, "remove", file, source))?;
    }
    let mut sealed: VecDeque<_> = check.checkpoint.into_iter().collect();
    let mut tail = VecDeque::new();
    let mut current_index = GroupIndex::default();
    let current = check.segments.iter().rposition(|segment| !segment.scan.is_empty()).unwrap_or(0);
    for (index, segment) in check.segments.into_iter().enumerate() {
        if index >= current {
            let name = name(Kind::Segment, segment.id);
            if index == current {
                current_index.clone_from(&segment.scan.index);
            }
            let repaired = repair_segment(segment, segment_bytes);
            tail.push_back(repaired.map_err(|source| failed(disk, "repair", &name, source))?);
            continue;
        }
        let next_lsn = segment.scan.next_lsn.expect("the check refuses a log without a number to go on from");
        sealed.push_back(Sealed {
            kind: Kind::Segment,
            id: segment.id,
            nonce: segment.nonce,
            capacity: segment.len,
            end: segment.scan.end,
            first_lsn: segment.scan.first_lsn.unwrap_or(next_lsn),
            next_lsn,
            index: segment.scan.index,
        });
    }
    let start_lsn = check.start_lsn;
    Ok(Recovered {
        sealed,
        tail,
        current_index,
        start_lsn,
        next_lsn: check.next_lsn.unwrap_or(1),
        torn: check.torn,
    })
}

fn repair_segment<F: DiskFile>(segment: Checked<F>, segment_bytes: u64) -> io::Result<Segment<F>> {
    let Checked { id, nonce, file, len, scan } = segment;
    if scan.content_end > scan.end {
        file.truncate(scan.end)?;
    }
    match file.allocate(len.max(segment_bytes)) {
        Err(error) if !is_no_space(&error) => return Err(error),
        _ => {}
    }
    // An earlier process may have stopped at a failed sync. Then these bytes may be in memory only, and the
    // operating system may take them for written. Writing them again makes the sync below mean something.
    let mut at = scan.unproven_from;
    let mut bytes = vec![0; REWRITE_BYTES];
    while at < scan.end {
        let chunk = REWRITE_BYTES.min(usize::try_from(scan.end - at).unwrap_or(REWRITE_BYTES));
        file.read_at(&mut bytes[..chunk], at)?;
        file.write_at(&bytes[..chunk], at)?;
        at += chunk as u64;
    }
    file.sync()?;
    let capacity = file.len()?;
    Ok(Segment { id, nonce, file, capacity, end: scan.end })
}
