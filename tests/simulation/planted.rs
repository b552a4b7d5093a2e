//! Bugs that are planted, and the checker that must find each: docs/simulation.md has the table.

use engine::Planted;

use super::plan::Plan;
use super::{CONDUCT, run};

/// A mistake made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// The engine's.
    Engine(Planted),
    /// The log vouches for what is not synced.
    SkippedSync,
}

impl Bug {
    fn name(self) -> String {
        match self {
            Self::Engine(planted) => format!("{planted:?}"),
            Self::SkippedSync => "SkippedSync".to_owned(),
        }
    }

    fn plant(self, plan: Plan) -> Plan {
        match self {
            Self::Engine(planted) => Plan { planted: Some(planted), ..plan },
            Self::SkippedSync => Plan { skips_sync: true, ..plan },
        }
    }
}

/// One bug, what it is for people, and who must find it.
struct Row {
    bug: Bug,
    what: &'static str,
    checker: &'static str,
}

const fn row(planted: Planted, what: &'static str, checker: &'static str) -> Row {
    Row { bug: Bug::Engine(planted), what, checker }
}

const ROWS: &[Row] = &[
    row(Planted::AckBeforeCommit, "acknowledgements leave before their record is durable", "kept"),
    row(Planted::DeliveryBeforeCommit, "messages leave before their record is durable", "seqs"),
    row(Planted::SeqReusedAfterRestart, "after a restart a conversation goes on one number too low", "seqs"),
    row(Planted::Qos2IdForgottenAtRestart, "a restart forgets which QoS 2 packet ids were taken", "once"),
    row(
        Planted::ResentOutOfOrder,
        "a resumed session gets what was in flight in the wrong order",
        "resent in order",
    ),
    row(Planted::NotResent, "a resumed session does not get what was in flight", "kept"),
    row(Planted::PacketIdReused, "two messages are in flight under one packet id", "packet ids"),
    row(Planted::HandOverLost, "what a member of a group left at its end goes to nobody", "group"),
    row(
        Planted::HandOverTwice,
        "QoS 2 in flight goes to a second member when the first one's session ends",
        "group",
    ),
    row(Planted::RetainedLostAtRestart, "a restart forgets retained messages", "retained"),
    row(Planted::SubscriptionLostAtRestart, "a restart forgets subscriptions", "kept"),
    row(Planted::WillLostAtRestart, "a restart forgets wills", "wills"),
    row(Planted::ExpiryNotCounted, "the time in a queue does not count for the expiry", "expiry"),
    row(Planted::DroppedInSilence, "a full queue drops without a receipt", "receipts"),
    row(Planted::ReceiptsLostAtRestart, "a restart forgets whom receipts are owed to", "receipts"),
    row(Planted::ReceiptsReopenedAtRestart, "a restart forgets which receipts were told", "receipts"),
    row(Planted::OverlapTwice, "a session gets a copy for each subscription that matches", "once"),
    row(Planted::CleanStartResumes, "Clean Start finds the old session", CONDUCT),
    row(Planted::DedupForgottenAtRestart, "a restart forgets the ids of messages", "dedup"),
    row(Planted::DedupWithoutTopic, "an id stands for one message on whatever topic", "kept"),
    row(Planted::StalePresenceAfterRestart, "after a restart clients that were online stay so", "presence"),
    row(
        Planted::PresenceEpochForgotten,
        "a client's new connection does not know the epoch of the one before",
        "presence",
    ),
    row(Planted::CursorSkips, "a replay begins one number too late", "replay"),
    row(Planted::RepeatedAtSwitch, "a message comes by the cursor and by the queue too", "replay"),
    row(Planted::CursorForgottenAtRestart, "a restart forgets how far a replay was", "replay"),
    row(Planted::GapNotTold, "nobody is told of numbers that a queue dropped", "replay"),
    row(Planted::OwnCountedAsUnread, "the user's own messages count as unread", "unread"),
    row(Planted::ReadPositionLostAtRestart, "a restart forgets how far a user has read", "unread"),
    row(Planted::MemberLostAtRestart, "a restart forgets who is a member", "unread"),
    row(
        Planted::CollapseAcrossUsers,
        "a message takes the place of another user's with the same key",
        "kept",
    ),
    row(Planted::KeptTooLong, "a conversation keeps more than its rule says", "retention"),
    row(Planted::TimeSkips, "a replay from a time on begins one message too late", "replay"),
    row(Planted::EnvelopeLeftOut, "who asked for envelopes gets messages as they are", "envelopes"),
    row(Planted::LastReceiptNotTold, "the last receipt of a message is not told", "counted"),
    row(Planted::ReadNotTold, "nobody is told of `read`", "read receipts"),
    row(
        Planted::SetAsideEarly,
        "a message is set aside by the first connection that it ended alone",
        "poison",
    ),
    row(Planted::SetAsideLostAtRestart, "a restart forgets what was set aside", "poison"),
    row(
        Planted::HeartbeatRaised,
        "a client may declare a slower heartbeat than its CONNECT said",
        "heartbeat",
    ),
    row(Planted::PublishedDuringProbe, "messages go out on a connection that is silent for a probe", "probe"),
    row(Planted::ProbeNeverSpoiled, "a probe does not notice what its client sends meanwhile", "probe"),
    row(Planted::MemoryKept, "messages stay in memory after they are durable", "memory"),
    Row { bug: Bug::SkippedSync, what: "the log vouches for what is not on the disk", checker: CONDUCT },
];

/// Tests that share the bugs.
const PARTS: usize = 2;

/// Seeds that a bug may stay unfound for.
const SEEDS: u64 = 100;

/// Who else found it, by the first seed that its checker found it with.
fn hunt(row: &Row) -> Result<u64, String> {
    let mut others = std::collections::BTreeMap::new();
    for seed in 0..SEEDS {
        let run = run(seed, row.bug.plant(Plan::of(seed)));
        if run.findings.iter().any(|f| f.checker == row.checker) {
            return Ok(seed);
        }
        for finding in run.findings {
            others.entry(finding.checker).or_insert((seed, finding.what));
        }
    }
    Err(format!("{} is not found by {:?}, only by {others:?}", row.bug.name(), row.checker))
}

/// Each row from this one on is found, in steps of [`PARTS`]: each part can have a processor of its own.
fn each_is_found(part: usize) {
    let wanted = std::env::var("BUG").ok();
    let rows = ROWS.iter().skip(part).step_by(PARTS);
    let rows = rows.filter(|row| wanted.as_ref().is_none_or(|name| *name == row.bug.name()));
    let mut missed = Vec::new();
    for row in rows {
        match hunt(row) {
            Ok(seed) => println!("{} is found with seed {seed}", row.bug.name()),
            Err(what) => missed.push(what),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_planted_bug_is_found_by_its_checker() {
    each_is_found(0);
}

#[test]
fn every_other_planted_bug_is_found_by_its_checker() {
    each_is_found(1);
}

#[test]
fn every_bug_of_the_engine_is_planted() {
    for planted in Planted::ALL {
        assert!(ROWS.iter().any(|row| row.bug == Bug::Engine(*planted)), "{planted:?} has no row");
    }
}

#[test]
fn the_document_has_the_table_of_bugs() {
    let document = include_str!("../../docs/simulation.md");
    let mut table = String::from("| planted bug | what goes wrong | found by |\n| --- | --- | --- |\n");
    for row in ROWS {
        table += &format!("| `{}` | {} | {} |\n", row.bug.name(), row.what, row.checker);
    }
    assert!(document.contains(&table), "docs/simulation.md must have this table:\n{table}");
}
