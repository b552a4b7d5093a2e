//! Reading records of the log for the shard, on a thread of its own: the shard goes on meanwhile.
//!
//! All fetches that wait are read together, in the order of the log: queues that were filled together lie side by side
//! there, so that a part of a file is read and checked once for all of them.
//!
//! The engine bounds how many fetches are open and how much each of them asks for, so neither list here has a bound
//! of its own. A record that cannot be read is told once, with its file and place, and answered as missing: the
//! engine ends what depends on it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use bytes::Bytes;
use engine::{FetchId, Ticket};
use storage::{Disk, LogReader, Lsn};

use super::{Inbox, PanicAlarm};

/// Smaller records are answered whole.
const CUT_BYTES_MIN: usize = 4 * 1024;

/// An answer to the engine.
pub(crate) type Fetched = (FetchId, Vec<Option<Bytes>>);

/// What the thread has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FetchCounts {
    pub(crate) fetches: u64,
    pub(crate) records: u64,
    /// Records that could not be read.
    pub(crate) failed: u64,
}

/// The thread that reads; dropping it ends it after the fetch under way.
#[derive(Debug)]
pub(super) struct Fetcher {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Mutex<Asked>,
    changed: Condvar,
    fetches: AtomicU64,
    records: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Asked {
    fetches: VecDeque<(FetchId, Vec<Ticket>)>,
    is_ending: bool,
}

impl Fetcher {
    pub(super) fn spawn<D: Disk>(reader: LogReader<D>, inbox: Arc<Inbox>) -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("log-reader".to_owned());
        let thread = thread.spawn(move || {
            // Without it the shard would wait for ever.
            let _alarm = PanicAlarm(&*inbox);
            while let Some(fetches) = own.next() {
                for answer in own.read(&reader, &fetches) {
                    inbox.fetched(answer);
                }
            }
        });
        Self { shared, thread: Some(thread.expect("the operating system can start one more thread")) }
    }

    pub(super) fn ask(&self, fetch: FetchId, places: Vec<Ticket>) {
        self.shared.lock().fetches.push_back((fetch, places));
        self.shared.changed.notify_one();
    }

    pub(super) fn counts(&self) -> FetchCounts {
        FetchCounts {
            fetches: self.shared.fetches.load(Relaxed),
            records: self.shared.records.load(Relaxed),
            failed: self.shared.failed.load(Relaxed),
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.shared.lock().is_ending = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panics only by a bug, which it has told.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().expect("no holder of this lock panics")
    }

    /// Waits for the next fetches; `None` at the end.
    fn next(&self) -> Option<Vec<(FetchId, Vec<Ticket>)>> {
        let mut asked = self.lock();
        loop {
            if asked.is_ending {
                return None;
            }
            if !asked.fetches.is_empty() {
                return Some(std::mem::take(&mut asked.fetches).into());
            }
            asked = self.changed.wait(asked).expect("no holder of this lock panics");
        }
    }

    /// Reads in the order of the log, answers in the order asked.
    fn read<D: Disk>(&self, reader: &LogReader<D>, fetches: &[(FetchId, Vec<Ticket>)]) -> Vec<Fetched> {
        let mut answers: Vec<Fetched> =
            fetches.iter().map(|(fetch, places)| (*fetch, vec![None; places.len()])).collect();
        let of_fetch = |(number, (_, places)): (usize, &(FetchId, Vec<Ticket>))| {
            let places = places.iter().enumerate();
            places.map(|(at, place)| (*place, number, at)).collect::<Vec<_>>()
        };
        let mut wanted: Vec<_> = fetches.iter().enumerate().flat_map(of_fetch).collect();
        wanted.sort_unstable();
        let mut failed = 0;
        for same in wanted.chunk_by(|a, b| a.0 == b.0) {
            let place = same[0].0;
            match reader.read(Lsn(place.0)) {
                Ok(record) => {
                    let record = record.map(cut);
                    same.iter().for_each(|(_, number, at)| answers[*number].1[*at].clone_from(&record));
                }
                Err(error) => {
                    failed += 1;
                    if failed == 1 {
                        tracing::error!(%error, record = place.0, "a stored message cannot be read");
                    }
                }
            }
        }
        self.fetches.fetch_add(fetches.len() as u64, Relaxed);
        self.records.fetch_add(wanted.len() as u64, Relaxed);
        self.failed.fetch_add(failed, Relaxed);
        answers
    }
}

/// Leaves out what takes much and is not asked for: who else gets the message.
fn cut(record: Bytes) -> Bytes {
    if record.len() > CUT_BYTES_MIN { engine::messages_of(record) } else { record }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storage::{Log, LogConfig, sim::SimDisk};

    use super::{super::look::Look, *};

    fn log(disk: &SimDisk) -> Log<SimDisk> {
        let mut log =
            Log::open_on(disk.clone(), LogConfig { segment_bytes: 4096, ..LogConfig::default() }).unwrap();
        for number in 1..=100_u8 {
            log.append(&[number; 300]).unwrap();
            log.commit().unwrap();
        }
        log
    }

    fn answers(inbox: &Inbox, count: usize) -> Vec<Fetched> {
        let mut answers = Vec::new();
        let mut look = Look::new(inbox).unwrap();
        while answers.len() < count {
            let is_rung = look.wait(inbox, Duration::from_secs(60)).unwrap();
            assert!(is_rung, "no answer comes");
            answers.extend(inbox.take_fetched());
        }
        answers
    }

    #[test]
    fn records_come_back_in_the_order_asked_and_missing_ones_as_none() {
        let log = log(&SimDisk::new(1));
        let inbox = Arc::new(Inbox::default());
        let fetcher = Fetcher::spawn(log.reader(), Arc::clone(&inbox));
        fetcher.ask(FetchId(7), vec![Ticket(90), Ticket(3), Ticket(500), Ticket(3)]);
        fetcher.ask(FetchId(8), Vec::new());
        let wanted = |number: u8| Some(Bytes::from(vec![number; 300]));
        let first = (FetchId(7), vec![wanted(90), wanted(3), None, wanted(3)]);
        assert_eq!(answers(&inbox, 2), [first, (FetchId(8), Vec::new())]);
        assert_eq!(fetcher.counts(), FetchCounts { fetches: 2, records: 4, failed: 0 });
    }

    #[test]
    fn a_damaged_record_is_missing_and_the_others_are_there() {
        let disk = SimDisk::new(2);
        let log = log(&disk);
        let name = "00000000000000000001.seg";
        let mut bytes = disk.read(name).unwrap();
        let third_record = 64 + 2 * (56 + 8 + 300 + 4);
        bytes[third_record + 100] ^= 1;
        disk.overwrite(name, bytes);
        let inbox = Arc::new(Inbox::default());
        let fetcher = Fetcher::spawn(log.reader(), Arc::clone(&inbox));
        fetcher.ask(FetchId(1), vec![Ticket(2), Ticket(3), Ticket(60)]);
        let (_, records) = answers(&inbox, 1).remove(0);
        assert_eq!(records.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(fetcher.counts().failed, 1);
    }
}
