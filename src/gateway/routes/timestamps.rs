//! Timestamps.

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{keys::usable, password};
use crate::{
    auth::Action,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        openapi::Document,
    },
    model::payload::PAYLOAD_MAX,
    service::{
        audit::{About, Use},
        certificate::attached::attached,
        sign::SignError,
        timestamp::{self, Authority, TimestampError},
    },
};

/// What the document says of this endpoint.
pub fn document(document: &mut Document) {
    document.group("Timestamps");
    let create = document.post("/v1/createRfcTimestamp", "createRfcTimestamp", "A timestamp by RFC 3161");
    create.takes::<Body>().gives::<Answer>(200, "the timestamp").of_a_name().of_the_token();
}

/// Body of `POST /v1/createRfcTimestamp`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "TimestampBody")]
pub struct Body {
    /// At most 64 KiB.
    #[schemars(extend("contentEncoding" = "base64"))]
    payload: String,
    /// `SHA256`, `SHA384` or `SHA512`.
    hash_algorithm: String,
}

/// Its answer.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TimestampAnswer")]
pub struct Answer {
    /// The TimeStampToken.
    #[schemars(extend("contentEncoding" = "base64"))]
    timestamp: String,
}

/// `POST /v1/createRfcTimestamp`: by the key that the partition of the namespace names.
pub async fn create(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Answer>, ApiError> {
    let payload = STANDARD
        .decode(&body.payload)
        .map_err(|_| ApiError::new(Code::Encoding, "The 'payload' is not valid 'base64' encoded."))?;
    if payload.len() > PAYLOAD_MAX {
        let message =
            format!("the 'payload' has {} bytes and at most {PAYLOAD_MAX} are taken", payload.len());
        return Err(ApiError::new(Code::Payload, message));
    }
    let hash = timestamp::hash(&body.hash_algorithm).ok_or_else(|| {
        ApiError::new(Code::Validation, "the 'hashAlgorithm' must be SHA256, SHA384 or SHA512")
    })?;
    let partition = state.partitions.name_for(&caller.namespace)?;
    let settings = state.partitions.object(&partition).and_then(|object| object.spec.timestamp.clone());
    let settings = settings.ok_or_else(|| {
        let message = format!("no timestamps are made: the HsmPartition {partition} has no spec.timestamp");
        ApiError::new(Code::Unsupported, message)
    })?;
    let (namespace, name) = (&settings.key_ref.namespace, &settings.key_ref.name);
    let entry = state.directory.by_name(namespace, name);
    // The permission first: of keys in other namespaces nobody learns whether they are there.
    let record = Use {
        caller: &caller.username,
        namespace,
        key: entry.as_ref().map_or(name, |entry| &entry.label),
        operation: "createRfcTimestamp",
        algorithm: None,
        about: About::Payload(&payload),
        request_id: &request_id,
    };
    let action =
        Action { verb: "use", resource: "hsmkeys", namespace: namespace.clone(), name: name.clone() };
    let allowed = state.authorize.authorize(&caller, &action).await.map_err(ApiError::from);
    allowed.inspect_err(|denied| record.record(Some(&denied.message)))?;
    let entry = entry.as_ref().ok_or_else(|| {
        let message =
            format!("the timestamp key {namespace}/{name} of HsmPartition {partition} does not exist");
        ApiError::new(Code::NoKey, message)
    })?;
    // Nobody gives one here.
    password::unlock(&state, entry, None, &record).await?;
    let key = usable(entry)?;
    let public = key.public.as_deref();
    let chain = public.map(|public| attached(&entry.object, public)).transpose()?.flatten();
    let chain = chain.ok_or_else(|| {
        let message = format!("the timestamp key {namespace}/{name} has no certificate");
        ApiError::new(Code::Certificate, message)
    })?;
    let now = Timestamp::now();
    let accuracy = u32::try_from(settings.accuracy_seconds).unwrap_or(1);
    let authority = Authority::new(key, chain, &settings.policy, accuracy, now)?;
    let hsm = state.partitions.hsm(&key.partition)?;
    Use { algorithm: Some(authority.algorithm()), ..record }.record(None);
    let stamped = authority.stamp(&state.signer, hsm.as_ref(), key, hash, &payload, now).await;
    let token = stamped.inspect_err(|error| {
        if let TimestampError::Sign(SignError::Hsm(error)) = error {
            state.missed.note(state.client.as_ref(), entry, error);
        }
    })?;
    Ok(Json(Answer { timestamp: STANDARD.encode(token) }))
}

impl From<TimestampError> for ApiError {
    fn from(error: TimestampError) -> Self {
        let code = match error {
            TimestampError::Sign(error) => return error.into(),
            TimestampError::Unfit(_) => Code::Certificate,
            TimestampError::Policy(_) => Code::Unsupported,
            TimestampError::Encode(_) | TimestampError::Random => Code::General,
        };
        Self::new(code, error.to_string())
    }
}
