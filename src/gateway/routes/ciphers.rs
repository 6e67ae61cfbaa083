//! Encrypt, decrypt, and HMAC.

use axum::{Json, extract::State};
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    keys::{lookup, usable, usable_public},
    operations::{VerifyAnswer, may_use, usage},
    password,
};
use crate::{
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        json,
        openapi::Document,
    },
    model::{CipherAlgorithm, Password, payload::PAYLOAD_MAX, secret::Plaintext},
    service::{
        audit::About,
        cipher::{self, CipherError, Known, ToDecrypt, ToEncrypt},
        directory::Entry,
    },
};

/// What padding and tag may add to a payload; the largest modulus is far below it.
const SEALED_MAX: usize = PAYLOAD_MAX + 64;
/// Name of the algorithm in audit records.
const HMAC: &str = "HMACSHA256";

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Synchronous Key Operations");
    let encrypt = document.post("/v1/encrypt", "encrypt", "Encrypts a payload");
    encrypt.takes::<EncryptBody>().gives::<EncryptAnswer>(200, "the ciphertext").of_a_name().of_the_token();
    let decrypt = document.post("/v1/synchronousDecrypt", "synchronousDecrypt", "Decrypts a payload");
    decrypt.takes::<DecryptBody>().gives::<DecryptAnswer>(200, "the plaintext").of_a_name().of_the_token();
    let hmac = document.post("/v1/synchronousHmac", "hmac", "Makes an HMAC");
    hmac.takes::<HmacBody>().gives::<HmacAnswer>(200, "the HMAC").of_a_name().of_the_token();
}

/// Body of `POST /v1/encrypt`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptBody {
    #[serde(deserialize_with = "json::object")]
    encrypt_request: EncryptRequest,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EncryptRequest {
    #[schemars(extend("contentEncoding" = "base64"))]
    payload: String,
    encrypt_key_name: String,
    key_password: Option<Password>,
    cipher_algorithm: CipherAlgorithm,
    #[schemars(extend("contentEncoding" = "base64"))]
    additional_authentication_data: Option<String>,
    /// In bits; 0 is as absent.
    tag_length: Option<i64>,
}

/// Answer of `POST /v1/encrypt`: all four members are always there.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncryptAnswer {
    /// The ciphertext with the tag at its end.
    #[schemars(extend("contentEncoding" = "base64"))]
    encrypted_payload: String,
    /// Null for RSA, which has no tag that it could be without.
    #[schemars(extend("contentEncoding" = "base64"))]
    encrypted_payload_without_message_authentication_code: Option<String>,
    #[schemars(extend("contentEncoding" = "base64"))]
    initialization_vector: Option<String>,
    #[schemars(extend("contentEncoding" = "base64"))]
    message_authentication_code: Option<String>,
}

/// `POST /v1/encrypt`: for an RSA key with its public half and outside of the token, else by the token.
pub async fn encrypt(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<EncryptBody>,
) -> Result<Json<EncryptAnswer>, ApiError> {
    let request = body.encrypt_request;
    let plaintext = Plaintext::from(base64("payload", &request.payload, PAYLOAD_MAX)?);
    let aad = optional("additionalAuthenticationData", request.additional_authentication_data)?;
    let cipher = request.cipher_algorithm;
    let entry = lookup(&state, &caller, &request.encrypt_key_name).await?;
    // Of a short plaintext, a digest tells everything.
    let record = usage(&caller, &entry, &request_id, "encrypt", Some(cipher.name()), About::Nothing);
    may_use(&state, &caller, &entry, &record).await?;
    let key = usable_public(&entry)?;
    // Of an adopted key nothing need have been asked for: then it is as it is on the token.
    let decrypts = || entry.object.status.as_ref()?.attributes.as_ref()?.decrypt;
    let asked = &entry.object.spec.attributes;
    let encrypts = asked.encrypt.or(asked.decrypt).or_else(decrypts) == Some(true);
    if key.public.is_some() && cipher.fits(key.algorithm) && !encrypts {
        let message = format!("the key '{}' does not encrypt: its attribute encrypt is false", entry.label);
        return Err(ApiError::new(Code::Forbidden, message));
    }
    let hsm = state.partitions.hsm(&key.partition);
    let hsm = match key.public {
        // A public key encrypts without a token, also while that is away.
        Some(_) => hsm.ok(),
        None => Some(hsm?),
    };
    let tried = key.public.as_ref().and_then(|_| state.partitions.ciphers(&key.partition));
    if key.public.is_none() {
        password::unlock(&state, &entry, request.key_password.as_ref(), &record).await?;
    }
    record.record(None);
    let job =
        ToEncrypt { cipher, plaintext, aad: aad.into(), tag_length: request.tag_length.unwrap_or_default() };
    let sealed = cipher::encrypt(hsm.as_deref(), key, job, Known { tried: tried.as_deref() }).await;
    let sealed = sealed.inspect_err(|error| missed(&state, &entry, error))?;
    let (bare, tag) = sealed.ciphertext.split_at(sealed.ciphertext.len() - sealed.tag_len);
    let filled = |bytes: &[u8]| (!bytes.is_empty()).then(|| STANDARD.encode(bytes));
    Ok(Json(EncryptAnswer {
        encrypted_payload: STANDARD.encode(&sealed.ciphertext),
        encrypted_payload_without_message_authentication_code: key
            .public
            .is_none()
            .then(|| STANDARD.encode(bare)),
        initialization_vector: filled(&sealed.iv),
        message_authentication_code: filled(tag),
    }))
}

/// Body of `POST /v1/synchronousDecrypt`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecryptBody {
    #[serde(deserialize_with = "json::object")]
    decrypt_request: DecryptRequest,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DecryptRequest {
    #[schemars(extend("contentEncoding" = "base64"))]
    encrypted_payload: String,
    decrypt_key_name: String,
    key_password: Option<Password>,
    cipher_algorithm: CipherAlgorithm,
    #[schemars(extend("contentEncoding" = "base64"))]
    initialization_vector: Option<String>,
    #[schemars(extend("contentEncoding" = "base64"))]
    additional_authentication_data: Option<String>,
    tag_length: Option<i64>,
    signed_approvals: Option<Vec<String>>,
}

/// Answer of `POST /v1/synchronousDecrypt`; strict clients refuse a further member.
#[derive(Serialize, JsonSchema)]
pub struct DecryptAnswer {
    #[schemars(extend("contentEncoding" = "base64"))]
    payload: String,
}

/// `POST /v1/synchronousDecrypt`: by the token.
pub async fn decrypt(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<DecryptBody>,
) -> Result<Json<DecryptAnswer>, ApiError> {
    let request = body.decrypt_request;
    let ciphertext = base64("encryptedPayload", &request.encrypted_payload, SEALED_MAX)?;
    let iv = optional("initializationVector", request.initialization_vector)?;
    let aad = optional("additionalAuthenticationData", request.additional_authentication_data)?;
    if request.signed_approvals.is_some_and(|approvals| !approvals.is_empty()) {
        return Err(ApiError::new(Code::Unsupported, "signedApprovals are not served yet"));
    }
    let cipher = request.cipher_algorithm;
    let entry = lookup(&state, &caller, &request.decrypt_key_name).await?;
    let about = About::Ciphertext(&ciphertext);
    let record = usage(&caller, &entry, &request_id, "decrypt", Some(cipher.name()), about);
    may_use(&state, &caller, &entry, &record).await?;
    let key = usable(&entry)?;
    let hsm = state.partitions.hsm(&key.partition)?;
    password::unlock(&state, &entry, request.key_password.as_ref(), &record).await?;
    record.record(None);
    let job = ToDecrypt {
        cipher,
        ciphertext: ciphertext.clone().into(),
        iv: iv.into(),
        aad: aad.into(),
        tag_length: request.tag_length.unwrap_or_default(),
    };
    let plaintext = cipher::decrypt(hsm.as_ref(), key, job).await;
    let plaintext = plaintext.inspect_err(|error| missed(&state, &entry, error))?;
    Ok(Json(DecryptAnswer { payload: STANDARD.encode(plaintext.expose()) }))
}

/// Body of `POST /v1/synchronousHmac`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HmacBody {
    #[serde(deserialize_with = "json::object")]
    hmac_request: HmacRequest,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct HmacRequest {
    key_name: String,
    /// Not of the contract, by which an HMAC key with a password could not be used.
    key_password: Option<Password>,
    #[schemars(extend("contentEncoding" = "base64"))]
    payload: String,
}

/// Answer of `POST /v1/synchronousHmac`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HmacAnswer {
    #[schemars(extend("contentEncoding" = "base64"))]
    keyed_hash: String,
}

/// `POST /v1/synchronousHmac`: by the token.
pub async fn hmac(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<HmacBody>,
) -> Result<Json<HmacAnswer>, ApiError> {
    let HmacRequest { key_name, key_password, payload } = body.hmac_request;
    let payload = base64("payload", &payload, PAYLOAD_MAX)?;
    let entry = lookup(&state, &caller, &key_name).await?;
    let record = usage(&caller, &entry, &request_id, "hmac", Some(HMAC), About::Payload(&payload));
    may_use(&state, &caller, &entry, &record).await?;
    let key = usable(&entry)?;
    let hsm = state.partitions.hsm(&key.partition)?;
    password::unlock(&state, &entry, key_password.as_ref(), &record).await?;
    record.record(None);
    let mac = cipher::hmac(hsm.as_ref(), key, payload.clone().into()).await;
    let mac = mac.inspect_err(|error| missed(&state, &entry, error))?;
    Ok(Json(HmacAnswer { keyed_hash: STANDARD.encode(mac) }))
}

/// `verifyHmacRequest` of `POST /v1/verify`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyHmacRequest {
    key_name: String,
    key_password: Option<Password>,
    #[schemars(extend("contentEncoding" = "base64"))]
    payload: String,
    #[schemars(extend("contentEncoding" = "base64"))]
    signature: String,
}

/// `POST /v1/verify` with an HMAC: made once more by the token and compared.
pub async fn verify_hmac(
    state: &Shared,
    caller: &auth::Caller,
    request_id: &str,
    request: VerifyHmacRequest,
) -> Result<VerifyAnswer, ApiError> {
    let payload = base64("payload", &request.payload, PAYLOAD_MAX)?;
    let mac = base64("signature", &request.signature, PAYLOAD_MAX)?;
    let entry = lookup(state, caller, &request.key_name).await?;
    let record = usage(caller, &entry, request_id, "verify", Some(HMAC), About::Payload(&payload));
    may_use(state, caller, &entry, &record).await?;
    let key = usable(&entry)?;
    let hsm = state.partitions.hsm(&key.partition)?;
    password::unlock(state, &entry, request.key_password.as_ref(), &record).await?;
    record.record(None);
    let right = cipher::verify_hmac(hsm.as_ref(), key, payload.clone().into(), &mac).await;
    let signature_valid = right.inspect_err(|error| missed(state, &entry, error))?;
    Ok(VerifyAnswer { signature_valid })
}

/// Tells the controller of a key that the token does not have.
fn missed(state: &Shared, entry: &Entry, error: &CipherError) {
    if let CipherError::Hsm(error) = error {
        state.missed.note(state.client.as_ref(), entry, error);
    }
}

/// Decodes a member.
fn base64(member: &str, text: &str, most: usize) -> Result<Vec<u8>, ApiError> {
    let bytes = STANDARD.decode(text).map_err(|_| {
        ApiError::new(Code::Encoding, format!("The '{member}' is not valid 'base64' encoded."))
    })?;
    if bytes.len() > most {
        let message = format!("the '{member}' has {} bytes and at most {most} are taken", bytes.len());
        return Err(ApiError::new(Code::Payload, message));
    }
    Ok(bytes)
}

/// Decodes a member that may be missing, which is the same as empty: published clients send both.
fn optional(member: &str, text: Option<String>) -> Result<Vec<u8>, ApiError> {
    base64(member, &text.unwrap_or_default(), PAYLOAD_MAX)
}

impl From<CipherError> for ApiError {
    fn from(error: CipherError) -> Self {
        let code = match &error {
            CipherError::Mismatch(_) => Code::AlgorithmNotSupportedByKey,
            CipherError::NotServed(_) => Code::Cipher,
            CipherError::Input(_) => Code::Payload,
            CipherError::TagLength(_) => Code::TagLength,
            CipherError::NotDecrypted(_) => Code::Decrypt,
            CipherError::Hsm(error) => return error.clone().into(),
        };
        Self::new(code, error.to_string())
    }
}
