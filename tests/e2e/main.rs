//! The whole product on a real cluster with real tokens. `make test` starts the cluster and runs this inside its
//! network; `e2e/test.sh` says with which environment. Tests isolate themselves by namespace and label.

mod controller;
mod host;
mod keys;
mod leader;
mod partitions;
mod quiet;
mod requests;
mod samples;
mod smoke;
mod tools;
mod world;
