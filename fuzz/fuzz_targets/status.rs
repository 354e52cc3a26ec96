//! See `agent/src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flowlogd::fuzzing::status(data));
