//! Public keys and certificates that come without a private key, over REST and before real tokens.

use std::{path::Path, process::Command, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::IMPORTING,
    attestation,
    hsm::{
        Hsm, Supervisor,
        fake::Fake,
        protocol::{Find, Reply, Request},
    },
    model::{KeyId, KeyLabel},
};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    common::token::{Module, Token, run},
    lifecycle::{Fate, Stand, world_before},
    real::on_both_tokens,
    world::{Answer, NAMESPACE, World, object, office},
};

const IMPORT: &str = "/v1/key/import/plain";

/// A gateway before a token, and a pair of openssl's whose private half stays in a file.
struct Stage {
    world: World,
    stand: Arc<Stand>,
    hsm: Arc<Supervisor>,
    token: Token,
}

impl Stage {
    async fn new(module: Module) -> Self {
        let token = Token::new(module);
        let hsm = token.supervisor().await;
        let (world, stand) = world_before(hsm.clone(), Arc::new(Fake::default()), Fate::Ready, &[]).await;
        Self { world, stand, hsm, token }
    }

    fn path(&self) -> &Path {
        self.token.path()
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.world.call("POST", path, body).await
    }

    /// Makes a pair; the result is the public half.
    fn pair(&self, name: &str, arguments: &[&str]) -> String {
        let file = self.path().join(name);
        run(Command::new("openssl").args(["genpkey", "-out"]).arg(&file).args(arguments));
        let public =
            run(Command::new("openssl").args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&file));
        STANDARD.encode(public.stdout)
    }

    /// A certificate by the pair for itself.
    fn certificate(&self, name: &str) -> String {
        let made = run(Command::new("openssl")
            .args(["req", "-x509", "-subj", "/CN=alone", "-days", "2", "-outform", "DER", "-key"])
            .arg(self.path().join(name)));
        STANDARD.encode(made.stdout)
    }

    /// The public halves that are on the token for an object.
    async fn there(&self, label: &str) -> usize {
        let id = {
            let objects = self.stand.objects();
            let Some(key) = objects.values().find(|key| key.label() == label) else { return 0 };
            KeyId::for_object(key.uid().unwrap().parse().unwrap(), NAMESPACE, &key.name_any())
        };
        match self.hsm.call(Request::Find(Find::Public(id))).await {
            Ok(Reply::Keys(keys)) => keys.len(),
            other => panic!("{other:?}"),
        }
    }
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const ED: &[&str] = &["-algorithm", "ED25519"];

/// As a published client sends it: with a policy, and without attributes.
fn body(label: &str, algorithm: &str, member: &str, value: &str) -> Value {
    let rule = json!({"tokens": [{"name": "main", "timelock": 0, "timeout": 0, "groups": null}]});
    let mut body = json!({"label": label, "algorithm": algorithm, "privateKey": null, "secretKey": null,
        "policy": {"ruleUse": rule, "ruleBlock": rule, "ruleUnblock": rule, "ruleModify": rule,
            "keyStatus": {"blocked": false}}});
    body[member] = json!(value);
    body
}

fn verify(key: &str, algorithm: &str, signature: &[u8]) -> Value {
    json!({"verifySignatureRequest": {"payload": "YQ==", "signKeyName": key, "signatureAlgorithm": algorithm,
        "signature": STANDARD.encode(signature)}})
}

/// The document is signed well, and nobody can take it for one about a private key.
async fn says_what_it_is(made: &Value) {
    let status = office().await.partition.status.as_ref().unwrap();
    let chain = attestation::chain::from_pem(&status.attestation.as_ref().unwrap().chain).unwrap();
    let signature = STANDARD.decode(made["xmlSignature"].as_str().unwrap()).unwrap();
    let xml = made["xml"].as_str().unwrap().as_bytes();
    let evidence = attestation::Evidence { xml, signature: &signature, chain: &chain };
    let root = attestation::fingerprint(chain.last().unwrap());
    let statements = attestation::verify(&evidence, &root, Timestamp::now()).unwrap();
    assert_eq!(statements.kind, "public_key");
    assert_eq!(statements.protection(), attestation::Protection::NotStated);
}

/// openssl signs, and the gateway verifies with the public key that is on the token.
async fn a_public_key_alone_verifies_and_signs_nothing(stage: &Stage) {
    for (label, algorithm, arguments, how) in [
        ("rsa", "RSA", RSA, "SHA256_WITH_RSA"),
        ("p256", "EC", P256, "SHA256_WITH_ECDSA"),
        ("ed", "ED", ED, "EDDSA"),
    ] {
        let public = stage.pair(label, arguments);
        stage.world.rules.asked();
        let answer = stage.post(IMPORT, &body(label, algorithm, "publicKey", &public)).await;
        assert_eq!(answer.status, 201, "{label}: {:?}", answer.body);
        let made = answer.ok();
        assert_eq!(stage.world.rules.asked(), ["create hsmkeys shop/"]);
        let json = &made["json"];
        assert_eq!((&json["publicKey"], &json["policy"]), (&json!(public), &Value::Null), "{label}");
        assert_eq!(
            (&json["attributes"]["sign"], &json["attributes"]["extractable"]),
            (&json!(false), &Value::Null)
        );
        let xml = made["xml"].as_str().unwrap();
        assert!(
            xml.contains("\n<public_key creation=\"imported\" ") && xml.ends_with("</public_key>\n\n"),
            "{xml}"
        );
        assert_eq!(stage.post("/v1/key/attributes", &json!({"label": label})).await.ok(), made);
        says_what_it_is(&made).await;
        let spec = serde_json::to_value(&stage.stand.objects()[label].spec).unwrap();
        assert_eq!((&spec["source"], spec.get("policy")), (&json!("ImportedPublic"), None));
        assert_eq!(stage.there(label).await, 1);
        // The same once more changes nothing; another one is not put in its place.
        let before = stage.stand.changes();
        assert_eq!(stage.post(IMPORT, &body(label, algorithm, "publicKey", &public)).await.ok(), made);
        let other = stage.pair("other", arguments);
        assert_eq!(
            stage.post(IMPORT, &body(label, algorithm, "publicKey", &other)).await.refused(),
            (400, 608)
        );
        assert_eq!(stage.stand.changes(), before);

        let message = stage.path().join("message");
        std::fs::write(&message, b"a").unwrap();
        let mut sign = Command::new("openssl");
        sign.args(["pkeyutl", "-sign", "-rawin", "-in"])
            .arg(&message)
            .arg("-inkey")
            .arg(stage.path().join(label));
        if label != "ed" {
            sign.args(["-digest", "sha256"]);
        }
        let signature = run(&mut sign).stdout;
        let valid = stage.post("/v1/verify", &verify(label, how, &signature)).await.ok();
        assert_eq!(valid, json!({"signatureValid": true}), "{label}");
        let bent = [&signature[..signature.len() - 1], &[signature[signature.len() - 1] ^ 1]].concat();
        let valid = stage.post("/v1/verify", &verify(label, how, &bent)).await.ok();
        assert_eq!(valid, json!({"signatureValid": false}), "{label}");

        let signing =
            json!({"signRequest": {"payload": "YQ==", "signKeyName": label, "signatureAlgorithm": how}});
        let csr = json!({"signKeyName": label, "signatureAlgorithm": how, "standardCertificateAttributes": {"commonName": "a"}, "validity": 1});
        let unwrap = json!({"unwrapKeyRequest": {"wrappedKey": "AAAA", "label": "new", "unwrapKeyName": label,
            "wrapMethod": "RSA_WRAP_OAEP", "attributes": {"decrypt": true}}});
        let decrypt = json!({"decryptRequest": {"encryptedPayload": "YQ==", "decryptKeyName": label,
            "cipherAlgorithm": "RSA_PADDING_OAEP"}});
        let password = json!({"label": label, "newPassword": "secret"});
        for (path, body) in [
            ("/v1/synchronousSign", &signing),
            ("/v1/certificate/synchronous/request", &csr),
            ("/v1/certificate/synchronous/selfsign", &csr),
            ("/v1/synchronousUnwrap", &unwrap),
            ("/v1/synchronousDecrypt", &decrypt),
            ("/v1/key/export/plain", &json!({"label": label})),
            ("/v1/key/changePassword", &password),
            ("/v1/derivedKey", &json!({"masterKeyLabel": label, "derivationPath": "0"})),
        ] {
            let answer = stage.post(path, body).await;
            assert_eq!(answer.refused(), (400, 613), "{label} {path}: {}", answer.json()["message"]);
        }
    }
    let labels = stage.world.call("GET", "/v1/key", &Value::Null).await.ok();
    assert_eq!(labels, json!(["ed", "p256", "rsa"]));
    assert_eq!(stage.post("/v1/key/deleteKey", &json!({"label": "ed"})).await.status, 200);
    assert_eq!(stage.world.call("GET", "/v1/key", &Value::Null).await.ok(), json!(["p256", "rsa"]));
}

/// What is encrypted and wrapped with it, openssl decrypts with the private half.
async fn a_public_key_alone_encrypts_and_wraps(stage: &Stage) {
    let public = stage.pair("rsa", RSA);
    stage.post(IMPORT, &body("rsa", "RSA", "publicKey", &public)).await.ok();
    let open = |ciphertext: &Value| {
        let file = stage.path().join("ciphertext");
        std::fs::write(&file, STANDARD.decode(ciphertext.as_str().unwrap()).unwrap()).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["pkeyutl", "-decrypt", "-pkeyopt", "rsa_padding_mode:oaep", "-inkey"]);
        run(openssl.arg(stage.path().join("rsa")).arg("-in").arg(file)).stdout
    };
    let encrypt = json!({"encryptRequest": {"payload": "YQ==", "encryptKeyName": "rsa",
        "cipherAlgorithm": "RSA_PADDING_OAEP"}});
    let sealed = stage.post("/v1/encrypt", &encrypt).await.ok();
    assert_eq!(open(&sealed["encryptedPayload"]), b"a");
    let aes = json!({"label": "aes", "algorithm": "AES", "keySize": 256,
        "attributes": {"decrypt": true, "extractable": true, "sensitive": false}});
    stage.post("/v1/key", &aes).await.ok();
    let value = stage.post("/v1/key/export/plain", &json!({"label": "aes"})).await.ok();
    let value = STANDARD.decode(value["secretKey"].as_str().unwrap()).unwrap();
    let wrap = json!({"wrapKeyRequest": {"keyToBeWrapped": "aes", "wrapKeyName": "rsa", "wrapMethod": "RSA_WRAP_OAEP"}});
    let wrapped = stage.post("/v1/wrap", &wrap).await.ok();
    assert_eq!(open(&wrapped["wrappedKey"]), value);
    // It is nothing to be wrapped.
    let back = json!({"wrapKeyRequest": {"keyToBeWrapped": "rsa", "wrapKeyName": "aes", "wrapMethod": "AES_WRAP_RSA"}});
    assert_eq!(stage.post("/v1/wrap", &back).await.refused(), (400, 613));
    // One that shall not encrypt does not.
    let mut mute = body("mute", "RSA", "publicKey", &public);
    mute["attributes"] = json!({"encrypt": false, "wrap": false, "destroyable": false});
    stage.post(IMPORT, &mute).await.ok();
    let encrypt = json!({"encryptRequest": {"payload": "YQ==", "encryptKeyName": "mute",
        "cipherAlgorithm": "RSA_PADDING_OAEP"}});
    assert_eq!(stage.post("/v1/encrypt", &encrypt).await.refused(), (400, 614));
    let wrap = json!({"wrapKeyRequest": {"keyToBeWrapped": "aes", "wrapKeyName": "mute", "wrapMethod": "RSA_WRAP_OAEP"}});
    assert_eq!(stage.post("/v1/wrap", &wrap).await.refused(), (400, 614));
    assert_eq!(stage.post("/v1/key/deleteKey", &json!({"label": "mute"})).await.refused(), (400, 614));
}

async fn a_certificate_alone_is_a_public_key_with_a_certificate(stage: &Stage) {
    let public = stage.pair("p256", P256);
    let certificate = stage.certificate("p256");
    let created = stage.post(IMPORT, &body("alone", "EC", "certificate", &certificate)).await.ok();
    assert_eq!(created["json"]["publicKey"], json!(public));
    let read = stage.world.call("GET", "/v1/certificate/alone", &Value::Null).await.ok();
    assert_eq!(read["rawCertificate"], json!(certificate), "{read}");
    // A certificate for a public key that came before it.
    stage.post(IMPORT, &body("before", "EC", "publicKey", &public)).await.ok();
    assert_eq!(stage.world.call("GET", "/v1/certificate/before", &Value::Null).await.refused(), (404, 653));
    stage.world.rules.asked();
    stage.post(IMPORT, &body("before", "EC", "certificate", &certificate)).await.ok();
    assert_eq!(stage.world.rules.asked(), ["create hsmkeys shop/", "update hsmkeys shop/before"]);
    assert_eq!(stage.stand.changes().last().unwrap(), "patch shop/before certificate");
    let read = stage.world.call("GET", "/v1/certificate/before", &Value::Null).await.ok();
    assert_eq!(read["rawCertificate"], json!(certificate));
    // And one for a whole pair, whose private half stays as it is.
    let pair = stage.path().join("p256");
    let private = run(Command::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"])
        .arg(pair));
    let whole = json!({"label": "whole", "algorithm": "EC", "privateKey": STANDARD.encode(private.stdout),
        "attributes": {"sign": true}});
    stage.post(IMPORT, &whole).await.ok();
    stage.post(IMPORT, &body("whole", "EC", "certificate", &certificate)).await.ok();
    let sign = json!({"signRequest": {"payload": "YQ==", "signKeyName": "whole", "signatureAlgorithm": "SHA256_WITH_ECDSA"}});
    stage.post("/v1/synchronousSign", &sign).await.ok();
    // One of another key is another key.
    stage.pair("other", P256);
    let other = stage.certificate("other");
    for label in ["alone", "before", "whole"] {
        assert_eq!(
            stage.post(IMPORT, &body(label, "EC", "certificate", &other)).await.refused(),
            (400, 608),
            "{label}"
        );
    }
}

async fn what_was_cut_off_is_completed_by_the_same_request(stage: &Stage) {
    let public = stage.pair("p256", P256);
    let request = body("alone", "EC", "publicKey", &public);
    stage.post(IMPORT, &request).await.ok();
    let (mut left, id) = {
        let key = &stage.stand.objects()["alone"];
        let id = KeyId::try_from(key.status.as_ref().unwrap().key_id.clone().unwrap()).unwrap();
        (object(NAMESPACE, "alone", serde_json::to_value(&key.spec).unwrap()), id)
    };
    assert!(matches!(stage.hsm.call(Request::Destroy(id)).await, Ok(Reply::Done)));
    left.metadata.resource_version = Some("7".into());
    let since = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(61);
    left.annotations_mut().insert(IMPORTING.into(), since.to_string());
    let uid = left.uid();
    stage.stand.objects().insert("alone".into(), left.clone());
    stage.world.directory.put(Arc::new(left));
    assert_eq!(stage.world.call_as("user", "POST", IMPORT, &request).await.refused(), (403, 400));
    stage.post(IMPORT, &request).await.ok();
    assert_eq!(stage.stand.objects()["alone"].uid(), uid, "the same object");
    let there = stage.there("alone").await;
    assert_eq!((stage.stand.objects().len(), there), (1, 1));
    // A name that a key on the token has, of which nothing is in the cluster.
    let theirs = json!({"label": "theirs", "algorithm": "ED", "attributes": {"sign": true}});
    stage.post("/v1/key", &theirs).await.ok();
    stage.stand.objects().remove("theirs");
    stage.world.directory.remove(NAMESPACE, "theirs");
    assert_eq!(stage.post(IMPORT, &body("theirs", "EC", "publicKey", &public)).await.refused(), (400, 608));
    let label = KeyLabel::new("theirs").unwrap();
    let found = stage.hsm.call(Request::Find(Find::Label(label))).await;
    assert!(matches!(&found, Ok(Reply::Keys(keys)) if keys.len() == 1), "{found:?}");
}

on_both_tokens! {
    a_public_key_alone_verifies_and_signs_nothing,
    a_public_key_alone_encrypts_and_wraps,
    a_certificate_alone_is_a_public_key_with_a_certificate,
    what_was_cut_off_is_completed_by_the_same_request,
}
