//! The 5.0 property table (MQTT 5.0 section 2.2.2): identifiers, names, and reading and writing one
//! property section.
//!
//! Which properties a packet type allows is said by the `match` of its own file: everything else ends in
//! [`Section::not_allowed`].

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::EncodeError;
use super::wire::{Count, Measure, Reader, Sink, VARINT_MAX};
use crate::{DecodeError, UserProperties};

macro_rules! properties {
    ($($name:ident = $id:literal, $text:literal;)*) => {
        /// A property identifier (table 2-4).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Property { $($name = $id,)* }

        impl Property {
            fn from_u32(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$name),)* _ => None }
            }

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

properties! {
    PayloadFormatIndicator = 0x01, "payload format indicator";
    MessageExpiryInterval = 0x02, "message expiry interval";
    ContentType = 0x03, "content type";
    ResponseTopic = 0x08, "response topic";
    CorrelationData = 0x09, "correlation data";
    SubscriptionIdentifier = 0x0b, "subscription identifier";
    SessionExpiryInterval = 0x11, "session expiry interval";
    AssignedClientIdentifier = 0x12, "assigned client identifier";
    ServerKeepAlive = 0x13, "server keep alive";
    AuthenticationMethod = 0x15, "authentication method";
    AuthenticationData = 0x16, "authentication data";
    RequestProblemInformation = 0x17, "request problem information";
    WillDelayInterval = 0x18, "will delay interval";
    RequestResponseInformation = 0x19, "request response information";
    ResponseInformation = 0x1a, "response information";
    ServerReference = 0x1c, "server reference";
    ReasonString = 0x1f, "reason string";
    ReceiveMaximum = 0x21, "receive maximum";
    TopicAliasMaximum = 0x22, "topic alias maximum";
    TopicAlias = 0x23, "topic alias";
    MaximumQoS = 0x24, "maximum qos";
    RetainAvailable = 0x25, "retain available";
    User = 0x26, "user property";
    MaximumPacketSize = 0x27, "maximum packet size";
    WildcardSubscriptionAvailable = 0x28, "wildcard subscription available";
    SubscriptionIdentifierAvailable = 0x29, "subscription identifier available";
    SharedSubscriptionAvailable = 0x2a, "shared subscription available";
}

/// Reads one property section: identifiers by [`Section::next`], each followed by one value.
pub(super) struct Section<'a> {
    reader: Reader<'a>,
    current: Property,
    seen: u64,
}

impl<'a> Section<'a> {
    /// Reads the section's length and sets it apart.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bytes = reader.varint("property length")?;
        let part = reader.part(bytes as usize, "property section")?;
        Ok(Self { reader: part, current: Property::User, seen: 0 })
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// Reads the next identifier; `None` at the section's end.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Property>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.reader.varint("property identifier")?;
        let Some(property) = Property::from_u32(id) else {
            return Err(self.reader.malformed(format!("property identifier {id:#04x} is not known")));
        };
        self.current = property;
        // Section 2.2.2.2: at most once, user properties apart. Subscription identifiers are counted by
        // those who read them.
        let bit = 1 << property as u8;
        let repeatable = matches!(property, Property::User | Property::SubscriptionIdentifier);
        if self.seen & bit != 0 && !repeatable {
            return Err(self.repeated());
        }
        self.seen |= bit;
        Ok(Some(property))
    }

    /// Makes the error for a property this packet may not carry (section 2.2.2.2).
    #[cold]
    pub(super) fn not_allowed(&self) -> DecodeError {
        self.reader.malformed(format!("{} is not allowed in this packet", self.current.name()))
    }

    /// Makes the error for a property sent twice.
    #[cold]
    pub(super) fn repeated(&self) -> DecodeError {
        self.protocol("is sent more than once")
    }

    /// Makes the error for a value that is not allowed.
    #[cold]
    pub(super) fn protocol(&self, what: impl std::fmt::Display) -> DecodeError {
        self.reader.protocol(format!("{} {what}", self.current.name()))
    }

    /// Reads a value that may only be 0 or 1.
    pub(super) fn flag(&mut self) -> Result<Option<bool>, DecodeError> {
        match self.reader.u8(self.current.name())? {
            0 => Ok(Some(false)),
            1 => Ok(Some(true)),
            other => Err(self.protocol(format_args!("is {other}, not 0 or 1"))),
        }
    }

    pub(super) fn u16(&mut self) -> Result<Option<u16>, DecodeError> {
        self.reader.u16(self.current.name()).map(Some)
    }

    pub(super) fn u32(&mut self) -> Result<Option<u32>, DecodeError> {
        self.reader.u32(self.current.name()).map(Some)
    }

    pub(super) fn nonzero_u16(&mut self) -> Result<Option<NonZeroU16>, DecodeError> {
        let value = self.reader.u16(self.current.name())?;
        NonZeroU16::new(value).map(Some).ok_or_else(|| self.protocol("is 0"))
    }

    pub(super) fn nonzero_u32(&mut self) -> Result<Option<NonZeroU32>, DecodeError> {
        let value = self.reader.u32(self.current.name())?;
        NonZeroU32::new(value).map(Some).ok_or_else(|| self.protocol("is 0"))
    }

    /// Reads a subscription identifier, 1 to 268,435,455 (section 3.8.2.1.2).
    pub(super) fn subscription_identifier(&mut self) -> Result<u32, DecodeError> {
        match self.reader.varint(self.current.name())? {
            0 => Err(self.protocol("is 0")),
            value => Ok(value),
        }
    }

    pub(super) fn string(&mut self) -> Result<Option<ByteString>, DecodeError> {
        self.reader.string(self.current.name()).map(Some)
    }

    pub(super) fn binary(&mut self) -> Result<Option<Bytes>, DecodeError> {
        self.reader.binary(self.current.name()).map(Some)
    }

    pub(super) fn user_property(&mut self, into: &mut UserProperties) -> Result<(), DecodeError> {
        let name = self.reader.string("user property name")?;
        into.push((name, self.reader.string("user property value")?));
        Ok(())
    }

    /// Checks the pair of enhanced authentication: data needs a method (section 3.1.2.11.10).
    pub(super) fn check_authentication(
        &self,
        method: &Option<ByteString>,
        data: &Option<Bytes>,
    ) -> Result<(), DecodeError> {
        if data.is_some() && method.is_none() {
            return Err(self.reader.protocol("authentication data without an authentication method"));
        }
        Ok(())
    }
}

/// A group of properties that is written as one section.
pub(super) trait Properties {
    /// Writes the properties without their length.
    fn write<S: Sink>(&self, sink: &mut S);
}

/// Writes properties one by one; `None` writes nothing.
pub(super) trait PutProperty: Sink + Sized {
    /// Writes a whole section: its length and the properties.
    #[inline]
    fn section(&mut self, properties: &impl Properties) {
        if Self::CHECKS {
            let mut part = Measure::default();
            properties.write(&mut part);
            self.varint("property length", u32::try_from(part.bytes).unwrap_or(u32::MAX));
            return self.take_measured(part);
        }
        let mut part = Count::default();
        properties.write(&mut part);
        self.varint("property length", u32::try_from(part.bytes).unwrap_or(u32::MAX));
        properties.write(self);
    }

    #[inline]
    fn put_u8(&mut self, property: Property, value: Option<u8>) {
        if let Some(value) = value {
            self.raw(&[property as u8, value]);
        }
    }

    #[inline]
    fn put_flag(&mut self, property: Property, value: Option<bool>) {
        self.put_u8(property, value.map(u8::from));
    }

    #[inline]
    fn put_u16(&mut self, property: Property, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(property as u8);
            self.u16(value);
        }
    }

    #[inline]
    fn put_u32(&mut self, property: Property, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(property as u8);
            self.u32(value);
        }
    }

    #[inline]
    fn put_string(&mut self, property: Property, value: &Option<ByteString>) {
        if let Some(value) = value {
            self.u8(property as u8);
            self.string(property.name(), value);
        }
    }

    #[inline]
    fn put_binary(&mut self, property: Property, value: &Option<Bytes>) {
        if let Some(value) = value {
            self.u8(property as u8);
            self.binary(property.name(), value);
        }
    }

    #[inline]
    fn put_subscription_identifier(&mut self, value: u32) {
        let field = Property::SubscriptionIdentifier.name();
        if Self::CHECKS && !(1..=VARINT_MAX).contains(&value) {
            self.refuse(|| EncodeError::Invalid { field, what: "it is not 1 to 268,435,455" });
        }
        self.u8(Property::SubscriptionIdentifier as u8);
        self.varint(field, value);
    }

    #[inline]
    fn put_user_properties(&mut self, properties: &UserProperties) {
        for (name, value) in properties {
            self.u8(Property::User as u8);
            self.string("user property name", name);
            self.string("user property value", value);
        }
    }

    #[inline]
    fn put_authentication(&mut self, method: &Option<ByteString>, data: &Option<Bytes>) {
        if Self::CHECKS && data.is_some() && method.is_none() {
            let field = Property::AuthenticationData.name();
            self.refuse(|| EncodeError::Invalid { field, what: "it needs an authentication method" });
        }
        self.put_string(Property::AuthenticationMethod, method);
        self.put_binary(Property::AuthenticationData, data);
    }
}

impl<S: Sink> PutProperty for S {}
