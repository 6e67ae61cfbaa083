//! Data objects over REST.

use std::sync::Arc;

use hsm_operator::{
    api::condition::{self, Report},
    gateway::partitions::Known,
    hsm::{Hsm, Kind, fake::Fault},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    audit::audited,
    world::{World, office},
};

fn body(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

#[tokio::test]
async fn a_data_object_is_made_read_and_deleted() {
    let world = World::new(&[]).await;
    let made = world.call("POST", "/v1/dataObject", &body("config", "AAEC")).await;
    assert_eq!(made.status, 201);
    let usual = json!({"private": true, "modifiable": true, "destroyable": true});
    assert_eq!(made.ok(), json!({"name": "config", "attributes": usual}));
    let read = world.call("GET", "/v1/dataObject/config", &Value::Null).await;
    assert_eq!(read.status, 200);
    assert_eq!(read.ok(), json!({"name": "config", "value": "AAEC", "attributes": usual}));
    let gone = world.call("DELETE", "/v1/dataObject/config", &Value::Null).await;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (200, 0));
    for method in ["GET", "DELETE"] {
        let answer = world.call(method, "/v1/dataObject/config", &Value::Null).await;
        assert_eq!(answer.refused(), (404, 653));
        assert_eq!(answer.json()["message"], "A data object with the name 'config' does not exist.");
    }
}

#[tokio::test]
async fn attributes_are_as_asked_for_and_null_is_as_absent() {
    let world = World::new(&[]).await;
    let asked = json!({"private": false, "modifiable": null, "destroyable": false, "unknown": 7});
    let mut body = body("d", "AA==");
    body["attributes"] = asked;
    let made = world.call("POST", "/v1/dataObject", &body).await.ok();
    assert_eq!(made["attributes"], json!({"private": false, "modifiable": true, "destroyable": false}));
    assert_eq!(world.call("DELETE", "/v1/dataObject/d", &Value::Null).await.refused(), (400, 614));
    body["name"] = json!("e");
    body["attributes"] = Value::Null;
    assert_eq!(world.call("POST", "/v1/dataObject", &body).await.status, 201);
}

#[tokio::test]
async fn a_name_may_have_anything_in_it_with_percent_encoding_and_without() {
    let world = World::new(&[]).await;
    for (name, paths) in [
        ("a/b/c", ["a/b/c", "a%2Fb/c"]),
        ("Zürich @ 1", ["Z%C3%BCrich%20@%201", "Z%c3%bcrich%20%40%201"]),
        ("100%", ["100%25", "100%"]),
        ("trailing/", ["trailing/", "trailing%2f"]),
    ] {
        assert_eq!(world.call("POST", "/v1/dataObject", &body(name, "AA==")).await.status, 201, "{name}");
        for path in paths {
            let read = world.call("GET", &format!("/v1/dataObject/{path}"), &Value::Null).await;
            assert_eq!(read.ok()["name"], name);
        }
    }
}

#[tokio::test]
async fn nothing_is_overwritten_and_the_largest_value_is_taken() {
    let world = World::new(&[]).await;
    let largest = "AAAA".repeat(64 * 1024 / 3) + "AA==";
    assert_eq!(world.call("POST", "/v1/dataObject", &body("d", &largest)).await.status, 201);
    let again = world.call("POST", "/v1/dataObject", &body("d", "AA==")).await;
    assert_eq!(again.refused(), (400, 615));
    let read = world.call("GET", "/v1/dataObject/d", &Value::Null).await;
    assert!(read.ok()["value"] == json!(largest), "it is as it was");
}

#[tokio::test]
async fn rbac_decides_by_namespace_and_name_before_the_token_is_asked() {
    let world = World::new(&[]).await;
    world.call("POST", "/v1/dataObject", &body("d", "AA==")).await.ok();
    world.rules.asked();
    let before = world.fake.calls();
    for (method, path, body) in [
        ("POST", "/v1/dataObject", body("e", "AA==")),
        ("GET", "/v1/dataObject/d", Value::Null),
        ("GET", "/v1/dataObject/none", Value::Null),
        ("DELETE", "/v1/dataObject/d", Value::Null),
    ] {
        assert_eq!(
            world.call_as("nobody", method, path, &body).await.refused(),
            (403, 400),
            "{method} {path}"
        );
    }
    assert_eq!(world.fake.calls(), before);
    assert_eq!(
        world.rules.asked(),
        [
            "create hsmdataobjects shop/",
            "get hsmdataobjects shop/d",
            "get hsmdataobjects shop/none",
            "delete hsmdataobjects shop/d",
        ]
    );
    assert_eq!(
        world.call_as("stranger", "GET", "/v1/dataObject/d", &Value::Null).await.refused(),
        (403, 400)
    );
}

#[tokio::test]
async fn what_the_token_says_is_passed_on() {
    let world = World::new(&[]).await;
    for (kind, status) in [(Kind::Busy, (503, 700)), (Kind::Full, (500, 701)), (Kind::Timeout, (504, 701))] {
        world.fake.inject("put_data", Fault::refuse(kind));
        assert_eq!(world.call("POST", "/v1/dataObject", &body("d", "AA==")).await.refused(), status);
    }
    world.fake.inject("get_data", Fault::refuse(Kind::Ambiguous));
    assert_eq!(world.call("GET", "/v1/dataObject/d", &Value::Null).await.refused(), (500, 701));
    for (name, method) in [("get_data", "GET"), ("destroy_data", "DELETE")] {
        world.fake.inject(name, Fault::Confuse);
        assert_eq!(world.call(method, "/v1/dataObject/d", &Value::Null).await.refused(), (500, 701));
    }
}

/// The primary is away, and replicas sign: they make nothing.
#[tokio::test]
async fn nothing_is_made_where_no_keys_can_be() {
    let world = World::new(&[]).await;
    let mut partition = office().await.partition.clone();
    let status = partition.status.as_mut().unwrap();
    let away = [Report::new(condition::CREATABLE, Some(false), "Unreachable", "the primary is away")];
    status.conditions = condition::apply(&status.conditions, &away, None, Timestamp::now());
    let hsm: Arc<dyn Hsm> = world.fake.clone();
    world.partitions.put(Known { object: Arc::new(partition), hsm: Some(hsm) });
    let before = world.fake.calls();
    let answer = world.call("POST", "/v1/dataObject", &body("d", "AA==")).await;
    assert_eq!(answer.refused(), (503, 700));
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(answer.json()["message"].as_str().unwrap().ends_with("the primary is away"));
    assert_eq!(world.fake.calls(), before);
}

#[tokio::test]
async fn every_use_is_recorded_and_no_value_is() {
    const VALUE: &str = "c2VjcmV0IHZhbHVl";
    let world = World::new(&["p256"]).await;
    let (records, text) = audited(async {
        world.call("POST", "/v1/dataObject", &body("d", VALUE)).await.ok();
        world.call("POST", "/v1/dataObject", &body("d", VALUE)).await.refused();
        world.call("GET", "/v1/dataObject/d", &Value::Null).await.ok();
        world.call_as("nobody", "GET", "/v1/dataObject/d", &Value::Null).await.refused();
        world.call("DELETE", "/v1/dataObject/d", &Value::Null).await;
        world.call("POST", "/v1/key/export/plain", &json!({"label": "p256"})).await.refused();
        let derive = json!({"masterKeyLabel": "p256", "derivationPath": "0"});
        world.call("POST", "/v1/derivedKey", &derive).await.refused();
    })
    .await;
    assert_eq!(
        records,
        [
            "app create d allowed",
            "app create d allowed",
            "app get d allowed",
            "nobody get d refused",
            "app delete d allowed",
            "app export p256 refused",
            "app derive p256 refused",
        ]
    );
    assert!(!text.contains(VALUE) && !text.contains("secret value"), "{text}");
}
