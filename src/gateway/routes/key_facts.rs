//! What is asked of a key and not given away here: its address, another password.

use axum::extract::State;
use serde::Deserialize;

use super::{
    key_body::{NameBody, Password},
    keys::{allowed, lookup, usable},
};
use crate::{
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody},
    },
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
        let entry = lookup(state, caller, label).await?;
        allowed(state, caller, "get", entry.object.metadata.name.as_deref().unwrap_or_default()).await?;
        usable(&entry)?;
        let message = format!("the key '{label}' has no address: only keys with a policy have one");
        Ok(ApiError::new(Code::Address, message))
    };
    asked.await.unwrap_or_else(|error| error)
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
