//! What is told long after it happened says so.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{report::span, state::Entry};

/// A message that waited for so long is marked, milliseconds.
const LATE_MS: u64 = 120_000;

/// Returns the message as it is to be told now: after a long wait for its sink the text ends with it, and the JSON has it as `late_s`.
/// Commands are left as they are.
pub(crate) fn told_late(entry: &Entry, now_ms: u64) -> Cow<'_, Entry> {
    let waited_ms = now_ms.saturating_sub(entry.created_ms);
    if waited_ms < LATE_MS || entry.expires_at_ms.is_some() {
        return Cow::Borrowed(entry);
    }
    let Ok(mut json) = serde_json::from_str::<Map<String, Value>>(&entry.payload) else {
        return Cow::Borrowed(entry);
    };
    json.insert("late_s".to_owned(), (waited_ms / 1_000).into());
    if let Some(Value::String(text)) = json.get_mut("text") {
        text.push_str(&format!(" (told {} late)", span(waited_ms)));
    }
    Cow::Owned(Entry { payload: Value::Object(json).to_string(), ..entry.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::tests::entry;

    #[test]
    fn a_message_that_waited_says_so_and_a_command_and_a_young_one_do_not() {
        let old = entry(r#"{"text":"truck-7 left"}"#);
        assert_eq!(told_late(&old, 120_004).payload, old.payload);
        let late = told_late(&old, 5 + 720_000);
        let json: Value = serde_json::from_str(&late.payload).unwrap();
        assert_eq!(
            (&json["text"], &json["late_s"]),
            (&"truck-7 left (told 12 min late)".into(), &720.into())
        );
        assert_eq!(late.id, old.id);
        let command = Entry { expires_at_ms: Some(9), ..old };
        assert_eq!(told_late(&command, 720_005).payload, command.payload);
    }
}
