//! What every reconciler works with.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Instant,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        events::{Event, EventType, Recorder},
        reflector::Store,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::watch;

use super::error::Error;
use crate::{
    api::{HsmKey, HsmPartition},
    hsm::Registry,
    model::KeyId,
    service::{attest::Attestor, sign::Signer},
    telemetry::Metrics,
};

/// Field manager of everything that the controller writes.
pub const MANAGER: &str = "hsm-operator";

/// An object that is watched: malformed ones are seen, and do not hide the others.
pub type Guarded<K> = DeserializeGuard<K>;

/// What every reconciler works with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The operator's own namespace, where PINs are.
    pub namespace: String,
    /// Tokens.
    pub registry: Arc<Registry>,
    /// All HsmKeys.
    pub keys: Store<Guarded<HsmKey>>,
    /// All HsmPartitions.
    pub partitions: Store<Guarded<HsmPartition>>,
    /// All namespaces, for their labels.
    pub namespaces: Store<Namespace>,
    /// Events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The admission policies are installed: they vouch for `spec.requester`.
    pub admission_checked: bool,
    /// Makes attestations.
    pub attestor: Attestor,
    /// Makes signatures.
    pub signer: Signer,
    /// What was on each token when it was last asked.
    pub inventories: Mutex<HashMap<String, Arc<Inventory>>>,
    /// Failures in a row, by object.
    pub failures: Mutex<HashMap<String, u32>>,
    /// Whether partitions, keys and namespaces were all read.
    pub filled: watch::Sender<bool>,
}

/// What was on a token when it was asked.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Identifiers of private and secret keys.
    pub private: HashSet<KeyId>,
    /// All of them with their labels.
    pub keys: Vec<(Option<KeyId>, String)>,
    /// When it was asked.
    pub taken: Instant,
}

impl Context {
    /// Now, in whole seconds: what a status can carry.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    /// What was on the token of a partition when it was last asked, in this process.
    #[must_use]
    pub fn inventory(&self, partition: &str) -> Option<Arc<Inventory>> {
        self.inventories.lock().expect("no panic while it is held").get(partition).cloned()
    }

    /// A key was seen on its token since the last inventory.
    pub fn saw(&self, partition: &str, id: &KeyId) {
        let mut all = self.inventories.lock().expect("no panic while it is held");
        if let Some(seen) = all.get_mut(partition).filter(|seen| !seen.private.contains(id)) {
            Arc::make_mut(seen).private.insert(id.clone());
        }
    }

    /// A key was missed on its token: the next look asks the token again.
    pub fn missed(&self, partition: &str, id: &KeyId) {
        let mut all = self.inventories.lock().expect("no panic while it is held");
        if let Some(seen) = all.get_mut(partition).filter(|seen| seen.private.contains(id)) {
            Arc::make_mut(seen).private.remove(id);
        }
    }

    /// Says once that something happened. An event that cannot be written is only logged.
    pub async fn event<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        warning: bool,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.into(),
            note: Some(note.chars().take(1000).collect()),
            action: action.into(),
            secondary: None,
        };
        self.metrics.wrote("Event", "create");
        if let Err(error) = self.recorder.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(reason, error = %crate::telemetry::logs::chain(&error), "cannot write an event");
        }
    }

    /// Writes a status, as a whole, by server-side apply. With `locked` it is refused if the object changed
    /// since it was read.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn write_status<K, S>(
        &self,
        api: &Api<K>,
        object: &K,
        status: &S,
        locked: bool,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug,
        S: Serialize,
    {
        let (kind, name) = (K::kind(&()), object.name_any());
        let mut metadata = json!({ "name": name });
        if locked {
            metadata["resourceVersion"] = json!(object.resource_version());
        }
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": kind,
            "metadata": metadata,
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        api.patch_status(&name, &params, &Patch::Apply(&patch))
            .await
            .map_err(|source| Error::WriteStatus { name, source: Box::new(source) })?;
        self.metrics.wrote(kind_name(&kind), "patch_status");
        Ok(())
    }

    /// The API of a namespaced kind in the object's own namespace.
    pub fn api_of<K>(&self, object: &K) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }
}

fn kind_name(kind: &str) -> &'static str {
    match kind {
        "HsmKey" => "HsmKey",
        "HsmPartition" => "HsmPartition",
        "SigningRequest" => "SigningRequest",
        _ => "other",
    }
}
