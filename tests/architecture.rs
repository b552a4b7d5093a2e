//! Which crate may know which: docs/ARCHITECTURE.md's arrows, held against what cargo says.
//!
//! A change here is a change of the architecture and needs its reason written down (docs/adr).

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Every crate of the workspace and the crates of the workspace that it may know.
const ARROWS: &[(&str, &[&str])] = &[
    ("postrider-protocol", &[]),
    ("postrider-engine", &["postrider-protocol"]),
    ("postrider-storage", &[]),
    ("postrider-tracks", &[]),
    ("postrider-broker", &["postrider-engine", "postrider-storage", "postrider-protocol"]),
    ("postrider-device-sdk", &["postrider-protocol", "postrider-storage"]),
    ("postrider-device-sdk-c", &["postrider-device-sdk"]),
    ("postrider-gateway", &["postrider-device-sdk"]),
    ("postrider-bridge", &["postrider-device-sdk", "postrider-storage", "postrider-tracks"]),
    ("postrider-firmware-sim", &["postrider-device-sdk", "postrider-tracks"]),
    (
        "postrider",
        &[
            "postrider-broker",
            "postrider-bridge",
            "postrider-device-sdk",
            // The fleet on virtual time runs against the engine itself, on a simulated disk.
            "postrider-engine",
            "postrider-firmware-sim",
            "postrider-protocol",
            "postrider-storage",
            "postrider-tracks",
        ],
    ),
];

/// The crates whose purity is a promise, and everything from outside that they may use: no clock, no socket, no
/// thread, no chance but a seed.
const PURE: &[(&str, &[&str])] = &[
    ("postrider-protocol", &["bytes", "bytestring", "thiserror", "serde", "serde_json", "base64"]),
    (
        "postrider-engine",
        &[
            "bytes",
            "bytestring",
            "thiserror",
            "hashbrown",
            "rustc-hash",
            "siphasher",
            "slab",
            "smallvec",
            "fastrand",
            "serde",
            "serde_json",
        ],
    ),
    ("postrider-tracks", &["thiserror", "serde", "serde_json", "rstar"]),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata reads this workspace")
}

/// The names of what a package needs to be built and run; tests may know more.
fn dependencies(package: &Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
        .collect()
}

#[test]
fn every_crate_has_its_row_and_every_row_its_crate() {
    let metadata = metadata();
    let there: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let listed: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(there, listed);
}

#[test]
fn crates_know_only_what_the_arrows_allow() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        for name in dependencies(package) {
            let inside = allowed.contains_key(name);
            if inside && !allowed.get(package.name.as_str()).is_some_and(|row| row.contains(&name)) {
                wrong.push(format!("{} -> {name}", package.name));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that are not in the table: {wrong:?}");
}

#[test]
fn pure_crates_use_only_what_keeps_them_pure() {
    let metadata = metadata();
    let inside: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for (crate_name, external) in PURE {
        let package = metadata.packages.iter().find(|p| p.name.as_str() == *crate_name);
        for name in dependencies(package.expect("a crate of the workspace")) {
            if !inside.contains(name) && !external.contains(&name) {
                wrong.push(format!("{crate_name} -> {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "a pure crate uses a crate that is not in the table: {wrong:?}");
}

/// What sources of the pure crates must not name.
const IMPURE: &[&str] =
    &["std::net", "std::fs", "std::thread", "std::env", "Instant::now", "SystemTime", "tokio"];

#[test]
fn pure_crates_have_no_clock_socket_file_or_thread() {
    let mut wrong = Vec::new();
    for folder in ["protocol/src", "engine/src", "tracks/src"] {
        for (path, text) in crate::tidy::sources_under(folder) {
            for (number, line) in crate::tidy::code_lines(&text) {
                for word in IMPURE {
                    if line.contains(word) {
                        wrong.push(format!("{path}:{number}: {word}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
