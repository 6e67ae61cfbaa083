//! Reconcilers, run by the replica that holds the lease.

mod context;
mod error;
pub mod gateway_tls;
mod inventory;
mod key;
pub mod lease;
mod malformed;
mod partition;
mod password;
mod probes;
mod sessions;
mod signing_request;

use std::{
    fmt::Debug,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        Controller, WatchStreamExt,
        controller::{Action, Config},
        events::{Recorder, Reporter},
        reflector::{self, ObjectRef},
        watcher,
    },
};
use moka::sync::Cache;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    context::{Context, Guarded},
    error::Error,
};
use crate::{
    api::{HsmKey, HsmPartition, SigningRequest, condition, signing_request::State},
    hsm::Registry,
    service::{attest::Attestor, sign::Signer},
    telemetry::Metrics,
    watch::{Unpaused, changes},
};

/// Reconciles of one kind at the same time.
const CONCURRENCY: u16 = 16;
/// The same of keys: of those that wait for a token, all share one look at it, which costs more the more is on it.
const KEYS_AT_ONCE: u16 = 64;

/// What the controller is started with.
pub struct Settings {
    /// The API server.
    pub client: Client,
    /// The operator's namespace.
    pub namespace: String,
    /// Name of this replica, for events.
    pub replica: String,
    /// The admission policies are installed: they vouch for the requester of a SigningRequest.
    pub admission_checked: bool,
    /// Tokens.
    pub registry: Arc<Registry>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// How often an object is looked at when nothing happens.
    pub resync: Duration,
}

/// Reconciles until `end`.
pub async fn run(settings: Settings, end: CancellationToken) {
    let Settings { client, namespace, replica, admission_checked, registry, metrics, resync } = settings;
    let reporter = Reporter { controller: "hsm-operator".into(), instance: Some(replica) };

    let partitions = of(Api::<Guarded<HsmPartition>>::all(client.clone()));
    let keys = of(Api::<Guarded<HsmKey>>::all(client.clone()));
    let requests = of(Api::<Guarded<SigningRequest>>::all(client.clone()));
    let (namespaces, writer) = reflector::store();
    let namespace_watch = changes(Api::<Namespace>::all(client.clone()));
    let namespace_watch = reflector::reflector(writer, namespace_watch).for_each(|_| std::future::ready(()));

    let ctx = Arc::new(Context {
        client: client.clone(),
        namespace: namespace.clone(),
        registry: Arc::clone(&registry),
        keys: keys.store(),
        partitions: partitions.store(),
        reached: context::Reached::default(),
        namespaces: namespaces.clone(),
        recorder: Recorder::new(client.clone(), reporter),
        admission_checked,
        attestor: Attestor::default(),
        signer: Signer::new(Arc::clone(&metrics)),
        metrics,
        inventories: inventory::Inventories::default(),
        probes: probes::Probes::default(),
        sessions: sessions::Measurements::default(),
        labels: inventory::Labels::default(),
        resync,
        failures: context::Failures::default(),
        filled: watch::Sender::new(false),
    });
    // A store wakes only the last of those that wait for it, and the controllers wait, too: so nobody else may
    // but this task, which is theirs.
    let filling = Arc::clone(&ctx);
    let fill = async move {
        let _ = filling.partitions.wait_until_ready().await;
        let _ = filling.keys.wait_until_ready().await;
        let _ = filling.namespaces.wait_until_ready().await;
        filling.filled.send_replace(true);
    };

    // A partition is looked at when its PIN changes, when a key of it comes, goes or is missed, and when its token's
    // state changes.
    let by_secret = partitions.store();
    let states = stream::unfold(registry.changes(), |mut changes| async move {
        changes.changed().await.ok()?;
        Some(((), changes))
    });
    let counted = Changed::default();
    let partitions = partitions
        .watches_stream(touched(Api::<Secret>::namespaced(client.clone(), &namespace)), move |secret| {
            let named = by_secret.state_filter(|guarded| {
                guarded.0.as_ref().is_ok_and(|one| one.has_pin_in(&secret.name_any()))
            });
            named.iter().map(|one| ObjectRef::from_obj(&**one)).collect::<Vec<_>>()
        })
        .watches_stream(
            touched(Api::<Guarded<HsmKey>>::all(client.clone())),
            move |guarded: Guarded<HsmKey>| {
                let key = guarded.0.as_ref().ok()?;
                let facts = (
                    key.status.as_ref().and_then(|status| status.key_id.clone()),
                    key.metadata.deletion_timestamp.is_some(),
                    partition::objects::says_missing(key),
                );
                let changed = counted.see(key, facts);
                changed.then(|| ObjectRef::new(&key.spec.partition_ref.name))
            },
        )
        .reconcile_all_on(states)
        .with_config(Config::default().concurrency(4).debounce(Duration::from_secs(1)))
        .graceful_shutdown_on(end.clone().cancelled_owned())
        .run(
            |object, ctx| observed("partition", partition::reconcile, object, ctx),
            |object, _, ctx| retry(&object, &ctx),
            Arc::clone(&ctx),
        )
        .for_each(|_| std::future::ready(()));

    // A key is looked at when what matters of its partition or namespace changes, when an older claim on its
    // label goes, and when it was missed on the token or in the list of what is there.
    let (by_partition, by_namespace, by_label) = (keys.store(), keys.store(), keys.store());
    let (relevant, missing) = (Changed::default(), Changed::default());
    let labels = Changed::default();
    let keys = keys
        .watches_stream(
            touched(Api::<Guarded<HsmPartition>>::all(client.clone())),
            move |guarded: Guarded<HsmPartition>| {
                let Ok(partition) = &guarded.0 else { return Vec::new() };
                let status = partition.status.as_ref();
                let gone = status.and_then(|status| status.inventory.as_ref()).map(|one| &one.missing.keys);
                let name = partition.name_any();
                let facts = (
                    partition.metadata.generation,
                    // This watch may be ahead of the reconcilers' copy, and the observed one is what they have.
                    status.and_then(|status| status.observed_generation),
                    status.is_some_and(|status| condition::is_true(&status.conditions, condition::READY)),
                    status.and_then(|status| status.attestation.as_ref()).map(|one| one.chain.clone()),
                );
                let all = relevant.see(partition, facts);
                let some = missing.see(partition, gone.cloned());
                if !all && !some {
                    return Vec::new();
                }
                refs(&by_partition.state_filter(|key| {
                    let of_it = key.0.as_ref().is_ok_and(|key| key.spec.partition_ref.name == name);
                    of_it && (all || gone.is_some_and(|gone| gone.contains(&key::name_of(key))))
                }))
            },
        )
        .watches_stream(touched(Api::<Namespace>::all(client.clone())), move |namespace: Namespace| {
            if !labels.see(&namespace, namespace.labels().clone()) {
                return Vec::new();
            }
            let name = namespace.name_any();
            refs(&by_namespace.state_filter(|key| key.namespace().as_deref() == Some(&name)))
        })
        .watches_stream(
            touched(Api::<Guarded<HsmKey>>::all(client.clone())),
            move |guarded: Guarded<HsmKey>| {
                let Ok(gone) = &guarded.0 else { return Vec::new() };
                if gone.metadata.deletion_timestamp.is_none() {
                    return Vec::new();
                }
                let label = gone.label();
                refs(&by_label.state_filter(|key| {
                    key.0.as_ref().is_ok_and(|key| {
                        key.label() == label
                            && key.spec.partition_ref == gone.spec.partition_ref
                            && key.uid() != gone.uid()
                    })
                }))
            },
        )
        .watches_stream(
            touched(Api::<Guarded<SigningRequest>>::all(client.clone())),
            |guarded: Guarded<SigningRequest>| {
                let request = guarded.0.as_ref().ok()?;
                let stalled = condition::find(&request.status.as_ref()?.conditions, condition::STALLED)?;
                let missed = stalled.reason == "MissingOnToken";
                missed.then(|| {
                    ObjectRef::new(&request.spec.key_ref.name)
                        .within(&request.namespace().unwrap_or_default())
                })
            },
        )
        .with_config(Config::default().concurrency(KEYS_AT_ONCE))
        .graceful_shutdown_on(end.clone().cancelled_owned())
        .run(
            |object, ctx| observed("key", key::reconcile, object, ctx),
            |object, _, ctx| retry(&object, &ctx),
            Arc::clone(&ctx),
        )
        .for_each(|_| std::future::ready(()));

    // A request is looked at when its key changes.
    let by_key = requests.store();
    let requests = requests
        .watches_stream(touched(Api::<Guarded<HsmKey>>::all(client)), move |guarded: Guarded<HsmKey>| {
            let Ok(key) = &guarded.0 else { return Vec::new() };
            if !key.is_ready() {
                return Vec::new();
            }
            let waiting = by_key.state_filter(|request| {
                request.0.as_ref().is_ok_and(|request| {
                    request.namespace() == key.namespace()
                        && request.spec.key_ref.name == key.name_any()
                        && !request
                            .status
                            .as_ref()
                            .and_then(|status| status.state)
                            .is_some_and(State::is_final)
                })
            });
            refs(&waiting)
        })
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(end.clone().cancelled_owned())
        .run(
            |object, ctx| observed("signing_request", signing_request::reconcile, object, ctx),
            |object, _, ctx| retry(&object, &ctx),
            Arc::clone(&ctx),
        )
        .for_each(|_| std::future::ready(()));

    let watch_namespaces = async {
        tokio::select! {
            () = namespace_watch => {}
            () = end.cancelled() => {}
        }
    };
    let fill = async {
        tokio::select! {
            () = fill => {}
            () = end.cancelled() => {}
        }
    };
    let tidy = async {
        tokio::select! {
            () = password::keep_tidy(&ctx) => {}
            () = end.cancelled() => {}
        }
    };
    futures::join!(partitions, keys, requests, watch_namespaces, fill, tidy);
}

/// A controller of what `api` lists.
fn of<K>(api: Api<K>) -> Controller<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    Controller::for_stream(reflector::reflector(writer, changes(api)).applied_objects(), store)
        .trigger_backoff(Unpaused)
}

/// What changes or goes of that which `api` lists.
fn touched<K>(api: Api<K>) -> impl Stream<Item = watcher::Result<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    changes(api).touched_objects()
}

fn refs<K: Resource<DynamicType = ()>>(objects: &[Arc<K>]) -> Vec<ObjectRef<K>> {
    objects.iter().map(|object| ObjectRef::from_obj(&**object)).collect()
}

/// Remembers what was seen of each object, to tell a change that matters from one that does not.
struct Changed<V>(Cache<String, V>);

/// An object whose end no watch has shown is forgotten when nothing was seen of it for so long. One that is forgotten and
/// still there is looked at once too often.
const UNSEEN: Duration = Duration::from_secs(24 * 3600);

impl<V: Clone + Send + Sync + 'static> Default for Changed<V> {
    fn default() -> Self {
        Self(Cache::builder().time_to_idle(UNSEEN).build())
    }
}

impl<V: PartialEq + Clone + Send + Sync + 'static> Changed<V> {
    fn see<K: Resource>(&self, object: &K, facts: V) -> bool {
        let uid = object.meta().uid.clone().unwrap_or_default();
        // The last that is seen of an object is that its finalizers are gone.
        if object.meta().deletion_timestamp.is_some() && object.finalizers().is_empty() {
            self.0.invalidate(&uid);
            return true;
        }
        let changed = self.0.get(&uid).as_ref() != Some(&facts);
        if changed {
            self.0.insert(uid, facts);
        }
        changed
    }
}

/// Runs a reconcile once all objects are known, and counts, times and logs it.
async fn observed<K, F>(
    name: &'static str,
    reconcile: impl FnOnce(Arc<K>, Arc<Context>) -> F,
    object: Arc<K>,
    ctx: Arc<Context>,
) -> Result<Action, Error>
where
    K: Resource<DynamicType = ()>,
    F: Future<Output = Result<Action, Error>>,
{
    // A store that is not filled yet would make an existing object look missing.
    let _ = ctx.filled.subscribe().wait_for(|filled| *filled).await;
    let started = Instant::now();
    let result = reconcile(Arc::clone(&object), Arc::clone(&ctx)).await;
    let outcome = result.as_ref().map_or_else(Error::category, |_| "ok");
    ctx.metrics.reconciled(name, outcome, started.elapsed());
    match &result {
        Ok(_) => {
            ctx.failures.forget(object.meta());
            tracing::debug!(
                kind = name,
                namespace = object.namespace(),
                name = object.name_any(),
                elapsed_ms = started.elapsed().as_millis(),
                "reconciled"
            );
        }
        Err(error) => tracing::warn!(
            kind = name,
            namespace = object.namespace(),
            name = object.name_any(),
            category = error.category(),
            error = crate::telemetry::logs::chain(error),
            "reconcile failed"
        ),
    }
    result
}

fn retry<K: Resource<DynamicType = ()>>(object: &Arc<K>, ctx: &Arc<Context>) -> Action {
    Action::requeue(error::backoff(ctx.failures.count(object.meta())))
}

/// A duration with a tenth of jitter, so that many objects are not looked at in one moment.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.95 + 0.1 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn what_was_seen_of_an_object_is_forgotten_with_its_last_finalizer() {
        let changed = Changed::default();
        let mut object = Namespace::default();
        (object.metadata.uid, object.metadata.finalizers) = (Some("u".into()), Some(vec!["f".into()]));
        assert_eq!(
            [changed.see(&object, 1), changed.see(&object, 1), changed.see(&object, 2)],
            [true, false, true]
        );
        object.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert!(!changed.see(&object, 2));
        object.metadata.finalizers = None;
        assert!(changed.see(&object, 2));
        changed.0.run_pending_tasks();
        assert_eq!(changed.0.entry_count(), 0);
    }
}
