//! Keys that leave their token in plain, because they were made or imported so that they may.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::{
    key_body::NameBody,
    keys::{allowed, lookup, usable},
    operations::usage,
    password,
};
use crate::{
    auth,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        openapi::Document,
    },
    hsm::protocol::{Reply, Request},
    key_material,
    model::{Password, material::Material},
    service::{audit::About, sign::unexpected},
};

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Keys");
    let export = document.post("/v1/key/export/plain", "exportPlainKeyWithKeyPassword", "A key in plain");
    export.takes::<NameBody>().gives::<Plain>(200, "the key").of_a_name().of_the_token();
    let old = document.get("/v1/key/{keyName}/export/plain", "exportPlainKey", "A key in plain");
    old.gives::<Plain>(200, "the key").of_a_name().of_the_token().deprecated();
    let none = document.get("/v1/key/export/plain", "exportPlainKey_1", "Names no key, and is refused");
    none.of_a_name().deprecated();
}

/// Answer of `POST /v1/key/export/plain`: all three members are always there.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PlainKey")]
struct Plain {
    /// PKCS #8.
    #[serde(serialize_with = "text")]
    #[schemars(with = "Option<String>", extend("contentEncoding" = "base64"))]
    private_key: Option<Zeroizing<String>>,
    /// SubjectPublicKeyInfo.
    #[schemars(extend("contentEncoding" = "base64"))]
    public_key: Option<String>,
    #[serde(serialize_with = "text")]
    #[schemars(with = "Option<String>", extend("contentEncoding" = "base64"))]
    secret_key: Option<Zeroizing<String>>,
}

fn text<S: Serializer>(text: &Option<Zeroizing<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_ref().map(|text| text.as_str()).serialize(serializer)
}

fn secret(bytes: &[u8]) -> Option<Zeroizing<String>> {
    Some(Zeroizing::new(STANDARD.encode(bytes)))
}

/// `POST /v1/key/export/plain`.
pub async fn export(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<NameBody>,
) -> Result<Response, ApiError> {
    plain(&state, &caller, &request_id, &body.label, body.password.as_ref()).await
}

/// `GET /v1/key/export/plain`: a form that the contract names without saying where the key's name goes.
pub async fn export_of_nothing(_: Caller) -> ApiError {
    ApiError::new(
        Code::Validation,
        "no key is named: POST a body with its label, or GET /v1/key/{name}/export/plain",
    )
}

/// A key in plain, for both forms of asking.
pub async fn plain(
    state: &Shared,
    caller: &auth::Caller,
    request_id: &str,
    label: &str,
    given: Option<&Password>,
) -> Result<Response, ApiError> {
    let entry = lookup(state, caller, label).await?;
    let record = usage(caller, &entry, request_id, "export", None, About::Nothing);
    let may = async {
        allowed(state, caller, "export", &entry.object.name_any()).await?;
        let key = usable(&entry)?;
        password::check(state, &entry, given).await?;
        // By the token's word, not by what was asked for when the key was made. The token-host asks it once more.
        let attributes = entry.object.status.as_ref().and_then(|status| status.attributes.as_ref());
        let leaves =
            attributes.is_some_and(|known| known.extractable == Some(true) && known.sensitive == Some(false));
        if !leaves {
            let message =
                format!("the key '{label}' does not leave its token: it is not extractable, or sensitive");
            return Err(ApiError::new(Code::Forbidden, message));
        }
        Ok((key, state.partitions.hsm(&key.partition)?))
    };
    let (key, hsm) = may.await.inspect_err(|error: &ApiError| record.record(Some(&error.message)))?;
    record.record(None);
    let exported = match hsm.call(Request::Export(key.id.clone())).await {
        Ok(Reply::Exported(exported)) => exported,
        Ok(other) => return Err(unexpected(&other).into()),
        Err(error) => {
            state.missed.note(state.client.as_ref(), &entry, &error);
            return Err(error.into());
        }
    };
    let answer = match (&key.public, &exported.material) {
        (None, Material::Secret(bytes)) => {
            Plain { private_key: None, public_key: None, secret_key: secret(bytes.expose()) }
        }
        (Some(public), material) => {
            let der = key_material::pkcs8(public, material).map_err(|error| {
                tracing::warn!(
                    key = entry.label,
                    error = crate::telemetry::logs::chain(&error),
                    "not exported"
                );
                ApiError::new(Code::Hsm, format!("the key '{label}' cannot be exported: {error}"))
            })?;
            Plain {
                private_key: secret(&der),
                public_key: Some(STANDARD.encode(public.spki())),
                secret_key: None,
            }
        }
        (None, _) => {
            let message = format!("the token has another key than the secret key '{label}' under its id");
            return Err(ApiError::new(Code::Hsm, message));
        }
    };
    let mut response = Json(answer).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
