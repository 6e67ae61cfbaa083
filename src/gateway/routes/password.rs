//! Passwords of keys: asked for before a key is used for somebody, and kept as hashes in Secrets.

use std::{fmt::Display, future::Future, sync::Arc};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::timeout;

use super::keys::{API_AWAY, LOOKUP_WAIT, api_error, client};
use crate::{
    api::{HsmKey, password::new_secret_name},
    gateway::{
        Shared,
        error::{ApiError, Code},
    },
    model::Password,
    service::{
        audit::Use,
        directory::Entry,
        password::{self, Full, Hash, Record},
    },
};

/// Who writes the Secrets, as the API server notes it.
pub const MANAGER: &str = "hsm-operator-gateway";

/// Checks the password that was given for a key, before anything is done with it. A key without a password takes any.
///
/// # Errors
/// 620 where it is missing or wrong; 500 with 700 where nobody can tell, which a person has to put right; 503 where too many
/// are being checked.
pub async fn check(state: &Shared, entry: &Entry, given: Option<&Password>) -> Result<(), ApiError> {
    let Some(name) = state.passwords.secret_of(&entry.object) else { return Ok(()) };
    let record = record(state, entry, &name).await?;
    agrees(state, entry, &record, given).await
}

/// The same for what is done with a key on behalf of somebody: a refusal is recorded.
///
/// # Errors
/// As [`check`].
pub async fn unlock(
    state: &Shared,
    entry: &Entry,
    given: Option<&Password>,
    record: &Use<'_>,
) -> Result<(), ApiError> {
    let decision = check(state, entry, given).await;
    decision.inspect_err(|refused| record.record(Some(&refused.message)))
}

/// The same where the contract has a password and does not need it: one that was given has to be right.
///
/// # Errors
/// As [`check`].
pub async fn check_if_given(state: &Shared, entry: &Entry, given: Option<&Password>) -> Result<(), ApiError> {
    match Password::given(given) {
        Some(given) => check(state, entry, Some(given)).await,
        None => Ok(()),
    }
}

/// Whether what was given is what the record says.
pub async fn agrees(
    state: &Shared,
    entry: &Entry,
    record: &Record,
    given: Option<&Password>,
) -> Result<(), ApiError> {
    let Some(hash) = &record.hash else { return Ok(()) };
    let given = Password::given(given).ok_or_else(|| mismatch(entry))?;
    let namespace = entry.object.namespace().unwrap_or_default();
    match state.passwords.checker.is_right(record, hash, given, &namespace).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(mismatch(entry)),
        Err(full) => Err(full.into()),
    }
}

/// What is said of a password that is missing or wrong.
pub fn mismatch(entry: &Entry) -> ApiError {
    ApiError::new(Code::Password, format!("Key password mismatch for key '{}'.", entry.label))
}

impl From<Full> for ApiError {
    fn from(full: Full) -> Self {
        Self::new(Code::Busy, full.to_string())
    }
}

/// What is kept of a key's password, as the watch has it, or the API server where the watch has not seen it yet.
async fn record(state: &Shared, entry: &Entry, name: &str) -> Result<Arc<Record>, ApiError> {
    let record = match state.passwords.record(name) {
        Some(known) => known.map_err(|why| unknown(state, entry, name, why))?,
        None => Arc::new(read(state, entry, name).await?),
    };
    theirs(state, entry, name, &record).map(|()| record)
}

/// The same as the API server has it now.
pub async fn fresh_record(state: &Shared, entry: &Entry, name: &str) -> Result<Record, ApiError> {
    let record = read(state, entry, name).await?;
    theirs(state, entry, name, &record).map(|()| record)
}

async fn read(state: &Shared, entry: &Entry, name: &str) -> Result<Record, ApiError> {
    let found = asked(secrets(state)?.get_opt(name)).await?;
    let secret = found.ok_or_else(|| unknown(state, entry, name, "does not exist"))?;
    Record::of(&secret).map_err(|why| unknown(state, entry, name, why))
}

fn theirs(state: &Shared, entry: &Entry, name: &str, record: &Record) -> Result<(), ApiError> {
    let namespace = entry.object.namespace().unwrap_or_default();
    if record.is_about(&namespace, &entry.object.name_any()) {
        return Ok(());
    }
    Err(unknown(state, entry, name, "is about another key"))
}

/// The key has a password and nobody knows which: it is not used until a person has put that right.
fn unknown(state: &Shared, entry: &Entry, name: &str, why: impl Display) -> ApiError {
    let message = format!(
        "the password of the key '{}' cannot be checked: Secret {}/{name} {why}; restore it, or make a new key",
        entry.label, state.passwords.namespace
    );
    tracing::error!(namespace = entry.object.namespace(), key = entry.label, "{message}");
    ApiError::new(Code::Subsystem, message)
}

fn secrets(state: &Shared) -> Result<Api<Secret>, ApiError> {
    Ok(Api::namespaced(client(state)?, &state.passwords.namespace))
}

/// Waits for the API server for as long as a request does.
pub async fn asked<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApiError> {
    let answered = timeout(LOOKUP_WAIT, call).await;
    answered.map_err(|_| ApiError::new(Code::Busy, API_AWAY))?.map_err(|error| match error {
        // Its roles or the admission policy are of another version: nothing that passes by itself.
        kube::Error::Api(status) if status.code == 403 => {
            tracing::error!(error = status.message, "the gateway lacks a permission");
            ApiError::new(Code::General, format!("the gateway lacks a permission: {}", status.message))
        }
        error => api_error(&error),
    })
}

/// The Secret of a password that no key refers to yet. If none ever does, the controller takes it away.
pub struct Laid {
    /// Its name.
    pub name: String,
    secret: Secret,
}

impl Laid {
    /// Makes it.
    pub async fn down(
        state: &Shared,
        namespace: &str,
        name: &str,
        password: &Password,
    ) -> Result<Self, ApiError> {
        let hash = state.passwords.checker.hash(password, namespace).await?;
        let own = new_secret_name();
        let secret = password::secret(&own, namespace, name, &hash);
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let secret = asked(secrets(state)?.create(&params, &secret)).await?;
        state.metrics.wrote("Secret", "create");
        state.passwords.wrote(&secret);
        Ok(Self { name: own, secret })
    }

    /// Takes it away again: its key did not come to be.
    pub async fn take_back(self, state: &Shared) {
        let only_this = Preconditions { uid: self.secret.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        let Ok(api) = secrets(state) else { return };
        state.metrics.wrote("Secret", "delete");
        // Where that fails, the controller does it.
        if asked(api.delete(&self.name, &params)).await.is_ok() {
            state.passwords.gone(&self.name);
        }
    }
}

/// What came of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is written.
    Done,
    /// Somebody else was faster.
    Changed,
}

/// Writes another password, or none, over the one that was read.
pub async fn replace(
    state: &Shared,
    name: &str,
    read: &Record,
    hash: Option<&Hash>,
) -> Result<Replaced, ApiError> {
    let mut change = password::changed(hash);
    change["metadata"] = json!({ "uid": read.uid, "resourceVersion": read.version });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match timeout(LOOKUP_WAIT, secrets(state)?.patch(name, &params, &Patch::Merge(&change))).await {
        Ok(Ok(secret)) => {
            state.metrics.wrote("Secret", "patch");
            state.passwords.wrote(&secret);
            Ok(Replaced::Done)
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(Replaced::Changed),
        Ok(Err(error)) => Err(api_error(&error)),
        Err(_) => Err(ApiError::new(Code::Busy, API_AWAY)),
    }
}

/// Whether an API server took the members that a key without them would be another key: an older definition of the kind drops
/// what it does not know.
pub fn is_whole(wanted: &HsmKey, made: &HsmKey) -> Result<(), ApiError> {
    let (wanted, made) = (&wanted.spec, &made.spec);
    if made.password == wanted.password
        && made.policy == wanted.policy
        && made.source == wanted.source
        && made.derived_from == wanted.derived_from
        && made.address_format == wanted.address_format
    {
        return Ok(());
    }
    Err(definition())
}

/// What is said of an API server with an older definition of keys.
pub fn definition() -> ApiError {
    let message = "the cluster's definition of HsmKey knows no passwords, policies, imports, derivation or addresses: install the CRDs of this version";
    ApiError::new(Code::General, message)
}
