//! The REST data plane: `router(State) -> Router`, so that tests need no socket.

pub mod error;
pub mod extract;
mod form;
pub mod json;
pub mod missed;
pub mod openapi;
pub mod partitions;
mod routes;
mod unread;
mod upload;
pub mod watch;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    response::{IntoResponse, Response},
};
use kube::Client;
use tower_http::catch_panic::CatchPanicLayer;

use self::error::{ApiError, Code};

use crate::{
    auth::{Authenticate, Authorize},
    service::{derive::Derived, directory::Directory, files::Files, password::Known, sign::Signer},
    telemetry::Metrics,
};

pub use routes::{paths, router};

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
    /// Passwords of keys.
    pub passwords: Arc<Known>,
    /// What is allowed with files.
    pub files: Files,
    /// Keys that are derived for a moment.
    pub derived: Derived,
    /// Keys that are not where their objects say.
    pub missed: missed::Missed,
    /// Writes HsmKey objects; `None` in tests without an API server.
    pub client: Option<Client>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// [`State`] as axum hands it around.
pub type Shared = Arc<State>;

/// Limits on every request, whatever the route. A panic is one request's end and not its connection's.
fn limited(router: Router<Shared>) -> Router<Shared> {
    router.layer(DefaultBodyLimit::max(BODY_MAX)).layer(CatchPanicLayer::custom(panicked))
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::new(Code::General, "the gateway made a mistake; its log says more").into_response()
}
