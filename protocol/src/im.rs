//! The IM layer on the wire: names of user properties, `$im/…` topics and their JSON payloads
//! (docs/protocol.md).

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
/// User property: which receipts the sender wants: `delivered`, `read` or `all`.
pub const IM_RECEIPT: &str = "im-receipt";
/// User property on CONNACK: keepalive other clients of the network proved.
pub const IM_KEEPALIVE: &str = "im-keepalive";
/// Topic on which a user's own receipts arrive.
pub const RECEIPTS_TOPIC: &str = "$im/receipts";
/// Topic on which a client hears of its own failed `$im` requests.
pub const ERRORS_TOPIC: &str = "$im/errors";
