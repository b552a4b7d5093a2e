//! The shard's sessions, found by their place, their client id or their number.
//!
//! Invariants: numbers are unique, and a session's names never change while it is here. The tables hold
//! places only: what is compared stands in the session, so that a session costs ten bytes in both.

use std::hash::{BuildHasher, RandomState};
use std::ops::{Index, IndexMut};

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use crate::places::Places;
use crate::record::SessionNo;
use crate::route::SessionKey;
use crate::session::Session;

/// The table of sessions. Of several sessions of one client, as there are while the log is replayed, each is found by
/// its number.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    sessions: Places<Session>,
    by_client: HashTable<u32>,
    by_no: HashTable<u32>,
    /// Keyed anew in each process, so that nobody can choose client ids that all fall into one place.
    hasher: RandomState,
}

fn hash_of_no(no: SessionNo) -> u64 {
    FxBuildHasher.hash_one(no)
}

impl Directory {
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Returns a number above every place that is used.
    pub(crate) fn capacity(&self) -> usize {
        self.sessions.capacity()
    }

    /// Goes through the sessions, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionKey, &Session)> {
        self.sessions.iter()
    }

    pub(crate) fn get(&self, key: SessionKey) -> Option<&Session> {
        self.sessions.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.sessions.get_mut(key)
    }

    /// Finds the session of a client.
    pub(crate) fn of_client(&self, client_id: &str) -> Option<SessionKey> {
        let is_it = |at: &u32| self.sessions[*at as usize].client_id == *client_id;
        self.by_client.find(self.hasher.hash_one(client_id), is_it).map(|at| *at as usize)
    }

    /// Finds the session with a number.
    pub(crate) fn numbered(&self, no: SessionNo) -> Option<SessionKey> {
        self.by_no.find(hash_of_no(no), |at| self.sessions[*at as usize].no == no).map(|at| *at as usize)
    }

    /// Adds a session whose client and number have none so far.
    pub(crate) fn insert(&mut self, session: Session) -> SessionKey {
        let hashes = (self.hasher.hash_one(&*session.client_id), hash_of_no(session.no));
        let key = self.sessions.insert(session);
        let at = u32::try_from(key).expect("sessions are fewer than four billions");
        let Self { sessions, by_client, by_no, hasher } = self;
        by_client.insert_unique(hashes.0, at, |at| hasher.hash_one(&*sessions[*at as usize].client_id));
        by_no.insert_unique(hashes.1, at, |at| hash_of_no(sessions[*at as usize].no));
        key
    }

    /// Takes a session out; its place is another's afterwards.
    ///
    /// # Panics
    /// There is none at this place.
    pub(crate) fn remove(&mut self, key: SessionKey) -> Session {
        let session = self.sessions.remove(key);
        let hash = self.hasher.hash_one(&*session.client_id);
        if let Ok(found) = self.by_client.find_entry(hash, |at| *at as usize == key) {
            found.remove();
        }
        if let Ok(found) = self.by_no.find_entry(hash_of_no(session.no), |at| *at as usize == key) {
            found.remove();
        }
        if self.sessions.len() == 0 {
            // What was needed for many is given back with the last.
            (self.by_client, self.by_no) = Default::default();
        }
        session
    }
}

impl Index<SessionKey> for Directory {
    type Output = Session;

    fn index(&self, key: SessionKey) -> &Session {
        &self.sessions[key]
    }
}

impl IndexMut<SessionKey> for Directory {
    fn index_mut(&mut self, key: SessionKey) -> &mut Session {
        &mut self.sessions[key]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::memory::Account;

    #[test]
    fn a_session_is_found_by_place_client_and_number_until_it_is_removed() {
        let mut rng = fastrand::Rng::with_seed(11);
        let account = Account::default();
        let (mut directory, mut known) = (Directory::default(), BTreeMap::new());
        for no in 1..12_000_u64 {
            if rng.u64(..20_000) > no {
                let client = format!("client-{}", no * 7);
                let session = Session::new(SessionNo(no), &client, "u", &account);
                assert_eq!(known.insert(directory.insert(session), (no, client)), None);
            } else if let Some((key, (no, client))) = known.pop_first() {
                assert_eq!(directory.remove(key).no, SessionNo(no));
                assert_eq!((directory.of_client(&client), directory.numbered(SessionNo(no))), (None, None));
            }
            assert_eq!(directory.len(), known.len());
        }
        assert_ne!(known.len(), 0);
        for (key, (no, client)) in &known {
            assert_eq!(directory.of_client(client), Some(*key));
            assert_eq!(directory.numbered(SessionNo(*no)), Some(*key));
            assert_eq!(directory[*key].no, SessionNo(*no));
        }
        for key in known.into_keys() {
            directory.remove(key);
        }
        assert_eq!((directory.capacity(), directory.by_no.capacity(), account.bytes()), (0, 0, 0));
    }
}
