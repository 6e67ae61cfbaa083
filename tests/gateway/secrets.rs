//! Secrets, as an API server keeps them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

use crate::{
    lifecycle::{merge, status},
    world::OPERATOR,
};

#[derive(Clone, Default)]
struct Secrets(Arc<Mutex<BTreeMap<String, Value>>>);

impl Secrets {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap()
    }
}

/// Those of the operator's namespace.
pub fn router() -> Router {
    let secrets = format!("/api/v1/namespaces/{OPERATOR}/secrets");
    Router::new()
        .route(&secrets, post(create))
        .route(&format!("{secrets}/{{name}}"), get(read).patch(patch).delete(delete))
        .with_state(Secrets::default())
}

async fn create(State(secrets): State<Secrets>, Json(mut secret): Json<Value>) -> Response {
    secret["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
    secret["metadata"]["resourceVersion"] = json!("1");
    let name = secret["metadata"]["name"].as_str().unwrap().to_owned();
    if secrets.all().contains_key(&name) {
        return status(409, "it exists");
    }
    secrets.all().insert(name, secret.clone());
    (StatusCode::CREATED, Json(secret)).into_response()
}

async fn read(State(secrets): State<Secrets>, Path(name): Path<String>) -> Response {
    secrets.all().get(&name).map_or_else(|| status(404, "not found"), |secret| Json(secret).into_response())
}

async fn patch(
    State(secrets): State<Secrets>,
    Path(name): Path<String>,
    Json(change): Json<Value>,
) -> Response {
    let mut all = secrets.all();
    let Some(secret) = all.get_mut(&name) else { return status(404, "not found") };
    for member in ["uid", "resourceVersion"] {
        let wanted = &change["metadata"][member];
        if !wanted.is_null() && *wanted != secret["metadata"][member] {
            return status(409, "the object has been modified");
        }
    }
    let version: u64 = secret["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    merge(secret, &change);
    secret["metadata"]["resourceVersion"] = json!((version + 1).to_string());
    Json(&*secret).into_response()
}

async fn delete(
    State(secrets): State<Secrets>,
    Path(name): Path<String>,
    Json(options): Json<Value>,
) -> Response {
    let mut all = secrets.all();
    let Some(secret) = all.get(&name) else { return status(404, "not found") };
    if secret["metadata"]["uid"] != options["preconditions"]["uid"] {
        return status(409, "the UID in the precondition does not match");
    }
    Json(all.remove(&name)).into_response()
}
