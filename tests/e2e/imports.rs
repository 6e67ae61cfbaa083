//! Keys that are brought to the tokens over REST, leave them, and are wrapped: gateway and controller, each with its own
//! token-host, and openssl.

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::api::{HsmKey, IMPORTING, condition};
use kube::{ResourceExt, api::PostParams};
use serde_json::{Value, json};

use crate::{
    caller::{GATEWAYS, caller, default_partition, logs, until_default},
    common::openssl,
    orphans::hsm,
    tools::{self, kubectl},
    world::{Token, World},
};

const IMPORT: &str = "/v1/key/import/plain";
const EXPORT: &str = "/v1/key/export/plain";
const VERBS: &[&str] = &["create", "get", "list", "delete", "use", "export"];

/// A private key by openssl, as PKCS #8.
fn made(arguments: &[&str]) -> Vec<u8> {
    let pem = tools::run("openssl", &[&["genpkey"], arguments].concat(), b"").stdout;
    let der = tools::run("openssl", &["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"], &pem);
    assert!(der.status.success(), "{}", String::from_utf8_lossy(&der.stderr));
    der.stdout
}

fn bytes(base64: &Value) -> Vec<u8> {
    STANDARD.decode(base64.as_str().unwrap_or_else(|| panic!("{base64} is no text"))).unwrap()
}

fn open(label: &str, algorithm: &str, member: &str, value: &[u8]) -> Value {
    json!({"label": label, "algorithm": algorithm, member: STANDARD.encode(value), "attributes": {
        "sign": algorithm != "AES", "decrypt": algorithm == "AES", "unwrap": algorithm == "AES",
        "destroyable": true, "extractable": true, "sensitive": false}})
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_openssl_are_imported_used_exported_and_deleted() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    for token in Token::BOTH {
        let _default = default_partition(Some(token)).await;
        let namespace = world.namespace("imports").await;
        let app = caller(&namespace, "app", VERBS);
        until_default(&app, Some(token)).await;
        for (name, algorithm, arguments, signing) in [
            (
                "ec",
                "EC",
                ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"].as_slice(),
                "SHA256_WITH_ECDSA",
            ),
            ("rsa", "RSA", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "SHA256_WITH_RSA"),
            ("ed", "ED", &["-algorithm", "ED25519"], "EDDSA"),
        ] {
            let label = format!("{namespace}.{name}");
            let der = made(arguments);
            let body = open(&label, algorithm, "privateKey", &der);
            let created = app.post(IMPORT, body.clone()).await.with_status(201);
            assert!(created["xml"].as_str().unwrap().contains("creation=\"imported\""), "{created}");
            assert_eq!(created["json"]["attributes"]["neverExtractable"], false);
            let object = world.ready(&namespace, &label).await;
            let status = object.status.unwrap();
            let generated = condition::find(&status.conditions, condition::GENERATED).unwrap();
            assert_eq!((generated.status.as_str(), generated.reason.as_str()), ("True", "Imported"));
            assert!(!object.metadata.annotations.unwrap_or_default().contains_key(IMPORTING));
            world.event(&namespace, &label, "KeyImported").await;
            // Whichever gateway answers.
            for _ in 0..4 {
                let sign = json!({"signRequest": {"payload": "YQ==", "signKeyName": label, "signatureAlgorithm": signing}});
                let signature = app.post("/v1/synchronousSign", sign).await.with_status(200);
                let spki = bytes(&created["json"]["publicKey"]);
                let signature = bytes(&signature["signature"]);
                openssl::verify_native(folder.path(), &spki, signing.parse().unwrap(), b"a", &signature);
            }
            let exported = app.post(EXPORT, json!({"label": label})).await.with_status(200);
            assert_eq!(bytes(&exported["privateKey"]), der, "{name}");
            app.post(IMPORT, body).await.is_error(400, 608, "key.already.existing");
            // Nobody wrote it down.
            let secrets = [STANDARD.encode(&der), hex::encode(&der[der.len() - 24..])];
            for (pod, text) in logs() {
                assert!(secrets.iter().all(|secret| !text.contains(secret)), "{name}: {pod} logs the key");
            }
            let user = caller(&namespace, "user", &["get", "use"]);
            user.post(EXPORT, json!({"label": label})).await.is_error(403, 400, "security.not.allowed");
            assert_eq!(app.call("DELETE", &format!("/v1/key/{label}"), "").await.status, 200);
            // A process of SoftHSM that destroys a key overlooks what another one makes in that moment.
            world.gone(&world.api::<HsmKey>(&namespace), &label).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_wrapped_and_unwrapped_under_another_name() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for token in Token::BOTH {
        let _default = default_partition(Some(token)).await;
        let namespace = world.namespace("wraps").await;
        let app = caller(&namespace, "app", VERBS);
        until_default(&app, Some(token)).await;
        let label = |name: &str| format!("{namespace}.{name}");
        let (kek, key) = ((0..32).collect::<Vec<u8>>(), [0x42; 24]);
        for (name, value) in [("kek", &kek[..]), ("key", &key)] {
            app.post(IMPORT, open(&label(name), "AES", "secretKey", value)).await.with_status(201);
        }
        for method in ["AES_WRAP", "AES_WRAP_PAD"] {
            let wrap = json!({"wrapKeyRequest": {"keyToBeWrapped": label("key"), "wrapKeyName": label("kek"), "wrapMethod": method}});
            let wrapped = app.post("/v1/wrap", wrap).await.with_status(200);
            let back = label(&method.to_lowercase().replace('_', "-"));
            let unwrap = json!({"unwrapKeyRequest": {"wrappedKey": wrapped["wrappedKey"], "label": back,
                "unwrapKeyName": label("kek"), "wrapMethod": method,
                "attributes": {"decrypt": true, "destroyable": true, "extractable": true, "sensitive": false}}});
            if token == Token::SoftHsm {
                // It does not tell how long a key is that it unwraps.
                app.post("/v1/synchronousUnwrap", unwrap).await.is_error(400, 611, "unsupported.operation");
                continue;
            }
            let created = app.post("/v1/synchronousUnwrap", unwrap.clone()).await.with_status(201);
            assert_eq!(
                (&created["json"]["algorithm"], &created["json"]["keySize"]),
                (&json!("AES"), &json!(192))
            );
            let exported = app.post(EXPORT, json!({"label": back})).await.with_status(200);
            assert_eq!(bytes(&exported["secretKey"]), key);
            app.post("/v1/synchronousUnwrap", unwrap).await.is_error(500, 701, "in.hsm");
        }
    }
}

/// What a gateway leaves that is killed before it brings the key: an object that waits, until the same request comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_waits_for_its_key_and_the_request_completes_it() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let token = Token::BOTH[0];
    let _default = default_partition(Some(token)).await;
    let namespace = world.namespace("awaits").await;
    let app = caller(&namespace, "app", VERBS);
    until_default(&app, Some(token)).await;
    let label = format!("{namespace}.late");
    let attributes = json!({"sign": true, "destroyable": true});
    let object = json!({
        "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey", "metadata": {"name": label, "namespace": namespace},
        "spec": {"partitionRef": {"name": token.partition()}, "algorithm": "ED", "curveOid": "1.3.101.112",
            "source": "Imported", "attributes": attributes, "deletionPolicy": "Destroy"},
    });
    let keys = world.api::<HsmKey>(&namespace);
    let made_object: HsmKey = serde_json::from_value(object).unwrap();
    let uid = keys.create(&PostParams::default(), &made_object).await.unwrap().uid();
    world.key_with_reason(&namespace, &label, "MaterialAwaited").await;
    let der = made(&["-algorithm", "ED25519"]);
    let body = json!({"label": label, "algorithm": "ED", "privateKey": STANDARD.encode(&der), "attributes": attributes});
    app.post(IMPORT, body).await.with_status(201);
    let ready = world.ready(&namespace, &label).await;
    assert_eq!(ready.uid(), uid);
    // A key that is not there any more is not waited for once more.
    let patch = json!({"spec": {"source": "Generated"}}).to_string();
    let arguments = ["patch", "hsmkey", &label, "-n", &namespace, "--type", "merge", "-p", &patch];
    let refused = tools::run("kubectl", &arguments, b"");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("source cannot change"), "{refused:?}");
    kubectl(&["delete", "hsmkey", &label, "-n", &namespace]);
}

/// The controller finds it, attests it as what it is, and takes it for no leftover.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_alone_is_kept_verifies_and_goes() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    for token in Token::BOTH {
        let _default = default_partition(Some(token)).await;
        let namespace = world.namespace("alone").await;
        let app = caller(&namespace, "app", VERBS);
        until_default(&app, Some(token)).await;
        let (label, key) = (format!("{namespace}.partner"), file("key.pem"));
        let ec = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key];
        assert!(tools::run("openssl", &ec, b"").status.success());
        let certify = ["req", "-x509", "-subj", "/CN=partner", "-days", "2", "-outform", "DER", "-key", &key];
        let certificate = tools::run("openssl", &certify, b"").stdout;
        let body = json!({"label": label, "algorithm": "EC", "certificate": STANDARD.encode(&certificate)});
        let created = app.post(IMPORT, body).await.with_status(201);
        assert!(created["xml"].as_str().unwrap().contains("<public_key creation=\"imported\""), "{created}");
        let object = world.ready(&namespace, &label).await;
        let status = object.status.unwrap();
        assert!(condition::is_true(&status.conditions, condition::CERTIFIED));
        let generated = condition::find(&status.conditions, condition::GENERATED).unwrap();
        assert!(generated.reason == "Imported" && generated.message.contains("elsewhere"), "{generated:?}");
        let id = status.key_id.unwrap();
        let read = app.call("GET", &format!("/v1/certificate/{label}"), "").await.with_status(200);
        assert_eq!(bytes(&read["rawCertificate"]), certificate);
        let signature = tools::run("openssl", &["dgst", "-sha256", "-sign", &key], b"a").stdout;
        let verify = json!({"verifySignatureRequest": {"payload": "YQ==", "signKeyName": label,
            "signatureAlgorithm": "SHA256_WITH_ECDSA", "signature": STANDARD.encode(signature)}});
        assert_eq!(app.post("/v1/verify", verify).await.with_status(200), json!({"signatureValid": true}));
        let sign = json!({"signRequest": {"payload": "YQ==", "signKeyName": label, "signatureAlgorithm": "SHA256_WITH_ECDSA"}});
        app.post("/v1/synchronousSign", sign).await.is_error(400, 613, "invalid.key.type");
        let left_over = || {
            let orphans: Value =
                serde_json::from_str(&hsm(&["orphans", token.partition(), "--fresh", "-o", "json"])).unwrap();
            let ghosts = orphans["partitions"][0]["inventory"]["ghosts"]["objects"].clone();
            ghosts.as_array().unwrap().iter().any(|ghost| ghost["id"] == id)
        };
        assert!(!left_over(), "{token:?}: it is claimed");
        assert!(world.ready(&namespace, &label).await.is_ready());
        assert_eq!(app.call("DELETE", &format!("/v1/key/{label}"), "").await.status, 200);
        assert!(!left_over(), "{token:?}: it is gone");
    }
}

/// By a manifest, by REST, and in the object's status.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_declared_and_does_not_change() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    for token in Token::BOTH {
        let _default = default_partition(Some(token)).await;
        let namespace = world.namespace("address").await;
        let app = caller(&namespace, "app", VERBS);
        until_default(&app, Some(token)).await;
        let label = format!("{namespace}.coins");
        let spec = json!({"algorithm": "ED", "keySize": null, "curveOid": "1.3.101.112", "attributes": {"sign": true},
            "policy": {"keyStatus": {"blocked": false}}, "addressFormat": {"format": "XRP"}, "label": label});
        world.make_key(&namespace, "coins", token, spec).await;
        let status = world.ready(&namespace, "coins").await.status.unwrap();
        let address = serde_json::to_value(status.address.unwrap()).unwrap();
        assert_eq!(address["format"], "XRP");
        let value = hex::decode(address["value"].as_str().unwrap()).unwrap();
        let told = app.post("/v1/key/address", json!({"label": label})).await.with_status(200);
        assert_eq!((value.len(), bytes(&told["address"])), (20, value));
        let patch = json!({"spec": {"addressFormat": null}}).to_string();
        let arguments = ["patch", "hsmkey", "coins", "-n", &namespace, "--type", "merge", "-p", &patch];
        let refused = tools::run("kubectl", &arguments, b"");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("addressFormat cannot change"),
            "{refused:?}"
        );
        kubectl(&["delete", "hsmkey", "coins", "-n", &namespace]);
    }
}
