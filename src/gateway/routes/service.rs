//! Service endpoints: version, licence, statistics, random bytes.

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    attestation::chain,
    auth::Action,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, PathName},
        openapi::Document,
    },
    hsm::protocol::{Reply, Request},
    service::sign::unexpected,
};

/// Most random bytes in one answer.
const RANDOM_MAX: u32 = 64 * 1024;

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Service Information");
    let version = document.get("/v1/versionInfo", "versionInfo", "Version of the gateway");
    version.gives::<Version>(200, "the version");
    let license = document.get("/v1/licenseInfo", "licenseInfo", "What is served, in the contract's flags");
    license.gives::<License>(200, "the flags");
    let statistics = document.get("/v1/keystore/statistics", "keyStoreStatistics", "Health check");
    statistics.gives::<Statistics>(200, "a text for people").of_the_token();
    let random = document.get("/v1/generateRandom/{length}", "generateRandom", "Random bytes of the token");
    random.number(1, RANDOM_MAX).gives::<Random>(200, "the bytes").of_the_token();
    for (path, id) in [
        ("/v1/attestation", "getAttestationCertificateChain"),
        ("/v1/attestation/{path}", "getAttestationCertificateChain_1"),
    ] {
        let chain = document.get(path, id, "Certificates in which attestations end");
        chain.gives::<AttestationChain>(200, "the certificates, leaf first").of_the_token();
    }
}

/// Answer of `GET /v1/versionInfo`.
#[derive(Serialize, JsonSchema)]
pub struct Version {
    #[serde(rename = "Version")]
    version: &'static str,
}

/// `GET /v1/versionInfo`.
pub async fn version(_: Caller) -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// Answer of `GET /v1/licenseInfo`; strict clients refuse a further member.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct License {
    client_flags: &'static [&'static str],
}

/// `GET /v1/licenseInfo`: what is served, in the contract's flags. Strict clients take this one member only.
pub async fn license(_: Caller) -> Json<License> {
    Json(License { client_flags: &["REST_API"] })
}

/// Answer of `GET /v1/keystore/statistics`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    key_store_statistics: String,
}

/// `GET /v1/keystore/statistics`: the health check of most clients; a text for people.
pub async fn statistics(
    State(state): State<Shared>,
    Caller(caller): Caller,
) -> Result<Json<Statistics>, ApiError> {
    let (name, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    let token = hsm.token().ok_or_else(|| {
        ApiError::new(Code::Busy, format!("the token of partition {name} was not reached yet"))
    })?;
    let keys = state.directory.labels(&caller.namespace).len();
    let key_store_statistics = format!(
        "partition: {name}, token: {}, manufacturer: {}, model: {}, keys of namespace {}: {keys}",
        token.label, token.manufacturer, token.model, caller.namespace
    );
    Ok(Json(Statistics { key_store_statistics }))
}

/// Answer of `GET /v1/generateRandom/{length}`.
#[derive(Serialize, JsonSchema)]
pub struct Random {
    #[schemars(extend("contentEncoding" = "base64"))]
    random: String,
}

/// `GET /v1/generateRandom/{length}`.
pub async fn random(
    State(state): State<Shared>,
    Caller(caller): Caller,
    PathName(length): PathName,
) -> Result<Json<Random>, ApiError> {
    let length = random_length(&length)?;
    let (name, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    let action = Action { verb: "use", resource: "hsmpartitions", namespace: String::new(), name };
    state.authorize.authorize(&caller, &action).await?;
    match hsm.call(Request::Random(length)).await? {
        Reply::Random(bytes) => Ok(Json(Random { random: STANDARD.encode(bytes) })),
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

/// Answer of `GET /v1/attestation`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttestationChain {
    attestation_certificate_chain: Vec<String>,
}

/// `GET /v1/attestation` and every path below it: the certificates that attestations of the namespace's partition end in,
/// leaf first.
pub async fn attestation_chain(
    State(state): State<Shared>,
    Caller(caller): Caller,
) -> Result<Json<AttestationChain>, ApiError> {
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
    let attestation_certificate_chain = chain.iter().map(|der| STANDARD.encode(der)).collect();
    Ok(Json(AttestationChain { attestation_certificate_chain }))
}
