//! The REST data plane, router and listener, with a token in memory: what is sent and what is answered.
#![allow(missing_docs, reason = "tests")]

#[path = "gateway/addresses.rs"]
mod addresses;
#[path = "gateway/attested.rs"]
mod attested;
#[path = "gateway/audit.rs"]
mod audit;
#[path = "gateway/bad_input.rs"]
mod bad_input;
#[path = "gateway/browser.rs"]
mod browser;
#[path = "gateway/callers.rs"]
mod callers;
#[path = "gateway/certificates.rs"]
mod certificates;
#[path = "gateway/ciphers.rs"]
mod ciphers;
#[path = "gateway/cluster.rs"]
mod cluster;
mod common;
#[path = "gateway/contexts.rs"]
mod contexts;
#[path = "gateway/contract.rs"]
mod contract;
#[path = "gateway/cut_off.rs"]
mod cut_off;
#[path = "gateway/data_objects.rs"]
mod data_objects;
#[path = "gateway/derivation.rs"]
mod derivation;
#[path = "gateway/files.rs"]
mod files;
#[path = "gateway/fuzz.rs"]
mod fuzz;
#[path = "gateway/imports.rs"]
mod imports;
#[path = "gateway/labels.rs"]
mod labels;
#[path = "gateway/lifecycle.rs"]
mod lifecycle;
#[path = "gateway/listener.rs"]
mod listener;
#[path = "gateway/lone.rs"]
mod lone;
#[path = "gateway/model/mod.rs"]
mod model;
#[path = "gateway/openapi.rs"]
mod openapi;
#[path = "gateway/operations.rs"]
mod operations;
#[path = "gateway/passwords.rs"]
mod passwords;
#[path = "gateway/policies.rs"]
mod policies;
#[path = "gateway/real.rs"]
mod real;
#[path = "gateway/routes.rs"]
mod routes;
#[path = "gateway/secrets.rs"]
mod secrets;
#[path = "gateway/seeds.rs"]
mod seeds;
#[path = "gateway/stateful.rs"]
mod stateful;
#[path = "gateway/swagger_ui.rs"]
mod swagger_ui;
#[path = "gateway/timestamps.rs"]
mod timestamps;
#[path = "gateway/unserved.rs"]
mod unserved;
#[path = "gateway/wire.rs"]
mod wire;
#[path = "gateway/world.rs"]
mod world;
