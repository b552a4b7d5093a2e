//! Rules about Rust sources.

use super::{code_lines, files, none, read, sources_under};

/// Lines a file may have.
const FILE_LINES_MAX: usize = 600;
/// Lines a function may have, signature and braces included: about 70, with room for a table or a long match.
const FUNCTION_LINES_MAX: usize = 100;

/// Files over the limit, with the lines they have. This list may only shrink: take a row out when a file got
/// smaller, lower its number when it lost lines, never add one.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions over the limit, as `file: function`, with their lines. This list may only shrink.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

/// Names that say nothing about what a file owns.
const EMPTY_NAMES: &[&str] =
    &["manager", "util", "utils", "common", "helper", "helpers", "data", "misc", "shared"];

/// Checks findings of a size against the rows that are still allowed.
fn ratchet(sizes: &[(String, usize)], limit: usize, allowed: &[(&str, usize)]) {
    let mut findings = Vec::new();
    for (name, lines) in sizes {
        let most = allowed.iter().find(|(row, _)| row == name).map_or(limit, |(_, most)| *most);
        if *lines > most {
            findings.push(format!("{name} has {lines} lines, at most {most}"));
        }
    }
    for (name, most) in allowed {
        let now = sizes.iter().find(|(file, _)| file == name).map_or(0, |(_, lines)| *lines);
        if now < *most {
            let to = if now > limit { format!("lower its row to {now}") } else { "take its row out".into() };
            findings.push(format!("{name} has only {now} lines now: {to}"));
        }
    }
    none(&findings);
}

#[test]
fn files_stay_readable_at_one_sitting() {
    let sizes: Vec<_> =
        sources_under("").into_iter().map(|(name, text)| (name, text.lines().count())).collect();
    ratchet(&sizes, FILE_LINES_MAX, LONG_FILES);
}

#[test]
fn functions_stay_readable_at_one_look() {
    let mut sizes = Vec::new();
    for (name, text) in sources_under("") {
        for (function, lines) in functions(&text) {
            sizes.push((format!("{name}: {function}"), lines));
        }
    }
    assert!(sizes.len() > 100, "only {} functions were found", sizes.len());
    ratchet(&sizes, FUNCTION_LINES_MAX, LONG_FUNCTIONS);
}

/// Name and length of each function, by rustfmt's layout: it ends at a `}` as far in as it begins.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some(name) = function_name(line.trim_start()) else { continue };
        if line.ends_with('}') || line.ends_with(';') {
            continue;
        }
        let end = format!("{indent}}}");
        let length = lines[at..].iter().position(|l| *l == end || *l == format!("{indent};"));
        if let Some(length) = length {
            found.push((name.to_owned(), length + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    const BEFORE: [&str; 6] = ["pub ", "pub(crate) ", "pub(super) ", "async ", "const ", "unsafe "];
    let mut rest = line;
    while let Some(shorter) = BEFORE.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = shorter;
    }
    let name = rest.strip_prefix("fn ")?;
    Some(name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(name))
}

#[test]
fn functions_are_measured_from_signature_to_brace() {
    let text = "fn one() {\n}\n\nimpl X {\n    pub(crate) async fn two(\n    ) {\n        x();\n    }\n}\nfn three() {}\n";
    assert_eq!(functions(text), [("one".to_owned(), 2), ("two".to_owned(), 4)]);
}

#[test]
fn names_say_what_a_file_owns() {
    let findings: Vec<String> = files()
        .into_iter()
        .filter(|name| name.ends_with(".rs"))
        .filter(|name| name.trim_end_matches(".rs").split('/').any(|part| EMPTY_NAMES.contains(&part)))
        .collect();
    none(&findings);
}

#[test]
fn every_file_says_at_its_top_what_it_owns() {
    let findings: Vec<String> = sources_under("")
        .into_iter()
        .filter(|(_, text)| !text.trim_start_matches("#![no_main]").trim_start().starts_with("//!"))
        .map(|(name, _)| name)
        .collect();
    none(&findings);
}

/// Words that mark work as unfinished or switched off, in pieces so that this file does not find itself.
fn unfinished() -> [String; 6] {
    [["to", "do!("], ["unimpl", "emented!("], ["FIX", "ME"], ["X", "XX"], ["#[ig", "nore"], ["db", "g!("]]
        .map(|pieces| pieces.concat())
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    let mut findings = Vec::new();
    for (name, text) in sources_under("") {
        for (at, line) in text.lines().enumerate() {
            for word in unfinished() {
                if line.contains(&word) {
                    findings.push(format!("{name}:{}: {}", at + 1, line.trim()));
                }
            }
        }
    }
    none(&findings);
}

fn is_test_source(name: &str) -> bool {
    name.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches" | "fuzz" | "examples"))
        || name.ends_with("_tests.rs")
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut findings = Vec::new();
    for (name, text) in sources_under("") {
        if is_test_source(&name) {
            continue;
        }
        for (number, line) in code_lines(&text) {
            if line.contains(".unwrap()") {
                findings.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    none(&findings);
}

#[test]
fn no_code_is_commented_out() {
    let mut findings = Vec::new();
    for (name, text) in sources_under("") {
        for (at, line) in text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
            let is_doc = comment.starts_with('/') || comment.starts_with('!');
            if !is_doc && is_code(comment.trim()) {
                findings.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    none(&findings);
}

/// Says whether a comment reads like a statement of Rust rather than a sentence.
fn is_code(comment: &str) -> bool {
    let begins = ["let ", "fn ", "pub ", "use ", "impl ", "if let ", "match ", "return ", "for (", "#["]
        .iter()
        .any(|word| comment.starts_with(word));
    let ends = [';', '{', '}', ']'].iter().any(|end| comment.ends_with(*end));
    (begins && ends) || comment.ends_with(");") || comment.ends_with("?;") || comment == "}"
}

#[test]
fn commented_out_code_is_told_from_sentences() {
    for code in ["let x = 1;", "foo(bar);", "}", "fn x() {", "#[test]", "let y = read()?;"] {
        assert!(is_code(code), "{code}");
    }
    for sentence in
        ["let the kernel choose.", "Why: it is slow;", "match what the standard says", "[MQTT-1.5.4-1]"]
    {
        assert!(!is_code(sentence), "{sentence}");
    }
}

#[test]
fn tests_are_named_as_sentences() {
    let mut findings = Vec::new();
    for (name, text) in sources_under("") {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, pair) in lines.windows(2).enumerate() {
            let Some(function) = (pair[0] == "#[test]").then(|| function_name(pair[1])).flatten() else {
                continue;
            };
            if function.split('_').count() < 3 {
                findings.push(format!("{name}:{}: {function}", at + 2));
            }
        }
    }
    none(&findings);
}

#[test]
fn tests_take_no_fixed_port() {
    let mut findings = Vec::new();
    for (name, text) in sources_under("tests/") {
        for (at, line) in text.lines().enumerate() {
            let Some((_, rest)) = line.split_once("127.0.0.1:") else { continue };
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if !port.is_empty() && port != "0" {
                findings.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    none(&findings);
}

#[test]
fn every_lint_is_inherited_from_the_workspace() {
    let findings: Vec<String> = files()
        .into_iter()
        .filter(|name| name.ends_with("Cargo.toml") && !name.starts_with("fuzz/"))
        .filter(|name| read(name).is_none_or(|text| !text.contains("[lints]\nworkspace = true")))
        .collect();
    none(&findings);
}
