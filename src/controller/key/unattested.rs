//! What the controller does with a key that is on the token and that its HSM does not attest.

use std::sync::Arc;

use axum::{Json, Router, http::StatusCode, routing::post};
use kube::{ResourceExt, runtime::reflector};
use serde_json::{Value, json};

use super::{
    act,
    gather::{Presence, Seen},
    plan::{NOT_ATTESTED, Step},
    refusal,
    report::{Done, report},
    template,
};
use crate::{
    api::{
        HsmKey, HsmPartition, condition,
        key::{Attestation, HsmKeyStatus},
    },
    controller::context::{Context, Guarded},
    hsm::protocol::{Reply, Request},
    model::KeyAttributes,
    service::attest::tests::choosy,
};

fn key(name: &str) -> HsmKey {
    let spec = json!({"partitionRef": {"name": "p"}, "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7"});
    let mut key = HsmKey::new(name, serde_json::from_value(spec).unwrap());
    key.metadata.namespace = Some("ns".into());
    key.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    key
}

/// Before an HSM that attests no such key, with a partition where nobody does so in its place.
async fn stage(presence: Presence) -> (Context, Seen) {
    let (keys, _) = reflector::store::<Guarded<HsmKey>>();
    let secrets = post(async |Json(secret): Json<Value>| (StatusCode::CREATED, Json(secret)));
    let router = Router::new().route("/api/v1/namespaces/ns/secrets", secrets);
    let spec = json!({
        "pkcs11": {"library": "/fake.so", "tokenLabel": "fake", "pinSecretRef": {"name": "pin"}},
        "allowedNamespaces": {},
        "attestation": {"mode": "Vendor"},
    });
    let mut partition = HsmPartition::new("p", serde_json::from_value(spec).unwrap());
    let (ctx, hsm) = (Context::alone(kube::Client::new(router, "default"), keys), choosy().await);
    let found = ctx.attestor.ensure(hsm.as_ref(), &partition, ctx.now()).await.unwrap();
    partition.status.get_or_insert_default().attestation = Some(found.current);
    let seen = Seen { partition: Some(Arc::new(partition)), ..Seen::alone(Some(hsm), presence) };
    (ctx, seen)
}

#[tokio::test]
async fn a_new_key_is_refused_for_a_reason_that_does_not_say_that_nothing_was_made() {
    let (ctx, seen) = stage(Presence::Labelled(vec![])).await;
    let error = act(&Step::Generate, &key("unattested"), &seen, &ctx).await.unwrap_err();
    let refusal = refusal(&error).unwrap();
    assert_eq!(refusal.reason, NOT_ATTESTED);
    assert!(refusal.message.contains("told to fail"), "{}", refusal.message);
}

#[tokio::test]
async fn a_key_that_can_be_used_goes_on_with_the_attestation_that_it_has() {
    let (ctx, seen) = stage(Presence::Ours(vec![])).await;
    let mut key = key("attested-before");
    let made = seen.hsm().unwrap().call(Request::Generate(template(&key).unwrap())).await;
    let Ok(Reply::Key(facts)) = made else { panic!("{made:?}") };
    let ready = condition::Report::new(condition::READY, Some(true), "Ready", "");
    let before = Attestation {
        xml: "<a/>".into(),
        xml_signature: "AA==".into(),
        signature_algorithm: None,
        attestation_key_name: "attestation-key".into(),
        attest_time: "2026-01-01T00:00:00Z".into(),
        mode: "Software".into(),
    };
    let old = HsmKeyStatus {
        key_id: facts.id.as_ref().map(ToString::to_string),
        attributes: Some(KeyAttributes {
            sensitive: Some(!facts.attributes.sensitive.unwrap_or(false)),
            ..facts.attributes.clone()
        }),
        attestation: Some(before.clone()),
        conditions: condition::apply(&[], &[ready], None, ctx.now()),
        ..HsmKeyStatus::default()
    };
    key.status = Some(old.clone());
    let step = Step::Describe(facts.clone());
    let done = act(&step, &key, &seen, &ctx).await.unwrap();
    assert!(matches!(done, Done::Complete { .. }), "{}: {done:?}", key.name_any());
    let status = report(&key, &old, &step, &done, ctx.now());
    assert!(condition::is_true(&status.conditions, condition::READY));
    assert_eq!((status.attestation, status.attributes), (Some(before), Some(facts.attributes)));
}
