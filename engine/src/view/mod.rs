//! The view: the durable state as rows, so that opening reads what is there and not all that ever happened.
//!
//! A row is about one thing: a session with its subscriptions, a page of a queue, a retained message. Its key says
//! which, its value is a record as the log's ([`crate::record`]): taken back in the order of their keys, the rows
//! rebuild the state that the log up to a certain record says.

mod row;

#[allow(unused_imports, reason = "the projector that folds records into rows uses it")]
pub(crate) use row::Row;
