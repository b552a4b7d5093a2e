//! Properties that most packets do not have: none costs a word and no allocation, and copies share them.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::{AckProperties, DisconnectProperties, PublishProperties};

/// The properties of a packet; read and written as if they stood in it.
///
/// Writing makes them this packet's own: that costs an allocation, and a copy where others have them too. Where most
/// packets have none, look with [`Shared::get_mut`].
pub struct Shared<T>(Option<Arc<T>>);

/// What stands for properties that are not there: none of them is set.
pub trait Absent: Clone + PartialEq + Default + 'static {
    /// Returns properties of which none is set.
    fn absent() -> &'static Self;
}

impl Absent for PublishProperties {
    #[inline]
    fn absent() -> &'static Self {
        static ABSENT: PublishProperties = PublishProperties {
            payload_format_utf8: None,
            message_expiry_interval_s: None,
            topic_alias: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
            subscription_identifiers: Vec::new(),
            content_type: None,
        };
        &ABSENT
    }
}

impl Absent for AckProperties {
    #[inline]
    fn absent() -> &'static Self {
        static ABSENT: AckProperties = AckProperties { reason_string: None, user_properties: Vec::new() };
        &ABSENT
    }
}

impl Absent for DisconnectProperties {
    #[inline]
    fn absent() -> &'static Self {
        static ABSENT: DisconnectProperties = DisconnectProperties {
            session_expiry_interval_s: None,
            reason_string: None,
            user_properties: Vec::new(),
            server_reference: None,
        };
        &ABSENT
    }
}

impl<T> Shared<T> {
    /// The same as the default, for constants.
    pub const NONE: Self = Self(None);

    /// Whether there are none at all; if there are, none of them need be set.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Absent> Shared<T> {
    /// Returns them for a change, if there are any.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut().map(Arc::make_mut)
    }

    /// Takes them out, as a copy if others have them too.
    pub fn into_inner(self) -> T {
        self.0.map(Arc::unwrap_or_clone).unwrap_or_default()
    }
}

impl<T> Default for Shared<T> {
    #[inline]
    fn default() -> Self {
        Self::NONE
    }
}

impl<T> Clone for Shared<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Absent> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            Some(properties) => properties,
            None => T::absent(),
        }
    }
}

impl<T: Absent> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl<T: Absent> From<T> for Shared<T> {
    fn from(properties: T) -> Self {
        Self((properties != *T::absent()).then(|| Arc::new(properties)))
    }
}

impl<T: Absent> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.0.is_none() && other.0.is_none()) || **self == **other
    }
}

impl<T: Absent + Eq> Eq for Shared<T> {}

impl<T: Absent> PartialEq<T> for Shared<T> {
    fn eq(&self, other: &T) -> bool {
        **self == *other
    }
}

impl<T: Absent + fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_none_is_the_same_as_what_has_unset_ones() {
        let mut unset = Shared::<PublishProperties>::default();
        assert!(unset.get_mut().is_none());
        unset.payload_format_utf8 = None;
        assert!(!unset.is_none());
        assert_eq!(unset, Shared::default());
        assert_eq!(unset, PublishProperties::default());
        assert!(Shared::from(AckProperties::default()).is_none());
        assert_eq!(format!("{unset:?}"), format!("{:?}", PublishProperties::default()));
    }

    #[test]
    fn a_copy_is_changed_alone() {
        let one = Shared::from(AckProperties { reason_string: Some("a".into()), ..Default::default() });
        let mut other = one.clone();
        other.reason_string = Some("b".into());
        assert_eq!((one.reason_string.as_deref(), other.reason_string.as_deref()), (Some("a"), Some("b")));
        assert_eq!(one.into_inner().reason_string.as_deref(), Some("a"));
    }

    /// A packet is moved several times on its way; what makes one larger costs every message.
    #[test]
    fn packets_are_small() {
        assert!(size_of::<crate::Packet>() <= 96, "{}", size_of::<crate::Packet>());
    }
}
