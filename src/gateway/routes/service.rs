//! Service endpoints: version, licence, statistics, random bytes.

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    auth::Action,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, PathName},
    },
    hsm::protocol::{Reply, Request},
    service::sign::unexpected,
};

/// Most random bytes in one answer.
const RANDOM_MAX: u32 = 64 * 1024;

/// `GET /v1/versionInfo`.
pub async fn version(_: Caller) -> Json<Value> {
    Json(json!({ "Version": env!("CARGO_PKG_VERSION") }))
}

/// `GET /v1/licenseInfo`: what is served, in the contract's flags. Strict clients take this one member only.
pub async fn license(_: Caller) -> Json<Value> {
    Json(json!({ "clientFlags": ["REST_API"] }))
}

/// `GET /v1/keystore/statistics`: the health check of most clients; a text for people.
pub async fn statistics(
    State(state): State<Shared>,
    Caller(caller): Caller,
) -> Result<Json<Value>, ApiError> {
    let (name, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    let token = hsm.token().ok_or_else(|| {
        ApiError::new(Code::Busy, format!("the token of partition {name} was not reached yet"))
    })?;
    let keys = state.directory.labels(&caller.namespace).len();
    let text = format!(
        "partition: {name}, token: {}, manufacturer: {}, model: {}, keys of namespace {}: {keys}",
        token.label, token.manufacturer, token.model, caller.namespace
    );
    Ok(Json(json!({ "keyStoreStatistics": text })))
}

/// `GET /v1/generateRandom/{length}`.
pub async fn random(
    State(state): State<Shared>,
    Caller(caller): Caller,
    PathName(length): PathName,
) -> Result<Json<Value>, ApiError> {
    let length = match length.parse::<u32>() {
        Ok(length) if (1..=RANDOM_MAX).contains(&length) => length,
        _ => return Err(ApiError::new(Code::Range, format!("the length must be 1 to {RANDOM_MAX} bytes"))),
    };
    let (name, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    let action = Action { verb: "use", resource: "hsmpartitions", namespace: String::new(), name };
    state.authorize.authorize(&caller, &action).await?;
    match hsm.call(Request::Random(length)).await? {
        Reply::Random(bytes) => Ok(Json(json!({ "random": STANDARD.encode(bytes) }))),
        other => Err(unexpected(&other).into()),
    }
}
