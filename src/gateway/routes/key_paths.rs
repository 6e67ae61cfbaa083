//! Paths below `/v1/key/` that begin with a key's name, which may have slashes in it: clients do not encode it.

use axum::{
    extract::{Request, State},
    http::Uri,
    response::{IntoResponse, Response},
};

use super::{exports, key_facts, keys};
use crate::gateway::{
    Shared,
    error::{ApiError, Code},
    extract::{Caller, RequestId, name_in_path},
};

/// Where names of keys begin.
const KEYS: &str = "/v1/key/";

/// The deprecated forms: `GET /v1/key/{name}/attributes`, `/address` and `/export/plain`.
pub async fn get(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    uri: Uri,
) -> Result<Response, ApiError> {
    // What comes after a slash that was encoded belongs to the name.
    let path = uri.path();
    let named = |end: &str| {
        let name = name_in_path(path.strip_suffix(end)?, KEYS);
        (!name.is_empty()).then_some(name)
    };
    if let Some(name) = named("/attributes") {
        return Ok(keys::describe(&state, &caller, &request_id, &name, None).await?.into_response());
    }
    if let Some(name) = named("/address") {
        return Ok(key_facts::address_of(&state, &caller, &request_id, &name, None).await?.into_response());
    }
    if let Some(name) = named("/export/plain") {
        return Ok(exports::plain(&state, &caller, &request_id, &name, None).await?.into_response());
    }
    Err(other_path(path, "GET"))
}

/// What is neither deleted nor asked for.
pub async fn other(request: Request) -> ApiError {
    other_path(request.uri().path(), request.method().as_str())
}

fn other_path(path: &str, method: &str) -> ApiError {
    match path.strip_prefix(KEYS) {
        Some(name) if !name.contains('/') => {
            ApiError::new(Code::Method, format!("{path} does not take {method}"))
        }
        _ => ApiError::new(Code::NoRoute, format!("{path} is not served")),
    }
}
