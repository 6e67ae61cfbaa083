//! Passwords and policies of keys on the cluster: over REST, in the objects, and where they must not be.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::{HsmKey, SigningRequest, condition, signing_request::State},
    model::SignatureAlgorithm,
};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    caller::{ALL_VERBS, GATEWAYS, caller, default_partition, everywhere, logs, until_default},
    common::openssl,
    http::{Answer, Gateways},
    tools::{self, kubectl},
    world::{OPERATOR, Token, World},
};

/// No part of it is in anything else that the cluster says.
const FIRST: &str = "Zwölf-Boxkämpfer-1";
const SECOND: &str = "Zwölf-Boxkämpfer-2";

fn verbs() -> Vec<&'static str> {
    ALL_VERBS.iter().copied().chain(["update"]).collect()
}

/// As the client in Go sends it: an entry for each byte.
fn split_bytes(password: &str) -> Value {
    password.bytes().map(|byte| char::from(byte).to_string()).collect()
}

fn sign(label: &str, password: &Value) -> Value {
    json!({ "signRequest": {
        "payload": STANDARD.encode("m"), "signKeyName": label, "keyPassword": password,
        "signatureAlgorithm": "SHA256_WITH_ECDSA",
    }})
}

/// Waits until every gateway answers with this status.
async fn answers(app: &Gateways, body: &Value, status: u16) {
    let is = |answer: &Answer| answer.status == status;
    everywhere(app, "POST", "/v1/synchronousSign", &body.to_string(), is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_set_changed_and_taken_away_and_only_it_uses_the_key() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    for on in Token::BOTH {
        let namespace = world.namespace("passwords").await;
        let app = caller(&namespace, "app", &verbs());
        let _default = default_partition(Some(on)).await;
        until_default(&app, Some(on)).await;
        let label = format!("{namespace}.locked");
        let body = json!({
            "label": label, "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7", "password": split_bytes(FIRST),
            "attributes": { "sign": true, "destroyable": true }, "policy": null,
        });
        let made = app.post("/v1/key", body).await.with_status(201);
        let object = world.api::<HsmKey>(&namespace).get(&label).await.unwrap();
        let secret = object.spec.password.clone().expect("it refers to its password").secret_name;
        let kept = world.api::<Secret>(OPERATOR).get(&secret).await.unwrap();
        assert_eq!(kept.type_.as_deref(), Some("hsm-operator.io/key-password"));
        let data = kept.data.unwrap();
        assert_eq!(data["key"].0, format!("{namespace}/{label}").into_bytes());
        assert!(data["password"].0.starts_with(b"$argon2id$"), "{on:?}");

        for wrong in [Value::Null, json!(""), json!(SECOND), split_bytes("Zwölf")] {
            let refused = app.post("/v1/synchronousSign", sign(&label, &wrong)).await;
            let message = refused.is_error(400, 620, "key.password.mismatch");
            assert_eq!(message, format!("Key password mismatch for key '{label}'."));
        }
        let key = STANDARD.decode(made["json"]["publicKey"].as_str().unwrap()).unwrap();
        for right in [json!(FIRST), split_bytes(FIRST), FIRST.chars().map(String::from).collect()] {
            let signed = app.post("/v1/synchronousSign", sign(&label, &right)).await.with_status(200);
            let signature = STANDARD.decode(signed["signature"].as_str().unwrap()).unwrap();
            let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
            openssl::verify_native(folder.path(), &key, algorithm, b"m", &signature);
        }

        // It cannot be taken away by who may change the object.
        for change in
            [json!(null), json!({"secretName": "hsm-key-password-00000000000000000000000000000000"})]
        {
            let patch = json!({"spec": {"password": change}}).to_string();
            let output = tools::run(
                "kubectl",
                &["patch", "hsmkey", &label, "-n", &namespace, "--type=merge", "-p", &patch],
                b"",
            );
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("password cannot be taken away"), "{said}");
        }

        let change = |old: Value, new: Value| {
            app.post("/v1/key/changePassword", json!({"label": label, "password": old, "newPassword": new}))
        };
        change(json!("x"), json!(SECOND)).await.is_error(400, 620, "key.password.mismatch");
        assert_eq!(change(json!(FIRST), json!(SECOND)).await.status, 200);
        answers(&app, &sign(&label, &json!(FIRST)), 400).await;
        answers(&app, &sign(&label, &json!(SECOND)), 200).await;
        assert_eq!(change(json!(SECOND), Value::Null).await.status, 200);
        answers(&app, &sign(&label, &Value::Null), 200).await;
        assert_eq!(change(Value::Null, json!(FIRST)).await.status, 200);
        answers(&app, &sign(&label, &Value::Null), 400).await;

        // The key takes its password along.
        assert_eq!(app.post("/v1/key/deleteKey", json!({"label": label})).await.status, 200);
        assert!(world.api::<Secret>(OPERATOR).get_opt(&secret).await.unwrap().is_none(), "{on:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_request_cannot_carry_a_password() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("passwords").await;
    let app = caller(&namespace, "app", &verbs());
    world.make_key(&namespace, "k", Token::SoftHsm, json!({})).await;
    world.ready(&namespace, "k").await;
    let label = format!("{namespace}.k");
    let first = json!({"label": label, "newPassword": FIRST});
    assert_eq!(app.post("/v1/key/changePassword", first).await.status, 200);
    let seen = |key: &HsmKey| {
        let observed = key.status.as_ref().and_then(|status| status.observed_generation);
        key.spec.password.is_some() && observed == key.metadata.generation
    };
    world.until(&world.api::<HsmKey>(&namespace), "k", "seen by the controller", seen).await;
    let request = |name: &str| {
        json!({
            "apiVersion": "hsm-operator.io/v1alpha1", "kind": "SigningRequest",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"keyRef": {"name": "k"}, "payload": "aGVsbG8=", "signatureAlgorithm": "SHA256_WITH_ECDSA"},
        })
        .to_string()
    };
    let finished = async |name: &str| {
        let done = |request: &SigningRequest| {
            request.status.as_ref().and_then(|status| status.state).is_some_and(State::is_final)
        };
        let api = world.api::<SigningRequest>(&namespace);
        world.until(&api, name, "finished", done).await.status.unwrap()
    };
    tools::apply(&request("locked"));
    let status = finished("locked").await;
    assert_eq!((status.state, &status.signature), (Some(State::Failed), &None));
    let stalled = condition::find(&status.conditions, condition::STALLED).unwrap();
    assert_eq!(stalled.reason, "PasswordRequired");
    let clear = json!({"label": label, "password": FIRST});
    assert_eq!(app.post("/v1/key/changePassword", clear).await.status, 200);
    tools::apply(&request("open"));
    assert_eq!(finished("open").await.state, Some(State::Executed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_nowhere_but_in_its_hash() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("passwords").await;
    let app = caller(&namespace, "app", &verbs());
    let _default = default_partition(Some(Token::SoftHsm)).await;
    until_default(&app, Some(Token::SoftHsm)).await;
    let label = format!("{namespace}.locked");
    // Only here, so that no other test's words are found.
    let (password, wrong) =
        (format!("p4ss{}", uuid::Uuid::new_v4()), format!("wr0ng{}", uuid::Uuid::new_v4()));
    let body = json!({
        "label": label, "algorithm": "ED", "password": password, "attributes": { "sign": true, "destroyable": true },
    });
    app.post("/v1/key", body).await.with_status(201);
    for given in [&password, &wrong] {
        let body = json!({ "signRequest": {
            "payload": "AA==", "signKeyName": label, "keyPassword": given, "signatureAlgorithm": "EDDSA" }});
        app.post("/v1/synchronousSign", body).await;
        let change = json!({"label": label, "password": wrong, "newPassword": given});
        app.post("/v1/key/changePassword", change).await.is_error(400, 620, "key.password.mismatch");
    }
    let object = world.api::<HsmKey>(&namespace).get(&label).await.unwrap();
    let secret = object.spec.password.unwrap().secret_name;
    let hash = world.api::<Secret>(OPERATOR).get(&secret).await.unwrap().data.unwrap()["password"].0.clone();
    let hash = String::from_utf8(hash).unwrap();
    let mut shown: Vec<(String, String)> = logs().into_iter().collect();
    for kind in ["events", "events.events.k8s.io", "hsmpartitions", "hsmkeys", "signingrequests"] {
        shown.push((kind.into(), kubectl(&["get", kind, "-A", "-o", "json", "--show-managed-fields"])));
    }
    for (whose, text) in &shown {
        for (what, secret) in [("password", &password), ("wrong one", &wrong), ("hash", &hash)] {
            assert!(!text.contains(secret.as_str()), "{whose} shows the {what}");
        }
    }
    let audit: HashSet<_> = shown
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter(|line| line.contains(&label) && line.contains("\"target\":\"audit\""))
        .map(|line| line.contains("\"decision\":\"refused\""))
        .collect();
    assert_eq!(audit.len(), 2, "the wrong ones are on record, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_writes_no_other_secrets_than_those_of_passwords() {
    let _shared = GATEWAYS.read().await;
    let _world = World::new().await;
    let who = |component: &str| format!("--as=system:serviceaccount:{OPERATOR}:hsm-operator-{component}");
    let refused = |args: &[&str], input: &str| {
        let output = tools::run("kubectl", args, input.as_bytes());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("hsm-operator.io/key-password"),
            "{args:?}: {said}"
        );
    };
    // If it were not refused, the PIN would be gone.
    const DRY: &str = "--dry-run=server";
    let (gateway, controller) = (who("gateway"), who("controller"));
    let patch = r#"{"metadata":{"annotations":{"touched":"yes"}}}"#;
    refused(
        &["patch", "secret", "hsm-demo-pin", "-n", OPERATOR, &gateway, "--type=merge", "-p", patch, DRY],
        "",
    );
    refused(&["delete", "secret", "hsm-demo-pin", "-n", OPERATOR, &gateway, DRY], "");
    refused(&["delete", "secret", "hsm-demo-pin", "-n", OPERATOR, &controller, DRY], "");
    let opaque =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "opaque", "namespace": OPERATOR}});
    refused(&["create", "-f", "-", &gateway, DRY], &opaque.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_asks_nobody_is_kept_and_cannot_change() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let rule = json!({"tokens": [{"name": "main", "timelock": 0, "timeout": 0, "groups": null}]});
    let policy = json!({"ruleUse": rule, "ruleBlock": rule, "ruleUnblock": rule, "ruleModify": rule,
        "keyStatus": {"blocked": false}});
    for on in Token::BOTH {
        let namespace = world.namespace("policies").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        let _default = default_partition(Some(on)).await;
        until_default(&app, Some(on)).await;
        let label = format!("{namespace}.ska");
        let body = json!({"label": label, "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7",
            "attributes": {"sign": true, "destroyable": true}, "policy": policy});
        let made = app.post("/v1/key", body).await.with_status(201);
        assert_eq!(made["json"]["policy"], policy, "{on:?}");
        assert!(made["xml"].as_str().unwrap().contains("\t\t<rule_modify>\n\t\t\t<main>\n"), "{made}");
        app.post("/v1/synchronousSign", sign(&label, &Value::Null)).await.with_status(200);
        for change in [json!(null), json!({"ruleUse": null}), json!({"keyStatus": {"blocked": true}})] {
            let patch = json!({"spec": {"policy": change}}).to_string();
            let args = ["patch", "hsmkey", &label, "-n", &namespace, "--type=merge", "-p", &patch];
            let output = tools::run("kubectl", &args, b"");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("policy cannot change"), "{said}");
        }
        let object = world.api::<HsmKey>(&namespace).get(&label).await.unwrap();
        assert!(object.is_ready() && object.name_any() == label);
    }
    // A manifest says the same and gets the same answers.
    let namespace = world.namespace("policies").await;
    let blocked = json!({"policy": {"keyStatus": {"blocked": true}}});
    world.make_key(&namespace, "blocked", Token::SoftHsm, blocked).await;
    world.key_with_reason(&namespace, "blocked", "Unsupported").await;
}
