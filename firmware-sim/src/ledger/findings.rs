//! What is wrong in a run: all of it counted, the first of it told.

use std::collections::BTreeMap;
use std::fmt;

/// The most findings of one kind that are told in words; all are counted.
pub const FINDINGS_TOLD_MAX: usize = 5;

/// A kind of wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// A record that was accepted neither arrived nor was given up.
    Lost,
    /// A record came twice.
    Twice,
    /// A record came with another payload.
    Changed,
    /// A record came after a later one.
    OutOfOrder,
    /// A record came that nobody made.
    Invented,
    /// A record says another time than the one at which it was made.
    WrongTime,
    /// A command was carried out twice.
    ActedTwice,
    /// A lock opened where it must not.
    OpenedOutside,
    /// A command was carried out after its expiry.
    ActedLate,
    /// A command had no end at its sender.
    NoEnd,
    /// A command had two different ends.
    TwoEnds,
    /// A device runs another release than it should, or started one that nobody built so.
    WrongRelease,
    /// The generator was late: what was measured says little.
    Lagged,
    /// A command that should have been carried out was not, or a bound of the scenario was not kept.
    Unexpected,
}

impl Wrong {
    /// All kinds.
    pub const ALL: [Wrong; 14] = [
        Wrong::Lost,
        Wrong::Twice,
        Wrong::Changed,
        Wrong::OutOfOrder,
        Wrong::Invented,
        Wrong::WrongTime,
        Wrong::ActedTwice,
        Wrong::OpenedOutside,
        Wrong::ActedLate,
        Wrong::NoEnd,
        Wrong::TwoEnds,
        Wrong::WrongRelease,
        Wrong::Lagged,
        Wrong::Unexpected,
    ];

    /// What must hold, as a sentence for people.
    pub fn rule(self) -> &'static str {
        match self {
            Wrong::Lost => "no accepted record is lost",
            Wrong::Twice => "no record comes twice",
            Wrong::Changed => "records come as they were made",
            Wrong::OutOfOrder => "records of a device come in order",
            Wrong::Invented => "nothing comes that nobody made",
            Wrong::WrongTime => "records carry the time at which they were made",
            Wrong::ActedTwice => "a command is carried out at most once",
            Wrong::OpenedOutside => "no lock opens outside its fence or on the way",
            Wrong::ActedLate => "no expired command is carried out",
            Wrong::NoEnd => "every command ends at its sender",
            Wrong::TwoEnds => "every command ends in one way only",
            Wrong::WrongRelease => {
                "every device runs the release that it should, and none that was not signed"
            }
            Wrong::Lagged => "the generator makes records at their time",
            Wrong::Unexpected => "the bounds of the scenario are kept",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub wrong: Wrong,
    /// Where: the device, from 0 on.
    pub device: u32,
    /// Which record or command.
    pub number: u64,
    /// What, for people.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}, number {}: {}", self.device + 1, self.number, self.what)
    }
}

/// All that is wrong.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    counts: BTreeMap<Wrong, u64>,
    told: Vec<Finding>,
}

impl Findings {
    pub(super) fn add(&mut self, wrong: Wrong, device: u32, number: u64, what: String) {
        let count = self.counts.entry(wrong).or_default();
        *count += 1;
        if *count <= FINDINGS_TOLD_MAX as u64 {
            self.told.push(Finding { wrong, device, number, what });
        }
    }

    /// How many there are of a kind.
    pub fn count(&self, wrong: Wrong) -> u64 {
        self.counts.get(&wrong).copied().unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The first of each kind.
    pub fn told(&self) -> &[Finding] {
        &self.told
    }
}
