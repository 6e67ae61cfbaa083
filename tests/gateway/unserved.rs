//! Algorithms that the contract has and neither token: what is refused is told precisely, and nothing is made.

use hsm_operator::hsm::{
    Hsm,
    protocol::{Reply, Request},
};
use serde_json::{Value, json};

use crate::{
    common::token::Module,
    real::{Stage, on_both_tokens},
};

on_both_tokens! {
    keys_of_algorithms_that_a_token_does_not_have_are_not_made,
    signatures_of_such_algorithms_are_not_of_other_keys,
}

/// How many objects a token has.
async fn objects(stage: &Stage) -> usize {
    match stage.hsm.call(Request::Inventory).await {
        Ok(Reply::Inventory(entries)) => entries.len(),
        other => panic!("{other:?}"),
    }
}

async fn keys_of_algorithms_that_a_token_does_not_have_are_not_made(stage: &Stage) {
    let name = stage.hsm.token().unwrap().label.clone();
    let asked = async |body: Value| {
        let mut whole = json!({"label": "new", "attributes": {"sign": true}});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        stage.world.call("POST", "/v1/key", &whole).await
    };
    for (algorithm, size) in [
        ("ISS", json!(1)),
        ("ISS", json!(2)),
        ("ISS", json!(3)),
        ("BLS", Value::Null),
        ("LMS", Value::Null),
        ("XMSS-SHA256_10_256", Value::Null),
        ("XMSS-SHAKE256_10_256", Value::Null),
        ("Camellia", json!(256)),
    ] {
        let refused = asked(json!({"algorithm": algorithm, "keySize": size})).await;
        assert_eq!(refused.refused(), (400, 611), "{algorithm} {size}");
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        let what = if size.is_null() { algorithm.to_owned() } else { format!("{algorithm} {size}") };
        let beginning = format!("the token '{name}' of partition main makes no {what} keys; it makes RSA");
        assert!(message.starts_with(&beginning), "{message}");
    }
    // A size that no token could have is told before what this one has.
    for size in [Value::Null, json!(0), json!(4), json!(256)] {
        let refused = asked(json!({"algorithm": "ISS", "keySize": size})).await;
        assert_eq!(refused.refused(), (400, 603), "{size}");
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(message.ends_with("does not fit ISS: allowed are 1, 2, 3"), "{message}");
    }
    // Identifiers name an algorithm where they are of one alone.
    for (oid, refusal) in [
        ("1.2.840.113549.1.9.16.3.17", (400, 611)),
        ("1.3.6.1.4.1.44668.5.3.1.1", (400, 611)),
        ("1.3.6.1.5.5.7.6.34", (400, 600)),
        ("unknown", (400, 600)),
    ] {
        assert_eq!(asked(json!({"algorithmOid": oid})).await.refused(), refusal, "{oid}");
    }
    assert_eq!(objects(stage).await, 0);
}

async fn signatures_of_such_algorithms_are_not_of_other_keys(stage: &Stage) {
    let spec = json!({"algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7", "attributes": {"sign": true}});
    stage.make("p256", spec).await;
    for algorithm in ["ISS_KERL", "BLS", "LMS", "XMSS-SHA256_10_256", "XMSS-SHAKE256_10_256"] {
        let mut request = json!({"payload": "YQ==", "signKeyName": "p256", "signatureAlgorithm": algorithm});
        let refused = stage.world.call("POST", "/v1/synchronousSign", &json!({"signRequest": request})).await;
        assert_eq!(refused.refused(), (400, 607), "{algorithm}");
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        let beginning = format!("{algorithm} is not a signature algorithm of EC keys; these are: ");
        assert!(message.starts_with(&beginning), "{message}");
        request["signature"] = json!("YQ==");
        let refused =
            stage.world.call("POST", "/v1/verify", &json!({"verifySignatureRequest": request})).await;
        assert_eq!(refused.refused(), (400, 607), "verify {algorithm}");
    }
}
