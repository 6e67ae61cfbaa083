//! The REST API, asked over TLS from inside the cluster's network with tokens that TokenRequest made.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::{HsmKey, HsmPartition},
    model::{KeyAlgorithm, KeyLabel, SignatureAlgorithm, digest::Hash, signature::Input},
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    caller::{ALL_VERBS, GATEWAYS, account, caller, default_partition, logs, pin, token, until_default},
    common::openssl,
    http::Gateways,
    tools::{self, kubectl, output},
    world::{Token, World},
};

const P256: &str = "1.2.840.10045.3.1.7";
const SECP256K1: &str = "1.3.132.0.10";

fn create(label: &str, more: Value) -> Value {
    let mut body =
        json!({ "label": label, "attributes": { "sign": true, "destroyable": true }, "policy": null });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn sign(key: &str, algorithm: &str, payload: &[u8], form: Option<&str>) -> Value {
    json!({ "signRequest": {
        "payload": STANDARD.encode(payload), "payloadType": "UNSPECIFIED", "signKeyName": key, "keyPassword": null,
        "metaData": null, "metaDataSignature": null, "signatureAlgorithm": algorithm, "signatureType": form
    }, "requestSignature": null })
}

fn verify(key: &str, algorithm: &str, payload: &[u8], signature: &[u8]) -> Value {
    json!({ "verifySignatureRequest": {
        "signKeyName": key, "masterKeyPassword": null, "signatureAlgorithm": algorithm,
        "payload": STANDARD.encode(payload), "signature": STANDARD.encode(signature)
    }})
}

fn bytes(base64: &Value) -> Vec<u8> {
    STANDARD.decode(base64.as_str().unwrap_or_else(|| panic!("{base64} is no text"))).unwrap()
}

fn signature(answer: &Value) -> Vec<u8> {
    assert_eq!(answer.as_object().unwrap().len(), 1, "strict clients take one member only: {answer}");
    bytes(&answer["signature"])
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_without_a_token_for_this_service() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("rest").await;
    account(&namespace, "app", ALL_VERBS);
    let gateways = Gateways::new();
    let invalid = "invalid.access.token";
    for path in
        ["/v1/versionInfo", "/v1/licenseInfo", "/v1/keystore/statistics", "/v1/key", "/v1/generateRandom/8"]
    {
        gateways.get(path).await.is_error(401, 406, "missing.access.token");
        let other = gateways.with_token(token(&namespace, "app", "somebody-else"));
        other.get(path).await.is_error(401, 617, invalid);
        let api = gateways.with_token(kubectl(&["create", "token", "app", "-n", &namespace]).trim());
        api.get(path).await.is_error(401, 617, invalid);
    }
    let good = token(&namespace, "app", "hsm-operator");
    let mut cut = good.clone();
    cut.pop();
    for garbage in ["x", "a.b.c", cut.as_str(), &"x".repeat(20_000)] {
        gateways.with_token(garbage).get("/v1/versionInfo").await.is_error(401, 617, invalid);
    }
    assert_eq!(gateways.with_token(good).get("/v1/versionInfo").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_of_the_contract_is_refused_in_its_words() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("rest").await;
    let app = caller(&namespace, "app", ALL_VERBS);
    app.get("/v1/nothing").await.is_error(404, 611, "unsupported.operation");
    app.call("PUT", "/v1/key", "").await.is_error(405, 611, "unsupported.operation");
    app.call("POST", "/v1/key", "{\"label\":").await.is_error(400, 621, "invalid.json");
    app.call("POST", "/v1/key", "").await.is_error(400, 621, "invalid.json");
    app.post("/v1/key", json!({ "label": "k" })).await.is_error(400, 600, "input.validation.failed");
    let wrong = create("k", json!({ "algorithm": "ROT13" }));
    app.post("/v1/key", wrong).await.is_error(400, 600, "input.validation.failed");
    let wrong = create("k", json!({ "algorithm": "RSA", "keySize": 1024 }));
    app.post("/v1/key", wrong).await.is_error(400, 603, "input.keysize");
    let wrong = create("a/b", json!({ "algorithm": "ED" }));
    app.post("/v1/key", wrong).await.is_error(400, 610, "invalid.key.name");
    app.post("/v1/synchronousSign", sign("none", "SHA256_WITH_RSA", b"x", None)).await.is_error(
        404,
        650,
        "key.not.existent",
    );
    app.post("/v1/synchronousSign", sign("none", "NOPE", b"x", None)).await.is_error(
        400,
        600,
        "input.validation.failed",
    );
    let mut body = sign("none", "SHA256_WITH_RSA", b"x", None);
    body["signRequest"]["payload"] = "not base64!".into();
    app.post("/v1/synchronousSign", body).await.is_error(400, 635, "encoding.exception");
    let large = app.call("POST", "/v1/synchronousSign", vec![b' '; 600 * 1024]).await;
    assert!(large.is_error(413, 612, "invalid.payload").contains("hash"), "{large:?}");
    app.get("/v1/generateRandom/0").await.is_error(400, 619, "invalid.number.range");
    app.get("/v1/generateRandom/many").await.is_error(400, 600, "input.validation.failed");
    app.post("/v1/key/attributes", json!({ "label": "none" })).await.is_error(404, 650, "key.not.existent");
    app.get("/v1/key/none/attributes").await.is_error(404, 650, "key.not.existent");
    app.call("DELETE", "/v1/key/none", "").await.is_error(404, 650, "key.not.existent");
}

#[tokio::test(flavor = "multi_thread")]
async fn service_endpoints_answer_as_health_checks_expect() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("rest").await;
    let app = caller(&namespace, "app", ALL_VERBS);
    let version = app.get("/v1/versionInfo").await.with_status(200);
    assert_eq!(version, json!({ "Version": env!("CARGO_PKG_VERSION") }));
    // Who knows no token may read what there is to call.
    let document = Gateways::new().get("/v3/api-docs").await.with_status(200);
    assert_eq!(document["paths"]["/v1/versionInfo"]["get"]["operationId"], "versionInfo");
    let license = app.get("/v1/licenseInfo").await.with_status(200);
    assert_eq!(license, json!({ "clientFlags": ["REST_API"] }));
    for on in Token::BOTH {
        let _default = default_partition(Some(on)).await;
        until_default(&app, Some(on)).await;
        let text = app.get("/v1/keystore/statistics").await.with_status(200);
        assert!(text["keyStoreStatistics"].as_str().unwrap().contains(on.partition()), "{text}");

        let refused = app.get("/v1/generateRandom/16").await.is_error(403, 400, "security.not.allowed");
        assert!(refused.contains(&format!("use hsmpartitions/{}", on.partition())), "{refused}");
        let grant = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": format!("{namespace}-random") },
            "rules": [{ "apiGroups": ["hsm-operator.io"], "resources": ["hsmpartitions"], "verbs": ["use"] }] });
        tools::apply(&grant.to_string());
        let lucky = format!("lucky-{}", on.partition());
        account(&namespace, &lucky, &[]);
        let (role, subject) =
            (format!("--clusterrole={namespace}-random"), format!("--serviceaccount={namespace}:{lucky}"));
        kubectl(&["create", "clusterrolebinding", &format!("{namespace}-{lucky}"), &role, &subject]);
        let lucky = app.with_token(token(&namespace, &lucky, "hsm-operator"));
        let mut seen = Vec::new();
        for length in [1, 16, 16, 65_536] {
            let random =
                bytes(&lucky.get(&format!("/v1/generateRandom/{length}")).await.with_status(200)["random"]);
            assert_eq!(random.len(), length);
            seen.push(random);
        }
        assert_ne!(seen[1], seen[2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_over_rest_is_an_object_until_rest_destroys_it() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("rest").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        let _default = default_partition(Some(on)).await;
        until_default(&app, Some(on)).await;
        // Labels as clients choose them, and one that is a name in Kubernetes, too.
        for label in
            [format!("{namespace}-plain"), format!("{namespace}/x").replace('/', " Käse & Co@Example.org ")]
        {
            let body = create(&label, json!({ "algorithm": "EC", "curveOid": P256 }));
            let made = app.post("/v1/key", body.clone()).await.with_status(201);
            attributes_are_whole(&made, &label);
            let name = KeyLabel::new(&*label).unwrap().object_name();
            let object = world.api::<HsmKey>(&namespace).get(&name).await.unwrap();
            assert!(object.is_ready() && object.label() == label, "{object:?}");
            assert_eq!(object.spec.partition_ref.name, on.partition());
            let by = format!("system:serviceaccount:{namespace}:app");
            assert_eq!(object.annotations()["hsm-operator.io/created-by"], by);
            let status = object.status.unwrap();
            assert_eq!(made["json"]["publicKey"].as_str(), status.public_key.as_deref());

            let again = app.post("/v1/key", body.clone()).await.is_error(400, 608, "key.already.existing");
            assert!(again.contains("already in use"), "{again}");
            assert_eq!(
                app.post("/v1/key/attributes", json!({ "label": label })).await.with_status(200),
                made
            );
            let encoded: String = label.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let path = format!("/v1/key/{encoded}");
            assert_eq!(app.get(&format!("{path}/attributes")).await.with_status(200), made);
            // Right after the answer, whichever gateway is asked.
            for _ in 0..6 {
                let labels = app.get("/v1/key").await.with_status(200);
                assert!(labels.as_array().unwrap().contains(&label.clone().into()), "{labels}");
            }

            let folder = tempfile::tempdir().unwrap();
            let signed = app.post("/v1/synchronousSign", sign(&label, "SHA256_WITH_ECDSA", b"m", None)).await;
            let signed = signature(&signed.with_status(200));
            let key = bytes(&made["json"]["publicKey"]);
            openssl::verify_native(folder.path(), &key, SignatureAlgorithm::Sha256WithEcdsa, b"m", &signed);

            let deleted = if label.contains('@') {
                app.post("/v1/key/deleteKey", json!({ "label": label })).await
            } else {
                app.call("DELETE", &path, "").await
            };
            assert_eq!(deleted.status, 200, "{deleted:?}");
            assert!(world.api::<HsmKey>(&namespace).get_opt(&name).await.unwrap().is_none());
            // Whichever gateway is asked: it is gone, and the name is free.
            for _ in 0..4 {
                app.post("/v1/synchronousSign", sign(&label, "SHA256_WITH_ECDSA", b"m", None))
                    .await
                    .is_error(404, 650, "key.not.existent");
            }
            let second = app.post("/v1/key", body).await.with_status(201);
            assert_ne!(
                second["json"]["publicKey"], made["json"]["publicKey"],
                "the key was destroyed on the token"
            );
            let signed = app.post("/v1/synchronousSign", sign(&label, "SHA256_WITH_ECDSA", b"m", None)).await;
            let signed = signature(&signed.with_status(200));
            let key = bytes(&second["json"]["publicKey"]);
            openssl::verify_native(folder.path(), &key, SignatureAlgorithm::Sha256WithEcdsa, b"m", &signed);
        }
    }
}

/// What published clients stop at when it is missing or null.
fn attributes_are_whole(answer: &Value, label: &str) {
    for member in ["xml", "xmlSignature", "attestationKeyName"] {
        assert!(answer[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {answer}");
    }
    let json = &answer["json"];
    assert_eq!((&json["label"], &json["id"]), (&label.into(), &Value::Null));
    for member in ["algorithm", "algorithmOid", "createTime", "attestTime"] {
        assert!(json[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {json}");
    }
    for member in [
        "uuid",
        "curveOid",
        "derivedAttributes",
        "keySize",
        "keyUsageCount",
        "publicKey",
        "addressTruncated",
        "policy",
    ] {
        assert!(json.as_object().unwrap().contains_key(member), "{member}: {json}");
    }
    let attributes = json["attributes"].as_object().unwrap();
    let wanted = [
        "decrypt",
        "sign",
        "ekaSign",
        "unwrap",
        "derive",
        "sensitive",
        "alwaysSensitive",
        "extractable",
        "neverExtractable",
        "modifiable",
        "copyable",
        "destroyable",
    ];
    assert_eq!(attributes.len(), wanted.len(), "{attributes:?}");
    for name in wanted {
        assert!(attributes[name].is_boolean() || attributes[name].is_null(), "{name}: {attributes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_are_made_on_both_tokens() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("rest").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        let _default = default_partition(Some(on)).await;
        until_default(&app, Some(on)).await;
        let kinds = [
            ("RSA", json!({ "algorithm": "RSA", "keySize": 2048 }), Some("1.2.840.113549.1.1.1"), Some(2048)),
            (
                "oid",
                json!({ "algorithmOid": "1.2.840.113549.1.1.1", "keySize": 2048 }),
                Some("1.2.840.113549.1.1.1"),
                Some(2048),
            ),
            (
                "EC",
                json!({ "algorithm": "EC", "curveOid": "1.3.132.0.34", "keySize": 0 }),
                Some("1.2.840.10045.2.1"),
                None,
            ),
            ("ED", json!({ "algorithm": "ED", "curveOid": "1.3.101.112" }), Some("1.3.101.112"), None),
            (
                "AES",
                json!({ "algorithm": "AES", "keySize": 256, "attributes": { "decrypt": true, "destroyable": true } }),
                None,
                Some(256),
            ),
        ];
        for (kind, more, oid, size) in kinds {
            let label = format!("{namespace} {kind}");
            let made = app.post("/v1/key", create(&label, more)).await.with_status(201);
            attributes_are_whole(&made, &label);
            assert_eq!(made["json"]["keySize"].as_u64(), size, "{made}");
            if let Some(oid) = oid {
                assert_eq!(made["json"]["algorithmOid"], oid);
                let spki = bytes(&made["json"]["publicKey"]);
                tools::run("openssl", &["pkey", "-pubin", "-inform", "DER", "-noout"], &spki)
                    .status
                    .success()
                    .then_some(())
                    .expect(kind);
            } else {
                assert!(made["json"]["publicKey"].is_null(), "{made}");
            }
        }
        let answer = app
            .post("/v1/synchronousSign", sign(&format!("{namespace} AES"), "SHA256_WITH_RSA", b"m", None))
            .await;
        answer.is_error(400, 607, "algorithm.not.supported.by.key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_with_several_partitions_is_told_to_choose() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("rest").await;
    let app = caller(&namespace, "app", ALL_VERBS);
    let _default = default_partition(None).await;
    until_default(&app, None).await;
    let body = create(&format!("{namespace}-k"), json!({ "algorithm": "EC", "curveOid": P256 }));
    let message = app.post("/v1/key", body).await.is_error(400, 611, "unsupported.operation");
    for part in ["demo", "demo-kryoptic", "hsm-operator.io/default"] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }
    let none: Vec<HsmKey> =
        world.api(&namespace).list(&kube::api::ListParams::default()).await.unwrap().items;
    assert!(none.is_empty(), "a refused request leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_cannot_do_is_refused_with_what_it_offers() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("rest").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        let _default = default_partition(Some(on)).await;
        until_default(&app, Some(on)).await;
        let mut refused = vec![
            ("BLS", json!({ "algorithm": "BLS" }), "BLS"),
            ("ISS", json!({ "algorithm": "ISS", "keySize": 1 }), "ISS"),
        ];
        if on == Token::Kryoptic {
            refused.push(("k1", json!({ "algorithm": "EC", "curveOid": SECP256K1 }), "secp256k1"));
        }
        for (name, more, named) in refused {
            let answer = app.post("/v1/key", create(&format!("{namespace}-{name}"), more)).await;
            let message = answer.is_error(400, 611, "unsupported.operation");
            for part in [on.partition(), named, "RSA"] {
                assert!(message.contains(part), "{part} is missing in {message}");
            }
        }
        let left: Vec<HsmKey> =
            world.api(&namespace).list(&kube::api::ListParams::default()).await.unwrap().items;
        assert!(
            left.iter().all(|key| key.metadata.deletion_timestamp.is_some()),
            "a refused request leaves nothing: {left:?}"
        );

        world.make_key(&namespace, "k", on, json!({})).await;
        world.ready(&namespace, "k").await;
        let label = format!("{namespace}.k");
        let body = sign(&label, "SHA256_WITH_ECDSA_DETERMINISTIC", b"m", None);
        let message = app.post("/v1/synchronousSign", body).await.is_error(400, 611, "unsupported.operation");
        for part in [on.partition(), "SHA256_WITH_ECDSA_DETERMINISTIC", "SHA256_WITH_ECDSA"] {
            assert!(message.contains(part), "{part} is missing in {message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signature_algorithm_is_right_in_every_form() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("rest").await;
        let app = caller(&namespace, "app", &["use"]);
        let mut kinds = vec![
            ("rsa", KeyAlgorithm::Rsa, json!({ "algorithm": "RSA", "curveOid": null, "keySize": 2048 })),
            ("p256", KeyAlgorithm::Ec, json!({})),
            ("p521", KeyAlgorithm::Ec, json!({ "curveOid": "1.3.132.0.35" })),
            ("ed", KeyAlgorithm::Ed, json!({ "algorithm": "ED", "curveOid": null })),
        ];
        if on == Token::SoftHsm {
            kinds.push(("k1", KeyAlgorithm::Ec, json!({ "curveOid": SECP256K1 })));
        }
        for (name, _, spec) in &kinds {
            world.make_key(&namespace, name, on, spec.clone()).await;
        }
        let folder = tempfile::tempdir().unwrap();
        for (name, algorithm, _) in kinds {
            let key = world.ready(&namespace, name).await;
            let spki = STANDARD.decode(key.status.unwrap().public_key.unwrap()).unwrap();
            let label = format!("{namespace}.{name}");
            let mut right = 0;
            for signed_by in SignatureAlgorithm::ALL.iter().copied().filter(|one| one.fits(algorithm)) {
                if matches!(
                    signed_by.name(),
                    "SHA256_WITH_ECDSA_DETERMINISTIC" | "NONE_WITH_EC_SCHNORR_BIP0340"
                ) {
                    continue; // neither token has them; another test reads the refusal
                }
                right += in_every_form(&app, folder.path(), (&label, &spki), signed_by, name).await;
            }
            let wanted = match algorithm {
                KeyAlgorithm::Rsa => 21 * 2,
                KeyAlgorithm::Ed => 2,
                _ => 15 * 2 + usize::from(name == "k1"),
            };
            assert_eq!(right, wanted, "{name} on {on:?}");
        }
    }
}

async fn in_every_form(
    app: &Gateways,
    folder: &Path,
    key: (&str, &[u8]),
    by: SignatureAlgorithm,
    name: &str,
) -> usize {
    let (label, spki) = key;
    let payload = match by.row().input {
        Input::Digest(hash) => hash.digest(b"message"),
        Input::Message(_) => b"a message of no particular length".to_vec(),
        Input::Bytes => Hash::Sha256.digest(b"message"),
    };
    let mut right = 0;
    for form in [None, Some("RAW"), Some("ETH")] {
        let answer = app.post("/v1/synchronousSign", sign(label, by.name(), &payload, form)).await;
        if form == Some("ETH") && (name != "k1" || by != SignatureAlgorithm::Keccak256WithEcdsa) {
            answer.is_error(400, 607, "algorithm.not.supported.by.key");
            continue;
        }
        let signed = signature(&answer.with_status(200));
        let (native, ecdsa) = (form.is_none(), by.name().ends_with("ECDSA"));
        if native || !ecdsa {
            openssl::verify_native(folder, spki, by, &payload, &signed);
        } else {
            let raw = if form == Some("ETH") { &signed[..64] } else { &signed };
            openssl::verify_native(folder, spki, by, &payload, &openssl::ecdsa_der(raw));
        }
        if form == Some("ETH") {
            assert_eq!(signed.len(), 65);
            recovers(&signed, &by.prepare(&payload).unwrap(), spki);
        }
        let verdict =
            app.post("/v1/verify", verify(label, by.name(), &payload, &signed)).await.with_status(200);
        assert_eq!(verdict, json!({ "signatureValid": true }), "{by} {form:?}");
        let mut other = payload.clone();
        other[0] ^= 1;
        let verdict =
            app.post("/v1/verify", verify(label, by.name(), &other, &signed)).await.with_status(200);
        assert_eq!(verdict, json!({ "signatureValid": false }), "{by} {form:?}");
        right += 1;
    }
    right
}

/// The signer's key comes out of an Ethereum signature alone; computed by python, not by us.
fn recovers(signature: &[u8], digest: &[u8], spki: &[u8]) {
    let program = include_str!("recover.py");
    let found = output("python3", &["-c", program, &hex::encode(signature), &hex::encode(digest)], b"");
    assert_eq!(found.trim(), hex::encode(&spki[spki.len() - 64..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hexadecimal_payload_is_read_as_such() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("rest").await;
    let app = caller(&namespace, "app", &["use"]);
    world.make_key(&namespace, "k", Token::SoftHsm, json!({})).await;
    let key = world.ready(&namespace, "k").await;
    let spki = STANDARD.decode(key.status.unwrap().public_key.unwrap()).unwrap();
    let mut body = sign(&format!("{namespace}.k"), "SHA256_WITH_ECDSA", b"", None);
    body["signRequest"]["payloadType"] = "HEX".into();
    // Valid base64 as well.
    body["signRequest"]["payload"] = "deadBEEF".into();
    let signed = signature(&app.post("/v1/synchronousSign", body.clone()).await.with_status(200));
    let folder = tempfile::tempdir().unwrap();
    openssl::verify_native(
        folder.path(),
        &spki,
        SignatureAlgorithm::Sha256WithEcdsa,
        &[0xde, 0xad, 0xbe, 0xef],
        &signed,
    );
    for wrong in ["abc", "xyzt"] {
        body["signRequest"]["payload"] = wrong.into();
        app.post("/v1/synchronousSign", body.clone()).await.is_error(400, 635, "encoding.exception");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_is_verified_by_the_published_procedure() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("rest").await;
        let app = caller(&namespace, "app", &["get"]);
        world.make_key(&namespace, "k", on, json!({})).await;
        let key = world.ready(&namespace, "k").await;
        let label = format!("{namespace}.k");
        let zip = app.post("/v1/key/keyAttestation", json!({ "label": label })).await;
        assert_eq!(zip.status, 200, "{zip:?}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("bundle.zip"), &zip.body).unwrap();
        let check = r#"set -eu
            cd "$1"
            python3 -m zipfile -e bundle.zip .
            openssl dgst -sha256 -verify PrimusHSM_Attestation_PublicKey.pem -signature "$2.sig" "$2.xml" >&2
            openssl dgst -sha256 -verify "$2.pem" -signature "$2.sig" "$2.xml" >&2
            csplit -s -z -f cert- PrimusHSM_Attestation.crt '/BEGIN/' '{*}'
            root=$(ls cert-* | tail -n 1)
            openssl verify -x509_strict -CAfile "$root" -untrusted PrimusHSM_Attestation.crt cert-00 >&2
            grep -c never_extractable.*true "$2.xml" >&2
            openssl x509 -in cert-00 -noout -pubkey | cmp - PrimusHSM_Attestation_PublicKey.pem >&2
            openssl x509 -in "$root" -noout -fingerprint -sha256 | sed 's/.*=//'
            sed -n 's:.*<public_key>\(.*\)</public_key>.*:\1:p' "$2.xml""#;
        let seen = output("sh", &["-c", check, "sh", path, &label], b"");
        let (root, attested) = seen.trim().split_once('\n').unwrap();
        let partition = Api::<HsmPartition>::all(world.client.clone()).get(on.partition()).await.unwrap();
        assert_eq!(root, partition.status.unwrap().attestation.unwrap().root_fingerprint);
        assert_eq!(attested, key.status.unwrap().public_key.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_destroyable_stays() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("rest").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        world.make_key(&namespace, "k", on, json!({ "attributes": { "sign": true } })).await;
        // Destroyable, but its owner wants it kept.
        world.make_key(&namespace, "kept", on, json!({})).await;
        for name in ["k", "kept"] {
            world.ready(&namespace, name).await;
            let label = format!("{namespace}.{name}");
            app.call("DELETE", &format!("/v1/key/{label}"), "").await.is_error(
                400,
                614,
                "operation.forbidden.for.key",
            );
            app.post("/v1/key/deleteKey", json!({ "label": label })).await.is_error(
                400,
                614,
                "operation.forbidden.for.key",
            );
            let object = world.api::<HsmKey>(&namespace).get(name).await.unwrap();
            assert!(object.metadata.deletion_timestamp.is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_does_what_rbac_grants_and_nothing_else() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("rest").await;
    let elsewhere = world.namespace("rest").await;
    world.make_key(&namespace, "k", Token::SoftHsm, json!({})).await;
    world.ready(&namespace, "k").await;
    let label = format!("{namespace}.k");
    let nobody = caller(&namespace, "nobody", &[]);
    let body = || sign(&label, "SHA256_WITH_ECDSA", b"m", None);
    let by_name = json!({ "label": label });
    let forbidden = async |method: &str, path: &str, body: Value, verb: &str| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let message = nobody.call(method, path, body).await.is_error(403, 400, "security.not.allowed");
        let wanted = format!("system:serviceaccount:{namespace}:nobody may not {verb} hsmkeys");
        assert!(message.contains(&wanted) && message.contains(&namespace), "{message}");
    };
    forbidden("POST", "/v1/synchronousSign", body(), "use").await;
    forbidden("POST", "/v1/verify", verify(&label, "SHA256_WITH_ECDSA", b"m", b"x"), "use").await;
    forbidden("POST", "/v1/key/attributes", by_name.clone(), "get").await;
    forbidden("POST", "/v1/key/keyAttestation", by_name.clone(), "get").await;
    forbidden("GET", "/v1/key", Value::Null, "list").await;
    forbidden("DELETE", &format!("/v1/key/{label}"), Value::Null, "delete").await;
    forbidden("POST", "/v1/key", create("new", json!({ "algorithm": "ED" })), "create").await;

    let user = caller(&namespace, "user", &["use"]);
    signature(&user.post("/v1/synchronousSign", body()).await.with_status(200));
    user.post("/v1/key/attributes", by_name.clone()).await.is_error(403, 400, "security.not.allowed");
    // A key of another namespace does not exist, whatever one may do at home.
    let stranger = caller(&elsewhere, "user", ALL_VERBS);
    stranger.post("/v1/synchronousSign", body()).await.is_error(404, 650, "key.not.existent");
    stranger.post("/v1/key/attributes", by_name.clone()).await.is_error(404, 650, "key.not.existent");
    stranger.post("/v1/key/deleteKey", by_name).await.is_error(404, 650, "key.not.existent");
    assert_eq!(stranger.get("/v1/key").await.with_status(200), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_use_is_audited_and_nothing_secret_is_logged() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("rest").await;
        account(&namespace, "app", &["use"]);
        account(&namespace, "nobody", &[]);
        let (good, bad) =
            (token(&namespace, "app", "hsm-operator"), token(&namespace, "nobody", "hsm-operator"));
        let wrong = token(&namespace, "app", "somebody-else");
        world.make_key(&namespace, "k", on, json!({})).await;
        world.ready(&namespace, "k").await;
        let label = format!("{namespace}.k");
        let payload = format!("the secret plans of {namespace}");
        let body = sign(&label, "SHA256_WITH_ECDSA", payload.as_bytes(), None);
        let gateways = Gateways::new();
        let signed =
            gateways.with_token(&good).post("/v1/synchronousSign", body.clone()).await.with_status(200);
        gateways.with_token(&bad).post("/v1/synchronousSign", body.clone()).await.is_error(
            403,
            400,
            "security.not.allowed",
        );
        gateways.with_token(&wrong).post("/v1/synchronousSign", body).await.is_error(
            401,
            617,
            "invalid.access.token",
        );
        drop(signed);

        let logs = logs();
        let digest = hex::encode(Sha256::digest(payload.as_bytes()));
        let records: Vec<Value> = logs
            .iter()
            .filter(|(pod, _)| pod.contains("/hsm-operator-gateway-"))
            .flat_map(|(_, log)| log.lines())
            .filter(|line| line.contains(&digest))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        assert_eq!(records.len(), 2, "{records:?}");
        for record in &records {
            assert_eq!(record["target"], "audit");
            assert_eq!(
                (&record["key"], &record["namespace"]),
                (&label.clone().into(), &namespace.clone().into())
            );
            assert_eq!(
                (&record["operation"], &record["algorithm"]),
                (&"sign".into(), &"SHA256_WITH_ECDSA".into())
            );
            assert!(record["request_id"].as_str().is_some_and(|id| id.len() == 36), "{record}");
            let (name, decision) =
                if record["reason"].is_null() { ("app", "allowed") } else { ("nobody", "refused") };
            assert_eq!(record["caller"], format!("system:serviceaccount:{namespace}:{name}"));
            assert_eq!(record["decision"], decision);
        }
        assert_ne!(records[0]["decision"], records[1]["decision"]);

        let mut secrets =
            vec![good, bad, wrong, payload.clone(), STANDARD.encode(&payload), hex::encode(&payload)];
        for key in ["pin", "so-pin"] {
            let pin = pin(&world, key).await;
            secrets.extend([STANDARD.encode(&pin), hex::encode(&pin), pin]);
        }
        for (pod, log) in &logs {
            for secret in &secrets {
                // A token's signature alone is as good as nothing to a reader; its claims are not.
                let parts = secret.split('.').filter(|part| part.len() >= 12).collect::<Vec<_>>();
                let telling = if parts.len() == 3 { vec![parts[1], parts[2]] } else { vec![secret.as_str()] };
                for part in telling {
                    assert!(!log.contains(part), "{pod} logged a secret: {}…", &part[..4]);
                }
            }
        }
    }
}
