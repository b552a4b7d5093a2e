//! See `src/session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::run("session", input));
