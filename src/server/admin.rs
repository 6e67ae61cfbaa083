//! The admin port: `/livez`, `/readyz`, `/metrics`.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// Says whether the process can do its job now: `Err` carries what is missing.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The admin routes.
pub fn router(ready: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route(
            "/readyz",
            get(move || {
                let state = ready();
                async move {
                    match state {
                        Ok(()) => (StatusCode::OK, "ok".to_owned()).into_response(),
                        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing).into_response(),
                    }
                }
            }),
        )
        .route("/metrics", get(move || async move { metrics.text() }))
}

/// Serves the admin routes until `end`.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, router: Router, end: CancellationToken) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned()).await
}
