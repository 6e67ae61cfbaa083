//! Synchronous operations: sign and verify.

use std::sync::Arc;

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        json::{object, object_or_none},
        openapi::Document,
    },
    model::{
        Password, SignatureAlgorithm, SignatureType, bip340,
        context::{self, InvalidContext},
        payload::{InvalidPayload, PayloadType},
    },
    public_key::VerifyError,
    service::{
        audit::{About, Use},
        directory::Entry,
        sign::{Job, SignError},
    },
};

use super::{
    ciphers::{VerifyHmacRequest, verify_hmac},
    derived::{self, Key},
    keys::allowed,
    password,
};

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Synchronous Key Operations");
    let sign = document.post("/v1/synchronousSign", "synchronousSign", "Signs a payload");
    sign.takes::<SignBody>().gives::<SignAnswer>(200, "the signature").of_a_name().of_the_token();
    let verify = document.post("/v1/verify", "verifySignature", "Verifies a signature, or an HMAC");
    verify.takes::<VerifyBody>().gives::<VerifyAnswer>(200, "whether it is right").of_a_name().of_the_token();
}

/// Body of `POST /v1/synchronousSign`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignBody {
    #[serde(deserialize_with = "object")]
    sign_request: SignRequest,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SignRequest {
    /// Base64, or hexadecimal where `payloadType` says so; at most 64 KiB.
    payload: String,
    payload_type: Option<PayloadType>,
    sign_key_name: String,
    key_password: Option<Password>,
    signature_algorithm: SignatureAlgorithm,
    signature_type: Option<SignatureType>,
    signed_approvals: Option<Vec<String>>,
    /// Context of an ML-DSA or SLH-DSA signature, at most 255 bytes.
    #[schemars(extend("contentEncoding" = "base64"))]
    context: Option<String>,
    /// Of BIP-340, 32 bytes; not served.
    #[schemars(extend("contentEncoding" = "base64"))]
    auxiliary_random_data: Option<String>,
    /// Of BIP-340, 32 bytes; not served. Excludes `merkleRootData`.
    #[schemars(extend("contentEncoding" = "base64"))]
    taproot_tweak_data: Option<String>,
    /// Of BIP-340, 32 bytes or none; not served. Excludes `taprootTweakData`.
    #[schemars(extend("contentEncoding" = "base64"))]
    merkle_root_data: Option<String>,
}

impl SignRequest {
    /// Whether a signature of BIP-340 can be made with what is asked for.
    fn check_parameters(&self) -> Result<(), ApiError> {
        if !matches!(self.signature_algorithm, SignatureAlgorithm::NoneWithEcSchnorrBip0340) {
            return Ok(());
        }
        let texts = bip340::Texts {
            auxiliary: self.auxiliary_random_data.as_deref(),
            tweak: self.taproot_tweak_data.as_deref(),
            root: self.merkle_root_data.as_deref(),
        };
        bip340::check(texts).map_err(|refused| {
            let code = match refused {
                bip340::Refused::Base64(_) => Code::Encoding,
                bip340::Refused::Length { .. } => Code::Payload,
                bip340::Refused::Both => Code::Validation,
                bip340::Refused::Tweak(_) | bip340::Refused::Auxiliary => Code::Unsupported,
            };
            ApiError::new(code, refused.to_string())
        })
    }
}

/// Answer of `POST /v1/synchronousSign`; strict clients refuse a further member.
#[derive(Serialize, JsonSchema)]
pub struct SignAnswer {
    #[schemars(extend("contentEncoding" = "base64"))]
    signature: String,
}

/// `POST /v1/synchronousSign`.
pub async fn sign(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<SignBody>,
) -> Result<Json<SignAnswer>, ApiError> {
    let request = body.sign_request;
    let payload = request.payload_type.unwrap_or_default().decode(&request.payload).map_err(bad_payload)?;
    if request.signed_approvals.as_ref().is_some_and(|approvals| !approvals.is_empty()) {
        return Err(ApiError::new(Code::Unsupported, "signedApprovals are not served yet"));
    }
    let context = context::decode(request.context.as_deref()).map_err(bad_context)?;
    request.check_parameters()?;
    let named = derived::named(&state, &caller, &request.sign_key_name).await?;
    let entry = &named.entry;
    let (algorithm, about) = (Some(request.signature_algorithm.name()), About::Payload(&payload));
    let record = usage(&caller, entry, &request_id, "sign", algorithm, about);
    may_use(&state, &caller, entry, &record).await?;
    password::unlock(&state, entry, request.key_password.as_ref(), &record).await?;
    let Key { usable, path } = named.signer(&state).await?;
    let (hsm, verify) = state.partitions.to_sign_with(&usable.partition)?;
    record.record(None);
    let job = Job {
        algorithm: request.signature_algorithm,
        form: request.signature_type.unwrap_or_default(),
        payload: payload.clone().into(),
        context: context.into(),
        verify,
    };
    let signed = state.signer.sign_at(hsm.as_ref(), &usable, path, job).await;
    let signature = signed.inspect_err(|error| {
        if let SignError::Hsm(error) = error {
            state.missed.note(state.client.as_ref(), entry, error);
        }
    })?;
    Ok(Json(SignAnswer { signature: STANDARD.encode(signature) }))
}

/// Body of `POST /v1/verify`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyBody {
    #[serde(default, deserialize_with = "object_or_none")]
    verify_signature_request: Option<VerifyRequest>,
    #[serde(default, deserialize_with = "object_or_none")]
    verify_hmac_request: Option<VerifyHmacRequest>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct VerifyRequest {
    sign_key_name: String,
    signature_algorithm: SignatureAlgorithm,
    #[schemars(extend("contentEncoding" = "base64"))]
    payload: String,
    #[schemars(extend("contentEncoding" = "base64"))]
    signature: String,
    master_key_password: Option<Password>,
    /// Context of an ML-DSA or SLH-DSA signature, at most 255 bytes.
    #[schemars(extend("contentEncoding" = "base64"))]
    context: Option<String>,
}

/// Answer of `POST /v1/verify`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyAnswer {
    pub(super) signature_valid: bool,
}

/// `POST /v1/verify`: done with the public key, outside the token; an HMAC by the token.
pub async fn verify(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<VerifyBody>,
) -> Result<Json<VerifyAnswer>, ApiError> {
    let Some(request) = body.verify_signature_request else {
        return Err(match body.verify_hmac_request {
            Some(request) => return verify_hmac(&state, &caller, &request_id, request).await.map(Json),
            None => {
                ApiError::new(Code::Validation, "verifySignatureRequest and verifyHmacRequest are missing")
            }
        });
    };
    let payload = PayloadType::Unspecified.decode(&request.payload).map_err(bad_payload)?;
    let signature = STANDARD
        .decode(&request.signature)
        .map_err(|_| ApiError::new(Code::Encoding, "The 'signature' is not valid 'base64' encoded."))?;
    let context = context::decode(request.context.as_deref()).map_err(bad_context)?;
    let named = derived::named(&state, &caller, &request.sign_key_name).await?;
    let entry = &named.entry;
    let (algorithm, about) = (Some(request.signature_algorithm.name()), About::Payload(&payload));
    let record = usage(&caller, entry, &request_id, "verify", algorithm, about);
    may_use(&state, &caller, entry, &record).await?;
    let shown = named.unlock_to_verify(&state, request.master_key_password.as_ref()).await;
    shown.inspect_err(|refused| record.record(Some(&refused.message)))?;
    let Key { usable, .. } = named.key(&state).await?;
    if usable.public_only && entry.object.spec.attributes.verify == Some(false) {
        let message = format!("the key '{}' does not verify: its attribute verify is false", entry.label);
        record.record(Some(&message));
        return Err(ApiError::new(Code::Forbidden, message));
    }
    record.record(None);
    let public = usable.public.as_ref().ok_or_else(|| {
        let never = !usable.algorithm.row().asymmetric;
        ApiError::new(
            if never { Code::AlgorithmNotSupportedByKey } else { Code::KeyType },
            format!("the {} key '{}' has no public half", usable.algorithm, entry.label),
        )
    })?;
    let public = Arc::clone(public);
    let answer = public.verify_in_context(request.signature_algorithm, &context, &payload, &signature);
    answer.map(|signature_valid| Json(VerifyAnswer { signature_valid })).map_err(|error| {
        let code = match &error {
            VerifyError::Mismatch { .. } | VerifyError::Context(_) => Code::AlgorithmNotSupportedByKey,
            VerifyError::DigestLength(_) => Code::Payload,
            VerifyError::Unsupported(_) => Code::Unsupported,
        };
        ApiError::new(code, error.to_string())
    })
}

/// What is recorded of a use of a caller's key.
pub fn usage<'a>(
    caller: &'a auth::Caller,
    entry: &'a Entry,
    request_id: &'a str,
    operation: &'static str,
    algorithm: Option<&'static str>,
    about: About<'a>,
) -> Use<'a> {
    Use {
        caller: &caller.username,
        namespace: &caller.namespace,
        key: &entry.label,
        operation,
        algorithm,
        about,
        request_id,
    }
}

/// Checks verb `use` on the key; a refusal is recorded here, a use where it happens.
pub async fn may_use(
    state: &Shared,
    caller: &auth::Caller,
    entry: &Entry,
    record: &Use<'_>,
) -> Result<(), ApiError> {
    let decision = allowed(state, caller, "use", &entry.object.name_any()).await;
    decision.inspect_err(|denied| record.record(Some(&denied.message)))
}

fn bad_context(error: InvalidContext) -> ApiError {
    let code = match error {
        InvalidContext::Base64 => Code::Encoding,
        InvalidContext::TooLong(_) => Code::Payload,
    };
    ApiError::new(code, error.to_string())
}

fn bad_payload(error: InvalidPayload) -> ApiError {
    let code = match &error {
        InvalidPayload::TooLarge(_) => Code::Payload,
        InvalidPayload::Base64 | InvalidPayload::HexLength | InvalidPayload::HexDigits => Code::Encoding,
    };
    ApiError::new(code, error.to_string())
}
