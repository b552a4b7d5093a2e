//! Who waits for which answer of the core.

use std::collections::{HashMap, VecDeque};

use protocol::{QoS, ReasonCode};
use tokio::sync::oneshot;

use super::handle::{PublishReply, Reply};
use crate::queue::Entry;
use crate::{ClientError, PublishError, Published};

enum Publisher {
    Program { qos: QoS, reply: PublishReply },
    DiskQueue(Entry),
}

/// The callers by token. Bounded by the core, which takes a bounded number of publishes and requests.
#[derive(Default)]
pub(super) struct Callers {
    next_token: u64,
    publishers: HashMap<u64, Publisher>,
    requests: HashMap<u64, Reply>,
    /// QoS 0 publishes in the write buffer, with the position behind their last byte.
    unwritten: VecDeque<(u64, PublishReply, Published)>,
    bytes_queued: u64,
    bytes_written: u64,
}

/// What is left to do for a publish that ended.
pub(super) enum Ended {
    Told,
    Entry { entry: Entry, result: Result<Published, PublishError> },
}

impl Callers {
    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(super) fn add_publish(&mut self, qos: QoS, reply: PublishReply) -> u64 {
        let token = self.token();
        self.publishers.insert(token, Publisher::Program { qos, reply });
        token
    }

    pub(super) fn add_entry(&mut self, entry: Entry) -> u64 {
        let token = self.token();
        self.publishers.insert(token, Publisher::DiskQueue(entry));
        token
    }

    pub(super) fn add_request(&mut self, reply: Reply) -> u64 {
        let token = self.token();
        self.requests.insert(token, reply);
        token
    }

    pub(super) fn answered(&mut self, token: u64, result: Result<Vec<ReasonCode>, ClientError>) {
        if let Some(reply) = self.requests.remove(&token) {
            tell(reply, result);
        }
    }

    pub(super) fn published(&mut self, token: u64, result: Result<Published, PublishError>) -> Ended {
        match self.publishers.remove(&token) {
            Some(Publisher::DiskQueue(entry)) => return Ended::Entry { entry, result },
            Some(Publisher::Program { qos, reply }) => match result {
                Ok(published) if qos == QoS::AtMostOnce => {
                    self.unwritten.push_back((self.bytes_queued, reply, published));
                }
                result => tell(reply, result),
            },
            None => {}
        }
        Ended::Told
    }

    /// Bytes went into the write buffer.
    pub(super) fn queued(&mut self, count: usize) {
        self.bytes_queued += count as u64;
    }

    /// Bytes went out of the write buffer: QoS 0 publishes among them have ended.
    pub(super) fn written(&mut self, count: usize) {
        self.bytes_written += count as u64;
        while self.unwritten.front().is_some_and(|(end, ..)| *end <= self.bytes_written) {
            let (_, reply, published) = self.unwritten.pop_front().expect("front() was Some");
            tell(reply, Ok(published));
        }
    }

    pub(super) fn connection_lost(&mut self) {
        for (_, reply, _) in self.unwritten.drain(..) {
            tell(reply, Err(PublishError::ConnectionLost));
        }
        self.bytes_queued = 0;
        self.bytes_written = 0;
    }
}

/// Answers a caller, who may have stopped waiting.
fn tell<T>(reply: oneshot::Sender<T>, result: T) {
    let _ = reply.send(result);
}
