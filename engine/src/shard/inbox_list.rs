//! What an inbox says: which of a user's conversations, in which order, and how much of it at once.

use std::cmp::Reverse;

use bytestring::ByteString;
use protocol::im::{INBOX_ENTRIES_MAX, Inbox, InboxEntry, InboxLast};

use super::Shard;
use crate::ConnId;
use crate::member::{Member, Roll, RollKey};
use crate::message::MsgNo;

/// Bytes of a PUBLISH with a list besides its entries: header, topic, properties, total and cursor.
const LIST_OVERHEAD_BYTES: usize = 512;

/// A user, and which conversations it is shown.
pub(super) type Seen<'a> = (&'a str, &'a dyn Fn(RollKey, &Roll) -> bool);

/// How far down in the list: the newest message first, then by topic.
type Order<'a> = (Reverse<u64>, Reverse<MsgNo>, &'a str);

fn order(roll: &Roll) -> Order<'_> {
    (Reverse(roll.ts_unix_ms), Reverse(roll.newest), &roll.topic)
}

/// Where a page of the list ends.
pub(super) struct Place {
    ts_unix_ms: u64,
    newest: MsgNo,
    topic: String,
}

impl Place {
    fn of(roll: &Roll) -> Self {
        Self { ts_unix_ms: roll.ts_unix_ms, newest: roll.newest, topic: roll.topic.to_string() }
    }

    fn order(&self) -> Order<'_> {
        (Reverse(self.ts_unix_ms), Reverse(self.newest), &self.topic)
    }

    /// Writes it down: only digits, letters and dashes, so that it can stand in an URL.
    fn cursor(&self) -> String {
        let mut cursor = format!("{}-{}-", self.ts_unix_ms, self.newest.0);
        for byte in self.topic.bytes() {
            let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
            cursor.extend([digit(byte >> 4), digit(byte & 15)]);
        }
        cursor
    }

    pub(super) fn parse(cursor: &str) -> Option<Self> {
        let (ts, rest) = cursor.split_once('-')?;
        let (newest, hex) = rest.split_once('-')?;
        if !hex.is_ascii() || hex.len() % 2 != 0 {
            return None;
        }
        let digits = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let topic: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digits).collect();
        let topic = String::from_utf8(topic?).ok()?;
        Some(Self { ts_unix_ms: ts.parse().ok()?, newest: MsgNo(newest.parse().ok()?), topic })
    }
}

impl Shard {
    /// Bytes that a list may have for a client.
    pub(super) fn list_bytes_max(&self, conn: ConnId) -> usize {
        let limit = self.conns.get(&conn).and_then(|c| c.packet_bytes_max);
        limit.map_or(usize::MAX, |limit| (limit.get() as usize).saturating_sub(LIST_OVERHEAD_BYTES))
    }

    /// What changed for a user after a change; `None` when that is so much that the list says it better.
    pub(super) fn changes(&self, (user, is_seen): Seen<'_>, told: u64, left: &[ByteString]) -> Option<Inbox> {
        let (mut unread, mut changed) = (0, Vec::new());
        for (_, roll, member) in self.members.conversations_of(user).filter(|(key, at, _)| is_seen(*key, at))
        {
            unread += roll.tally.unread(&member.reading);
            if roll.version.max(member.version) > told {
                changed.push((roll, member));
            }
        }
        if changed.len() + left.len() > INBOX_ENTRIES_MAX {
            return None;
        }
        changed.sort_unstable_by(|(a, _), (b, _)| order(a).cmp(&order(b)));
        let gone = left.iter().filter(|topic| !self.members.is_member(topic, user));
        let gone = gone.map(|topic| InboxEntry {
            topic: topic.to_string(),
            last_seq: 0,
            read_seq: 0,
            unread: 0,
            last: None,
            left: true,
        });
        let conversations =
            changed.into_iter().map(|(roll, member)| entry(roll, member)).chain(gone).collect();
        Some(Inbox { unread, conversations, next: None })
    }

    /// The next entries of a user's list, the newest first.
    pub(super) fn list(
        &self,
        (user, is_seen): Seen<'_>,
        after: Option<&Place>,
        entries_max: usize,
        bytes_max: usize,
    ) -> Inbox {
        let (mut unread, mut all) = (0, Vec::new());
        for (_, roll, member) in self.members.conversations_of(user).filter(|(key, at, _)| is_seen(*key, at))
        {
            unread += roll.tally.unread(&member.reading);
            let is_after = after.is_none_or(|after| order(roll) > after.order());
            if is_after {
                all.push((roll, member));
            }
        }
        let by_order = |(a, _): &(&Roll, &Member), (b, _): &(&Roll, &Member)| order(a).cmp(&order(b));
        let mut more = all.len() > entries_max;
        if more {
            all.select_nth_unstable_by(entries_max, by_order);
            all.truncate(entries_max);
        }
        all.sort_unstable_by(by_order);
        let (mut conversations, mut bytes, mut last) = (Vec::with_capacity(all.len()), 0, None);
        for (roll, member) in all {
            let entry = entry(roll, member);
            bytes += entry_bytes(&entry);
            // The cursor is written with two digits a byte.
            if bytes + 2 * roll.topic.len() > bytes_max {
                more = true;
                break;
            }
            conversations.push(entry);
            last = Some(roll);
        }
        let beginning = || Place { ts_unix_ms: u64::MAX, newest: MsgNo(u64::MAX), topic: String::new() };
        let next = more.then(|| last.map_or_else(beginning, Place::of).cursor());
        Inbox { unread, conversations, next: Some(next) }
    }
}

fn entry(roll: &Roll, member: &Member) -> InboxEntry {
    InboxEntry {
        topic: roll.topic.to_string(),
        last_seq: roll.tally.last(),
        read_seq: member.reading.read,
        unread: roll.tally.unread(&member.reading),
        last: roll.last.as_ref().map(|last| InboxLast {
            from: last.from.to_string(),
            ts: last.ts_unix_ms,
            preview: last.preview.as_ref().map(ToString::to_string),
        }),
        left: false,
    }
}

/// Bytes of an entry as JSON, at most.
fn entry_bytes(entry: &InboxEntry) -> usize {
    let escaped = |text: &str| {
        text.chars()
            .map(|c| if c.is_control() || c == '"' || c == '\\' { 6 } else { c.len_utf8() })
            .sum::<usize>()
    };
    let last = entry
        .last
        .as_ref()
        .map_or(0, |last| 60 + escaped(&last.from) + last.preview.as_deref().map_or(0, escaped));
    140 + escaped(&entry.topic) + last
}
