//! The users whose messages are kept, each name once however many messages it has.

use bytestring::ByteString;
use slab::Slab;

use crate::memory::{Account, Held, SENDER_BYTES};
use crate::message::compact;
use crate::names::ByName;

/// Number of a user, valid while a message of that user is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SenderNo(pub(crate) u32);

#[derive(Debug)]
struct Sender {
    name: ByteString,
    messages: u64,
}

#[derive(Debug)]
pub(crate) struct Senders {
    senders: Slab<Sender>,
    by_name: ByName<SenderNo>,
    held: Held,
}

impl Senders {
    pub(crate) fn new(account: &Account) -> Self {
        Self { senders: Slab::new(), by_name: ByName::default(), held: account.hold(0) }
    }

    /// Counts one message more of a user.
    pub(crate) fn add(&mut self, name: &ByteString) -> SenderNo {
        if let Some(no) = self.by_name.get(name) {
            self.senders[no.0 as usize].messages += 1;
            return *no;
        }
        // A copy: a slice would keep the packet that it came in.
        let name = compact(name);
        self.held.grow(SENDER_BYTES + name.len());
        let no = SenderNo(self.senders.insert(Sender { name: name.clone(), messages: 1 }) as u32);
        self.by_name.insert(name, no);
        no
    }

    /// Counts one message less.
    pub(crate) fn remove(&mut self, no: SenderNo) {
        let Some(sender) = self.senders.get_mut(no.0 as usize) else { return };
        sender.messages -= 1;
        if sender.messages == 0 {
            let Sender { name, .. } = self.senders.remove(no.0 as usize);
            self.held.shrink(SENDER_BYTES + name.len());
            self.by_name.remove(&name);
        }
    }

    pub(crate) fn name(&self, no: SenderNo) -> Option<&ByteString> {
        self.senders.get(no.0 as usize).map(|sender| &sender.name)
    }

    #[cfg(test)]
    pub(crate) fn recount(&self) -> usize {
        self.senders.iter().map(|(_, sender)| SENDER_BYTES + sender.name.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_once_and_goes_with_its_last_message() {
        let account = Account::default();
        let mut senders = Senders::new(&account);
        let (ann, bob) = (senders.add(&"ann".into()), senders.add(&"bob".into()));
        assert_eq!((senders.add(&"ann".into()), ann == bob), (ann, false));
        assert_eq!(account.bytes(), 2 * (SENDER_BYTES + 3));
        senders.remove(ann);
        assert_eq!(senders.name(ann).map(|name| &**name), Some("ann"));
        senders.remove(ann);
        senders.remove(bob);
        assert_eq!((senders.name(ann), account.bytes()), (None, 0));
    }
}
