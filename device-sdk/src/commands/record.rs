//! The journal's records as they are on disk: a version byte, then JSON.
//!
//! Version 1 had `began` (the command may have run), `ended` and `told` without a status. Version 2 adds `accepted`, `executing`,
//! `nonce` and the status told; both are read.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Command, CommandResult, Status, UsedNonce};

/// First byte of each record written.
const VERSION: u8 = 2;

/// When a command that was accepted stops being one to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deadline {
    /// The command's own, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unix_ms: Option<u64>,
    /// Its message's, by the monotonic clock; it means nothing after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) monotonic_ms: Option<u64>,
    /// Its message's, milliseconds since the Unix epoch, where the time was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message_unix_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// Version 1: the command is about to run, or was run.
    Began { id: String, at: u64 },
    /// It will be run.
    Accepted {
        command: Command,
        at: u64,
        #[serde(default)]
        deadline: Deadline,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<UsedNonce>,
    },
    /// It is about to run, or was run.
    Executing {
        id: String,
        at: u64,
        /// What the time had certainly reached.
        #[serde(default)]
        reached: u64,
    },
    Ended {
        #[serde(flatten)]
        result: CommandResult,
        #[serde(default)]
        reached: u64,
    },
    /// The broker has a status; without one, the final one.
    Told {
        id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<Status>,
    },
    /// An approval whose command is forgotten.
    Nonce(UsedNonce),
}

pub(super) fn encode(record: &Record) -> Bytes {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, record).expect("strings, numbers and JSON values serialise");
    bytes.into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Record, String> {
    match bytes.split_first() {
        Some((1..=VERSION, json)) => serde_json::from_slice(json).map_err(|error| error.to_string()),
        Some((version, _)) => {
            Err(format!("it has version {version}, this program reads versions 1 to {VERSION}"))
        }
        None => Err("it is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_on_disk_keep_their_form() {
        let golden: [&str; 8] = [
            r#"{"began":{"id":"c1","at":5}}"#,
            r#"{"accepted":{"command":{"id":"c1","name":"unlock","expires_at":9},"at":5,"deadline":{"unix_ms":9}}}"#,
            r#"{"accepted":{"command":{"id":"c1","name":"x"},"at":5,"deadline":{"monotonic_ms":7},"nonce":{"approver":"a","nonce":"n","expires_at":9}}}"#,
            r#"{"executing":{"id":"c1","at":5,"reached":4}}"#,
            r#"{"ended":{"id":"c1","status":"failed","reason":"why","at":6,"reached":4}}"#,
            r#"{"told":{"id":"c1"}}"#,
            r#"{"told":{"id":"c1","status":"accepted"}}"#,
            r#"{"nonce":{"approver":"a","nonce":"n","expires_at":9}}"#,
        ];
        for json in golden {
            let bytes = [b"\x02", json.as_bytes()].concat();
            let record = decode(&bytes).unwrap();
            assert_eq!(encode(&record), bytes, "{json}");
        }
        assert!(decode(b"\x03{}").unwrap_err().contains("version 3"));
        assert!(decode(b"").is_err() && decode(b"\x01{").is_err());
    }

    #[test]
    fn records_of_version_1_are_read() {
        let ended =
            decode(b"\x01{\"ended\":{\"id\":\"c1\",\"status\":\"done\",\"data\":null,\"at\":6}}").unwrap();
        let Record::Ended { result, reached: 0 } = ended else { panic!("{ended:?}") };
        assert_eq!((result.status, result.data), (Status::Done, None));
        assert_eq!(
            decode(b"\x01{\"told\":{\"id\":\"c1\"}}").unwrap(),
            Record::Told { id: "c1".into(), status: None }
        );
    }
}
