//! The REST data plane: `router(State) -> Router`, so that tests need no socket.

pub mod error;
pub mod extract;
pub mod partitions;
mod routes;
pub mod watch;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit};
use kube::Client;

use crate::{
    auth::{Authenticate, Authorize},
    service::{directory::Directory, sign::Signer},
    telemetry::Metrics,
};

pub use routes::router;

/// Largest body of a request: a 64 KiB payload in hexadecimal, its metadata and room to spare.
pub const BODY_MAX: usize = 512 * 1024;

/// What the routes work with.
pub struct State {
    /// Who calls.
    pub authenticate: Arc<dyn Authenticate>,
    /// What they may do.
    pub authorize: Arc<dyn Authorize>,
    /// Where keys are.
    pub directory: Arc<Directory>,
    /// Tokens by partition.
    pub partitions: Arc<partitions::Partitions>,
    /// Makes signatures.
    pub signer: Signer,
    /// Writes HsmKey objects; `None` in tests without an API server.
    pub client: Option<Client>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// [`State`] as axum hands it around.
pub type Shared = Arc<State>;

/// Limits on every request, whatever the route.
fn limited(router: Router<Shared>) -> Router<Shared> {
    router.layer(DefaultBodyLimit::max(BODY_MAX))
}
