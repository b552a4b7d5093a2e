//! Bugs that can be switched on, so that the simulation shows that it finds them (docs/simulation.md).
//!
//! Each is one comparison at the spot where somebody could really make that mistake. No configuration file
//! reaches them: only code that makes a [`Config`](crate::Config) itself can set one.

/// A mistake made on purpose.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Planted {
    /// Acknowledgements leave before their record is durable.
    AckBeforeCommit,
    /// Messages leave before their record is durable.
    DeliveryBeforeCommit,
    /// After a restart a conversation goes on one number too low.
    SeqReusedAfterRestart,
    /// A restart forgets which QoS 2 packet ids were taken.
    Qos2IdForgottenAtRestart,
    /// A resumed session gets what was in flight in the wrong order.
    ResentOutOfOrder,
    /// A resumed session does not get what was in flight.
    NotResent,
    /// Two messages are in flight under one packet id.
    PacketIdReused,
    /// What a member of a shared group left at its end goes to nobody.
    HandOverLost,
    /// A QoS 2 message in flight goes to a second member of the group when the first one's session ends.
    HandOverTwice,
    /// A restart forgets retained messages.
    RetainedLostAtRestart,
    /// A restart forgets subscriptions.
    SubscriptionLostAtRestart,
    /// A restart forgets wills.
    WillLostAtRestart,
    /// The time that a message waits in a queue does not count for its expiry.
    ExpiryNotCounted,
    /// A full queue drops its oldest message without a receipt.
    DroppedInSilence,
    /// A restart forgets whom receipts are owed to.
    ReceiptsLostAtRestart,
    /// A restart forgets which receipts were told.
    ReceiptsReopenedAtRestart,
    /// A session gets one copy of a message for each of its subscriptions that match.
    OverlapTwice,
    /// Clean Start finds the old session.
    CleanStartResumes,
    /// After a restart clients that were online stay so.
    StalePresenceAfterRestart,
    /// A client's new connection does not know the epoch of the one before.
    PresenceEpochForgotten,
    /// A restart forgets the ids of messages.
    DedupForgottenAtRestart,
    /// An id stands for one message on whatever topic.
    DedupWithoutTopic,
    /// A replay begins one number too late.
    CursorSkips,
    /// A message comes by the cursor and by the queue too.
    RepeatedAtSwitch,
    /// A restart forgets how far a replay was.
    CursorForgottenAtRestart,
    /// Nobody is told of numbers that a queue dropped.
    GapNotTold,
    /// The user's own messages count as unread.
    OwnCountedAsUnread,
    /// A restart forgets how far a user has read.
    ReadPositionLostAtRestart,
    /// A restart forgets who is a member.
    MemberLostAtRestart,
    /// A message takes the place of another user's with the same key.
    CollapseAcrossUsers,
    /// A conversation keeps more than its rule says.
    KeptTooLong,
    /// A replay from a time on begins one message too late.
    TimeSkips,
    /// Who asked for envelopes gets messages as they are.
    EnvelopeLeftOut,
    /// The last receipt of a message is not told.
    LastReceiptNotTold,
    /// Nobody is told of `read`.
    ReadNotTold,
    /// A message is set aside by the first connection that it ended alone.
    SetAsideEarly,
    /// A restart forgets what was set aside.
    SetAsideLostAtRestart,
    /// A client may declare a slower heartbeat than its CONNECT said.
    HeartbeatRaised,
    /// Messages go out on a connection that is silent for a probe.
    PublishedDuringProbe,
    /// A probe does not notice what its client sends meanwhile.
    ProbeNeverSpoiled,
    /// Messages stay in memory after they are durable.
    MemoryKept,
}

impl Planted {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::AckBeforeCommit,
        Self::DeliveryBeforeCommit,
        Self::SeqReusedAfterRestart,
        Self::Qos2IdForgottenAtRestart,
        Self::ResentOutOfOrder,
        Self::NotResent,
        Self::PacketIdReused,
        Self::HandOverLost,
        Self::HandOverTwice,
        Self::RetainedLostAtRestart,
        Self::SubscriptionLostAtRestart,
        Self::WillLostAtRestart,
        Self::ExpiryNotCounted,
        Self::DroppedInSilence,
        Self::ReceiptsLostAtRestart,
        Self::ReceiptsReopenedAtRestart,
        Self::OverlapTwice,
        Self::CleanStartResumes,
        Self::StalePresenceAfterRestart,
        Self::PresenceEpochForgotten,
        Self::DedupForgottenAtRestart,
        Self::DedupWithoutTopic,
        Self::CursorSkips,
        Self::RepeatedAtSwitch,
        Self::CursorForgottenAtRestart,
        Self::GapNotTold,
        Self::OwnCountedAsUnread,
        Self::ReadPositionLostAtRestart,
        Self::MemberLostAtRestart,
        Self::CollapseAcrossUsers,
        Self::KeptTooLong,
        Self::TimeSkips,
        Self::EnvelopeLeftOut,
        Self::LastReceiptNotTold,
        Self::ReadNotTold,
        Self::SetAsideEarly,
        Self::SetAsideLostAtRestart,
        Self::HeartbeatRaised,
        Self::PublishedDuringProbe,
        Self::ProbeNeverSpoiled,
        Self::MemoryKept,
    ];
}
