//! What a device remembers about reaching its broker: which way worked on which network, and whether the broker moved.
//!
//! A small file of JSON with a version. It is replaced whole (written beside, synced, renamed), so that a power cut leaves
//! the old one or the new one; one that cannot be read is as good as none. It holds addresses, no secrets.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::Endpoint;

/// Version of the file.
const VERSION: u32 = 1;
/// Networks kept; the one not used for longest gives way.
pub(super) const NETWORKS_MAX: usize = 32;
/// Longest name of a network kept (`im-net`), bytes.
pub(super) const NETWORK_BYTES_MAX: usize = 64;
/// Largest file that is read; the largest that is written is below.
const FILE_BYTES_MAX: u64 = 128 * 1024;
/// A choice older than this is tried no longer before all others: a better way may be open again.
pub(super) const CHOICE_AGE_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// A choice that goes on working is written again after this long, so that flash is spared.
const CHOICE_REFRESH_MS: u64 = 24 * 3_600_000;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    version: u32,
    /// The last used last.
    networks: Vec<Choice>,
    moved: Option<Moved>,
}

/// A way that worked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    net: String,
    url: String,
    at_ms: u64,
}

/// Where the broker said that it moved to (reason code 0x9D).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moved {
    /// The first address that the device was given: with another one the note is void.
    from: String,
    to: String,
}

impl Memory {
    /// Returns the way that worked last on a network, unless that was long ago.
    pub(super) fn choice(&self, net: &str, unix_ms: u64) -> Option<Endpoint> {
        let choice = self.networks.iter().find(|choice| choice.net == cut(net))?;
        // A time in the future comes from a clock that was wrong.
        let age_ms = unix_ms.checked_sub(choice.at_ms)?;
        (age_ms <= CHOICE_AGE_MS_MAX).then(|| choice.url.parse().ok())?
    }

    /// Notes a way that worked; says whether that is news for the file.
    pub(super) fn choose(&mut self, net: &str, way: &Endpoint, unix_ms: u64) -> bool {
        let (net, url) = (cut(net).to_owned(), way.to_string());
        let known = self.networks.iter().position(|choice| choice.net == net);
        let before = known.map(|at| self.networks.remove(at));
        if self.networks.len() >= NETWORKS_MAX {
            self.networks.remove(0);
        }
        if let Some(before) = before
            && before.url == url
            && unix_ms.checked_sub(before.at_ms).is_some_and(|age_ms| age_ms < CHOICE_REFRESH_MS)
        {
            self.networks.push(before);
            return false;
        }
        self.networks.push(Choice { net, url, at_ms: unix_ms });
        true
    }

    /// Returns where the broker at this address moved to.
    pub(super) fn moved(&self, from: &Endpoint) -> Option<Endpoint> {
        let moved = self.moved.as_ref()?;
        if moved.from == from.to_string() { moved.to.parse().ok() } else { None }
    }

    /// Notes where the broker moved to, or that it is back; says whether that is news.
    pub(super) fn set_moved(&mut self, from: &Endpoint, to: Option<&Endpoint>) -> bool {
        let moved = to.map(|to| Moved { from: from.to_string(), to: to.to_string() });
        let is_news = self.moved != moved;
        self.moved = moved;
        is_news
    }

    /// Reads the file; nothing is remembered when it is absent or cannot be used.
    pub(super) fn read(file: &Path) -> Self {
        let read = || -> io::Result<Self> {
            let mut text = String::new();
            File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
            let memory: Self = serde_json::from_str(&text)?;
            if memory.version != VERSION {
                return Err(io::Error::other(format!("version {}, known is {VERSION}", memory.version)));
            }
            Ok(memory)
        };
        match read() {
            Ok(mut memory) => {
                memory.networks.truncate(NETWORKS_MAX);
                memory
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "what was remembered cannot be read; starting anew");
                }
                Self::default()
            }
        }
    }

    fn text(&self) -> String {
        let memory = Self { version: VERSION, ..self.clone() };
        serde_json::to_string(&memory).expect("strings and numbers are JSON")
    }
}

/// Cuts a network's name to what is kept of it.
fn cut(net: &str) -> &str {
    &net[..net.floor_char_boundary(NETWORK_BYTES_MAX)]
}

/// Writes a file so that a power cut leaves the old content or the new one.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir)?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut new = File::create(&beside)?;
    new.write_all(text.as_bytes())?;
    new.sync_all()?;
    fs::rename(&beside, file)?;
    // The rename is in the directory.
    File::open(dir)?.sync_all()
}

/// Writes memories to their file, off the driver's thread; the last one handed over is the one that stays.
#[derive(Clone, Debug)]
pub(super) struct MemoryFile {
    file: PathBuf,
    /// Number of the last memory handed over.
    number: u64,
    /// Number of the last memory written.
    written: Arc<Mutex<u64>>,
}

impl MemoryFile {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, number: 0, written: Arc::default() }
    }

    /// Returns the work of writing it; for a thread that may wait.
    pub(super) fn saving(&mut self, memory: &Memory) -> impl FnOnce() + Send + 'static {
        self.number += 1;
        let (number, written, file, text) =
            (self.number, self.written.clone(), self.file.clone(), memory.text());
        move || {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if *written > number {
                return;
            }
            match replace(&file, &text) {
                Ok(()) => *written = number,
                // The device goes on without: it only looks longer for its broker after the next start.
                Err(error) => {
                    tracing::warn!(file = %file.display(), %error, "the way to the broker cannot be remembered");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    /// The file of version 1, as devices in the field have it.
    const GOLDEN: &str = r#"{"version":1,"networks":[{"net":"depot","url":"mqtts://b:8883","at_ms":1000},{"net":"lte","url":"wss://b:443/mqtt","at_ms":2000}],"moved":{"from":"mqtts://b","to":"mqtts://c:8883"}}"#;

    #[test]
    fn the_file_keeps_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deeper").join("reach.json");
        let mut memory = Memory::default();
        assert!(memory.choose("depot", &endpoint("mqtts://b:8883"), 1_000));
        assert!(memory.choose("lte", &endpoint("wss://b:443/mqtt"), 2_000));
        assert!(memory.set_moved(&endpoint("mqtts://b"), Some(&endpoint("mqtts://c:8883"))));
        MemoryFile::new(file.clone()).saving(&memory)();
        assert_eq!(fs::read_to_string(&file).unwrap(), GOLDEN);
        let read = Memory::read(&file);
        assert_eq!(read.choice("lte", 2_000), Some(endpoint("wss://b:443/mqtt")));
        assert_eq!(read.choice("depot", 2_000), Some(endpoint("mqtts://b:8883")));
        assert_eq!(read.choice("else", 2_000), None);
        assert_eq!(read.moved(&endpoint("mqtts://b")), Some(endpoint("mqtts://c:8883")));
        assert_eq!(read.moved(&endpoint("mqtts://other")), None);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("reach.json");
        assert_eq!(Memory::read(&file), Memory::default());
        let huge = format!("{{\"version\":1,\"networks\":[{}", " ".repeat(300_000));
        for text in ["", "{", &GOLDEN[..60], &GOLDEN.replace("\"version\":1", "\"version\":2"), &huge] {
            fs::write(&file, text).unwrap();
            assert_eq!(Memory::read(&file), Memory::default(), "{text:.40}");
        }
    }

    #[test]
    fn a_choice_ages_and_a_clock_that_jumps_does_no_harm() {
        let mut memory = Memory::default();
        let way = endpoint("mqtts://b:8883");
        assert!(memory.choose("lte", &way, 5_000));
        assert!(!memory.choose("lte", &way, 5_000 + CHOICE_REFRESH_MS - 1));
        assert_eq!(memory.choice("lte", 5_000 + CHOICE_AGE_MS_MAX), Some(way.clone()));
        assert_eq!(memory.choice("lte", 5_001 + CHOICE_AGE_MS_MAX), None);
        // The clock was ahead when it was noted.
        assert_eq!(memory.choice("lte", 4_999), None);
        assert!(memory.choose("lte", &way, 4_000));
        assert!(memory.choose("lte", &way, 4_000 + CHOICE_REFRESH_MS));
        assert!(memory.choose("lte", &endpoint("wss://b:443/mqtt"), 4_001 + CHOICE_REFRESH_MS));
    }

    #[test]
    fn networks_are_bounded_and_the_longest_unused_gives_way() {
        let mut memory = Memory::default();
        let way = endpoint("mqtts://b:8883");
        for number in 0..NETWORKS_MAX {
            memory.choose(&format!("net-{number}"), &way, 1);
        }
        // Used again, although nothing is new.
        memory.choose("net-0", &way, 1);
        memory.choose(&"ü".repeat(100), &way, 1);
        assert_eq!(memory.networks.len(), NETWORKS_MAX);
        assert!(memory.choice("net-0", 1).is_some() && memory.choice("net-1", 1).is_none());
        assert!(memory.choice(&"ü".repeat(100), 1).is_some());
        assert!(memory.networks.iter().all(|choice| choice.net.len() <= NETWORK_BYTES_MAX));
        assert!((memory.text().len() as u64) < FILE_BYTES_MAX);
    }

    #[test]
    fn a_power_cut_at_any_step_leaves_the_old_or_the_new_and_a_late_writer_undoes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("reach.json");
        let mut saver = MemoryFile::new(file.clone());
        let (mut old, mut new) = (Memory::default(), Memory::default());
        old.choose("n", &endpoint("mqtts://old:1"), 1);
        new.choose("n", &endpoint("mqtts://new:1"), 1);
        saver.saving(&old)();
        // The cut comes while the new file is being written: the old one is untouched.
        fs::write(dir.path().join("reach.json.new"), &new.text()[..20]).unwrap();
        assert_eq!(Memory::read(&file).choice("n", 1), Some(endpoint("mqtts://old:1")));
        // Two savings that end in the wrong order.
        let (first, second) = (saver.saving(&old), saver.saving(&new));
        second();
        first();
        assert_eq!(Memory::read(&file).choice("n", 1), Some(endpoint("mqtts://new:1")));
    }
}
