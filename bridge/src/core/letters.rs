//! Dead letters: kept on disk, listed, sent again or dropped by people.

use super::Core;
use crate::{
    dead_letters::{Reply, Request, Which},
    outbox,
    state::{Change, DeadLetter, Entry},
};

/// Most dead letters that are kept; the oldest leave first.
const LETTERS_MAX: usize = 10_000;
/// Most bytes of dead letters that are kept.
const LETTERS_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Core {
    /// Keeps a dead letter; what there is no more room for leaves for good.
    pub(super) fn keep(&mut self, out: &mut Vec<Change>, letter: DeadLetter) {
        self.change(out, Change::Dead(letter));
        while self.state.letters.len() > LETTERS_MAX || self.state.letter_bytes() > LETTERS_BYTES_MAX {
            let Some(no) = self.state.letters.keys().next().copied() else { return };
            tracing::warn!(no, limit = LETTERS_MAX, "too many dead letters: the oldest is dropped");
            self.change(out, Change::DeadGone { no });
        }
    }

    /// Does what somebody asks for. What is returned must be stored before the reply is given.
    pub(crate) fn letters(&mut self, now_ms: u64, request: &Request) -> (Reply, Vec<Change>) {
        let mut out = Vec::new();
        let which = match request {
            Request::List => {
                let letters = self.state.letters.values().map(crate::dead_letters::Letter::of);
                return (Reply { letters: letters.collect(), ..Reply::default() }, out);
            }
            Request::Replay(which) | Request::Drop(which) => which,
        };
        let mut reply = Reply::default();
        let all: Vec<u64> = self.state.letters.keys().copied().collect();
        let numbers = match which {
            Which::All => &all,
            Which::Numbers(numbers) => numbers,
        };
        let targets = self.targets();
        for no in numbers {
            let Some(letter) = self.state.letters.get(no).cloned() else {
                reply.unknown.push(*no);
                continue;
            };
            if matches!(request, Request::Replay(_)) {
                if !targets.contains(&letter.entry.target) {
                    reply.without_sink.push(*no);
                    continue;
                }
                let target = letter.entry.target.clone();
                // Its age begins anew, so that it is not given up at once; how late it is it says itself.
                let told = outbox::told_late(&letter.entry, now_ms).into_owned();
                self.put(&mut out, now_ms, target, Entry { created_ms: now_ms, ..told });
            }
            self.change(&mut out, Change::DeadGone { no: *no });
            reply.done += 1;
        }
        (reply, out)
    }
}
