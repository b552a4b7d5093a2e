//! Bugs that can be switched on in the simulated firmware, so that the harness shows that it finds them
//! (docs/simulator.md).
//!
//! Each is one comparison at the spot where somebody could really make that mistake. No scenario file and no option of
//! the command line reaches them: only code that makes a [`crate::world::Run`] itself can set one.

/// A mistake made on purpose.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Planted {
    /// What is on its way when the link ends is taken for delivered.
    LostOnReconnect,
    /// A record leaves the queue when it is sent, not when it is acknowledged.
    GoneWhenSent,
    /// A record is accepted although its write was not synced.
    SyncSkipped,
    /// After a restart the queue begins one record too late.
    CursorSkips,
    /// The queue gives space back in which records wait.
    SpaceGivenBackEarly,
    /// After a restart records get new ids, so that the broker takes those sent again for new ones.
    NewIdsAfterRestart,
    /// The queue sends the newest record first.
    NewestFirst,
    /// A full queue drops a record and tells nobody.
    DroppedInSilence,
    /// The actuator fires before the command is in the journal.
    ActuatorBeforeJournal,
    /// A restart forgets the journal.
    JournalForgotten,
    /// A command is acknowledged when it comes, not when it has ended.
    CommandAcknowledgedEarly,
    /// A command's expiry is not looked at.
    LateUnlock,
    /// A command's expiry is looked at with whatever the clock says.
    ExpiryByWrongClock,
    /// The lock trusts a fix however old it is.
    StaleFixTrusted,
    /// The lock opens where the fix is inside the fence, however vague it is.
    FenceWithoutMargin,
    /// The date of the receiver is taken as it is.
    WeekNotUnrolled,
    /// The client is silent while it has nothing to say.
    NoPings,
    /// The client connects again without a pause.
    NoBackoff,
    /// A probe that heard nothing counts as one that survived.
    SilenceTakenForSurvival,
    /// A release on trial is confirmed whether it works or not.
    RollbackMissing,
    /// A release is taken whoever has signed it.
    ForgerTrusted,
}

impl Planted {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::LostOnReconnect,
        Self::GoneWhenSent,
        Self::SyncSkipped,
        Self::CursorSkips,
        Self::SpaceGivenBackEarly,
        Self::NewIdsAfterRestart,
        Self::NewestFirst,
        Self::DroppedInSilence,
        Self::ActuatorBeforeJournal,
        Self::JournalForgotten,
        Self::CommandAcknowledgedEarly,
        Self::LateUnlock,
        Self::ExpiryByWrongClock,
        Self::StaleFixTrusted,
        Self::FenceWithoutMargin,
        Self::WeekNotUnrolled,
        Self::NoPings,
        Self::NoBackoff,
        Self::SilenceTakenForSurvival,
        Self::RollbackMissing,
        Self::ForgerTrusted,
    ];
}
