//! SigningRequests: who may ask, for what, and what comes of it.

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::{SigningRequest, condition, signing_request::State},
    model::SignatureAlgorithm,
    public_key::PublicKey,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    tools,
    world::{Token, World},
};

fn manifest(namespace: &str, name: &str, spec: &Value) -> String {
    let mut full =
        json!({"keyRef": {"name": "k"}, "payload": "aGVsbG8=", "signatureAlgorithm": "SHA256_WITH_ECDSA"});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({
        "apiVersion": "hsm-operator.io/v1alpha1", "kind": "SigningRequest",
        "metadata": {"name": name, "namespace": namespace}, "spec": full,
    })
    .to_string()
}

/// Creates a request by `kubectl`; what that said, if it could not.
pub fn create(namespace: &str, name: &str, spec: &Value, flags: &[&str]) -> Result<(), String> {
    let args = [&["create", "-f", "-"], flags].concat();
    let output = tools::run("kubectl", &args, manifest(namespace, name, spec).as_bytes());
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Waits for a request to be finished.
pub async fn finished(world: &World, namespace: &str, name: &str) -> SigningRequest {
    let is = |request: &SigningRequest| {
        request.status.as_ref().and_then(|status| status.state).is_some_and(State::is_final)
    };
    world.until(&world.api::<SigningRequest>(namespace), name, "finished", is).await
}

/// Signs and returns the signature.
pub async fn sign(world: &World, namespace: &str, name: &str, spec: Value) -> Vec<u8> {
    create(namespace, name, &spec, &[]).unwrap();
    let status = finished(world, namespace, name).await.status.unwrap();
    assert_eq!(status.state, Some(State::Executed), "{spec}: {:?}", status.conditions);
    assert!(condition::is_true(&status.conditions, condition::READY));
    STANDARD.decode(status.signature.unwrap()).unwrap()
}

/// Is refused by a condition, and returns its reason and sentence.
pub async fn refused(world: &World, namespace: &str, name: &str, spec: Value) -> (String, String) {
    create(namespace, name, &spec, &[]).unwrap();
    let status = finished(world, namespace, name).await.status.unwrap();
    assert_eq!((status.state, &status.signature), (Some(State::Failed), &None), "{spec}");
    let stalled = condition::find(&status.conditions, condition::STALLED).unwrap();
    (stalled.reason.clone(), stalled.message.clone())
}

async fn public_key(world: &World, namespace: &str, key: &str) -> (PublicKey, Vec<u8>) {
    let secret = world.api::<Secret>(namespace).get(&format!("{key}-public")).await.unwrap().data.unwrap();
    (PublicKey::from_spki(&secret["publicKey.der"].0).unwrap(), secret["publicKey.pem"].0.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_payload_and_signature_is_verified_by_openssl() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    for token in Token::BOTH {
        let namespace = world.namespace("forms").await;
        world.make_key(&namespace, "k", token, json!({})).await;
        world.ready(&namespace, "k").await;
        let (public, pem) = public_key(&world, &namespace, "k").await;
        let verifies = |message: &[u8], der: &[u8]| {
            tools::openssl_verifies(folder.path(), &pem, "sha256", &[], message, der)
        };
        let hex =
            sign(&world, &namespace, "hex", json!({"payload": "68656c6c6f", "payloadType": "HEX"})).await;
        assert!(verifies(b"hello", &hex), "{token:?}");
        let raw = sign(&world, &namespace, "raw", json!({"signatureType": "RAW"})).await;
        assert_eq!(raw.len(), 64, "{token:?}");
        assert!(verifies(b"hello", &der_of(&raw)), "{token:?}");
        // A digest made by the caller.
        let digest = tools::run("openssl", &["dgst", "-sha256", "-binary"], b"hello").stdout;
        let spec = json!({"payload": STANDARD.encode(digest), "signatureAlgorithm": "NONE_WITH_ECDSA"});
        assert!(verifies(b"hello", &sign(&world, &namespace, "digest", spec).await), "{token:?}");
        // The largest payload that is taken.
        let large = vec![7; 64 * 1024];
        let signature = sign(&world, &namespace, "large", json!({"payload": STANDARD.encode(&large)})).await;
        assert!(verifies(&large, &signature), "{token:?}");
        assert_eq!(public.verify(SignatureAlgorithm::Sha256WithEcdsa, &large, &signature), Ok(true));
    }
}

/// r‖s as a DER sequence, by openssl.
fn der_of(raw: &[u8]) -> Vec<u8> {
    let (r, s) = raw.split_at(raw.len() / 2);
    let text =
        format!("asn1=SEQUENCE:s\n[s]\nr=INTEGER:0x{}\ns=INTEGER:0x{}\n", hex::encode(r), hex::encode(s));
    let folder = tempfile::tempdir().unwrap();
    let (conf, der) = (folder.path().join("conf"), folder.path().join("der"));
    std::fs::write(&conf, text).unwrap();
    let args = ["asn1parse", "-genconf", conf.to_str().unwrap(), "-noout", "-out", der.to_str().unwrap()];
    tools::output("openssl", &args, b"");
    std::fs::read(der).unwrap()
}

/// kryoptic has no secp256k1, so this is one token's test.
#[tokio::test(flavor = "multi_thread")]
async fn ethereum_gets_its_recovery_byte_on_secp256k1_and_nowhere_else() {
    let world = World::new().await;
    let namespace = world.namespace("eth").await;
    world.make_key(&namespace, "k", Token::SoftHsm, json!({"curveOid": "1.3.132.0.10"})).await;
    world.make_key(&namespace, "p256", Token::SoftHsm, json!({})).await;
    world.ready(&namespace, "k").await;
    world.ready(&namespace, "p256").await;
    let (public, _) = public_key(&world, &namespace, "k").await;
    let eth = json!({"signatureAlgorithm": "KECCAK256_WITH_ECDSA", "signatureType": "ETH"});
    let signature = sign(&world, &namespace, "eth", eth.clone()).await;
    assert_eq!(signature.len(), 65);
    assert!([27, 28].contains(&signature[64]), "{}", signature[64]);
    let der = der_of(&signature[..64]);
    assert_eq!(public.verify(SignatureAlgorithm::Keccak256WithEcdsa, b"hello", &der), Ok(true));
    let mut on_p256 = eth;
    on_p256["keyRef"] = json!({"name": "p256"});
    let (reason, message) = refused(&world, &namespace, "eth-p256", on_p256).await;
    assert_eq!(reason, "AlgorithmMismatch", "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_with_what_would() {
    let world = World::new().await;
    for token in Token::BOTH {
        let namespace = world.namespace("refused").await;
        world.make_key(&namespace, "k", token, json!({})).await;
        world
            .make_key(&namespace, "mute", token, json!({"attributes": {"sign": false, "derive": true}}))
            .await;
        world.ready(&namespace, "k").await;
        world.ready(&namespace, "mute").await;
        let (reason, message) =
            refused(&world, &namespace, "rsa", json!({"signatureAlgorithm": "SHA256_WITH_RSA"})).await;
        assert_eq!(reason, "AlgorithmMismatch");
        assert!(message.contains("SHA512_WITH_ECDSA") && !message.contains("EDDSA"), "{message}");
        // No token makes these yet; the offer is the token's.
        let deterministic = json!({"signatureAlgorithm": "SHA256_WITH_ECDSA_DETERMINISTIC"});
        let (reason, message) = refused(&world, &namespace, "deterministic", deterministic).await;
        assert_eq!(reason, "Unsupported");
        assert!(message.contains(token.partition()) && message.contains("SHA256_WITH_ECDSA,"), "{message}");
        let (reason, message) = refused(&world, &namespace, "base64", json!({"payload": "not base64"})).await;
        assert_eq!((&*reason, message.contains("base64")), ("InvalidPayload", true), "{message}");
        let (reason, _) =
            refused(&world, &namespace, "hex", json!({"payload": "abc", "payloadType": "HEX"})).await;
        assert_eq!(reason, "InvalidPayload");
        // One byte too many, and the text is as long as that of 64 KiB.
        let just = STANDARD.encode(vec![7; 64 * 1024 + 1]);
        let (reason, message) = refused(&world, &namespace, "just-too-large", json!({"payload": just})).await;
        assert_eq!((&*reason, message.contains("hash it yourself")), ("InvalidPayload", true), "{message}");
        let (reason, message) =
            refused(&world, &namespace, "mute", json!({"keyRef": {"name": "mute"}})).await;
        assert_eq!(reason, "ForbiddenByToken", "{message}");
        for size in [64 * 1024 + 100, 500_000] {
            let said = create(&namespace, "large", &json!({"payload": STANDARD.encode(vec![7; size])}), &[])
                .unwrap_err();
            assert!(said.contains("hash it yourself"), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_never_changes_waits_for_its_key_and_goes_when_its_time_is_over() {
    let world = World::new().await;
    for token in Token::BOTH {
        let namespace = world.namespace("life").await;
        let api = world.api::<SigningRequest>(&namespace);
        create(&namespace, "early", &json!({"ttlSecondsAfterFinished": 3}), &[]).unwrap();
        let pending = |request: &SigningRequest| {
            request.status.as_ref().is_some_and(|status| status.state == Some(State::Pending))
        };
        let waiting = world.until(&api, "early", "PENDING", pending).await;
        let conditions = waiting.status.unwrap().conditions;
        assert_eq!(condition::find(&conditions, condition::READY).unwrap().reason, "KeyNotFound");
        for change in [
            json!({"payload": "aGVsbG9v"}),
            json!({"signatureType": "RAW"}),
            json!({"keyRef": {"name": "other"}}),
            json!({"ttlSecondsAfterFinished": null}),
            json!({"metaData": "YQ=="}),
            json!({"requester": {"username": "system:admin"}}),
            json!({"requester": null}),
        ] {
            let patch = json!({"spec": change});
            let said = api
                .patch("early", &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .unwrap_err()
                .to_string();
            assert!(said.contains("make a new one") || said.contains("requester"), "{change}: {said}");
        }
        world.make_key(&namespace, "k", token, json!({})).await;
        let request = finished(&world, &namespace, "early").await;
        assert_eq!(request.status.unwrap().state, Some(State::Executed));
        let gone =
            kube::runtime::wait::await_condition(api.clone(), "early", |one: Option<&SigningRequest>| {
                one.is_none()
            });
        tokio::time::timeout(std::time::Duration::from_secs(20), gone)
            .await
            .expect("it goes in time")
            .unwrap();
        // One that says nothing of it stays, and so does one that failed, for a while.
        sign(&world, &namespace, "stays", json!({})).await;
        refused(&world, &namespace, "failed", json!({"payload": "?", "ttlSecondsAfterFinished": 3600})).await;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert!(
            api.get_opt("stays").await.unwrap().is_some() && api.get_opt("failed").await.unwrap().is_some()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_use_a_key_cannot_ask_for_its_signature_and_nobody_asks_in_another_name() {
    let world = World::new().await;
    let namespace = world.namespace("who").await;
    world.make_key(&namespace, "k", Token::SoftHsm, json!({})).await;
    world.make_key(&namespace, "other", Token::SoftHsm, json!({})).await;
    world.ready(&namespace, "k").await;
    tools::apply(&format!(
        r#"{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: ask, namespace: {namespace}}},
            rules: [{{apiGroups: [hsm-operator.io], resources: [signingrequests], verbs: [create, get]}}]}}"#
    ));
    tools::apply(&format!(
        r#"{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: ask, namespace: {namespace}}},
            roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: ask}},
            subjects: [{{kind: User, name: alice, apiGroup: rbac.authorization.k8s.io}}]}}"#
    ));
    let alice = ["--as", "alice", "--as-uid", "u-1"];
    let mut said = String::new();
    // The API server's authorizer learns of the role a moment later.
    for _ in 0..100 {
        said = create(&namespace, "r", &json!({}), &alice).unwrap_err();
        if !said.contains("cannot create resource") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    for words in ["user alice may not use key k", "grant verb \"use\" on hsmkeys/k", "hsm-operator-key-user"]
    {
        assert!(said.contains(words), "{said}");
    }
    tools::apply(&format!(
        r#"{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: ask, namespace: {namespace}}},
            rules: [{{apiGroups: [hsm-operator.io], resources: [signingrequests], verbs: [create, get]}},
                    {{apiGroups: [hsm-operator.io], resources: [hsmkeys], resourceNames: [k], verbs: [use]}}]}}"#
    ));
    // Forged, and overwritten with who really asked.
    let forged = json!({"requester": {"username": "system:admin", "uid": "0"}});
    let mut outcome = Err(String::new());
    for _ in 0..100 {
        outcome = create(&namespace, "r", &forged, &alice);
        if outcome.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    outcome.unwrap();
    let request = finished(&world, &namespace, "r").await;
    let requester = request.spec.requester.unwrap();
    assert_eq!((&*requester.username, requester.uid.as_deref()), ("alice", Some("u-1")));
    assert_eq!(request.status.unwrap().state, Some(State::Executed));
    let said = create(&namespace, "r2", &json!({"keyRef": {"name": "other"}}), &alice).unwrap_err();
    assert!(said.contains("may not use key other"), "{said}");
    // The audit record names her.
    let logs = world.logs("controller");
    let audited =
        |line: &&str| line.contains("\"audit\"") && line.contains("alice") && line.contains(&namespace);
    assert!(logs.lines().any(|line| audited(&line)), "no audit record");
}
