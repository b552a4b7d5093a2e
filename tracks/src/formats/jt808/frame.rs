//! Frames: flags, escapes, checksum and header.

const FLAG: u8 = 0x7e;
const ESCAPE: u8 = 0x7d;
/// The most bytes of a body: ten bits.
const BODY_BYTES_MAX: usize = 0x3ff;
const IS_PARTED: u16 = 1 << 13;
const IS_2019: u16 = 1 << 14;
const CIPHER: u16 = 0b111 << 10;

/// The most bytes between two flags: everything escaped.
pub const FRAME_BYTES_MAX: usize = 2 * (BODY_BYTES_MAX + 22);

/// Which edition of the standard a terminal speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// JT/T 808-2013: a phone number of 12 digits.
    V2013,
    /// JT/T 808-2019: one of 20 digits, and the version of the terminal's protocol.
    V2019(u8),
}

/// One part of a message in several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// How many there are.
    pub total: u16,
    /// Which this is, counted from 1.
    pub number: u16,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body is.
    pub id: u16,
    /// The edition.
    pub version: Version,
    /// The terminal's phone number: its digits, without leading zeros.
    pub phone: String,
    /// The number of the frame, counted by its sender.
    pub serial: u16,
    /// Which part, of a message in several.
    pub part: Option<Part>,
    /// What it says.
    pub body: Vec<u8>,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It ends before its header does, or is longer than a frame may be.
    #[error("a frame of {bytes} bytes is too short for its header or longer than {FRAME_BYTES_MAX}")]
    Length {
        /// How many bytes there were.
        bytes: usize,
    },
    /// An escape that is none.
    #[error("byte {byte:#04x} after the escape 0x7d: only 0x01 and 0x02 may follow")]
    Escape {
        /// What followed.
        byte: u8,
    },
    /// The bytes were changed on the way.
    #[error("the checksum is {said:#04x}, the bytes make {made:#04x}")]
    Checksum {
        /// What the frame says.
        said: u8,
        /// What its bytes make.
        made: u8,
    },
    /// The header says another length.
    #[error("the header says {said} bytes of body, there are {bytes}")]
    BodyLength {
        /// What the header says.
        said: usize,
        /// What came.
        bytes: usize,
    },
    /// The body is enciphered.
    #[error("the body is enciphered (bits {bits:#05b}): turn RSA off in the terminal, the way is TLS")]
    Enciphered {
        /// The bits of the header.
        bits: u16,
    },
    /// The phone number is not made of digits.
    #[error("the phone number of the header is not made of decimal digits")]
    Phone,
    /// To be written: a body that is too long for one frame.
    #[error("a body of {bytes} bytes does not fit into one frame of at most {BODY_BYTES_MAX}")]
    BodyTooLong {
        /// How many bytes it has.
        bytes: usize,
    },
}

impl Frame {
    /// Reads what stands between two flags.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn read(between_flags: &[u8]) -> Result<Frame, FrameError> {
        let bytes = unescape(between_flags)?;
        let short = FrameError::Length { bytes: bytes.len() };
        let (&said, bytes) = bytes.split_last().ok_or(short.clone())?;
        let made = bytes.iter().fold(0, |sum, byte| sum ^ byte);
        if made != said {
            return Err(FrameError::Checksum { said, made });
        }
        let mut rest = Bytes(bytes);
        let (id, properties) = (rest.u16().ok_or(short.clone())?, rest.u16().ok_or(short.clone())?);
        if properties & CIPHER != 0 {
            return Err(FrameError::Enciphered { bits: (properties & CIPHER) >> 10 });
        }
        let (version, digits) = if properties & IS_2019 != 0 {
            (Version::V2019(rest.u8().ok_or(short.clone())?), 10)
        } else {
            (Version::V2013, 6)
        };
        let phone = decimal(rest.take(digits).ok_or(short.clone())?).ok_or(FrameError::Phone)?;
        let serial = rest.u16().ok_or(short.clone())?;
        let part = if properties & IS_PARTED != 0 {
            let total = rest.u16().ok_or(short.clone())?;
            Some(Part { total, number: rest.u16().ok_or(short)? })
        } else {
            None
        };
        let said = usize::from(properties) & BODY_BYTES_MAX;
        if rest.0.len() != said {
            return Err(FrameError::BodyLength { said, bytes: rest.0.len() });
        }
        let phone = phone.trim_start_matches('0').to_owned();
        Ok(Frame { id, version, phone, serial, part, body: rest.0.to_vec() })
    }

    /// Writes the frame with its flags.
    ///
    /// # Errors
    /// A body that is too long, or a phone number that does not fit.
    pub fn write(&self) -> Result<Vec<u8>, FrameError> {
        let length = self.body.len();
        if length > BODY_BYTES_MAX {
            return Err(FrameError::BodyTooLong { bytes: length });
        }
        let digits = if self.version == Version::V2013 { 12 } else { 20 };
        if self.phone.len() > digits || !self.phone.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FrameError::Phone);
        }
        let mut properties = length as u16;
        properties |= if self.part.is_some() { IS_PARTED } else { 0 };
        let mut bytes = self.id.to_be_bytes().to_vec();
        if let Version::V2019(protocol) = self.version {
            bytes.extend((properties | IS_2019).to_be_bytes());
            bytes.push(protocol);
        } else {
            bytes.extend(properties.to_be_bytes());
        }
        let padded = format!("{:0>digits$}", self.phone);
        bytes.extend(padded.as_bytes().chunks(2).map(|two| ((two[0] - b'0') << 4) | (two[1] - b'0')));
        bytes.extend(self.serial.to_be_bytes());
        if let Some(Part { total, number }) = self.part {
            bytes.extend(total.to_be_bytes().into_iter().chain(number.to_be_bytes()));
        }
        bytes.extend(&self.body);
        bytes.push(bytes.iter().fold(0, |sum, byte| sum ^ byte));
        let mut framed = vec![FLAG];
        for byte in bytes {
            match byte {
                FLAG => framed.extend([ESCAPE, 0x02]),
                ESCAPE => framed.extend([ESCAPE, 0x01]),
                other => framed.push(other),
            }
        }
        framed.push(FLAG);
        Ok(framed)
    }
}

fn unescape(bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::Length { bytes: bytes.len() });
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        plain.push(match (byte, if byte == ESCAPE { rest.next() } else { None }) {
            (ESCAPE, Some(0x01)) => ESCAPE,
            (ESCAPE, Some(0x02)) => FLAG,
            (ESCAPE, next) => return Err(FrameError::Escape { byte: next.copied().unwrap_or(FLAG) }),
            (byte, _) => byte,
        });
    }
    Ok(plain)
}

/// Cuts a stream into frames. Noise between frames is left out.
#[derive(Debug, Clone, Default)]
pub struct Frames {
    /// What came after the last flag; `None` before the first one, and after more than a frame can have.
    open: Option<Vec<u8>>,
}

impl Frames {
    /// Takes bytes as they come; calls `see` for every frame, and for what stands where one should be.
    pub fn push(&mut self, bytes: &[u8], mut see: impl FnMut(Result<Frame, FrameError>)) {
        for &byte in bytes {
            if byte == FLAG {
                // A flag ends one frame and begins the next; two in a row are both.
                if let Some(between) = self.open.take().filter(|between| !between.is_empty()) {
                    see(Frame::read(&between));
                }
                self.open = Some(Vec::new());
            } else if let Some(between) = &mut self.open {
                between.push(byte);
                if between.len() > FRAME_BYTES_MAX {
                    see(Err(FrameError::Length { bytes: between.len() }));
                    self.open = None;
                }
            }
        }
    }
}

/// The digits of a number in BCD.
pub(super) fn decimal(bytes: &[u8]) -> Option<String> {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from_digit(u32::from(digit), 10)).collect()
}

/// What is still to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
}
