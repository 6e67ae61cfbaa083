//! What every reconciler works with.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        events::{Event, EventType, Recorder},
        reflector::Store,
    },
};
use moka::sync::Cache;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::watch;

use super::{
    error::Error,
    inventory::{Inventories, Labels},
    probes::Probes,
    sessions::Measurements,
};
use crate::{
    api::{HsmKey, HsmPartition},
    hsm::Registry,
    service::{attest::Attestor, sign::Signer},
    telemetry::Metrics,
};

/// Field manager of everything that the controller writes.
pub const MANAGER: &str = "hsm-operator";

/// An object that is watched: malformed ones are seen, and do not hide the others.
pub type Guarded<K> = DeserializeGuard<K>;

/// Whether the token of a partition is reached, as this process found out; nothing where it does not know yet. What a
/// watch says of it may be older, or from another process.
#[derive(Default)]
pub struct Reached(Mutex<HashMap<String, bool>>);

impl Reached {
    /// Notes what was found out.
    pub fn set(&self, partition: &str, reached: Option<bool>) {
        let mut all = self.0.lock().expect("no panic while it is held");
        match reached {
            Some(reached) => all.insert(partition.to_owned(), reached),
            None => all.remove(partition),
        };
    }

    /// What was found out.
    #[must_use]
    pub fn get(&self, partition: &str) -> Option<bool> {
        self.0.lock().expect("no panic while it is held").get(partition).copied()
    }
}

/// Failures in a row, by object.
pub struct Failures(Cache<String, u32>);

/// Far beyond the longest pause between two tries: an object that did not fail for so long is gone.
const FORGIVEN: Duration = Duration::from_secs(3600);

impl Default for Failures {
    fn default() -> Self {
        Self(Cache::builder().time_to_live(FORGIVEN).build())
    }
}

impl Failures {
    /// Counts one more; how many there are.
    pub fn count(&self, object: &ObjectMeta) -> u32 {
        let uid = object.uid.clone().unwrap_or_default();
        self.0
            .entry(uid)
            .and_upsert_with(|before| before.map_or(0, |before| before.into_value()) + 1)
            .into_value()
    }

    /// It went well.
    pub fn forget(&self, object: &ObjectMeta) {
        self.0.invalidate(object.uid.as_deref().unwrap_or_default());
    }
}

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
    /// Which partitions' tokens are reached.
    pub reached: Reached,
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
    pub inventories: Inventories,
    /// What trying each token found out.
    pub probes: Probes,
    /// How many sessions of each token are worth it.
    pub sessions: Measurements,
    /// Labels on which a key is just being made.
    pub labels: Labels,
    /// How often an object is looked at when nothing happens.
    pub resync: Duration,
    /// Failures in a row.
    pub failures: Failures,
    /// Whether partitions, keys and namespaces were all read.
    pub filled: watch::Sender<bool>,
}

#[cfg(test)]
impl Context {
    /// For tests: of what else there is in the cluster it knows nothing.
    pub fn alone(client: Client, keys: Store<Guarded<HsmKey>>) -> Self {
        use kube::runtime::reflector::store;
        let metrics = Arc::new(Metrics::default());
        Self {
            namespace: "hsm-operator".into(),
            registry: Arc::new(Registry::new(Arc::clone(&metrics))),
            keys,
            partitions: store().0,
            namespaces: store().0,
            reached: Reached::default(),
            recorder: Recorder::new(client.clone(), "tests".into()),
            client,
            signer: Signer::new(Arc::clone(&metrics)),
            metrics,
            admission_checked: false,
            attestor: Attestor::default(),
            inventories: Inventories::default(),
            probes: Probes::default(),
            sessions: Measurements::default(),
            labels: Labels::default(),
            resync: Duration::from_secs(600),
            failures: Failures::default(),
            filled: watch::Sender::new(true),
        }
    }
}

impl Context {
    /// Now, in whole seconds: what a status can carry.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
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
        self.event_on(object.object_ref(&()), warning, reason, action, note).await;
    }

    /// The same of an object that is only known by reference.
    pub async fn event_on(
        &self,
        object: ObjectReference,
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
        if let Err(error) = self.recorder.publish(&event, &object).await {
            tracing::warn!(reason, error = %crate::telemetry::logs::chain(&error), "cannot write an event");
        }
    }

    /// Writes a status, as a whole, by server-side apply. With `locked` it is refused if the object changed
    /// since it was read. Returns the object as it is then.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn write_status<K, S>(
        &self,
        api: &Api<K>,
        object: &K,
        status: &S,
        locked: bool,
    ) -> Result<K, Error>
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
        let written = api
            .patch_status(&name, &params, &Patch::Apply(&patch))
            .await
            .map_err(|source| Error::WriteStatus { name, source: Box::new(source) })?;
        self.metrics.wrote(kind_name(&kind), "patch_status");
        Ok(written)
    }

    /// The API of a namespaced kind in the object's own namespace.
    pub fn api_of<K>(&self, object: &K) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }
}

/// A kind as metrics have it.
pub fn kind_name(kind: &str) -> &'static str {
    match kind {
        "HsmKey" => "HsmKey",
        "HsmPartition" => "HsmPartition",
        "SigningRequest" => "SigningRequest",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_counted_by_object() {
        let object = |uid: &str| ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() };
        let (failures, one, other) = (Failures::default(), object("one"), object("other"));
        assert_eq!([failures.count(&one), failures.count(&one), failures.count(&other)], [1, 2, 1]);
        failures.forget(&one);
        assert_eq!([failures.count(&one), failures.count(&other)], [1, 2]);
    }
}
