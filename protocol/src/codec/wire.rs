//! The wire's primitives: integers, strings, binary fields and the variable byte integer, read from one
//! packet's bytes and written twice by the same code, first into a count and then into the buffer.
//!
//! A [`Reader`] never leaves its packet: every length is checked against what is there before it is used.

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::EncodeError;
use crate::{DecodeError, ReasonCode};

/// Largest value of a variable byte integer (MQTT 5.0 section 1.5.5).
pub(super) const VARINT_MAX: u32 = 268_435_455;
/// Longest string or binary field (sections 1.5.4 and 1.5.6).
pub(super) const FIELD_BYTES_MAX: usize = u16::MAX as usize;

/// What the first bytes of a variable byte integer say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Varint {
    /// A value, how many bytes it took, and whether fewer would have done.
    Value { value: u32, bytes: usize, overlong: bool },
    /// More bytes are needed.
    Incomplete,
    /// The fourth byte announces a fifth.
    TooLong,
}

impl Varint {
    /// Reads the integer at the start of `input`.
    #[inline]
    pub(super) fn read(input: &[u8]) -> Self {
        let mut value = 0;
        for (index, &byte) in input.iter().take(4).enumerate() {
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Self::Value { value, bytes: index + 1, overlong: index > 0 && byte == 0 };
            }
        }
        if input.len() < 4 { Self::Incomplete } else { Self::TooLong }
    }
}

/// Returns how many bytes the variable byte integer takes.
#[inline]
pub(super) fn varint_len(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Reads the fields of one packet, or of one property section of it.
pub(super) struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
    end: usize,
    packet: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `frame` from `at` on; `packet` names the packet type in errors.
    #[inline]
    pub(super) fn new(frame: &'a Bytes, at: usize, packet: &'static str) -> Self {
        Self { frame, at, end: frame.len(), packet }
    }

    /// Makes the error for bytes that break the format.
    #[cold]
    pub(super) fn malformed(&self, what: impl Into<String>) -> DecodeError {
        DecodeError::Malformed { packet: self.packet, what: what.into() }
    }

    /// Makes the error for well formed bytes that are not allowed here.
    #[cold]
    pub(super) fn protocol(&self, what: impl Into<String>) -> DecodeError {
        DecodeError::Protocol { packet: self.packet, what: what.into() }
    }

    #[inline]
    pub(super) fn packet(&self) -> &'static str {
        self.packet
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    #[inline]
    pub(super) fn remaining(&self) -> usize {
        self.end - self.at
    }

    #[inline]
    pub(super) fn left(&self) -> &'a [u8] {
        &self.frame[self.at..self.end]
    }

    #[cold]
    fn short(&self, field: &str, wanted: usize) -> DecodeError {
        self.malformed(format!("{field} needs {wanted} bytes, {} are left", self.remaining()))
    }

    #[inline]
    pub(super) fn u8(&mut self, field: &str) -> Result<u8, DecodeError> {
        let &byte = self.left().first().ok_or_else(|| self.short(field, 1))?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    pub(super) fn u16(&mut self, field: &str) -> Result<u16, DecodeError> {
        let &bytes = self.left().first_chunk().ok_or_else(|| self.short(field, 2))?;
        self.at += 2;
        Ok(u16::from_be_bytes(bytes))
    }

    #[inline]
    pub(super) fn u32(&mut self, field: &str) -> Result<u32, DecodeError> {
        let &bytes = self.left().first_chunk().ok_or_else(|| self.short(field, 4))?;
        self.at += 4;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Reads a variable byte integer in its shortest form [MQTT-1.5.5-1].
    #[inline]
    pub(super) fn varint(&mut self, field: &str) -> Result<u32, DecodeError> {
        match Varint::read(self.left()) {
            Varint::Value { value, bytes, overlong: false } => {
                self.at += bytes;
                Ok(value)
            }
            Varint::Value { value, bytes, .. } => {
                Err(self
                    .malformed(format!("{field} {value} is encoded in {bytes} bytes, more than it needs")))
            }
            Varint::Incomplete => Err(self.malformed(format!("{field} is cut"))),
            Varint::TooLong => Err(self.malformed(format!("{field} is encoded in more than 4 bytes"))),
        }
    }

    #[inline]
    fn field_range(&mut self, field: &str) -> Result<std::ops::Range<usize>, DecodeError> {
        let bytes = usize::from(self.u16(field)?);
        if bytes > self.remaining() {
            return Err(self.short(field, bytes));
        }
        let start = self.at;
        self.at += bytes;
        Ok(start..self.at)
    }

    /// Reads binary data (section 1.5.6), sharing the packet's bytes.
    #[inline]
    pub(super) fn binary(&mut self, field: &str) -> Result<Bytes, DecodeError> {
        let range = self.field_range(field)?;
        Ok(self.frame.slice(range))
    }

    /// Reads a UTF-8 string (section 1.5.4), sharing the packet's bytes.
    #[inline]
    pub(super) fn string(&mut self, field: &str) -> Result<ByteString, DecodeError> {
        let bytes = self.binary(field)?;
        // [MQTT-1.5.4-2]: no U+0000. std needs no second pass for [MQTT-1.5.4-1]: surrogates are not UTF-8.
        if bytes.contains(&0) {
            return Err(self.malformed(format!("{field} contains the null character")));
        }
        ByteString::try_from(bytes).map_err(|e| self.malformed(format!("{field} is not UTF-8: {e}")))
    }

    /// Reads a string that may not be UTF-8, for an error message only.
    pub(super) fn binary_ref(&mut self, field: &str) -> Result<&'a [u8], DecodeError> {
        let range = self.field_range(field)?;
        Ok(&self.frame[range])
    }

    /// Reads a reason code that `is_allowed` in this packet.
    #[inline]
    pub(super) fn reason(
        &mut self,
        is_allowed: impl Fn(ReasonCode) -> bool,
    ) -> Result<ReasonCode, DecodeError> {
        let code = self.u8("reason code")?;
        ReasonCode::from_u8(code)
            .filter(|&reason| is_allowed(reason))
            .ok_or_else(|| self.malformed(format!("reason code {code:#04x} is not one of this packet")))
    }

    /// Takes what is left.
    #[inline]
    pub(super) fn rest(&mut self) -> Bytes {
        let rest = self.frame.slice(self.at..self.end);
        self.at = self.end;
        rest
    }

    /// Takes a part of `bytes` bytes as a reader of its own.
    #[inline]
    pub(super) fn part(&mut self, bytes: usize, field: &str) -> Result<Self, DecodeError> {
        if bytes > self.remaining() {
            return Err(self.short(field, bytes));
        }
        let start = self.at;
        self.at += bytes;
        Ok(Self { frame: self.frame, at: start, end: self.at, packet: self.packet })
    }

    /// Checks that nothing follows the last field.
    #[inline]
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.is_empty() {
            return Ok(());
        }
        Err(self.malformed(format!("{} bytes follow the last field", self.remaining())))
    }
}

/// Where a packet's body is written: into a count, or into a buffer.
///
/// A body is written by one function for both, so that the count cannot differ from the bytes.
pub(super) trait Sink {
    /// Whether faults are looked for.
    const CHECKS: bool;

    /// Appends bytes as they are.
    fn raw(&mut self, bytes: &[u8]);

    /// Notes that the packet cannot be encoded.
    fn refuse(&mut self, fault: impl FnOnce() -> EncodeError);

    /// Takes a part that was measured by itself, where that is as good as writing it.
    #[inline]
    fn take_measured(&mut self, _part: Measure) {}

    #[inline]
    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    #[inline]
    fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    #[inline]
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    #[inline]
    fn varint(&mut self, field: &'static str, value: u32) {
        if Self::CHECKS && value > VARINT_MAX {
            self.refuse(|| EncodeError::Invalid { field, what: "it is over 268,435,455" });
        }
        let (bytes, len) = varint_bytes(value);
        self.raw(&bytes[..len]);
    }

    /// Writes a reason code, which `is_allowed` in `packet`.
    #[inline]
    fn reason(&mut self, packet: &'static str, reason: ReasonCode, is_allowed: impl Fn(ReasonCode) -> bool) {
        if Self::CHECKS && !is_allowed(reason) {
            self.refuse(|| EncodeError::Reason { packet, reason });
        }
        self.u8(reason as u8);
    }

    #[inline]
    fn binary(&mut self, field: &'static str, value: &[u8]) {
        if Self::CHECKS && value.len() > FIELD_BYTES_MAX {
            self.refuse(|| EncodeError::TooLong { field, bytes: value.len(), limit: FIELD_BYTES_MAX });
        }
        self.u16(value.len() as u16);
        self.raw(value);
    }

    #[inline]
    fn string(&mut self, field: &'static str, value: &str) {
        // [MQTT-1.5.4-2]: the receiver would have to close the connection.
        if Self::CHECKS && value.as_bytes().contains(&0) {
            self.refuse(|| EncodeError::Invalid { field, what: "it contains the null character" });
        }
        self.binary(field, value.as_bytes());
    }
}

/// Encodes a variable byte integer: its bytes and how many of them count.
#[inline]
pub(super) fn varint_bytes(value: u32) -> ([u8; 4], usize) {
    let len = varint_len(value);
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().enumerate().take(len) {
        let more = if index + 1 < len { 0x80 } else { 0 };
        *byte = (value >> (7 * index)) as u8 & 0x7f | more;
    }
    (bytes, len)
}

/// Counts the bytes and keeps the first fault.
#[derive(Debug, Default)]
pub(super) struct Measure {
    pub(super) bytes: usize,
    pub(super) fault: Option<EncodeError>,
}

impl Sink for Measure {
    const CHECKS: bool = true;

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    #[inline]
    fn refuse(&mut self, fault: impl FnOnce() -> EncodeError) {
        self.fault.get_or_insert_with(fault);
    }

    #[inline]
    fn take_measured(&mut self, part: Measure) {
        self.bytes += part.bytes;
        self.fault = self.fault.take().or(part.fault);
    }
}

/// Counts the bytes of what was measured without a fault.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) bytes: usize,
}

impl Sink for Count {
    const CHECKS: bool = false;

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    #[inline]
    fn refuse(&mut self, _fault: impl FnOnce() -> EncodeError) {}
}

/// Writes into the buffer, for packets that were measured without a fault.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut BytesMut,
}

impl Sink for Writer<'_> {
    const CHECKS: bool = false;

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    #[inline]
    fn refuse(&mut self, _fault: impl FnOnce() -> EncodeError) {}
}
