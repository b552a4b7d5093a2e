//! The simulated twin of the disk: seeded, with power cuts, a capacity, and failing syncs.
//!
//! A power cut does to each file and to the directory what [`crate::Disk`] allows, by chance: each 512-byte
//! sector written since the last sync has its old or its new content, or, where it had none before, a part of
//! it or garbage; each change of length happened or not; of the changes of names any of them, in order. When
//! a sync fails, chance decides likewise what of it is on disk, and later syncs do not make up for it: that
//! is what operating systems do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile, LockError};

pub use crate::sim_view::SimView;

const SECTOR_BYTES: usize = 512;

/// A simulated directory. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    state: Arc<Mutex<State>>,
    inode: u64,
}

/// Holds the lock of a [`SimDisk`] until it is dropped.
#[derive(Debug)]
pub struct SimLock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// As running programs see it.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    is_locked: bool,
    capacity_bytes: Option<u64>,
    syncs: u64,
    failing_syncs: BTreeSet<u64>,
    /// Changing operations until the power ends; 0 = it has ended.
    operations_left: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// As running programs see it.
    content: Image,
    durable: Image,
    /// Since the last sync.
    changes: Vec<Change>,
}

/// A file's bytes.
#[derive(Clone, Debug, Default)]
struct Image {
    bytes: Vec<u8>,
    /// Sectors that were ever written.
    written: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Write { at: usize, bytes: Vec<u8> },
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
    Rename { from: String, to: String, inode: u64 },
}

impl SimDisk {
    /// Makes an empty directory.
    pub fn new(seed: u64) -> Self {
        Self::from_state(State {
            rng: fastrand::Rng::with_seed(seed),
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            is_locked: false,
            capacity_bytes: None,
            syncs: 0,
            failing_syncs: BTreeSet::new(),
            operations_left: None,
        })
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the disk as a power cut now leaves it, unlocked. This one is as before and has nothing to do
    /// with it any more. The capacity stays, failing syncs do not.
    #[must_use]
    pub fn crash(&self, rng: &mut fastrand::Rng) -> Self {
        let state = self.state();
        let mut names = state.durable_names.clone();
        for change in &state.name_changes {
            if rng.bool() {
                change.apply(&mut names);
            }
        }
        let kept: BTreeSet<u64> = names.values().copied().collect();
        let inodes = state.inodes.iter().filter(|(number, _)| kept.contains(number));
        let inodes = inodes.map(|(number, inode)| (*number, inode.crash(rng))).collect();
        Self::from_state(State {
            rng: rng.fork(),
            inodes,
            next_inode: state.next_inode,
            durable_names: names.clone(),
            names,
            name_changes: Vec::new(),
            is_locked: false,
            capacity_bytes: state.capacity_bytes,
            syncs: 0,
            failing_syncs: BTreeSet::new(),
            operations_left: None,
        })
    }

    /// Limits the bytes of all files together; beyond it writing fails as on a full disk.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.state().capacity_bytes = capacity_bytes;
    }

    /// Makes the `nth` sync from now fail, of a file or of the directory; 1 is the next.
    pub fn fail_sync(&self, nth: u64) {
        let mut state = self.state();
        let at = state.syncs + nth;
        state.failing_syncs.insert(at);
    }

    /// Ends the power in the middle of the `nth` changing operation from now, 1 is the next: it and all later
    /// ones fail. Then [`SimDisk::crash`] gives the disk that is left.
    pub fn cut_power(&self, nth: u64) {
        self.state().operations_left = Some(nth);
    }

    /// Says whether the power has not ended.
    pub fn has_power(&self) -> bool {
        self.state().check_power().is_ok()
    }

    /// Returns the names of all files, as running programs see them.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Returns how often files and the directory were synced.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Returns the bytes of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Returns a file's bytes, as running programs see it.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.inodes[state.names.get(name)?].content.bytes.clone())
    }

    /// Replaces a file's bytes, durably: damage, or a file from elsewhere.
    pub fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let inode = match state.names.get(name) {
            Some(inode) => *inode,
            None => {
                let inode = state.add_inode();
                state.names.insert(name.to_owned(), inode);
                state.durable_names.insert(name.to_owned(), inode);
                inode
            }
        };
        let mut image = Image::default();
        image.write(0, &bytes);
        state.inodes.insert(inode, Inode { content: image.clone(), durable: image, changes: Vec::new() });
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        let live: BTreeSet<u64> = self.names.values().copied().collect();
        live.iter().map(|inode| self.inodes[inode].content.bytes.len() as u64).sum()
    }

    fn check_space(&self, more: usize) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if self.used_bytes() + more as u64 > capacity => {
                Err(ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn add_inode(&mut self) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        inode
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        let is_last = self.operate()?;
        change.apply(&mut self.names);
        self.name_changes.push(change);
        if is_last { Err(power_cut()) } else { Ok(()) }
    }

    fn change(&mut self, inode: u64, change: Change) -> io::Result<()> {
        let is_last = self.operate()?;
        self.inode(inode).change(change);
        if is_last { Err(power_cut()) } else { Ok(()) }
    }

    /// Counts a changing operation; returns whether the power ends in the middle of it.
    ///
    /// # Errors
    /// The power has ended before.
    fn operate(&mut self) -> io::Result<bool> {
        self.check_power()?;
        if let Some(left) = &mut self.operations_left {
            *left -= 1;
        }
        Ok(self.operations_left == Some(0))
    }

    fn check_power(&self) -> io::Result<()> {
        if self.operations_left == Some(0) { Err(power_cut()) } else { Ok(()) }
    }

    /// Counts a sync; says whether it succeeds.
    fn sync(&mut self) -> io::Result<()> {
        if self.operate()? {
            return Err(power_cut());
        }
        self.syncs += 1;
        if self.failing_syncs.contains(&self.syncs) {
            Err(io::Error::other("simulated sync failure"))
        } else {
            Ok(())
        }
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("inodes stay as long as the disk")
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        self.content.apply(&change);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            self.durable.apply(&change);
        }
    }

    /// Chance decides what is on disk of the changes; a running program goes on seeing all of them, and no
    /// later sync looks at them again.
    fn fail_sync(&mut self, rng: &mut fastrand::Rng) {
        self.durable = self.crash(rng).durable;
        self.changes.clear();
    }

    fn crash(&self, rng: &mut fastrand::Rng) -> Self {
        let mut image = self.durable.clone();
        // Some cuts lose everything that was not synced, some nothing, most are in between.
        let kept_of_8 = rng.u32(0..=8);
        for change in &self.changes {
            match change {
                Change::Length(length) if rng.u32(0..8) < kept_of_8 => image.resize(*length),
                Change::Length(_) => {}
                Change::Write { at, bytes } => {
                    for range in sectors(*at, bytes.len()) {
                        let new = &bytes[range.start - at..range.end - at];
                        if rng.u32(0..8) < kept_of_8 {
                            image.write(range.start, new);
                        } else if rng.u32(0..8) == 0 {
                            image.tear(range.start, new, rng);
                        }
                    }
                }
            }
        }
        Self { durable: image.clone(), content: image, changes: Vec::new() }
    }
}

impl Image {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Length(length) => self.resize(*length),
            Change::Write { at, bytes } => self.write(*at, bytes),
        }
    }

    fn resize(&mut self, length: usize) {
        self.bytes.resize(length, 0);
        self.written.split_off(&length.div_ceil(SECTOR_BYTES));
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.bytes.len() < at + bytes.len() {
            self.bytes.resize(at + bytes.len(), 0);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.written.extend(sectors(at, bytes.len()).map(|range| range.start / SECTOR_BYTES));
    }

    /// Leaves a part of what was written, or garbage in its place, if there was nothing before.
    fn tear(&mut self, at: usize, new: &[u8], rng: &mut fastrand::Rng) {
        if self.written.contains(&(at / SECTOR_BYTES)) {
            return;
        }
        if rng.bool() {
            self.write(at, &new[..rng.usize(0..=new.len())]);
        } else {
            let mut garbage = vec![0; new.len()];
            rng.fill(&mut garbage);
            self.write(at, &garbage);
        }
    }
}

/// Splits a range of a file at the borders of sectors.
fn sectors(at: usize, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = at + length;
    let mut from = at;
    std::iter::from_fn(move || {
        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        let range = from..to;
        from = to;
        (!range.is_empty()).then_some(range)
    })
}

fn power_cut() -> io::Error {
    io::Error::other("simulated power cut")
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder of this lock panics")
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn lock(&self) -> Result<SimLock, LockError> {
        let mut state = self.state();
        if state.is_locked {
            return Err(LockError::Locked { pid: None });
        }
        state.is_locked = true;
        Ok(SimLock { state: self.state.clone() })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.check_power()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        state.check_space(0)?;
        let is_last = state.operate()?;
        let inode = match state.names.get(name).copied() {
            Some(inode) => {
                state.inode(inode).change(Change::Length(0));
                inode
            }
            None => {
                let inode = state.add_inode();
                let change = NameChange::Link(name.to_owned(), inode);
                change.apply(&mut state.names);
                state.name_changes.push(change);
                inode
            }
        };
        if is_last { Err(power_cut()) } else { Ok(SimFile { state: self.state.clone(), inode }) }
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let state = self.state();
        state.check_power()?;
        Ok(SimFile { inode: state.find(name)?, state: self.state.clone() })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.find(from)?;
        state.change_names(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), inode })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.find(name)?;
        state.change_names(NameChange::Unlink(name.to_owned()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.sync()?;
        state.durable_names = state.names.clone();
        state.name_changes.clear();
        Ok(())
    }

    fn nonce(&self) -> u64 {
        self.state().rng.u64(1..)
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.state).inode(self.inode).content.bytes.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.check_power()?;
        let content = state.inode(self.inode).content.bytes.get(offset as usize..).unwrap_or_default();
        let content = content.get(..bytes.len()).ok_or(ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(content);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let length = state.inode(self.inode).content.bytes.len();
        state.check_space((offset as usize + bytes.len()).saturating_sub(length))?;
        state.change(self.inode, Change::Write { at: offset as usize, bytes: bytes.to_vec() })
    }

    fn allocate(&self, bytes_min: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let more = (bytes_min as usize).saturating_sub(state.inode(self.inode).content.bytes.len());
        if more == 0 {
            return Ok(());
        }
        state.check_space(more)?;
        state.change(self.inode, Change::Length(bytes_min as usize))
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        lock(&self.state).change(self.inode, Change::Length(bytes as usize))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        let result = state.sync();
        let mut rng = state.rng.fork();
        match result {
            Ok(()) => state.inode(self.inode).sync(),
            Err(_) => state.inode(self.inode).fail_sync(&mut rng),
        }
        result
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock() {
            state.is_locked = false;
        }
    }
}
