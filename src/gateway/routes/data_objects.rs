//! Data objects of the caller's namespace.
//!
//! There is no Kubernetes object behind them: their values are secrets, and the token keeps them. `hsmdataobjects` is a
//! name for RBAC only.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    auth::{self, Action},
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId, name_in_path},
        json::object_or_none,
        openapi::Document,
    },
    hsm::protocol::{DataFacts, Reply, Request},
    model::data::{DataAttributes, DataName, DataValue},
    service::{audit::DataUse, sign::unexpected},
};

/// Where their names begin.
const OBJECTS: &str = "/v1/dataObject/";

/// What the document says of these endpoints.
pub fn document(document: &mut Document) {
    document.group("Data Objects");
    let create = document.post("/v1/dataObject", "createDataObject", "Keeps a data object on the token");
    create.takes::<Body>().gives::<Answer>(201, "it is kept").of_the_token();
    let read = document.get("/v1/dataObject/{name}", "getDataObject", "Reads a data object");
    read.gives::<Answer>(200, "the data object").of_the_token();
    let remove = document.delete("/v1/dataObject/{name}", "deleteDataObject", "Destroys a data object");
    remove.gives_nothing("it is gone").of_the_token();
}

/// Body of `POST /v1/dataObject`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "DataObjectBody")]
pub struct Body {
    name: String,
    /// At most 64 KiB.
    #[schemars(with = "String", extend("contentEncoding" = "base64"))]
    value: SecretString,
    #[serde(default, deserialize_with = "object_or_none")]
    attributes: Option<Attributes>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "RequestedDataAttributes")]
struct Attributes {
    private: Option<bool>,
    modifiable: Option<bool>,
    destroyable: Option<bool>,
}

/// Answer of both endpoints that tell of one; only who asks for the value is told it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DataObject")]
pub struct Answer {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("contentEncoding" = "base64"))]
    value: Option<Zeroized>,
    attributes: DataAttributes,
}

/// A text that is overwritten when it was written.
struct Zeroized(Zeroizing<String>);

impl Serialize for Zeroized {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// `POST /v1/dataObject`.
pub async fn create(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<Body>,
) -> Result<(StatusCode, Json<Answer>), ApiError> {
    let name = name(&caller, &body.name)?;
    let value = value(&body.value)?;
    let attributes = attributes(body.attributes);
    may(&state, &caller, &name, "create", &request_id).await?;
    let (partition, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    if let Some(why) = state.partitions.not_creatable(&partition) {
        let message = format!("nothing can be made on partition {partition} at the moment: {why}");
        return Err(ApiError::new(Code::Busy, message));
    }
    match hsm.call(Request::PutData { name: name.clone(), value, attributes }).await? {
        Reply::DataKept(Some(attributes)) => {
            let name = name.name().to_owned();
            Ok((StatusCode::CREATED, Json(Answer { name, value: None, attributes })))
        }
        Reply::DataKept(None) => Err(ApiError::new(
            Code::DataExists,
            format!("a data object with the name '{name}' exists already; it is not overwritten"),
        )),
        other => Err(unexpected(&other).into()),
    }
}

/// `GET /v1/dataObject/{name}`.
pub async fn read(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    uri: Uri,
) -> Result<Json<Answer>, ApiError> {
    let name = name(&caller, &name_in_path(uri.path(), OBJECTS))?;
    may(&state, &caller, &name, "get", &request_id).await?;
    let (_, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    match hsm.call(Request::GetData(name.clone())).await? {
        Reply::Data(Some(facts)) => {
            let DataFacts { value, attributes } = *facts;
            let value = Zeroized(Zeroizing::new(STANDARD.encode(value.expose())));
            Ok(Json(Answer { name: name.name().to_owned(), value: Some(value), attributes }))
        }
        Reply::Data(None) => Err(none(&name)),
        other => Err(unexpected(&other).into()),
    }
}

/// `DELETE /v1/dataObject/{name}`.
pub async fn remove(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    let name = name(&caller, &name_in_path(uri.path(), OBJECTS))?;
    may(&state, &caller, &name, "delete", &request_id).await?;
    let (_, hsm) = state.partitions.for_namespace(&caller.namespace)?;
    match hsm.call(Request::DestroyData(name.clone())).await? {
        Reply::DataGone(true) => Ok(StatusCode::OK),
        Reply::DataGone(false) => Err(none(&name)),
        other => Err(unexpected(&other).into()),
    }
}

fn name(caller: &auth::Caller, name: &str) -> Result<DataName, ApiError> {
    DataName::new(&caller.namespace, name).map_err(|error| ApiError::new(Code::Validation, error.to_string()))
}

fn value(text: &SecretString) -> Result<DataValue, ApiError> {
    let bytes = STANDARD
        .decode(text.expose_secret())
        .map_err(|_| ApiError::new(Code::DataValue, "The 'value' is not valid 'base64' encoded."))?;
    DataValue::new(bytes).map_err(|error| ApiError::new(Code::DataValue, error.to_string()))
}

fn attributes(asked: Option<Attributes>) -> DataAttributes {
    let usual = DataAttributes::default();
    asked.map_or(usual, |asked| DataAttributes {
        private: asked.private.unwrap_or(usual.private),
        modifiable: asked.modifiable.unwrap_or(usual.modifiable),
        destroyable: asked.destroyable.unwrap_or(usual.destroyable),
    })
}

fn none(name: &DataName) -> ApiError {
    ApiError::new(Code::NoData, format!("A data object with the name '{name}' does not exist."))
}

/// Checks a verb on a data object, and records the decision.
async fn may(
    state: &Shared,
    caller: &auth::Caller,
    name: &DataName,
    verb: &'static str,
    request_id: &str,
) -> Result<(), ApiError> {
    let record = DataUse {
        caller: &caller.username,
        namespace: &caller.namespace,
        data_object: name.name(),
        operation: verb,
        request_id,
    };
    let action = Action {
        verb,
        resource: "hsmdataobjects",
        namespace: caller.namespace.clone(),
        // As everywhere, who may create may choose the name.
        name: if verb == "create" { String::new() } else { name.name().to_owned() },
    };
    let decision = state.authorize.authorize(caller, &action).await.map_err(ApiError::from);
    record.record(decision.as_ref().err().map(|denied| denied.message.as_str()));
    decision
}
