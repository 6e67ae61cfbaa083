//! What is asked of a key besides its attributes: its address.

use axum::{Json, extract::State};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    derived,
    key_body::NameBody,
    keys::{allowed, base64},
};
use crate::{
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        openapi::Document,
    },
    model::Password,
};

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Keys");
    let address = document.post("/v1/key/address", "getKeyAddressWithKeyPassword", "Address of a key");
    address.takes::<NameBody>().gives::<AddressAnswer>(200, "the address").of_a_name().of_the_token();
    let old = document.get("/v1/key/{keyName}/address", "getKeyAddress", "Address of a key");
    old.gives::<AddressAnswer>(200, "the address").of_a_name().of_the_token().deprecated();
}

/// Answer of both forms of asking for a key's address.
#[derive(Serialize, JsonSchema)]
pub struct AddressAnswer {
    /// The 20 bytes of the address, base64.
    address: String,
}

/// `POST /v1/key/address`.
pub async fn address(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<NameBody>,
) -> Result<Json<AddressAnswer>, ApiError> {
    address_of(&state, &caller, &request_id, &body.label, body.password.as_ref()).await
}

/// The address of a key, for both forms of asking. It follows from the public key, also that of a key that is derived for a
/// moment; which format it has was said when the key, or its master, was made.
pub async fn address_of(
    state: &Shared,
    caller: &auth::Caller,
    request_id: &str,
    label: &str,
    given: Option<&Password>,
) -> Result<Json<AddressAnswer>, ApiError> {
    let named = derived::named(state, caller, label).await?;
    let spec = &named.entry.object.spec;
    allowed(state, caller, "get", &named.entry.object.name_any()).await?;
    named.unlock_to_show(state, caller, request_id, given).await?;
    let key = named.key(state).await?;
    let none = |why: &str| ApiError::new(Code::Address, format!("the key '{label}' has no address: {why}"));
    let wanted = spec.address_format.ok_or_else(|| {
        none(match &spec.policy {
            None => "only keys with a policy have one",
            Some(_) => "it was made without addressFormat",
        })
    })?;
    let public = key.usable.public.as_ref().ok_or_else(|| none("it has no public half"))?;
    Ok(Json(AddressAnswer { address: base64(&public.address(wanted.format)?) }))
}
