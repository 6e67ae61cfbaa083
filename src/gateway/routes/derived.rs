//! Keys derived from others: why there are none on this token.
//!
//! Derivation along a path is the vendor's mechanism, and no private key leaves a token for it. Tokens without it are
//! told from keys of which nothing is derived anywhere.

use axum::extract::State;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    keys::{allowed, lookup, usable},
    operations::usage,
    password,
};
use crate::{
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        json::{object, object_or_none},
    },
    model::{
        KeyAlgorithm, KeyLabel, Password, RequestedAttributes, curve,
        derivation::{DerivationPath, DerivedName, InvalidDerivation},
    },
    service::{audit::About, directory::Entry},
};

/// Bytes of a seed: 128 to 512 bits.
const SEED: std::ops::RangeInclusive<usize> = 16..=64;

/// Why there is no key of a name with a slash in it. It is the caller's master key that is looked for; the slash is no
/// way around the answer that it does not exist.
pub async fn refusal(state: &Shared, caller: &auth::Caller, name: &str) -> ApiError {
    let derived = match DerivedName::parse(name) {
        Ok(derived) => derived,
        Err(error) => return bad_name(&error),
    };
    let master = match lookup(state, caller, derived.master.as_str()).await {
        Ok(master) => master,
        Err(error) => return error,
    };
    // What is said of the key is only for who may use or see it.
    let name = master.object.metadata.name.clone().unwrap_or_default();
    if let Err(error) = allowed(state, caller, "use", &name).await
        && allowed(state, caller, "get", &name).await.is_err()
    {
        return error;
    }
    not_derived(&master)
}

fn bad_name(error: &InvalidDerivation) -> ApiError {
    ApiError::new(Code::KeyName, error.to_string())
}

/// Why nothing is derived from a key.
fn not_derived(master: &Entry) -> ApiError {
    let algorithm = match usable(master) {
        Ok(usable) => usable.algorithm,
        Err(error) => return error,
    };
    if !matches!(algorithm, KeyAlgorithm::Ec | KeyAlgorithm::Ed) {
        let message = format!(
            "keys are derived from EC and ED keys only, and '{}' is of type {algorithm}",
            master.label
        );
        return ApiError::new(Code::Derivation, message);
    }
    let message = format!(
        "no key can be derived from '{}': the token of partition {} offers no key derivation along a path",
        master.label, master.object.spec.partition_ref.name
    );
    ApiError::new(Code::Unsupported, message)
}

/// Body of `POST /v1/derivedKey`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeriveBody {
    master_key_label: String,
    master_key_password: Option<Password>,
    derivation_path: String,
    #[serde(rename = "attributes", default, deserialize_with = "object_or_none")]
    _attributes: Option<RequestedAttributes>,
}

/// `POST /v1/derivedKey`.
pub async fn derive(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<DeriveBody>,
) -> ApiError {
    let DeriveBody { master_key_label, master_key_password, derivation_path, _attributes: _ } = body;
    if let Err(error) = DerivedName::parse(&format!("{master_key_label}/{derivation_path}"))
        .and_then(|_| DerivationPath::parse(&derivation_path))
    {
        return bad_name(&error);
    }
    let master = match lookup(&state, &caller, &master_key_label).await {
        Ok(master) => master,
        Err(error) => return error,
    };
    let about = About::Payload(derivation_path.as_bytes());
    let record = usage(&caller, &master, &request_id, "derive", None, about);
    let name = master.object.metadata.name.clone().unwrap_or_default();
    let may = match allowed(&state, &caller, "create", "").await {
        Ok(()) => allowed(&state, &caller, "use", &name).await,
        refused => refused,
    };
    let may = match may {
        Ok(()) => password::check(&state, &master, master_key_password.as_ref()).await,
        refused => refused,
    };
    let error = may.err().unwrap_or_else(|| not_derived(&master));
    record.record(Some(&error.message));
    error
}

/// Body of `POST /v1/importedKey`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeedBody {
    label: String,
    seed: SecretString,
    curve_oid: String,
    #[serde(rename = "attributes", deserialize_with = "object")]
    _attributes: RequestedAttributes,
}

/// `POST /v1/importedKey`: a master key from a seed, which only a token with the vendor's mechanism takes.
pub async fn import_seed(
    State(state): State<Shared>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<SeedBody>,
) -> ApiError {
    match seed_refused(&state, &caller, &body).await {
        Ok(error) | Err(error) => error,
    }
}

async fn seed_refused(state: &Shared, caller: &auth::Caller, body: &SeedBody) -> Result<ApiError, ApiError> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let SeedBody { label, seed, curve_oid, _attributes: _ } = body;
    let label = KeyLabel::new(label).map_err(|error| ApiError::new(Code::KeyName, error.to_string()))?;
    let bytes = STANDARD
        .decode(seed.expose_secret())
        .map(Zeroizing::new)
        .map_err(|_| ApiError::new(Code::Encoding, "The 'seed' is not valid 'base64' encoded."))?;
    if !SEED.contains(&bytes.len()) {
        let message = format!("a seed has 16 to 64 bytes (128 to 512 bits), this one has {}", bytes.len());
        return Err(ApiError::new(Code::Validation, message));
    }
    if curve_oid != curve::ED25519_OID && curve::by_oid(curve_oid).is_none() {
        return Err(ApiError::new(Code::Validation, format!("Unsupported Curve: '{curve_oid}'")));
    }
    allowed(state, caller, "create", "").await?;
    let partition = state.partitions.name_for(&caller.namespace)?;
    if state.directory.claimed(&partition, label.as_str()) {
        return Err(ApiError::new(Code::KeyExists, "Could not create key. The key name is already in use."));
    }
    let message = format!("the token of partition {partition} makes no master key from a seed");
    Ok(ApiError::new(Code::Unsupported, message))
}
