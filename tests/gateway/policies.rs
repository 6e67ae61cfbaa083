//! Policies that ask nobody, over REST: kept in the object, told as they were given, and in no key's way.

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::attestation::{Evidence, chain, fingerprint, verify};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    lifecycle::{Fate, world},
    world::office,
};

/// What published clients send with every key.
fn default_policy() -> Value {
    let rule = json!({"tokens": [{"name": "main", "timelock": 0, "timeout": 0, "groups": null}]});
    json!({"ruleUse": rule, "ruleBlock": rule, "ruleUnblock": rule, "ruleModify": rule, "keyStatus": {"blocked": false}})
}

fn body(label: &str, policy: Value) -> Value {
    json!({"label": label, "algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7",
        "attributes": {"sign": true, "destroyable": true}, "policy": policy})
}

#[tokio::test]
async fn a_policy_that_asks_nobody_is_kept_told_and_attested() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let bare = json!({"ruleUse": null, "ruleBlock": null, "ruleUnblock": null, "ruleModify": null,
        "keyStatus": {"blocked": false}});
    let mut two = default_policy();
    two["ruleUse"]["tokens"] = json!([
        {"name": "4 Augen", "timelock": 0, "timeout": 600, "groups": []},
        {"name": "main", "timelock": 0, "timeout": 0, "groups": null},
    ]);
    for (label, sent, told) in [
        ("default", default_policy(), default_policy()),
        ("bare", json!({"keyStatus": {"blocked": false}}), bare),
        ("two", two.clone(), two),
    ] {
        let created = world.call("POST", "/v1/key", &body(label, sent)).await.ok();
        assert_eq!(created["json"]["policy"], told, "{label}");
        let again = world.call("POST", "/v1/key/attributes", &json!({"label": label})).await.ok();
        assert_eq!(again, created);
        let xml = created["xml"].as_str().unwrap();
        assert!(xml.contains("\t<policy>\n\t\t<key_status>\n\t\t\t<blocked>false</blocked>\n"), "{xml}");
        // The document is read and its signature is good, with a policy as without.
        let status = office().await.partition.status.as_ref().unwrap();
        let chain = chain::from_pem(&status.attestation.as_ref().unwrap().chain).unwrap();
        let signature = STANDARD.decode(created["xmlSignature"].as_str().unwrap()).unwrap();
        let evidence = Evidence { xml: xml.as_bytes(), signature: &signature, chain: &chain };
        let root = fingerprint(chain.last().unwrap());
        let statements = verify(&evidence, &root, Timestamp::now()).unwrap();
        assert!(statements.has_policy && statements.label == label);
        let sign = json!({"signRequest": {"payload": "YQ==", "signKeyName": label, "signatureAlgorithm": "SHA256_WITH_ECDSA"}});
        world.call("POST", "/v1/synchronousSign", &sign).await.ok();
    }
    let object = stand.objects()["two"].clone();
    let kept = serde_json::to_value(&object.spec.policy).unwrap();
    assert_eq!(
        kept["ruleUse"]["tokens"][0],
        json!({"name": "4 Augen", "timelock": 0, "timeout": 600, "groups": []})
    );
    assert_eq!(object.name_any(), "two");
    let without = world.call("POST", "/v1/key", &body("without", Value::Null)).await.ok();
    assert_eq!(without["json"]["policy"], Value::Null);
    assert!(!without["xml"].as_str().unwrap().contains("policy"));
}

#[tokio::test]
async fn a_policy_that_is_not_served_makes_no_object() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let with = |place: &str, value: Value| {
        let mut policy = default_policy();
        *policy.pointer_mut(place).unwrap() = value;
        body("new", policy)
    };
    let group = json!([{"name": "g", "quorum": 0, "approvals": []}]);
    let mut leaves = body("new", default_policy());
    leaves["attributes"]["extractable"] = json!(true);
    for (body, refusal) in [
        (with("/ruleUse/tokens/0/groups", group.clone()), (400, 611)),
        (with("/ruleModify/tokens/0/groups", group), (400, 611)),
        (with("/ruleBlock/tokens/0/timelock", json!(60)), (400, 611)),
        (with("/ruleBlock/tokens/0/timelock", json!(61)), (400, 600)),
        (with("/ruleBlock/tokens/0/timeout", Value::Null), (400, 600)),
        (with("/keyStatus/blocked", json!(true)), (400, 611)),
        (with("/keyStatus", Value::Null), (400, 600)),
        (leaves, (400, 606)),
    ] {
        assert_eq!(world.call("POST", "/v1/key", &body).await.refused(), refusal, "{body}");
    }
    assert_eq!(stand.changes(), [""; 0]);
    assert_eq!(world.fake.count("generate"), 0);
}
