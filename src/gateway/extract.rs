//! Extractors that answer in the contract's error format.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{
    BODY_MAX, Shared,
    error::{ApiError, Code},
};
use crate::auth::Refused;

/// How long the body of a request may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// The authenticated caller.
pub struct Caller(pub Arc<crate::auth::Caller>);

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        // A client that retries may send the header twice; both must then say the same.
        let mut tokens = parts.headers.get_all(header::AUTHORIZATION).iter();
        let first = tokens.next().ok_or(Refused::Missing)?;
        if tokens.any(|other| other != first) {
            return Err(Refused::Invalid("several different ones were sent".into()).into());
        }
        let text = first.to_str().map_err(|_| Refused::Invalid("it has odd characters".into()))?;
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                token.trim()
            }
            _ => return Err(Refused::Missing.into()),
        };
        Ok(Self(state.authenticate.authenticate(token).await?))
    }
}

/// The name in the path `/v1/…/{name}`. A text that is none, and the name of an endpoint in the place of a
/// key's name, are taken as they were sent.
pub struct PathName(pub String);

impl FromRequestParts<Shared> for PathName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Infallible> {
        if let Ok(Path(name)) = Path::<String>::from_request_parts(parts, state).await {
            return Ok(Self(name));
        }
        Ok(Self(parts.uri.path().split('/').nth(3).unwrap_or_default().to_owned()))
    }
}

/// Identifies a request in logs, audit records and the answer's header.
#[derive(Clone)]
pub struct RequestId(pub Arc<str>);

impl FromRequestParts<Shared> for RequestId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::new(Code::General, "the request has no id"))
    }
}

/// A JSON body, whatever its content type says: published clients do not agree on it.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Shared> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, ApiError> {
        let RawBody(bytes) = RawBody::from_request(request, state).await?;
        parse(&bytes).map(Self)
    }
}

/// A body as it was sent.
pub struct RawBody(pub Bytes);

impl FromRequest<Shared> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, ApiError> {
        let read = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state)).await;
        let bytes = read.map_err(|_| {
            let message = format!("the request body did not arrive within {} s", BODY_WITHIN.as_secs());
            ApiError::new(Code::Json, message)
        })?;
        let bytes = bytes.map_err(|rejection| {
            if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::new(
                    Code::TooLarge,
                    format!(
                        "the request has more than {BODY_MAX} bytes: hash large data yourself and sign the digest with a NONE… algorithm"
                    ),
                )
            } else {
                ApiError::new(Code::Json, "the request body ended early")
            }
        })?;
        Ok(Self(bytes))
    }
}

/// Reads a JSON body.
///
/// # Errors
/// 621 where it is no JSON, 600 where a member is missing or has a value that is not allowed.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let code = if error.is_data() { Code::Validation } else { Code::Json };
        let what = if error.is_data() { "" } else { "Invalid request. Cannot parse json string: " };
        ApiError::new(code, format!("{what}{error}"))
    })
}
