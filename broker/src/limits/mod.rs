//! What a peer, a client and a user may do to the broker, and what is done about those who do more.
//!
//! Pure: time is an argument, nothing here has a socket, a thread or a clock. The runtime asks at accept, at
//! CONNECT, after authentication and at each PUBLISH; what concerns sessions is enforced in the engine.

mod abuse;
#[cfg(test)]
mod abuse_tests;
mod address;
mod bans;
mod rate;
mod rates;
mod strikes;

#[cfg(test)]
pub(crate) use self::bans::Offence;
pub use self::{
    abuse::Counted,
    address::{Networks, NetworksError},
};
pub(crate) use self::{
    abuse::{Abuse, AbuseRules, Admission, ListenerBounds, Seat, UserBounds},
    bans::{BanChange, BanKey, BanView, SavedBan},
    rates::{RateBounds, Rates, Throttle},
};
