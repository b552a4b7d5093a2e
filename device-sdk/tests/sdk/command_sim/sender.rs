//! Who sends commands, well and badly approved, and the broker between: twice, late, in another order, and never the same twice
//! from the device's side.

use std::collections::{BTreeSet, VecDeque};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use device_sdk::commands::{Command, CommandResult, Report};
use device_sdk::guard::{Approvers, approval_text};
use serde_json::json;

use super::oracle::{Meant, Oracle};

pub(super) const DEVICE: &str = "truck-7";
/// Longest that the broker holds a message up, milliseconds.
const HELD_MS_MAX: u64 = 40_000;

/// The people with keys.
pub(super) struct Sender {
    key: Ed25519KeyPair,
    stranger: Ed25519KeyPair,
    next: u64,
    last_nonce: String,
}

impl Sender {
    pub(super) fn new() -> Self {
        let key = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed");
        Self { key: key(1), stranger: key(2), next: 0, last_nonce: "never".to_owned() }
    }

    pub(super) fn approvers(&self) -> Approvers {
        let mut approvers = Approvers::default();
        approvers.add("ann", self.key.public_key().as_ref()).expect("it is a key");
        approvers
    }

    /// Makes a command, and tells the oracle what it may do.
    pub(super) fn command(&mut self, now_ms: u64, rng: &mut fastrand::Rng, oracle: &mut Oracle) -> Vec<u8> {
        self.next += 1;
        let id = format!("c{}", self.next);
        let opens = rng.u32(0..5) > 0;
        let expires_at = (opens || rng.bool()).then(|| now_ms + rng.u64(1_000..90_000));
        let name = if opens { "unlock" } else { "lock" };
        let mut command =
            Command { id: id.clone(), name: name.to_owned(), args: json!({ "door": 1 }), expires_at };
        // Now and then an approver's app uses a nonce twice.
        let reuses = rng.u32(0..6) == 0;
        let nonce = if reuses { self.last_nonce.clone() } else { format!("n{}", self.next) };
        self.last_nonce.clone_from(&nonce);
        let wrong = rng.u32(0..10);
        let key = if wrong == 0 { &self.stranger } else { &self.key };
        let text = approval_text(DEVICE, &command, "ann", &nonce);
        let signature: String =
            key.sign(text.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        command.args["approval"] = json!({ "approver": "ann", "nonce": nonce, "signature": signature });
        if wrong == 1 {
            command.args["door"] = json!(2);
        }
        let good = wrong > 1;
        oracle.means(&id, Meant { opens, expires_at, nonce: good.then_some(nonce) });
        serde_json::to_vec(&command).expect("a command is JSON")
    }
}

/// A message that the broker has for the device.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) number: u64,
    pub(super) payload: Vec<u8>,
    /// When it was accepted: its `im-ts`.
    pub(super) accepted_ms: u64,
    not_before_ms: u64,
}

/// The broker: keeps what was not acknowledged, and knows the ids of what it was sent.
#[derive(Debug, Default)]
pub(super) struct Broker {
    queue: Vec<Queued>,
    next_number: u64,
    seen: BTreeSet<String>,
    pub(super) old: Vec<Vec<u8>>,
    results: VecDeque<CommandResult>,
}

impl Broker {
    pub(super) fn accept(&mut self, payload: Vec<u8>, now_ms: u64, rng: &mut fastrand::Rng) {
        self.next_number += 1;
        let held_ms = if rng.u32(0..4) == 0 { rng.u64(0..HELD_MS_MAX) } else { 0 };
        self.old.push(payload.clone());
        let not_before_ms = now_ms + held_ms;
        self.queue.push(Queued { number: self.next_number, payload, accepted_ms: now_ms, not_before_ms });
    }

    /// Something that the device has not acknowledged, in no order.
    pub(super) fn offer(&self, now_ms: u64, rng: &mut fastrand::Rng) -> Option<Queued> {
        let ready: Vec<&Queued> = self.queue.iter().filter(|queued| queued.not_before_ms <= now_ms).collect();
        (!ready.is_empty()).then(|| ready[rng.usize(0..ready.len())].clone())
    }

    pub(super) fn acknowledged(&mut self, number: u64) {
        self.queue.retain(|queued| queued.number != number);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes a report, once an id.
    pub(super) fn publish(&mut self, report: &Report) {
        let key = format!("{:?}-{}", report.result.status, report.result.id);
        // Final statuses have one message id among them.
        let key = if report.result.status.is_final() { format!("fin-{}", report.result.id) } else { key };
        if report.repeated || self.seen.insert(key) {
            self.results.push_back(report.result.clone());
        }
    }

    pub(super) fn results(&mut self) -> impl Iterator<Item = CommandResult> + '_ {
        self.results.drain(..)
    }
}
