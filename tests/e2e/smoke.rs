//! The main job once, on both tokens.

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::api::SigningRequest;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::{
    tools,
    world::{Token, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_becomes_a_key_a_secret_and_a_signature_that_openssl_verifies() {
    let world = World::new().await;
    for token in Token::BOTH {
        let namespace = world.namespace("smoke").await;
        world.make_key(&namespace, "k", token, json!({})).await;
        world.ready(&namespace, "k").await;
        let secret = world.api::<Secret>(&namespace).get("k-public").await.unwrap().data.unwrap();
        tools::apply(&format!(
            "{{apiVersion: hsm-operator.io/v1alpha1, kind: SigningRequest, metadata: {{name: r, namespace: {namespace}}}, \
             spec: {{keyRef: {{name: k}}, payload: aGVsbG8=, signatureAlgorithm: SHA256_WITH_ECDSA}}}}"
        ));
        let api = world.api::<SigningRequest>(&namespace);
        let has_signature = |request: &SigningRequest| {
            request.status.as_ref().is_some_and(|status| status.signature.is_some())
        };
        let done = world.until(&api, "r", "signed", has_signature).await;
        let signature = STANDARD.decode(done.status.unwrap().signature.unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let pem = &secret["publicKey.pem"].0;
        assert!(
            tools::openssl_verifies(folder.path(), pem, "sha256", &[], b"hello", &signature),
            "{token:?}"
        );
        assert!(
            !tools::openssl_verifies(folder.path(), pem, "sha256", &[], b"Hello", &signature),
            "{token:?}"
        );
    }
}
