//! An API server with HsmKeys and the Secrets of their passwords, and a controller that does on a token what the objects say.
//! Every change is in the gateway's view at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hsm_operator::{
    api::{HsmKey, IMPORTING, key::Source},
    hsm::{
        Hsm,
        fake::Fake,
        protocol::{Find, KeyTemplate, Reply, Request},
    },
    model::{KeyId, KeyLabel},
    service::{directory::Directory, password::Known as Passwords},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::world::{Maker, NAMESPACE, OPERATOR, World, unready};

type Name = (String, String);

pub struct Cluster {
    hsm: Arc<dyn Hsm>,
    directory: Arc<Directory>,
    /// There once the world is whole.
    passwords: OnceLock<Arc<Passwords>>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    keys: BTreeMap<Name, HsmKey>,
    secrets: BTreeMap<String, Secret>,
    version: u64,
}

type Shared = Arc<Cluster>;

impl Cluster {
    /// A gateway before it, and before a token, whose keys, if it is the fake, are `keys` (see `World::make`).
    pub async fn before(hsm: Arc<dyn Hsm>, fake: Arc<Fake>, keys: &[&str]) -> (World, Arc<Self>) {
        Self::behind(hsm, fake, keys, |router| router).await
    }

    /// The same with something between the gateway and the API server.
    pub async fn behind(
        hsm: Arc<dyn Hsm>,
        fake: Arc<Fake>,
        keys: &[&str],
        between: impl FnOnce(Router) -> Router,
    ) -> (World, Arc<Self>) {
        let mut made = None;
        let world = World::before(hsm.clone(), fake, keys, |directory, _| {
            let cluster =
                Arc::new(Self { hsm, directory, passwords: OnceLock::new(), all: Mutex::default() });
            made = Some(cluster.clone());
            Some(Client::new(between(cluster.router()), "default"))
        })
        .await;
        let cluster = made.expect("it was just made");
        assert!(cluster.passwords.set(world.passwords.clone()).is_ok());
        for name in keys {
            let mut key =
                HsmKey::clone(&world.directory.by_name(NAMESPACE, name).expect("it was made").object);
            let mut all = cluster.all();
            all.stamp(&mut key);
            all.keys.insert(name_of(&key), key);
        }
        (world, cluster)
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap()
    }

    fn router(self: &Arc<Self>) -> Router {
        let keys = "/apis/hsm-operator.io/v1alpha1/namespaces/{namespace}/hsmkeys";
        let secrets = format!("/api/v1/namespaces/{OPERATOR}/secrets");
        Router::new()
            .route(keys, post(make_key).get(list_keys))
            .route(&format!("{keys}/{{name}}"), get(read_key).patch(patch_key).delete(delete_key))
            .route(&secrets, post(make_secret))
            .route(&format!("{secrets}/{{name}}"), get(read_secret).patch(patch_secret).delete(delete_secret))
            .with_state(self.clone())
    }

    /// What is there, but for versions: keys with their UIDs, and Secrets.
    pub fn objects(&self) -> BTreeSet<String> {
        let all = self.all();
        let keys = all.keys.values().map(|key| {
            let (namespace, uid) = (key.namespace().unwrap(), key.uid().unwrap());
            let spec = serde_json::to_string(&key.spec).unwrap();
            format!("HsmKey {namespace}/{} {uid} {spec}", key.name_any())
        });
        let secrets = all.secrets.values().map(|secret| {
            let data: Vec<_> = secret.data.iter().flatten().map(|(name, value)| (name, &value.0)).collect();
            format!("Secret {} {data:?}", secret.name_any())
        });
        keys.chain(secrets).collect()
    }

    /// Becomes another one with every change.
    pub fn version(&self) -> u64 {
        self.all().version
    }

    /// The object of a label.
    pub fn of_label(&self, label: &str) -> Option<HsmKey> {
        self.all().keys.values().find(|key| key.label() == label).cloned()
    }

    /// Writes an object as somebody does of whom neither gateway nor controller is, and has both see it.
    pub fn write(self: &Arc<Self>, key: HsmKey) {
        let key = self.put(key);
        self.look(key);
    }

    /// Writes an object as the controller left it after its last look.
    pub fn put(&self, mut key: HsmKey) -> HsmKey {
        let mut all = self.all();
        all.stamp(&mut key);
        all.keys.insert(name_of(&key), key.clone());
        drop(all);
        self.directory.put(Arc::new(key.clone()));
        key
    }

    /// The controller's next look at the key of an object that a gateway noted as its own: one that is on the token is taken
    /// over, and none is made.
    pub async fn look_again(&self, label: &str) {
        let key = self.of_label(label).expect("there is an object");
        let found = match self.hsm.call(Request::Find(Find::Id(id(&key)))).await {
            Ok(Reply::Keys(found)) => found,
            other => panic!("{other:?}"),
        };
        let [facts] = found.as_slice() else { return assert!(found.is_empty(), "{found:?}") };
        let told = Maker(self.hsm.clone()).told(key, facts).await;
        self.all().keys.insert(name_of(&told), told.clone());
        self.directory.put(Arc::new(told));
    }

    /// Destroys every key that may be destroyed.
    pub async fn clear(&self) {
        let ids: Vec<_> = self.all().keys.values().map(id).collect();
        for id in ids {
            let _ = self.hsm.call(Request::Destroy(id)).await;
        }
    }

    /// What the controller does with an object that is deleted.
    async fn destroyed(self: Arc<Self>, name: Name, key: HsmKey) {
        if let Err(error) = self.hsm.call(Request::Destroy(id(&key))).await {
            // Its object stays, and whoever waits for its end is told so.
            eprintln!("{} is not destroyed: {error}", key.name_any());
            return;
        }
        let mut all = self.all();
        all.keys.remove(&name);
        if let Some(password) = &key.spec.password {
            all.secrets.remove(&password.secret_name);
            self.passwords.get().expect("it is whole").gone(&password.secret_name);
        }
        drop(all);
        self.directory.remove(&name.0, &name.1);
    }

    /// What the controller does with an object that is new, or whose key was brought.
    fn look(self: &Arc<Self>, key: HsmKey) {
        self.directory.put(Arc::new(key.clone()));
        // The controller carries no password, so that it derives nothing from a master that has one.
        let guarded = key.spec.derived_from.as_ref().is_some_and(|from| {
            let all = self.all();
            let master = all.keys.get(&(key.namespace().unwrap(), from.key.clone()));
            master.is_some_and(|master| master.spec.password.is_some())
        });
        let brought = guarded || key.spec.source != Source::Generated;
        let awaited = brought && key.annotations().contains_key(IMPORTING);
        let recorded = key.status.as_ref().is_some_and(|status| status.key_id.is_some());
        if awaited || recorded {
            return;
        }
        let cluster = self.clone();
        tokio::spawn(async move {
            // A key that was brought is looked for, and never made.
            let request = match key.spec.source {
                Source::Imported => Request::Find(Find::Id(id(&key))),
                Source::ImportedPublic => Request::Find(Find::Public(id(&key))),
                Source::Generated if guarded => Request::Find(Find::Id(id(&key))),
                Source::Generated => Request::Generate(template(&key)),
            };
            let maker = Maker(cluster.hsm.clone());
            let seen = match cluster.hsm.call(request).await {
                Ok(Reply::Key(facts)) => maker.told(key, &facts).await,
                Ok(Reply::Keys(keys)) if keys.len() == 1 => maker.told(key, &keys[0]).await,
                Ok(Reply::Keys(keys)) if keys.is_empty() && guarded => {
                    unready(key, true, "PasswordRequired", "derive the key by POST /v1/derivedKey")
                }
                other => unready(key, true, "Unsupported", &format!("{other:?}")),
            };
            let recorded = |key: &HsmKey| key.status.as_ref().is_some_and(|status| status.key_id.is_some());
            let mut all = cluster.all();
            // A look that began before the key was there says nothing any more after one that found it.
            if let Some(now) = all.keys.get_mut(&name_of(&seen))
                && (recorded(&seen) || !recorded(now))
            {
                now.status = seen.status;
                let now = now.clone();
                drop(all);
                cluster.directory.put(Arc::new(now));
            }
        });
    }
}

fn name_of(key: &HsmKey) -> Name {
    (key.namespace().unwrap(), key.name_any())
}

fn id(key: &HsmKey) -> KeyId {
    KeyId::for_object(key.uid().unwrap().parse().unwrap(), &key.namespace().unwrap(), &key.name_any())
}

fn template(key: &HsmKey) -> KeyTemplate {
    KeyTemplate {
        id: id(key),
        label: KeyLabel::stored(key.label()).unwrap(),
        algorithm: key.spec.algorithm,
        key_size: key.spec.key_size.map(|size| u32::try_from(size).unwrap()),
        curve_oid: key.spec.curve_oid.clone(),
        attributes: key.spec.attributes.resolved(),
    }
}

impl All {
    fn stamp(&mut self, object: &mut impl Resource) {
        self.version += 1;
        object.meta_mut().resource_version = Some(self.version.to_string());
    }

    /// A merge patch (RFC 7386), or why it is not made.
    fn patched<T>(&mut self, object: &T, body: &[u8]) -> Result<T, Box<Response>>
    where
        T: Resource + Serialize + DeserializeOwned,
    {
        let patch: Value = serde_json::from_slice(body).unwrap();
        let differs = |field: &str, has: Option<String>| {
            let wanted = patch["metadata"][field].as_str();
            wanted.is_some_and(|wanted| Some(wanted) != has.as_deref())
        };
        if differs("uid", object.uid()) || differs("resourceVersion", object.resource_version()) {
            return Err(Box::new(status(409)));
        }
        let mut whole = serde_json::to_value(object).unwrap();
        merge(&mut whole, &patch);
        let mut object = serde_json::from_value(whole).unwrap();
        self.stamp(&mut object);
        Ok(object)
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *into = patch.clone() };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}

fn status(code: u16) -> Response {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Other",
    };
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": "no, because"});
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}

async fn make_key(
    State(cluster): State<Shared>,
    Path(namespace): Path<String>,
    Json(mut key): Json<HsmKey>,
) -> Response {
    key.metadata.namespace = Some(namespace);
    key.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    let name = name_of(&key);
    let mut all = cluster.all();
    if all.keys.contains_key(&name) {
        return status(409);
    }
    all.stamp(&mut key);
    all.keys.insert(name, key.clone());
    drop(all);
    cluster.look(key.clone());
    (StatusCode::CREATED, Json(key)).into_response()
}

async fn read_key(State(cluster): State<Shared>, Path(name): Path<Name>) -> Response {
    cluster.all().keys.get(&name).map_or_else(|| status(404), |key| Json(key).into_response())
}

async fn list_keys(State(cluster): State<Shared>, Path(namespace): Path<String>) -> Response {
    let of = |key: &&HsmKey| key.namespace().as_ref() == Some(&namespace);
    let items: Vec<_> = cluster.all().keys.values().filter(of).cloned().collect();
    let (version, kind) = ("hsm-operator.io/v1alpha1", "HsmKeyList");
    Json(json!({"apiVersion": version, "kind": kind, "metadata": {}, "items": items})).into_response()
}

async fn patch_key(State(cluster): State<Shared>, Path(name): Path<Name>, body: Bytes) -> Response {
    let mut all = cluster.all();
    let Some(key) = all.keys.get(&name).cloned() else { return status(404) };
    let patched = match all.patched(&key, &body) {
        Ok(patched) => patched,
        Err(refused) => return *refused,
    };
    all.keys.insert(name, patched.clone());
    drop(all);
    cluster.look(patched.clone());
    Json(patched).into_response()
}

async fn delete_key(State(cluster): State<Shared>, Path(name): Path<Name>, body: Bytes) -> Response {
    let Some(key) = cluster.all().keys.get(&name).cloned() else { return status(404) };
    cluster.all().version += 1;
    let options: Value = serde_json::from_slice(&body).unwrap_or_default();
    if options["preconditions"]["uid"].as_str() != key.uid().as_deref() {
        return status(409);
    }
    let gone = cluster.clone().destroyed(name, key.clone());
    if key.status.is_some() {
        tokio::spawn(gone);
    } else {
        // Nobody waits for the end of one whose key was never there, and it is the next call that would see it.
        gone.await;
    }
    Json(key).into_response()
}

async fn make_secret(State(cluster): State<Shared>, Json(mut secret): Json<Secret>) -> Response {
    let mut all = cluster.all();
    secret.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    all.stamp(&mut secret);
    all.secrets.insert(secret.name_any(), secret.clone());
    (StatusCode::CREATED, Json(secret)).into_response()
}

async fn read_secret(State(cluster): State<Shared>, Path(name): Path<String>) -> Response {
    cluster.all().secrets.get(&name).map_or_else(|| status(404), |secret| Json(secret).into_response())
}

async fn patch_secret(State(cluster): State<Shared>, Path(name): Path<String>, body: Bytes) -> Response {
    let mut all = cluster.all();
    let Some(secret) = all.secrets.get(&name).cloned() else { return status(404) };
    match all.patched(&secret, &body) {
        Ok(patched) => {
            all.secrets.insert(name, patched.clone());
            Json(patched).into_response()
        }
        Err(refused) => *refused,
    }
}

async fn delete_secret(State(cluster): State<Shared>, Path(name): Path<String>) -> Response {
    let mut all = cluster.all();
    all.version += 1;
    let gone = all.secrets.remove(&name);
    gone.map_or_else(|| status(404), |secret| Json(secret).into_response())
}
