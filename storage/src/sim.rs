//! The simulated twin of the disk: seeded, with power cuts, a capacity, and failing syncs.
//!
//! A power cut does to each file and to the directory what [`crate::Disk`] allows, by chance: each 512-byte
//! sector written since the last sync has its old or its new content, or, where it had none before, a part of
//! it or garbage; each change of length happened or not; of the changes of names any of them, in order. When
//! a sync fails, chance decides likewise what of it is on disk, and later syncs do not make up for it: that
//! is what operating systems do.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile, LockError};
use crate::sim_file::{Change, Inode};

pub use crate::sim_view::SimView;

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
    /// By number. One without a name and a handle is gone.
    inodes: Vec<(u64, Inode)>,
    next_inode: u64,
    /// As running programs see it.
    names: Names,
    durable_names: Names,
    name_changes: Vec<NameChange>,
    is_locked: bool,
    capacity_bytes: Option<u64>,
    syncs: u64,
    failing_syncs: BTreeSet<u64>,
    fails_syncs: bool,
    /// Changing operations until the power ends; 0 = it has ended.
    operations_left: Option<u64>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(Arc<str>, u64),
    Unlink(Arc<str>),
    Rename { from: Arc<str>, to: Arc<str>, inode: u64 },
}

/// The files of a directory, by name.
#[derive(Clone, Debug, Default)]
struct Names {
    entries: Vec<(Arc<str>, u64)>,
}

impl SimDisk {
    /// Makes an empty directory.
    pub fn new(seed: u64) -> Self {
        Self::from_state(State {
            rng: fastrand::Rng::with_seed(seed),
            inodes: Vec::new(),
            next_inode: 1,
            names: Names::default(),
            durable_names: Names::default(),
            name_changes: Vec::new(),
            is_locked: false,
            capacity_bytes: None,
            syncs: 0,
            failing_syncs: BTreeSet::new(),
            fails_syncs: false,
            operations_left: None,
        })
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn handle(&self, state: &mut State, inode: u64) -> SimFile {
        state.inode(inode).handles += 1;
        SimFile { state: self.state.clone(), inode }
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
        let kept = state.inodes.iter().filter(|(number, _)| names.has(*number));
        let inodes = kept.map(|(number, inode)| (*number, inode.crash(rng))).collect();
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
            fails_syncs: false,
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

    /// Makes every sync fail from now on, or none any more.
    pub fn fail_syncs(&self, fails: bool) {
        self.state().fails_syncs = fails;
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
        self.state().names.list()
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
        let mut state = self.state();
        let number = state.names.get(name)?;
        let inode = state.inode(number);
        let mut bytes = vec![0; inode.len()];
        inode.read(0, &mut bytes);
        Some(bytes)
    }

    /// Replaces a file's bytes, durably: damage, or a file from elsewhere.
    pub fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let number = match state.names.get(name) {
            Some(number) => number,
            None => {
                let number = state.add_inode();
                state.names.insert(name.into(), number);
                state.durable_names.insert(name.into(), number);
                number
            }
        };
        let inode = state.inode(number);
        inode.replace(&bytes);
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        let live = self.inodes.iter().filter(|(number, _)| self.names.has(*number));
        live.map(|(_, inode)| inode.len() as u64).sum()
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
        self.inodes.push((inode, Inode::default()));
        inode
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Forgets files that nobody can reach any more, whatever a power cut takes back.
    fn forget_unreachable(&mut self) {
        let Self { inodes, names, durable_names, name_changes, .. } = self;
        let is_named = |number: u64| {
            names.has(number)
                || durable_names.has(number)
                || name_changes.iter().any(|change| change.inode() == Some(number))
        };
        inodes.retain(|(number, inode)| inode.handles > 0 || is_named(*number));
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
        if self.fails_syncs || self.failing_syncs.contains(&self.syncs) {
            Err(io::Error::other("simulated sync failure"))
        } else {
            Ok(())
        }
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        let place = self.inodes.binary_search_by_key(&inode, |(number, _)| *number);
        &mut self.inodes[place.expect("an inode stays as long as it has a name or a handle")].1
    }
}

impl Names {
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.place(name).ok().map(|at| self.entries[at].1)
    }

    fn insert(&mut self, name: Arc<str>, inode: u64) {
        match self.place(&name) {
            Ok(at) => self.entries[at].1 = inode,
            Err(at) => self.entries.insert(at, (name, inode)),
        }
    }

    fn remove(&mut self, name: &str) {
        if let Ok(at) = self.place(name) {
            self.entries.remove(at);
        }
    }

    fn has(&self, inode: u64) -> bool {
        self.entries.iter().any(|(_, known)| *known == inode)
    }

    fn list(&self) -> Vec<String> {
        self.entries.iter().map(|(name, _)| name.to_string()).collect()
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(name, inode) => names.insert(name.clone(), *inode),
            Self::Unlink(name) => names.remove(name),
            Self::Rename { from, to, inode } => {
                if names.get(from) == Some(*inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }

    /// The file that it gives a name.
    fn inode(&self) -> Option<u64> {
        match self {
            Self::Link(_, inode) | Self::Rename { inode, .. } => Some(*inode),
            Self::Unlink(_) => None,
        }
    }
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
        Ok(state.names.list())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        state.check_space(0)?;
        let is_last = state.operate()?;
        let inode = match state.names.get(name) {
            Some(inode) => {
                state.inode(inode).change(Change::Length(0));
                inode
            }
            None => {
                let inode = state.add_inode();
                let change = NameChange::Link(name.into(), inode);
                change.apply(&mut state.names);
                state.name_changes.push(change);
                inode
            }
        };
        if is_last { Err(power_cut()) } else { Ok(self.handle(&mut state, inode)) }
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.state();
        state.check_power()?;
        let inode = state.find(name)?;
        Ok(self.handle(&mut state, inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.find(from)?;
        state.change_names(NameChange::Rename { from: from.into(), to: to.into(), inode })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.find(name)?;
        state.change_names(NameChange::Unlink(name.into()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.sync()?;
        state.durable_names = state.names.clone();
        state.name_changes = Vec::new();
        state.forget_unreachable();
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
        Ok(lock(&self.state).inode(self.inode).len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.check_power()?;
        let is_there = state.inode(self.inode).read(offset as usize, bytes);
        if is_there { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let length = state.inode(self.inode).len();
        state.check_space((offset as usize + bytes.len()).saturating_sub(length))?;
        state.change(self.inode, Change::Write { at: offset as usize, bytes: bytes.to_vec() })
    }

    fn allocate(&self, bytes_min: u64) -> io::Result<()> {
        let mut state = lock(&self.state);
        let more = (bytes_min as usize).saturating_sub(state.inode(self.inode).len());
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

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock() {
            let inode = state.inode(self.inode);
            inode.handles -= 1;
            if inode.handles == 0 {
                state.forget_unreachable();
            }
        }
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock() {
            state.is_locked = false;
        }
    }
}
