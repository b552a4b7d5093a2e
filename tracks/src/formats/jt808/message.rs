//! What terminals and platforms say to each other.

use super::frame::{Bytes, Frame, Version};
use super::position::Position;

const GENERAL_ANSWER: u16 = 0x0001;
const HEARTBEAT: u16 = 0x0002;
const SIGN_OFF: u16 = 0x0003;
const REGISTRATION: u16 = 0x0100;
const AUTHENTICATION: u16 = 0x0102;
const POSITION: u16 = 0x0200;
const CONTROL_ANSWER: u16 = 0x0500;
const POSITIONS: u16 = 0x0704;
const PLATFORM_ANSWER: u16 = 0x8001;
const REGISTRATION_ANSWER: u16 = 0x8100;
const CONTROL: u16 = 0x8500;
/// The door, among what 0x8500 controls since 2019.
const CONTROL_DOOR: u16 = 0x0001;

/// Why a body is not what its frame says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {bytes} bytes of message {id:#06x} are not what the standard says of it")]
pub struct MessageError {
    /// What the frame says it is.
    pub id: u16,
    /// How many bytes the body has.
    pub bytes: usize,
}

/// How a message was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done.
    Ok,
    /// It could not be done.
    Failed,
    /// The message is wrong.
    Wrong,
    /// It is not supported.
    Unsupported,
    /// Another number of the standard or of a maker.
    Other(u8),
}

impl From<u8> for Verdict {
    fn from(byte: u8) -> Verdict {
        match byte {
            0 => Verdict::Ok,
            1 => Verdict::Failed,
            2 => Verdict::Wrong,
            3 => Verdict::Unsupported,
            other => Verdict::Other(other),
        }
    }
}

impl From<Verdict> for u8 {
    fn from(verdict: Verdict) -> u8 {
        match verdict {
            Verdict::Ok => 0,
            Verdict::Failed => 1,
            Verdict::Wrong => 2,
            Verdict::Unsupported => 3,
            Verdict::Other(byte) => byte,
        }
    }
}

/// Who a terminal is (0x0100). Texts without the zeros that fill them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The number of the province.
    pub province: u16,
    /// The number of the city.
    pub city: u16,
    /// The maker.
    pub maker: Vec<u8>,
    /// The model.
    pub model: Vec<u8>,
    /// The terminal's own id.
    pub terminal: Vec<u8>,
    /// The colour of the plate; 0 for a vehicle without one.
    pub plate_colour: u8,
    /// The plate, or the number of the chassis, in GBK.
    pub plate: Vec<u8>,
}

/// What a terminal says.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// 0x0001: it has taken a message.
    Answer {
        /// The serial of that message's frame.
        serial: u16,
        /// What that message was.
        id: u16,
        /// How it was taken.
        verdict: Verdict,
    },
    /// 0x0002: it is there.
    Heartbeat,
    /// 0x0003: it signs off.
    SignOff,
    /// 0x0100: it wants a code.
    Register(Registration),
    /// 0x0102: it has a code.
    Authenticate {
        /// The code of [`Reply::Registered`].
        code: Vec<u8>,
    },
    /// 0x0200: where it is.
    Position(Position),
    /// 0x0500: what became of a control, and where it is.
    Controlled {
        /// The serial of the control's frame.
        serial: u16,
        /// Where it is; [`super::status::LOCKED`] tells the doors.
        position: Position,
    },
    /// 0x0704: where it was.
    Positions(Vec<Position>),
    /// Anything else.
    Other {
        /// What the frame says it is.
        id: u16,
    },
}

impl Message {
    /// Reads what a terminal says in a frame that is not part of a longer message.
    ///
    /// # Errors
    /// A body that is not what the frame says.
    pub fn of(frame: &Frame) -> Result<Message, MessageError> {
        let wrong = MessageError { id: frame.id, bytes: frame.body.len() };
        Message::read(frame).ok_or(wrong)
    }

    fn read(frame: &Frame) -> Option<Message> {
        let mut rest = Bytes(&frame.body);
        Some(match frame.id {
            GENERAL_ANSWER => {
                Message::Answer { serial: rest.u16()?, id: rest.u16()?, verdict: rest.u8()?.into() }
            }
            HEARTBEAT => Message::Heartbeat,
            SIGN_OFF => Message::SignOff,
            REGISTRATION => Message::Register(registration(frame.version, rest)?),
            AUTHENTICATION => {
                let code = match frame.version {
                    Version::V2013 => rest.0,
                    Version::V2019(_) => {
                        let length = usize::from(rest.u8()?);
                        rest.take(length)?
                    }
                };
                Message::Authenticate { code: text(code) }
            }
            POSITION => Message::Position(Position::read(rest.0)?),
            CONTROL_ANSWER => Message::Controlled { serial: rest.u16()?, position: Position::read(rest.0)? },
            POSITIONS => Message::Positions(Position::read_batch(rest.0)?),
            id => Message::Other { id },
        })
    }
}

fn registration(version: Version, mut rest: Bytes) -> Option<Registration> {
    let (maker, model, terminal) = match version {
        Version::V2013 => (5, 20, 7),
        Version::V2019(_) => (11, 30, 30),
    };
    Some(Registration {
        province: rest.u16()?,
        city: rest.u16()?,
        maker: text(rest.take(maker)?),
        model: text(rest.take(model)?),
        terminal: text(rest.take(terminal)?),
        plate_colour: rest.u8()?,
        plate: text(rest.0),
    })
}

/// A text without the zeros that fill its field.
fn text(bytes: &[u8]) -> Vec<u8> {
    let is_filler = |byte: &&u8| **byte == 0;
    let after = bytes.iter().rev().take_while(is_filler).count();
    let before = bytes[..bytes.len() - after].iter().take_while(is_filler).count();
    bytes[before..bytes.len() - after].to_vec()
}

/// What doors are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Lock them.
    Lock,
    /// Unlock them.
    Unlock,
}

/// What a platform says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// 0x8001: how a message was taken.
    Answer {
        /// The serial of that message's frame.
        serial: u16,
        /// What it was.
        id: u16,
        /// How it was taken.
        verdict: Verdict,
    },
    /// 0x8100: the terminal is registered.
    Registered {
        /// The serial of the registration's frame.
        serial: u16,
        /// The code that it must show from now on.
        code: Vec<u8>,
    },
    /// 0x8100: it is not.
    NotRegistered {
        /// The serial of the registration's frame.
        serial: u16,
        /// Why: 1 the vehicle is registered already, 2 there is no such vehicle, 3 the terminal is registered already, 4 there
        /// is no such terminal.
        reason: u8,
    },
    /// 0x8500: doors.
    Control(Control),
}

impl Reply {
    /// Makes the frame for a terminal that speaks this edition and has this number.
    pub fn frame(&self, version: Version, phone: &str, serial: u16) -> Frame {
        let (id, body) = match self {
            Reply::Answer { serial, id, verdict } => {
                let mut body = [serial.to_be_bytes(), id.to_be_bytes()].concat();
                body.push(u8::from(*verdict));
                (PLATFORM_ANSWER, body)
            }
            Reply::Registered { serial, code } => {
                (REGISTRATION_ANSWER, [&serial.to_be_bytes()[..], &[0], code].concat())
            }
            Reply::NotRegistered { serial, reason } => {
                (REGISTRATION_ANSWER, [&serial.to_be_bytes()[..], &[*reason]].concat())
            }
            Reply::Control(control) => (CONTROL, control.body(version)),
        };
        Frame { id, version, phone: phone.to_owned(), serial, part: None, body }
    }
}

impl Control {
    fn body(self, version: Version) -> Vec<u8> {
        match version {
            // One bit: 1 locks.
            Version::V2013 => vec![u8::from(self == Control::Lock)],
            // A list of one: here 1 unlocks.
            Version::V2019(_) => {
                let mut body = [1u16.to_be_bytes(), CONTROL_DOOR.to_be_bytes()].concat();
                body.push(u8::from(self == Control::Unlock));
                body
            }
        }
    }
}
