//! Extractors that answer in the contract's error format.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Bytes, HttpBody},
    extract::{FromRequest, FromRequestParts, Request},
    http::{header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{
    BODY_MAX, Shared,
    error::{ApiError, Code},
    json,
    unread::Known,
};
use crate::auth::Refused;

/// Where the page is from that has a browser send a request (Fetch Metadata).
const FETCH_SITE: &str = "sec-fetch-site";
/// How long the body of a request may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// The authenticated caller.
pub struct Caller(pub Arc<crate::auth::Caller>);

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        // The sidecar adds the token to whatever comes, also to what a page of somebody else has a browser send to a port
        // that is forwarded. Browsers say so, and pages cannot change what they say.
        if let Some(site) = parts.headers.get(FETCH_SITE)
            && site != "same-origin"
            && site != "none"
        {
            return Err(ApiError::new(Code::NotAllowed, "pages of other sites may not call"));
        }
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
        let caller = state.authenticate.authenticate(token).await?;
        if let Some(known) = parts.extensions.get::<Known>() {
            known.tell();
        }
        Ok(Self(caller))
    }
}

/// What the path says after the first segments of an endpoint: a name, which may have slashes in it. Percent encoding is
/// undone; clients send names with it and without. What is then no UTF-8 is taken as it was sent.
#[must_use]
pub fn name_in_path(path: &str, prefix: &str) -> String {
    let raw = path.strip_prefix(prefix).unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(raw).decode_utf8();
    decoded.map_or_else(|_| raw.to_owned(), std::borrow::Cow::into_owned)
}

/// The name in the path `/v1/key/{name}`, and the length in `/v1/generateRandom/{length}`.
pub struct PathName(pub String);

impl FromRequestParts<Shared> for PathName {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Infallible> {
        let path = parts.uri.path();
        // `/v1`, the endpoint, the name.
        let prefix = path.match_indices('/').nth(2).map_or(path.len(), |(at, _)| at + 1);
        Ok(Self(name_in_path(path, &path[..prefix])))
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
        json::parse(&bytes).map(Self)
    }
}

/// A body as it was sent.
pub struct RawBody(pub Bytes);

impl FromRequest<Shared> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, ApiError> {
        // What says of itself that it is too large is not waited for.
        if request.body().size_hint().lower() > BODY_MAX as u64 {
            return Err(too_large());
        }
        let read = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state)).await;
        let bytes = read.map_err(|_| {
            let message = format!("the request body did not arrive within {} s", BODY_WITHIN.as_secs());
            ApiError::new(Code::Json, message)
        })?;
        let bytes = bytes.map_err(|rejection| {
            if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
                too_large()
            } else {
                ApiError::new(Code::Json, "the request body ended early")
            }
        })?;
        Ok(Self(bytes))
    }
}

fn too_large() -> ApiError {
    let message = format!(
        "the request has more than {BODY_MAX} bytes: hash large data yourself and sign the digest with a NONE… algorithm"
    );
    ApiError::new(Code::TooLarge, message)
}
