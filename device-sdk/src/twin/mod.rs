//! The device twin: what the device says of itself, and what is wanted of it.
//!
//! Two retained JSON documents: `dev/{id}/state/reported` is the device's, `dev/{id}/state/desired` is everybody else's. The device
//! changes the first by merge patches (RFC 7396), which are durable and merged while it is offline, so that only the newest document goes out;
//! of the second it is told what differs, as a merge patch too.
//!
//! Both carry `$version`, a number that only grows. A desired document with a version lower than the last is stale and refused, and so is
//! another one with the same version: after the broker was restored from a backup, or when two programs write it. The reported document
//! also carries `$desired`, the version of the desired one that the device has taken.
//!
//! [`Twin`] is the durable state without a client, [`TwinRunner`] joins it to one.

mod patch;
mod runner;
mod store;

pub use patch::{difference, merge, missing};
pub use runner::TwinRunner;
pub use store::{DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX, Desired, Twin, TwinError};
