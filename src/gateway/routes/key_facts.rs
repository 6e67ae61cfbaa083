//! What is asked of a key and not given away here: its address, its value, another password.

use axum::extract::State;
use serde::Deserialize;

use super::{
    derived,
    key_body::{NameBody, Password},
    keys::{allowed, lookup, usable},
    operations::usage,
};
use crate::{
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
    },
    service::audit::About,
};

/// `POST /v1/key/address`.
pub async fn address(
    State(state): State<Shared>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<NameBody>,
) -> ApiError {
    no_address(&state, &caller, &body.label).await
}

/// Why a key has no address: only keys with a policy get one, when they are made.
pub async fn no_address(state: &Shared, caller: &auth::Caller, label: &str) -> ApiError {
    let asked = async {
        let named = derived::named(state, caller, label).await?;
        let name = named.entry.object.metadata.name.as_deref().unwrap_or_default();
        allowed(state, caller, "get", name).await?;
        named.key(state).await?;
        let message = format!("the key '{label}' has no address: only keys with a policy have one");
        Ok(ApiError::new(Code::Address, message))
    };
    asked.await.unwrap_or_else(|error| error)
}

/// `POST /v1/key/export/plain`.
pub async fn export(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<NameBody>,
) -> ApiError {
    no_export(&state, &caller, &request_id, &body.label).await
}

/// Why a key does not leave its token.
pub async fn no_export(state: &Shared, caller: &auth::Caller, request_id: &str, label: &str) -> ApiError {
    let entry = match lookup(state, caller, label).await {
        Ok(entry) => entry,
        Err(error) => return error,
    };
    let record = usage(caller, &entry, request_id, "export", None, About::Payload(&[]));
    let asked = async {
        allowed(state, caller, "export", entry.object.metadata.name.as_deref().unwrap_or_default()).await?;
        usable(&entry)?;
        // By the token's word, not by what was asked for when the key was made.
        let attributes = entry.object.status.as_ref().and_then(|status| status.attributes.as_ref());
        let leaves =
            attributes.is_some_and(|known| known.extractable == Some(true) && known.sensitive == Some(false));
        Ok(if leaves {
            ApiError::new(Code::Unsupported, "the export of keys is not served yet")
        } else {
            let message =
                format!("the key '{label}' does not leave its token: it is not extractable, or sensitive");
            ApiError::new(Code::Forbidden, message)
        })
    };
    let error = asked.await.unwrap_or_else(|error: ApiError| error);
    record.record(Some(&error.message));
    error
}

/// `GET /v1/key/export/plain`: a form that the contract names without saying where the key's name goes.
pub async fn export_of_nothing(_: Caller) -> ApiError {
    ApiError::new(
        Code::Validation,
        "no key is named: POST a body with its label, or GET /v1/key/{name}/export/plain",
    )
}

/// Body of `POST /v1/key/changePassword`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordBody {
    label: String,
    #[serde(rename = "password")]
    _password: Option<Password>,
    #[serde(rename = "newPassword")]
    _new_password: Option<Password>,
}

/// `POST /v1/key/changePassword`.
pub async fn change_password(
    State(state): State<Shared>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<PasswordBody>,
) -> ApiError {
    let asked = async {
        let entry = lookup(&state, &caller, &body.label).await?;
        let name = entry.object.metadata.name.as_deref().unwrap_or_default();
        allowed(&state, &caller, "update", name).await?;
        let message = format!("the key '{}' has no password: key passwords are not served yet", body.label);
        Ok(ApiError::new(Code::Unsupported, message))
    };
    asked.await.unwrap_or_else(|error| error)
}
