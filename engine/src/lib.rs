//! The broker as a pure state machine: sessions, routes, retained messages, conversations, receipts.
//!
//! No clock, socket, thread or outside randomness: [`Shard::handle`] takes the time and an [`Input`],
//! [`Shard::poll_output`] gives what the caller must do. The same inputs give the same outputs, so a
//! seeded simulation drives it through thousands of crashes a second.
//!
//! Session, route, retained, conversation and receipt modules do not name each other's behaviour: they
//! meet in [`Shard`]. The promise they keep together: nothing that another party can observe leaves before
//! the record behind it is durable.

mod acl;
mod alias;
mod ask;
mod behind;
mod body;
mod config;
mod conversation;
mod dedup;
mod directory;
mod edges;
mod envelope;
mod gap;
mod gate;
mod inbox;
mod io;
mod member;
mod memory;
mod message;
mod names;
mod network;
mod places;
mod planted;
mod poison;
mod presence;
mod principal;
mod queueing;
mod reads;
mod receipt;
mod recipients;
mod record;
mod recovery;
mod replay;
mod reserved;
mod retained;
mod rights;
mod route;
mod seldom;
mod session;
mod shard;
mod share;
mod subscriptions;
mod timers;
pub mod view;
mod waiting;

pub use acl::{Access, Acl, AclRule, Who};
pub use ask::{Answer, AskId, Question};
pub use config::{Config, ConversationRule, OnFull, ReceiptsWanted, Retention};
pub use dedup::DedupLimits;
pub use io::{CloseReason, ConnId, FetchId, Input, Now, Output, Stats, Ticket};
pub use memory::{Memory, MemoryLevel};
#[doc(hidden)]
pub use planted::Planted;
pub use principal::{Authentication, Principal, SessionLimits};
pub use record::messages_of;
pub use recovery::{RecoverError, Recovery};
pub use shard::Shard;
