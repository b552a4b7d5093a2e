//! What trackers send, made into fixes. Pure codecs: bytes in, values out; sockets and topics are the caller's.
//!
//! | module | reads |
//! | --- | --- |
//! | [`json`] | the JSON of `dev/{id}/telemetry/gps`, and OwnTracks locations |
//! | [`nmea`] | sentences of receivers (RMC, GGA, GSA) |
//! | [`jt808`] | JT/T 808-2013 and 2019, and writes what the platform answers |
//! | [`sparkplug`] | Sparkplug B births and metrics |

pub mod json;
pub mod jt808;
pub mod nmea;
pub mod sparkplug;
