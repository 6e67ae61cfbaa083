//! The cluster under test: its API, its two tokens, and what a test may ask of them.

use std::{fmt::Debug, path::PathBuf, time::Duration};

use futures::{StreamExt, TryStreamExt};
use hsm_operator::api::HsmKey;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    core::NamespaceResourceScope,
    runtime::{WatchStreamExt, wait::await_condition, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::tools;

/// The operator's namespace.
pub const OPERATOR: &str = "hsm-operator";
/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The two tokens. Every test of a token runs on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// SoftHSM 2, partition `demo`.
    SoftHsm,
    /// kryoptic, partition `demo-kryoptic`.
    Kryoptic,
}

impl Token {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::SoftHsm, Self::Kryoptic];

    /// Does the same with both at once: most of a test's time is waiting.
    pub async fn with_both(test: impl AsyncFn(Self)) {
        futures::join!(test(Self::SoftHsm), test(Self::Kryoptic));
    }

    /// Name of the HsmPartition.
    pub const fn partition(self) -> &'static str {
        match self {
            Self::SoftHsm => "demo",
            Self::Kryoptic => "demo-kryoptic",
        }
    }
}

/// The cluster under test.
pub struct World {
    /// Cluster administrator.
    pub client: Client,
    /// The folder that pods see as `/hsm`.
    pub volume: PathBuf,
    _turn: Turn,
}

/// Tests run side by side, except those that break the operator for everyone or count what it does.
static TURNS: RwLock<()> = RwLock::const_new(());

enum Turn {
    Shared(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

impl World {
    /// Connects, and makes sure that both partitions are Ready.
    pub async fn new() -> Self {
        Self::at_turn(Turn::Shared(TURNS.read().await)).await
    }

    /// The same for a test that no other may run beside.
    pub async fn alone() -> Self {
        Self::at_turn(Turn::Alone(TURNS.write().await)).await
    }

    async fn at_turn(turn: Turn) -> Self {
        // Every test calls this; only the first installs.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_default().await.expect("KUBECONFIG names the cluster under test");
        let ca =
            PathBuf::from(std::env::var("GATEWAY_CA").expect("GATEWAY_CA is set by the cluster's env file"));
        let volume = ca.parent().expect("the CA is in the cluster's folder").join("volumes/hsm-demo");
        let world = Self { client, volume, _turn: turn };
        tools::apply(include_str!("../../config/samples/partition.yaml"));
        tools::apply(KRYOPTIC);
        for token in Token::BOTH {
            tools::kubectl(&[
                "wait",
                "hsmpartition",
                token.partition(),
                "--for=condition=Ready",
                "--timeout=90s",
            ]);
        }
        world
    }

    /// A new namespace with the restricted pod security, deleted by nobody: the cluster is thrown away.
    pub async fn namespace(&self, prefix: &str) -> String {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "generateName": format!("{prefix}-"),
                "labels": { "pod-security.kubernetes.io/enforce": "restricted" }
            }
        });
        let namespace: Namespace = serde_json::from_value(namespace).unwrap();
        let made = Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        made.name_any()
    }

    /// Waits for an event about an object; `namespace` is empty for one of the whole cluster.
    pub async fn event(&self, namespace: &str, name: &str, reason: &str) {
        let about = |event: &Event| {
            let regarding = event.regarding.clone().unwrap_or_default();
            regarding.name.as_deref() == Some(name)
                && regarding.namespace.unwrap_or_default() == namespace
                && event.reason.as_deref() == Some(reason)
        };
        let watched = watcher(Api::<Event>::all(self.client.clone()), watcher::Config::default());
        let mut seen = watched.default_backoff().applied_objects().boxed();
        let found = async { while !about(&seen.try_next().await.unwrap().expect("a watch does not end")) {} };
        let in_time = tokio::time::timeout(PATIENCE, found).await.is_ok();
        assert!(in_time, "no event {reason} of {namespace}/{name}");
    }

    /// Pods of a component of the operator.
    pub async fn pods(&self, component: &str) -> Vec<Pod> {
        let of = ListParams::default().labels(&format!("app.kubernetes.io/component={component}"));
        self.api::<Pod>(OPERATOR).list(&of).await.unwrap().items
    }

    /// The API of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Makes an HsmKey on a token; `spec` adds to or replaces what is usual (P-256, signing, destroyable).
    pub async fn make_key(
        &self,
        namespace: &str,
        name: &str,
        token: Token,
        spec: serde_json::Value,
    ) -> HsmKey {
        let mut full = json!({
            "partitionRef": { "name": token.partition() },
            // Labels are unique on a partition, and the partition is shared by all tests.
            "label": format!("{namespace}.{name}"),
            "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7",
            "attributes": { "sign": true, "destroyable": true },
        });
        merge(&mut full, spec);
        let key = HsmKey::new(name, serde_json::from_value(full).unwrap());
        self.api::<HsmKey>(namespace).create(&PostParams::default(), &key).await.unwrap()
    }

    /// Waits for an object to be as described, or shows it and fails.
    pub async fn until<K>(
        &self,
        api: &Api<K>,
        name: &str,
        what: &str,
        is: impl Fn(&K) -> bool + Send + 'static,
    ) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let condition = move |object: Option<&K>| object.is_some_and(&is);
        match tokio::time::timeout(PATIENCE, await_condition(api.clone(), name, condition)).await {
            Ok(Ok(object)) => object.expect("the condition saw it"),
            Ok(Err(error)) => panic!("waiting for {name} to be {what}: {error}"),
            Err(_) => panic!("{name} is not {what} in time: {:#?}", api.get_opt(name).await),
        }
    }

    /// Waits for a key to be Ready.
    pub async fn ready(&self, namespace: &str, name: &str) -> HsmKey {
        self.until(&self.api::<HsmKey>(namespace), name, "Ready", HsmKey::is_ready).await
    }

    /// Waits for a key's Ready condition to have a reason.
    pub async fn key_with_reason(&self, namespace: &str, name: &str, reason: &'static str) -> HsmKey {
        let is = move |key: &HsmKey| ready_reason(key) == Some(reason);
        self.until(&self.api::<HsmKey>(namespace), name, reason, is).await
    }

    /// Deletes an object and waits until it is gone.
    pub async fn delete<K>(&self, api: &Api<K>, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let _ = api.delete(name, &DeleteParams::default()).await.unwrap();
        self.gone(api, name).await;
    }

    /// Waits until an object is gone.
    pub async fn gone<K>(&self, api: &Api<K>, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let gone = await_condition(api.clone(), name, |object: Option<&K>| object.is_none());
        tokio::time::timeout(PATIENCE, gone).await.expect("it goes in time").unwrap();
    }
}

/// Reason of a key's Ready condition.
pub fn ready_reason(key: &HsmKey) -> Option<&str> {
    let conditions = &key.status.as_ref()?.conditions;
    Some(hsm_operator::api::condition::find(conditions, "Ready")?.reason.as_str())
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    if let (Some(into), serde_json::Value::Object(from)) = (into.as_object_mut(), from) {
        for (key, value) in from {
            if value.is_null() {
                into.remove(&key);
            } else {
                into.insert(key, value);
            }
        }
    }
}

/// The partition of the kryoptic token.
pub const KRYOPTIC: &str = r"
apiVersion: hsm-operator.io/v1alpha1
kind: HsmPartition
metadata: {name: demo-kryoptic}
spec:
  pkcs11:
    library: /hsm/lib/libkryoptic.so
    tokenLabel: demo-kryoptic
    pinSecretRef: {name: hsm-demo-pin, key: pin}
    environment:
    - {name: KRYOPTIC_CONF, value: /hsm/kryoptic/token.conf}
  allowedNamespaces: {}
  # It holds one lock: a second session makes it slower.
  sessions: 1
";
