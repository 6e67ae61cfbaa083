//! The context of ML-DSA and SLH-DSA signatures over REST, on the token that has these algorithms.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    common::{openssl, token::Module},
    real::Stage,
};

async fn sign(stage: &Stage, key: &str, algorithm: &str, context: &Value) -> Vec<u8> {
    let request = json!({"payload": "UGF5bG9hZA==", "signKeyName": key, "signatureAlgorithm": algorithm, "context": context});
    let answer = stage.world.call("POST", "/v1/synchronousSign", &json!({"signRequest": request})).await.ok();
    STANDARD.decode(answer["signature"].as_str().unwrap()).unwrap()
}

async fn verifies(stage: &Stage, key: &str, algorithm: &str, context: &Value, signature: &[u8]) -> bool {
    let request = json!({"payload": "UGF5bG9hZA==", "signKeyName": key, "signatureAlgorithm": algorithm, "context": context,
        "signature": STANDARD.encode(signature)});
    let answer =
        stage.world.call("POST", "/v1/verify", &json!({"verifySignatureRequest": request})).await.ok();
    answer["signatureValid"].as_bool().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_in_a_context_verifies_in_it_alone() {
    let stage = Stage::new(Module::Kryoptic).await;
    let context = b"a context".as_slice();
    let (ours, none, empty, other) =
        (json!(STANDARD.encode(context)), Value::Null, json!(""), json!(STANDARD.encode("another")));
    for (key, algorithm, hashed) in [
        ("ML-DSA-65", "ML_DSA", "SHA2_512_WITH_ML_DSA"),
        ("SLH-DSA-SHA2-128f", "SLH_DSA", "SHA2_256_WITH_SLH_DSA"),
    ] {
        let spki = stage.make(key, json!({"algorithm": key, "attributes": {"sign": true}})).await;
        for signs in [algorithm, hashed] {
            let signature = sign(&stage, key, signs, &ours).await;
            assert!(verifies(&stage, key, signs, &ours, &signature).await, "{signs}");
            for wrong in [&none, &empty, &other] {
                assert!(!verifies(&stage, key, signs, wrong, &signature).await, "{signs} {wrong}");
            }
            // An empty context is none.
            let signature = sign(&stage, key, signs, &empty).await;
            assert!(verifies(&stage, key, signs, &none, &signature).await, "{signs}");
            assert!(!verifies(&stage, key, signs, &ours, &signature).await, "{signs}");
        }
        let signature = sign(&stage, key, algorithm, &ours).await;
        let accepts = |context: &[u8]| {
            openssl::newer_accepts_in_context(stage.token.path(), &spki, context, b"Payload", &signature)
        };
        assert!(accepts(context) && !accepts(b"another"), "{algorithm}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_that_cannot_be_is_refused() {
    let stage = Stage::new(Module::Kryoptic).await;
    stage.make("ML-DSA-44", json!({"algorithm": "ML-DSA-44", "attributes": {"sign": true}})).await;
    let long = STANDARD.encode([1; 256]);
    for (context, expected) in [("%%", (400, 635)), ("YQ", (400, 635)), (long.as_str(), (400, 612))] {
        let sign = json!({"payload": "", "signKeyName": "ML-DSA-44", "signatureAlgorithm": "ML_DSA", "context": context});
        let answer = stage.world.call("POST", "/v1/synchronousSign", &json!({"signRequest": sign})).await;
        assert_eq!(answer.refused(), expected, "{context}");
        let mut verify = sign;
        verify["signature"] = json!("YQ==");
        let answer = stage.world.call("POST", "/v1/verify", &json!({"verifySignatureRequest": verify})).await;
        assert_eq!(answer.refused(), expected, "{context}");
    }
}
