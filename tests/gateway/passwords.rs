//! Keys with passwords over REST: how they are made and changed, what is kept of them, and what happens when that is gone.
//! What each endpoint asks for is in `tests/contract/passwords.json`.

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
use hsm_operator::{api::HsmKey, service::directory::Directory};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Client, Resource, ResourceExt};
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
use serde_json::{Value, json};

use crate::world::{Maker, NAMESPACE, OPERATOR, World};

/// An API server with HsmKeys and Secrets, and a controller that makes every key Ready.
struct Stand {
    maker: Maker,
    directory: Arc<Directory>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    keys: BTreeMap<String, HsmKey>,
    secrets: BTreeMap<String, Secret>,
    version: u64,
    /// Writers that get ahead of the next changes.
    rivals: usize,
    /// What the next key to be made is refused with.
    refuse: Option<u16>,
    /// The definition of keys is of a version without passwords.
    old: bool,
    changes: Vec<String>,
}

impl All {
    fn stamp(&mut self, object: &mut impl Resource) {
        self.version += 1;
        object.meta_mut().resource_version = Some(self.version.to_string());
    }

    /// Why a change is not made: the object is another one by now.
    fn stale(&mut self, object: &impl Resource, wanted: &Value) -> bool {
        if self.rivals > 0 {
            self.rivals -= 1;
            return true;
        }
        let differs = |field: &str, has: Option<String>| {
            wanted[field].as_str().is_some_and(|wanted| Some(wanted) != has.as_deref())
        };
        differs("uid", object.uid()) || differs("resourceVersion", object.resource_version())
    }
}

type Shared = Arc<Stand>;

impl Stand {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap()
    }

    /// What was changed since the last time, without the random ends of names.
    fn changes(&self) -> Vec<String> {
        let changes = std::mem::take(&mut self.all().changes);
        changes.into_iter().map(|change| change.split("-password-").next().unwrap().to_owned()).collect()
    }

    fn only_secret(&self) -> Secret {
        let all = self.all();
        assert_eq!(all.secrets.len(), 1, "{:?}", all.secrets.keys());
        all.secrets.values().next().unwrap().clone()
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
    State(stand): State<Shared>,
    Path(namespace): Path<String>,
    Json(mut key): Json<HsmKey>,
) -> Response {
    let mut all = stand.all();
    let name = key.name_any();
    all.changes.push(format!("create HsmKey {namespace}/{name}"));
    if let Some(code) = all.refuse.take() {
        return status(code);
    }
    if all.old {
        key.spec.password = None;
    }
    key.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    all.stamp(&mut key);
    all.keys.insert(name.clone(), key.clone());
    let (controller, made) = (stand.clone(), key.clone());
    tokio::spawn(async move {
        let ready = controller.maker.ready(made).await;
        controller.all().keys.insert(name, ready.clone());
        controller.directory.put(Arc::new(ready));
    });
    (StatusCode::CREATED, Json(key)).into_response()
}

async fn read_key(State(stand): State<Shared>, Path((_, name)): Path<(String, String)>) -> Response {
    stand.all().keys.get(&name).map_or_else(|| status(404), |key| Json(key).into_response())
}

async fn list_keys(State(stand): State<Shared>) -> Response {
    let items: Vec<_> = stand.all().keys.values().cloned().collect();
    let (version, kind) = ("hsm-operator.io/v1alpha1", "HsmKeyList");
    Json(json!({"apiVersion": version, "kind": kind, "metadata": {}, "items": items})).into_response()
}

/// The watch does not bring it: what holds at once holds without.
async fn patch_key(
    State(stand): State<Shared>,
    Path((_, name)): Path<(String, String)>,
    body: axum::body::Bytes,
) -> Response {
    let patch: Value = serde_json::from_slice(&body).unwrap();
    let mut all = stand.all();
    let mut key = all.keys[&name].clone();
    if all.stale(&key, &patch["metadata"]) {
        return status(409);
    }
    all.changes.push(format!("patch HsmKey {name}"));
    if !all.old {
        key.spec.password = serde_json::from_value(patch["spec"]["password"].clone()).unwrap();
    }
    all.stamp(&mut key);
    all.keys.insert(name, key.clone());
    Json(key).into_response()
}

async fn delete_key(State(stand): State<Shared>, Path((_, name)): Path<(String, String)>) -> Response {
    let mut all = stand.all();
    all.changes.push(format!("delete HsmKey {name}"));
    stand.directory.remove(NAMESPACE, &name);
    all.keys.remove(&name).map_or_else(|| status(404), |key| Json(key).into_response())
}

async fn make_secret(State(stand): State<Shared>, Json(mut secret): Json<Secret>) -> Response {
    let mut all = stand.all();
    let name = secret.name_any();
    all.changes.push(format!("create Secret {name}"));
    secret.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    all.stamp(&mut secret);
    all.secrets.insert(name, secret.clone());
    (StatusCode::CREATED, Json(secret)).into_response()
}

async fn read_secret(State(stand): State<Shared>, Path(name): Path<String>) -> Response {
    stand.all().secrets.get(&name).map_or_else(|| status(404), |secret| Json(secret).into_response())
}

async fn patch_secret(
    State(stand): State<Shared>,
    Path(name): Path<String>,
    body: axum::body::Bytes,
) -> Response {
    let patch: Value = serde_json::from_slice(&body).unwrap();
    let mut all = stand.all();
    let mut secret = all.secrets[&name].clone();
    if all.stale(&secret, &patch["metadata"]) {
        return status(409);
    }
    all.changes.push(format!("patch Secret {name}"));
    let data: BTreeMap<String, ByteString> = serde_json::from_value(patch["data"].clone()).unwrap();
    secret.data.as_mut().unwrap().extend(data);
    all.stamp(&mut secret);
    all.secrets.insert(name, secret.clone());
    Json(secret).into_response()
}

async fn delete_secret(
    State(stand): State<Shared>,
    Path(name): Path<String>,
    Json(options): Json<Value>,
) -> Response {
    let mut all = stand.all();
    let Some(secret) = all.secrets.get(&name).cloned() else { return status(404) };
    assert_eq!(options["preconditions"]["uid"].as_str(), secret.uid().as_deref(), "only this one");
    all.changes.push(format!("delete Secret {name}"));
    all.secrets.remove(&name);
    Json(secret).into_response()
}

async fn world(keys: &[&str]) -> (World, Shared) {
    let mut made = None;
    let world = World::with_client(keys, |directory, maker| {
        let stand = Arc::new(Stand { maker, directory, all: Mutex::default() });
        made = Some(stand.clone());
        let keys = "/apis/hsm-operator.io/v1alpha1/namespaces/{namespace}/hsmkeys";
        let secrets = format!("/api/v1/namespaces/{OPERATOR}/secrets");
        let router = Router::new()
            .route(keys, post(make_key).get(list_keys))
            .route(&format!("{keys}/{{name}}"), get(read_key).patch(patch_key).delete(delete_key))
            .route(&secrets, post(make_secret))
            .route(&format!("{secrets}/{{name}}"), get(read_secret).patch(patch_secret).delete(delete_secret))
            .with_state(stand);
        Some(Client::new(router, "default"))
    })
    .await;
    let stand = made.unwrap();
    for name in keys {
        let mut key = HsmKey::clone(&world.directory.by_name(NAMESPACE, name).unwrap().object);
        let mut all = stand.all();
        all.stamp(&mut key);
        all.keys.insert((*name).into(), key);
    }
    (world, stand)
}

fn body(label: &str, password: Value) -> Value {
    json!({"label": label, "algorithm": "ED", "attributes": {"sign": true, "destroyable": true}, "password": password})
}

fn sign(label: &str, password: Value) -> Value {
    json!({"signRequest": {"payload": "YQ==", "signKeyName": label, "signatureAlgorithm": "EDDSA",
        "keyPassword": password}})
}

/// Status and code of an attempt to sign; code 0 for a signature. What is refused never reaches the token.
async fn signs(world: &World, label: &str, password: Value) -> (u16, u64) {
    let before = world.fake.calls();
    let answer = world.call("POST", "/v1/synchronousSign", &sign(label, password)).await;
    if answer.status.is_success() {
        return (answer.status.as_u16(), 0);
    }
    assert_eq!(world.fake.calls(), before, "the token was asked");
    answer.refused()
}

async fn changes(world: &World, label: &str, old: Value, new: Value) -> (u16, u64) {
    let body = json!({"label": label, "password": old, "newPassword": new});
    let answer = world.call("POST", "/v1/key/changePassword", &body).await;
    if answer.status.is_success() {
        assert!(answer.body.is_empty());
        return (answer.status.as_u16(), 0);
    }
    answer.refused()
}

const YES: (u16, u64) = (200, 0);
const NO: (u16, u64) = (400, 620);

#[tokio::test]
async fn a_key_that_is_made_with_a_password_is_used_with_it_only() {
    let (world, stand) = world(&[]).await;
    let created = world.call("POST", "/v1/key", &body("k", json!(["s", "e", "c", "r", "e", "t", "é"]))).await;
    assert_eq!(created.status, 201);
    assert_eq!(stand.changes(), ["create Secret hsm-key", "create HsmKey shop/k"], "the Secret is first");
    for (password, expected) in [
        (Value::Null, NO),
        (json!("secret"), NO),
        (json!("secreté"), YES),
        (json!(["s", "e", "c", "r", "e", "t", "Ã", "©"]), YES),
        (json!("secreté "), NO),
    ] {
        assert_eq!(signs(&world, "k", password.clone()).await, expected, "{password}");
    }

    let secret = stand.only_secret();
    assert_eq!(secret.type_.as_deref(), Some("hsm-operator.io/key-password"));
    assert_eq!(secret.labels()["hsm-operator.io/key-password"], "true");
    let data = secret.data.clone().unwrap();
    assert_eq!(data["key"].0, b"shop/k");
    assert!(data["password"].0.starts_with(b"$argon2id$v=19$m=19456,t=2,p=1$"));
    let key = stand.all().keys["k"].clone();
    assert_eq!(key.spec.password.clone().unwrap().secret_name, secret.name_any());
    for shown in [serde_json::to_string(&key).unwrap(), String::from_utf8(created.body.to_vec()).unwrap()] {
        assert!(!shown.contains("secret\u{e9}") && !shown.contains("argon2"), "{shown}");
    }
}

#[tokio::test]
async fn what_has_no_password_asks_for_none() {
    let (world, stand) = world(&[]).await;
    for (label, password) in [("a", Value::Null), ("b", json!("")), ("c", json!([]))] {
        world.call("POST", "/v1/key", &body(label, password)).await.ok();
        assert_eq!(stand.changes(), [format!("create HsmKey shop/{label}")]);
        assert_eq!(signs(&world, label, Value::Null).await, YES);
        assert_eq!(signs(&world, label, json!("any")).await, YES);
    }
}

#[tokio::test]
async fn a_key_that_does_not_come_to_be_leaves_no_password() {
    let (world, stand) = world(&[]).await;
    stand.all().refuse = Some(422);
    assert_eq!(world.call("POST", "/v1/key", &body("k", json!("x"))).await.refused(), (400, 600));
    assert_eq!(stand.changes(), ["create Secret hsm-key", "create HsmKey shop/k", "delete Secret hsm-key"]);
    // Nobody knows whether an API server that failed has made it: then its password must be there.
    stand.all().refuse = Some(500);
    assert_eq!(world.call("POST", "/v1/key", &body("k", json!("x"))).await.refused(), (503, 700));
    assert_eq!(stand.changes(), ["create Secret hsm-key", "create HsmKey shop/k"]);
    // A label that is taken costs nothing.
    world.call("POST", "/v1/key", &body("taken", Value::Null)).await.ok();
    stand.changes();
    assert_eq!(world.call("POST", "/v1/key", &body("taken", json!("x"))).await.refused(), (400, 608));
    assert_eq!(stand.changes(), [""; 0]);
}

#[tokio::test]
async fn a_cluster_that_drops_the_password_gets_no_key() {
    let (world, stand) = world(&["ed"]).await;
    stand.all().old = true;
    let answer = world.call("POST", "/v1/key", &body("k", json!("x"))).await;
    assert!(answer.json()["message"].as_str().unwrap().contains("install the CRDs"), "{answer:?}");
    assert!(!stand.all().keys.contains_key("k"));
    assert_eq!(changes(&world, "ed", Value::Null, json!("x")).await.0, 501);
    assert!(stand.changes().ends_with(&["patch HsmKey ed".into(), "delete Secret hsm-key".into()]));
}

#[tokio::test]
async fn a_password_is_set_changed_taken_away_and_set_again() {
    let (world, stand) = world(&["ed"]).await;
    // A wrong old password, where there is none.
    assert_eq!(changes(&world, "ed", json!("x"), json!("one")).await, NO);
    assert_eq!(changes(&world, "ed", Value::Null, Value::Null).await, YES, "nothing to do");
    assert_eq!(stand.changes(), [""; 0]);

    assert_eq!(changes(&world, "ed", Value::Null, json!("one")).await, YES);
    assert_eq!(stand.changes(), ["create Secret hsm-key", "patch HsmKey ed"]);
    // At once, and without the watch.
    assert_eq!(signs(&world, "ed", Value::Null).await, NO);
    assert_eq!(signs(&world, "ed", json!("one")).await, YES);

    for old in [Value::Null, json!("on"), json!("two")] {
        assert_eq!(changes(&world, "ed", old, json!("two")).await, NO);
    }
    assert_eq!(stand.changes(), [""; 0]);
    assert_eq!(changes(&world, "ed", json!("one"), json!("two")).await, YES);
    assert_eq!(stand.changes(), ["patch Secret hsm-key"]);
    assert_eq!(signs(&world, "ed", json!("one")).await, NO, "it was remembered, and is not any more");
    assert_eq!(signs(&world, "ed", json!("two")).await, YES);

    assert_eq!(changes(&world, "ed", json!("two"), json!([])).await, YES);
    assert_eq!(signs(&world, "ed", Value::Null).await, YES);
    assert_eq!(changes(&world, "ed", json!("two"), json!("three")).await, NO, "there is none any more");
    assert_eq!(changes(&world, "ed", Value::Null, json!("three")).await, YES);
    assert_eq!(signs(&world, "ed", Value::Null).await, NO);
    assert_eq!(signs(&world, "ed", json!("three")).await, YES);
    stand.only_secret();
}

#[tokio::test]
async fn what_another_gateway_changed_holds_when_the_watch_brings_it() {
    let (world, stand) = world(&["ed"]).await;
    assert_eq!(changes(&world, "ed", Value::Null, json!("one")).await, YES);
    assert_eq!(signs(&world, "ed", json!("one")).await, YES);
    // Another gateway is another world on the same objects.
    let (other, _) = (self::world(&[]).await.0, ());
    let key = stand.all().keys["ed"].clone();
    other.directory.put(Arc::new(key));
    other.passwords.seen(&stand.only_secret());
    assert_eq!(changes(&world, "ed", json!("one"), json!("two")).await, YES);
    let answer = |password: &str| sign("ed", json!(password));
    let refused = other.call("POST", "/v1/synchronousSign", &answer("two")).await.refused();
    assert_eq!(refused, NO, "it has not heard of it");
    other.passwords.seen(&stand.only_secret());
    assert_eq!(other.call("POST", "/v1/synchronousSign", &answer("one")).await.refused(), NO);
    // The right one gets as far as the token, which has no such key.
    assert_ne!(other.call("POST", "/v1/synchronousSign", &answer("two")).await.refused(), NO);
}

#[tokio::test]
async fn of_two_that_change_a_password_at_once_the_second_knows_of_the_first() {
    let (world, stand) = world(&["ed", "ed-kept"]).await;
    stand.all().rivals = 2;
    assert_eq!(changes(&world, "ed", Value::Null, json!("one")).await, YES);
    assert_eq!(stand.all().secrets.len(), 1, "what was made for nothing is taken back");
    stand.all().rivals = 2;
    assert_eq!(changes(&world, "ed", json!("one"), json!("two")).await, YES);
    assert_eq!(signs(&world, "ed", json!("two")).await, YES);
    stand.all().rivals = 100;
    assert_eq!(changes(&world, "ed", json!("two"), json!("three")).await, (503, 700));
    assert_eq!(changes(&world, "ed-kept", Value::Null, json!("three")).await, (503, 700));
    stand.all().rivals = 0;
    assert_eq!(signs(&world, "ed", json!("two")).await, YES);
    assert_eq!(signs(&world, "ed-kept", Value::Null).await, YES);

    let both = ["one", "two"].map(|new| changes(&world, "ed-kept", Value::Null, json!(new)));
    let mut answers = futures::future::join_all(both).await;
    answers.sort_unstable();
    assert_eq!(answers, [YES, NO], "one of two first passwords is the first");
    assert_eq!(stand.all().secrets.len(), 2);
}

#[tokio::test]
async fn a_password_is_changed_by_who_may_update_the_key_where_it_is_modifiable() {
    let (world, stand) = world(&["ed"]).await;
    let body = json!({"label": "ed", "newPassword": "x"});
    for caller in ["user", "nobody"] {
        let answer = world.call_as(caller, "POST", "/v1/key/changePassword", &body).await;
        assert_eq!(answer.refused(), (403, 400), "{caller}");
    }
    assert_eq!(world.rules.asked().last().map(String::as_str), Some("update hsmkeys shop/ed"));
    let none = json!({"label": "none", "newPassword": "x"});
    assert_eq!(world.call("POST", "/v1/key/changePassword", &none).await.refused(), (404, 650));
    let mut key = stand.all().keys["ed"].clone();
    key.status.as_mut().unwrap().attributes.as_mut().unwrap().modifiable = Some(false);
    world.directory.put(Arc::new(key));
    assert_eq!(world.call("POST", "/v1/key/changePassword", &body).await.refused(), (400, 614));
    assert_eq!(stand.changes(), [""; 0]);
}

#[tokio::test]
async fn a_key_whose_password_nobody_knows_is_not_used_at_all() {
    let (world, stand) = world(&[]).await;
    for label in ["k", "other"] {
        world.call("POST", "/v1/key", &body(label, json!("x"))).await.ok();
    }
    let name_of = |label: &str| stand.all().keys[label].spec.password.clone().unwrap().secret_name;
    let (own, other) = (name_of("k"), name_of("other"));
    let whole = stand.all().secrets[&own].clone();
    let damage = |change: fn(&mut Secret)| {
        let mut secret = whole.clone();
        change(&mut secret);
        secret
    };
    let theirs = Secret { metadata: whole.metadata.clone(), ..stand.all().secrets[&other].clone() };
    let member = |name: &'static str, text: &'static [u8]| {
        let mut secret = whole.clone();
        secret.data.as_mut().unwrap().insert(name.into(), ByteString(text.to_vec()));
        secret
    };
    for (secret, says) in [
        (Some(theirs), "is about another key"),
        (Some(damage(|secret| secret.data = None)), "has no 'key'"),
        (Some(damage(|secret| secret.type_ = Some("Opaque".into()))), "is not of the type"),
        (Some(member("password", b"")), "has no 'password'"),
        (Some(member("password", b"x")), "has no 'password'"),
        (Some(member("key", b"shop/k2")), "is about another key"),
        (None, "does not exist"),
    ] {
        match &secret {
            Some(secret) => {
                stand.all().secrets.insert(own.clone(), secret.clone());
                world.passwords.seen(secret);
            }
            None => {
                stand.all().secrets.remove(&own);
                world.passwords.gone(&own);
            }
        }
        for password in [json!("x"), Value::Null] {
            let before = world.fake.calls();
            let answer = world.call("POST", "/v1/synchronousSign", &sign("k", password)).await;
            assert_eq!(answer.refused(), (500, 700), "{says}");
            let message = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains(says) && message.contains(&format!("{OPERATOR}/{own}")), "{message}");
            assert_eq!(world.fake.calls(), before);
        }
        assert_eq!(changes(&world, "k", json!("x"), json!("y")).await, (500, 700), "{says}");
        assert_eq!(signs(&world, "other", json!("x")).await, YES);
    }
    // It comes back, and so does the key.
    stand.all().secrets.insert(own.clone(), whole.clone());
    assert_eq!(signs(&world, "k", json!("x")).await, YES, "also before the watch shows it");
}

#[tokio::test]
async fn a_deletion_takes_a_password_that_was_given_seriously_and_needs_none() {
    for (password, expected) in [(json!("y"), NO), (json!("x"), YES), (Value::Null, YES)] {
        let (world, stand) = world(&[]).await;
        world.call("POST", "/v1/key", &body("k", json!("x"))).await.ok();
        let answer =
            world.call("POST", "/v1/key/deleteKey", &json!({"label": "k", "password": password})).await;
        let given = if answer.status.is_success() { YES } else { answer.refused() };
        assert_eq!(given, expected, "{password}");
        assert_eq!(stand.all().keys.contains_key("k"), expected == NO);
    }
}

#[tokio::test]
async fn a_flood_of_wrong_passwords_is_cut_off_and_the_right_one_goes_on() {
    let (world, _) = world(&["ed"]).await;
    assert_eq!(changes(&world, "ed", Value::Null, json!("right")).await, YES);
    assert_eq!(signs(&world, "ed", json!("right")).await, YES);
    let flood = (0..200).map(|number| {
        let body = sign("ed", json!(format!("wrong {number}")));
        let world = &world;
        async move { world.call("POST", "/v1/synchronousSign", &body).await }
    });
    let flood = futures::future::join_all(flood);
    let before = world.fake.count("sign");
    let right = async {
        for _ in 0..50 {
            let answer = world.call("POST", "/v1/synchronousSign", &sign("ed", json!("right"))).await;
            answer.ok();
        }
    };
    let (answers, ()) = tokio::join!(flood, right);
    for answer in answers {
        match answer.refused() {
            NO => {}
            (503, 700) => assert_eq!(answer.headers["retry-after"], "1"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.fake.count("sign"), before + 50);
}

/// A call, with the passwords that go with it.
#[derive(Clone, Copy, Debug)]
enum Call {
    Create(Option<&'static str>),
    Sign(Option<&'static str>),
    Describe(Option<&'static str>),
    Change(Option<&'static str>, Option<&'static str>),
    Delete(Option<&'static str>),
}

/// What a key's password is, if there is the key.
type Model = Option<Option<&'static str>>;

impl Call {
    fn any() -> impl Strategy<Value = Self> {
        let word = || prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
        prop_oneof![
            2 => word().prop_map(Self::Create),
            4 => word().prop_map(Self::Sign),
            1 => word().prop_map(Self::Describe),
            4 => (word(), word()).prop_map(|(old, new)| Self::Change(old, new)),
            1 => word().prop_map(Self::Delete),
        ]
    }

    /// What has to be answered, and how it is then.
    fn expected(self, model: Model) -> ((u16, u64), Model) {
        const NO_KEY: (u16, u64) = (404, 650);
        match (self, model) {
            (Self::Create(password), None) => ((201, 0), Some(password)),
            (Self::Create(_), Some(_)) => ((400, 608), model),
            (_, None) => (NO_KEY, model),
            (Self::Sign(given), Some(is)) if is.is_none() || given == is => (YES, model),
            (Self::Describe(given), Some(is)) if is.is_none() || given.is_none() || given == is => {
                (YES, model)
            }
            (Self::Change(old, new), Some(is)) if old == is => (YES, Some(new)),
            (Self::Delete(given), Some(is)) if is.is_none() || given.is_none() || given == is => (YES, None),
            (Self::Sign(_) | Self::Describe(_) | Self::Change(..) | Self::Delete(_), Some(_)) => (NO, model),
        }
    }

    async fn answered(self, world: &World) -> (u16, u64) {
        let named = |password| json!({"label": "k", "password": password});
        let (path, body) = match self {
            Self::Create(password) => ("/v1/key", body("k", json!(password))),
            Self::Sign(password) => ("/v1/synchronousSign", sign("k", json!(password))),
            Self::Describe(password) => ("/v1/key/attributes", named(password)),
            Self::Change(old, new) => {
                ("/v1/key/changePassword", json!({"label": "k", "password": old, "newPassword": new}))
            }
            Self::Delete(password) => ("/v1/key/deleteKey", named(password)),
        };
        let answer = world.call("POST", path, &body).await;
        if answer.status.is_success() { (answer.status.as_u16(), 0) } else { answer.refused() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_is_answered_as_a_model_has_it(
        calls in proptest::collection::vec(Call::any(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (world, _) = world(&[]).await;
            let mut model = None;
            for (at, call) in calls.iter().enumerate() {
                let (expected, next) = call.expected(model);
                assert_eq!(call.answered(&world).await, expected, "{at}: {call:?} of {calls:?}");
                model = next;
            }
        });
    }
}
