//! The two documents and their versions, on disk.
//!
//! A log of small JSON records. Invariants: a version of the reported document names one content for ever, since it is durable before
//! anyone is shown it; the version of the desired document that was taken never goes back.

use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use storage::{Disk, Durability, FileDisk, Log, LogConfig, LogError, OpenError};

use super::patch::{is_deeper, merge, missing};

/// Largest document, JSON bytes.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// How deep objects and arrays may be within each other.
pub const DOCUMENT_DEPTH_MAX: usize = 32;

/// First byte of each record.
const VERSION: u8 = 1;
const SEGMENT_BYTES: u64 = 256 * 1024;
/// Records at which the log is rewritten.
const RECORDS_MAX: usize = 500;
/// The field of both documents that says their version.
const VERSION_FIELD: &str = "$version";
/// The field of the reported document that says which desired one was taken.
const DESIRED_FIELD: &str = "$desired";

/// What the device says of itself and what is wanted of it, durable.
///
/// ```
/// use device_sdk::twin::{Desired, Twin};
/// use serde_json::json;
///
/// let dir = tempfile::tempdir()?;
/// let mut twin = Twin::open(dir.path())?;
/// assert!(twin.report(json!({ "interval_s": 10 }))?);
/// assert!(!twin.report(json!({ "interval_s": 10 }))?, "nothing is different");
/// let wish = br#"{"$version":1,"interval_s":30}"#;
/// assert_eq!(twin.take_desired(wish)?, Desired::Taken { delta: Some(json!({ "interval_s": 30 })) });
/// twin.report(json!({ "interval_s": 30 }))?;
/// assert_eq!(twin.delta(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Twin<D: Disk = FileDisk> {
    log: Log<D>,
    reported: Value,
    version: u64,
    desired: Option<Wanted>,
    told: u64,
    records: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wanted {
    /// `None` where its writer counts no versions.
    version: Option<u64>,
    document: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Patch { version: u64, patch: Value },
    Whole { version: u64, document: Value },
    Desired(Option<Wanted>),
    Told { version: u64 },
}

/// What a message on the desired topic means.
#[derive(Clone, Debug, PartialEq)]
pub enum Desired {
    /// It was taken. What of it is not reported yet is to be done, if anything.
    Taken {
        /// A merge patch for what is reported.
        delta: Option<Value>,
    },
    /// It is what was taken before, sent again.
    Known {
        /// What is still to be done.
        delta: Option<Value>,
    },
    /// It was not taken.
    Refused {
        /// Why, for people.
        why: String,
    },
}

/// Why the twin was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TwinError {
    /// The directory is locked by another process, damaged, or not accessible.
    #[error("twin: {0}")]
    Open(OpenError),
    /// A record is none of a twin.
    #[error(
        "twin: record {number} cannot be read: {what}; move the directory away to start with an empty twin"
    )]
    Record {
        /// Its number in the log.
        number: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The disk failed or is full.
    #[error("twin: {0}")]
    Log(LogError),
    /// The patch is no object, names a `$` field, or makes the document too large.
    #[error("twin: {what}")]
    Patch {
        /// What is wrong with it.
        what: String,
    },
}

impl Twin {
    /// Opens the twin in this directory, made if absent; one process at a time.
    ///
    /// # Errors
    /// The directory is locked by another process, damaged, or not accessible.
    pub fn open(dir: &Path) -> Result<Self, TwinError> {
        let unusable = |source| {
            TwinError::Open(OpenError::Io { action: "open the directory", file: dir.to_owned(), source })
        };
        Self::open_on(FileDisk::open(dir).map_err(unusable)?, SEGMENT_BYTES)
    }
}

impl<D: Disk> Twin<D> {
    /// Opens the twin on this disk, with segments of this size: see [`Twin::open`].
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_on(disk: D, segment_bytes: u64) -> Result<Self, TwinError> {
        let config = LogConfig {
            segment_bytes,
            durability: Durability::Power,
            record_bytes_max: DOCUMENT_BYTES_MAX + 1024,
            bytes_max: None,
            keeps_reserve: false,
        };
        let log = Log::open_on(disk, config).map_err(TwinError::Open)?;
        let reported = Value::Object(Map::new());
        let mut twin = Self { log, reported, version: 0, desired: None, told: 0, records: 0 };
        let mut records = Vec::new();
        for record in twin.log.replay().map_err(TwinError::Log)? {
            let (lsn, bytes) = record.map_err(TwinError::Log)?;
            records.push(decode(&bytes).map_err(|what| TwinError::Record { number: lsn.0, what })?);
        }
        twin.records = records.len();
        records.into_iter().for_each(|record| twin.note(record));
        Ok(twin)
    }

    /// Returns what is reported.
    pub fn reported(&self) -> &Value {
        &self.reported
    }

    /// Returns how often what is reported has changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns what is wanted, as it was taken last.
    pub fn desired(&self) -> Option<&Value> {
        self.desired.as_ref().map(|wanted| &wanted.document)
    }

    /// Returns what is wanted and not reported, as a merge patch for what is reported.
    pub fn delta(&self) -> Option<Value> {
        missing(&self.reported, self.desired()?)
    }

    /// Changes what is reported by a merge patch; on return that is durable. Returns whether anything is different now.
    ///
    /// # Errors
    /// The patch is not allowed, or the disk failed or is full; then nothing has changed.
    pub fn report(&mut self, patch: Value) -> Result<bool, TwinError> {
        let Some(fields) = patch.as_object() else {
            return Err(TwinError::Patch {
                what: "a patch of the reported state must be an object".to_owned(),
            });
        };
        if let Some(field) = fields.keys().find(|field| field.starts_with('$')) {
            let field: String = field.chars().take(64).collect();
            return Err(TwinError::Patch { what: format!("the field {field:?} is the twin's own") });
        }
        // Before merging, which goes as deep as the patch does.
        if is_deeper(&patch, DOCUMENT_DEPTH_MAX) {
            return Err(TwinError::Patch {
                what: format!("it is more than {DOCUMENT_DEPTH_MAX} levels deep"),
            });
        }
        let mut changed = self.reported.clone();
        merge(&mut changed, &patch);
        if changed == self.reported {
            return Ok(false);
        }
        let bytes = changed.to_string().len().max(patch.to_string().len());
        if bytes > DOCUMENT_BYTES_MAX {
            let what = format!("the state would have {bytes} bytes, at most {DOCUMENT_BYTES_MAX} are kept");
            return Err(TwinError::Patch { what });
        }
        self.commit(Record::Patch { version: self.version + 1, patch })?;
        Ok(true)
    }

    /// Takes a message of the desired topic; on return that is durable. An empty payload is the end of the retained message: nothing is wanted
    /// any more, and versions begin anew.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn take_desired(&mut self, payload: &[u8]) -> Result<Desired, TwinError> {
        if payload.is_empty() {
            if self.desired.is_some() {
                self.commit(Record::Desired(None))?;
            }
            return Ok(Desired::Taken { delta: None });
        }
        let wanted = match parse(payload) {
            Ok(wanted) => wanted,
            Err(why) => return Ok(Desired::Refused { why }),
        };
        if let Some(known) = &self.desired {
            if *known == wanted {
                return Ok(Desired::Known { delta: self.delta() });
            }
            let refused = match (wanted.version, known.version) {
                (Some(new), Some(old)) if new < old => {
                    Some(format!("version {new} is older than {old}, which was taken"))
                }
                (Some(new), Some(old)) if new == old => {
                    Some(format!("version {new} was taken with another content; give it a new version"))
                }
                (None, Some(old)) => Some(format!("it has no $version, and {old} was taken before")),
                _ => None,
            };
            if let Some(why) = refused {
                return Ok(Desired::Refused { why });
            }
        }
        self.commit(Record::Desired(Some(wanted)))?;
        Ok(Desired::Taken { delta: self.delta() })
    }

    /// Returns the version and the document to publish, retained, unless the broker has it.
    pub fn pending(&self) -> Option<(u64, Bytes)> {
        (self.told < self.version).then(|| (self.version, self.document()))
    }

    /// Returns the document that is published: what is reported with `$version`, and `$desired` if a desired version was taken.
    pub fn document(&self) -> Bytes {
        let mut document = self.reported.clone();
        if let Value::Object(fields) = &mut document {
            fields.insert(VERSION_FIELD.to_owned(), self.version.into());
            let taken = self.desired.as_ref().and_then(|wanted| wanted.version);
            fields.extend(taken.map(|version| (DESIRED_FIELD.to_owned(), version.into())));
        }
        document.to_string().into()
    }

    /// Notes that the broker has a version.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn told(&mut self, version: u64) -> Result<(), TwinError> {
        self.commit(Record::Told { version })
    }

    fn commit(&mut self, record: Record) -> Result<(), TwinError> {
        self.log.append(&encode(&record)).map_err(TwinError::Log)?;
        self.records += 1;
        self.log.commit().map_err(TwinError::Log)?;
        self.note(record);
        if self.records > RECORDS_MAX { self.rewrite() } else { Ok(()) }
    }

    fn note(&mut self, record: Record) {
        match record {
            Record::Patch { version, patch } => {
                merge(&mut self.reported, &patch);
                self.version = version;
            }
            Record::Whole { version, document } => (self.version, self.reported) = (version, document),
            Record::Desired(wanted) => {
                // The reported document says which was taken: it changes with it.
                let taken = |wanted: &Option<Wanted>| wanted.as_ref().and_then(|wanted| wanted.version);
                if taken(&self.desired) != taken(&wanted) {
                    self.version += 1;
                }
                self.desired = wanted;
            }
            Record::Told { version } => self.told = self.told.max(version),
        }
    }

    fn rewrite(&mut self) -> Result<(), TwinError> {
        let records = [
            // First, since it would count the version up.
            Record::Desired(self.desired.clone()),
            Record::Whole { version: self.version, document: self.reported.clone() },
            Record::Told { version: self.told },
        ];
        match self.log.checkpoint(records.iter().map(encode)) {
            Ok(()) => self.records = records.len(),
            // The twin works without, as long as its records fit.
            Err(LogError::NoSpace { .. }) => tracing::warn!("no space to rewrite the twin"),
            Err(error) => return Err(TwinError::Log(error)),
        }
        Ok(())
    }
}

fn parse(payload: &[u8]) -> Result<Wanted, String> {
    if payload.len() > DOCUMENT_BYTES_MAX {
        return Err(format!("it has {} bytes, at most {DOCUMENT_BYTES_MAX} are taken", payload.len()));
    }
    let mut document: Value =
        serde_json::from_slice(payload).map_err(|error| format!("it is no JSON: {error}"))?;
    if is_deeper(&document, DOCUMENT_DEPTH_MAX) {
        return Err(format!("it is more than {DOCUMENT_DEPTH_MAX} levels deep"));
    }
    let Some(fields) = document.as_object_mut() else { return Err("it is no object".to_owned()) };
    let version = match fields.remove(VERSION_FIELD) {
        None => None,
        Some(version) => {
            Some(version.as_u64().ok_or_else(|| format!("its $version is {version}, no number"))?)
        }
    };
    if let Some(field) = fields.keys().find(|field| field.starts_with('$')) {
        let field: String = field.chars().take(64).collect();
        return Err(format!("the field {field:?} is not known"));
    }
    Ok(Wanted { version, document })
}

fn encode(record: &Record) -> Bytes {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, record).expect("numbers and JSON values serialise");
    bytes.into()
}

fn decode(bytes: &[u8]) -> Result<Record, String> {
    match bytes.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| error.to_string()),
        Some((version, _)) => Err(format!("it has version {version}, this program reads version {VERSION}")),
        None => Err("it is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests;
