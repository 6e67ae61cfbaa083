//! Keys that leave a token, and come to it, encrypted by another key.

use axum::{Json, extract::State, http::StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    import_body::no_master,
    imports::{Arrival, Public},
    key_body::{NewKey, SignedKeyAttributes},
    keys::{allowed, lookup, usable, usable_public},
    operations::{may_use, usage},
    password, policy_body,
};
use crate::{
    api::key::Source,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        json,
        openapi::Document,
    },
    hsm::{
        import::{Origin, Wrap, Wrapped},
        protocol::{Reply, Request},
    },
    model::{KeyLabel, KeyPolicy, Password, RequestedAttributes, WrapMethod},
    service::{
        audit::About,
        directory::{Entry, Usable},
        sign::unexpected,
    },
};

/// Most bytes of a wrapped key: those of RSA-8192 in PKCS #8 are half as many.
const WRAPPED_MAX: usize = 16 * 1024;

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Synchronous Key Operations");
    let wrap = document.post("/v1/wrap", "wrap", "Wraps a key by another one");
    wrap.takes::<WrapBody>().gives::<WrapAnswer>(200, "the wrapped key").of_a_name().of_the_token();
    let unwrap =
        document.post("/v1/synchronousUnwrap", "synchronousUnwrap", "Brings a wrapped key to the token");
    unwrap.takes::<UnwrapBody>().gives::<SignedKeyAttributes>(201, "the key").of_a_name().of_the_token();
}

/// Body of `POST /v1/wrap`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WrapBody {
    #[serde(deserialize_with = "json::object")]
    wrap_key_request: WrapKeyRequest,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WrapKeyRequest {
    key_to_be_wrapped: String,
    key_to_be_wrapped_password: Option<Password>,
    wrap_key_name: String,
    wrap_key_password: Option<Password>,
    wrap_method: WrapMethod,
}

/// Answer of `POST /v1/wrap`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WrapAnswer {
    #[schemars(extend("contentEncoding" = "base64"))]
    wrapped_key: String,
}

/// `POST /v1/wrap`: by the token. Whoever has the other key has the wrapped one, so wrapping it is taking it out.
pub async fn wrap(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<WrapBody>,
) -> Result<Json<WrapAnswer>, ApiError> {
    let request = body.wrap_key_request;
    let method = request.wrap_method;
    let by = lookup(&state, &caller, &request.wrap_key_name).await?;
    let of = lookup(&state, &caller, &request.key_to_be_wrapped).await?;
    let name = Some(method.name());
    let using = usage(&caller, &by, &request_id, "wrap", name, About::Nothing);
    let leaving = usage(&caller, &of, &request_id, "export", name, About::Nothing);
    may_use(&state, &caller, &by, &using).await?;
    let may = allowed(&state, &caller, "export", &of.object.name_any()).await;
    may.inspect_err(|denied| {
        using.record(Some(&denied.message));
        leaving.record(Some(&denied.message));
    })?;
    password::unlock(&state, &by, request.wrap_key_password.as_ref(), &using).await?;
    password::unlock(&state, &of, request.key_to_be_wrapped_password.as_ref(), &leaving).await?;
    let checked = || {
        let (by_key, of_key) = (usable_public(&by)?, usable(&of)?);
        fits(&by, by_key, method)?;
        let row = method.row();
        if of_key.algorithm != row.of {
            let message =
                format!("{method} wraps {} keys, and '{}' is of type {}", row.of, of.label, of_key.algorithm);
            return Err(ApiError::new(Code::AlgorithmNotSupportedByKey, message));
        }
        if by_key.partition != of_key.partition {
            let message = format!(
                "'{}' is on partition {} and '{}' on {}: a key is wrapped by one of the same partition",
                by.label, by_key.partition, of.label, of_key.partition
            );
            return Err(ApiError::new(Code::Unsupported, message));
        }
        let attributes = of.object.status.as_ref().and_then(|status| status.attributes.as_ref());
        if attributes.and_then(|known| known.extractable) != Some(true) {
            let message = format!("the key '{}' does not leave its token: it is not extractable", of.label);
            return Err(ApiError::new(Code::Forbidden, message));
        }
        let hsm = state.partitions.hsm(&by_key.partition)?;
        let alone = by_key.public.as_ref().filter(|_| by_key.public_only);
        let alone = alone.map(|public| Bytes::copy_from_slice(public.spki()));
        Ok((hsm, Wrap { by: by_key.id.clone(), key: of_key.id.clone(), method, alone }))
    };
    let (hsm, job) = checked().inspect_err(|error: &ApiError| {
        using.record(Some(&error.message));
        leaving.record(Some(&error.message));
    })?;
    using.record(None);
    leaving.record(None);
    match hsm.call(Request::Wrap(job)).await {
        Ok(Reply::Wrapped(wrapped)) => Ok(Json(WrapAnswer { wrapped_key: STANDARD.encode(wrapped) })),
        Ok(other) => Err(unexpected(&other).into()),
        Err(error) => {
            // Which of both is not there, the controller finds out.
            for entry in [&by, &of] {
                state.missed.note(state.client.as_ref(), entry, &error);
            }
            Err(error.into())
        }
    }
}

/// Whether a key wraps and unwraps so.
fn fits(entry: &Entry, key: &Usable, method: WrapMethod) -> Result<(), ApiError> {
    let by = method.row().by;
    if key.algorithm == by {
        return Ok(());
    }
    let message = format!("{method} needs an {by} key, and '{}' is of type {}", entry.label, key.algorithm);
    Err(ApiError::new(Code::AlgorithmNotSupportedByKey, message))
}

/// Body of `POST /v1/synchronousUnwrap`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnwrapBody {
    #[serde(deserialize_with = "json::object")]
    unwrap_key_request: UnwrapKeyRequest,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UnwrapKeyRequest {
    #[schemars(extend("contentEncoding" = "base64"))]
    wrapped_key: String,
    label: String,
    #[serde(deserialize_with = "json::object")]
    attributes: RequestedAttributes,
    unwrap_key_name: String,
    unwrap_key_password: Option<Password>,
    wrap_method: WrapMethod,
    signed_approvals: Option<Vec<String>>,
    #[schemars(with = "Option<KeyPolicy>")]
    policy: Option<serde_json::Value>,
}

/// `POST /v1/synchronousUnwrap`: by the token, which then has a new key.
pub async fn unwrap(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<UnwrapBody>,
) -> Result<(StatusCode, Json<SignedKeyAttributes>), ApiError> {
    let request = body.unwrap_key_request;
    let method = request.wrap_method;
    let label =
        KeyLabel::new(request.label).map_err(|error| ApiError::new(Code::KeyName, error.to_string()))?;
    let bad = || ApiError::new(Code::Encoding, "The 'wrappedKey' is not valid 'base64' encoded.");
    let data = STANDARD.decode(&request.wrapped_key).map_err(|_| bad())?;
    if !(1..=WRAPPED_MAX).contains(&data.len()) {
        let message = format!("the 'wrappedKey' has {} bytes; 1 to {WRAPPED_MAX} are taken", data.len());
        return Err(ApiError::new(Code::Payload, message));
    }
    if request.signed_approvals.is_some_and(|approvals| !approvals.is_empty()) {
        return Err(ApiError::new(Code::Unsupported, "signedApprovals are not served yet"));
    }
    let algorithm = method.row().of;
    if !algorithm.row().asymmetric && request.policy.as_ref().is_some_and(|policy| !policy.is_null()) {
        // As the contract has it, and not as where keys are made.
        return Err(ApiError::new(Code::Hsm, "Error unwrapping key: a symmetric key has no policy"));
    }
    no_master(&request.attributes)?;
    let policy = policy_body::read(request.policy.as_ref(), label.as_str(), algorithm, &request.attributes)?;
    let by = lookup(&state, &caller, &request.unwrap_key_name).await?;
    let record = usage(&caller, &by, &request_id, "unwrap", Some(method.name()), About::Ciphertext(&data));
    may_use(&state, &caller, &by, &record).await?;
    password::unlock(&state, &by, request.unwrap_key_password.as_ref(), &record).await?;
    let key = usable(&by)?;
    fits(&by, key, method)?;
    // Size and curve are inside.
    let new = NewKey {
        label,
        algorithm,
        key_size: None,
        curve_oid: None,
        attributes: request.attributes,
        policy,
        address_format: None,
        password: None,
        source: Source::Imported,
        derived_from: None,
        master: false,
    };
    let what = Arrival { operation: "unwrap", method: Some(method.name()), new, certificate: None };
    what.may_create(&state, &caller, &request_id).await?;
    let own = state.partitions.name_for(&caller.namespace)?;
    if own != key.partition {
        let message = format!(
            "'{}' is on partition {}, and keys of the namespace {} are made on {own}",
            by.label, key.partition, caller.namespace
        );
        return Err(ApiError::new(Code::Unsupported, message));
    }
    let hsm = state.partitions.hsm(&key.partition)?;
    record.record(None);
    let origin = Origin::Wrapped(Wrapped { by: key.id.clone(), method, data: data.clone().into() });
    let answer = what.bring(&state, &caller, &own, hsm, Public::default(), origin).await;
    let answer = answer.map_err(|error| match error.code {
        // Not 608, and not 612: published clients know this one.
        Code::KeyExists | Code::Payload => {
            ApiError::new(Code::Hsm, format!("Error unwrapping key: {}", error.message))
        }
        _ => error,
    })?;
    Ok((StatusCode::CREATED, Json(answer)))
}
