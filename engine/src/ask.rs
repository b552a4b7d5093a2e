//! What those ask who are no MQTT clients, and what they are answered.

use bytestring::ByteString;

use crate::principal::Principal;

/// One question; the caller never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// To make a user a member of a conversation; one who is a member stays what it is.
    Join {
        /// The conversation.
        topic: ByteString,
        /// The user.
        user: ByteString,
        /// Who wants it, where its rights decide: it must be allowed to subscribe to the topic.
        by: Option<Box<Principal>>,
    },
    /// To end a user's membership; one who is no member stays none.
    Leave {
        /// The conversation.
        topic: ByteString,
        /// The user.
        user: ByteString,
    },
    /// What was set aside at a client's session.
    SetAside {
        /// The client id.
        client: ByteString,
    },
    /// To give a client a message again that was set aside.
    Replay {
        /// The client id.
        client: ByteString,
        /// Its number, as listed.
        message: u64,
    },
    /// To forget a message that was set aside.
    Drop {
        /// The client id.
        client: ByteString,
        /// Its number, as listed.
        message: u64,
    },
    /// What a user has in the inbox.
    Inbox {
        /// The user.
        user: ByteString,
        /// Who asks, where its rights decide what is shown.
        by: Option<Box<Principal>>,
        /// Where the answer before ended; `None` begins with the newest conversation.
        cursor: Option<ByteString>,
        /// Most entries wanted; 200 are the most there are.
        limit: usize,
    },
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and durable.
    Done,
    /// A JSON document.
    Json(String),
    /// It is not done: the question is wrong.
    Invalid(String),
    /// It is not done: there is no such thing.
    NotFound(String),
    /// It is not done: who asked may not.
    Forbidden(String),
    /// It is not done: a limit is reached.
    Full(String),
}
