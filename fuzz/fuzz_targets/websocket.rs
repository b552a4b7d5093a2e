//! See `src/websocket`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider_fuzz::run("websocket", input));
