//! The tree's tidiness, as rules that run: sizes, names, words that must not be committed, links that must work.
//!
//! It looks at what git knows (tracked, and new but not ignored), so build products do not count.

mod documents;
mod sources;

use std::fs;
use std::path::Path;
use std::process::Command;

/// The root of the tree.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every file of the tree, relative to its root.
pub(crate) fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .expect("git lists the tree");
    assert!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    // A file that git still lists may be gone from the tree.
    let mut files: Vec<String> =
        names.lines().filter(|name| Path::new(ROOT).join(name).is_file()).map(str::to_owned).collect();
    assert!(files.len() > 20, "git lists only {files:?}");
    files.sort();
    files.dedup();
    files
}

pub(crate) fn read(name: &str) -> Option<String> {
    fs::read(Path::new(ROOT).join(name)).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}

/// Name and text of every Rust source whose name begins so.
pub(crate) fn sources_under(folder: &str) -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|name| name.starts_with(folder) && name.ends_with(".rs"))
        .filter_map(|name| read(&name).map(|text| (name, text)))
        .collect()
}

/// The lines of a source that are code, with their numbers: no comments, and nothing from the tests at its end on.
pub(crate) fn code_lines(text: &str) -> Vec<(usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test"))
        .map(|(at, line)| (at + 1, line.split_once("//").map_or(line, |(code, _)| code)))
        .collect()
}

/// Fails with every finding on a line of its own.
pub(crate) fn none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}
