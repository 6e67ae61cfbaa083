//! A small steady stream of HsmKeys and SigningRequests, and what became of each.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::{StreamExt, TryStreamExt};
use hsm_operator::api::{HsmKey, SigningRequest, condition, signing_request};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{host::Object, load::Target};

/// Every so many objects, a key.
const KEY_EVERY: u64 = 3;
/// From one try to make an object to the next.
const AGAIN: Duration = Duration::from_millis(200);

/// What a watch has seen of an object.
#[derive(Clone, Debug, Default)]
struct State {
    /// When it was Ready, or signed, first.
    done: Option<Instant>,
    /// CKA_ID of the key.
    key_id: Option<String>,
    /// It was given up.
    failed: bool,
    /// Every signature that was ever published.
    signatures: BTreeSet<String>,
    /// Why it is not done, in its own words.
    says: String,
}

impl State {
    const fn ended(&self) -> bool {
        self.done.is_some() || self.failed
    }
}

/// Objects by kind and name.
#[derive(Default)]
struct Seen(Mutex<HashMap<(&'static str, String), State>>);

impl Seen {
    fn states(&self) -> MutexGuard<'_, HashMap<(&'static str, String), State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The objects of a namespace.
pub struct Objects {
    client: Client,
    namespace: String,
    partition: String,
    seen: Arc<Seen>,
    changed: watch::Sender<u64>,
    _watches: [AbortOnDropHandle<()>; 2],
}

/// Objects that were made.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    keys: Vec<String>,
    requests: Vec<String>,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    pub made: usize,
    pub done: usize,
    pub wrong: u64,
    /// Neither done nor given up, or gone.
    pub lost: u64,
    pub doubled: u64,
    /// Requests that were given up.
    pub failed: u64,
    /// What is not as it should be.
    pub why: Vec<String>,
    /// Why the last of those that were given up was.
    pub given_up: String,
    /// When the last of them was done.
    pub last: Option<Instant>,
}

impl Objects {
    pub fn new(client: &Client, namespace: &str, partition: &str) -> Self {
        let (seen, changed) = (Arc::<Seen>::default(), watch::Sender::new(0));
        let keys =
            follow(Api::namespaced(client.clone(), namespace), &seen, &changed, "HsmKey", |key, state| {
                look_at_key(key, state);
            });
        let requests = Api::namespaced(client.clone(), namespace);
        let requests = follow(requests, &seen, &changed, "SigningRequest", |request, state| {
            look_at_request(request, state);
        });
        Self {
            client: client.clone(),
            namespace: namespace.into(),
            partition: partition.into(),
            seen,
            changed,
            _watches: [keys, requests],
        }
    }

    /// Makes an object at every step until told to stop.
    pub async fn stream(&self, prefix: &str, step: Duration, stop: &CancellationToken) -> Batch {
        let mut batch = Batch::default();
        let mut step = tokio::time::interval(step);
        step.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 0.. {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = step.tick() => {}
            }
            let name = format!("{prefix}-{number}");
            if number % KEY_EVERY == 0 {
                self.make_key(&name).await;
                batch.keys.push(name);
            } else {
                self.make_request(&name).await;
                batch.requests.push(name);
            }
        }
        batch
    }

    /// A key that is made on the partition.
    pub async fn make_key(&self, name: &str) {
        let spec = json!({
            "partitionRef": { "name": self.partition },
            "label": label(&self.namespace, name),
            "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7",
            "attributes": { "sign": true, "destroyable": true },
        });
        self.make(&HsmKey::new(name, serde_json::from_value(spec).expect("a spec"))).await;
    }

    async fn make_request(&self, name: &str) {
        let spec = json!({
            "keyRef": { "name": LOAD_KEY }, "payload": STANDARD.encode(name),
            "signatureAlgorithm": "SHA256_WITH_ECDSA",
        });
        self.make(&SigningRequest::new(name, serde_json::from_value(spec).expect("a spec"))).await;
    }

    async fn make<K: Namespaced + Serialize>(&self, object: &K) {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        // A try before may have been heard, although its answer was not.
        until_heard(409, async || api.create(&PostParams::default(), object).await).await;
    }

    /// Deletes them, and their keys on the token.
    pub async fn remove(&self, batch: &Batch) {
        let keys: Api<HsmKey> = Api::namespaced(self.client.clone(), &self.namespace);
        let destroy = Patch::Merge(json!({"spec": {"deletionPolicy": "Destroy"}}));
        for name in &batch.keys {
            until_heard(404, async || keys.patch(name, &PatchParams::default(), &destroy).await).await;
            until_heard(404, async || keys.delete(name, &DeleteParams::default()).await).await;
        }
        let requests: Api<SigningRequest> = Api::namespaced(self.client.clone(), &self.namespace);
        for name in &batch.requests {
            until_heard(404, async || requests.delete(name, &DeleteParams::default()).await).await;
        }
    }

    /// Waits for the key that is signed with to be the only one, for so long. What is there beside it.
    pub async fn removed(&self, patience: Duration) -> Vec<String> {
        let keys: Api<HsmKey> = Api::namespaced(self.client.clone(), &self.namespace);
        let begun = Instant::now();
        loop {
            if let Ok(all) = keys.list(&ListParams::default()).await {
                let left = all.iter().map(ResourceExt::name_any).filter(|name| name != LOAD_KEY);
                let left: Vec<_> = left.map(|name| format!("HsmKey {name} is not gone")).collect();
                if left.is_empty() || begun.elapsed() > patience {
                    return left;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits for all of them to be done, for so long.
    pub async fn settle(&self, batch: &Batch, patience: Duration) {
        let mut changed = self.changed.subscribe();
        let all = changed.wait_for(|_| batch.all().all(|name| self.state(&name).ended()));
        // Whoever is late is found by `judge`.
        let _ = tokio::time::timeout(patience, all).await;
    }

    fn state(&self, name: &(&'static str, String)) -> State {
        self.seen.states().get(name).cloned().unwrap_or_default()
    }

    /// What became of them, with what is on the token.
    pub fn judge(&self, batch: &Batch, target: &Target, token: &[Object]) -> Ended {
        let mut ended = Ended::default();
        for name in batch.all() {
            let state = self.state(&name);
            ended.made += 1;
            ended.last = ended.last.max(state.done);
            let name = format!("{} {}", name.0, name.1);
            if state.failed {
                ended.failed += 1;
                ended.given_up = format!("{name} was given up: {}", state.says);
                continue;
            }
            if state.done.is_none() {
                ended.lost += 1;
                ended.why.push(format!("{name} is not done: {}", state.says));
                continue;
            }
            ended.done += 1;
            if state.signatures.len() > 1 {
                ended.doubled += 1;
                ended.why.push(format!("{name} had {} signatures", state.signatures.len()));
            }
        }
        for name in &batch.requests {
            for signature in self.state(&("SigningRequest", name.clone())).signatures {
                if !target.verifies(name.as_bytes(), &signature) {
                    ended.wrong += 1;
                    ended.why.push(format!("SigningRequest {name} has a wrong signature"));
                }
            }
        }
        for name in &batch.keys {
            let state = self.state(&("HsmKey", name.clone()));
            let Some(id) = state.key_id else { continue };
            let label = label(&self.namespace, name);
            let count = |class: &str| {
                let is =
                    |object: &&Object| object.class == class && (object.id == id || object.label == label);
                token.iter().filter(is).count()
            };
            match [count("Private Key Object"), count("Public Key Object")] {
                [1, 1] => {}
                halves => {
                    let missing = halves.contains(&0);
                    ended.lost += u64::from(missing);
                    ended.doubled += u64::from(!missing);
                    ended.why.push(format!("HsmKey {name}: private and public objects {halves:?}"));
                }
            }
        }
        ended
    }
}

/// Kinds of which there are objects in a namespace.
trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
{
}

/// Asks the API server, however often it goes away meanwhile. One answer beside success says that there is nothing to do.
async fn until_heard<T>(nothing: u16, ask: impl AsyncFn() -> kube::Result<T>) {
    loop {
        match ask().await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == nothing => return,
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                panic!("{status:?}")
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

impl Ended {
    /// Takes the objects of another batch in.
    pub fn add(&mut self, mut other: Self) {
        self.made += other.made;
        self.done += other.done;
        self.wrong += other.wrong;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.failed += other.failed;
        self.why.append(&mut other.why);
        self.last = self.last.max(other.last);
        if self.given_up.is_empty() {
            self.given_up = other.given_up;
        }
    }
}

impl Batch {
    fn all(&self) -> impl Iterator<Item = (&'static str, String)> {
        let named =
            |kind, names: &[String]| names.iter().map(|name| (kind, name.clone())).collect::<Vec<_>>();
        named("HsmKey", &self.keys).into_iter().chain(named("SigningRequest", &self.requests))
    }
}

/// The key that requests and callers sign with.
pub const LOAD_KEY: &str = "load";

/// Label of a key on the token.
pub fn label(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}")
}

fn look_at_key(key: &HsmKey, state: &mut State) {
    let status = key.status.clone().unwrap_or_default();
    if key.is_ready() {
        state.done.get_or_insert_with(Instant::now);
        state.key_id = status.key_id.map(|id| id.to_lowercase());
    }
    state.says = says(&status.conditions);
}

fn look_at_request(request: &SigningRequest, state: &mut State) {
    let status = request.status.clone().unwrap_or_default();
    if let Some(signature) = status.signature {
        state.signatures.insert(signature);
        state.done.get_or_insert_with(Instant::now);
    }
    state.failed = status.state == Some(signing_request::State::Failed);
    state.says = says(&status.conditions);
}

fn says(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> String {
    let ready = condition::find(conditions, condition::READY);
    ready.map_or_else(|| "nothing".into(), |ready| format!("{}: {}", ready.reason, ready.message))
}

fn follow<K>(
    api: Api<K>,
    seen: &Arc<Seen>,
    changed: &watch::Sender<u64>,
    kind: &'static str,
    look: impl Fn(&K, &mut State) + Send + 'static,
) -> AbortOnDropHandle<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let (seen, changed) = (Arc::clone(seen), changed.clone());
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut objects =
            watcher(api, watcher::Config::default()).default_backoff().touched_objects().boxed();
        loop {
            // A watch that broke is there again after a while.
            if let Ok(Some(object)) = objects.try_next().await {
                look(&object, seen.states().entry((kind, object.name_any())).or_default());
                changed.send_modify(|count| *count += 1);
            }
        }
    }))
}
