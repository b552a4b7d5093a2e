//! What entries are for, and what follows from it.

/// What an entry of the disk queue is for. It decides who goes first, who waits for company on the way to the disk, and who
/// gives way when the quota is used up. Earlier ones go first.
///
/// | class | order | when the quota is used up |
/// | --- | --- | --- |
/// | [`Alarm`](Self::Alarm), [`Result`](Self::Result) | their own, before everything else | taken as long as the last sixteenth of the quota lasts |
/// | [`Event`](Self::Event) | their own | refused: [`QueueError::Full`](crate::QueueError::Full) |
/// | [`Live`](Self::Live) | the newest seconds overtake the backlog | refused |
/// | [`Track`](Self::Track) | the newest seconds overtake the backlog | thinned so that the line's shape stays, then refused |
/// | [`Debug`](Self::Debug) | their own, after everything else | the oldest are dropped |
///
/// ```
/// use device_sdk::Class;
/// let names: Vec<&str> = Class::ALL.iter().map(|class| class.name()).collect();
/// assert_eq!(names, ["alarm", "result", "event", "live", "track", "debug"]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Somebody must act on it: theft, a tank that leaks, a door that opens. Never dropped.
    Alarm,
    /// What became of a command. Never dropped; in order.
    Result,
    /// What happened and must arrive in order: a trip begins, a state changes. What [`crate::Client::enqueue`] uses.
    #[default]
    Event,
    /// What somebody watches now. Every entry arrives, but those of the last seconds do not wait behind the backlog of an
    /// outage, so an older one may come later.
    Live,
    /// Positions of a way, of which the shape counts: JSON with numbers `lat` and `lon`, and `ts` in milliseconds.
    Track,
    /// Logs and statistics for whoever develops the device: the first to give way.
    Debug,
}

impl Class {
    /// Every class, the one that goes first at the front.
    pub const ALL: [Self; 6] = [Self::Alarm, Self::Result, Self::Event, Self::Live, Self::Track, Self::Debug];

    /// Returns its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Result => "result",
            Self::Event => "event",
            Self::Live => "live",
            Self::Track => "track",
            Self::Debug => "debug",
        }
    }

    /// Returns the directory of its log, below the queue's; events have the queue's own, where queues had everything
    /// before there were classes.
    pub(super) fn dir(self) -> &'static str {
        if self == Self::Event { "" } else { self.name() }
    }

    /// Its place in [`Self::ALL`], and its letter in ids.
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// Goes before everything else, whatever its age.
    pub(super) fn is_urgent(self) -> bool {
        self <= Self::Result
    }

    /// May use the last of the quota.
    pub(super) fn uses_reserve(self) -> bool {
        self.is_urgent()
    }

    /// Its newest entries go before its backlog.
    pub(super) fn overtakes(self) -> bool {
        matches!(self, Self::Live | Self::Track)
    }

    /// Says whether an entry waits for others, to share their write: live ones only while nobody could see them anyway.
    pub(super) fn waits(self, is_online: bool) -> bool {
        match self {
            Self::Alarm | Self::Result | Self::Event => false,
            Self::Live => !is_online,
            Self::Track | Self::Debug => true,
        }
    }
}

/// Why an accepted entry left the queue without the broker's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// Its Message Expiry Interval passed while it waited.
    Expired,
    /// The quota was used up: a track's point that its shape does not need.
    Thinned,
    /// The quota was used up: among the oldest of the debug entries.
    Quota,
    /// The broker refused it for good, see [`crate::Event::EntryRefused`].
    Refused,
}

/// How many entries were dropped since the client started, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// [`DropReason::Expired`].
    pub expired: u64,
    /// [`DropReason::Thinned`].
    pub thinned: u64,
    /// [`DropReason::Quota`].
    pub quota: u64,
    /// [`DropReason::Refused`].
    pub refused: u64,
}

impl Dropped {
    /// Returns all reasons together.
    pub fn total(&self) -> u64 {
        self.expired + self.thinned + self.quota + self.refused
    }

    pub(super) fn add(&mut self, reason: DropReason, count: u64) {
        *match reason {
            DropReason::Expired => &mut self.expired,
            DropReason::Thinned => &mut self.thinned,
            DropReason::Quota => &mut self.quota,
            DropReason::Refused => &mut self.refused,
        } += count;
    }
}
