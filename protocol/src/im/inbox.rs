//! Conversations of a user: the list with what is unread, and read positions (docs/protocol.md section 6).

use serde::{Deserialize, Deserializer, Serialize};

/// Filter by which a client gets every conversation that its user is a member of.
pub const MINE_FILTER: &str = "$im/mine";
/// Topic on which a client sees its user's conversations.
pub const INBOX_TOPIC: &str = "$im/inbox";
/// Topic to which a client publishes how far its user has read: a [`ReadRequest`].
pub const READ_TOPIC: &str = "$im/read";
/// Entries of one [`Inbox`].
pub const INBOX_ENTRIES_MAX: usize = 200;
/// Characters of a preview.
pub const PREVIEW_CHARS_MAX: usize = 80;

/// A user's conversations, or those of them that changed: a payload on [`INBOX_TOPIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbox {
    /// Unread messages over all of the user's conversations.
    pub unread: u64,
    /// Conversations, the one with the newest message first.
    pub conversations: Vec<InboxEntry>,
    /// In a list: where the next page begins, null for the last one. Absent in a change.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub next: Option<Option<String>>,
}

/// One conversation of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxEntry {
    /// Its topic.
    pub topic: String,
    /// The highest number given in it.
    pub last_seq: u64,
    /// The highest number that the user read.
    pub read_seq: u64,
    /// Messages above that are still kept, without the user's own and without what has expired.
    pub unread: u64,
    /// The newest message; absent when there is none, or it is not kept any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<InboxLast>,
    /// Whether the user is no member any more: the conversation is to be taken off the list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

/// The newest message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxLast {
    /// The user who sent it.
    pub from: String,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub ts: u64,
    /// The beginning of its text; absent when its payload is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
}

/// How far a user has read: a payload on [`READ_TOPIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// The conversation.
    pub topic: String,
    /// The highest number read.
    pub seq: u64,
}

impl ReadRequest {
    /// Parses a payload.
    ///
    /// # Errors
    /// It is no such object; the text says what is wrong.
    pub fn parse(payload: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map_err(|e| format!("the payload is not {{\"topic\",\"seq\"}}: {e}"))
    }
}

/// Tells an absent field from a null one.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// Returns the beginning of a message's text for a list: of a JSON object its field `text`, of any other UTF-8
/// payload itself. Line breaks and other control characters become spaces.
pub fn preview(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct WithText<'a> {
        #[serde(borrow)]
        text: std::borrow::Cow<'a, str>,
    }
    let head = text_head(payload)?;
    // What is longer than this is hardly a chat message, and reading it costs all who send.
    let object = payload.len() <= 16 * 1024 && head.trim_start().starts_with('{');
    let parsed = object.then(|| serde_json::from_slice::<WithText<'_>>(payload).ok()).flatten();
    let text = parsed.as_ref().map_or(head, |object| &object.text);
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    Some(
        text.trim_start()
            .chars()
            .take(PREVIEW_CHARS_MAX)
            .map(visible)
            .collect::<String>()
            .trim_end()
            .to_owned(),
    )
}

/// The first characters of a payload, if they are text.
fn text_head(payload: &[u8]) -> Option<&str> {
    let head = &payload[..payload.len().min(PREVIEW_CHARS_MAX * 8)];
    match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        // A character may be cut at the end.
        Err(error) if error.error_len().is_none() && head.len() < payload.len() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_has_a_next_page_or_null_and_a_change_has_neither() {
        let entry = InboxEntry {
            topic: "im/a".into(),
            last_seq: 3,
            read_seq: 1,
            unread: 2,
            last: Some(InboxLast { from: "bob".into(), ts: 7, preview: Some("hi".into()) }),
            left: false,
        };
        for (next, expected) in [
            (None, json!({})),
            (Some(None), json!({"next": null})),
            (Some(Some("5-6d".to_owned())), json!({"next": "5-6d"})),
        ] {
            let inbox = Inbox { unread: 2, conversations: vec![entry.clone()], next };
            let written = serde_json::to_value(&inbox).unwrap();
            let mut wanted = json!({"unread": 2, "conversations": [{"topic": "im/a", "last_seq": 3, "read_seq": 1,
                "unread": 2, "last": {"from": "bob", "ts": 7, "preview": "hi"}}]});
            wanted.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
            assert_eq!(written, wanted);
            assert_eq!(serde_json::from_value::<Inbox>(written).unwrap(), inbox);
        }
    }

    #[test]
    fn a_read_request_needs_both_fields() {
        let parse = |text: &str| serde_json::from_str::<ReadRequest>(text).ok();
        assert_eq!(parse(r#"{"topic":"im/a","seq":3}"#), Some(ReadRequest { topic: "im/a".into(), seq: 3 }));
        for wrong in [r#"{"topic":"im/a"}"#, r#"{"seq":1}"#, r#"{"topic":"im/a","seq":-1}"#, "3", ""] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_preview_is_the_beginning_of_the_text() {
        let long = "é".repeat(400);
        for (payload, expected) in [
            ("hello", Some("hello")),
            ("  two\nlines\t", Some("two lines")),
            (r#"{"text":"hi\nyou","other":[1]}"#, Some("hi you")),
            (r#"{"body":1}"#, Some(r#"{"body":1}"#)),
            (r#"{"text":7}"#, Some(r#"{"text":7}"#)),
            ("", Some("")),
            (long.as_str(), Some(&long[..160])),
        ] {
            assert_eq!(preview(payload.as_bytes()).as_deref(), expected, "{payload}");
        }
        let mut cut = "a".to_owned() + &long;
        cut.truncate(641);
        assert_eq!(preview(cut.as_bytes()).unwrap().chars().count(), PREVIEW_CHARS_MAX);
        assert_eq!(preview(b"\xff\x00"), None);
        assert_eq!(preview(&[0xc3]), None, "cut in the middle of a character at the very end");
    }
}
