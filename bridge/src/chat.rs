//! Reads what people write in the conversation: which message is a command, and for whom.
//!
//! The grammar is `/NAME DEVICE [ARGS]`. A message is plain text, or JSON with a `text`. What the bridge itself posts is
//! JSON with one of its own `kind`s and is never a command.

use serde_json::{Map, Value, json};

use crate::{config::CommandRule, report::Kind};

/// Longest text that is read as a command, bytes; a longer message is conversation.
const TEXT_BYTES_MAX: usize = 4_096;
/// Longest message of which a text is sought at all, bytes.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Longest device id that a command may name, bytes.
pub(crate) const DEVICE_BYTES_MAX: usize = 128;
/// How much of what somebody wrote is repeated to them, characters.
const QUOTE_CHARS_MAX: usize = 40;

/// What a message in the conversation means for the bridge.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    /// Nothing: people talking, or the bridge itself.
    Nothing,
    /// A command.
    Order(Order),
    /// An attempt at a command, with an answer that helps.
    Wrong {
        /// The answer.
        answer: String,
        /// Whom it was for, if that could be read.
        device: Option<String>,
    },
}

/// A command somebody gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order {
    /// The command's name, one of the rules'.
    pub(crate) name: String,
    /// Who is to obey.
    pub(crate) device: String,
    /// What goes with it, a JSON object.
    pub(crate) args: Value,
    /// How long it lives, from when it was written, seconds.
    pub(crate) ttl_s: u32,
}

/// Reads a message.
pub(crate) fn read(payload: &[u8], rules: &[CommandRule]) -> Said {
    let Some(text) = text_of(payload) else { return Said::Nothing };
    let Some(line) = text.trim().strip_prefix('/') else { return Said::Nothing };
    // "/ 7" or "//" is somebody's writing, no command.
    if text.len() > TEXT_BYTES_MAX || !line.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Said::Nothing;
    }
    let (name, rest) = split_word(line);
    let (device, args) = split_word(rest);
    let wrong =
        |answer: String, device: Option<&str>| Said::Wrong { answer, device: device.map(str::to_owned) };
    let Some(rule) = rules.iter().find(|rule| rule.name == name) else {
        if name == "help" {
            return wrong(known(rules), None);
        }
        return wrong(format!("unknown command /{}: {}", quote(name), known(rules)), None);
    };
    if device.is_empty() {
        return wrong(
            format!("/{name} needs a device: write /{name} DEVICE, for instance /{name} truck-7"),
            None,
        );
    }
    if !is_device(device) {
        let answer = format!(
            "{:?} is no device id: it has 1 to {DEVICE_BYTES_MAX} bytes and none of / + # or control characters",
            quote(device)
        );
        return wrong(answer, None);
    }
    match read_args(args) {
        Ok(args) => {
            let (name, device) = (name.to_owned(), device.to_owned());
            Said::Order(Order { name, device, args, ttl_s: rule.ttl_s })
        }
        Err(why) => {
            wrong(format!("the arguments of /{name} look like JSON but are none: {why}"), Some(device))
        }
    }
}

/// Whether a text can be one level of a topic that names a device.
pub(crate) fn is_device(id: &str) -> bool {
    (1..=DEVICE_BYTES_MAX).contains(&id.len())
        && !id.starts_with('$')
        && !id.contains(|c: char| matches!(c, '/' | '+' | '#') || c.is_control())
}

fn text_of(payload: &[u8]) -> Option<String> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(payload).ok()?;
    if !text.trim_start().starts_with('{') {
        return Some(text.to_owned());
    }
    let message: Map<String, Value> = serde_json::from_str(text).ok()?;
    let own = message.get("kind").and_then(Value::as_str).is_some_and(|kind| Kind::parse(kind).is_some());
    if own { None } else { message.get("text")?.as_str().map(str::to_owned) }
}

fn split_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// Nothing is `{}`, a JSON object is itself, other words are `{"text": …}`.
fn read_args(text: &str) -> Result<Value, serde_json::Error> {
    match text.chars().next() {
        None => Ok(json!({})),
        Some('{') => Ok(Value::Object(serde_json::from_str(text)?)),
        Some(_) => Ok(json!({ "text": text })),
    }
}

fn known(rules: &[CommandRule]) -> String {
    if rules.is_empty() {
        return "no commands are configured here".to_owned();
    }
    let names: Vec<_> = rules.iter().take(20).map(|rule| format!("/{} DEVICE", rule.name)).collect();
    format!("known are {}", names.join(", "))
}

fn quote(word: &str) -> String {
    let mut quoted: String = word.chars().take(QUOTE_CHARS_MAX).collect();
    if quoted.len() < word.len() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Vec<CommandRule> {
        vec![CommandRule { name: "unlock".into(), ttl_s: 60 }, CommandRule { name: "horn".into(), ttl_s: 10 }]
    }

    fn order(name: &str, args: Value, ttl_s: u32) -> Said {
        Said::Order(Order { name: name.into(), device: "truck-7".into(), args, ttl_s })
    }

    #[test]
    fn commands_are_read_from_plain_text_and_from_json() {
        let table = [
            ("/unlock truck-7", order("unlock", json!({}), 60)),
            ("  /unlock\t truck-7 \n", order("unlock", json!({}), 60)),
            (r#"{"text":"/unlock truck-7"}"#, order("unlock", json!({}), 60)),
            (r#"{"text":"/unlock truck-7","kind":"chat"}"#, order("unlock", json!({}), 60)),
            ("/horn truck-7 twice please", order("horn", json!({"text": "twice please"}), 10)),
            (r#"/horn truck-7 {"times": 2}"#, order("horn", json!({"times": 2}), 10)),
        ];
        for (payload, want) in table {
            assert_eq!(read(payload.as_bytes(), &rules()), want, "{payload}");
        }
    }

    #[test]
    fn talk_and_the_bridges_own_messages_mean_nothing() {
        let long = format!("/unlock {}", "x".repeat(TEXT_BYTES_MAX));
        let huge = format!(r#"{{"text":"/unlock truck-7","x":"{}"}}"#, "x".repeat(PAYLOAD_BYTES_MAX));
        for payload in [
            "hello",
            "unlock truck-7",
            "please /unlock truck-7",
            "/ 7",
            "//",
            "/",
            "",
            "{\"text\":7}",
            "{\"text\":\"hi\"}",
            "{",
            "{\"kind\":\"command_result\",\"text\":\"/unlock truck-7\"}",
            "{\"kind\":\"route_deviation\",\"text\":\"/unlock truck-7\"}",
            &long,
            &huge,
        ] {
            assert_eq!(read(payload.as_bytes(), &rules()), Said::Nothing, "{:.60}", payload);
        }
        assert_eq!(read(b"/unlock \xff", &rules()), Said::Nothing);
    }

    #[test]
    fn an_attempt_that_is_wrong_gets_an_answer_that_helps() {
        let long = format!("/{} x", "y".repeat(500));
        let table = [
            ("/lock truck-7", "unknown command /lock: known are /unlock DEVICE, /horn DEVICE"),
            ("/help", "known are /unlock DEVICE, /horn DEVICE"),
            ("/unlock", "/unlock needs a device: write /unlock DEVICE"),
            ("/unlock a/b", "\"a/b\" is no device id"),
            ("/unlock +", "\"+\" is no device id"),
            ("/unlock $im", "is no device id"),
            ("/horn truck-7 {times: 2}", "the arguments of /horn look like JSON but are none"),
            (&long, "unknown command /yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy…: known"),
        ];
        for (payload, want) in table {
            match read(payload.as_bytes(), &rules()) {
                Said::Wrong { answer, .. } => assert!(answer.contains(want), "{payload}: {answer}"),
                other => panic!("{payload}: {other:?}"),
            }
        }
        let Said::Wrong { answer, .. } = read(b"/unlock truck-7", &[]) else {
            panic!("no rules, no commands")
        };
        assert!(answer.contains("no commands are configured"), "{answer}");
    }
}
