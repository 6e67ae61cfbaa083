//! `POST /v1/key/changePassword`: a first password, another one, or none.

use axum::{extract::State, http::StatusCode};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::{
    keys::{API_AWAY, LOOKUP_WAIT, allowed, api_error, client, fresh, lookup, usable},
    operations::usage,
    password::{self, Laid, Replaced},
};
use crate::{
    api::HsmKey,
    gateway::{
        Shared,
        error::{ApiError, Code},
        extract::{Caller, JsonBody, RequestId},
        openapi::Document,
    },
    model::Password,
    service::{audit::About, directory::Entry},
};

/// How often it is tried again where others change the same key.
const TRIES: usize = 5;

/// What the document says of this endpoint.
pub fn document(document: &mut Document) {
    document.group("Keys");
    let change = document.post("/v1/key/changePassword", "changeKeyPassword", "Changes a key's password");
    change.takes::<ChangeBody>().gives_nothing("it has the new one, or none").of_a_name();
}

/// Body of `POST /v1/key/changePassword`. Clients leave out what is empty.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeBody {
    label: String,
    /// What it has now.
    password: Option<Password>,
    /// Missing or empty: it has none any more.
    new_password: Option<Password>,
}

/// `POST /v1/key/changePassword`.
pub async fn change_password(
    State(state): State<Shared>,
    Caller(caller): Caller,
    RequestId(request_id): RequestId,
    JsonBody(body): JsonBody<ChangeBody>,
) -> Result<StatusCode, ApiError> {
    let entry = lookup(&state, &caller, &body.label).await?;
    let record = usage(&caller, &entry, &request_id, "change password", None, About::Nothing);
    let changed = async {
        allowed(&state, &caller, "update", &entry.object.name_any()).await?;
        usable(&entry)?;
        modifiable(&entry)?;
        change(&state, entry.as_ref(), &body).await
    };
    let changed = changed.await;
    record.record(changed.as_ref().err().map(|refused| refused.message.as_str()));
    changed.map(|()| StatusCode::OK)
}

fn modifiable(entry: &Entry) -> Result<(), ApiError> {
    let reported = entry.object.status.as_ref().and_then(|status| status.attributes.as_ref());
    let modifiable = reported.and_then(|reported| reported.modifiable);
    if modifiable.unwrap_or_else(|| entry.object.spec.attributes.resolved().modifiable) {
        return Ok(());
    }
    let message = format!("the key '{}' is not modifiable, so its password stays as it is", entry.label);
    Err(ApiError::new(Code::Forbidden, message))
}

async fn change(state: &Shared, entry: &Entry, body: &ChangeBody) -> Result<(), ApiError> {
    let (old, new) = (Password::given(body.password.as_ref()), Password::given(body.new_password.as_ref()));
    for _ in 0..TRIES {
        // Not what a watch has: two who change it at once must both know what they change.
        let now = fresh(state, entry).await?;
        if now.object.uid() != entry.object.uid() {
            return Err(ApiError::no_key(&entry.label));
        }
        let done = match &now.object.spec.password {
            Some(reference) => again(state, &now, &reference.secret_name, old, new).await?,
            None => first(state, &now, old, new).await?,
        };
        if done == Replaced::Done {
            return Ok(());
        }
    }
    let message = format!("the key '{}' changes all the time; try again", entry.label);
    Err(ApiError::new(Code::Busy, message))
}

/// Changes the password of a key that has one, or had.
async fn again(
    state: &Shared,
    now: &Entry,
    secret: &str,
    old: Option<&Password>,
    new: Option<&Password>,
) -> Result<Replaced, ApiError> {
    let record = password::fresh_record(state, now, secret).await?;
    password::agrees(state, now, &record, old).await?;
    if record.hash.is_none() {
        if old.is_some() {
            return Err(password::mismatch(now));
        }
        if new.is_none() {
            return Ok(Replaced::Done);
        }
    }
    let namespace = now.object.namespace().unwrap_or_default();
    let hash = match new {
        Some(new) => Some(state.passwords.checker.hash(new, &namespace).await?),
        None => None,
    };
    let replaced = password::replace(state, secret, &record, hash.as_ref()).await?;
    if replaced == Replaced::Done {
        state.passwords.gave(&now.object, secret);
    }
    Ok(replaced)
}

/// Gives a key its first password.
async fn first(
    state: &Shared,
    now: &Entry,
    old: Option<&Password>,
    new: Option<&Password>,
) -> Result<Replaced, ApiError> {
    if old.is_some() {
        return Err(password::mismatch(now));
    }
    let Some(new) = new else { return Ok(Replaced::Done) };
    let (namespace, name) = (now.object.namespace().unwrap_or_default(), now.object.name_any());
    let laid = Laid::down(state, &namespace, &name, new).await?;
    let secret = laid.name.clone();
    // With UID and version: of two first passwords one is the first.
    let patch = json!({
        "metadata": { "uid": now.object.uid(), "resourceVersion": now.object.resource_version() },
        "spec": { "password": { "secretName": secret } },
    });
    let api = Api::<HsmKey>::namespaced(client(state)?, &namespace);
    let params = PatchParams { field_manager: Some(password::MANAGER.into()), ..PatchParams::default() };
    match timeout(LOOKUP_WAIT, api.patch(&name, &params, &Patch::Merge(&patch))).await {
        Ok(Ok(patched)) => {
            state.metrics.wrote("HsmKey", "patch");
            let took = patched.spec.password.as_ref().is_some_and(|has| has.secret_name == secret);
            if !took {
                laid.take_back(state).await;
                return Err(password::definition());
            }
            state.passwords.gave(&now.object, &secret);
            Ok(Replaced::Done)
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
            laid.take_back(state).await;
            Ok(Replaced::Changed)
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            laid.take_back(state).await;
            Err(ApiError::no_key(&now.label))
        }
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 422) => {
            laid.take_back(state).await;
            Err(ApiError::new(Code::Validation, status.message.clone()))
        }
        // It may have been written, and then the key has the password: the Secret stays where it is.
        Ok(Err(error)) => Err(api_error(&error)),
        Err(_) => Err(ApiError::new(Code::Busy, API_AWAY)),
    }
}
