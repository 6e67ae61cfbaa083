//! hsm-operator: keys in a hardware security module as ordinary Kubernetes objects.
//!
//! Dependencies between the modules point one way:
//! `cli → {controller, gateway, sidecar, inject} → service → {hsm, auth, attestation} → api → model`.
//! `token_host` knows only `hsm::protocol` and `model`; `harden`, `server`, `telemetry` and
//! `watch` know nothing of the domain.

pub mod api;
pub mod attestation;
pub mod auth;
pub mod cli;
pub mod controller;
pub mod gateway;
pub mod harden;
pub mod hsm;
pub mod inject;
pub mod key_material;
pub mod model;
pub mod public_key;
pub mod sealed_file;
pub mod server;
pub mod service;
pub mod sidecar;
pub mod telemetry;
pub mod token_host;
pub mod watch;
