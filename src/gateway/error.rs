//! Errors of the REST contract: one table of status, `errorCode` and `reason`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::Serialize;
use strum::VariantArray;

use crate::{
    auth::{Denied, Refused},
    hsm::protocol::{Actor, HsmError, Kind},
    service::sign::SignError,
};

/// Reasons of the contract that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub enum Code {
    /// Something of ours went wrong.
    General,
    /// The caller may not do this.
    NotAllowed,
    /// No access token.
    MissingToken,
    /// A bad access token.
    InvalidToken,
    /// A value that is not allowed.
    Validation,
    /// A key size that is not allowed.
    KeySize,
    /// Attributes that do not go together.
    Attributes,
    /// Key and algorithm do not fit.
    AlgorithmNotSupportedByKey,
    /// The name is taken.
    KeyExists,
    /// Not a name.
    KeyName,
    /// Not served.
    Unsupported,
    /// Not a payload for this.
    Payload,
    /// Not a key for this.
    KeyType,
    /// The key's attributes forbid it.
    Forbidden,
    /// A number out of range.
    Range,
    /// The password is not the key's.
    Password,
    /// Not JSON.
    Json,
    /// An address is of keys with a policy only.
    Address,
    /// Not base64 or hexadecimal.
    Encoding,
    /// It cannot be decrypted.
    Decrypt,
    /// Not a length of a tag.
    TagLength,
    /// The token does not have the cipher.
    Cipher,
    /// Not a certificate for this.
    Certificate,
    /// Not a certificate.
    CertificateEncoding,
    /// Not a request for a certificate.
    CertificateRequest,
    /// The key has no certificate.
    NoCertificate,
    /// No such key.
    NoKey,
    /// The HSM is not there.
    Subsystem,
    /// The HSM failed.
    Hsm,
    /// Nothing here answers to that path.
    NoRoute,
    /// The path does not know the method.
    Method,
    /// The body is too large.
    TooLarge,
    /// The HSM is busy or away, and comes back.
    Busy,
    /// The HSM did not answer in time.
    Timeout,
    /// A data object of that name is there already.
    DataExists,
    /// Not a value for a data object.
    DataValue,
    /// No such data object.
    NoData,
    /// Keys are not derived from a key of this kind.
    Derivation,
    /// Not a key, or not a whole one.
    KeyEncoding,
    /// No address of that cryptocurrency.
    Cryptocurrency,
    /// Not an encrypted file, or one for another key.
    FileHeader,
}

impl Code {
    /// Every row of the table.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::VARIANTS.iter().copied()
    }

    /// Status, code and reason on the wire.
    pub(super) const fn wire(self) -> (StatusCode, u16, &'static str) {
        use StatusCode as S;
        match self {
            Self::General => (S::NOT_IMPLEMENTED, 103, "res.error.general"),
            Self::NotAllowed => (S::FORBIDDEN, 400, "res.error.security.not.allowed"),
            Self::MissingToken => (S::UNAUTHORIZED, 406, "res.error.missing.access.token"),
            Self::InvalidToken => (S::UNAUTHORIZED, 617, "res.error.invalid.access.token"),
            Self::Validation => (S::BAD_REQUEST, 600, "res.error.input.validation.failed"),
            Self::KeySize => (S::BAD_REQUEST, 603, "res.error.input.keysize"),
            Self::Attributes => (S::BAD_REQUEST, 606, "res.error.key.attributes.invalid"),
            Self::AlgorithmNotSupportedByKey => {
                (S::BAD_REQUEST, 607, "res.error.algorithm.not.supported.by.key")
            }
            Self::KeyExists => (S::BAD_REQUEST, 608, "res.error.key.already.existing"),
            Self::KeyName => (S::BAD_REQUEST, 610, "res.error.invalid.key.name"),
            Self::Unsupported => (S::BAD_REQUEST, 611, "res.error.unsupported.operation"),
            Self::Payload => (S::BAD_REQUEST, 612, "res.error.invalid.payload"),
            Self::KeyType => (S::BAD_REQUEST, 613, "res.error.invalid.key.type"),
            Self::Forbidden => (S::BAD_REQUEST, 614, "res.error.operation.forbidden.for.key"),
            Self::Range => (S::BAD_REQUEST, 619, "res.error.invalid.number.range"),
            Self::Password => (S::BAD_REQUEST, 620, "res.error.key.password.mismatch"),
            Self::Json => (S::BAD_REQUEST, 621, "res.error.invalid.json"),
            Self::Address => (S::BAD_REQUEST, 630, "res.error.invalid.address.on.non.ska.key"),
            Self::Encoding => (S::BAD_REQUEST, 635, "res.error.encoding.exception"),
            Self::Decrypt => (S::BAD_REQUEST, 410, "res.error.decrypt.failed"),
            Self::TagLength => (S::BAD_REQUEST, 624, "res.error.key.invalid.tagLength"),
            Self::Cipher => (S::BAD_REQUEST, 629, "res.error.unsupported.cipher"),
            Self::Certificate => (S::BAD_REQUEST, 402, "res.error.invalid.certificate"),
            Self::CertificateEncoding => (S::BAD_REQUEST, 626, "res.error.certificate.invalid.encoding"),
            Self::CertificateRequest => (S::BAD_REQUEST, 628, "res.error.csr.invalid.format"),
            Self::NoCertificate => (S::NOT_FOUND, 653, "res.error.data.object.not.existent"),
            Self::NoKey => (S::NOT_FOUND, 650, "res.error.key.not.existent"),
            Self::Subsystem => (S::INTERNAL_SERVER_ERROR, 700, "res.error.in.subystem"),
            Self::Hsm => (S::INTERNAL_SERVER_ERROR, 701, "res.error.in.hsm"),
            Self::NoRoute => (S::NOT_FOUND, 611, "res.error.unsupported.operation"),
            Self::Method => (S::METHOD_NOT_ALLOWED, 611, "res.error.unsupported.operation"),
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, 612, "res.error.invalid.payload"),
            Self::Busy => (S::SERVICE_UNAVAILABLE, 700, "res.error.in.subystem"),
            Self::Timeout => (S::GATEWAY_TIMEOUT, 701, "res.error.in.hsm"),
            Self::DataExists => (S::BAD_REQUEST, 615, "res.error.data.object.already.existing"),
            Self::DataValue => (S::BAD_REQUEST, 616, "res.error.data.object.invalid.value"),
            Self::NoData => (S::NOT_FOUND, 653, "res.error.data.object.not.existent"),
            Self::Derivation => (S::BAD_REQUEST, 634, "res.error.derivation.not.supported.by.algorithm"),
            Self::KeyEncoding => (S::BAD_REQUEST, 625, "res.error.key.invalid.encoding"),
            Self::Cryptocurrency => (S::BAD_REQUEST, 605, "res.error.unsupported.cryptocurrency"),
            Self::FileHeader => (S::BAD_REQUEST, 623, "res.error.invalid.file.header"),
        }
    }
}

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Which row of the table.
    pub code: Code,
    /// A sentence for whoever reads the client's log.
    pub message: String,
}

impl ApiError {
    /// An error of the table.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// No key of that name that the caller could name.
    #[must_use]
    pub fn no_key(label: &str) -> Self {
        Self::new(Code::NoKey, format!("A key with the name '{label}' does not exist."))
    }
}

/// Body of every refusal.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Error")]
pub(super) struct Body<'a> {
    /// The contract's number of the reason.
    error_code: u16,
    /// The contract's word for it.
    reason: &'static str,
    /// A sentence for people.
    message: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, error_code, reason) = self.code.wire();
        let mut response =
            (status, Json(Body { error_code, reason, message: &self.message })).into_response();
        if matches!(self.code, Code::Busy) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::Missing => Code::MissingToken,
            Refused::Invalid(_) => Code::InvalidToken,
            Refused::NotServiceAccount(_) => Code::NotAllowed,
            Refused::Unavailable => Code::Busy,
        };
        Self::new(code, refused.to_string())
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let code = match &denied {
            Denied::Forbidden(_) => Code::NotAllowed,
            Denied::Unavailable => Code::Busy,
        };
        Self::new(code, denied.to_string())
    }
}

impl From<HsmError> for ApiError {
    fn from(error: HsmError) -> Self {
        // Whoever asked has the message; whoever looks after the token reads it here. A full queue is counted.
        if error.kind.actor() != Actor::Caller && error.kind != Kind::Busy {
            let kind: &str = error.kind.into();
            tracing::warn!(kind, error = error.message, "the token did not do as asked");
        }
        let code = match error.kind {
            Kind::LibraryNotLoaded
            | Kind::TokenNotFound
            | Kind::TokenNotInitialized
            | Kind::PinRejected
            | Kind::PinLocked
            | Kind::PinFinalTry => Code::Subsystem,
            Kind::KeyNotFound => Code::NoKey,
            Kind::Unsupported => Code::Unsupported,
            Kind::Invalid => Code::Payload,
            Kind::Forbidden => Code::Forbidden,
            Kind::Busy | Kind::Unavailable | Kind::Lost => Code::Busy,
            Kind::Timeout => Code::Timeout,
            Kind::Ambiguous | Kind::Full | Kind::Crashed | Kind::Poisonous | Kind::Device => Code::Hsm,
        };
        Self::new(code, error.message)
    }
}

impl From<SignError> for ApiError {
    fn from(error: SignError) -> Self {
        let code = match &error {
            SignError::Mismatch(_) => Code::AlgorithmNotSupportedByKey,
            SignError::Payload(_) => Code::Payload,
            SignError::NoPublicKey | SignError::NoPrivateKey => Code::KeyType,
            SignError::Wrong { .. } => Code::Hsm,
            SignError::Hsm(error) => return error.clone().into(),
        };
        Self::new(code, error.to_string())
    }
}
