//! `POST /v1/derivedKey` from a master with a password, cut off at each of its steps as by the end of the gateway: the same
//! request, or the controller, completes it, and one key comes of it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    extract::{Request as HttpRequest, State},
    http::Method,
    middleware::{self, Next},
    response::Response,
};
use hsm_operator::{
    api::{
        HsmKey, IMPORTING,
        condition::{self, Report},
    },
    hsm::{
        Hsm, Supervisor,
        fake::Fake,
        protocol::{HsmError, Kind, Reply, Request, TokenFacts},
    },
    model::KeyId,
};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    cluster::Cluster,
    common::{token::Token, vendor},
    world::{Answer, World, unready},
};

const LABEL: &str = "master/0'/1";

/// Where a request gets to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The API server is about to be asked for the object.
    Create,
    /// It made it, and has not said so.
    Created,
    /// The token is about to be asked for the key.
    Derive,
    /// It derived it, and has not said so.
    Derived,
    /// The API server is about to be told that the key is there.
    Note,
    /// It was told, and has not said so. The controller works from here on.
    Noted,
}

/// Stops a request at a step.
#[derive(Default)]
struct Knife {
    at: Mutex<Option<Step>>,
    reached: Notify,
    /// What the token answers in place of a derived key.
    refusal: Mutex<Option<Kind>>,
}

impl Knife {
    async fn pass(&self, step: Step) {
        if *self.at.lock().unwrap() == Some(step) {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

async fn between(State(knife): State<Arc<Knife>>, request: HttpRequest, next: Next) -> Response {
    let keys = request.uri().path().contains("/hsmkeys");
    let steps = match *request.method() {
        Method::POST if keys => Some((Step::Create, Step::Created)),
        Method::PATCH if keys => Some((Step::Note, Step::Noted)),
        _ => None,
    };
    let Some((before, after)) = steps else { return next.run(request).await };
    knife.pass(before).await;
    let response = next.run(request).await;
    knife.pass(after).await;
    response
}

/// The token as the gateway reaches it.
struct Reached {
    hsm: Arc<Supervisor>,
    knife: Arc<Knife>,
}

#[async_trait]
impl Hsm for Reached {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        if !matches!(request, Request::Import(_)) {
            return self.hsm.call(request).await;
        }
        self.knife.pass(Step::Derive).await;
        let refusal = *self.knife.refusal.lock().unwrap();
        if let Some(kind) = refusal {
            return Err(HsmError::new(kind, "not now"));
        }
        let reply = self.hsm.call(request).await;
        self.knife.pass(Step::Derived).await;
        reply
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.hsm.token()
    }
}

struct Stage {
    world: World,
    cluster: Arc<Cluster>,
    hsm: Arc<Supervisor>,
    knife: Arc<Knife>,
    _token: Token,
}

impl Stage {
    /// With a master that has a password.
    async fn new() -> Self {
        let token = vendor::token();
        let (hsm, knife) = (token.supervisor().await, Arc::<Knife>::default());
        let reached = Arc::new(Reached { hsm: hsm.clone(), knife: knife.clone() });
        let layer = middleware::from_fn_with_state(knife.clone(), between);
        let (world, cluster) =
            Cluster::behind(reached, Arc::new(Fake::default()), &[], |router: Router| router.layer(layer))
                .await;
        let attributes = json!({"sign": true, "derive": true, "slip10": true});
        let master = json!({"label": "master", "algorithm": "EC", "curveOid": "1.3.132.0.10",
            "attributes": attributes, "password": "a secret"});
        world.call("POST", "/v1/key", &master).await.ok();
        Self { world, cluster, hsm, knife, _token: token }
    }

    async fn derive(&self) -> Answer {
        let body = json!({"masterKeyLabel": "master", "masterKeyPassword": "a secret", "derivationPath": "0'/1",
            "attributes": {"sign": true, "destroyable": true}});
        self.world.call("POST", "/v1/derivedKey", &body).await
    }

    /// The gateway ends where its request gets to `step`.
    async fn cut_off_at(&self, step: Step) {
        *self.knife.at.lock().unwrap() = Some(step);
        tokio::select! {
            answer = self.derive() => panic!("it is answered before {step:?}: {answer:?}"),
            () = self.knife.reached.notified() => {}
        }
        *self.knife.at.lock().unwrap() = None;
    }

    /// The object of the key as a manifest has it: nobody brings the key.
    async fn applied(&self) -> HsmKey {
        self.cut_off_at(Step::Created).await;
        let mut key = self.cluster.of_label(LABEL).unwrap();
        key.annotations_mut().clear();
        key
    }

    /// A minute later.
    fn grow_old(&self) {
        let Some(mut key) = self.cluster.of_label(LABEL) else { return };
        let Some(since) = key.annotations().get(IMPORTING) else { return };
        let since: jiff::Timestamp = since.parse().unwrap();
        let since = since - jiff::SignedDuration::from_secs(61);
        key.annotations_mut().insert(IMPORTING.into(), since.to_string());
        self.cluster.write(key);
    }

    /// Ids of the keys on the token that sign, but for the master's.
    async fn derived_ids(&self) -> Vec<KeyId> {
        let entries = match self.hsm.call(Request::Inventory).await {
            Ok(Reply::Inventory(entries)) => entries,
            other => panic!("{other:?}"),
        };
        let master = self.world.directory.by_name("shop", "master").unwrap();
        let master = master.usable.as_ref().unwrap().id.clone();
        let keys = entries.into_iter().filter(|entry| entry.is_key());
        keys.map(|entry| KeyId::from_bytes(entry.id).unwrap()).filter(|id| *id != master).collect()
    }

    /// Waits for the first word of the controller.
    async fn is_looked_at(&self) {
        let wait = async {
            while self.cluster.of_label(LABEL).unwrap().status.is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("the stand-in looks at what is there");
    }

    /// The key is there once, is its object's, and signs.
    async fn is_whole(&self, context: &str) {
        let key = self.cluster.of_label(LABEL).unwrap_or_else(|| panic!("{context}: no object"));
        assert!(!key.annotations().contains_key(IMPORTING), "{context}: nobody is at it any more");
        let uid = key.uid().unwrap().parse().unwrap();
        let id = KeyId::for_object(uid, &key.namespace().unwrap(), &key.name_any());
        assert_eq!(self.derived_ids().await, std::slice::from_ref(&id), "{context}");
        assert_eq!(key.status.as_ref().unwrap().key_id, Some(id.to_string()), "{context}");
        let objects = self.cluster.objects();
        let kinds = |kind: &str| objects.iter().filter(|object| object.starts_with(kind)).count();
        // The one Secret is the master's: a derived key has no password before it is given one.
        assert_eq!((kinds("HsmKey "), kinds("Secret ")), (2, 1), "{context}: {objects:?}");
        let sign = json!({"signRequest": {"payload": "YQ==", "signKeyName": LABEL,
            "signatureAlgorithm": "SHA256_WITH_ECDSA"}});
        let signature = self.world.call("POST", "/v1/synchronousSign", &sign).await.ok();
        let verify = json!({"verifySignatureRequest": {"payload": "YQ==", "signKeyName": LABEL,
            "signatureAlgorithm": "SHA256_WITH_ECDSA", "signature": signature["signature"]}});
        let valid = self.world.call("POST", "/v1/verify", &verify).await.ok();
        assert_eq!(valid, json!({"signatureValid": true}), "{context}");
        assert_eq!(self.derive().await.refused(), (400, 608), "{context}: it is there");
    }

    async fn clear(&self) {
        let gone = self.world.call("POST", "/v1/key/deleteKey", &json!({"label": LABEL})).await;
        assert_eq!(gone.status, 200, "{:?}", gone.body);
        assert_eq!(self.derived_ids().await, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_gateway_ends_the_same_request_derives_one_key() {
    let stage = Stage::new().await;
    stage.cut_off_at(Step::Create).await;
    assert!(stage.cluster.of_label(LABEL).is_none());
    assert_eq!(stage.derive().await.status, 201);
    stage.is_whole("Create").await;
    stage.clear().await;
    for (step, there) in [(Step::Created, 0), (Step::Derive, 0), (Step::Derived, 1), (Step::Note, 1)] {
        let context = format!("{step:?}");
        stage.cut_off_at(step).await;
        assert_eq!(stage.derived_ids().await.len(), there, "{context}");
        let uid = stage.cluster.of_label(LABEL).unwrap().uid();
        // Somebody may still be at it.
        assert_eq!(stage.derive().await.refused(), (503, 700), "{context}");
        stage.grow_old();
        assert_eq!(stage.derive().await.status, 201, "{context}");
        assert_eq!(stage.cluster.of_label(LABEL).unwrap().uid(), uid, "{context}: the same object");
        stage.is_whole(&context).await;
        stage.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_gateway_ends_the_controller_takes_over_what_is_there_and_derives_nothing() {
    let stage = Stage::new().await;
    for step in [Step::Created, Step::Derive] {
        stage.cut_off_at(step).await;
        stage.cluster.look_again(LABEL).await;
        assert_eq!(stage.derived_ids().await, [], "{step:?}");
        assert!(stage.cluster.of_label(LABEL).unwrap().status.is_none(), "{step:?}");
        stage.grow_old();
        assert_eq!(stage.derive().await.status, 201, "{step:?}");
        stage.is_whole(&format!("{step:?}")).await;
        stage.clear().await;
    }
    for step in [Step::Derived, Step::Note] {
        stage.cut_off_at(step).await;
        let before = stage.derived_ids().await;
        stage.cluster.look_again(LABEL).await;
        assert_eq!((stage.derived_ids().await, before.len()), (before, 1), "{step:?}");
        // It is a key like others, and the note of the gateway that ended says nothing any more.
        let mut key = stage.cluster.of_label(LABEL).unwrap();
        assert!(key.annotations_mut().remove(IMPORTING).is_some(), "{step:?}");
        assert_eq!(stage.derive().await.refused(), (400, 608), "{step:?}");
        stage.cluster.write(key);
        stage.is_whole(&format!("{step:?}")).await;
        stage.clear().await;
    }
    // From here on it is the controller that works, and the request that was cut off is done with.
    stage.cut_off_at(Step::Noted).await;
    let answer = stage.derive().await;
    assert!(
        answer.status == 201 || answer.refused() == (400, 608),
        "whether the controller was there before: {answer:?}"
    );
    stage.is_looked_at().await;
    stage.is_whole("Noted").await;
}

/// The token refuses what completes a request that was cut off: the object stays as it was, for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_token_refuses_the_second_time_is_completed_by_a_third() {
    let stage = Stage::new().await;
    for (kind, refusal) in [(Kind::Busy, (503, 700)), (Kind::Full, (500, 701))] {
        stage.cut_off_at(Step::Created).await;
        stage.grow_old();
        let uid = stage.cluster.of_label(LABEL).unwrap().uid();
        *stage.knife.refusal.lock().unwrap() = Some(kind);
        assert_eq!(stage.derive().await.refused(), refusal, "{kind:?}");
        assert_eq!(stage.derived_ids().await, [], "{kind:?}");
        *stage.knife.refusal.lock().unwrap() = None;
        let wrong = json!({"masterKeyLabel": "master", "masterKeyPassword": "another", "derivationPath": "0'/1",
            "attributes": {"sign": true, "destroyable": true}});
        let locked = stage.world.call("POST", "/v1/derivedKey", &wrong).await;
        assert_eq!(locked.refused(), (400, 620), "{kind:?}");
        // Other attributes are those of another key.
        let other = json!({"masterKeyLabel": "master", "masterKeyPassword": "a secret", "derivationPath": "0'/1",
            "attributes": {"sign": true, "destroyable": false}});
        let other = stage.world.call("POST", "/v1/derivedKey", &other).await;
        assert_eq!(other.refused(), (400, 608), "{kind:?}");
        assert_eq!(stage.derived_ids().await, [], "{kind:?}");
        assert_eq!(stage.derive().await.status, 201, "{kind:?}");
        assert_eq!(stage.cluster.of_label(LABEL).unwrap().uid(), uid, "{kind:?}: the same object");
        stage.is_whole(&format!("{kind:?}")).await;
        stage.clear().await;
    }
}

/// An object that was applied: the controller refuses it for the master's password, and says which request derives its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_from_a_master_with_a_password_is_completed_by_the_request() {
    let stage = Stage::new().await;
    let key = stage.applied().await;
    stage.cluster.write(key);
    stage.is_looked_at().await;
    assert_eq!(stage.derived_ids().await, []);
    stage.world.rules.asked();
    let answer = stage.derive().await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    assert_eq!(stage.world.rules.asked()[..2], ["create hsmkeys shop/", "use hsmkeys shop/master"]);
    assert_ne!(answer.ok()["json"]["publicKey"], Value::Null);
    stage.is_whole("manifest").await;
}

/// What the controller refused before says nothing of a key that comes afterwards, and stands until its next look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_refusal_is_not_taken_for_the_outcome() {
    let stage = Stage::new().await;
    let key = stage.applied().await;
    stage.cluster.put(unready(key, true, "Conflict", "another key has this label"));
    let answer = stage.derive().await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    stage.is_whole("earlier refusal").await;
}

/// A key that was there once and is gone stays gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_once_is_not_derived_again() {
    let stage = Stage::new().await;
    let key = stage.applied().await;
    let mut key = unready(key, true, "MissingOnToken", "the key is gone from the token");
    let there = [Report::new(condition::GENERATED, Some(true), "DuplicateObject", "two keys have its id")];
    let conditions = &mut key.status.as_mut().unwrap().conditions;
    conditions.append(&mut condition::apply(&[], &there, Some(1), jiff::Timestamp::now()));
    stage.cluster.put(key);
    assert_eq!(stage.derive().await.refused(), (400, 608));
    assert_eq!(stage.derived_ids().await, []);
}
