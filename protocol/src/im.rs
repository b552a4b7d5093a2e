//! The IM layer on the wire: names of user properties, `$im/…` and `dev/…` topics and their JSON payloads
//! (docs/protocol.md).
//!
//! Payloads are written with absent fields left out, and read with unknown fields ignored: a newer
//! writer may add fields.

mod connection;
mod envelope;
mod inbox;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use connection::{
    KEEPALIVE_TOPIC, KeepaliveRequest, NET_BYTES_MAX, PRESENCE_PREFIX, PROBE_AFTER_S_MAX, PROBE_ID_BYTES_MAX,
    PROBE_PREFIX, PROBE_TOPIC, Presence, ProbeRequest, ProbeResult, check_net, presence_client,
    presence_topic, probe_topic,
};
pub use envelope::{ENVELOPE_PREFIX, Envelope};
pub use inbox::{
    INBOX_ENTRIES_MAX, INBOX_TOPIC, Inbox, InboxEntry, InboxLast, MINE_FILTER, PREVIEW_CHARS_MAX, READ_TOPIC,
    ReadRequest, preview,
};

/// User property: message id, 1–64 characters.
pub const IM_ID: &str = "im-id";
/// User property: number of a message in its conversation.
pub const IM_SEQ: &str = "im-seq";
/// User property on PUBACK/PUBREC: `1` for a duplicate.
pub const IM_DUP: &str = "im-dup";
/// User property: the sending user.
pub const IM_FROM: &str = "im-from";
/// User property: accept time, milliseconds since the Unix epoch.
pub const IM_TS: &str = "im-ts";
/// User property: the first message after a final hole in the seqs.
pub const IM_GAP: &str = "im-gap";
/// User property of a SUBSCRIBE: replay from this number on.
pub const IM_FROM_SEQ: &str = "im-from-seq";
/// User property: which receipts the sender wants: `delivered`, `read` or `all`.
pub const IM_RECEIPT: &str = "im-receipt";
/// User property: key by which a newer queued message replaces an older one.
pub const IM_COLLAPSE: &str = "im-collapse";
/// User property: `high` or `normal`.
pub const IM_PRIORITY: &str = "im-priority";
/// User property on CONNECT: name of the network path, at most 64 bytes.
pub const IM_NET: &str = "im-net";
/// User property on CONNACK: keepalive other clients of the network proved.
pub const IM_KEEPALIVE: &str = "im-keepalive";
/// Longest message id, in characters.
pub const IM_ID_CHARS_MAX: usize = 64;
/// What every topic of the IM layer starts with.
pub const IM_PREFIX: &str = "$im/";
/// What a filter that asks for stored messages starts with: `$im/from/{N}/{filter}`.
pub const FROM_PREFIX: &str = "$im/from/";
/// Topic on which a user's own receipts arrive.
pub const RECEIPTS_TOPIC: &str = "$im/receipts";
/// Topic on which a client hears of its own failed `$im` requests.
pub const ERRORS_TOPIC: &str = "$im/errors";

/// What became of one message at one recipient: a payload on [`RECEIPTS_TOPIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Topic of the message.
    pub topic: String,
    /// Its number in the conversation; absent outside conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Its message id.
    pub id: String,
    /// What became of it.
    pub state: ReceiptState,
    /// User of the recipient; absent when there was no recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Client of the recipient; absent when there was no recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// When, milliseconds since the Unix epoch.
    pub at: u64,
    /// Why, for `dropped` and `refused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// 0 when `delivered` only vouches for the socket write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
}

/// What became of a message at a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptState {
    /// The recipient acknowledged it (QoS 0: it was written to the socket).
    Delivered,
    /// The recipient's user read up to it.
    Read,
    /// Its Message Expiry Interval passed in a queue.
    Expired,
    /// A limit, a newer message or the session's end took it out of the queue.
    Dropped,
    /// The recipient answered with a failure, or it was set aside.
    Refused,
    /// It had no recipient at all.
    Undeliverable,
}

impl ReceiptState {
    /// Says whether only `read` can follow.
    pub fn is_final(self) -> bool {
        self != Self::Read
    }

    /// Says whether a sender who asked with this value of [`IM_RECEIPT`] is told of the state.
    ///
    /// `delivered` asks for the final state, `read` for `read` and every final state but delivered, `all`
    /// for both; any other value asks for nothing.
    pub fn is_wanted(self, receipt: &str) -> bool {
        match receipt {
            "delivered" => self.is_final(),
            "read" => self != Self::Delivered,
            "all" => true,
            _ => false,
        }
    }
}

/// A `$im` request, or a 3.1.1 publish, that could not be met: a payload on [`ERRORS_TOPIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestError {
    /// The topic or filter asked for.
    pub request: String,
    /// What was wrong with it.
    pub error: String,
    /// When, milliseconds since the Unix epoch.
    pub at: u64,
}

/// A command to a device: a payload on [`command_topic`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Identifies the command: a device runs each id at most once.
    pub id: String,
    /// What to do.
    pub name: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub args: Value,
    /// Not to be run at or after, milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// How far a command is: a payload on [`command_result_topic`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandResult {
    /// The command's id.
    pub id: String,
    /// How far it is.
    pub status: CommandStatus,
    /// What it gave, for `done`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// Why, for `failed`, `rejected` and `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, milliseconds since the Unix epoch.
    pub at: u64,
}

/// How far a command is: `accepted`, `executing`, then one of the four final ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandStatus {
    /// Received and kept.
    Accepted,
    /// Being run.
    Executing,
    /// Ran with success.
    Done,
    /// Ran, or may have run, without success.
    Failed,
    /// Was not run: the device's own check refused it.
    Rejected,
    /// Was not run: it came too late.
    Expired,
}

impl CommandStatus {
    /// Says whether no other status follows.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Accepted | Self::Executing)
    }
}

/// Returns `dev/{device}/cmd`, the conversation a device takes its commands from.
pub fn command_topic(device: &str) -> String {
    format!("dev/{device}/cmd")
}

/// Returns `dev/{device}/cmd/result`, where a device answers.
pub fn command_result_topic(device: &str) -> String {
    format!("dev/{device}/cmd/result")
}

/// Returns `dev/{device}/telemetry/{kind}`.
pub fn telemetry_topic(device: &str, kind: &str) -> String {
    format!("dev/{device}/telemetry/{kind}")
}

/// Returns `dev/{device}/event/{kind}`.
pub fn event_topic(device: &str, kind: &str) -> String {
    format!("dev/{device}/event/{kind}")
}

/// Returns `dev/{device}/state/reported`, retained: what the device says of itself.
pub fn reported_state_topic(device: &str) -> String {
    format!("dev/{device}/state/reported")
}

/// Returns `dev/{device}/state/desired`, retained: what is wanted of the device.
pub fn desired_state_topic(device: &str) -> String {
    format!("dev/{device}/state/desired")
}

/// Returns the device of a `dev/{device}/…` topic.
pub fn topic_device(topic: &str) -> Option<&str> {
    let (device, _) = topic.strip_prefix("dev/")?.split_once('/')?;
    (!device.is_empty()).then_some(device)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_receipt_leaves_absent_fields_out() {
        let receipt = Receipt {
            topic: "telemetry".into(),
            seq: None,
            id: "a".into(),
            state: ReceiptState::Undeliverable,
            user: None,
            client: None,
            at: 7,
            reason: None,
            qos: None,
        };
        let written = serde_json::to_value(&receipt).unwrap();
        assert_eq!(written, json!({"topic": "telemetry", "id": "a", "state": "undeliverable", "at": 7}));
        assert_eq!(serde_json::from_value::<Receipt>(written).unwrap(), receipt);
    }

    #[test]
    fn a_full_receipt_has_the_contracts_names() {
        let written = json!({"topic": "im/a", "seq": 3, "id": "x", "state": "dropped", "user": "u",
            "client": "c", "at": 9, "reason": "queue_full", "qos": 0});
        let receipt: Receipt = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(receipt).unwrap(), written);
    }

    #[test]
    fn receipts_are_told_to_those_who_asked_for_them() {
        use ReceiptState::{Delivered, Dropped, Expired, Read, Refused, Undeliverable};
        let all = [Delivered, Read, Expired, Dropped, Refused, Undeliverable];
        let wanted = |asked| all.into_iter().filter(|state| state.is_wanted(asked)).collect::<Vec<_>>();
        assert_eq!(wanted("delivered"), [Delivered, Expired, Dropped, Refused, Undeliverable]);
        assert_eq!(wanted("read"), [Read, Expired, Dropped, Refused, Undeliverable]);
        assert_eq!(wanted("all"), all);
        assert_eq!(wanted("none"), []);
    }

    #[test]
    fn a_command_needs_only_id_and_name_and_ignores_unknown_fields() {
        let command: Command = serde_json::from_str(r#"{"id":"1","name":"unlock","new":true}"#).unwrap();
        assert_eq!(serde_json::to_value(&command).unwrap(), json!({"id": "1", "name": "unlock"}));
        assert!(serde_json::from_str::<Command>(r#"{"name":"unlock"}"#).is_err());
    }

    #[test]
    fn a_command_status_is_final_or_not() {
        use CommandStatus::{Accepted, Done, Executing, Expired, Failed, Rejected};
        let all = [Accepted, Executing, Done, Failed, Rejected, Expired];
        assert_eq!(all.map(CommandStatus::is_final), [false, false, true, true, true, true]);
        assert_eq!(
            serde_json::to_value(all).unwrap(),
            json!(["accepted", "executing", "done", "failed", "rejected", "expired"])
        );
    }

    #[test]
    fn device_topics_name_their_device() {
        assert_eq!(command_topic("truck-7"), "dev/truck-7/cmd");
        assert_eq!(command_result_topic("truck-7"), "dev/truck-7/cmd/result");
        assert_eq!(telemetry_topic("truck-7", "gps"), "dev/truck-7/telemetry/gps");
        assert_eq!(event_topic("truck-7", "door"), "dev/truck-7/event/door");
        assert_eq!(reported_state_topic("truck-7"), "dev/truck-7/state/reported");
        assert_eq!(desired_state_topic("truck-7"), "dev/truck-7/state/desired");
        assert_eq!(topic_device("dev/truck-7/telemetry/gps"), Some("truck-7"));
        assert_eq!(["dev/truck-7", "dev//cmd", "im/dispatch"].map(topic_device), [None; 3]);
    }
}
