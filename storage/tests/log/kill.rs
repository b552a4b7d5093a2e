//! A process that is killed in the middle of its work.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::records;
use crate::support::{config, content, expected, open};
use storage::{Durability, Log, LogConfig};
use tempfile::tempdir;

const CHILD_DIR: &str = "STORAGE_TEST_CHILD_DIR";

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let config = LogConfig { durability: Durability::Process, ..config() };
    let mut log = Log::open(Path::new(&dir), config).unwrap();
    let mut out = std::io::stdout().lock();
    loop {
        for _ in 0..3 {
            let number = log.next_lsn().0;
            log.append(&content(number, 300)).unwrap();
        }
        writeln!(out, "committed {}", log.commit().unwrap().0).unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_committed() {
    let dir = tempdir().unwrap();
    let mut committed = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_commits_until_it_is_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut see = |line: String| {
            if let Some(number) = line.split("committed ").nth(1) {
                committed = number.parse().unwrap();
            }
        };
        for line in lines.by_ref().take(20 * round) {
            see(line.unwrap());
        }
        child.kill().unwrap();
        // What it said before it died counts too; the last line may be cut.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        rest.into_iter().rev().skip(1).take(1).for_each(&mut see);
        child.wait().unwrap();
        let found = records(&open(&dir));
        assert!(
            found.len() as u64 >= committed && committed > 0,
            "{committed} committed, {} found",
            found.len()
        );
        assert_eq!(found, expected(1..=found.len() as u64, 300));
    }
}
