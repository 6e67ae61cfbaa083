#![no_main]
#[path = "../shared.rs"]
mod shared;
use shared::world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::run("private_key", data));
