//! Timestamps over REST, signed by real tokens and verified by openssl.

use std::process::{Command, Output};

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::api::{certificate::CertificateSpec, timestamp::TimestampSettings};
use serde_json::{Value, json};

use crate::{
    common::token::{Module, run},
    real::{Stage, on_both_tokens},
    world::{Answer, NAMESPACE},
};

const POLICY: &str = "1.3.6.1.4.1.99999.1.2";
const GOOD: &str = "extendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature\n";

on_both_tokens! {
    openssl_verifies_a_timestamp_of_each_key_and_hash,
}

fn openssl(stage: &Stage, arguments: &[&str]) -> Output {
    run(Command::new("openssl").current_dir(stage.token.path()).args(arguments))
}

/// Has an authority of openssl's certify a key of the token, and the partition take it for timestamps.
async fn set_up(stage: &Stage, name: &str, mut spec: Value, extensions: &str, days: &str) {
    spec["attributes"] = json!({"sign": true});
    let spki = stage.make(name, spec).await;
    let folder = stage.token.path();
    let write = |file: &str, content: &[u8]| std::fs::write(folder.join(file), content).unwrap();
    write("public.der", &spki);
    write("extensions", extensions.as_bytes());
    openssl(stage, &["pkey", "-pubin", "-inform", "DER", "-in", "public.der", "-out", "public.pem"]);
    let ca = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=Authority",
        "-days",
        "30",
    ];
    openssl(stage, &ca);
    let issue = [
        "x509",
        "-new",
        "-force_pubkey",
        "public.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-subj",
        "/CN=Stamper",
        "-extfile",
        "extensions",
        "-days",
        days,
        "-out",
        "stamper.pem",
    ];
    openssl(stage, &issue);
    let pem = std::fs::read_to_string(folder.join("stamper.pem")).unwrap();
    stage.change(name, |key| {
        key.spec.certificate = Some(CertificateSpec { pem: Some(pem), ..CertificateSpec::default() });
    });
    appoint(stage, name, POLICY);
}

fn appoint(stage: &Stage, name: &str, policy: &str) {
    let settings: TimestampSettings =
        serde_json::from_value(json!({"keyRef": {"namespace": NAMESPACE, "name": name}, "policy": policy}))
            .unwrap();
    stage.partition(|partition| partition.spec.timestamp = Some(settings));
}

async fn ask(stage: &Stage, caller: &str, payload: &[u8], hash: &str) -> Answer {
    let body = json!({"payload": STANDARD.encode(payload), "hashAlgorithm": hash});
    stage.world.call_as(caller, "POST", "/v1/createRfcTimestamp", &body).await
}

async fn openssl_verifies_a_timestamp_of_each_key_and_hash(stage: &Stage) {
    let folder = stage.token.path().to_owned();
    for (name, spec) in [
        ("rsa", json!({"algorithm": "RSA", "keySize": 2048})),
        ("p256", json!({"algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7"})),
        ("p384", json!({"algorithm": "EC", "curveOid": "1.3.132.0.34"})),
        ("p521", json!({"algorithm": "EC", "curveOid": "1.3.132.0.35"})),
    ] {
        set_up(stage, name, spec, GOOD, "20").await;
        std::fs::write(folder.join("payload"), b"Payload").unwrap();
        std::fs::write(folder.join("other"), b"payload").unwrap();
        let mut tokens = Vec::new();
        for hash in ["SHA256", "SHA-384", "SHA512"] {
            let answer = ask(stage, "app", b"Payload", hash).await.ok();
            assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
            let token = STANDARD.decode(answer["timestamp"].as_str().unwrap()).unwrap();
            std::fs::write(folder.join("token.der"), &token).unwrap();
            let verify = |data: &str| {
                let mut command = Command::new("openssl");
                command.current_dir(&folder).args(["ts", "-verify", "-token_in", "-in", "token.der"]);
                command.args(["-CAfile", "ca.pem", "-data", data]).output().unwrap()
            };
            let good = verify("payload");
            assert!(good.status.success(), "{name} {hash}: {good:?}");
            assert!(!verify("other").status.success(), "{name} {hash}");
            let text =
                openssl(stage, &["ts", "-reply", "-token_in", "-in", "token.der", "-token_out", "-text"]);
            let text = String::from_utf8(text.stdout).unwrap().to_lowercase();
            let hash = hash.replace('-', "").to_lowercase();
            for line in [
                "version: 1",
                &format!("policy oid: {POLICY}"),
                &format!("hash algorithm: {hash}"),
                "accuracy: 0x01 seconds",
                "ordering: no",
                "nonce: unspecified",
            ] {
                assert!(text.contains(line), "{line}: {text}");
            }
            tokens.push(token);
        }
        // Not the same serial number twice.
        assert_ne!(
            ask(stage, "app", b"Payload", "SHA256").await.ok()["timestamp"],
            STANDARD.encode(&tokens[0])
        );
        assert_eq!(
            stage.world.rules.asked().last().unwrap(),
            &format!("use hsmkeys {NAMESPACE}/{name}"),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_would_accept_is_not_made() {
    let stage = Stage::new(Module::SoftHsm).await;
    let spec = || json!({"algorithm": "EC", "curveOid": "1.3.132.0.34"});
    let refused = async |what: &str, refused: (u16, u64), said: &str| {
        let answer = ask(&stage, "app", b"Payload", "SHA256").await;
        assert_eq!(answer.refused(), refused, "{what}: {answer:?}");
        let message = answer.json()["message"].to_string();
        assert!(message.contains(said), "{what}: {message}");
    };
    refused("not set up", (400, 611), "has no spec.timestamp").await;
    appoint(&stage, "nobody", POLICY);
    refused("no key", (404, 650), "timestamp key shop/nobody of HsmPartition main does not exist").await;
    stage.make("bare", spec()).await;
    appoint(&stage, "bare", POLICY);
    refused("no certificate", (400, 402), "has no certificate").await;
    for (name, extensions) in [
        ("plain", "keyUsage=critical,digitalSignature\n"),
        ("mild", "extendedKeyUsage=timeStamping\n"),
        ("more", "extendedKeyUsage=critical,timeStamping,serverAuth\n"),
        ("server", "extendedKeyUsage=critical,serverAuth\n"),
    ] {
        set_up(&stage, name, spec(), extensions, "20").await;
        refused(name, (400, 402), "TIME_STAMPING").await;
    }
    let other = "extendedKeyUsage=critical,timeStamping\nkeyUsage=critical,keyAgreement\n";
    set_up(&stage, "agrees", spec(), other, "20").await;
    refused("usage", (400, 402), "does not allow signatures").await;
    set_up(&stage, "ed", json!({"algorithm": "ED", "curveOid": "1.3.101.112"}), GOOD, "20").await;
    refused("ed", (400, 402), "RSA and EC keys").await;
    set_up(&stage, "good", spec(), GOOD, "20").await;
    assert!(ask(&stage, "app", b"Payload", "SHA256").await.status.is_success());
    appoint(&stage, "good", "1.2.x");
    refused("policy", (400, 611), "not an object identifier").await;
    appoint(&stage, "good", POLICY);
    for denied in ["reader", "nobody"] {
        assert_eq!(ask(&stage, denied, b"Payload", "SHA256").await.refused(), (403, 400));
    }
}

#[tokio::test]
async fn a_request_that_is_not_as_it_should_be_is_refused() {
    let stage = Stage::new(Module::SoftHsm).await;
    set_up(&stage, "good", json!({"algorithm": "EC", "curveOid": "1.3.132.0.34"}), GOOD, "20").await;
    for (body, refused) in [
        (json!({"hashAlgorithm": "SHA256"}), (400, 600)),
        (json!({"payload": "UGF5bG9hZA=="}), (400, 600)),
        (json!({"payload": null, "hashAlgorithm": "SHA256"}), (400, 600)),
        (json!({"payload": 7, "hashAlgorithm": "SHA256"}), (400, 600)),
        (json!({"payload": "UGF5bG9hZA==", "hashAlgorithm": "SHA1"}), (400, 600)),
        (json!({"payload": "UGF5bG9hZA==", "hashAlgorithm": ""}), (400, 600)),
        (json!({"payload": "UGF5bG9hZA", "hashAlgorithm": "SHA256"}), (400, 635)),
        (json!({"payload": "UGF5\nbG9hZA==", "hashAlgorithm": "SHA256"}), (400, 635)),
        (json!({"payload": STANDARD.encode(vec![0; 65537]), "hashAlgorithm": "SHA256"}), (400, 612)),
    ] {
        let answer = stage.world.call("POST", "/v1/createRfcTimestamp", &body).await;
        assert_eq!(answer.refused(), refused, "{body}");
    }
    // What the contract does not have is passed over.
    let body = json!({"payload": "", "hashAlgorithm": "SHA512", "nonce": 7, "certReq": false});
    assert!(stage.world.call("POST", "/v1/createRfcTimestamp", &body).await.status.is_success());
}
