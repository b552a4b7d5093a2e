//! JT/T 808, the protocol of Chinese vehicle terminals, in its versions of 2013 and 2019: frames and messages.
//!
//! [`Frames`] cuts a stream into [`Frame`]s, [`Message::of`] reads what a terminal says, [`Reply`] is what a platform says.
//! The platform answers a registration with a code, an authentication and every other message with a general answer, and
//! may lock and unlock doors ([`Reply::Control`]), which the terminal answers with its position ([`Message::Controlled`]).
//! Texts are kept as bytes: they are in GBK. Messages in several parts come as they are; [`Frame::part`] says which.

mod frame;
mod message;
mod position;
#[cfg(test)]
mod tests;

pub use frame::{FRAME_BYTES_MAX, Frame, FrameError, Frames, Part, Version};
pub use message::{Control, Message, MessageError, Registration, Reply, Verdict};
pub use position::{POSITIONS_MAX, Position, alarm, status};
