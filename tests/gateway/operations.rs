//! What the token in memory signs, in every form, checked by openssl and by `/v1/verify`.

use std::{process::Command, sync::Arc};

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use hsm_operator::{
    api::{
        HsmPartition,
        condition::{self, Report},
        partition::VerifySignatures,
    },
    attestation::chain,
    gateway::partitions::{self, Known},
    hsm::{
        Hsm,
        fake::{Fake, Fault},
        protocol::{KeyTemplate, Reply, Request},
    },
    model::{
        KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes, SignatureAlgorithm, SignatureType,
        digest::Hash,
        signature::{Input, Scheme},
    },
    public_key::PublicKey,
    service::{
        directory::Usable,
        sign::{Job, SignError, Signer},
    },
};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    common::{openssl, token::run},
    world::{NAMESPACE, World, office},
};

fn algorithms(key: &str) -> impl Iterator<Item = SignatureAlgorithm> {
    let capabilities = Fake::default().token().unwrap().capabilities.clone();
    let rsa = key == "rsa";
    let fits = move |algorithm: &SignatureAlgorithm| match algorithm.row().scheme {
        Scheme::RsaPkcs1 | Scheme::RsaPss(_) => rsa,
        Scheme::Ecdsa => !rsa,
        _ => false,
    };
    capabilities.signature_algorithms.into_iter().filter(fits)
}

/// A payload of the length that the algorithm takes.
fn payload(algorithm: SignatureAlgorithm) -> Vec<u8> {
    match algorithm.row().input {
        Input::Message(_) => b"Payload".to_vec(),
        Input::Digest(hash) => hash.digest(b"Payload"),
        Input::Bytes => Hash::Sha256.digest(b"Payload"),
    }
}

impl World {
    async fn sign(&self, key: &str, algorithm: SignatureAlgorithm, payload: &[u8], form: Value) -> Vec<u8> {
        let body = json!({"signRequest": {
            "payload": hex::encode(payload), "payloadType": "HEX", "signKeyName": key,
            "signatureAlgorithm": algorithm, "signatureType": form,
        }});
        let answer = self.call("POST", "/v1/synchronousSign", &body).await.ok();
        assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
        STANDARD.decode(answer["signature"].as_str().unwrap()).unwrap()
    }

    async fn verify(
        &self,
        key: &str,
        algorithm: SignatureAlgorithm,
        payload: &[u8],
        signature: &[u8],
    ) -> bool {
        let body = json!({"verifySignatureRequest": {
            "payload": STANDARD.encode(payload), "signature": STANDARD.encode(signature),
            "signKeyName": key, "signatureAlgorithm": algorithm,
        }});
        let answer = self.call("POST", "/v1/verify", &body).await.ok();
        assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
        answer["signatureValid"].as_bool().unwrap()
    }

    /// Signs and checks in a form, and that another payload or a changed signature does not pass.
    async fn round_trip(&self, key: &str, algorithm: SignatureAlgorithm, form: Value) -> Vec<u8> {
        let payload = payload(algorithm);
        let signature = self.sign(key, algorithm, &payload, form.clone()).await;
        assert!(self.verify(key, algorithm, &payload, &signature).await, "{key} {algorithm} {form}");
        let mut other = payload.clone();
        other[0] ^= 1;
        assert!(!self.verify(key, algorithm, &other, &signature).await, "{key} {algorithm} {form}");
        let mut changed = signature.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(!self.verify(key, algorithm, &payload, &changed).await, "{key} {algorithm} {form}");
        signature
    }
}

async fn every_algorithm(key: &str) {
    let world = World::new(&[key]).await;
    let (directory, spki) = (tempfile::tempdir().unwrap(), world.spki(key));
    let mut count = 0;
    for algorithm in algorithms(key) {
        let raw = world.round_trip(key, algorithm, json!("RAW")).await;
        openssl::verify(directory.path(), &spki, algorithm, &payload(algorithm), &raw);
        for form in [json!("DER"), Value::Null] {
            let der = world.round_trip(key, algorithm, form).await;
            if algorithm.row().scheme == Scheme::Ecdsa {
                assert_eq!(der[0], 0x30, "{algorithm}");
            } else {
                assert_eq!(der.len(), raw.len(), "{algorithm}");
            }
        }
        count += 1;
    }
    assert_eq!(count, if key == "rsa" { 21 } else { 15 });
    assert_eq!(world.fake.count("sign"), 3 * count);
}

#[tokio::test]
async fn rsa_signs_with_every_algorithm() {
    every_algorithm("rsa").await;
}

#[tokio::test]
async fn p256_signs_with_every_algorithm() {
    every_algorithm("p256").await;
}

#[tokio::test]
async fn p384_signs_with_every_algorithm() {
    every_algorithm("p384").await;
}

#[tokio::test]
async fn p521_signs_with_every_algorithm() {
    every_algorithm("p521").await;
}

#[tokio::test]
async fn secp256k1_signs_with_every_algorithm_and_for_ethereum() {
    every_algorithm("k1").await;
    let world = World::new(&["k1"]).await;
    let mut bytes = std::collections::BTreeSet::new();
    for _ in 0..24 {
        let keccak = SignatureAlgorithm::Keccak256WithEcdsa;
        let signature = world.sign("k1", keccak, b"Payload", json!("ETH")).await;
        assert!(world.verify("k1", keccak, b"Payload", &signature).await);
        // EIP-2: s is in the lower half of the order, whose first bit is not set.
        assert_eq!((signature.len(), signature[32] & 0x80), (65, 0));
        bytes.insert(signature[64]);
        let mut other = signature.clone();
        other[64] = 55 - other[64];
        assert!(!world.verify("k1", keccak, b"Payload", &other).await, "the recovery byte is checked");
    }
    assert_eq!(Vec::from_iter(bytes), [27, 28]);
}

#[tokio::test]
async fn ed25519_signs_the_payload_itself() {
    let world = World::new(&["ed"]).await;
    let directory = tempfile::tempdir().unwrap();
    for form in [json!("RAW"), json!("DER"), Value::Null] {
        let signature = world.round_trip("ed", SignatureAlgorithm::EdDsa, form).await;
        let payload = payload(SignatureAlgorithm::EdDsa);
        openssl::verify(directory.path(), &world.spki("ed"), SignatureAlgorithm::EdDsa, &payload, &signature);
    }
}

#[tokio::test]
async fn a_payload_may_have_64_kib_and_not_more() {
    let world = World::new(&["ed"]).await;
    for payload_type in ["HEX", "UNSPECIFIED"] {
        for (length, status) in [(65536, 200), (65537, 400)] {
            let payload = vec![7; length];
            let text = if payload_type == "HEX" { hex::encode(&payload) } else { STANDARD.encode(&payload) };
            let body = json!({"signRequest": {"payload": text, "payloadType": payload_type,
                "signKeyName": "ed", "signatureAlgorithm": "EDDSA"}});
            let answer = world.call("POST", "/v1/synchronousSign", &body).await;
            assert_eq!(answer.status, status, "{payload_type} {length}");
            if status == 400 {
                assert_eq!(answer.refused(), (400, 612));
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_a_signature_is_not_handed_out() {
    let world = World::new(&["p256", "k1"]).await;
    let body = |key: &str, algorithm: &str, form: &str| {
        json!({"signRequest": {"payload": "YQ==", "signKeyName": key,
            "signatureAlgorithm": algorithm, "signatureType": form}})
    };
    // The first one of a key and an algorithm, again and again until one is right.
    for _ in 0..3 {
        world.fake.inject("sign", Fault::SignOther);
        world.fake.inject("sign", Fault::SignOther);
        let answer =
            world.call("POST", "/v1/synchronousSign", &body("p256", "SHA256_WITH_ECDSA", "DER")).await;
        assert_eq!(answer.refused(), (500, 701));
        assert!(!answer.json().to_string().contains("signature\":"));
    }
    world.call("POST", "/v1/synchronousSign", &body("p256", "SHA256_WITH_ECDSA", "DER")).await.ok();
    // Another algorithm, and another key, are checked for themselves.
    for (key, algorithm) in [("p256", "SHA384_WITH_ECDSA"), ("k1", "SHA256_WITH_ECDSA")] {
        world.fake.inject("sign", Fault::SignOther);
        world.fake.inject("sign", Fault::SignOther);
        let answer = world.call("POST", "/v1/synchronousSign", &body(key, algorithm, "RAW")).await;
        assert_eq!(answer.refused(), (500, 701));
    }
}

#[tokio::test]
async fn a_wrong_signature_is_made_once_more_and_counted() {
    let world = World::new(&["p256"]).await;
    let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
    world.fake.inject("sign", Fault::SignOther);
    let signature = world.sign("p256", algorithm, b"a", json!("DER")).await;
    assert!(world.verify("p256", algorithm, b"a", &signature).await);
    let counted =
        format!("wrong_signatures_total{{partition=\"{}\"}} 1", office().await.partition.name_any());
    assert!(world.metrics.text().contains(&counted), "{}", world.metrics.text());
}

/// A key on a token, as the gateway would use it.
async fn made(token: &Fake, algorithm: KeyAlgorithm, key_size: Option<u32>) -> Usable {
    numbered(token, 1, algorithm, key_size).await
}

async fn numbered(token: &Fake, number: u8, algorithm: KeyAlgorithm, key_size: Option<u32>) -> Usable {
    let id = KeyId::from_bytes([number]).unwrap();
    let template = KeyTemplate {
        id: id.clone(),
        label: KeyLabel::new("k").unwrap(),
        algorithm,
        key_size,
        curve_oid: None,
        attributes: RequestedAttributes { sign: Some(true), ..Default::default() }.resolved(),
    };
    let Ok(Reply::Key(facts)) = token.call(Request::Generate(template)).await else { panic!() };
    let public = PublicKey::from_spki(&facts.public_key.unwrap()).unwrap();
    Usable { partition: "office".into(), id, algorithm, public: Some(Arc::new(public)), public_only: false }
}

/// How many of the signatures that a token lies about go out, after a first that was right.
async fn lies_handed_out(verify: VerifySignatures, algorithm: KeyAlgorithm, of: usize) -> usize {
    let (signer, token) = (Signer::new(Arc::default()), Fake::default());
    let (key, signature_algorithm) = match algorithm {
        KeyAlgorithm::Rsa => (made(&token, algorithm, Some(2048)).await, SignatureAlgorithm::Sha256WithRsa),
        _ => (made(&token, algorithm, None).await, SignatureAlgorithm::EdDsa),
    };
    let job = || Job {
        algorithm: signature_algorithm,
        form: SignatureType::Der,
        payload: "a".into(),
        context: "".into(),
        verify,
    };
    signer.sign(&token, &key, job()).await.unwrap();
    let mut wrong = 0;
    for _ in 0..of {
        token.inject("sign", Fault::SignOther);
        token.inject("sign", Fault::SignOther);
        match signer.sign(&token, &key, job()).await {
            Ok(signature) => {
                let public = key.public.as_ref().unwrap();
                assert_eq!(public.verify(signature_algorithm, b"a", &signature), Ok(false));
                wrong += 1;
            }
            Err(error) => assert!(matches!(error, SignError::Wrong { .. }), "{error}"),
        }
    }
    wrong
}

#[tokio::test]
async fn what_is_verified_is_a_setting() {
    use VerifySignatures::{Always, Auto, First};
    assert_eq!(lies_handed_out(Always, KeyAlgorithm::Ed, 100).await, 0);
    assert_eq!(lies_handed_out(Auto, KeyAlgorithm::Rsa, 5).await, 0);
    assert_eq!(lies_handed_out(First, KeyAlgorithm::Ed, 100).await, 100);
    // One of 32 is looked at, and from then on all until one is right.
    assert!(lies_handed_out(Auto, KeyAlgorithm::Ed, 2000).await < 500);
}

#[tokio::test]
async fn a_token_that_was_wrong_with_one_key_is_checked_with_all() {
    let (signer, token) = (Signer::new(Arc::default()), Fake::default());
    let job = || Job {
        algorithm: SignatureAlgorithm::EdDsa,
        form: SignatureType::Der,
        payload: "a".into(),
        context: "".into(),
        verify: VerifySignatures::Auto,
    };
    let lie = async |key: &Usable| {
        token.inject("sign", Fault::SignOther);
        token.inject("sign", Fault::SignOther);
        signer.sign(&token, key, job()).await
    };
    let keys = [
        numbered(&token, 1, KeyAlgorithm::Ed, None).await,
        numbered(&token, 2, KeyAlgorithm::Ed, None).await,
    ];
    for key in &keys {
        signer.sign(&token, key, job()).await.unwrap();
    }
    while lie(&keys[0]).await.is_ok() {}
    for _ in 0..100 {
        assert!(matches!(lie(&keys[1]).await, Err(SignError::Wrong { .. })));
    }
}

/// Adopted keys may have the same identifier on two tokens: that one of them was right says nothing of the other.
#[tokio::test]
async fn a_key_of_the_same_identifier_on_another_token_is_checked_too() {
    let signer = Signer::new(Arc::default());
    let tokens = [Fake::default(), Fake::default()];
    let job = || Job {
        algorithm: SignatureAlgorithm::EdDsa,
        form: SignatureType::Der,
        payload: "a".into(),
        context: "".into(),
        verify: VerifySignatures::First,
    };
    let mut outcomes = Vec::new();
    for (token, partition) in tokens.iter().zip(["one", "other"]) {
        let key = Usable { partition: partition.into(), ..made(token, KeyAlgorithm::Ed, None).await };
        if partition == "other" {
            token.inject("sign", Fault::SignOther);
            token.inject("sign", Fault::SignOther);
        }
        outcomes.push(signer.sign(token, &key, job()).await);
    }
    assert!(outcomes[0].is_ok());
    let Err(error @ SignError::Wrong { .. }) = &outcomes[1] else { panic!("{:?}", outcomes[1]) };
    assert!(error.to_string().contains("token fake"), "{error}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::new(&["p256"]).await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let start = futures::stream::iter([Ok::<_, std::io::Error>("{\"signRequest\": ")]);
    let request = hyper::Request::post("/v1/synchronousSign")
        .header("authorization", "Bearer app")
        .body(Body::from_stream(start.chain(futures::stream::pending())))
        .unwrap();
    assert_eq!(world.send(request).await.refused(), (400, 621));
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn what_is_refused_is_refused_before_the_token_is_asked() {
    let world = World::new(&["p256", "aes", "ed-waiting"]).await;
    let before = world.fake.calls().len();
    for (caller, key, algorithm, form, status) in [
        ("app", "p256", "SHA256_WITH_RSA", "DER", 400),
        ("app", "p256", "KECCAK256_WITH_ECDSA", "ETH", 400),
        ("app", "aes", "SHA256_WITH_ECDSA", "DER", 400),
        ("app", "none", "SHA256_WITH_ECDSA", "DER", 404),
        ("app", "ed-waiting", "EDDSA", "DER", 503),
        ("reader", "p256", "SHA256_WITH_ECDSA", "DER", 403),
        ("nobody", "p256", "SHA256_WITH_ECDSA", "DER", 403),
        ("stranger", "p256", "SHA256_WITH_ECDSA", "DER", 404),
    ] {
        let body = json!({"signRequest": {"payload": "YQ==", "signKeyName": key,
            "signatureAlgorithm": algorithm, "signatureType": form}});
        let answer = world.call_as(caller, "POST", "/v1/synchronousSign", &body).await;
        assert_eq!(answer.refused().0, status, "{caller} {key} {algorithm}");
    }
    assert_eq!(world.fake.calls().len(), before);
}

#[tokio::test]
async fn permissions_are_asked_for_by_verb_and_object() {
    let world = World::new(&["ed", "ed-kept"]).await;
    world.partitions.namespace("elsewhere", None);
    let label = json!({"label": "ed"});
    let sign = json!({"signRequest": {"payload": "", "signKeyName": "ed", "signatureAlgorithm": "EDDSA"}});
    for (method, path, body, asked) in [
        ("POST", "/v1/synchronousSign", &sign, "use hsmkeys shop/ed"),
        ("POST", "/v1/key/attributes", &label, "get hsmkeys shop/ed"),
        ("GET", "/v1/key/ed/attributes", &Value::Null, "get hsmkeys shop/ed"),
        ("POST", "/v1/key/keyAttestation", &label, "get hsmkeys shop/ed"),
        ("GET", "/v1/key", &Value::Null, "list hsmkeys shop/"),
        ("DELETE", "/v1/key/ed-kept", &Value::Null, "delete hsmkeys shop/ed-kept"),
        ("GET", "/v1/generateRandom/1", &Value::Null, "use hsmpartitions /main"),
    ] {
        world.call(method, path, body).await;
        assert_eq!(world.rules.asked(), [asked], "{method} {path}");
    }
    assert_eq!(NAMESPACE, "shop");
}

#[tokio::test]
async fn an_attestation_comes_as_a_zip_that_openssl_checks() {
    let world = World::new(&["p256"]).await;
    let answer = world.call("POST", "/v1/key/keyAttestation", &json!({"label": "p256"})).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["content-type"]),
        (200, &"application/zip".parse().unwrap())
    );
    let disposition = answer.headers["content-disposition"].to_str().unwrap();
    assert_eq!(disposition, "attachment; filename=\"p256-attestation.zip\"");

    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("a.zip"), &answer.body).unwrap();
    let members = run(Command::new("unzip").arg("-Z1").arg(at("a.zip"))).stdout;
    let mut members: Vec<_> = std::str::from_utf8(&members).unwrap().lines().collect();
    members.sort_unstable();
    let expected = [
        "PrimusHSM_Attestation.crt",
        "PrimusHSM_Attestation_PublicKey.pem",
        "README_attestation.md",
        "p256.pem",
        "p256.sig",
        "p256.xml",
    ];
    assert_eq!(members, expected);
    run(Command::new("unzip").arg("-q").arg(at("a.zip")).current_dir(&directory));
    for key in ["p256.pem", "PrimusHSM_Attestation_PublicKey.pem"] {
        run(Command::new("openssl")
            .args(["dgst", "-sha256", "-verify", key, "-signature", "p256.sig", "p256.xml"])
            .current_dir(&directory));
    }
    let chain = chain::from_pem(&std::fs::read_to_string(at("PrimusHSM_Attestation.crt")).unwrap()).unwrap();
    let status = office().await.partition.status.clone().unwrap();
    assert_eq!(chain, chain::from_pem(&status.attestation.unwrap().chain).unwrap());
    let attributes = world.call("POST", "/v1/key/attributes", &json!({"label": "p256"})).await.ok();
    assert_eq!(attributes["xml"], std::fs::read_to_string(at("p256.xml")).unwrap());
    let signature = std::fs::read(at("p256.sig")).unwrap();
    assert_eq!(attributes["xmlSignature"], STANDARD.encode(signature));
}

#[tokio::test]
async fn a_token_that_is_not_reached_is_busy() {
    let world = World::new(&["ed"]).await;
    world.partitions.put(Known { object: Arc::new(office().await.partition.clone()), hsm: None });
    let sign = json!({"signRequest": {"payload": "", "signKeyName": "ed", "signatureAlgorithm": "EDDSA"}});
    let create = json!({"label": "new", "algorithm": "ED", "attributes": {}});
    for (method, path, body) in [
        ("POST", "/v1/synchronousSign", &sign),
        ("POST", "/v1/key", &create),
        ("GET", "/v1/keystore/statistics", &Value::Null),
        ("GET", "/v1/generateRandom/1", &Value::Null),
    ] {
        let answer = world.call(method, path, body).await;
        assert_eq!((answer.refused(), &answer.headers["retry-after"]), ((503, 700), &"1".parse().unwrap()));
        assert!(answer.json()["message"].as_str().unwrap().contains("partition main"), "{path}");
    }
    // What needs no token goes on.
    world.call("POST", "/v1/key/attributes", &json!({"label": "ed"})).await.ok();
    world.call("GET", "/v1/key", &Value::Null).await.ok();
    assert!(world.partitions.readiness().is_err());
}

#[tokio::test]
async fn a_partition_that_only_signs_signs_and_says_why_it_makes_no_keys() {
    let world = World::new(&["ed"]).await;
    let mut partition = office().await.partition.clone();
    let reports = [
        Report::new(condition::READY, Some(false), "TokenNotFound", "it is gone"),
        Report::new(condition::SIGNABLE, Some(true), "Degraded", "1 of 2 tokens sign"),
        Report::new(condition::CREATABLE, Some(false), "TokenNotFound", "it is gone"),
    ];
    let status = partition.status.as_mut().unwrap();
    status.conditions = condition::apply(&status.conditions, &reports, None, Timestamp::now());
    let hsm: Arc<dyn Hsm> = world.fake.clone();
    let put = |hsm| world.partitions.put(Known { object: Arc::new(partition.clone()), hsm });
    put(Some(hsm));
    assert_eq!(world.partitions.readiness(), Ok(()));
    let sign = json!({"signRequest": {"payload": "", "signKeyName": "ed", "signatureAlgorithm": "EDDSA"}});
    world.call("POST", "/v1/synchronousSign", &sign).await.ok();
    let create = json!({"label": "new", "algorithm": "ED", "attributes": {}});
    let answer = world.call("POST", "/v1/key", &create).await;
    assert_eq!((answer.refused(), &answer.headers["retry-after"]), ((503, 700), &"1".parse().unwrap()));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "no keys can be made on partition main at the moment: it is gone");
    // A gateway that cannot reach what others can is not ready.
    put(None);
    assert!(world.partitions.readiness().is_err());
}

#[tokio::test]
async fn of_several_partitions_the_default_one_is_meant() {
    let world = World::new(&[]).await;
    let mut second = office().await.partition.clone();
    second.metadata.name = Some("second".into());
    let put = |object: &HsmPartition| {
        let hsm: Arc<dyn Hsm> = world.fake.clone();
        world.partitions.put(Known { object: Arc::new(object.clone()), hsm: Some(hsm) });
    };
    put(&second);
    let answer = world.call("GET", "/v1/keystore/statistics", &Value::Null).await;
    assert_eq!(answer.refused(), (400, 611));
    assert!(answer.json()["message"].as_str().unwrap().contains("(main, second)"));
    second.annotations_mut().insert(partitions::DEFAULT.into(), "true".into());
    put(&second);
    let text = world.call("GET", "/v1/keystore/statistics", &Value::Null).await.ok();
    assert!(text["keyStoreStatistics"].as_str().unwrap().starts_with("partition: second,"));
    world.partitions.namespace(NAMESPACE, Some([("hsm".to_owned(), "no".to_owned())].into()));
    let answer = world.call("GET", "/v1/keystore/statistics", &Value::Null).await;
    assert_eq!(answer.refused(), (403, 400));
}
