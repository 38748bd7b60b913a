//! Searches for bytes that [`dynamo_fuzz::frames`] does not bear.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dynamo_fuzz::frames(bytes));
