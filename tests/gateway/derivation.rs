//! Derived keys over REST, before a token that has a vendor's mechanisms, with the public vectors of BIP-32 and SLIP-10.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::partition::AttestationMode,
    gateway::partitions::Known,
    hsm::{
        Hsm, Supervisor,
        fake::Fake,
        protocol::{Reply, Request},
    },
    model::SignatureAlgorithm,
    public_key::PublicKey,
    service::attest::Attestor,
};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    audit::audited,
    cluster::Cluster,
    common::{token::Token, vendor},
    lifecycle::{Fate, Stand, world_before},
    world::{World, office},
};

/// `m/0'/1` of test vector 1 for secp256k1: chain code and public key.
const CHAIN: &str = "2A7857631386BA23DACAC34180DD1983734E444FDBF774041578E9B6ADB37C19";
const PUBLIC: &str = "03501e454bf00751f24b1b489aa925215d66af2234e3891c3b21a52bedb3cd711c";
/// The master's.
const MASTER_CHAIN: &str = "873DFF81C02F525623FD1FE5167EAC3A55A049DE3D314BB42EE227FFED37D508";

/// A gateway before such a token, and masters on it.
struct Stage {
    world: World,
    stand: Arc<Stand>,
    hsm: Arc<Supervisor>,
    _token: Token,
}

impl Stage {
    async fn new() -> Self {
        let token = vendor::token();
        let hsm = token.supervisor().await;
        let (world, stand) = world_before(hsm.clone(), Arc::new(Fake::default()), Fate::Ready, &[]).await;
        let stage = Self { world, stand, hsm, _token: token };
        for (label, spec) in [
            ("master", json!({"algorithm": "EC", "curveOid": "1.3.132.0.10"})),
            ("ed", json!({"algorithm": "ED", "curveOid": "1.3.101.112"})),
        ] {
            stage.make(label, spec, json!({"sign": true, "derive": true, "slip10": true})).await;
        }
        stage
    }

    /// With an attestation key on the token.
    async fn attesting() -> Self {
        let stage = Self::new().await;
        let mut partition = office().await.partition.clone();
        partition.spec.attestation.mode = AttestationMode::Software;
        let attestation =
            Attestor::default().ensure(stage.hsm.as_ref(), &partition, Timestamp::now()).await.unwrap();
        partition.status.as_mut().unwrap().attestation = Some(attestation.current);
        let behind: Arc<dyn Hsm> = stage.hsm.clone();
        stage.world.partitions.put(Known { object: Arc::new(partition), hsm: Some(behind) });
        stage
    }

    async fn make(&self, label: &str, mut body: Value, attributes: Value) -> Value {
        (body["label"], body["attributes"]) = (json!(label), attributes);
        self.world.call("POST", "/v1/key", &body).await.ok()
    }

    async fn post(&self, path: &str, body: Value) -> crate::world::Answer {
        self.world.call("POST", path, &body).await
    }

    async fn derive(&self, path: &str) -> crate::world::Answer {
        let attributes = json!({"sign": true, "destroyable": true, "slip10": true});
        let body = json!({"masterKeyLabel": "master", "derivationPath": path, "attributes": attributes});
        self.post("/v1/derivedKey", body).await
    }
}

fn sign(key: &str, algorithm: &str) -> Value {
    json!({"signRequest": {"payload": "YQ==", "signKeyName": key, "signatureAlgorithm": algorithm}})
}

fn verify(key: &str, algorithm: &str, signature: &Value) -> Value {
    json!({"verifySignatureRequest": {"payload": "YQ==", "signKeyName": key,
        "signatureAlgorithm": algorithm, "signature": signature}})
}

fn compressed(public: &Value) -> String {
    let spki = STANDARD.decode(public.as_str().unwrap()).unwrap();
    let xy = &spki[spki.len() - 64..];
    format!("{:02x}{}", 2 + (xy[63] & 1), hex::encode(&xy[..32]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_derived_for_a_moment_to_sign_and_verify() {
    let stage = Stage::new().await;
    stage.world.rules.asked();
    for (name, algorithm) in
        [("master/0'/1", "SHA256_WITH_ECDSA"), ("master/0'/1", "KECCAK256_WITH_ECDSA"), ("ed/0'/1'", "EDDSA")]
    {
        let signature =
            stage.post("/v1/synchronousSign", sign(name, algorithm)).await.ok()["signature"].clone();
        let valid = stage.post("/v1/verify", verify(name, algorithm, &signature)).await.ok();
        assert_eq!(valid, json!({"signatureValid": true}), "{name}");
        // Its sisters and its master are other keys.
        let master = name.split('/').next().unwrap();
        for other in [master.to_owned(), format!("{master}/0'/2'")] {
            let valid = stage.post("/v1/verify", verify(&other, algorithm, &signature)).await.ok();
            assert_eq!(valid, json!({"signatureValid": false}), "{other}");
        }
    }
    // It is the permission on the master that counts.
    let asked = stage.world.rules.asked();
    assert!(
        asked.iter().all(|line| line == "use hsmkeys shop/master" || line == "use hsmkeys shop/ed"),
        "{asked:?}"
    );
    let ethereum = json!({"signRequest": {"payload": "YQ==", "signKeyName": "master/44'/60'/0'/0/0",
        "signatureAlgorithm": "KECCAK256_WITH_ECDSA", "signatureType": "ETH"}});
    let signature = stage.post("/v1/synchronousSign", ethereum).await.ok()["signature"].clone();
    assert_eq!(STANDARD.decode(signature.as_str().unwrap()).unwrap().len(), 65);
    for caller in ["nobody", "reader"] {
        let body = sign("master/0", "SHA256_WITH_ECDSA");
        let refused = stage.world.call_as(caller, "POST", "/v1/synchronousSign", &body).await;
        assert_eq!(refused.refused(), (403, 400), "{caller}");
    }
}

/// Signatures of BIP-340, by a mechanism whose number is the partition's to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schnorr_signature_is_made_where_the_token_lists_the_mechanism() {
    const ALGORITHM: &str = "NONE_WITH_EC_SCHNORR_BIP0340";
    let stage = Stage::new().await;
    let payload = STANDARD.encode([7; 32]);
    let body = |name: &str, payload: &str| json!({"signRequest": {"payload": payload, "signKeyName": name, "signatureAlgorithm": ALGORITHM}});
    for name in ["master", "master/86'/0'/0'/0/0"] {
        let signature =
            stage.post("/v1/synchronousSign", body(name, &payload)).await.ok()["signature"].clone();
        assert_eq!(STANDARD.decode(signature.as_str().unwrap()).unwrap().len(), 64);
        for (payload, valid) in [(payload.clone(), true), (STANDARD.encode([8; 32]), false)] {
            let mut asked = verify(name, ALGORITHM, &signature);
            asked["verifySignatureRequest"]["payload"] = json!(payload);
            assert_eq!(
                stage.post("/v1/verify", asked).await.ok(),
                json!({"signatureValid": valid}),
                "{name}"
            );
        }
    }
    // What would be signed without the tweak is not what was asked for.
    for (member, reason) in [
        ("auxiliaryRandomData", "the nonce is made by the token"),
        ("taprootTweakData", "a key is tweaked inside of its token or nowhere"),
        ("merkleRootData", "a key is tweaked inside of its token or nowhere"),
    ] {
        let with = |value: Value| {
            let mut asked = body("master", &payload);
            asked["signRequest"][member] = value;
            stage.post("/v1/synchronousSign", asked)
        };
        let refused = with(json!(payload)).await;
        assert_eq!(refused.refused(), (400, 611), "{member}");
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(&format!("{member} is not served: {reason}")), "{message}");
        assert_eq!(with(json!("YQ")).await.refused(), (400, 635), "{member}");
        for length in [31, 33] {
            let refused = with(json!(STANDARD.encode(vec![7; length]))).await;
            assert_eq!(refused.refused(), (400, 612), "{member}");
        }
        with(Value::Null).await.ok();
    }
    let mut both = body("master", &payload);
    both["signRequest"]["taprootTweakData"] = json!(payload);
    both["signRequest"]["merkleRootData"] = json!(payload);
    assert_eq!(stage.post("/v1/synchronousSign", both.clone()).await.refused(), (400, 600));
    // Of other algorithms they are no members, which says nothing.
    both["signRequest"]["signatureAlgorithm"] = json!("SHA256_WITH_ECDSA");
    stage.post("/v1/synchronousSign", both).await.ok();
    let short = stage.post("/v1/synchronousSign", body("master", "YQ==")).await;
    assert_eq!(short.refused(), (400, 612));
    stage
        .make("p256", json!({"algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7"}), json!({"sign": true}))
        .await;
    assert_eq!(stage.post("/v1/synchronousSign", body("p256", &payload)).await.refused(), (400, 607));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attributes_of_a_derived_key_are_its_masters_and_its_own_public_key() {
    let stage = Stage::attesting().await;
    let master = stage.post("/v1/key/attributes", json!({"label": "master"})).await.ok();
    let derived = |kind: &str, value: &str| json!({"derivationType": kind, "derivationValue": value});
    assert_eq!(master["json"]["derivedAttributes"], derived("SLIP-10", MASTER_CHAIN));
    let answer = stage.post("/v1/key/attributes", json!({"label": "master/0'/1"})).await.ok();
    let (key, xml) = (&answer["json"], answer["xml"].as_str().unwrap());
    assert_eq!(key["label"], "master/0'/1");
    assert_eq!(key["derivedAttributes"], derived("SLIP-10", CHAIN));
    assert_eq!(compressed(&key["publicKey"]), PUBLIC);
    assert_eq!(key["attributes"], master["json"]["attributes"]);
    assert_eq!((&key["algorithm"], &key["curveOid"]), (&json!("EC"), &json!("1.3.132.0.10")));
    for part in [
        "\t<label>master/0&apos;/1</label>\n".to_owned(),
        format!("\t<public_key>{}</public_key>\n", key["publicKey"].as_str().unwrap()),
        format!("\t<derivation_value type=\"SLIP-10\">{CHAIN}</derivation_value>\n"),
    ] {
        assert!(xml.contains(&part), "{part} is missing in\n{xml}");
    }
    // Signed by the partition's attestation key.
    let chain = stage.world.partitions.attestation_chain("main").unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    let public = PublicKey::from_spki(leaf.public_key().raw).unwrap();
    let signature = STANDARD.decode(answer["xmlSignature"].as_str().unwrap()).unwrap();
    assert_eq!(public.verify(SignatureAlgorithm::Sha256WithRsa, xml.as_bytes(), &signature), Ok(true));
    assert_eq!(answer["attestationKeyName"], master["attestationKeyName"]);
    // The deprecated form is the same.
    let old = stage.world.call("GET", "/v1/key/master/0'/1/attributes", &Value::Null).await.ok();
    assert_eq!(old["json"]["publicKey"], key["publicKey"]);
    // To show what is derived for it uses the master. Addresses are of keys with a policy.
    let (records, _) = audited(async {
        for name in ["master", "master/0'/1"] {
            let address = stage.post("/v1/key/address", json!({"label": name})).await;
            assert_eq!(address.refused(), (400, 630), "{name}");
        }
        for name in ["master", "master/1"] {
            stage.post("/v1/key/attributes", json!({"label": name})).await.ok();
        }
    })
    .await;
    assert_eq!(records, ["app derive master/0'/1 allowed", "app derive master/1 allowed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_derived_key_is_kept_and_used_like_others() {
    let stage = Stage::new().await;
    stage.world.rules.asked();
    let made = stage.derive("0'/1").await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    assert_eq!(made["json"]["label"], "master/0'/1");
    assert_eq!(compressed(&made["json"]["publicKey"]), PUBLIC);
    assert_eq!(made["json"]["derivedAttributes"]["derivationValue"], CHAIN);
    assert_eq!(made["json"]["attributes"]["derive"], false);
    assert_eq!(stage.world.rules.asked(), ["create hsmkeys shop/", "use hsmkeys shop/master"]);
    let name = {
        let objects = stage.stand.objects();
        let key = objects.values().find(|key| key.spec.derived_from.is_some()).unwrap();
        let from = serde_json::to_value(&key.spec.derived_from).unwrap();
        assert_eq!(from, json!({"key": "master", "path": "0'/1"}));
        assert_eq!(key.spec.label.as_deref(), Some("master/0'/1"));
        key.name_any()
    };
    let labels = stage.world.call("GET", "/v1/key", &Value::Null).await.ok();
    assert_eq!(labels, json!(["ed", "master", "master/0'/1"]));
    // Used under its name it is the kept one, with permissions of its own.
    stage.world.rules.asked();
    let signature = stage.post("/v1/synchronousSign", sign("master/0'/1", "SHA256_WITH_ECDSA")).await.ok();
    assert_eq!(stage.world.rules.asked(), [format!("use hsmkeys shop/{name}")]);
    let valid = verify("master/0'/1", "SHA256_WITH_ECDSA", &signature["signature"]);
    assert_eq!(stage.post("/v1/verify", valid).await.ok(), json!({"signatureValid": true}));
    // A second time, also in another spelling, it is there already.
    for path in ["0'/1", "00'/01"] {
        assert_eq!(stage.derive(path).await.refused(), (400, 608), "{path}");
    }
    let deleted = stage.post("/v1/key/deleteKey", json!({"label": "master/0'/1"})).await;
    assert_eq!(deleted.status, 200, "{:?}", deleted.body);
    assert_eq!(stage.world.call("GET", "/v1/key", &Value::Null).await.ok(), json!(["ed", "master"]));
    assert_eq!(stage.post("/v1/key/deleteKey", json!({"label": "master/0'/1"})).await.refused(), (404, 650));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_derived_is_refused_and_nothing_is_made() {
    let stage = Stage::new().await;
    let ec = || json!({"algorithm": "EC", "curveOid": "1.2.840.10045.3.1.7"});
    stage.make("plain", ec(), json!({"sign": true, "derive": true})).await;
    stage.make("rsa", json!({"algorithm": "RSA", "keySize": 2048}), json!({"sign": true})).await;
    let before = stage.stand.changes();
    for (master, path, expected) in [
        ("master", "2147483648", (400, 610)),
        ("master", "2147483648'", (400, 610)),
        ("master", "", (400, 610)),
        ("master", "/1", (400, 610)),
        ("master", "1/", (400, 610)),
        ("master", "-1", (400, 610)),
        ("master", "1h", (400, 610)),
        ("master", "m/1", (400, 610)),
        ("master", &"0/".repeat(300), (400, 610)),
        ("ed", "0'/1", (400, 610)),
        ("master/0'", "x", (400, 610)),
        ("nobody", "1", (404, 650)),
        ("plain", "1", (400, 634)),
        ("rsa", "1", (400, 634)),
    ] {
        let body = json!({"masterKeyLabel": master, "derivationPath": path});
        assert_eq!(stage.post("/v1/derivedKey", body).await.refused(), expected, "{master} {path}");
        let signed =
            stage.post("/v1/synchronousSign", sign(&format!("{master}/{path}"), "SHA256_WITH_ECDSA")).await;
        assert_eq!(signed.refused(), expected, "{master}/{path}");
        let attributes = stage.post("/v1/key/attributes", json!({"label": format!("{master}/{path}")})).await;
        assert_eq!(attributes.refused(), expected, "{master}/{path}");
    }
    // The whole way from the master is the path.
    let body = json!({"masterKeyLabel": "master/0'", "derivationPath": "1"});
    assert_eq!(stage.post("/v1/derivedKey", body).await.refused(), (400, 610));
    for attributes in [json!({"extractable": true}), json!({"sign": true, "extractable": true})] {
        let body = json!({"masterKeyLabel": "master", "derivationPath": "1", "attributes": attributes});
        assert_eq!(stage.post("/v1/derivedKey", body).await.refused(), (400, 606));
    }
    // What is derived for a moment does nothing else, and least of all what its master could do.
    let decrypt = json!({"decryptRequest": {"encryptedPayload": "YQ==", "decryptKeyName": "master/1",
        "cipherAlgorithm": "RSA"}});
    let hmac = json!({"hmacRequest": {"keyName": "master/1", "payload": "YQ=="}});
    let csr = json!({"signKeyName": "master/1", "signatureAlgorithm": "SHA256_WITH_ECDSA",
        "standardCertificateAttributes": {"commonName": "a"}, "validity": 1});
    let export = json!({"label": "master/1"});
    for (path, body) in [
        ("/v1/synchronousDecrypt", decrypt),
        ("/v1/synchronousHmac", hmac),
        ("/v1/certificate/synchronous/request", csr),
        ("/v1/key/export/plain", export),
    ] {
        assert_eq!(stage.post(path, body).await.refused(), (400, 611), "{path}");
    }
    let cannot = [
        (json!({"algorithm": "RSA", "keySize": 2048}), json!({"derive": true, "slip10": true}), 634),
        (ec(), json!({"slip10": true}), 606),
        (ec(), json!({"derive": false, "bip32": true}), 606),
        (json!({"algorithm": "ED", "curveOid": "1.3.101.112"}), json!({"derive": true, "bip32": true}), 611),
    ];
    for (mut body, attributes, code) in cannot {
        (body["label"], body["attributes"]) = (json!("new"), attributes);
        assert_eq!(stage.post("/v1/key", body.clone()).await.refused(), (400, code), "{body}");
    }
    assert_eq!(stage.stand.changes(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_stays_is_derived_from_a_master_whose_password_is_given() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let (world, cluster) = Cluster::before(hsm.clone(), Arc::new(Fake::default()), &[]).await;
    let attributes = json!({"sign": true, "derive": true, "slip10": true});
    let master = json!({"label": "master", "algorithm": "EC", "curveOid": "1.3.132.0.10", "attributes": attributes,
        "password": "a secret"});
    world.call("POST", "/v1/key", &master).await.ok();
    let before = (cluster.objects(), keys_on(&hsm).await);
    let body = |password: &Value| {
        json!({"masterKeyLabel": "master", "masterKeyPassword": password, "derivationPath": "0'/1",
            "attributes": {"sign": true, "destroyable": true}})
    };
    for password in [Value::Null, json!(""), json!("another"), json!(["a"])] {
        let refused = world.call("POST", "/v1/derivedKey", &body(&password)).await.refused();
        assert_eq!(refused, (400, 620), "{password}");
    }
    assert_eq!((cluster.objects(), keys_on(&hsm).await), before, "nothing was made");
    let right = json!("a secret");
    let made = world.call("POST", "/v1/derivedKey", &body(&right)).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let made = made.ok();
    assert_eq!(
        (&made["json"]["label"], &made["json"]["attributes"]["derive"]),
        (&json!("master/0'/1"), &json!(false))
    );
    assert_eq!(compressed(&made["json"]["publicKey"]), PUBLIC);
    assert_eq!(keys_on(&hsm).await, before.1 + 1);
    // It is a key of its own, without a password.
    let signature =
        world.call("POST", "/v1/synchronousSign", &sign("master/0'/1", "SHA256_WITH_ECDSA")).await.ok();
    let valid = verify("master/0'/1", "SHA256_WITH_ECDSA", &signature["signature"]);
    assert_eq!(world.call("POST", "/v1/verify", &valid).await.ok(), json!({"signatureValid": true}));
    // Once, and its master is as well kept as before.
    assert_eq!(world.call("POST", "/v1/derivedKey", &body(&right)).await.refused(), (400, 608));
    let unlocked = world.call("POST", "/v1/synchronousSign", &sign("master/0'/2", "SHA256_WITH_ECDSA")).await;
    assert_eq!(unlocked.refused(), (400, 620));
    let gone = world.call("POST", "/v1/key/deleteKey", &json!({"label": "master/0'/1"})).await;
    assert_eq!(gone.status, 200, "{:?}", gone.body);
    assert_eq!((cluster.objects(), keys_on(&hsm).await), before);
}

/// How many keys that sign a token has.
async fn keys_on(hsm: &Supervisor) -> usize {
    match hsm.call(Request::Inventory).await {
        Ok(Reply::Inventory(entries)) => entries.iter().filter(|entry| entry.is_key()).count(),
        other => panic!("{other:?}"),
    }
}
