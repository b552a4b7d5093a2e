//! Things that most who could have them do not have: a pointer until there is something.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;
use std::ops::{Deref, DerefMut};

use bytestring::ByteString;
use protocol::PacketId;
use rustc_hash::FxBuildHasher;

use crate::session::{InFlight, Incoming};
use crate::waiting::Waiting;

/// What is there before something was put into it.
pub(crate) trait Absent: Default + 'static {
    /// What is read where there is nothing.
    fn absent() -> &'static Self;
    /// Whether there is nothing in it that must be kept.
    fn is_vacant(&self) -> bool;
}

/// Something that is made when it is first changed. Reads see an empty one.
#[derive(Clone, Debug)]
pub(crate) struct Seldom<T>(Option<Box<T>>);

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Absent> Seldom<T> {
    /// For a change that needs something to be there.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Gives the memory back where nothing is in it.
    pub(crate) fn tidy(&mut self) {
        if self.0.as_deref().is_some_and(T::is_vacant) {
            self.0 = None;
        }
    }
}

impl<T: Absent> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(there) => there,
            None => T::absent(),
        }
    }
}

impl<T: Absent> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl Absent for Waiting {
    fn absent() -> &'static Self {
        static NONE: Waiting = Waiting::EMPTY;
        &NONE
    }

    fn is_vacant(&self) -> bool {
        self.is_empty()
    }
}

impl Absent for VecDeque<InFlight> {
    fn absent() -> &'static Self {
        static NONE: VecDeque<InFlight> = VecDeque::new();
        &NONE
    }

    fn is_vacant(&self) -> bool {
        self.is_empty()
    }
}

impl Absent for HashMap<PacketId, Incoming, FxBuildHasher> {
    fn absent() -> &'static Self {
        static NONE: HashMap<PacketId, Incoming, FxBuildHasher> = HashMap::with_hasher(FxBuildHasher);
        &NONE
    }

    fn is_vacant(&self) -> bool {
        self.is_empty()
    }
}

impl Absent for HashMap<NonZeroU16, ByteString, FxBuildHasher> {
    fn absent() -> &'static Self {
        static NONE: HashMap<NonZeroU16, ByteString, FxBuildHasher> = HashMap::with_hasher(FxBuildHasher);
        &NONE
    }

    fn is_vacant(&self) -> bool {
        self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_a_pointer_until_something_is_in_it_and_again_afterwards() {
        let mut seldom = Seldom::<HashMap<PacketId, Incoming, FxBuildHasher>>::default();
        assert_eq!(size_of_val(&seldom), size_of::<usize>());
        assert!(seldom.is_empty() && seldom.get_mut().is_none());
        seldom.insert(PacketId::MIN, Incoming { seq: None, id: "i".into() });
        seldom.tidy();
        assert_eq!(seldom.len(), 1, "what is in it stays");
        seldom.get_mut().expect("it is there").clear();
        seldom.tidy();
        assert!(seldom.get_mut().is_none());
    }
}
