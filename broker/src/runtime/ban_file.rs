//! Bans on disk, so that a restart lets nobody in again: `bans` in the data directory, a change a line as JSON.
//!
//! A thread of its own writes, because a turn of the shard must not wait for a disk. The file is written anew at each
//! start, and when it has many more lines than bans may be in force; nothing of it is synced: after a power cut a ban of
//! the last seconds may be missing.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use crate::limits::{BanChange, SavedBan};

/// Changes that wait to be written.
const WAITING_MAX: usize = 1_024;

/// Bytes of the file that are read at a start.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Lines besides those of the bans in force above which the file is written anew.
const SPARE_LINES: usize = 4_096;

/// The file, and what it says.
#[derive(Debug)]
struct BanFile {
    path: PathBuf,
    file: File,
    lines: usize,
    /// By kind and key.
    bans: BTreeMap<(String, String), SavedBan>,
    bans_max: usize,
}

/// Reads the bans that are in force, and returns them with where their changes are to be told from now on.
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn open(
    data_dir: &Path,
    now_unix_ms: u64,
    bans_max: usize,
) -> io::Result<(Vec<SavedBan>, SyncSender<BanChange>)> {
    let path = data_dir.join("bans");
    let mut bans = read(&path)?;
    bans.retain(|_, ban| ban.until > now_unix_ms);
    let saved: Vec<_> = bans.values().cloned().collect();
    let file = write_anew(&path, &bans)?;
    let lines = bans.len();
    let (keeper, changes) = sync_channel(WAITING_MAX);
    let file = BanFile { path, file, lines, bans, bans_max };
    thread::Builder::new().name("bans".to_owned()).spawn(move || file.follow(&changes))?;
    Ok((saved, keeper))
}

impl BanFile {
    /// Writes changes until nobody is left who could tell one.
    fn follow(mut self, changes: &Receiver<BanChange>) {
        let mut has_failed = false;
        for change in changes {
            let written = self.take(change);
            if let Err(error) = &written
                && !has_failed
            {
                tracing::warn!(%error, path = %self.path.display(), "bans are not kept over a restart");
            }
            has_failed = written.is_err();
        }
    }

    fn take(&mut self, change: BanChange) -> io::Result<()> {
        self.lines += 1;
        let line = line(&change);
        apply(&mut self.bans, change);
        if self.bans.len() > self.bans_max {
            let first = self.bans.iter().min_by_key(|(_, ban)| ban.until).map(|(key, _)| key.clone());
            first.map(|key| self.bans.remove(&key));
        }
        if self.lines > self.bans_max + SPARE_LINES {
            self.file = write_anew(&self.path, &self.bans)?;
            self.lines = self.bans.len();
            return Ok(());
        }
        self.file.write_all(line.as_bytes())
    }
}

fn apply(bans: &mut BTreeMap<(String, String), SavedBan>, change: BanChange) {
    match change {
        BanChange::Banned(ban) => drop(bans.insert((ban.kind.clone(), ban.key.clone()), ban)),
        BanChange::Lifted(kind, key) => drop(bans.remove(&(kind, key))),
    }
}

fn line(change: &BanChange) -> String {
    let json = serde_json::to_string(change).expect("a struct of strings and numbers is JSON");
    format!("{json}\n")
}

/// Reads the file; a line that is cut or damaged is left out.
fn read(path: &Path) -> io::Result<BTreeMap<(String, String), SavedBan>> {
    let mut bans = BTreeMap::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bans),
        Err(error) => return Err(error),
    };
    for line in BufReader::new(file.take(FILE_BYTES_MAX)).split(b'\n') {
        if let Ok(change) = serde_json::from_slice(&line?) {
            apply(&mut bans, change);
        }
    }
    Ok(bans)
}

/// Writes the file with these bans only, and returns it to go on.
fn write_anew(path: &Path, bans: &BTreeMap<(String, String), SavedBan>) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    let lines: String = bans.values().map(|ban| line(&BanChange::Banned(ban.clone()))).collect();
    file.write_all(lines.as_bytes())?;
    fs::rename(&new, path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Offence;

    fn ban(key: &str, until: u64) -> SavedBan {
        let (kind, key) = ("client".to_owned(), key.to_owned());
        SavedBan { kind, key, offence: Offence::Flapping, since: 1, until }
    }

    fn file_of(dir: &Path, bans_max: usize) -> BanFile {
        let path = dir.join("bans");
        let bans = read(&path).unwrap();
        let file = write_anew(&path, &bans).unwrap();
        BanFile { path, file, lines: bans.len(), bans, bans_max }
    }

    #[test]
    fn bans_in_force_come_back_and_those_lifted_or_over_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = file_of(dir.path(), 10);
        for one in [ban("a", 100), ban("b\n\"", 300), ban("c", 300)] {
            file.take(BanChange::Banned(one)).unwrap();
        }
        file.take(BanChange::Lifted("client".to_owned(), "c".to_owned())).unwrap();
        // The last line is cut, as a process that dies may leave it.
        file.file.write_all(br#"{"banned":{"kind":"client","key":"d""#).unwrap();
        let (saved, keeper) = open(dir.path(), 200, 10).unwrap();
        assert_eq!(saved, [ban("b\n\"", 300)]);
        drop(keeper);
        assert_eq!(fs::read_to_string(dir.path().join("bans")).unwrap().lines().count(), 1);
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = file_of(dir.path(), 3);
        for n in 0..3 * SPARE_LINES as u64 {
            file.take(BanChange::Banned(ban(&n.to_string(), n))).unwrap();
        }
        let text = fs::read_to_string(dir.path().join("bans")).unwrap();
        assert!(text.lines().count() <= SPARE_LINES + 3);
        assert_eq!(file.bans.len(), 3);
    }
}
