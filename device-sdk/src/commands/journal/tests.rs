//! What the journal remembers and forgets.

use serde_json::json;

use super::*;

fn result(id: &str, at: u64) -> CommandResult {
    CommandResult {
        id: id.to_owned(),
        status: Status::Done,
        data: Some(json!({ "at": at })),
        reason: None,
        at,
    }
}

fn command(id: &str) -> Command {
    Command { id: id.to_owned(), name: "unlock".to_owned(), args: json!({ "door": 1 }), expires_at: Some(9) }
}

fn nonce(name: &str, expires_at: u64) -> UsedNonce {
    UsedNonce { approver: "ann".to_owned(), nonce: name.to_owned(), expires_at }
}

fn begin(journal: &mut CommandJournal, id: &str, at: u64) {
    journal.accept(command(id), at, Deadline::default(), None).unwrap();
    journal.executing(id, at, at).unwrap();
}

#[test]
fn what_is_noted_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = CommandJournal::open(dir.path()).unwrap();
    begin(&mut journal, "ran", 1);
    journal.end(result("ran", 2), 2).unwrap();
    journal.end(result("refused", 3), 3).unwrap();
    for status in [Status::Accepted, Status::Executing, Status::Done] {
        journal.told("ran", status).unwrap();
    }
    begin(&mut journal, "cut", 4);
    journal.accept(command("waits"), 5, Deadline { unix_ms: Some(9), ..Deadline::default() }, None).unwrap();
    journal.told("waits", Status::Accepted).unwrap();
    journal.end(result("last", 6), 6).unwrap();
    drop(journal);
    let journal = CommandJournal::open(dir.path()).unwrap();
    assert_eq!(journal.find("ran"), Some(Standing::Ended(&result("ran", 2))));
    assert_eq!(journal.find("never"), None);
    assert_eq!(journal.find("waits"), Some(Standing::Accepted(&command("waits"))));
    assert_eq!(journal.next_pending().unwrap().1.unix_ms, Some(9));
    let Some(Standing::Ended(cut)) = journal.find("cut") else { panic!("it has ended") };
    assert_eq!((cut.status, cut.reason.as_deref()), (Status::Failed, Some(INTERRUPTED)));
    let untold: Vec<_> = journal.untold().into_iter().map(|result| (result.id, result.status)).collect();
    let expected = [
        ("refused", Status::Done),
        ("cut", Status::Accepted),
        ("cut", Status::Executing),
        ("cut", Status::Failed),
        ("last", Status::Done),
    ];
    assert_eq!(untold, expected.map(|(id, status)| (id.to_owned(), status)));
    assert_eq!(journal.reached_unix_ms(), 6);
    let error = CommandJournal::open(dir.path()).unwrap_err();
    assert!(matches!(error, JournalError::Open(OpenError::Locked { .. })), "{error}");
}

#[test]
fn a_journal_of_version_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path(), LogConfig::default()).unwrap();
    let records: [&[u8]; 4] = [
        b"\x01{\"began\":{\"id\":\"a\",\"at\":5}}",
        b"\x01{\"ended\":{\"id\":\"a\",\"status\":\"done\",\"data\":null,\"at\":6}}",
        b"\x01{\"told\":{\"id\":\"a\"}}",
        b"\x01{\"began\":{\"id\":\"b\",\"at\":7}}",
    ];
    for record in records {
        log.append(record).unwrap();
    }
    log.commit().unwrap();
    drop(log);
    let journal = CommandJournal::open(dir.path()).unwrap();
    let Some(Standing::Ended(b)) = journal.find("b") else { panic!("it has ended") };
    assert_eq!((b.status, b.at), (Status::Failed, 7));
    assert!(journal.by_id["a"].is_told() && !journal.is_settled());
}

#[test]
fn the_oldest_answered_commands_are_forgotten_and_the_log_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = CommandJournal::open(dir.path()).unwrap();
    let week = KEPT_MS;
    for number in 0..COMMANDS_KEPT_MIN as u64 + 200 {
        let id = format!("c{number}");
        journal.end(result(&id, number), number).unwrap();
        if number != 7 {
            journal.told(&id, Status::Done).unwrap();
        }
    }
    assert_eq!(journal.len(), COMMANDS_KEPT_MIN + 200);
    // A week later the old ones go, down to the minimum; the unanswered one stays.
    begin(&mut journal, "later", week + 10_000);
    assert_eq!(journal.len(), COMMANDS_KEPT_MIN + 1);
    assert!(journal.find("c0").is_none() && journal.find("c7").is_some() && journal.find("c1199").is_some());
    journal.accept(command("waits"), week, Deadline::default(), Some(nonce("n", u64::MAX))).unwrap();
    let before = journal.log.bytes();
    journal.rewrite().unwrap();
    assert!(journal.log.bytes() <= before);
    drop(journal);
    let journal = CommandJournal::open(dir.path()).unwrap();
    assert_eq!(journal.len(), COMMANDS_KEPT_MIN + 2);
    assert!(journal.find("c0").is_none() && journal.find("c1199").is_some());
    assert_eq!(journal.find("waits"), Some(Standing::Accepted(&command("waits"))));
    assert!(journal.is_used(&nonce("n", 3)), "its end does not matter");
}

#[test]
fn nonces_outlive_their_commands_and_only_expired_ones_are_forgotten_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = CommandJournal::open(dir.path()).unwrap();
    journal.accept(command("a"), 1, Deadline::default(), Some(nonce("short", 50))).unwrap();
    journal.accept(command("b"), 1, Deadline::default(), Some(nonce("long", 500))).unwrap();
    journal.end(result("a", 60), 49).unwrap();
    assert!(journal.is_used(&nonce("short", 50)) && !journal.is_used(&nonce("other", 50)));
    assert!(!journal.is_used(&UsedNonce { approver: "bob".to_owned(), ..nonce("short", 50) }));
    drop(journal);
    let mut journal = CommandJournal::open(dir.path()).unwrap();
    for number in 2..NONCES_MAX {
        journal.note(Record::Nonce(nonce(&format!("n{number}"), 1_000)));
    }
    assert!(!journal.has_room_for_nonce());
    // What has expired is remembered all the same, until somebody needs its place.
    journal.end(result("b", 60), 50).unwrap();
    assert!(journal.is_used(&nonce("short", 50)) && journal.has_room_for_nonce());
    journal.accept(command("c"), 60, Deadline::default(), Some(nonce("new", 600))).unwrap();
    assert!(!journal.is_used(&nonce("short", 50)) && journal.is_used(&nonce("long", 500)));
    assert!(journal.is_used(&nonce("new", 600)) && !journal.has_room_for_nonce());
}

#[test]
fn a_journal_of_unanswered_commands_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = CommandJournal::open(dir.path()).unwrap();
    // In memory only: ten thousand syncs would take long and prove nothing more.
    for number in 0..COMMANDS_MAX as u64 {
        journal.note(Record::Ended { result: result(&format!("c{number}"), number), reached: 0 });
    }
    let error = journal.accept(command("more"), 0, Deadline::default(), None).unwrap_err();
    assert!(matches!(error, JournalError::Full { waiting: COMMANDS_MAX }), "{error}");
    journal.note(Record::Told { id: "c5".to_owned(), status: None });
    begin(&mut journal, "more", 0);
    assert!(journal.find("c5").is_none());
}

#[test]
fn results_are_forgotten_by_their_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = CommandJournal::open(dir.path()).unwrap();
    for number in 0..200 {
        let id = format!("c{number}");
        let data = Some(Value::String("x".repeat(RESULT_BYTES_MAX - 1_000)));
        journal.note(Record::Ended { result: CommandResult { data, ..result(&id, 0) }, reached: 0 });
        journal.note(Record::Told { id, status: Some(Status::Done) });
    }
    begin(&mut journal, "more", 0);
    assert!(journal.kept_bytes < KEPT_BYTES_MAX + RESULT_BYTES_MAX, "{} bytes", journal.kept_bytes);
}
