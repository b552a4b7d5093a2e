//! A record on its way: a fix with its number in the ledger, by which the office knows it again (the queue names it by ids of its
//! own), and the queue that a fleet asks for.

use std::path::PathBuf;

use device_sdk::{Class, Message, QueueOptions};
use serde::{Deserialize, Serialize};
use tracks::Fix;

use crate::scenario::{Fleet, RecordClass};

#[derive(Serialize)]
struct Numbered<'a> {
    #[serde(rename = "n")]
    number: u64,
    #[serde(flatten)]
    fix: &'a Fix,
}

/// Writes a record.
pub(crate) fn written(number: u64, fix: &Fix) -> Vec<u8> {
    serde_json::to_vec(&Numbered { number, fix }).expect("a fix is numbers and words with fixed keys")
}

/// Reads the number of a record.
pub(crate) fn record_number(payload: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Number {
        n: u64,
    }
    serde_json::from_slice(payload).ok().map(|Number { n }| n)
}

/// The message of a record.
pub(crate) fn message(fleet: &Fleet, device: &str, payload: Vec<u8>) -> Message {
    let message = Message::new(format!("dev/{device}/telemetry/gps"), payload);
    match u32::try_from(fleet.record_expiry_s) {
        Ok(expiry_s @ 1..) => message.expiry_s(expiry_s),
        _ => message,
    }
}

/// The queue of a device.
pub(crate) fn queue(fleet: &Fleet, dir: impl Into<PathBuf>) -> QueueOptions {
    QueueOptions {
        entries_max: fleet.queue_records_max as u64,
        ..QueueOptions::new(dir, fleet.queue_bytes_max)
    }
}

/// The queue's class of a fleet's records.
pub(crate) fn class(fleet: &Fleet) -> Class {
    match fleet.record_class {
        RecordClass::Event => Class::Event,
        RecordClass::Live => Class::Live,
        RecordClass::Track => Class::Track,
        RecordClass::Debug => Class::Debug,
    }
}
