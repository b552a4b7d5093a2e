//! Networks whose bounds are known, and the file that keeps them over a restart.
//!
//! The file is replaced as a whole: written beside, synced, renamed. One that cannot be read is as good as none: what it
//! held is learned again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Networks that are remembered; the one used longest ago is forgotten first.
pub const NETWORKS_MAX: usize = 32;
/// Largest file that is read, far above what is written.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Version of the file.
const VERSION: u32 = 1;

/// What is known of the path through one network to one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownNetwork {
    /// The network's name, empty when it has none.
    pub net: String,
    /// The broker's address.
    pub broker: String,
    /// Silences that were survived, seconds.
    pub survived: Vec<u32>,
    /// Silences that were not, seconds.
    pub failed: Vec<u32>,
    /// Whether the broker answers probes, if that is known.
    pub has_probes: Option<bool>,
    /// How long ago the bounds were found, seconds; `None` while they are not.
    pub settled_ago_s: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    networks: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    net: String,
    broker: String,
    survived_s: Vec<u32>,
    failed_s: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    has_probes: Option<bool>,
    /// Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled_at: Option<u64>,
}

fn encode(networks: &[KnownNetwork], unix_s: u64) -> Vec<u8> {
    let networks = networks.iter().take(NETWORKS_MAX).cloned().map(|known| Entry {
        net: known.net,
        broker: known.broker,
        survived_s: known.survived,
        failed_s: known.failed,
        has_probes: known.has_probes,
        settled_at: known.settled_ago_s.map(|ago_s| unix_s.saturating_sub(ago_s)),
    });
    let document = Document { version: VERSION, networks: networks.collect() };
    let mut bytes = serde_json::to_vec_pretty(&document).expect("strings and numbers are JSON");
    bytes.push(b'\n');
    bytes
}

fn decode(bytes: &[u8], unix_s: u64) -> Result<Vec<KnownNetwork>, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.version != VERSION {
        return Err(format!("its version is {}, this program reads {VERSION}", document.version));
    }
    let networks = document.networks.into_iter().take(NETWORKS_MAX).map(|entry| KnownNetwork {
        net: entry.net,
        broker: entry.broker,
        survived: entry.survived_s,
        failed: entry.failed_s,
        has_probes: entry.has_probes,
        // A clock that was set back makes it young, not old.
        settled_ago_s: entry.settled_at.map(|at| unix_s.saturating_sub(at)),
    });
    Ok(networks.collect())
}

/// The file, which writes one state at a time and never an older one over a newer one.
///
/// ```
/// use device_sdk::heartbeat::{KnownFile, KnownNetwork};
///
/// let dir = tempfile::tempdir()?;
/// let file = KnownFile::new(dir.path().join("networks.json"));
/// assert!(file.load().is_empty());
/// let depot = KnownNetwork { net: "depot".to_owned(), survived: vec![240, 240], ..KnownNetwork::default() };
/// file.save(1, &[depot.clone()]);
/// assert_eq!(file.load(), [depot]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct KnownFile {
    path: PathBuf,
    written: Arc<Mutex<u64>>,
}

impl KnownFile {
    /// Names the file; it need not be there.
    pub fn new(path: PathBuf) -> Self {
        Self { path, written: Arc::default() }
    }

    /// Reads what is there; what cannot be read is told in the log and learned again.
    pub fn load(&self) -> Vec<KnownNetwork> {
        match read(&self.path) {
            Ok(bytes) => decode(&bytes, unix_s()).unwrap_or_else(|error| {
                tracing::warn!(path = %self.path.display(), error, "the file of known networks is not used");
                Vec::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the file of known networks cannot be read");
                Vec::new()
            }
        }
    }

    /// Replaces the file, unless a state with a higher number was written. Waits for the disk.
    pub fn save(&self, number: u64, networks: &[KnownNetwork]) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written >= number {
            return;
        }
        *written = number;
        if let Err(error) = replace(&self.path, &encode(networks, unix_s())) {
            tracing::warn!(path = %self.path.display(), %error, "the known networks cannot be kept");
        }
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The rename is on disk with the directory; where directories cannot be synced it is a matter of time.
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty())
        && let Ok(dir) = File::open(dir)
    {
        let _ = dir.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<KnownNetwork> {
        vec![
            KnownNetwork {
                net: "cmcc-lte".into(),
                broker: "mqtt.example:8883".into(),
                survived: vec![276, 269],
                failed: vec![300, 304],
                has_probes: Some(true),
                settled_ago_s: Some(100),
            },
            KnownNetwork { broker: "10.0.0.1:1883".into(), ..KnownNetwork::default() },
        ]
    }

    /// The bytes of version 1, which later versions must still read.
    const VERSION_1: &str = r#"{
  "version": 1,
  "networks": [
    {
      "net": "cmcc-lte",
      "broker": "mqtt.example:8883",
      "survived_s": [
        276,
        269
      ],
      "failed_s": [
        300,
        304
      ],
      "has_probes": true,
      "settled_at": 900
    },
    {
      "net": "",
      "broker": "10.0.0.1:1883",
      "survived_s": [],
      "failed_s": []
    }
  ]
}
"#;

    #[test]
    fn the_file_keeps_its_version_1() {
        assert_eq!(String::from_utf8(encode(&known(), 1_000)).unwrap(), VERSION_1);
        assert_eq!(decode(VERSION_1.as_bytes(), 1_000), Ok(known()));
        let clock_set_back = decode(VERSION_1.as_bytes(), 5).unwrap();
        assert_eq!(clock_set_back[0].settled_ago_s, Some(0));
    }

    #[test]
    fn a_file_survives_restarts_and_a_broken_one_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("networks.json");
        let file = KnownFile::new(path.clone());
        assert_eq!(file.load(), []);
        file.save(2, &known());
        file.save(1, &[]);
        assert_eq!(file.load().len(), 2, "an older state came later");
        let cut = &VERSION_1.as_bytes()[..90];
        for broken in [cut, b"", b"{\"version\":2,\"networks\":[]}", &[0xff; 300_000]] {
            fs::write(&path, broken).unwrap();
            assert_eq!(file.load(), []);
        }
        file.save(3, &known());
        assert_eq!(file.load().len(), 2);
    }

    #[test]
    fn no_more_networks_are_kept_than_the_limit() {
        let many: Vec<_> =
            (0..100).map(|n| KnownNetwork { net: n.to_string(), ..KnownNetwork::default() }).collect();
        let kept = decode(&encode(&many, 0), 0).unwrap();
        assert_eq!((kept.len(), &*kept[0].net), (NETWORKS_MAX, "0"));
    }
}
