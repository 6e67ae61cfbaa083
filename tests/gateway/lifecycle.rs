//! Keys made and deleted over REST, with a stand-in for API server and controller behind the gateway.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use hsm_operator::{
    api::{HsmKey, IMPORTING, key::Source},
    hsm::{Hsm, fake::Fake},
    service::directory::Directory,
};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::{
    secrets,
    world::{Maker, NAMESPACE, PARTITION, World, object, unready},
};

/// Time that the stand-in's controller takes for a key.
const WORK: Duration = Duration::from_millis(60);

/// What becomes of an object that is made.
#[derive(Clone, Copy)]
pub enum Fate {
    /// It is Ready after a while.
    Ready,
    /// It is Ready, and this gateway's view does not hear of it.
    Unseen,
    /// A person must act.
    Stalled(&'static str),
    /// The API server refuses it.
    Refused(u16, &'static str),
}

pub struct Stand {
    fate: Fate,
    maker: Maker,
    directory: Arc<Directory>,
    objects: Mutex<BTreeMap<String, HsmKey>>,
    /// Requests that change something: verb and object, with the uid that a deletion insists on.
    changes: Mutex<Vec<String>>,
}

impl Stand {
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, HsmKey>> {
        self.objects.lock().unwrap()
    }

    pub fn changes(&self) -> Vec<String> {
        self.changes.lock().unwrap().clone()
    }

    fn changed(&self, what: String) {
        self.changes.lock().unwrap().push(what);
    }

    fn router(self: &Arc<Self>) -> Router {
        let keys = "/apis/hsm-operator.io/v1alpha1/namespaces/{namespace}/hsmkeys";
        Router::new()
            .route(keys, post(create).get(list))
            .route(&format!("{keys}/{{name}}"), axum::routing::get(get).delete(delete).patch(patch))
            .with_state(self.clone())
            .merge(secrets::router())
    }
}

pub fn status(code: u16, message: &str) -> Response {
    let reason = if code == 404 { "NotFound" } else { "Conflict" };
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": message});
    (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
}

async fn create(
    State(stand): State<Arc<Stand>>,
    Path(namespace): Path<String>,
    Json(mut key): Json<HsmKey>,
) -> Response {
    let name = key.name_any();
    stand.changed(format!("create {namespace}/{name}"));
    if let Fate::Refused(code, message) = stand.fate {
        return status(code, message);
    }
    if stand.objects().contains_key(&name) {
        return status(409, "hsmkeys.hsm-operator.io already exists");
    }
    key.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    stand.objects().insert(name.clone(), key.clone());
    stand.look(key.clone());
    (StatusCode::CREATED, Json(key)).into_response()
}

impl Stand {
    /// What the controller does with an object that is new or changed.
    pub fn look(self: &Arc<Self>, made: HsmKey) {
        self.directory.put(Arc::new(made.clone()));
        let imported = made.spec.source != Source::Generated;
        // A key that is being brought is not there yet.
        if imported && made.annotations().contains_key(IMPORTING) {
            return;
        }
        let (controller, name) = (self.clone(), made.name_any());
        tokio::spawn(async move {
            tokio::time::sleep(WORK).await;
            let seen = match controller.fate {
                Fate::Stalled(reason) => unready(made, true, reason, "somebody must act"),
                Fate::Ready | Fate::Unseen | Fate::Refused(..) => {
                    match controller.maker.try_ready(made.clone()).await {
                        Ok(ready) => ready,
                        Err(error) => unready(made, true, "Unsupported", &error.message),
                    }
                }
            };
            controller.objects().insert(name, seen.clone());
            controller.directory.put(Arc::new(seen));
        });
    }
}

/// A merge patch, of one object and at a version where they are given.
async fn patch(
    State(stand): State<Arc<Stand>>,
    Path((namespace, name)): Path<(String, String)>,
    Json(change): Json<Value>,
) -> Response {
    let Some(key) = stand.objects().get(&name).cloned() else { return status(404, "not found") };
    let metadata = &change["metadata"];
    let same = |member: &str, now: Option<String>| {
        metadata[member].is_null() || metadata[member].as_str() == now.as_deref()
    };
    if !same("uid", key.uid()) || !same("resourceVersion", key.resource_version()) {
        return status(409, "the object has been modified");
    }
    match metadata["annotations"].as_object() {
        Some(annotations) => {
            for (annotation, value) in annotations {
                let off = if value.is_null() { " off" } else { "" };
                stand.changed(format!("patch {namespace}/{name} {annotation}{off}"));
            }
        }
        None => {
            let what = if change["spec"].get("certificate").is_some() { " certificate" } else { "" };
            stand.changed(format!("patch {namespace}/{name}{what}"));
        }
    }
    let version = key.resource_version().and_then(|version| version.parse::<u64>().ok()).unwrap_or_default();
    let mut key = serde_json::to_value(&key).unwrap();
    merge(&mut key, &change);
    let mut key: HsmKey = serde_json::from_value(key).unwrap();
    key.metadata.resource_version = Some((version + 1).to_string());
    stand.objects().insert(name, key.clone());
    // One that is Ready stays so.
    if key.status.is_none() {
        stand.look(key.clone());
    } else {
        stand.directory.put(Arc::new(key.clone()));
    }
    Json(key).into_response()
}

async fn list(State(stand): State<Arc<Stand>>) -> Response {
    let items: Vec<_> = stand.objects().values().cloned().collect();
    let (version, kind) = ("hsm-operator.io/v1alpha1", "HsmKeyList");
    Json(json!({"apiVersion": version, "kind": kind, "metadata": {}, "items": items})).into_response()
}

async fn get(State(stand): State<Arc<Stand>>, Path((_, name)): Path<(String, String)>) -> Response {
    match stand.objects().get(&name) {
        Some(key) => Json(key).into_response(),
        None => status(404, "not found"),
    }
}

async fn delete(
    State(stand): State<Arc<Stand>>,
    Path((namespace, name)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let options: Value = serde_json::from_slice(&body).unwrap_or_default();
    let wanted = options["preconditions"]["uid"].as_str().unwrap_or_default().to_owned();
    let Some(key) = stand.objects().get(&name).cloned() else { return status(404, "not found") };
    let right = key.uid().as_ref() == Some(&wanted);
    stand.changed(format!("delete {namespace}/{name} {}", if right { "by uid" } else { "by another uid" }));
    if !right {
        return status(409, "the UID in the precondition does not match");
    }
    let controller = stand.clone();
    tokio::spawn(async move {
        tokio::time::sleep(WORK).await;
        controller.objects().remove(&name);
        controller.directory.remove(&namespace, &name);
    });
    Json(key).into_response()
}

/// RFC 7396, as far as the gateway needs it.
pub fn merge(into: &mut Value, change: &Value) {
    let Some(members) = change.as_object() else { return *into = change.clone() };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, change) in members {
        if change.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], change);
        }
    }
}

pub async fn world(fate: Fate, keys: &[&str]) -> (World, Arc<Stand>) {
    let fake = Arc::new(Fake::default());
    world_before(fake.clone(), fake, fate, keys).await
}

/// The same with a token of any kind.
pub async fn world_before(
    hsm: Arc<dyn Hsm>,
    fake: Arc<Fake>,
    fate: Fate,
    keys: &[&str],
) -> (World, Arc<Stand>) {
    let mut made = None;
    let world = World::before(hsm, fake, keys, |directory, maker| {
        // A view that hears nothing is the view of another directory.
        let directory = if matches!(fate, Fate::Unseen) { Arc::default() } else { directory };
        let (objects, changes) = (Mutex::default(), Mutex::default());
        let stand = Arc::new(Stand { fate, maker, directory, objects, changes });
        made = Some(stand.clone());
        Some(Client::new(stand.router(), "default"))
    })
    .await;
    (world, made.unwrap())
}

fn body(label: &str) -> Value {
    json!({"label": label, "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7",
        "attributes": {"sign": true, "destroyable": true}})
}

#[tokio::test]
async fn a_key_is_answered_with_201_when_it_is_ready() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let begin = Instant::now();
    let answer = world.call("POST", "/v1/key", &body("signer")).await;
    assert!(begin.elapsed() >= WORK);
    assert_eq!(answer.status, 201);
    let created = answer.ok();
    assert_eq!(created["json"]["label"], "signer");
    assert_eq!(created["json"]["id"], Value::Null);
    assert_eq!(created["json"]["curveOid"], "1.2.840.10045.3.1.7");
    assert_eq!(created, world.call("POST", "/v1/key/attributes", &json!({"label": "signer"})).await.ok());
    assert_eq!(world.rules.asked(), ["create hsmkeys shop/", "get hsmkeys shop/signer"]);
    assert_eq!(stand.changes(), ["create shop/signer"]);

    let sign = json!({"signRequest": {"payload": "YQ==", "signKeyName": "signer", "signatureAlgorithm": "SHA256_WITH_ECDSA"}});
    world.call("POST", "/v1/synchronousSign", &sign).await.ok();
    assert_eq!(world.call("POST", "/v1/key", &body("signer")).await.refused(), (400, 608));
    assert_eq!(stand.changes().len(), 1, "a label that is known to be taken is not tried");
    let metrics = world.metrics.text();
    for line in [
        r#"api_writes_total{kind="HsmKey",verb="create"} 1"#,
        r#"gateway_requests_total{route="/v1/key",method="POST",status="201"} 1"#,
        r#"gateway_requests_total{route="/v1/key",method="POST",status="400"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn the_object_says_what_was_asked_for_and_by_whom() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let request = json!({"label": "Release Key", "algorithmOid": "1.2.840.113549.1.1.1", "keySize": 2048,
        "curveOid": "", "password": [], "id": null, "policy": null, "addressFormat": null,
        "attributes": {"sign": true, "decrypt": null, "encrypt": true, "neverExtractable": true}, "unknown": {}});
    let created = world.call("POST", "/v1/key", &request).await.ok();
    assert_eq!(created["json"]["label"], "Release Key");
    let objects = stand.objects();
    let (name, key) = objects.iter().next().unwrap();
    assert!(name.starts_with("k-") && name.len() == 42, "{name}");
    let spec = json!({
        "partitionRef": {"name": PARTITION}, "label": "Release Key", "algorithm": "RSA", "keySize": 2048,
        "attributes": {"sign": true, "encrypt": true}, "adopt": false, "deletionPolicy": "Retain",
        "source": "Generated",
    });
    assert_eq!(serde_json::to_value(&key.spec).unwrap(), spec);
    assert_eq!(key.annotations()["hsm-operator.io/created-by"], "system:serviceaccount:shop:app");
}

#[tokio::test]
async fn sizes_and_policies_that_clients_send_with_every_key_are_no_trouble() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let ed = json!({"label": "ed", "algorithm": "ED", "curveOid": "1.3.101.112", "keySize": 0,
        "attributes": {"sign": true, "destroyable": true}});
    world.call("POST", "/v1/key", &ed).await.ok();
    let aes = json!({"label": "aes", "algorithm": "AES", "keySize": 256, "attributes": {},
        "policy": {"ruleUse": null, "keyStatus": {"blocked": false}}});
    assert_eq!(world.call("POST", "/v1/key", &aes).await.ok()["json"]["policy"], Value::Null);
    let objects = stand.objects();
    assert_eq!(objects["ed"].spec.key_size, None);
    assert_eq!(serde_json::to_value(objects["ed"].spec.deletion_policy).unwrap(), "Destroy");
    assert_eq!(objects["aes"].spec.key_size, Some(256));
}

#[tokio::test]
async fn what_is_refused_beforehand_makes_no_object() {
    let (world, stand) = world(Fate::Ready, &["ed"]).await;
    let base = |change: Value| {
        let mut body = body("new");
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    for (caller, change, refusal) in [
        ("app", json!({"password": "x".repeat(1025)}), (400, 600)),
        ("app", json!({"policy": {}}), (400, 600)),
        ("app", json!({"addressFormat": {"format": "BTC"}}), (400, 630)),
        ("app", json!({"algorithm": "RSA", "keySize": 1000}), (400, 603)),
        ("app", json!({"curveOid": "1.2.3"}), (400, 600)),
        ("app", json!({"curveOid": "1.3.132.0.33", "algorithm": "ML-KEM-512"}), (400, 611)),
        ("app", json!({"label": ""}), (400, 610)),
        ("app", json!({"label": "x".repeat(256)}), (400, 610)),
        ("app", json!({"label": "ed"}), (400, 608)),
        ("app", json!({"label": "attestation-key-device"}), (400, 608)),
        ("nobody", json!({}), (403, 400)),
        ("stranger", json!({}), (403, 400)),
    ] {
        let answer = world.call_as(caller, "POST", "/v1/key", &base(change.clone())).await;
        assert_eq!(answer.refused(), refusal, "{change}");
    }
    assert_eq!(stand.changes(), [""; 0]);
}

#[tokio::test]
async fn a_key_that_cannot_be_made_leaves_no_object() {
    for (reason, refusal) in [
        ("Conflict", (400, 608)),
        ("Unsupported", (400, 611)),
        ("NotAttested", (400, 611)),
        ("InvalidSpec", (400, 600)),
        ("NamespaceNotAllowed", (403, 400)),
        ("PinRejected", (500, 701)),
    ] {
        let (world, stand) = world(Fate::Stalled(reason), &[]).await;
        let answer = world.call("POST", "/v1/key", &body("new")).await;
        assert_eq!(answer.refused(), refusal, "{reason}");
        assert_eq!(answer.json()["message"], "somebody must act");
        assert_eq!(stand.changes(), ["create shop/new", "delete shop/new by uid"]);
        tokio::time::sleep(2 * WORK).await;
        assert!(stand.objects().is_empty(), "{reason}");
        assert_eq!(world.fake.count("generate"), 0);
    }
}

#[tokio::test]
async fn a_key_that_was_made_and_would_stay_keeps_its_object() {
    for (reason, kept) in [
        ("SecretConflict", true),
        ("AttributesDiffer", true),
        ("NotAttested", true),
        ("Conflict", false),
        ("Unsupported", false),
    ] {
        let (world, stand) = world(Fate::Stalled(reason), &[]).await;
        let mut request = body("new");
        request["attributes"]["destroyable"] = json!(false);
        let answer = world.call("POST", "/v1/key", &request).await;
        answer.refused();
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(message.ends_with("; HsmKey shop/new is kept"), kept, "{reason}: {message}");
        tokio::time::sleep(2 * WORK).await;
        assert_eq!(!stand.objects().is_empty(), kept, "{reason}");
    }
}

#[tokio::test]
async fn the_api_servers_refusals_are_passed_on() {
    for (code, refusal) in
        [(409, (400, 608)), (422, (400, 600)), (403, (400, 600)), (500, (503, 700)), (429, (503, 700))]
    {
        let (world, stand) = world(Fate::Refused(code, "no, because"), &[]).await;
        let answer = world.call("POST", "/v1/key", &body("new")).await;
        assert_eq!(answer.refused(), refusal, "{code}");
        if code == 422 {
            assert!(answer.json()["message"].as_str().unwrap().contains("no, because"));
        }
        assert!(stand.changes().iter().all(|change| change.starts_with("create")));
    }
}

/// The view lags behind: it still has an object of that name that is gone, with another key.
#[tokio::test]
async fn an_earlier_object_of_the_same_name_is_not_taken_for_the_new_one() {
    let (world, _) = world(Fate::Ready, &[]).await;
    let spec = json!({"partitionRef": {"name": PARTITION}, "label": "other", "algorithm": "ED"});
    let old = Maker(world.fake.clone()).ready(object(NAMESPACE, "new", spec)).await;
    world.directory.put(Arc::new(old));
    let created = world.call("POST", "/v1/key", &body("new")).await.ok();
    assert_eq!((&created["json"]["label"], &created["json"]["algorithm"]), (&json!("new"), &json!("EC")));
}

#[tokio::test]
async fn many_at_once_make_one_key() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let request = body("new");
    let answers = futures::future::join_all((0..8).map(|_| world.call("POST", "/v1/key", &request))).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 400, 400, 400, 400, 400, 400, 400]);
    let refused = answers.iter().filter(|answer| answer.status == 400);
    assert!(refused.into_iter().all(|answer| answer.refused() == (400, 608)));
    assert_eq!((stand.objects().len(), world.fake.count("generate")), (1, 1));
}

#[tokio::test]
async fn a_deletion_is_answered_when_the_key_is_gone() {
    for by_body in [false, true] {
        let (world, stand) = world(Fate::Ready, &[]).await;
        world.call("POST", "/v1/key", &body("signer")).await.ok();
        let begin = Instant::now();
        let answer = if by_body {
            world.call("POST", "/v1/key/deleteKey", &json!({"label": "signer"})).await
        } else {
            world.call("DELETE", "/v1/key/signer", &Value::Null).await
        };
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
        assert!(begin.elapsed() >= WORK);
        assert!(stand.objects().is_empty());
        assert_eq!(stand.changes()[1..], ["delete shop/signer by uid"]);
        let again = world.call("DELETE", "/v1/key/signer", &Value::Null).await;
        assert_eq!(again.refused(), (404, 650));
    }
}

/// Another replica made the key a moment ago: this one asks the API server before it says that there is none.
#[tokio::test]
async fn a_key_that_the_view_does_not_have_yet_is_used_and_deleted_all_the_same() {
    let (world, stand) = world(Fate::Unseen, &[]).await;
    let spec = json!({"partitionRef": {"name": PARTITION}, "algorithm": "ED", "deletionPolicy": "Destroy",
        "attributes": {"sign": true, "destroyable": true}});
    let key = Maker(world.fake.clone()).ready(object(NAMESPACE, "fresh", spec)).await;
    stand.objects().insert("fresh".into(), key);
    let sign =
        json!({"signRequest": {"payload": "YQ==", "signKeyName": "fresh", "signatureAlgorithm": "EDDSA"}});
    world.call("POST", "/v1/synchronousSign", &sign).await.ok();
    assert!(world.directory.find(NAMESPACE, "fresh").is_none(), "only the watch writes the view");

    let begin = Instant::now();
    let answer = world.call("DELETE", "/v1/key/fresh", &Value::Null).await;
    assert_eq!(answer.status, 200);
    assert!(begin.elapsed() >= WORK && stand.objects().is_empty());
    assert_eq!(world.call("POST", "/v1/synchronousSign", &sign).await.refused(), (404, 650));
}

#[tokio::test]
async fn a_key_that_the_view_does_not_have_yet_is_found_under_any_name_of_its_object() {
    let (world, stand) = world(Fate::Unseen, &[]).await;
    let spec = json!({"partitionRef": {"name": PARTITION}, "label": "My Key", "algorithm": "ED",
        "attributes": {"sign": true}});
    let key = Maker(world.fake.clone()).ready(object(NAMESPACE, "mine", spec)).await;
    stand.objects().insert("mine".into(), key);
    let sign = |key: &str| json!({"signRequest": {"payload": "YQ==", "signKeyName": key, "signatureAlgorithm": "EDDSA"}});
    world.call("POST", "/v1/synchronousSign", &sign("My Key")).await.ok();
    // The object's name is not the key's.
    assert_eq!(world.call("POST", "/v1/synchronousSign", &sign("mine")).await.refused(), (404, 650));
}

#[tokio::test]
async fn a_deletion_never_takes_an_object_that_came_after() {
    let (world, stand) = world(Fate::Ready, &["ed-destroyable"]).await;
    let spec = json!({"partitionRef": {"name": PARTITION}, "algorithm": "ED"});
    stand.objects().insert("ed-destroyable".into(), object(NAMESPACE, "ed-destroyable", spec));
    let deletion = world.call("DELETE", "/v1/key/ed-destroyable", &Value::Null);
    let watch = async {
        tokio::time::sleep(WORK).await;
        world.directory.remove(NAMESPACE, "ed-destroyable");
    };
    let (answer, ()) = tokio::join!(deletion, watch);
    assert_eq!(answer.status, 200);
    assert_eq!(stand.changes(), ["delete shop/ed-destroyable by another uid"]);
    assert_eq!(stand.objects().len(), 1);
}
