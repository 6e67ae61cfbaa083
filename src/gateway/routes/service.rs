//! Service endpoints: version, licence, statistics, random bytes.

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    attestation::chain,
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
    let length = random_length(&length)?;
    let (name, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    let action = Action { verb: "use", resource: "hsmpartitions", namespace: String::new(), name };
    state.authorize.authorize(&caller, &action).await?;
    match hsm.call(Request::Random(length)).await? {
        Reply::Random(bytes) => Ok(Json(json!({ "random": STANDARD.encode(bytes) }))),
        other => Err(unexpected(&other).into()),
    }
}

/// A number, of whatever size, is out of range or not; anything else is none.
fn random_length(text: &str) -> Result<u32, ApiError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::new(Code::Validation, "the length in the path is not a whole number"));
    }
    match text.parse::<u32>() {
        Ok(length) if (1..=RANDOM_MAX).contains(&length) => Ok(length),
        _ => Err(ApiError::new(Code::Range, format!("the length must be 1 to {RANDOM_MAX} bytes"))),
    }
}

/// `GET /v1/attestation` and every path below it: the certificates that attestations of the namespace's partition end in,
/// leaf first.
pub async fn attestation_chain(
    State(state): State<Shared>,
    Caller(caller): Caller,
) -> Result<Json<Value>, ApiError> {
    let name = state.partitions.name_for(&caller.namespace)?;
    let pem = state.partitions.attestation_chain(&name).ok_or_else(|| {
        ApiError::new(Code::Busy, format!("the attestation key of partition {name} is not made yet"))
    })?;
    let chain = chain::from_pem(&pem).map_err(|error| {
        tracing::error!(
            partition = name,
            error = crate::telemetry::logs::chain(&error),
            "an attestation chain cannot be read"
        );
        ApiError::new(Code::General, "the attestation chain cannot be read")
    })?;
    let chain: Vec<_> = chain.iter().map(|der| STANDARD.encode(der)).collect();
    Ok(Json(json!({ "attestationCertificateChain": chain })))
}
