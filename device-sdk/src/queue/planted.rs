//! Mistakes on purpose, so that a simulator can show that it finds them.

/// A mistake that somebody could make in the queue; see [`super::DrivenQueue::plant`].
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Planted {
    /// A write is told as durable without a sync.
    SyncSkipped,
    /// After a restart the queue begins one entry too late.
    CursorSkips,
    /// After a restart entries have other ids.
    NewIdsAfterRestart,
    /// The newest entry of the backlog goes first.
    NewestFirst,
    /// Entries that are given up are not told.
    DroppedInSilence,
    /// An entry is noted as delivered when it is sent.
    GoneWhenSent,
    /// Space is given back although entries in it wait.
    SpaceGivenBackEarly,
}
