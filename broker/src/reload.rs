//! Files that are read again while the broker serves: when they change, and when the process is told to (SIGHUP).
//!
//! Owns the thread that looks; knows nothing of what is in the files. Whoever has a file gives a [`Watch`]: the
//! paths, and what to do. A new file that cannot be used changes nothing: the state before it stays, and the log
//! says what is wrong and what to do. Files are looked at, not subscribed to: that also sees what a rename, a
//! symbolic link (as container platforms mount secrets) or a network file system does.

use std::{
    fs, io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A changed file must look the same for this long before it is read: whoever writes it may be at it.
const SETTLE: Duration = Duration::from_millis(100);

/// Changes of a file that never rests are waited out for this many times [`SETTLE`] a look.
const SETTLE_LOOKS_MAX: usize = 10;

/// Orders that may wait; one more says nothing new.
const ORDERS_MAX: usize = 4;

/// A file longer than this is not compared by content, only by what the system says of it.
const COMPARED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Reads the files anew and puts them in force; says what they hold now ("3 users"), or what is wrong.
pub(crate) type ReloadFn = Box<dyn FnMut() -> Result<String, String> + Send>;

/// Files that belong together, and what to do when one of them changes.
pub(crate) struct Watch {
    what: String,
    files: Vec<PathBuf>,
    seen: Vec<Seen>,
    reload: ReloadFn,
}

/// The files as they are before their owner reads them, so that no change is missed in between.
pub(crate) struct Before {
    what: String,
    files: Vec<PathBuf>,
    seen: Vec<Seen>,
}

/// What a file looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    stamp: Option<Stamp>,
    content: Option<[u8; 32]>,
}

/// What the system says of a file without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    /// Inode and change time, where the system has them: a rename onto the same name, a restored time.
    place: (u64, u64, i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        let place = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        };
        #[cfg(not(unix))]
        let place = (0, 0, 0, 0);
        Self { bytes: metadata.len(), modified: metadata.modified().ok(), place }
    }
}

impl Seen {
    /// Looks at a file; one that is missing or cannot be read is a look of its own.
    fn now(path: &PathBuf) -> Self {
        let stamp = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
        let is_read = stamp.as_ref().is_some_and(|stamp| stamp.bytes <= COMPARED_BYTES_MAX);
        let content = is_read
            .then(|| fs::read(path).ok())
            .flatten()
            .map(|bytes| digest(&SHA256, &bytes).as_ref().try_into().expect("SHA-256 gives 32 bytes"));
        Self { stamp, content }
    }

    fn has_stamp_of(&self, path: &PathBuf) -> bool {
        self.stamp == fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
    }

    /// Says whether the file holds something else than then; one too long to compare does once its stamp is new.
    fn differs_from(&self, before: &Self) -> bool {
        match (&self.content, &before.content) {
            (Some(now), Some(then)) => now != then,
            _ => self != before,
        }
    }
}

impl Watch {
    /// Notes how the files look now; call it before reading them. `what` is for the log: "users file".
    pub(crate) fn before_reading(what: impl Into<String>, files: Vec<PathBuf>) -> Before {
        let seen = files.iter().map(Seen::now).collect();
        Before { what: what.into(), files, seen }
    }

    /// Says whether a file has changed, when no change is going on.
    fn is_changed(&mut self) -> bool {
        if self.seen.iter().zip(&self.files).all(|(seen, path)| seen.has_stamp_of(path)) {
            return false;
        }
        let mut now: Vec<Seen> = self.files.iter().map(Seen::now).collect();
        for _ in 0..SETTLE_LOOKS_MAX {
            thread::sleep(SETTLE);
            let later: Vec<Seen> = self.files.iter().map(Seen::now).collect();
            if later == now {
                let changed = now.iter().zip(&self.seen).any(|(now, seen)| now.differs_from(seen));
                self.seen = now;
                return changed;
            }
            now = later;
        }
        false
    }

    fn reload(&mut self) {
        let files: Vec<_> = self.files.iter().map(|path| path.display().to_string()).collect();
        let (what, files) = (&self.what, files.join(", "));
        match (self.reload)() {
            Ok(holds) => tracing::info!(what, files, holds, "reloaded"),
            Err(error) => tracing::error!(
                what,
                files,
                error,
                "not reloaded, what was in force before stays: correct the file, it is read again by itself"
            ),
        }
    }
}

impl Before {
    /// Says how to read the files again.
    pub(crate) fn then(self, reload: impl FnMut() -> Result<String, String> + Send + 'static) -> Watch {
        let Self { what, files, seen } = self;
        Watch { what, files, seen, reload: Box::new(reload) }
    }
}

/// The thread that looks. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Reloader {
    orders: Option<SyncSender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reloader {
    /// Begins to look; without anything to watch there is no thread.
    pub(crate) fn start(watches: Vec<Watch>) -> io::Result<Self> {
        if watches.is_empty() {
            return Ok(Self { orders: None, thread: None });
        }
        let (orders, taken) = sync_channel(ORDERS_MAX);
        let thread = thread::Builder::new().name("reload".to_owned()).spawn(move || look(watches, &taken))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Reads everything again, changed or not; does not wait for it.
    pub(crate) fn reload(&self) {
        match &self.orders {
            // An order that waits already reads what this one would.
            Some(orders) => match orders.try_send(()) {
                Ok(()) | Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => {
                    tracing::error!("nothing can be reloaded: the thread for it ended by a bug");
                }
            },
            None => tracing::info!("nothing to reload: no file is configured that can be"),
        }
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

fn look(mut watches: Vec<Watch>, orders: &Receiver<()>) {
    loop {
        match orders.recv_timeout(LOOK_EVERY) {
            Ok(()) => {
                while orders.try_recv().is_ok() {}
                for watch in &mut watches {
                    watch.seen = watch.files.iter().map(Seen::now).collect();
                    watch.reload();
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                for watch in &mut watches {
                    if watch.is_changed() {
                        watch.reload();
                    }
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::mpsc::{self, channel},
        time::Instant,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn watch(path: &Path) -> (Watch, mpsc::Receiver<String>) {
        let (tell, told) = channel();
        let own = path.to_owned();
        let watch = Watch::before_reading("file", vec![path.to_owned()]).then(move || {
            let text = fs::read_to_string(&own).map_err(|error| error.to_string())?;
            let _ = tell.send(text.clone());
            if text.contains("bad") { Err(format!("{text:?} is bad")) } else { Ok(text) }
        });
        (watch, told)
    }

    #[test]
    fn a_file_that_is_replaced_or_rewritten_is_read_again_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let (watch, told) = watch(&path);
        let reloader = Reloader::start(vec![watch]).unwrap();
        // Renamed onto it, with the same length.
        fs::write(dir.path().join("new"), "two").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "two");
        // Rewritten in place; a bad one does not end the looking.
        fs::write(&path, "bad").unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "bad");
        fs::write(&path, "six").unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "six");
        drop(reloader);
        assert!(told.try_recv().is_err(), "each change is read once");
    }

    #[test]
    fn an_order_reads_again_what_did_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "same").unwrap();
        let (watch, told) = watch(&path);
        let reloader = Reloader::start(vec![watch]).unwrap();
        reloader.reload();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "same");
    }

    #[test]
    fn a_file_that_was_only_touched_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "same").unwrap();
        let (mut watch, _told) = watch(&path);
        fs::write(&path, "same").unwrap();
        assert!(!watch.is_changed());
        fs::write(&path, "other").unwrap();
        assert!(watch.is_changed());
        assert!(!watch.is_changed(), "a change is one once");
        fs::remove_file(&path).unwrap();
        assert!(watch.is_changed());
    }

    #[test]
    fn the_end_does_not_wait_for_the_next_look() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, _told) = watch(&dir.path().join("missing"));
        let reloader = Reloader::start(vec![watch]).unwrap();
        let start = Instant::now();
        drop(reloader);
        assert!(start.elapsed() < LOOK_EVERY);
    }
}
