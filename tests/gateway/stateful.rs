//! Keys of LMS over REST, before a token that has them.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    hsm::{Supervisor, fake::Fake},
    model::SignatureAlgorithm,
    public_key::PublicKey,
};
use serde_json::{Value, json};

use crate::{
    common::{token::Token, vendor},
    lifecycle::{Fate, world_before},
    world::{Answer, World},
};

struct Stage {
    world: World,
    _hsm: Arc<Supervisor>,
    _token: Token,
}

impl Stage {
    async fn new() -> Self {
        let token = vendor::token();
        let hsm = token.supervisor().await;
        let (world, _) = world_before(hsm.clone(), Arc::new(Fake::default()), Fate::Ready, &[]).await;
        Self { world, _hsm: hsm, _token: token }
    }

    async fn make(&self, label: &str, attributes: Value) -> Answer {
        let body = json!({"label": label, "algorithm": "LMS", "attributes": attributes});
        self.world.call("POST", "/v1/key", &body).await
    }

    async fn sign(&self, key: &str, algorithm: &str) -> Answer {
        let request = json!({"payload": "YQ==", "signKeyName": key, "signatureAlgorithm": algorithm, "signatureType": "DER"});
        self.world.call("POST", "/v1/synchronousSign", &json!({"signRequest": request})).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_signs_and_is_spent() {
    let stage = Stage::new().await;
    let made = stage.make("k", json!({"sign": true, "destroyable": true})).await.ok();
    assert_eq!(made["json"]["algorithm"], "HSS-LMS");
    assert_eq!(made["json"]["algorithmOid"], "1.2.840.113549.1.9.16.3.17");
    assert_eq!((&made["json"]["keySize"], &made["json"]["curveOid"]), (&Value::Null, &Value::Null));
    let spki = STANDARD.decode(made["json"]["publicKey"].as_str().unwrap()).unwrap();
    let public = PublicKey::from_spki(&spki).unwrap();
    for _ in 0..32 {
        let signature = stage.sign("k", "LMS").await.ok()["signature"].clone();
        let bytes = STANDARD.decode(signature.as_str().unwrap()).unwrap();
        assert_eq!(public.verify(SignatureAlgorithm::Lms, b"a", &bytes), Ok(true));
        let request = json!({"payload": "YQ==", "signKeyName": "k", "signatureAlgorithm": "LMS", "signature": signature});
        let said = stage.world.call("POST", "/v1/verify", &json!({"verifySignatureRequest": request})).await;
        assert_eq!(said.ok(), json!({"signatureValid": true}));
    }
    let refused = stage.sign("k", "LMS").await;
    assert_eq!(refused.refused(), (400, 614));
    assert!(refused.json()["message"].as_str().unwrap().starts_with("CKR_KEY_EXHAUSTED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_without_what_does_not_go_with_a_state() {
    let stage = Stage::new().await;
    // As a published client asks for keys of every algorithm.
    let names = ["decrypt", "sign", "unwrap", "encrypt", "verify", "wrap", "destroyable"];
    let mut asked: Value = names.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
    for (name, value) in [("extractable", true), ("copyable", true), ("sensitive", false)] {
        asked[name] = json!(value);
    }
    let made = stage.make("k", asked).await.ok();
    let attributes = &made["json"]["attributes"];
    for (name, value) in [("sign", true), ("extractable", false), ("copyable", false), ("sensitive", true)] {
        assert_eq!(attributes[name], value, "{name}");
    }
    stage.sign("k", "LMS").await.ok();
    assert_eq!(stage.sign("k", "SHA256_WITH_ECDSA").await.refused(), (400, 607));
    assert_eq!(stage.sign("k", "XMSS-SHA256_10_256").await.refused(), (400, 607));
    let export = stage.world.call("POST", "/v1/key/export/plain", &json!({"label": "k"})).await;
    assert_eq!(export.refused().0, 400);
}
