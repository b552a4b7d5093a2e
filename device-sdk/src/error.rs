//! One error a boundary: starting, publishing, enqueueing, everything else a client is asked to do.

use protocol::ReasonCode;

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option is out of its range.
    #[error("{what}")]
    Options {
        /// Which, with its value and what is allowed.
        what: String,
    },
    /// There is no tokio runtime to run on.
    #[error("a client must be started inside a tokio runtime with time and I/O enabled")]
    NoRuntime,
    /// The disk queue's directory is locked by another process, damaged, or not accessible.
    #[error("disk queue: {0}")]
    Queue(storage::OpenError),
    /// The disk queue's thread cannot be started.
    #[error("disk queue: cannot start its thread: {0}")]
    QueueThread(std::io::Error),
    /// The disk queue's records cannot be read.
    #[error("queue directory {dir} cannot be read: {what}; move it away to start with an empty queue")]
    QueueRecords {
        /// The directory.
        dir: String,
        /// What is wrong, and where.
        what: String,
    },
    /// The directory of the identifiers of messages is locked by another process, damaged, or not accessible.
    #[error("received messages: {0}")]
    Received(storage::OpenError),
    /// The identifiers of messages cannot be read.
    #[error(
        "directory {dir} of received messages cannot be read: {what}; move it away: a message may then come twice"
    )]
    ReceivedRecords {
        /// The directory.
        dir: String,
        /// What is wrong, and where.
        what: String,
    },
}

/// Why a message was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The topic name is not allowed.
    #[error("topic {topic:?} is not allowed: {why}")]
    Topic {
        /// The name.
        topic: String,
        /// What is wrong with it.
        why: protocol::TopicError,
    },
    /// A string or the packet is longer than MQTT allows.
    #[error("the message does not fit MQTT: {what}")]
    Unencodable {
        /// Which field.
        what: String,
    },
    /// The packet is larger than the broker takes.
    #[error("the packet has {bytes} bytes, the broker takes {limit}")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// The broker's Maximum Packet Size.
        limit: u32,
    },
    /// The broker refused it, or announced that it takes no such message.
    #[error("the broker refused the message: {} (0x{:02x}){}", .reason.text(), *.reason as u8, suffix(.why))]
    Refused {
        /// The broker's code.
        reason: ReasonCode,
        /// The broker's words, possibly empty.
        why: String,
    },
    /// The connection ended before a QoS 0 message was written; it is not sent again.
    #[error("the connection ended before the QoS 0 message was written")]
    ConnectionLost,
    /// Too many messages wait already.
    #[error("{waiting} messages wait to be sent, the limit is {limit}")]
    Busy {
        /// How many.
        waiting: usize,
        /// The limit.
        limit: usize,
    },
    /// The client has disconnected, or did before the acknowledgement came.
    #[error("the client has stopped; the message was not acknowledged")]
    Stopped,
}

/// Why a message was not put into the disk queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The client was started without a queue.
    #[error("the client has no disk queue (Options::queue)")]
    NoQueue,
    /// The topic name is not allowed.
    #[error("topic {topic:?} is not allowed: {why}")]
    Topic {
        /// The name.
        topic: String,
        /// What is wrong with it.
        why: protocol::TopicError,
    },
    /// The message cannot be stored: longer than MQTT or a queue record may be.
    #[error("the message cannot be queued: {what}")]
    Unencodable {
        /// Which field or size.
        what: String,
    },
    /// The `im-id` given is not 1 to 64 characters long.
    #[error("im-id {id:?} has {chars} characters, it must have 1 to 64")]
    Id {
        /// The id, cut to 128 characters.
        id: String,
        /// Its length.
        chars: usize,
    },
    /// The quota or the disk is full, and nothing that is there gives way to such an entry. Space returns as entries are
    /// acknowledged.
    #[error(
        "the queue is full: {bytes} of {bytes_max} bytes hold {entries} of {entries_max} entries, {needed} more bytes are \
         needed"
    )]
    Full {
        /// Bytes on disk.
        bytes: u64,
        /// The quota.
        bytes_max: u64,
        /// Entries waiting for their acknowledgement.
        entries: u64,
        /// Most of them.
        entries_max: u64,
        /// Bytes the new entry takes.
        needed: u64,
    },
    /// The disk failed. No more entries are taken: what is on disk may be less than was thought.
    #[error("the queue's disk failed: {what}")]
    Disk {
        /// The operating system's words.
        what: String,
    },
    /// The client has stopped before the entry was on disk.
    #[error("the client has stopped")]
    Stopped,
}

/// Why a request other than publishing failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A filter is not allowed.
    #[error("filter {filter:?} is not allowed: {why}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        why: protocol::FilterError,
    },
    /// The request is empty or over a limit.
    #[error("{what}")]
    Limit {
        /// What, with the values.
        what: String,
    },
    /// The client has disconnected.
    #[error("the client has stopped")]
    Stopped,
}

fn suffix(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}
