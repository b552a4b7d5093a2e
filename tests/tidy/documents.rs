//! Rules about documents, configurations and everything else that is text.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{ROOT, files, none, read};

/// Paths that exist on one machine only.
fn machine_paths() -> [String; 4] {
    ["wor", "roo", "hom", "User"].map(|name| {
        let last = match name {
            "wor" => "k/",
            "roo" => "t/",
            "hom" => "e/",
            _ => "s/",
        };
        format!("/{name}{last}")
    })
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    let mut findings = Vec::new();
    for name in files() {
        let Some(text) = read(&name) else { continue };
        for (at, line) in text.lines().enumerate() {
            for path in machine_paths() {
                // A path begins a word: `docs/work/` or `https://example.com/home/` are none.
                let own = line.match_indices(&path).any(|(at, _)| {
                    at == 0 || line[..at].ends_with(|c: char| c.is_whitespace() || "\"'`(=:<".contains(c))
                });
                if own {
                    findings.push(format!("{name}:{}: {}", at + 1, line.trim()));
                }
            }
        }
    }
    none(&findings);
}

fn documents() -> impl Iterator<Item = (String, String)> {
    files().into_iter().filter(|name| name.ends_with(".md")).filter_map(|name| {
        let text = read(&name)?;
        Some((name, text))
    })
}

/// The targets of `[text](target)` outside code.
fn links(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        // Every second piece between back-ticks is code.
        for prose in line.split('`').step_by(2) {
            for piece in prose.split("](").skip(1) {
                targets.extend(piece.split_once(')').map(|(target, _)| target.to_owned()));
            }
        }
        // A link whose text is code: [`name`](target).
        for piece in line.split("`](").skip(1) {
            targets.extend(piece.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    targets
}

/// The anchors that headings of a document give, as the usual renderers make them.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir => {}
            other => parts.push(other),
        }
    }
    parts
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for (name, text) in documents() {
        for target in links(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
            let there = if file.is_empty() { PathBuf::from(&name) } else { normal(&folder.join(file)) };
            if !Path::new(ROOT).join(&there).exists() {
                findings.push(format!("{name}: {target} does not exist"));
            } else if !anchor.is_empty()
                && read(&there.to_string_lossy()).is_some_and(|text| !anchors(&text).contains(anchor))
            {
                findings.push(format!("{name}: {target} has no such heading"));
            }
        }
    }
    none(&findings);
}

#[test]
fn every_shipped_configuration_is_described() {
    let described: String = documents().map(|(_, text)| text).collect();
    let findings: Vec<String> = files()
        .into_iter()
        .filter(|name| name.starts_with("configs/") && name.ends_with(".toml"))
        .filter(|name| !described.contains(name.as_str()))
        .map(|name| format!("{name} is mentioned in no document"))
        .collect();
    none(&findings);
}

#[test]
fn documents_name_only_files_that_exist() {
    const FOLDERS: [&str; 6] = ["configs/", "docs/", "scripts/", "tests/", "fuzz/", ".ci/"];
    let mut findings = Vec::new();
    for (name, text) in documents() {
        for word in text.split(|c: char| c.is_whitespace() || "`()[],;:\"'|*<>".contains(c)) {
            let word = word.trim_start_matches("./").trim_end_matches(['.', '/']);
            let names_a_file =
                FOLDERS.iter().any(|folder| word.starts_with(folder)) || word.contains("/src/");
            let is_pattern = word.contains(['…', '{', '*', '$']) || word.contains("NNNN");
            if names_a_file && !is_pattern && !Path::new(ROOT).join(word).exists() {
                findings.push(format!("{name}: {word}"));
            }
        }
    }
    none(&findings);
}

#[test]
fn lockfiles_name_no_host() {
    let text = read("tests/clients/package-lock.json").expect("the lockfile of the JavaScript client");
    let findings: Vec<&str> = text.lines().filter(|line| line.contains("\"resolved\"")).collect();
    assert!(findings.is_empty(), "{findings:?}");
}
