//! What is asked of a key and not given away here: its address.

use axum::extract::State;

use super::{derived, key_body::NameBody, keys::allowed};
use crate::{
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody},
        openapi::Document,
    },
    model::Password,
};

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Keys");
    let address = document.post("/v1/key/address", "getKeyAddressWithKeyPassword", "Address of a key");
    address.takes::<NameBody>().of_a_name();
    let old = document.get("/v1/key/{keyName}/address", "getKeyAddress", "Address of a key");
    old.of_a_name().deprecated();
}

/// `POST /v1/key/address`.
pub async fn address(
    State(state): State<Shared>,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<NameBody>,
) -> ApiError {
    no_address(&state, &caller, &body.label, body.password.as_ref()).await
}

/// Why a key has no address: only keys with a policy get one, when they are made.
pub async fn no_address(
    state: &Shared,
    caller: &auth::Caller,
    label: &str,
    given: Option<&Password>,
) -> ApiError {
    let asked = async {
        let named = derived::named(state, caller, label).await?;
        let name = named.entry.object.metadata.name.as_deref().unwrap_or_default();
        allowed(state, caller, "get", name).await?;
        named.unlock_to_show(state, given).await?;
        named.key(state).await?;
        if named.entry.object.spec.policy.is_some() {
            let message =
                format!("the key '{label}' has no address: the addresses of keys are not served yet");
            return Ok(ApiError::new(Code::Unsupported, message));
        }
        let message = format!("the key '{label}' has no address: only keys with a policy have one");
        Ok(ApiError::new(Code::Address, message))
    };
    asked.await.unwrap_or_else(|error| error)
}
