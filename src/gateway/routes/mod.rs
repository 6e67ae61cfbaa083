//! Routes, one file per group of endpoints.

mod address_body;
mod certificate_body;
mod certificates;
mod change_password;
mod ciphers;
mod data_objects;
mod derived;
mod exports;
mod files;
mod import_body;
mod imports;
mod key_body;
mod key_facts;
mod key_paths;
mod keys;
mod log;
mod operations;
mod password;
mod policy_body;
mod seeds;
mod service;
mod timestamps;
mod wraps;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::HeaderValue,
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::{MethodRouter, delete, get, post},
};

use super::{
    Shared,
    error::{ApiError, Code},
    extract::RequestId,
    limited,
    openapi::{Document, page},
    unread,
};
use crate::telemetry::metrics::{HttpRequest, Route};

/// What the document says: one line for each file of routes. A route that nobody describes fails a test.
pub fn document(document: &mut Document) {
    service::document(document);
    keys::document(document);
    key_facts::document(document);
    change_password::document(document);
    imports::document(document);
    exports::document(document);
    derived::document(document);
    seeds::document(document);
    log::document(document);
    data_objects::document(document);
    operations::document(document);
    ciphers::document(document);
    wraps::document(document);
    files::document(document);
    timestamps::document(document);
    certificates::document(document);
}

/// Routes, and what their paths are: a router does not tell.
#[derive(Default)]
struct Routes {
    router: Router<Shared>,
    paths: Vec<&'static str>,
}

impl Routes {
    fn route(mut self, path: &'static str, methods: MethodRouter<Shared>) -> Self {
        self.router = self.router.route(path, methods);
        self.paths.push(path);
        self
    }
}

fn routes() -> Routes {
    Routes::default()
        .route("/", get(page::home))
        .route("/swagger-ui", get(page::home))
        .route("/swagger-ui/", get(page::folder))
        .route("/swagger-ui/{file}", get(page::file))
        .route("/v3/api-docs", get(page::document))
        .route("/v3/api-docs/swagger-config", get(page::config))
        .route("/v1/versionInfo", get(service::version))
        .route("/v1/licenseInfo", get(service::license))
        .route("/v1/keystore/statistics", get(service::statistics))
        .route("/v1/generateRandom/{length}", get(service::random))
        .route("/v1/key", post(keys::create).get(keys::list))
        // Keys may be named like these three, and are deleted by that name too.
        .route("/v1/key/attributes", post(keys::attributes).delete(keys::remove))
        .route("/v1/key/deleteKey", post(keys::remove_by_body).delete(keys::remove))
        .route("/v1/key/keyAttestation", post(keys::attestation).delete(keys::remove))
        .route("/v1/key/address", post(key_facts::address).delete(keys::remove))
        .route("/v1/key/changePassword", post(change_password::change_password).delete(keys::remove))
        .route("/v1/key/export/plain", post(exports::export).get(exports::export_of_nothing))
        .route("/v1/key/import/plain", post(imports::import))
        .route(
            "/v1/key/{*name}",
            delete(keys::remove).get(key_paths::get).head(key_paths::other).fallback(key_paths::other),
        )
        .route("/v1/derivedKey", post(derived::derive))
        .route("/v1/derivedkey", post(derived::derive))
        .route("/v1/importedKey", post(seeds::import))
        .route("/v1/hsm/log", get(log::log))
        .route("/v1/hsm/log/{*rest}", get(log::log))
        .route("/v1/attestation", get(service::attestation_chain))
        .route("/v1/attestation/{*rest}", get(service::attestation_chain))
        .route("/v1/dataObject", post(data_objects::create))
        .route("/v1/dataObject/{*name}", get(data_objects::read).delete(data_objects::remove))
        .route("/v1/synchronousSign", post(operations::sign))
        .route("/v1/verify", post(operations::verify))
        .route("/v1/synchronousHmac", post(ciphers::hmac))
        .route("/v1/encrypt", post(ciphers::encrypt))
        .route("/v1/synchronousDecrypt", post(ciphers::decrypt))
        .route("/v1/wrap", post(wraps::wrap))
        .route("/v1/synchronousUnwrap", post(wraps::unwrap))
        .route("/v1/createRfcTimestamp", post(timestamps::create))
        .route("/v1/fileEncrypt", post(files::encrypt))
        .route("/v1/synchronousFileDecrypt", post(files::decrypt))
        .route("/v1/certificate/synchronous/request", post(certificates::request))
        .route("/v1/certificate/synchronous/request/download", post(certificates::request_file))
        .route("/v1/certificate/synchronous/selfsign", post(certificates::self_sign))
        .route("/v1/certificate/synchronous/create/selfSigned", post(certificates::self_sign))
        .route("/v1/certificate/synchronous/sign", post(certificates::issue))
        .route("/v1/certificate/import/plain", post(certificates::import))
        .route("/v1/certificate/{*name}", get(certificates::read).delete(certificates::remove))
}

/// Templates of all paths, as the router has them.
#[must_use]
pub fn paths() -> Vec<&'static str> {
    routes().paths
}

/// Every route of the gateway.
pub fn router(state: Shared) -> Router {
    let routes = routes()
        .router
        .fallback(async |request: Request| {
            ApiError::new(Code::NoRoute, format!("{} is not served", request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| {
            ApiError::new(
                Code::Method,
                format!("{} does not take {}", request.uri().path(), request.method()),
            )
        });
    limited(routes)
        .layer(from_fn_with_state(Arc::clone(&state), observe))
        .layer(from_fn(unread::take))
        .with_state(state)
}

/// Gives every request an id, and counts and times it.
async fn observe(State(state): State<Shared>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id: Arc<str> = uuid::Uuid::now_v7().to_string().into();
    let header = HeaderValue::from_str(&id).expect("a UUID is a header value");
    let method = match *request.method() {
        axum::http::Method::GET => "GET",
        axum::http::Method::POST => "POST",
        axum::http::Method::DELETE => "DELETE",
        _ => "other",
    };
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    let mut response = next.run(request).await;
    response.headers_mut().insert("x-request-id", header);
    let status = response.status().as_u16();
    state.metrics.requests.get_or_create(&HttpRequest { route: route.clone(), method, status }).inc();
    state.metrics.request_duration.get_or_create(&Route { route }).observe(started.elapsed().as_secs_f64());
    tracing::debug!(request_id = %id, status, elapsed_ms = started.elapsed().as_millis(), "answered");
    response
}
