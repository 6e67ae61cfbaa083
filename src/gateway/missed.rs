//! Tells the controller of a key that the token does not have although its object says Ready.

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use moka::sync::Cache;
use serde_json::json;

use crate::{
    api::{HsmKey, MISSED},
    hsm::protocol::{HsmError, Kind},
    service::directory::Entry,
    telemetry::logs,
};

/// How often the same key is told of: callers go on asking until its object says what is wrong.
const PAUSE: Duration = Duration::from_secs(60);

/// Keys that the controller was told of a moment ago, by the UID of their objects.
pub struct Missed(Cache<String, ()>);

impl Default for Missed {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(10_000).time_to_live(PAUSE).build())
    }
}

impl Missed {
    /// Has the controller look at the token again if `error` says that it and the object disagree. Nobody waits for
    /// it: the caller's own answer is the token's.
    pub fn note(&self, client: Option<&Client>, entry: &Entry, error: &HsmError) {
        let (Some(client), Kind::KeyNotFound | Kind::Ambiguous) = (client, error.kind) else { return };
        let Some(uid) = entry.object.uid() else { return };
        let told = self.0.entry(uid.clone()).or_insert(());
        if !told.is_fresh() {
            return;
        }
        let (namespace, name) = (entry.object.namespace().unwrap_or_default(), entry.object.name_any());
        let api = Api::<HsmKey>::namespaced(client.clone(), &namespace);
        tokio::spawn(async move {
            // With the UID, an object of the same name made meanwhile is not meant.
            let patch = json!({ "metadata": { "uid": uid, "annotations": { MISSED: Timestamp::now().to_string() } } });
            let told = api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            if let Err(error) = told {
                // Whoever misses it next, after the pause, tries again.
                tracing::warn!(namespace, name, error = %logs::chain(&error), "cannot tell of a missing key");
            }
        });
    }
}
