//! Who is owed what, as the history says it: subscriptions that were acknowledged when a message was made, for as
//! long as their sessions last.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{QoS, filter_matches};

use crate::simulation::history::{Event, History, Message, Number, Who};
use crate::simulation::world::cast::{CAST, GROUP, topics_of};

/// What is known of one message.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Acknowledged, with the `im-seq` of each acknowledgement.
    pub(super) acks: Vec<Option<u64>>,
    /// Clients that must get it or hear why not.
    pub(super) owed_to: BTreeSet<Who>,
    /// Whether the shared group had a member then.
    pub(super) owed_to_group: bool,
    /// Clients that published it.
    pub(super) published_by: BTreeSet<Who>,
    /// Who got it.
    pub(super) taken_by: BTreeSet<Who>,
}

impl Account {
    pub(super) fn is_acked(&self) -> bool {
        !self.acks.is_empty()
    }
}

#[derive(Default)]
pub(super) struct Ledger {
    accounts: Vec<Account>,
    /// Sessions of group members that ended.
    pub(super) ended_members: u64,
    /// Clients whose session ended at least once.
    pub(super) ended: BTreeSet<Who>,
    subscriptions: BTreeMap<Who, BTreeSet<&'static str>>,
    /// The will of each client's connection, and whether CONNACK came for it.
    wills: BTreeMap<Who, (Number, bool)>,
}

impl Ledger {
    pub(super) fn of(history: &History) -> Self {
        let mut ledger = Self::default();
        for event in &history.events {
            ledger.note(history, event);
        }
        ledger
    }

    pub(super) fn account(&self, number: Number) -> &Account {
        &self.accounts[number as usize - 1]
    }

    fn note(&mut self, history: &History, event: &Event) {
        match event {
            Event::Made(message) => {
                let published_by = BTreeSet::from([message.by]);
                self.accounts.push(Account { published_by, ..Account::default() });
                self.owe(message);
            }
            Event::MadeAgain { number, by } => {
                self.accounts[*number as usize - 1].published_by.insert(*by);
            }
            Event::Acked { number, seq, .. } => self.accounts[*number as usize - 1].acks.push(*seq),
            Event::Connecting { who, anew, will } => {
                if *anew {
                    self.session_ended(*who);
                }
                // The connection before has ended, however: its will is due.
                if let Some((due, true)) = self.wills.remove(who) {
                    self.accounts[due as usize - 1].acks.push(None);
                }
                if let Some(will) = will {
                    self.wills.insert(*who, (*will, false));
                }
            }
            Event::Connected { who, is_present } => {
                if !is_present {
                    self.subscriptions.remove(who);
                }
                if let Some((_, is_kept)) = self.wills.get_mut(who) {
                    *is_kept = true;
                }
            }
            Event::Leaving { who } => drop(self.wills.remove(who)),
            Event::Subscribed { who, filter } => {
                self.subscriptions.entry(*who).or_default().insert(filter);
            }
            Event::Unsubscribing { who, filter } => self.unsubscribed(history, *who, filter),
            Event::Took { who, taken } => {
                let account = taken.number().and_then(|n| self.accounts.get_mut(n as usize - 1));
                if let Some(account) = account {
                    account.taken_by.insert(*who);
                }
            }
            _ => {}
        }
    }

    fn has(&self, who: Who, topic: &str) -> bool {
        let filters = self.subscriptions.get(&who);
        filters.is_some_and(|filters| filters.iter().any(|filter| filter_matches(topics_of(filter), topic)))
    }

    fn owe(&mut self, message: &Message) {
        if message.qos == QoS::AtMostOnce {
            return;
        }
        // What a SUBSCRIBE with a number takes out of the queue comes by replay, which has a checker of its own.
        let lasting = (0..CAST.len()).filter(|who| !CAST[*who].is_passing && !CAST[*who].replays);
        let owed_to = lasting.filter(|who| self.has(*who, message.topic)).collect();
        let first = (0..CAST.len()).find(|who| CAST[*who].is_member());
        let group = first.and_then(|first| self.subscriptions.get(&first));
        let account = &mut self.accounts[message.number as usize - 1];
        account.owed_to = owed_to;
        account.owed_to_group = group.is_some_and(|f| f.contains(GROUP)) && !message.is_request();
    }

    /// What it had not got is nobody's business any more.
    fn session_ended(&mut self, who: Who) {
        self.subscriptions.remove(&who);
        self.ended.insert(who);
        self.ended_members += u64::from(CAST[who].is_member());
        for account in &mut self.accounts {
            account.owed_to.remove(&who);
        }
    }

    /// What is accepted from here on may not be its any more.
    fn unsubscribed(&mut self, history: &History, who: Who, filter: &str) {
        if let Some(filters) = self.subscriptions.get_mut(&who) {
            filters.remove(filter);
        }
        for at in 0..self.accounts.len() {
            if !self.accounts[at].is_acked() && !self.has(who, history.messages[at].topic) {
                self.accounts[at].owed_to.remove(&who);
            }
        }
    }
}
