//! The device library for C: `include/postrider_device.h`.
//!
//! A client runs on a thread of its own; every call may be made from any thread, and waits no longer than it is told to.
//! Functions return [`PrResult::Ok`] or a negative code, and [`pr_last_error`] says why in words. What a function gives out is freed
//! by the function that its description names.
//!
//! Invariants: no panic crosses the border (Rust aborts there); every pointer that may be null is looked at first.

#![allow(
    unsafe_code,
    reason = "pointers of a C program cannot be used without; each function says what its caller owes"
)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]

mod client;
mod event;
mod failure;
mod options;

pub use client::{
    PrClient, pr_client_start, pr_client_stop, pr_enqueue, pr_publish, pr_queue_drain, pr_subscribe,
    pr_unsubscribe,
};
pub use event::{
    PrEvent, PrEventKind, pr_event_free, pr_event_kind, pr_event_payload, pr_event_seq, pr_event_text,
    pr_event_topic, pr_next,
};
pub use failure::{PrResult, pr_last_error};
pub use options::{
    PrOptions, pr_options_credentials, pr_options_free, pr_options_keep_alive, pr_options_new,
    pr_options_queue, pr_options_tls,
};
