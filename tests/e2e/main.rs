//! The whole product on a real cluster with real tokens. `make test` starts the cluster and runs this inside its
//! network; `e2e/test.sh` says with which environment. Tests isolate themselves by namespace and label.

#[path = "../common/mod.rs"]
mod common;

mod caller;
mod certificates;
mod controller;
mod doctor;
mod files;
mod host;
mod http;
mod imports;
mod injection;
mod keys;
mod leader;
mod orphans;
mod partitions;
mod passwords;
mod pods;
mod processes;
mod quiet;
mod recovery;
mod replicas;
mod requests;
mod resilience;
mod rest;
mod rest_operations;
mod samples;
mod secrecy;
mod sessions;
mod smoke;
mod tools;
mod vendor;
mod world;
