//! A message in its JSON envelope (docs/protocol.md section 2).

use bytestring::ByteString;
use protocol::Publish;
use protocol::im::{ENVELOPE_PREFIX, Envelope};

use crate::body::Body;
use crate::message::Message;

/// Bytes of an envelope at most: the packet around it must have a length that MQTT can say.
const ENVELOPE_BYTES_MAX: usize = 256 * 1024 * 1024 - 2 * 65_536;

/// Makes a message's PUBLISH the one of its envelope: its topic, its payload, and what says how the payload is to be
/// read; all else stays. `None` when MQTT cannot say the topic or the length.
pub(crate) fn wrap(message: &Message, body: &Body, gap: bool, mut publish: Publish) -> Option<Publish> {
    if ENVELOPE_PREFIX.len() + message.topic.len() > usize::from(u16::MAX) {
        return None;
    }
    let id = body.id.text();
    let envelope = Envelope {
        topic: (&*message.topic).into(),
        seq: message.seq,
        id: (&*id).into(),
        from: (!body.from.is_empty()).then(|| (&*body.from).into()),
        ts: message.ts_unix_ms,
        gap: message.seq.filter(|_| gap),
        payload: None,
        payload64: None,
    };
    let json = serde_json::to_vec(&envelope.with_payload(&body.payload));
    let json = json.expect("a struct of strings and numbers is JSON");
    if json.len() > ENVELOPE_BYTES_MAX {
        return None;
    }
    publish.topic = ByteString::from(format!("{ENVELOPE_PREFIX}{}", message.topic));
    publish.payload = json.into();
    if let Some(properties) = publish.properties.get_mut() {
        properties.payload_format_utf8 = properties.payload_format_utf8.map(|_| true);
        if let Some(content_type) = &mut properties.content_type {
            *content_type = "application/json".into();
        }
    }
    Some(publish)
}
