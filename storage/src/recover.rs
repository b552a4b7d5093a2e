//! Opening: finds the files, checks all of them, and only then repairs what a crash left.
//!
//! See the crate's documentation for how a torn tail and damage are told apart. Nothing is changed on disk
//! before everything is found good.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::file_disk::is_no_space;
use crate::format::{FILE_HEADER_BYTES, FileHeader, HeaderError, Kind, Replaces, VERSION};
use crate::index::GroupIndex;
use crate::scan::{Bad, Scan, Window, find_proof, read_file_header, scan, scan_footer};
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

/// The files that count, and those that do not.
#[derive(Debug)]
struct Listing {
    /// Oldest first.
    files: Vec<(Kind, u64)>,
    /// Unfinished, or replaced by others.
    obsolete: Vec<String>,
}

impl Listing {
    fn read<D: Disk>(disk: &D) -> Result<Self, OpenError> {
        let names = disk.list().map_err(|source| failed(disk, "list", "", source))?;
        let is_temporary = |file: &str| file.strip_suffix(TEMPORARY).and_then(parse_name).is_some();
        let obsolete = names.iter().filter(|file| is_temporary(file)).cloned().collect();
        let mut listing = Self { files: Vec::new(), obsolete };
        let mut files: Vec<_> = names.iter().filter_map(|name| parse_name(name)).collect();
        // The newest first; of one number what replaces the others.
        files.sort_unstable_by_key(|(kind, id)| (Reverse(*id), Reverse(*kind)));
        // All files from this number on are there or replaced.
        let mut replaced_from = u64::MAX;
        for (kind, id) in files {
            if id >= replaced_from {
                listing.obsolete.push(name(kind, id));
                continue;
            }
            replaced_from = match kind {
                Kind::Segment => id,
                Kind::Checkpoint => 0,
                Kind::Kept => open_file(disk, kind, id)?.1.replaces.first_id,
            };
            listing.files.push((kind, id));
        }
        listing.files.reverse();
        Ok(listing)
    }
}

/// A file that was read, or its footer.
struct Checked {
    kind: Kind,
    id: u64,
    first_id: u64,
    nonce: u64,
    version: u16,
    len: u64,
    scan: Scan,
}

/// The walk over all files, oldest first.
struct Check {
    files: Vec<Checked>,
    /// The oldest file with records, and its first one.
    first: Option<(PathBuf, u64)>,
    start_lsn: u64,
    next_lsn: Option<u64>,
    /// Where the log ends, once a segment without records or with a bad place was met.
    ended: Option<(PathBuf, Bad)>,
    torn: Option<TornTail>,
}

impl Check {
    fn run<D: Disk>(disk: &D, listing: &Listing) -> Result<Self, OpenError> {
        let mut check =
            Self { files: Vec::new(), first: None, start_lsn: 1, next_lsn: None, ended: None, torn: None };
        for (kind, id) in listing.files.iter().copied() {
            let (mut window, header) = open_file(disk, kind, id)?;
            let first_id = match kind {
                Kind::Segment => id,
                Kind::Checkpoint => 0,
                Kind::Kept => header.replaces.first_id,
            };
            if let Some(previous) = check.files.last()
                && first_id != previous.id + 1
            {
                let missing = disk.path(&name(Kind::Segment, previous.id + 1));
                return Err(corrupt(missing, 0, "the file is missing, later ones exist"));
            }
            if check.files.is_empty() && id == 1 && kind == Kind::Segment {
                check.next_lsn = Some(1);
            }
            let scan = match kind {
                Kind::Segment => check.segment(disk, &mut window, &header)?,
                Kind::Checkpoint => check.checkpoint(disk, &mut window, &header)?,
                Kind::Kept => check.kept(disk, &mut window, &header)?,
            };
            let FileHeader { nonce, version, .. } = header;
            let len = window.len();
            check.files.push(Checked { kind, id, first_id, nonce, version, len, scan });
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

    fn checkpoint<D: Disk>(
        &mut self,
        disk: &D,
        window: &mut Window<D::File>,
        header: &FileHeader,
    ) -> Result<Scan, OpenError> {
        let file = name(header.kind, header.id);
        let scan = scan(window, header.nonce, None).map_err(|source| failed(disk, "read", &file, source))?;
        if let Some(bad) = scan.bad {
            return Err(corrupt(disk.path(&file), bad.offset, bad.what));
        }
        let (Some(next_lsn), true) = (scan.next_lsn, scan.is_ended_checkpoint) else {
            return Err(corrupt(disk.path(&file), scan.end, "the checkpoint has no end"));
        };
        self.note(disk.path(&file), &scan);
        self.next_lsn = Some(next_lsn);
        Ok(scan)
    }

    /// Its records are checked when they are read.
    fn kept<D: Disk>(
        &mut self,
        disk: &D,
        window: &mut Window<D::File>,
        header: &FileHeader,
    ) -> Result<Scan, OpenError> {
        let file = name(header.kind, header.id);
        let path = disk.path(&file);
        if let Some((ended_in, bad)) = &self.ended {
            return Err(corrupt(ended_in.clone(), bad.offset, bad.what));
        }
        let footer =
            scan_footer(window, header.nonce).map_err(|source| failed(disk, "read", &file, source))?;
        let Replaces { first_lsn, next_lsn, .. } = header.replaces;
        let Some(mut scan) = footer.filter(|scan| scan.next_lsn == Some(next_lsn)) else {
            return Err(corrupt(path, window.len(), "the file has no footer"));
        };
        if self.next_lsn.is_some_and(|expected| expected != first_lsn) {
            return Err(corrupt(path, 0, "the file's records do not follow the last one before it"));
        }
        scan.first_lsn = Some(first_lsn);
        self.note(path, &scan);
        self.next_lsn = Some(next_lsn);
        Ok(scan)
    }

    fn segment<D: Disk>(
        &mut self,
        disk: &D,
        window: &mut Window<D::File>,
        header: &FileHeader,
    ) -> Result<Scan, OpenError> {
        let (file, nonce) = (name(header.kind, header.id), header.nonce);
        let unreadable = |source| failed(disk, "read", &file, source);
        if let Some((ended_in, bad)) = &self.ended {
            // Whatever the durability, a segment is synced before the next one gets its first group.
            let start = FILE_HEADER_BYTES as u64;
            if find_proof(window, nonce, start, 0).map_err(unreadable)?.is_some() {
                return Err(corrupt(ended_in.clone(), bad.offset, bad.what));
            }
        }
        let mut scan = match scan_footer(window, nonce).map_err(unreadable)? {
            Some(scan) if self.next_lsn.is_none_or(|expected| scan.first_lsn == Some(expected)) => scan,
            // Without footer, or it follows another file: its groups tell.
            _ => scan(window, nonce, self.next_lsn).map_err(unreadable)?,
        };
        let Some(next_lsn) = scan.next_lsn else {
            // The segments before it were dropped, and they are only when this one has synced records.
            return Err(corrupt(disk.path(&file), scan.end, "the oldest segment has lost its records"));
        };
        if let Some(bad) = &scan.bad {
            if find_proof(window, nonce, scan.end, next_lsn).map_err(unreadable)?.is_some() {
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
        Ok(scan)
    }
}

fn corrupt(file: PathBuf, offset: u64, what: &str) -> OpenError {
    OpenError::Corrupt { file, offset, what: what.to_owned() }
}

/// Opens a file and checks that it is what its name says.
fn open_file<D: Disk>(disk: &D, kind: Kind, id: u64) -> Result<(Window<D::File>, FileHeader), OpenError> {
    let file = name(kind, id);
    let unreadable = |source| failed(disk, "read", &file, source);
    let opened = disk.open(&file).map_err(|source| failed(disk, "open", &file, source))?;
    let mut window = Window::new(opened).map_err(unreadable)?;
    match read_file_header(&mut window).map_err(unreadable)? {
        Ok(header) if header.kind == kind && header.id == id => Ok((window, header)),
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
    check: Check,
    segment_bytes: u64,
) -> Result<Recovered<D::File>, OpenError> {
    for file in &listing.obsolete {
        disk.remove(file).map_err(|source| failed(disk, "remove", file, source))?;
    }
    let (mut sealed, mut tail) = (VecDeque::new(), VecDeque::new());
    let mut current_index = GroupIndex::default();
    let is_segment = |file: &Checked| file.kind == Kind::Segment;
    let newest = check.files.iter().rposition(|file| !is_segment(file) || !file.scan.is_empty());
    // The process may have ended after it had left this segment and before it wrote to the next one.
    let is_left = |file: &Checked| !is_segment(file) || file.scan.has_footer;
    let current = newest.map_or(0, |newest| newest + usize::from(is_left(&check.files[newest])));
    for (index, file) in check.files.into_iter().enumerate() {
        let unrepaired = |source| failed(disk, "repair", &name(file.kind, file.id), source);
        if index >= current {
            if index == current {
                current_index.clone_from(&file.scan.index);
            }
            tail.push_back(repair_segment(disk, &file, segment_bytes).map_err(unrepaired)?);
            continue;
        }
        let Checked { kind, id, first_id, nonce, len, scan, .. } = &file;
        if is_segment(&file) && scan.has_footer && (scan.content_end < *len || Some(index) == newest) {
            repair_footer(disk, &file).map_err(unrepaired)?;
        }
        let next_lsn = scan.next_lsn.expect("the check refuses a log without a number to go on from");
        sealed.push_back(Sealed {
            kind: *kind,
            id: *id,
            first_id: *first_id,
            nonce: *nonce,
            capacity: if scan.has_footer { scan.content_end } else { *len },
            end: scan.end,
            first_lsn: scan.first_lsn.unwrap_or(next_lsn),
            next_lsn,
            records: scan.records,
            start_lsn: scan.start_lsn,
            index: scan.index.clone(),
        });
    }
    let (start_lsn, next_lsn) = (check.start_lsn, check.next_lsn.unwrap_or(1));
    Ok(Recovered { sealed, tail, current_index, start_lsn, next_lsn, torn: check.torn })
}

fn repair_segment<D: Disk>(disk: &D, segment: &Checked, segment_bytes: u64) -> io::Result<Segment<D::File>> {
    let Checked { id, nonce, version, len, scan, .. } = segment;
    let file = disk.open(&name(Kind::Segment, *id))?;
    if scan.content_end > scan.end {
        file.truncate(scan.end)?;
    }
    match file.allocate((*len).max(segment_bytes)) {
        Err(error) if !is_no_space(&error) => return Err(error),
        _ => {}
    }
    // An earlier process may have stopped at a failed sync. Then these bytes may be in memory only, and the
    // operating system may take them for written. Writing them again makes the sync below mean something.
    write_again(&file, scan.unproven_from, scan.end)?;
    file.sync()?;
    let capacity = file.len()?;
    Ok(Segment { id: *id, nonce: *nonce, version: *version, file, capacity, end: scan.end })
}

/// Makes a footer durable for sure, and the last thing in its file.
fn repair_footer<D: Disk>(disk: &D, segment: &Checked) -> io::Result<()> {
    let (file, scan) = (disk.open(&name(Kind::Segment, segment.id))?, &segment.scan);
    write_again(&file, scan.end, scan.content_end)?;
    file.truncate(scan.content_end)?;
    file.sync()
}

fn write_again<F: DiskFile>(file: &F, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    let mut bytes = vec![0; REWRITE_BYTES];
    while at < to {
        let chunk = REWRITE_BYTES.min(usize::try_from(to - at).unwrap_or(REWRITE_BYTES));
        file.read_at(&mut bytes[..chunk], at)?;
        file.write_at(&bytes[..chunk], at)?;
        at += chunk as u64;
    }
    Ok(())
}
