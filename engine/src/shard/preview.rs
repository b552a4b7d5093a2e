//! Previews of conversations' newest messages that memory does not know, because a restart forgot them or because
//! nobody was a member when they came: read from the log when somebody looks at the list.
//!
//! The list waits for them, as what a session sends waits for its bodies; they are asked for in portions.

use std::sync::Arc;

use bytestring::ByteString;
use protocol::im::Inbox;

use super::Shard;
use super::fetch::{AHEAD_BYTES, AHEAD_MESSAGES};
use super::inbox::Page;
use crate::Now;
use crate::ask::AskId;
use crate::member::{Last, RollKey};
use crate::message::Message;
use crate::record::SessionNo;

/// Messages that are read for their previews, and who waits for them.
#[derive(Debug)]
pub(super) struct Previews {
    pub(super) messages: Vec<(RollKey, Arc<Message>)>,
    pub(super) waiting: PreviewFor,
}

/// Who waits for previews.
#[derive(Debug)]
pub(super) enum PreviewFor {
    /// A session that watches its inbox.
    Session(SessionNo),
    /// Who asked over HTTP.
    Page(AskId, Page),
}

impl Shard {
    /// Returns the messages whose previews a list lacks, as many as are read at once.
    pub(super) fn unknown_previews(&mut self, now: Now, list: &Inbox) -> Vec<(RollKey, Arc<Message>)> {
        let (mut unknown, mut bytes) = (Vec::new(), 0);
        for entry in list.conversations.iter().filter(|entry| entry.last.is_some()) {
            let Some(roll) = self.members.roll(&entry.topic) else { continue };
            let of = self.members.get(roll);
            let Some(last) = of.last.as_ref().filter(|last| !last.is_preview_known) else { continue };
            if unknown.len() >= AHEAD_MESSAGES || bytes >= AHEAD_BYTES {
                break;
            }
            let topic = of.topic.clone();
            // One that is being given up, or is not durable yet, is shown without.
            let stored = self.conversations.get(&topic, last.seq);
            let Some(stored) = stored.filter(|stored| stored.place <= self.gate.newest_committed()) else {
                continue;
            };
            bytes += stored.bytes as usize;
            unknown.push((roll, self.stored_message(now, &topic, stored)));
        }
        unknown
    }

    /// Takes previews from messages that were read; the list is told or answered then.
    pub(super) fn previews_read(&mut self, now: Now, Previews { messages, waiting }: Previews) {
        for (roll, message) in messages {
            let last = self.members.has_roll(roll).then(|| self.members.get(roll).last.clone()).flatten();
            let Some(last) = last.filter(|last| Some(last.seq) == message.seq) else { continue };
            let body = message.body.load();
            let preview = body.as_deref().and_then(|body| protocol::im::preview(&body.payload));
            let preview = preview.map(ByteString::from);
            self.members.set_last(roll, Some(Last { preview, is_preview_known: true, ..last }));
        }
        match waiting {
            PreviewFor::Session(session) => {
                if let Some(key) = self.sessions.numbered(session) {
                    self.go_on_telling_inbox(now, key);
                }
            }
            PreviewFor::Page(ask, page) => self.answer_inbox(now, ask, page),
        }
    }
}
