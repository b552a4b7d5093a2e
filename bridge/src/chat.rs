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
    /// Somebody takes care of an alert.
    Acknowledge {
        /// Its id, the start of it, or a device.
        what: String,
    },
    /// Alerts are not to be told for a time.
    Mute {
        /// A device, a rule, or empty for everything.
        what: String,
        /// How long, milliseconds; 0 ends it.
        for_ms: u64,
    },
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

/// Reads a message. `alerts` says whether there are rules, whose alerts people may acknowledge and mute.
pub(crate) fn read(payload: &[u8], rules: &[CommandRule], alerts: bool) -> Said {
    let Some(text) = text_of(payload) else { return Said::Nothing };
    let Some(line) = text.trim().strip_prefix('/') else { return Said::Nothing };
    // "/ 7" or "//" is somebody's writing, no command.
    if text.len() > TEXT_BYTES_MAX || !line.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Said::Nothing;
    }
    let (name, rest) = split_word(line);
    if alerts && let Some(said) = about_alerts(name, rest) {
        return said;
    }
    let (device, args) = split_word(rest);
    let wrong =
        |answer: String, device: Option<&str>| Said::Wrong { answer, device: device.map(str::to_owned) };
    let Some(rule) = rules.iter().find(|rule| rule.name == name) else {
        if name == "help" {
            return wrong(known(rules, alerts), None);
        }
        return wrong(format!("unknown command /{}: {}", quote(name), known(rules, alerts)), None);
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

/// Reads what may be done with alerts: `/ack WHAT`, `/mute TIME [WHAT]`, `/unmute [WHAT]`.
fn about_alerts(name: &str, rest: &str) -> Option<Said> {
    let wrong = |answer: String| Some(Said::Wrong { answer, device: None });
    match name {
        "ack" if rest.trim().is_empty() => {
            wrong("/ack needs an alert or a device: write /ack truck-7, or the alert's id".to_owned())
        }
        "ack" => Some(Said::Acknowledge { what: what(rest) }),
        "unmute" => Some(Said::Mute { what: what(rest), for_ms: 0 }),
        "mute" => {
            let (time, rest) = split_word(rest);
            match span_ms(time) {
                Some(for_ms) => Some(Said::Mute { what: what(rest), for_ms }),
                None => wrong(format!(
                    "{:?} is no time to be quiet: write /mute 2h, /mute 30m truck-7; at most 30d",
                    quote(time)
                )),
            }
        }
        _ => None,
    }
}

fn what(text: &str) -> String {
    text.trim().chars().take(DEVICE_BYTES_MAX).collect()
}

/// Reads `90s`, `30m`, `2h`, `1d`; at most 30 days.
fn span_ms(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let unit_ms = match &text[unit_at..] {
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 24 * 3_600_000,
        _ => return None,
    };
    let ms = text[..unit_at].parse::<u64>().ok()?.checked_mul(unit_ms)?;
    (1..=30 * 24 * 3_600_000).contains(&ms).then_some(ms)
}

fn known(rules: &[CommandRule], alerts: bool) -> String {
    if rules.is_empty() && !alerts {
        return "no commands are configured here".to_owned();
    }
    let mut names: Vec<_> = rules.iter().take(20).map(|rule| format!("/{} DEVICE", rule.name)).collect();
    if alerts {
        names.extend(["/ack DEVICE", "/mute TIME [DEVICE]", "/unmute [DEVICE]"].map(str::to_owned));
    }
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
            assert_eq!(read(payload.as_bytes(), &rules(), false), want, "{payload}");
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
            assert_eq!(read(payload.as_bytes(), &rules(), false), Said::Nothing, "{:.60}", payload);
        }
        assert_eq!(read(b"/unlock \xff", &rules(), false), Said::Nothing);
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
            match read(payload.as_bytes(), &rules(), false) {
                Said::Wrong { answer, .. } => assert!(answer.contains(want), "{payload}: {answer}"),
                other => panic!("{payload}: {other:?}"),
            }
        }
        let Said::Wrong { answer, .. } = read(b"/unlock truck-7", &[], false) else {
            panic!("no rules, no commands")
        };
        assert!(answer.contains("no commands are configured"), "{answer}");
    }
}
