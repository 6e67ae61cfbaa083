//! The REST data plane, router and listener, with a token in memory: what is sent and what is answered.
#![allow(missing_docs, reason = "tests")]

#[path = "gateway/callers.rs"]
mod callers;
#[path = "gateway/ciphers.rs"]
mod ciphers;
#[path = "gateway/certificates.rs"]
mod certificates;
mod common;
#[path = "gateway/contract.rs"]
mod contract;
#[path = "gateway/lifecycle.rs"]
mod lifecycle;
#[path = "gateway/listener.rs"]
mod listener;
#[path = "gateway/operations.rs"]
mod operations;
#[path = "gateway/world.rs"]
mod world;
