//! Keys that are brought to a token, leave it, and are wrapped, over REST.

use std::{process::Command, sync::Arc, time::Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::IMPORTING,
    hsm::{fake::Fault, protocol::Kind},
};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    common::{openssl, token::run},
    lifecycle::{Fate, Stand, world},
    world::{NAMESPACE, World, object},
};

/// A private key by openssl, as PKCS #8 in base64, and its public half.
fn made(arguments: &[&str]) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    run(Command::new("openssl").args(["genpkey", "-out"]).arg(&path).args(arguments));
    let written = |arguments: &[&str]| {
        let output = run(Command::new("openssl").args(arguments).args(["-outform", "DER", "-in"]).arg(&path));
        STANDARD.encode(output.stdout)
    };
    (written(&["pkcs8", "-topk8", "-nocrypt"]), written(&["pkey", "-pubout"]))
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

fn pair(label: &str, private: &str) -> Value {
    json!({"label": label, "algorithm": "EC", "privateKey": private,
        "attributes": {"sign": true, "destroyable": true, "extractable": true, "sensitive": false}})
}

fn secret(label: &str, value: &[u8]) -> Value {
    json!({"label": label, "algorithm": "AES", "secretKey": STANDARD.encode(value), "policy": null,
        "attributes": {"decrypt": true, "unwrap": true, "destroyable": true, "extractable": true, "sensitive": false}})
}

const IMPORT: &str = "/v1/key/import/plain";
const EXPORT: &str = "/v1/key/export/plain";

#[tokio::test]
async fn an_imported_key_signs_and_comes_back() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let (private, public) = made(P256);
    let answer = world.call("POST", IMPORT, &pair("mine", &private)).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    let created = answer.ok();
    assert_eq!(created["json"]["publicKey"], json!(public));
    assert_eq!(created["json"]["curveOid"], "1.2.840.10045.3.1.7");
    assert!(created["xml"].as_str().unwrap().contains("creation=\"imported\""));
    assert_eq!(created["json"]["attributes"]["neverExtractable"], false);
    assert_eq!(world.rules.asked(), ["create hsmkeys shop/"]);
    let importing = format!("patch shop/mine {IMPORTING} off");
    assert_eq!(stand.changes(), ["create shop/mine", importing.as_str()]);
    let spec = serde_json::to_value(&stand.objects()["mine"].spec).unwrap();
    assert_eq!((&spec["source"], &spec["deletionPolicy"]), (&json!("Imported"), &json!("Destroy")));
    assert_eq!(world.fake.count("generate"), 1, "the stand-in's controller asks for what is there");

    let sign = json!({"signRequest": {"payload": "YQ==", "signKeyName": "mine", "signatureAlgorithm": "SHA256_WITH_ECDSA"}});
    let signature = world.call("POST", "/v1/synchronousSign", &sign).await.ok();
    let signature = STANDARD.decode(signature["signature"].as_str().unwrap()).unwrap();
    let algorithm = "SHA256_WITH_ECDSA".parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    openssl::verify_native(directory.path(), &STANDARD.decode(&public).unwrap(), algorithm, b"a", &signature);

    world.rules.asked();
    let answer = world.call("POST", EXPORT, &json!({"label": "mine"})).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.ok(), json!({"privateKey": private, "publicKey": public, "secretKey": null}));
    assert_eq!(world.rules.asked(), ["export hsmkeys shop/mine"]);
    let deprecated = world.call("GET", "/v1/key/mine/export/plain", &Value::Null).await;
    assert_eq!(deprecated.headers["cache-control"], "no-store");
    assert_eq!(deprecated.ok()["privateKey"], json!(private));
    // The name is taken now.
    assert_eq!(world.call("POST", IMPORT, &pair("mine", &private)).await.refused(), (400, 608));
}

#[tokio::test]
async fn secret_keys_are_taken_as_bytes_and_their_size_is_found_out() {
    let (world, _) = world(Fate::Ready, &[]).await;
    for length in [16, 24, 32] {
        let label = format!("aes-{length}");
        let created = world.call("POST", IMPORT, &secret(&label, &vec![7; length])).await.ok();
        assert_eq!(created["json"]["keySize"], json!(8 * length));
        assert_eq!(created["json"]["publicKey"], Value::Null);
        let exported = world.call("POST", EXPORT, &json!({"label": label})).await.ok();
        let value = STANDARD.encode(vec![7; length]);
        assert_eq!(exported, json!({"privateKey": null, "publicKey": null, "secretKey": value}));
    }
    // A policy of a symmetric key is ignored, as at creation.
    let mut hmac = json!({"label": "hmac", "algorithm": "HMACSHA256", "secretKey": "AQID",
        "attributes": {"sign": true}, "policy": {"ruleUse": null}});
    let created = world.call("POST", IMPORT, &hmac).await.ok();
    assert_eq!(
        (&created["json"]["algorithm"], &created["json"]["keySize"]),
        (&json!("HMACSHA256"), &Value::Null)
    );
    hmac["label"] = json!("hmac 2");
    world.call("POST", IMPORT, &hmac).await.ok();
}

#[tokio::test]
async fn what_belongs_to_a_key_may_come_with_it_and_nothing_else() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let (private, public) = made(P256);
    let (_, other) = made(P256);
    let certificate = self_signed(&private);
    let with = |label: &str, member: &str, value: &str| {
        let mut body = pair(label, &private);
        body[member] = json!(value);
        body
    };
    let armoured = |word: &str, text: &str| format!("-----BEGIN {word}-----{text}-----END {word}-----");
    let mut body = with("one", "publicKey", &armoured("PUBLIC KEY", &public));
    body["privateKey"] = json!(armoured("PRIVATE KEY", &private));
    world.call("POST", IMPORT, &body).await.ok();
    world.call("POST", IMPORT, &with("two", "certificate", &certificate)).await.ok();
    let spec = serde_json::to_value(&stand.objects()["two"].spec).unwrap();
    assert!(
        spec["certificate"]["pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"),
        "{spec}"
    );
    let before = stand.changes().len();
    let refused = async |body: Value| world.call("POST", IMPORT, &body).await.refused();
    assert_eq!(refused(with("three", "publicKey", &other)).await, (400, 625));
    assert_eq!(refused(with("three", "certificate", &self_signed(&made(P256).0))).await, (400, 402));
    assert_eq!(refused(with("three", "certificate", "AAAA")).await, (400, 626));
    assert_eq!(stand.changes().len(), before);
}

fn self_signed(private: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.der");
    std::fs::write(&key, STANDARD.decode(private).unwrap()).unwrap();
    let made = run(Command::new("openssl")
        .args(["req", "-x509", "-keyform", "DER", "-outform", "DER", "-subj", "/CN=x", "-days", "2", "-key"])
        .arg(key));
    STANDARD.encode(made.stdout)
}

/// A policy by which somebody has to approve.
fn asks() -> Value {
    let approval = json!({"type": "certificate", "name": "a", "value": "AAAA"});
    let group = json!({"name": "g", "quorum": 1, "approvals": [approval]});
    let token = json!({"name": "t", "timelock": 0, "timeout": 0, "groups": [group]});
    json!({"ruleUse": {"tokens": [token]}, "keyStatus": {"blocked": false}})
}

#[tokio::test]
async fn what_is_no_key_is_refused_and_makes_nothing() {
    let (world, stand) = world(Fate::Ready, &["ed"]).await;
    let (p256, public) = made(P256);
    let (ed, _) = made(&["-algorithm", "ED25519"]);
    let (rsa, _) = made(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let (small, _) = made(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let (odd, _) =
        made(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2304", "-pkeyopt", "rsa_keygen_primes:3"]);
    let (unknown, _) = made(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime192v2"]);
    let (x25519, _) = made(&["-algorithm", "X25519"]);
    let explicit = made(&[
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-pkeyopt",
        "ec_param_enc:explicit",
    ])
    .0;
    // One bit of the scalar: its public half is beside it.
    let mut bent = STANDARD.decode(&p256).unwrap();
    bent[40] ^= 1;
    let mut rsa_bent = STANDARD.decode(&rsa).unwrap();
    let middle = rsa_bent.len() / 2;
    rsa_bent[middle] ^= 1;
    let longer = [STANDARD.decode(&p256).unwrap(), vec![0]].concat();
    let encode = |bytes: &[u8]| STANDARD.encode(bytes);
    let base = |change: Value| {
        let mut body = pair("new", &p256);
        for (member, value) in change.as_object().unwrap() {
            body[member] = value.clone();
        }
        body
    };
    let private = |value: &str| json!({"privateKey": value});
    for (change, refusal, words) in [
        (json!({"label": "a/b"}), (400, 610), "derivation"),
        (json!({"label": ""}), (400, 610), "empty"),
        (json!({"label": "ed"}), (400, 608), "in use"),
        (json!({"algorithm": "EZ"}), (400, 600), "Unsupported algorithm"),
        (json!({"algorithm": "RSA"}), (400, 607), "is of type EC, not RSA"),
        (json!({"policy": {}}), (400, 600), "policy.keyStatus"),
        (json!({"policy": asks()}), (400, 606), "extractable"),
        (json!({"policy": asks(), "attributes": {"sign": true}}), (400, 611), "approval"),
        (json!({"password": "x"}), (400, 611), "changePassword"),
        (json!({"addressFormat": {"format": "BTC"}}), (400, 630), "policy"),
        (json!({"attributes": null}), (400, 600), "attributes is missing"),
        (json!({"privateKey": null}), (400, 600), "privateKey or secretKey is missing"),
        (
            json!({"privateKey": null, "publicKey": public, "algorithm": "RSA"}),
            (400, 607),
            "of type EC, not RSA",
        ),
        (json!({"privateKey": null, "publicKey": "AAAA"}), (400, 625), "publicKey"),
        (json!({"privateKey": null, "publicKey": p256}), (400, 625), "publicKey"),
        (json!({"privateKey": null, "certificate": "AAAA"}), (400, 626), "certificate"),
        (json!({"privateKey": null, "certificate": "?"}), (400, 626), "base64"),
        (
            json!({"privateKey": null, "publicKey": public, "addressFormat": {"format": "BTC"}}),
            (400, 630),
            "policy",
        ),
        (
            json!({"privateKey": null, "publicKey": public, "attributes": {"derive": true, "slip10": true}}),
            (400, 611),
            "slip10",
        ),
        (json!({"privateKey": null, "publicKey": public, "policy": asks()}), (400, 611), "approval"),
        (json!({"secretKey": "AAAA"}), (400, 600), "exclude"),
        (json!({"publicKey": public, "certificate": "AAAA"}), (400, 600), "exclude"),
        (json!({"privateKey": null, "secretKey": "AAAA", "publicKey": public}), (400, 600), "excludes"),
        (json!({"privateKey": null, "secretKey": "AAAA"}), (400, 600), "not of this kind"),
        (
            json!({"privateKey": null, "secretKey": "AAAA", "algorithm": "AES"}),
            (400, 603),
            "16 or 24 or 32 bytes",
        ),
        (json!({"privateKey": null, "secretKey": "", "algorithm": "AES"}), (400, 625), "base64"),
        (json!({"privateKey": null, "secretKey": "AAAA", "algorithm": "TDEA"}), (400, 603), "24 bytes"),
        (private(""), (400, 625), "base64"),
        (private("AAAA"), (400, 625), "neither DER"),
        (private(&p256[..p256.len() - 1]), (400, 625), "base64"),
        (private(&(p256.clone() + "\n")), (400, 625), "base64"),
        (private(&encode(&longer)), (400, 625), "neither DER"),
        (private(&encode(&bent)), (400, 625), "not its own"),
        (private(&"A".repeat(20_000)), (400, 625), "characters"),
        (private(&public), (400, 625), "neither DER"),
        (private(&unknown), (400, 600), "Unsupported Curve: '1.2.840.10045.3.1.2'"),
        (private(&explicit), (400, 625), "parameters"),
        (private(&x25519), (400, 607), "1.3.101.110"),
        (private(&ed), (400, 607), "is of type ED, not EC"),
        (json!({"algorithm": "RSA", "privateKey": encode(&rsa_bent)}), (400, 625), "do not belong together"),
        (json!({"algorithm": "RSA", "privateKey": small}), (400, 603), "keySize 1024"),
        (json!({"algorithm": "RSA", "privateKey": odd}), (400, 625), "no private key of RSA"),
    ] {
        let answer = world.call("POST", IMPORT, &base(change.clone())).await;
        assert_eq!(answer.refused(), refusal, "{words}: {}", answer.json());
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{words}: {message}");
    }
    for (caller, refusal) in [("nobody", (403, 400)), ("user", (403, 400)), ("stranger", (403, 400))] {
        let answer = world.call_as(caller, "POST", IMPORT, &pair("new", &p256)).await;
        assert_eq!(answer.refused(), refusal, "{caller}");
    }
    assert_eq!(stand.changes(), [""; 0]);
    assert_eq!(world.fake.count("import"), 0);
}

/// The gateway was killed after it made the object: the same request completes it, once it is left alone.
#[tokio::test]
async fn an_import_that_was_cut_off_is_completed_by_the_same_request() {
    let (private, _) = made(P256);
    let body = pair("mine", &private);
    let spec = {
        let (world, stand) = world(Fate::Ready, &[]).await;
        world.call("POST", IMPORT, &body).await.ok();
        serde_json::to_value(&stand.objects()["mine"].spec).unwrap()
    };
    let left = |spec: &Value, since: Option<i64>| {
        let mut key = object(NAMESPACE, "mine", spec.clone());
        key.metadata.resource_version = Some("7".into());
        if let Some(seconds) = since {
            let since = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
            key.annotations_mut().insert(IMPORTING.into(), since.to_string());
        }
        key
    };
    let put = |stand: &Stand, world: &World, key: hsm_operator::api::HsmKey| {
        stand.objects().insert("mine".into(), key.clone());
        world.directory.put(Arc::new(key));
    };
    for since in [Some(61), None] {
        let (world, stand) = world(Fate::Ready, &[]).await;
        let key = left(&spec, since);
        let uid = key.uid();
        put(&stand, &world, key);
        assert_eq!(world.call_as("user", "POST", IMPORT, &body).await.refused(), (403, 400));
        world.call("POST", IMPORT, &body).await.ok();
        assert_eq!(stand.objects()["mine"].uid(), uid, "the same object");
        assert_eq!((stand.objects().len(), world.fake.count("import")), (1, 1));
        // Another gateway may have brought it, which some tokens tell only who looks for it.
        let calls = world.fake.calls();
        let import = calls.iter().position(|call| *call == "import").unwrap();
        assert_eq!(calls[..import].last(), Some(&"find"), "{calls:?}");
    }
    // Somebody may still be at it.
    let (world, stand) = crate::lifecycle::world(Fate::Ready, &[]).await;
    put(&stand, &world, left(&spec, Some(20)));
    let answer = world.call("POST", IMPORT, &body).await;
    assert_eq!((answer.refused(), &answer.headers["retry-after"]), ((503, 700), &"1".parse().unwrap()));
    // Another key, or other attributes of the same, are another key.
    let mut other = spec.clone();
    other["attributes"]["extractable"] = json!(false);
    put(&stand, &world, left(&other, Some(61)));
    assert_eq!(world.call("POST", IMPORT, &body).await.refused(), (400, 608));
    let mut generated = spec.clone();
    generated["source"] = json!("Generated");
    put(&stand, &world, left(&generated, None));
    assert_eq!(world.call("POST", IMPORT, &body).await.refused(), (400, 608));
    assert_eq!((stand.objects().len(), world.fake.count("import")), (1, 0), "nothing was brought or deleted");
}

#[tokio::test]
async fn many_at_once_bring_one_key() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let bodies: Vec<_> = (0..6).map(|_| pair("mine", &made(P256).0)).collect();
    let answers = futures::future::join_all(bodies.iter().map(|body| world.call("POST", IMPORT, body))).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(
        (statuses[0], statuses.iter().filter(|status| **status == 201).count()),
        (201, 1),
        "{statuses:?}"
    );
    assert!(statuses[1..].iter().all(|status| [400, 503].contains(status)), "{statuses:?}");
    assert_eq!(stand.objects().len(), 1);
    // It is the key of the one who was told so.
    let winner = answers.iter().position(|answer| answer.status == 201).unwrap();
    let exported = world.call("POST", EXPORT, &json!({"label": "mine"})).await.ok();
    assert_eq!(exported["privateKey"], bodies[winner]["privateKey"]);
}

#[tokio::test]
async fn a_key_that_does_not_get_on_the_token_leaves_no_object() {
    for (kind, refusal) in [
        (Kind::Unsupported, (400, 611)),
        (Kind::Full, (500, 701)),
        (Kind::Busy, (503, 700)),
        (Kind::Forbidden, (400, 614)),
    ] {
        let (world, stand) = world(Fate::Ready, &[]).await;
        world.fake.inject("import", Fault::refuse(kind));
        let answer = world.call("POST", IMPORT, &secret("new", &[7; 32])).await;
        assert_eq!(answer.refused(), refusal, "{kind:?}");
        assert_eq!(stand.changes(), ["create shop/new", "delete shop/new by uid"], "{kind:?}");
    }
    // Keys on the token that no object here claims.
    let (world, stand) = world(Fate::Ready, &[]).await;
    world.call("POST", IMPORT, &secret("new", &[7; 32])).await.ok();
    let taken = stand.objects().remove("new").unwrap();
    world.directory.remove(NAMESPACE, &taken.name_any());
    assert_eq!(world.call("POST", IMPORT, &secret("new", &[7; 32])).await.refused(), (400, 608));
    assert!(stand.changes().last().unwrap().starts_with("delete shop/new"), "{:?}", stand.changes());
}

/// The token-host crashed right after it brought the key: the controller finds it.
#[tokio::test]
async fn a_key_of_which_nobody_knows_whether_it_arrived_is_waited_for() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let lost = hsm_operator::hsm::protocol::HsmError::new(Kind::Crashed, "it crashed");
    world.fake.inject("import", Fault::Forget(lost));
    let begun = Instant::now();
    let body = secret("new", &[7; 32]);
    let call = world.call("POST", IMPORT, &body);
    let controller = async {
        while world.fake.count("import") == 0 {
            tokio::task::yield_now().await;
        }
        // Its next look.
        let mut found = stand.objects()["new"].clone();
        found.annotations_mut().clear();
        stand.look(found);
    };
    let (answer, ()) = tokio::join!(call, controller);
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    assert!(begun.elapsed().as_secs() < 20);
    assert_eq!(stand.changes(), ["create shop/new"]);
}

#[tokio::test]
async fn a_key_leaves_in_plain_only_if_token_and_permission_agree() {
    let (world, _) = world(Fate::Ready, &["aes", "p256", "ed-waiting"]).await;
    for label in ["aes", "p256"] {
        assert_eq!(world.call("POST", EXPORT, &json!({"label": label})).await.refused(), (400, 614));
    }
    assert_eq!(world.call("POST", EXPORT, &json!({"label": "none"})).await.refused(), (404, 650));
    assert_eq!(world.call("POST", EXPORT, &json!({"label": "ed-waiting"})).await.refused(), (503, 700));
    assert_eq!(world.fake.count("export"), 0);
    world.call("POST", IMPORT, &secret("mine", &[7; 32])).await.ok();
    let mine = json!({"label": "mine", "password": null});
    assert_eq!(world.call_as("user", "POST", EXPORT, &mine).await.refused(), (403, 400));
    assert_eq!(world.fake.count("export"), 0);
    world.fake.inject("export", Fault::refuse(Kind::Forbidden));
    assert_eq!(world.call("POST", EXPORT, &mine).await.refused(), (400, 614), "the token has the last word");
    world.fake.inject("export", Fault::Confuse);
    assert_eq!(world.call("POST", EXPORT, &mine).await.status, 500);
    world.call("POST", EXPORT, &mine).await.ok();
}

fn wrap(of: &str, by: &str, method: &str) -> Value {
    json!({"wrapKeyRequest": {"keyToBeWrapped": of, "keyToBeWrappedPassword": null, "wrapKeyName": by,
        "wrapKeyPassword": [], "wrapMethod": method}})
}

fn unwrap(data: &str, label: &str, by: &str, method: &str) -> Value {
    json!({"unwrapKeyRequest": {"wrappedKey": data, "label": label, "unwrapKeyName": by, "wrapMethod": method,
        "unwrapKeyPassword": null, "signedApprovals": [], "policy": null, "attributes": {
            "decrypt": true, "destroyable": true, "extractable": true, "sensitive": false}}})
}

const UNWRAP: &str = "/v1/synchronousUnwrap";

/// RFC 3394, 4.6, and the two examples of RFC 5649 but for the length of the key that wraps, of which the fake has none.
#[tokio::test]
async fn wrapping_is_that_of_the_standards_and_is_undone_under_another_name() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    let bytes = |hex: &str| hex::decode(hex).unwrap();
    let kek = bytes("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    let key = bytes("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f");
    world.call("POST", IMPORT, &secret("kek", &kek)).await.ok();
    world.call("POST", IMPORT, &secret("key", &key)).await.ok();
    world.rules.asked();
    let answer = world.call("POST", "/v1/wrap", &wrap("key", "kek", "AES_WRAP")).await;
    assert_eq!(answer.status, 200);
    let wrapped = answer.ok()["wrappedKey"].as_str().unwrap().to_owned();
    let expected = "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21";
    assert_eq!(wrapped, STANDARD.encode(bytes(expected)));
    assert_eq!(world.rules.asked(), ["use hsmkeys shop/kek", "export hsmkeys shop/key"]);
    for method in ["AES_WRAP", "AES_WRAP_PAD"] {
        let wrapped = world.call("POST", "/v1/wrap", &wrap("key", "kek", method)).await.ok();
        let wrapped = wrapped["wrappedKey"].as_str().unwrap();
        let label = format!("back-{}", method.len());
        world.rules.asked();
        let answer = world.call("POST", UNWRAP, &unwrap(wrapped, &label, "kek", method)).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        let created = answer.ok();
        assert_eq!(
            (&created["json"]["algorithm"], &created["json"]["keySize"]),
            (&json!("AES"), &json!(256))
        );
        assert_eq!(world.rules.asked(), ["use hsmkeys shop/kek", "create hsmkeys shop/"]);
        let spec = serde_json::to_value(&stand.objects()[&label].spec).unwrap();
        assert_eq!((&spec["source"], spec.get("keySize")), (&json!("Imported"), None));
        let back = world.call("POST", EXPORT, &json!({"label": label})).await.ok();
        assert_eq!(back["secretKey"], STANDARD.encode(&key));
    }
}

/// Of a pair that is unwrapped, the token tells nothing but what it signs.
#[tokio::test]
async fn the_public_half_of_an_unwrapped_key_is_worked_out_of_its_signatures() {
    let (world, stand) = world(Fate::Ready, &[]).await;
    world.call("POST", IMPORT, &secret("kek", &[1; 32])).await.ok();
    let (private, public) = made(P256);
    world.call("POST", IMPORT, &pair("pair", &private)).await.ok();
    let method = "AES_WRAP_PAD_EC";
    let wrapped = world.call("POST", "/v1/wrap", &wrap("pair", "kek", method)).await.ok();
    let body = unwrap(wrapped["wrappedKey"].as_str().unwrap(), "back", "kek", method);
    let answer = world.call("POST", UNWRAP, &body).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    let created = answer.ok();
    assert_eq!(
        (&created["json"]["publicKey"], &created["json"]["algorithm"]),
        (&json!(public), &json!("EC"))
    );
    assert_eq!(created["json"]["curveOid"], "1.2.840.10045.3.1.7");
    let spec = serde_json::to_value(&stand.objects()["back"].spec).unwrap();
    assert_eq!(spec.get("curveOid"), None, "it is known afterwards only");
    assert_eq!(world.fake.count("import"), 4, "once to see what it is");
}

#[tokio::test]
async fn what_cannot_be_wrapped_is_refused() {
    let (world, _) = world(Fate::Ready, &["aes", "p256", "rsa", "hmac"]).await;
    world.call("POST", IMPORT, &secret("kek", &[1; 32])).await.ok();
    world.call("POST", IMPORT, &secret("key", &[2; 32])).await.ok();
    for (body, refusal) in [
        (wrap("key", "none", "AES_WRAP"), (404, 650)),
        (wrap("none", "kek", "AES_WRAP"), (404, 650)),
        (wrap("key", "rsa", "AES_WRAP"), (400, 607)),
        (wrap("key", "kek", "RSA_WRAP_OAEP"), (400, 607)),
        (wrap("p256", "kek", "AES_WRAP"), (400, 607)),
        (wrap("key", "kek", "AES_WRAP_EC"), (400, 607)),
        (wrap("hmac", "kek", "AES_WRAP"), (400, 607)),
        (wrap("p256", "kek", "AES_WRAP_BLS"), (400, 607)),
        (wrap("aes", "kek", "AES_WRAP"), (400, 614)),
        (wrap("p256", "kek", "AES_WRAP_PAD_EC"), (400, 614)),
        (wrap("key", "kek", "ML-KEM-512"), (400, 600)),
        (wrap("key/1", "kek", "AES_WRAP"), (400, 634)),
    ] {
        let answer = world.call("POST", "/v1/wrap", &body).await;
        assert_eq!(answer.refused(), refusal, "{body}");
    }
    assert_eq!(world.fake.count("wrap"), 0);
    // `reader` may export and not use, `user` use and not export.
    for caller in ["reader", "user", "nobody"] {
        let answer = world.call_as(caller, "POST", "/v1/wrap", &wrap("key", "kek", "AES_WRAP")).await;
        assert_eq!(answer.refused(), (403, 400), "{caller}");
    }
    assert_eq!(world.fake.count("wrap"), 0);
    world.fake.inject("wrap", Fault::refuse(Kind::Unsupported));
    assert_eq!(world.call("POST", "/v1/wrap", &wrap("key", "kek", "AES_WRAP")).await.refused(), (400, 611));
}

#[tokio::test]
async fn what_cannot_be_unwrapped_is_refused_and_leaves_nothing() {
    let (world, stand) = world(Fate::Ready, &["aes", "p256", "rsa"]).await;
    world.call("POST", IMPORT, &secret("kek", &[1; 32])).await.ok();
    world.call("POST", IMPORT, &secret("key", &[2; 32])).await.ok();
    let wrapped = world.call("POST", "/v1/wrap", &wrap("key", "kek", "AES_WRAP")).await.ok();
    let wrapped = wrapped["wrappedKey"].as_str().unwrap().to_owned();
    let good = || unwrap(&wrapped, "new", "kek", "AES_WRAP");
    let with = |member: &str, value: Value| {
        let mut body = good();
        body["unwrapKeyRequest"][member] = value;
        body
    };
    let (before, brought) = (stand.changes().len(), world.fake.count("import"));
    for (body, refusal) in [
        (with("wrappedKey", json!("AAA")), (400, 635)),
        (with("wrappedKey", json!("")), (400, 612)),
        (with("label", json!("")), (400, 610)),
        (with("label", json!("a/b")), (400, 610)),
        // Known to published clients by this code, and by no other.
        (with("label", json!("key")), (500, 701)),
        (with("unwrapKeyName", json!("none")), (404, 650)),
        (with("unwrapKeyName", json!("rsa")), (400, 607)),
        (with("wrapMethod", json!("RSA_WRAP_PAD")), (400, 607)),
        (with("wrapMethod", json!("X")), (400, 600)),
        (with("attributes", Value::Null), (400, 600)),
        (with("signedApprovals", json!(["AAAA"])), (400, 611)),
        (with("policy", json!({})), (500, 701)),
    ] {
        let answer = world.call("POST", UNWRAP, &body).await;
        assert_eq!(answer.refused(), refusal, "{body}");
    }
    let mut pair = with("policy", asks());
    pair["unwrapKeyRequest"]["wrapMethod"] = json!("AES_WRAP_EC");
    pair["unwrapKeyRequest"]["attributes"] = json!({"sign": true});
    assert_eq!(world.call("POST", UNWRAP, &pair).await.refused(), (400, 611));
    for caller in ["reader", "user", "nobody"] {
        assert_eq!(world.call_as(caller, "POST", UNWRAP, &good()).await.refused(), (403, 400), "{caller}");
    }
    assert_eq!((stand.changes().len(), world.fake.count("import")), (before, brought));
    let mut bent = STANDARD.decode(&wrapped).unwrap();
    bent[3] ^= 1;
    let answer = world.call("POST", UNWRAP, &with("wrappedKey", json!(STANDARD.encode(bent)))).await;
    assert_eq!(answer.refused(), (500, 701));
    assert!(answer.json()["message"].as_str().unwrap().starts_with("Error unwrapping key"));
    assert_eq!(stand.changes()[before..], ["create shop/new", "delete shop/new by uid"]);
}
