//! The tables of the standards' statements (`docs/spec/`) against the tree: every statement of the server has code
//! and a test that cites it, and nothing cites a statement that does not exist.
//!
//! A citation is `[MQTT-3.3.1-4]` for MQTT 5.0 and `[MQTT-3.3.1-4] (3.1.1)` for the older standard, in comments,
//! in text, and in the `cites` lines of the vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::tidy::{ROOT, files, none, read};

const TABLES: [(&str, Version); 2] =
    [("docs/spec/mqtt-3.1.1.md", Version::V311), ("docs/spec/mqtt-5.0.md", Version::V5)];
const EXCEPTIONS: &str = "docs/spec/exceptions.toml";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V311,
    V5,
}

/// A statement of one of the standards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Statement {
    version: Version,
    /// `MQTT-3.3.1-4`.
    id: String,
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.version == Version::V311 { " (3.1.1)" } else { "" };
        write!(f, "{}{mark}", self.id)
    }
}

/// What a table says of a statement that binds the server.
struct Row {
    code: String,
    /// File and name, where the table names a test.
    test: Option<(String, String)>,
}

/// The rows of one table: `None` for a statement that binds clients only.
fn rows(name: &str, version: Version) -> BTreeMap<Statement, Option<Row>> {
    let text = read(name).unwrap_or_else(|| panic!("{name} is there"));
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| [MQTT-")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, _, code, test] = cells[..] else { panic!("{name}: not four cells: {line}") };
        let statement = Statement { version, id: id.trim_matches(['[', ']']).to_owned() };
        let row = (code != "client").then(|| Row {
            code: code.trim_matches('`').to_owned(),
            test: test
                .split_once(": ")
                .map(|(file, name)| (file.trim_matches('`').to_owned(), name.trim_matches('`').to_owned())),
        });
        assert!(rows.insert(statement, row).is_none(), "{name}: {id} stands twice");
    }
    rows
}

fn tables() -> BTreeMap<Statement, Option<Row>> {
    TABLES.into_iter().flat_map(|(name, version)| rows(name, version)).collect()
}

/// Every citation in a text.
fn citations(text: &str) -> Vec<Statement> {
    text.split("[MQTT-")
        .skip(1)
        .filter_map(|rest| {
            let (id, behind) = rest.split_once(']')?;
            let is_id = id.starts_with(|c: char| c.is_ascii_digit())
                && id.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '-'));
            let version = if behind.starts_with(" (3.1.1)") { Version::V311 } else { Version::V5 };
            is_id.then(|| Statement { version, id: format!("MQTT-{id}") })
        })
        .collect()
}

/// Sources and vectors with their texts.
fn sources() -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|name| name.ends_with(".rs") || name.ends_with(".vec"))
        .filter_map(|name| read(&name).map(|text| (name, text)))
        .collect()
}

/// The part of a source that is tests: all of a test's file, or what follows `#[cfg(test)]`.
fn test_part<'a>(name: &str, text: &'a str) -> &'a str {
    if name.ends_with(".vec") || name.split('/').any(|part| matches!(part, "tests" | "tests.rs")) {
        return text;
    }
    text.find("\n#[cfg(test)]").map_or("", |at| &text[at..])
}

fn has_test(file: &str, text: &str, name: &str) -> bool {
    if file.ends_with(".vec") {
        text.lines().any(|line| line == format!("== {name}"))
    } else {
        text.contains(&format!("fn {name}("))
    }
}

fn exceptions() -> BTreeMap<String, String> {
    toml::from_str(&read(EXCEPTIONS).expect("the exceptions are there")).expect("keys and reasons")
}

#[test]
fn every_statement_of_the_server_is_cited_by_a_test() {
    let mut cited = BTreeSet::new();
    for (name, text) in sources() {
        cited.extend(citations(test_part(&name, &text)));
    }
    let mut exceptions = exceptions();
    let mut findings = Vec::new();
    for (statement, row) in tables() {
        let reason = exceptions.remove(&statement.to_string());
        match (row.is_some() && !cited.contains(&statement), reason) {
            (true, None) => findings.push(format!("{statement}: no test cites it")),
            (false, Some(_)) => findings.push(format!("{statement}: needs no exception")),
            (true, Some(_)) | (false, None) => {}
        }
    }
    findings.extend(exceptions.keys().map(|id| format!("{id} in {EXCEPTIONS}: no such statement")));
    none(&findings);
}

#[test]
fn every_row_names_code_and_a_test_that_exist() {
    let exceptions = exceptions();
    let mut findings = Vec::new();
    for (statement, row) in tables() {
        let Some(row) = row else { continue };
        let excepted = exceptions.contains_key(&statement.to_string());
        if !Path::new(ROOT).join(&row.code).exists() && !excepted {
            findings.push(format!("{statement}: {} does not exist", row.code));
        }
        let Some((file, name)) = row.test else {
            if !excepted {
                findings.push(format!("{statement}: the table names no test"));
            }
            continue;
        };
        let text = read(&file).unwrap_or_default();
        if !has_test(&file, &text, &name) {
            findings.push(format!("{statement}: {file} has no test {name:?}"));
        } else if !citations(&text).contains(&statement) {
            findings.push(format!("{statement}: {file} does not cite it"));
        }
    }
    none(&findings);
}

#[test]
fn every_statement_cited_exists() {
    let tables = tables();
    let mut findings = Vec::new();
    for (name, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            for statement in citations(line).into_iter().filter(|s| !tables.contains_key(s)) {
                findings.push(format!("{name}:{}: {statement}", at + 1));
            }
            // Forms that leave open which standard is meant, or hide a citation from these tests.
            let unmarked = ["3.1.1: [MQTT-", "] of 3.1.1", "\"MQTT-"].iter().any(|form| line.contains(form));
            if unmarked && !name.ends_with("spec_tables.rs") {
                findings.push(format!("{name}:{}: write [MQTT-…] or [MQTT-…] (3.1.1)", at + 1));
            }
        }
    }
    none(&findings);
}

#[test]
fn the_tables_are_whole() {
    // What the appendices hold, chapter by chapter.
    for ((name, version), chapters) in TABLES.into_iter().zip([
        [("1", 3), ("2", 9), ("3", 95), ("4", 26), ("6", 4), ("7", 4)].as_slice(),
        [("1", 5), ("2", 7), ("3", 175), ("4", 60), ("6", 4)].as_slice(),
    ]) {
        let rows = rows(name, version);
        for (chapter, statements) in chapters {
            let begins = |s: &&Statement| {
                s.id.strip_prefix("MQTT-").is_some_and(|id| {
                    id.strip_prefix(chapter).is_some_and(|rest| rest.starts_with(['.', '-']))
                })
            };
            assert_eq!(rows.keys().filter(begins).count(), *statements, "{name}, chapter {chapter}");
        }
        assert_eq!(rows.len(), chapters.iter().map(|(_, n)| n).sum::<usize>(), "{name}");
    }
}

#[test]
fn citations_are_told_by_version() {
    let text = "[MQTT-3.3.1-4], [MQTT-3.3.1-4] (3.1.1); [MQTT-3-8.3-4] (3.1.1) [MQTT-…] [MQTT-x]";
    let found: Vec<String> = citations(text).iter().map(Statement::to_string).collect();
    assert_eq!(found, ["MQTT-3.3.1-4", "MQTT-3.3.1-4 (3.1.1)", "MQTT-3-8.3-4 (3.1.1)"]);
}
