//! What the controller does with a key that a gateway derives from a master with a password, wherever that was cut off.

use std::sync::Arc;

use axum::{Json, Router, http::StatusCode, routing::post};
use kube::{
    ResourceExt,
    runtime::{reflector, watcher::Event},
};
use serde_json::{Value, json};

use super::{
    act,
    gather::{Presence, Seen},
    plan::{AWAITED, Step, plan},
    report::Done,
    template,
};
use crate::{
    api::{HsmKey, HsmPartition, IMPORTING, password::PASSWORD_REQUIRED},
    controller::context::{Context, Guarded},
    hsm::{
        Hsm,
        fake::Fake,
        protocol::{KeyFacts, Reply, Request},
    },
};

fn object(name: &str, spec: Value) -> HsmKey {
    let mut whole = json!({"partitionRef": {"name": "p"}, "algorithm": "EC", "curveOid": "1.3.132.0.10"});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let mut key = HsmKey::new(name, serde_json::from_value(whole).unwrap());
    key.metadata.namespace = Some("ns".into());
    key.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    key
}

struct Stage {
    ctx: Context,
    fake: Arc<Fake>,
    partition: Arc<HsmPartition>,
}

impl Stage {
    /// With a master that has a password, and an API server that takes Secrets.
    async fn new() -> Self {
        let (keys, mut seen) = reflector::store::<Guarded<HsmKey>>();
        let secrets = post(async |Json(secret): Json<Value>| (StatusCode::CREATED, Json(secret)));
        let router = Router::new().route("/api/v1/namespaces/ns/secrets", secrets);
        let ctx = Context::alone(kube::Client::new(router, "default"), keys);
        let master = object("m", json!({"password": {"secretName": "s"}}));
        let master = serde_json::from_value(serde_json::to_value(&master).unwrap()).unwrap();
        seen.apply_watcher_event(&Event::Apply(master));
        let spec = json!({
            "pkcs11": {"library": "/fake.so", "tokenLabel": "fake", "pinSecretRef": {"name": "pin"}},
            "allowedNamespaces": {"matchLabels": {"hsm": "yes"}},
        });
        let mut partition = HsmPartition::new("p", serde_json::from_value(spec).unwrap());
        let fake = Arc::new(Fake::default());
        let attestation = ctx.attestor.ensure(fake.as_ref(), &partition, ctx.now()).await.unwrap();
        partition.status.get_or_insert_default().attestation = Some(attestation.current);
        Self { ctx, fake, partition: Arc::new(partition) }
    }

    fn seen(&self, presence: Presence) -> Seen {
        let partition = Some(Arc::clone(&self.partition));
        Seen { partition, ..Seen::alone(Some(self.fake.clone()), presence) }
    }

    /// Puts the key of an object on the token, as a gateway does.
    async fn bring(&self, key: &HsmKey) -> KeyFacts {
        match self.fake.call(Request::Generate(template(key).unwrap())).await {
            Ok(Reply::Key(facts)) => *facts,
            other => panic!("{other:?}"),
        }
    }
}

/// A key that a gateway derives, with its note or without.
fn derived(noted: bool) -> HsmKey {
    let mut key = object("d", json!({"label": "m/0'/1", "derivedFrom": {"key": "m", "path": "0'/1"}}));
    if noted {
        key.annotations_mut().insert(IMPORTING.into(), "2026-01-01T00:00:00Z".into());
    }
    key
}

#[tokio::test]
async fn nothing_is_made_before_the_gateway_did() {
    let stage = Stage::new().await;
    let made = stage.fake.count("generate");
    for (noted, reason) in [(true, AWAITED), (false, PASSWORD_REQUIRED)] {
        let (key, seen) = (derived(noted), stage.seen(Presence::Labelled(vec![])));
        match act(&Step::Generate, &key, &seen, &stage.ctx).await.unwrap() {
            Done::Waiting(waits, message) if noted => {
                assert_eq!(waits, reason);
                assert!(message.contains("POST /v1/derivedKey"), "{message}");
            }
            Done::Refused(refusal) if !noted => {
                assert_eq!(refusal.reason, reason);
                assert!(refusal.message.contains("POST /v1/derivedKey"), "{}", refusal.message);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stage.fake.count("generate"), made);
}

#[tokio::test]
async fn what_the_gateway_derived_is_taken_over_whether_or_not_it_said_so() {
    for noted in [true, false] {
        let stage = Stage::new().await;
        let key = derived(noted);
        let facts = stage.bring(&key).await;
        let made = stage.fake.count("generate");
        let seen = stage.seen(Presence::Ours(vec![facts.clone()]));
        let step = plan(&key, &seen);
        assert!(matches!(step, Step::Generate), "{step:?}");
        match act(&step, &key, &seen, &stage.ctx).await.unwrap() {
            Done::Complete { status, .. } => {
                assert_eq!(status.key_id, facts.id.map(|id| id.to_string()), "{noted}");
                assert!(status.attestation.is_some(), "{noted}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(stage.fake.count("generate"), made, "{noted}: none is made besides it");
    }
}
