#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate::testing::fuzz::read("client_frame", bytes));
