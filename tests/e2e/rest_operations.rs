//! What the REST API does besides keys and signatures, through the installed gateways, whichever of them answers.

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{api::HsmPartition, public_key::PublicKey};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    caller::{ALL_VERBS, GATEWAYS, caller, default_partition, everywhere, until_default},
    common::openssl,
    requests,
    tools::{self, output},
    world::{Token, World},
};

/// Often enough that each gateway answers.
const ROUNDS: usize = 4;

fn bytes(base64: &Value) -> Vec<u8> {
    STANDARD.decode(base64.as_str().unwrap_or_else(|| panic!("{base64} is no text"))).unwrap()
}

/// Gives a ServiceAccount of the namespace a verb on what is no HsmKey.
fn permit(namespace: &str, account: &str, kind: &str, verbs: &[&str], resource: &str) {
    let api = "rbac.authorization.k8s.io";
    let version = format!("{api}/v1");
    let name = format!("{namespace}-{resource}");
    let mut metadata = json!({ "name": name });
    if kind == "Role" {
        metadata["namespace"] = json!(namespace);
    }
    let rule = json!({ "apiGroups": ["hsm-operator.io"], "resources": [resource], "verbs": verbs });
    let role = json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "rules": [rule] });
    let binding = json!({
        "apiVersion": version, "kind": format!("{kind}Binding"), "metadata": metadata,
        "roleRef": { "apiGroup": api, "kind": kind, "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
    });
    tools::apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [role, binding] }).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_gateway_encrypts_another_decrypts() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("ciphers").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        let label = format!("{namespace}.k");
        let spec = json!({ "algorithm": "AES", "keySize": 256, "curveOid": null,
            "attributes": { "decrypt": true, "destroyable": true } });
        world.make_key(&namespace, "k", on, spec).await;
        world.ready(&namespace, "k").await;
        let encrypt = json!({ "encryptRequest": { "payload": "UGF5bG9hZA==", "encryptKeyName": label,
            "cipherAlgorithm": "AES_GCM", "tagLength": 128, "additionalAuthenticationData": "YWFk" } });
        let sealed = app.post("/v1/encrypt", encrypt).await.with_status(200);
        let decrypt = |ciphertext: &[u8]| {
            json!({ "decryptRequest": { "encryptedPayload": STANDARD.encode(ciphertext), "decryptKeyName": label,
                "cipherAlgorithm": "AES_GCM", "initializationVector": sealed["initializationVector"],
                "additionalAuthenticationData": "YWFk", "tagLength": 128 } })
        };
        let mut ciphertext = bytes(&sealed["encryptedPayload"]);
        for _ in 0..ROUNDS {
            let opened = app.post("/v1/synchronousDecrypt", decrypt(&ciphertext)).await.with_status(200);
            assert_eq!(opened, json!({ "payload": "UGF5bG9hZA==" }));
        }
        ciphertext[0] ^= 1;
        let damaged = app.post("/v1/synchronousDecrypt", decrypt(&ciphertext)).await;
        damaged.is_error(400, 410, "decrypt.failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hmac_is_that_of_openssl() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let value: Vec<u8> = (1..=32).collect();
    let key = format!("hexkey:{}", hex::encode(&value));
    let expected = output("openssl", &["mac", "-digest", "SHA256", "-macopt", &key, "HMAC"], b"Payload");
    let expected = hex::decode(expected.trim()).unwrap();
    for on in Token::BOTH {
        let _default = default_partition(Some(on)).await;
        let namespace = world.namespace("hmac").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        until_default(&app, Some(on)).await;
        let label = format!("{namespace}.k");
        let import = json!({ "label": label, "algorithm": "HMACSHA256", "secretKey": STANDARD.encode(&value),
            "attributes": { "sign": true, "destroyable": true } });
        app.post("/v1/key/import/plain", import).await.with_status(201);
        let hmac = json!({ "hmacRequest": { "keyName": label, "payload": "UGF5bG9hZA==" } });
        for _ in 0..ROUNDS {
            let made = app.post("/v1/synchronousHmac", hmac.clone()).await.with_status(200);
            assert_eq!(bytes(&made["keyedHash"]), expected, "{on:?}");
        }
        for (signature, valid) in [(expected.clone(), true), (vec![0; 32], false)] {
            let verify = json!({ "verifyHmacRequest": { "keyName": label, "payload": "UGF5bG9hZA==",
                "signature": STANDARD.encode(signature) } });
            let said = app.post("/v1/verify", verify).await.with_status(200);
            assert_eq!(said, json!({ "signatureValid": valid }));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_object_is_kept_read_and_destroyed() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let _default = default_partition(Some(on)).await;
        let namespace = world.namespace("data").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        until_default(&app, Some(on)).await;
        let path = "/v1/dataObject/config";
        let body = json!({ "name": "config", "value": "AAEC", "attributes": { "destroyable": true } });
        // The verbs on keys are not those on data objects.
        app.post("/v1/dataObject", body.clone()).await.is_error(403, 400, "security.not.allowed");
        permit(&namespace, "app", "Role", &["create", "get", "delete"], "hsmdataobjects");
        // One gateway makes it, and every other says that it is there.
        everywhere(&app, "POST", "/v1/dataObject", &body.to_string(), |answer| answer.status != 403).await;
        app.post("/v1/dataObject", body).await.is_error(400, 615, "data.object.already.existing");
        for _ in 0..ROUNDS {
            assert_eq!(app.get(path).await.with_status(200)["value"], "AAEC");
        }
        assert_eq!(app.call("DELETE", path, "").await.status, 200);
        app.get(path).await.is_error(404, 653, "data.object.not.existent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_of_the_partition_to_whoever_may_see_it() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let _default = default_partition(Some(on)).await;
        let namespace = world.namespace("log").await;
        let stranger = caller(&namespace, "stranger", ALL_VERBS);
        let app = caller(&namespace, "app", ALL_VERBS);
        permit(&namespace, "app", "ClusterRole", &["get"], "hsmpartitions");
        until_default(&app, Some(on)).await;
        stranger.get("/v1/hsm/log").await.is_error(403, 400, "security.not.allowed");
        let log = app.get("/v1/hsm/log").await.with_status(200);
        let lines: Vec<Value> =
            log["log"].as_str().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let reachable = lines.iter().find(|line| line["about"] == "Reachable").expect("the token is reached");
        assert_eq!(reachable["status"], "True", "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_a_timestamp() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let partitions = Api::<HsmPartition>::all(world.client.clone());
    for on in Token::BOTH {
        let _default = default_partition(Some(on)).await;
        let namespace = world.namespace("stamps").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        until_default(&app, Some(on)).await;
        world.make_key(&namespace, "k", on, json!({})).await;
        let key = world.ready(&namespace, "k").await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("key.der"), bytes(&json!(key.status.unwrap().public_key))).unwrap();
        std::fs::write(folder.path().join("payload"), b"Payload").unwrap();
        // An authority of openssl's certifies the key.
        let certify = r#"set -eu
            cd "$1"
            printf 'extendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature\n' > extensions
            openssl pkey -pubin -inform DER -in key.der -out key.pem
            openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=Authority -days 30 2>&1
            openssl x509 -new -force_pubkey key.pem -CA ca.pem -CAkey ca.key -subj /CN=Stamper \
                -extfile extensions -days 20 -out stamper.pem 2>&1"#;
        output("sh", &["-c", certify, "sh", path], b"");
        let pem = std::fs::read_to_string(folder.path().join("stamper.pem")).unwrap();
        let given = Patch::Merge(json!({ "spec": { "certificate": { "pem": pem } } }));
        let keys = world.api::<hsm_operator::api::HsmKey>(&namespace);
        keys.patch("k", &PatchParams::default(), &given).await.unwrap();
        let settings = |settings: Value| Patch::Merge(json!({ "spec": { "timestamp": settings } }));
        let appointed = settings(
            json!({ "keyRef": { "namespace": namespace, "name": "k" }, "policy": "1.3.6.1.4.1.99999.1.2" }),
        );
        partitions.patch(on.partition(), &PatchParams::default(), &appointed).await.unwrap();
        let body = json!({ "payload": "UGF5bG9hZA==", "hashAlgorithm": "SHA256" });
        // Each has to see both changes.
        let stamp = "/v1/createRfcTimestamp";
        everywhere(&app, "POST", stamp, &body.to_string(), |answer| answer.status == 200).await;
        let stamped = app.post(stamp, body).await.with_status(200);
        partitions.patch(on.partition(), &PatchParams::default(), &settings(Value::Null)).await.unwrap();
        std::fs::write(folder.path().join("token.der"), bytes(&stamped["timestamp"])).unwrap();
        let verify =
            r#"cd "$1" && openssl ts -verify -token_in -in token.der -CAfile ca.pem -data payload 2>&1"#;
        let said = output("sh", &["-c", verify, "sh", path], b"");
        assert!(said.contains("Verification: OK"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_is_part_of_the_signature() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let namespace = world.namespace("contexts").await;
    let app = caller(&namespace, "app", ALL_VERBS);
    let label = format!("{namespace}.k");
    let spec = json!({ "algorithm": "ML-DSA-65", "curveOid": null });
    world.make_key(&namespace, "k", Token::Kryoptic, spec).await;
    let key = world.ready(&namespace, "k").await;
    let spki = bytes(&json!(key.status.unwrap().public_key));
    let public = PublicKey::from_spki(&spki).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sign = json!({ "signRequest": { "payload": "UGF5bG9hZA==", "signKeyName": label,
        "signatureAlgorithm": "ML_DSA", "context": STANDARD.encode("a context") } });
    for _ in 0..ROUNDS {
        let signed = app.post("/v1/synchronousSign", sign.clone()).await.with_status(200);
        let signature = bytes(&signed["signature"]);
        let accepts = |context: &[u8]| {
            openssl::newer_accepts_in_context(folder.path(), &spki, context, b"Payload", &signature)
        };
        assert!(accepts(b"a context") && !accepts(b"another"));
        assert_eq!(public.verify("ML_DSA".parse().unwrap(), b"Payload", &signature), Ok(false));
    }
    // A SigningRequest means the same by it.
    let request = |context: &str| json!({ "payload": "UGF5bG9hZA==", "signatureAlgorithm": "ML_DSA", "context": context });
    let signature = requests::sign(&world, &namespace, "good", request(&STANDARD.encode("a context"))).await;
    assert!(openssl::newer_accepts_in_context(folder.path(), &spki, b"a context", b"Payload", &signature));
    let (reason, _) = requests::refused(&world, &namespace, "bad", request("%")).await;
    assert_eq!(reason, "InvalidContext");
}

/// Neither of the cluster's tokens lists a vendor's mechanisms, and the gateway says so before anything is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_token_cannot_derive_is_refused() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for on in Token::BOTH {
        let namespace = world.namespace("derived").await;
        let app = caller(&namespace, "app", ALL_VERBS);
        world.make_key(&namespace, "k", on, json!({})).await;
        world.ready(&namespace, "k").await;
        let label = format!("{namespace}.k");
        let derive = json!({ "masterKeyLabel": label, "derivationPath": "0'/1" });
        app.post("/v1/derivedKey", derive).await.is_error(400, 611, "unsupported.operation");
        let keys = app.get("/v1/key").await.with_status(200);
        assert_eq!(keys, json!([label]));
    }
}
