//! Every record that a device made, and what became of it.
//!
//! A record is made for a moment, and ends in exactly one [`Fate`]. Latency counts from the moment for which it was meant,
//! so that a generator, device or link that stood still shows in it (no coordinated omission). What does not end, comes
//! twice, comes changed, out of order, or was never made is a [`Finding`].
//!
//! ```text
//!   made ──▶ accepted ──▶ delivered            first arrival at the office
//!     │          ├──────▶ expired, dropped     the device says so: policy
//!     └─▶ refused        (open at the end: lost, a finding)
//! ```
//!
//! Memory is bounded by what is open: a record that has ended is folded, in the order of numbers, into its device's hash.
//! The hash of all devices is the run's: the same seed gives the same one.

mod findings;
mod latency;

use std::collections::VecDeque;

pub use findings::{FINDINGS_TOLD_MAX, Finding, Findings, Wrong};
pub use latency::Latency;

use crate::scenario::Fleet;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrived.
    Delivered,
    /// Its device gave it up as too old.
    Expired,
    /// Its device gave it up for want of room.
    Dropped,
    /// It never was accepted: the flash failed, or the power went first.
    Refused,
}

/// How many records there were, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Made.
    pub made: u64,
    /// Of these, accepted by the device's queue.
    pub accepted: u64,
    /// Arrived.
    pub delivered: u64,
    /// Given up as too old.
    pub expired: u64,
    /// Given up for want of room.
    pub dropped: u64,
    /// Never accepted.
    pub refused: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    meant_ms: u64,
    digest: u64,
    accepted: bool,
    /// What the device's queue calls it, 0 where nobody has said.
    entry: u64,
    fate: Option<Fate>,
}

/// One device's records.
#[derive(Debug, Clone, Default)]
struct Account {
    /// The number of the first entry in `open`; records are numbered from 0 on.
    first: u64,
    open: VecDeque<Entry>,
    /// Of all entries before `open`.
    hash: u64,
    /// The highest number that arrived, plus 1.
    arrived_to: u64,
}

/// The records of all devices, see the module.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    accounts: Vec<Account>,
    counts: Counts,
    latency: Latency,
    findings: Findings,
    /// Records may come after later ones.
    any_order: bool,
}

impl Ledger {
    /// Opens the accounts of so many devices.
    pub fn new(devices: u32) -> Ledger {
        Ledger {
            any_order: false,
            accounts: vec![Account::default(); devices as usize],
            counts: Counts::default(),
            latency: Latency::default(),
            findings: Findings::default(),
        }
    }

    /// Opens the accounts of a fleet.
    pub(crate) fn of(fleet: &Fleet) -> Ledger {
        let ledger = Ledger::new(fleet.devices);
        if fleet.record_class.overtakes() { ledger.in_any_order() } else { ledger }
    }

    /// Lets records come after later ones of their device, where newer ones may overtake.
    pub fn in_any_order(mut self) -> Ledger {
        self.any_order = true;
        self
    }

    /// A device makes a record for a moment; returns its number in the device's account. A device that is none has no account:
    /// a bug of the caller, told as a finding.
    pub fn made(&mut self, device: u32, meant_ms: u64, payload: &[u8]) -> u64 {
        let Some(account) = self.accounts.get_mut(device as usize) else {
            self.findings.add(Wrong::Invented, device, 0, "a record of a device that is none".to_owned());
            return 0;
        };
        self.counts.made += 1;
        account.open.push_back(Entry {
            meant_ms,
            digest: digest(payload),
            accepted: false,
            entry: 0,
            fate: None,
        });
        account.first + account.open.len() as u64 - 1
    }

    /// The number that a device's next record gets.
    pub fn next_number(&self, device: u32) -> u64 {
        self.accounts.get(device as usize).map_or(0, |account| account.first + account.open.len() as u64)
    }

    /// The device's queue has taken the record: from now on it must arrive, or be given up by policy.
    pub fn accepted(&mut self, device: u32, number: u64) {
        if let Some(entry) = self.entry(device, number)
            && !entry.accepted
        {
            entry.accepted = true;
            self.counts.accepted += 1;
        }
    }

    /// The same, with the number that the queue has for it: by that the queue says later what it gave up.
    pub fn accepted_as(&mut self, device: u32, number: u64, entry: u64) {
        self.accepted(device, number);
        if let Some(record) = self.entry(device, number) {
            record.entry = entry;
        }
    }

    /// The device says that it gave up an entry of its queue. One that it never told as accepted is none of the ledger's.
    pub fn entry_given_up(&mut self, device: u32, entry: u64, fate: Fate) {
        let Some(account) = self.accounts.get(device as usize) else { return };
        if let Some(at) = account.open.iter().position(|record| record.entry == entry) {
            self.given_up(device, account.first + at as u64, fate);
        }
    }

    /// The device says that a record will not arrive. One that has arrived already stays delivered: the device did not know.
    pub fn given_up(&mut self, device: u32, number: u64, fate: Fate) {
        let Some(entry) = self.entry(device, number).filter(|entry| entry.fate.is_none()) else { return };
        entry.fate = Some(fate);
        match fate {
            Fate::Delivered => return,
            Fate::Expired => self.counts.expired += 1,
            Fate::Dropped => self.counts.dropped += 1,
            Fate::Refused => self.counts.refused += 1,
        }
        self.fold(device);
    }

    /// A record arrived. `again`: marked by MQTT as sent again, which the office sorts out by itself.
    pub fn arrived(&mut self, device: u32, number: u64, now_ms: u64, payload: &[u8], again: bool) {
        let Some(account) = self.accounts.get_mut(device as usize) else {
            return self.findings.add(Wrong::Invented, device, number, "no such device".to_owned());
        };
        let next = account.first + account.open.len() as u64;
        if number >= next {
            let what = format!("it has made {next} records");
            return self.findings.add(Wrong::Invented, device, number, what);
        }
        let place = number.checked_sub(account.first).map(|place| place as usize);
        let fate = place.map_or(Some(Fate::Delivered), |place| account.open[place].fate);
        if fate == Some(Fate::Delivered) {
            if !again {
                let what = format!("again at {} s", now_ms / 1_000);
                self.findings.add(Wrong::Twice, device, number, what);
            }
            return;
        }
        let Some(entry) = place.and_then(|place| account.open.get_mut(place)) else { return };
        match entry.fate.replace(Fate::Delivered) {
            // What was given up may have been on its way.
            Some(Fate::Expired) => self.counts.expired -= 1,
            Some(Fate::Dropped) => self.counts.dropped -= 1,
            Some(Fate::Refused) => self.counts.refused -= 1,
            Some(Fate::Delivered) | None => {}
        }
        self.counts.delivered += 1;
        self.latency.add(now_ms.saturating_sub(entry.meant_ms));
        if entry.digest != digest(payload) {
            self.findings.add(Wrong::Changed, device, number, "its payload is another".to_owned());
        }
        if number < account.arrived_to && !self.any_order {
            let what = format!("after number {}", account.arrived_to - 1);
            self.findings.add(Wrong::OutOfOrder, device, number, what);
        }
        account.arrived_to = account.arrived_to.max(number + 1);
        self.fold(device);
    }

    /// Something else that must not be.
    pub fn wrong(&mut self, wrong: Wrong, device: u32, number: u64, what: String) {
        self.findings.add(wrong, device, number, what);
    }

    /// Counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Latency so far.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// What is wrong so far.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// A device has given up so many of its records, and does not say which: the oldest that are open, at the end of a run.
    pub(crate) fn give_up_oldest(&mut self, device: u32, count: u64, fate: Fate) {
        for number in self.open_of(device).take(count as usize).collect::<Vec<_>>() {
            self.given_up(device, number, fate);
        }
    }

    /// The devices that have an account.
    pub(crate) fn devices(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.accounts.len() as u32
    }

    /// The numbers of a device's records that were accepted and have not ended, the oldest first.
    pub(crate) fn open_of(&self, device: u32) -> impl Iterator<Item = u64> {
        let account = self.accounts.get(device as usize).into_iter();
        account.flat_map(|account| {
            let entries = (account.first..).zip(&account.open);
            entries.filter(|(_, entry)| entry.accepted && entry.fate.is_none()).map(|(number, _)| number)
        })
    }

    /// Records that were accepted and have not ended.
    pub fn open(&self) -> u64 {
        let entries = self.accounts.iter().flat_map(|account| &account.open);
        entries.filter(|entry| entry.accepted && entry.fate.is_none()).count() as u64
    }

    /// Closes the accounts: what is open was lost. Returns the hash over all devices.
    pub fn close(&mut self) -> u64 {
        let mut hash = HASH_START;
        for device in 0..self.accounts.len() as u32 {
            let lost: Vec<u64> = {
                let account = &self.accounts[device as usize];
                let open = account.open.iter().enumerate().filter(|(_, entry)| entry.fate.is_none());
                open.map(|(place, _)| account.first + place as u64).collect()
            };
            for number in lost {
                let Some(entry) = self.entry(device, number) else { continue };
                let (was_accepted, meant_s) = (entry.accepted, entry.meant_ms / 1_000);
                if was_accepted {
                    let what = format!("made at {meant_s} s, accepted, and neither arrived nor given up");
                    self.findings.add(Wrong::Lost, device, number, what);
                } else {
                    self.given_up(device, number, Fate::Refused);
                }
            }
            let account = &self.accounts[device as usize];
            let open = account.open.iter().fold(account.hash, fold_entry);
            hash = mix(hash, open);
        }
        hash
    }

    fn entry(&mut self, device: u32, number: u64) -> Option<&mut Entry> {
        let account = self.accounts.get_mut(device as usize)?;
        let place = number.checked_sub(account.first)?;
        account.open.get_mut(usize::try_from(place).ok()?)
    }

    /// Takes what has ended out of memory.
    fn fold(&mut self, device: u32) {
        let Some(account) = self.accounts.get_mut(device as usize) else { return };
        while account.open.front().is_some_and(|entry| entry.fate.is_some()) {
            let Some(entry) = account.open.pop_front() else { return };
            account.hash = fold_entry(account.hash, &entry);
            account.first += 1;
        }
    }
}

const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fold_entry(hash: u64, entry: &Entry) -> u64 {
    let fate = match entry.fate {
        None => 0,
        Some(Fate::Delivered) => 1,
        Some(Fate::Expired) => 2,
        Some(Fate::Dropped) => 3,
        Some(Fate::Refused) => 4,
    };
    mix(mix(mix(hash, entry.meant_ms), entry.digest), fate)
}

/// FNV-1a over a payload: it tells accidents apart, not enemies.
fn digest(payload: &[u8]) -> u64 {
    payload.iter().fold(HASH_START, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Stirs a number into a hash, each bit into all of them (the finaliser of SplitMix64).
pub(crate) fn mix(hash: u64, number: u64) -> u64 {
    let mut mixed = (hash ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(ledger: &mut Ledger, count: u64) {
        for number in 0..count {
            assert_eq!(ledger.made(0, number * 1_000, &number.to_be_bytes()), number);
            ledger.accepted(0, number);
        }
    }

    fn wrongs(ledger: &Ledger) -> Vec<(Wrong, u64)> {
        ledger.findings().told().iter().map(|finding| (finding.wrong, finding.number)).collect()
    }

    #[test]
    fn records_that_arrive_in_order_leave_nothing_open_and_nothing_wrong() {
        let mut ledger = Ledger::new(1);
        made(&mut ledger, 3);
        for number in 0..3 {
            ledger.arrived(0, number, number * 1_000 + 250, &number.to_be_bytes(), false);
        }
        assert_eq!((ledger.open(), ledger.accounts[0].open.len()), (0, 0));
        ledger.close();
        assert_eq!(wrongs(&ledger), []);
        assert_eq!(ledger.counts().delivered, 3);
        assert!((240..=260).contains(&ledger.latency().percentile_ms(50.0)));
    }

    #[test]
    fn latency_counts_from_the_moment_a_record_was_meant_for() {
        let mut ledger = Ledger::new(1);
        // Made late: the generator stood still for ten seconds.
        let number = ledger.made(0, 5_000, b"x");
        ledger.accepted(0, number);
        ledger.arrived(0, number, 15_100, b"x", false);
        assert!(ledger.latency().percentile_ms(50.0) >= 10_000);
    }

    #[test]
    fn everything_that_must_not_happen_to_a_record_is_found() {
        let mut ledger = Ledger::new(1);
        made(&mut ledger, 6);
        ledger.arrived(0, 1, 2_000, &1u64.to_be_bytes(), false);
        ledger.arrived(0, 0, 2_000, &0u64.to_be_bytes(), false);
        ledger.arrived(0, 0, 2_000, &0u64.to_be_bytes(), false);
        ledger.arrived(0, 1, 2_000, &1u64.to_be_bytes(), true);
        ledger.arrived(0, 2, 3_000, b"other", false);
        ledger.arrived(0, 9, 3_000, b"?", false);
        ledger.given_up(0, 3, Fate::Dropped);
        ledger.close();
        let want = [
            (Wrong::OutOfOrder, 0),
            (Wrong::Twice, 0),
            (Wrong::Changed, 2),
            (Wrong::Invented, 9),
            (Wrong::Lost, 4),
            (Wrong::Lost, 5),
        ];
        assert_eq!(wrongs(&ledger), want);
    }

    #[test]
    fn a_record_that_was_given_up_on_its_way_and_arrives_is_delivered() {
        let mut ledger = Ledger::new(1);
        made(&mut ledger, 2);
        ledger.given_up(0, 1, Fate::Expired);
        assert_eq!(ledger.counts().expired, 1);
        ledger.arrived(0, 0, 1, &0u64.to_be_bytes(), false);
        assert_eq!(ledger.accounts[0].first, 2);
        let mut other = Ledger::new(1);
        made(&mut other, 2);
        other.given_up(0, 1, Fate::Expired);
        other.arrived(0, 1, 5, &1u64.to_be_bytes(), false);
        assert_eq!((other.counts().expired, other.counts().delivered), (0, 1));
    }

    #[test]
    fn what_a_device_gave_up_without_saying_which_are_its_oldest_open_records() {
        let mut ledger = Ledger::new(1);
        made(&mut ledger, 5);
        ledger.arrived(0, 0, 1, &0u64.to_be_bytes(), false);
        assert_eq!(ledger.open_of(0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        ledger.give_up_oldest(0, 3, Fate::Expired);
        ledger.close();
        assert_eq!((ledger.counts().expired, wrongs(&ledger)), (3, vec![(Wrong::Lost, 4)]));
    }

    #[test]
    fn a_record_that_nobody_accepted_may_be_missing() {
        let mut ledger = Ledger::new(1);
        ledger.made(0, 0, b"torn");
        ledger.close();
        assert_eq!((wrongs(&ledger), ledger.counts().refused), (vec![], 1));
    }

    #[test]
    fn the_hash_is_of_what_was_made_and_what_became_of_it() {
        let hash = |payload: &[u8], fate| {
            let mut ledger = Ledger::new(2);
            let number = ledger.made(1, 7, payload);
            ledger.accepted(1, number);
            match fate {
                Fate::Delivered => ledger.arrived(1, number, 9, payload, false),
                other => ledger.given_up(1, number, other),
            }
            ledger.close()
        };
        assert_eq!(hash(b"a", Fate::Delivered), hash(b"a", Fate::Delivered));
        assert_ne!(hash(b"a", Fate::Delivered), hash(b"b", Fate::Delivered));
        assert_ne!(hash(b"a", Fate::Delivered), hash(b"a", Fate::Dropped));
    }
}
