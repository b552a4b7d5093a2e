//! The bodies of the fuzz targets, one file each: `fuzz_targets/` gives them to libFuzzer, `tests/fuzzing/` to
//! proptest.
//!
//! A body takes any bytes. It panics when the code under test is wrong and for no other reason.

mod decode;
mod filters;
#[cfg(not(test))]
mod listener;
mod proxy;
mod session;
mod source;
mod websocket;

// The ordinary tests have the whole broker.
#[cfg(test)]
use broker::fuzzing as parsers;
#[cfg(not(test))]
use listener::fuzzing as parsers;

/// A target: its name, which is also the folder of its seeds, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("decode", decode::run),
    ("filters", filters::run),
    ("proxy", proxy::run),
    ("session", session::run),
    ("websocket", websocket::run),
];

/// Runs `session` with an engine that acknowledges before its record is durable, to see that it is found.
pub fn session_with_early_acks(input: &[u8]) {
    session::run_with(input, true);
}

/// Runs one target by its name.
pub fn run(name: &str, input: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    body(input);
}
