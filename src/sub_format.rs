//! The output formats of `postrider sub -F`: mosquitto's letters.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use device_sdk::Incoming;

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Field(char),
}

const FIELDS: &str = "tpxXlqrjJIUPCDEFRS";

impl Format {
    /// Parses a format.
    ///
    /// # Errors
    /// A letter after `%` or `\` is none of those known.
    pub(crate) fn parse(format: &str) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        let mut text = Vec::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => match chars.next() {
                    Some('%') => text.push(b'%'),
                    Some(field) if FIELDS.contains(field) => {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                        parts.push(Part::Field(field));
                    }
                    Some(other) => bail!("format {format:?}: %{other} is unknown; there are {}", known()),
                    None => bail!("format {format:?} ends in %; %% prints one"),
                },
                '\\' => match chars.next() {
                    Some('n') => text.push(b'\n'),
                    Some('t') => text.push(b'\t'),
                    Some('r') => text.push(b'\r'),
                    Some('0') => text.push(0),
                    Some('\\') => text.push(b'\\'),
                    Some(other) => {
                        bail!("format {format:?}: \\{other} is unknown; there are \\n \\t \\r \\0 \\\\")
                    }
                    None => bail!("format {format:?} ends in \\; \\\\ prints one"),
                },
                c => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        parts.push(Part::Text(text));
        parts.retain(|part| *part != Part::Text(Vec::new()));
        Ok(Self { parts })
    }

    /// Appends the message, printed at the current time.
    ///
    /// # Errors
    /// `%J` and the payload is no JSON.
    pub(crate) fn render(&self, message: &Incoming, out: &mut Vec<u8>) -> Result<(), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.render_at(message, now, out)
    }

    fn render_at(&self, message: &Incoming, now: Duration, out: &mut Vec<u8>) -> Result<(), String> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Field('p') => out.extend_from_slice(&message.payload),
                Part::Field('D') => {
                    out.extend_from_slice(message.properties.correlation_data.as_deref().unwrap_or_default());
                }
                Part::Field(field) => out.extend_from_slice(field_text(*field, message, now)?.as_bytes()),
            }
        }
        Ok(())
    }
}

fn known() -> String {
    FIELDS.chars().map(|field| format!("%{field} ")).collect::<String>() + "%%"
}

fn field_text(field: char, message: &Incoming, now: Duration) -> Result<String, String> {
    let properties = &message.properties;
    let text = |value: &Option<protocol::ByteString>| value.as_deref().unwrap_or_default().to_owned();
    Ok(match field {
        't' => message.topic.clone(),
        'x' => hex(&message.payload),
        'X' => hex(&message.payload).to_uppercase(),
        'l' => message.payload.len().to_string(),
        'q' => (message.qos as u8).to_string(),
        'r' => u8::from(message.retain).to_string(),
        'I' => iso(now, "+0000"),
        'U' => format!("{}.{:09}", now.as_secs(), now.subsec_nanos()),
        'P' => properties
            .user_properties
            .iter()
            .map(|(name, value)| format!("{name}:{value}"))
            .collect::<Vec<_>>()
            .join(" "),
        'C' => text(&properties.content_type),
        'R' => text(&properties.response_topic),
        'E' => properties.message_expiry_interval_s.map_or_else(String::new, |seconds| seconds.to_string()),
        'F' => properties.payload_format_utf8.map_or_else(String::new, |utf8| u8::from(utf8).to_string()),
        'S' => properties.subscription_identifiers.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        'j' => json(message, now, String::from_utf8_lossy(&message.payload).into_owned().into()).to_string(),
        'J' => {
            let payload = serde_json::from_slice(&message.payload)
                .map_err(|error| format!("payload is not valid JSON: {error}"))?;
            json(message, now, payload).to_string()
        }
        other => return Err(format!("%{other} is unknown")),
    })
}

fn json(message: &Incoming, now: Duration, payload: serde_json::Value) -> serde_json::Value {
    let mut object = serde_json::json!({
        "tst": iso(now, "Z"),
        "topic": message.topic,
        "qos": message.qos as u8,
        "retain": u8::from(message.retain),
        "payloadlen": message.payload.len(),
        "payload": payload,
    });
    if !message.properties.user_properties.is_empty() {
        let user: Vec<serde_json::Value> = message
            .properties
            .user_properties
            .iter()
            .map(|(name, value)| serde_json::json!({ (&**name): &**value }))
            .collect();
        object["properties"] = serde_json::json!({ "user-properties": user });
    }
    object
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

/// Formats a time since the Unix epoch as UTC, with microseconds.
fn iso(now: Duration, zone: &str) -> String {
    const DAY_S: u64 = 86_400;
    let mut days = now.as_secs() / DAY_S;
    let seconds = now.as_secs() % DAY_S;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let day = days + 1;
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}{zone}",
        now.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use device_sdk::{Bytes, PublishProperties, QoS};

    use super::*;

    fn message(payload: &'static [u8]) -> Incoming {
        let mut properties = PublishProperties::default();
        properties.user_properties.push(("im-seq".into(), "7".into()));
        properties.user_properties.push(("im-from".into(), "ann".into()));
        Incoming {
            topic: "a/b".to_owned(),
            payload: Bytes::from_static(payload),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            properties,
            ack: None,
        }
    }

    fn check(format: &str, payload: &'static [u8], expected: &str) {
        let mut out = Vec::new();
        let now = Duration::new(1_795_228_988, 7_806_176);
        Format::parse(format).unwrap().render_at(&message(payload), now, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn every_letter_prints_its_field() {
        check("%t|%p|%x|%X|%l|%q|%r", b"j\xc3\xbf", "a/b|jÿ|6ac3bf|6AC3BF|3|1|1");
        check("%I %U", b"", "2026-11-21T02:43:08.007806+0000 1795228988.007806176");
        check("%P|%C%D%E%F%R%S|%%\\n\\t", b"", "im-seq:7 im-from:ann||%\n\t");
        check(
            "%j",
            b"{}",
            "{\"payload\":\"{}\",\"payloadlen\":2,\"properties\":{\"user-properties\":[{\"im-seq\":\"7\"},{\"im-from\":\"ann\"}]},\
             \"qos\":1,\"retain\":1,\"topic\":\"a/b\",\"tst\":\"2026-11-21T02:43:08.007806Z\"}",
        );
    }

    #[test]
    fn json_payloads_are_embedded_and_others_refused() {
        let mut out = Vec::new();
        let format = Format::parse("%J").unwrap();
        assert!(format.render(&message(b"{\"x\":1}"), &mut out).is_ok());
        assert!(String::from_utf8(out).unwrap().contains("\"payload\":{\"x\":1}"));
        assert!(format.render(&message(b"{"), &mut Vec::new()).unwrap_err().contains("not valid JSON"));
    }

    #[test]
    fn unknown_letters_are_refused_with_those_known() {
        for (format, expected) in
            [("%y", "%y is unknown; there are %t"), ("a%", "ends in %"), ("\\q", "\\q is unknown")]
        {
            let error = Format::parse(format).unwrap_err().to_string();
            assert!(error.replace("\\\\", "\\").contains(expected), "{error}");
        }
    }

    #[test]
    fn dates_know_leap_years() {
        let cases = [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(iso(Duration::from_secs(seconds), ""), format!("{expected}.000000"));
        }
    }
}
