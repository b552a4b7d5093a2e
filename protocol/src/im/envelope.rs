//! The JSON form of a message, for clients whose MQTT carries no properties.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// What the topics of envelopes start with: the message's own topic follows.
pub const ENVELOPE_PREFIX: &str = "$im/env/";

/// A message as it comes to a subscription to `$im/env/{filter}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<'a> {
    /// Topic of the message.
    #[serde(borrow)]
    pub topic: Cow<'a, str>,
    /// Its number in the conversation; absent outside conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Its message id.
    pub id: Cow<'a, str>,
    /// The sending user; absent for messages of the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Cow<'a, str>>,
    /// Accept time, milliseconds since the Unix epoch.
    pub ts: u64,
    /// Its own number, where those before it will not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<u64>,
    /// The payload, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Cow<'a, str>>,
    /// The payload in base64 with padding, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload64: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Puts a payload into the field that can hold it.
    #[must_use]
    pub fn with_payload(mut self, payload: &'a [u8]) -> Self {
        (self.payload, self.payload64) = match std::str::from_utf8(payload) {
            Ok(text) => (Some(text.into()), None),
            Err(_) => (None, Some(STANDARD.encode(payload).into())),
        };
        self
    }

    /// Returns the payload as it was published; `None` if neither field holds one.
    pub fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        match (&self.payload, &self.payload64) {
            (Some(text), _) => Some(text.as_bytes().into()),
            (None, Some(encoded)) => STANDARD.decode(&**encoded).ok().map(Cow::Owned),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn envelope() -> Envelope<'static> {
        Envelope {
            topic: "t".into(),
            seq: None,
            id: "i".into(),
            from: None,
            ts: 7,
            gap: None,
            payload: None,
            payload64: None,
        }
    }

    #[test]
    fn absent_fields_are_left_out_and_any_payload_comes_back() {
        for (payload, field, value) in [
            ("grüß \"dich\"\n\0".as_bytes(), "payload", json!("grüß \"dich\"\n\0")),
            (b"", "payload", json!("")),
            (b"\xff\x00\xfe\x01", "payload64", json!("/wD+AQ==")),
        ] {
            let envelope = envelope().with_payload(payload);
            let written = serde_json::to_value(&envelope).unwrap();
            let mut expected = json!({"topic": "t", "id": "i", "ts": 7});
            expected[field] = value;
            assert_eq!(written, expected);
            let text = written.to_string();
            let read: Envelope<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!(read.bytes().unwrap(), payload);
        }
        assert_eq!(envelope().bytes(), None);
        let broken = Envelope { payload64: Some("?".into()), ..envelope() };
        assert_eq!(broken.bytes(), None);
    }

    #[test]
    fn a_full_envelope_has_the_contracts_names() {
        let full = Envelope { seq: Some(3), from: Some("u".into()), gap: Some(3), ..envelope() };
        let expected =
            json!({"topic": "t", "seq": 3, "id": "i", "from": "u", "ts": 7, "gap": 3, "payload": "x"});
        assert_eq!(serde_json::to_value(full.with_payload(b"x")).unwrap(), expected);
    }
}
