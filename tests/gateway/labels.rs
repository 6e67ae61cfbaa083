//! Labels of every kind that the contract allows, from their making to their end.

use std::collections::BTreeSet;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::{
    lifecycle::{Fate, world},
    world::{NAMESPACE, PARTITION, object},
};

/// As a client writes it into a path that encodes names: all of it.
fn encoded(label: &str) -> String {
    label.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn labels_of_every_kind_are_made_used_and_deleted() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let labels: Vec<String> = [
        "a",
        "A",
        "k",
        "Release Key",
        "release key",
        " release key",
        "release key ",
        "user@example.com",
        "Zürich",
        "Zu\u{308}rich",
        "密钥",
        "🔑",
        "a.b",
        "a..b",
        "-a",
        "a-",
        "a:b",
        "a%2Fb",
        "a\\b",
        "\"a\"",
        "..a?b#c&d=e+f",
        "attributes",
        "export",
        "k-0123456789abcdef0123456789abcdef01234567",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(["x".repeat(255), "X".repeat(255), "é".repeat(127)])
    .collect();
    for label in &labels {
        let body =
            json!({"label": label, "algorithm": "ED", "attributes": {"sign": true, "destroyable": true}});
        let created = world.call("POST", "/v1/key", &body).await;
        assert_eq!(created.status, StatusCode::CREATED, "{label}: {:?}", created.body);
        assert_eq!(created.ok()["json"]["label"], json!(label));
    }
    let names: BTreeSet<String> = stand.objects().keys().cloned().collect();
    assert_eq!(names.len(), labels.len(), "each has an object of its own: {names:?}");
    let mut sorted = labels.clone();
    sorted.sort();
    assert_eq!(world.call("GET", "/v1/key", &Value::Null).await.ok(), json!(sorted));
    for label in &labels {
        let by_body = world.call("POST", "/v1/key/attributes", &json!({"label": label})).await.ok();
        assert_eq!(by_body["json"]["label"], json!(label));
        let path = format!("/v1/key/{}/attributes", encoded(label));
        assert_eq!(world.call("GET", &path, &Value::Null).await.ok(), by_body, "{label}");
        let sign =
            json!({"signRequest": {"payload": "YQ==", "signKeyName": label, "signatureAlgorithm": "EDDSA"}});
        world.call("POST", "/v1/synchronousSign", &sign).await.ok();
    }
    for label in &labels {
        let answer = world.call("DELETE", &format!("/v1/key/{}", encoded(label)), &Value::Null).await;
        assert_eq!(answer.status, 200, "{label}: {:?}", answer.body);
    }
    assert!(stand.objects().is_empty());
}

/// The contract's misprints, and the identifier that an old client has for Ed25519.
#[tokio::test]
async fn a_curve_is_found_by_other_identifiers_and_written_by_its_own() {
    let (world, _) = world(Fate::Ready, &[]).await;
    for (label, algorithm, asked, written) in [
        ("old-ed", "ED", "1.3.6.1.4.1.11591.15.1", "1.3.101.112"),
        ("prime239", "EC", "1.2.840.10045.3.1.1", "1.2.840.10045.3.1.4"),
    ] {
        let body = json!({"label": label, "algorithm": algorithm, "curveOid": asked, "attributes": {}});
        world.call("POST", "/v1/key", &body).await;
        let object = world.directory.by_name(NAMESPACE, label).expect("it is made").object.clone();
        assert_eq!(object.spec.curve_oid.as_deref(), Some(written));
    }
}

#[tokio::test]
async fn names_in_a_path_need_not_be_encoded() {
    let (world, _) = world(Fate::Ready, &["ed"]).await;
    for label in ["user@example.com", "a:b", "(a)", "Zürich"] {
        let body = json!({"label": label, "algorithm": "ED", "attributes": {"destroyable": true}});
        world.call("POST", "/v1/key", &body).await.ok();
        let read = world.call("GET", &format!("/v1/key/{label}/attributes"), &Value::Null).await;
        assert_eq!(read.ok()["json"]["label"], label);
        assert_eq!(world.call("DELETE", &format!("/v1/key/{label}"), &Value::Null).await.status, 200);
    }
}

#[tokio::test]
async fn a_name_that_another_label_has_is_told_apart_from_a_label_that_is_taken() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let spec = json!({"partitionRef": {"name": PARTITION}, "label": "Theirs", "algorithm": "ED"});
    stand.objects().insert("mine".into(), object(NAMESPACE, "mine", spec));
    let body = json!({"label": "mine", "algorithm": "ED", "attributes": {}});
    let answer = world.call("POST", "/v1/key", &body).await;
    assert_eq!(answer.refused(), (400, 608));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("HsmKey mine") && message.contains("label 'Theirs'"), "{message}");
}
