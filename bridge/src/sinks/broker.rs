//! Hands messages to the broker: into the conversation, and commands to devices.

use device_sdk::{Client, Message, PublishError, QoS, ReasonCode};

use crate::{
    outbox::{Attempt, Cause, Verdict, unix_ms},
    state::Entry,
};

/// The broker as a target.
#[derive(Debug)]
pub(crate) struct BrokerSink {
    pub(crate) client: Client,
}

impl Attempt for BrokerSink {
    async fn attempt(&mut self, entry: &Entry) -> Verdict {
        let Some(message) = message(entry, unix_ms()) else {
            return Verdict::Never { why: "it expired before the broker could be reached".to_owned() };
        };
        match self.client.publish(message).await {
            Ok(_) => Verdict::Delivered,
            // The client was stopped: the entry stays in the outbox, and this task ends with the bridge.
            Err(PublishError::Stopped) => std::future::pending().await,
            Err(error) => judge(error),
        }
    }
}

/// What a failed publish means.
pub(super) fn judge(error: PublishError) -> Verdict {
    let why = error.to_string();
    match error {
        PublishError::Refused { reason: ReasonCode::QuotaExceeded, .. } => {
            Verdict::Again { cause: Cause::Quota, why, after_ms: None }
        }
        PublishError::Refused { reason, .. } if is_passing(reason) => transient(why),
        PublishError::Busy { .. } | PublishError::ConnectionLost => transient(why),
        _ => Verdict::Never { why },
    }
}

fn transient(why: String) -> Verdict {
    Verdict::Again { cause: Cause::Transient, why, after_ms: None }
}

/// Reasons that tell of the broker's state, not of the message.
fn is_passing(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::UnspecifiedError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::PacketIdentifierInUse
    )
}

/// Makes the message of an entry; `None` if it has expired.
fn message(entry: &Entry, now_ms: u64) -> Option<Message> {
    let topic = entry.topic.as_deref().unwrap_or_default();
    let mut message = Message::new(topic, entry.payload.clone())
        .qos(QoS::AtLeastOnce)
        .user_property("im-id", entry.id.as_str());
    message.properties.payload_format_utf8 = Some(true);
    message.properties.content_type = Some("application/json".into());
    let Some(expires_at_ms) = entry.expires_at_ms else { return Some(message) };
    let left_ms = expires_at_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0)?;
    let left_s = u32::try_from(left_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
    Some(message.user_property("im-receipt", "all").expiry_s(left_s))
}

#[cfg(test)]
mod tests {
    use device_sdk::user_property;

    use super::*;
    use crate::state::Target;

    fn entry(expires_at_ms: Option<u64>) -> Entry {
        Entry {
            no: 1,
            target: Target::Broker,
            id: "cmd-1".into(),
            kind: "command".into(),
            created_ms: 0,
            payload: "{}".into(),
            topic: Some("dev/truck-7/cmd".into()),
            expires_at_ms,
        }
    }

    #[test]
    fn a_command_asks_for_receipts_and_lives_as_long_as_is_left() {
        let message = message(&entry(Some(60_000)), 20_001).unwrap();
        assert_eq!((message.topic.as_str(), message.qos), ("dev/truck-7/cmd", QoS::AtLeastOnce));
        assert_eq!(message.properties.message_expiry_interval_s, Some(40));
        let property = |name| user_property(&message.properties.user_properties, name);
        assert_eq!((property("im-id"), property("im-receipt")), (Some("cmd-1"), Some("all")));
    }

    #[test]
    fn an_expired_command_is_not_sent_and_a_post_never_expires() {
        assert_eq!(message(&entry(Some(60_000)), 60_000), None);
        let post = message(&entry(None), 60_000).unwrap();
        assert_eq!(post.properties.message_expiry_interval_s, None);
        assert_eq!(user_property(&post.properties.user_properties, "im-receipt"), None);
    }

    #[test]
    fn a_refusal_for_now_is_tried_again_and_one_for_good_is_not() {
        let refused = |reason| judge(PublishError::Refused { reason, why: String::new() });
        assert!(matches!(refused(ReasonCode::QuotaExceeded), Verdict::Again { .. }));
        assert!(matches!(refused(ReasonCode::NotAuthorized), Verdict::Never { .. }));
        assert!(matches!(judge(PublishError::TooLarge { bytes: 2, limit: 1 }), Verdict::Never { .. }));
        assert!(matches!(judge(PublishError::Busy { waiting: 1, limit: 1 }), Verdict::Again { .. }));
    }
}
