//! What no token of the cluster has: derivation along a path, keys with a state, and attestation by the HSM itself. Their
//! token is a SoftHSM of the test's own behind the module of `vendor_module`, which answers as a vendor's HSM would.

use std::fs::File;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::{HsmPartition, SigningRequest, condition, partition::AttestationStatus, signing_request::State},
    model::SignatureAlgorithm,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    caller::{ALL_VERBS, GATEWAYS, caller, default_partition, everywhere},
    common::{attestation, hss, openssl, vendor},
    host::{PRIVATE, PUBLIC, Place},
    http::Gateways,
    partitions::{make_partition, partitions, put_pin, reason},
    requests,
    tools::kubectl,
    world::{Token, World},
};

const PIN: &str = "12345678";
const SECP256K1: &str = "1.3.132.0.10";

/// Test vector 1 of BIP-32: public keys of `m/0'/1`, `m/0'/1/2'` and `m/0'/1/2'/2`.
const KEPT: &str = "03501e454bf00751f24b1b489aa925215d66af2234e3891c3b21a52bedb3cd711c";
const PASSING: &str = "0357bfe1e341d01c69fe5654309956cbea516822fba8a601743a012a7896ee8dc2";
const DECLARED: &str = "02e8445082a72f29b75ca48748a914df60622a609cacfce8ed0e35804560741d29";
/// Chain code of the last one.
const CHAIN: &str = "CFB71883F01676F587D023CC53A35BC7F88F724B1F8C2892AC1275AC822A3EDD";
/// What comes before a compressed point on secp256k1 in a SubjectPublicKeyInfo.
const HEAD: &str = "3036301006072a8648ce3d020106052b8104000a032200";

/// A namespace, and a partition of the same name.
struct Stage {
    name: String,
    place: Place,
}

impl Stage {
    /// The partition is Ready and attests in this way.
    async fn new(world: &World, prefix: &str, attestation: &str) -> Self {
        let name = world.namespace(prefix).await;
        let place = world.place(Token::SoftHsm, &name);
        place.initialise(&name, PIN);
        std::fs::copy(vendor::library(), place.path("module.so")).unwrap();
        put_pin(world, &name, PIN).await;
        let mut spec = place.partition(&name, &name);
        spec["pkcs11"]["library"] = json!(format!("/hsm/{name}/module.so"));
        let variables = [
            ("VENDOR_LIBRARY", place.library().to_owned()),
            ("VENDOR_STORE", format!("/hsm/{name}/store")),
            ("VENDOR_SEED", vendor::SEED.to_owned()),
        ];
        let variables = variables.map(|(name, value)| json!({"name": name, "value": value}));
        spec["pkcs11"]["environment"].as_array_mut().unwrap().extend(variables);
        spec["attestation"] = json!({"mode": attestation});
        spec["allowedNamespaces"] = json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
        make_partition(world, &name, spec).await;
        reason(world, &name, "Ready").await;
        Self { name, place }
    }

    async fn make_key(&self, world: &World, name: &str, mut spec: Value) {
        spec["partitionRef"] = json!({"name": self.name});
        // That of the object: the partition is the test's own.
        spec["label"] = Value::Null;
        world.make_key(&self.name, name, Token::SoftHsm, spec).await;
    }

    /// Has the operator let go of the token.
    fn end(&self) {
        kubectl(&["delete", "hsmkeys", "--all", "-n", &self.name]);
        kubectl(&["delete", "hsmpartition", &self.name]);
    }
}

/// Whose attestation key it is, by the partition's condition and status.
async fn attests(world: &World, partition: &str) -> AttestationStatus {
    let is = |partition: &HsmPartition| {
        let status = partition.status.as_ref();
        let found = status.and_then(|status| condition::find(&status.conditions, condition::ATTESTING));
        found.is_some_and(|one| (one.status.as_str(), one.reason.as_str()) == ("True", "Vendor"))
    };
    let partition = world.until(&partitions(world), partition, "attesting by its HSM", is).await;
    partition.status.unwrap().attestation.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hsm_itself_attests_keys_and_goes_on_when_the_leader_was_killed() {
    let _shared = GATEWAYS.read().await;
    let world = World::alone().await;
    let stage = Stage::new(&world, "attested", "Vendor").await;
    let app = caller(&stage.name, "app", ALL_VERBS);
    let by = attests(&world, &stage.name).await;
    assert_eq!((&*by.mode, &*by.key_name), ("Vendor", "attestation-key-device"));
    stage.make_key(&world, "before", json!({})).await;
    let before = openssl_accepts(&world, &app, &stage, "before", &by).await;

    let leader = world.kill_leader().await;
    world.leader_after(&leader).await;
    stage.make_key(&world, "after", json!({})).await;
    openssl_accepts(&world, &app, &stage, "after", &by).await;
    assert_eq!(attests(&world, &stage.name).await, by, "it attests with the key that it had");
    assert_eq!(openssl_accepts(&world, &app, &stage, "before", &by).await, before, "what was said stays");
    let all = stage.place.objects(&stage.name, PIN);
    let mut own: Vec<_> = all.iter().filter(|one| one.label == by.key_name).map(|one| &*one.class).collect();
    own.sort_unstable();
    assert_eq!(own, [PRIVATE, PUBLIC], "no second one was made");
    stage.end();
}

/// Has openssl check what is published of a key, by the steps of docs/attestation.md and by those in its zip; what is attested.
async fn openssl_accepts(
    world: &World,
    app: &Gateways,
    stage: &Stage,
    name: &str,
    by: &AttestationStatus,
) -> String {
    let key = world.ready(&stage.name, name).await.status.unwrap();
    let attested = key.attestation.unwrap();
    assert_eq!((&attested.mode, &attested.attestation_key_name), (&by.mode, &by.key_name));
    let folder = tempfile::tempdir().unwrap();
    let secret = world.api::<Secret>(&stage.name).get(&format!("{name}-public")).await.unwrap();
    for (file, content) in secret.data.unwrap() {
        std::fs::write(folder.path().join(file), content.0).unwrap();
    }
    let said = attestation::said(
        folder.path(),
        r#"awk '/BEGIN/{n++} {print > ("chain-" n ".pem")}' attestation-chain.pem
        openssl x509 -in chain-3.pem -noout -fingerprint -sha256
        openssl verify -CAfile chain-3.pem -untrusted attestation-chain.pem chain-1.pem
        openssl x509 -in chain-1.pem -noout -pubkey > attestation.pub
        openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest \
          -verify attestation.pub -signature attestation.sig attestation.xml
        sed -n 's|.*<public_key>\(.*\)</public_key>.*|\1|p' attestation.xml | openssl enc -d -base64 -A > attested.der
        openssl pkey -pubin -in publicKey.pem -outform DER | cmp - attested.der && echo same key"#,
    );
    for wanted in ["chain-1.pem: OK", "Verified OK", "same key", &by.root_fingerprint] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let xml = std::fs::read_to_string(folder.path().join("attestation.xml")).unwrap();
    assert!(!xml.contains("enforcement="), "{xml}");
    assert!(xml.contains(&format!("<label>{}</label>", key.label.unwrap())), "{xml}");

    let zip = app.post("/v1/key/keyAttestation", json!({"label": name})).await;
    assert_eq!(zip.status, 200, "{zip:?}");
    let (readme, _) = attestation::zip_checked(tempfile::tempdir().unwrap().path(), &zip.body);
    assert!(readme.contains("made by its HSM"), "{readme}");
    xml
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_tree_are_those_of_bip_32_whoever_asks_for_them() {
    let _shared = GATEWAYS.read().await;
    let world = World::new().await;
    // Other tests leave one.
    let _default = default_partition(None).await;
    let stage = Stage::new(&world, "tree", "Auto").await;
    let default = json!({"metadata": {"annotations": {"hsm-operator.io/default": "true"}}});
    partitions(&world).patch(&stage.name, &PatchParams::default(), &Patch::Merge(&default)).await.unwrap();
    let app = caller(&stage.name, "app", ALL_VERBS);
    let partition = format!("partition: {}, ", stage.name);
    everywhere(&app, "GET", "/v1/keystore/statistics", "", |answer| {
        String::from_utf8_lossy(&answer.body).contains(&partition)
    })
    .await;
    let attributes = json!({"sign": true, "derive": true, "slip10": true, "destroyable": true});
    let master = json!({"algorithm": "EC", "curveOid": SECP256K1, "attributes": attributes});
    let folder = tempfile::tempdir().unwrap();
    let verifies = |point: &str, message: &[u8], signature: &[u8]| {
        let spki = hex::decode(format!("{HEAD}{point}")).unwrap();
        let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
        openssl::verify_native(folder.path(), &spki, algorithm, message, signature);
    };

    // By REST: a key that stays, and one for a moment.
    let mut wallet = master.clone();
    (wallet["label"], wallet["policy"]) = (json!("wallet"), Value::Null);
    app.post("/v1/key", wallet).await.with_status(201);
    let derive = json!({"masterKeyLabel": "wallet", "derivationPath": "0'/1",
        "attributes": {"sign": true, "destroyable": true}});
    let kept = app.post("/v1/derivedKey", derive).await.with_status(201);
    assert_eq!(kept["json"]["label"], "wallet/0'/1");
    for (key, point) in [("wallet/0'/1", KEPT), ("wallet/0'/1/2'", PASSING)] {
        let request =
            json!({"payload": "UGF5bG9hZA==", "signKeyName": key, "signatureAlgorithm": "SHA256_WITH_ECDSA"});
        let signed = app.post("/v1/synchronousSign", json!({"signRequest": request})).await.with_status(200);
        let signature = STANDARD.decode(signed["signature"].as_str().unwrap()).unwrap();
        verifies(point, b"Payload", &signature);
    }

    // By manifests, the key before its master, of which the vector knows the same.
    let child = json!({"algorithm": "EC", "curveOid": SECP256K1, "label": "declared/0'/1/2'/2",
        "partitionRef": {"name": stage.name}, "derivedFrom": {"key": "declared", "path": "0'/1/2'/2"}});
    world.make_key(&stage.name, "child", Token::SoftHsm, child).await;
    world.key_with_reason(&stage.name, "child", "MasterNotReady").await;
    stage.make_key(&world, "declared", master).await;
    let status = world.ready(&stage.name, "child").await.status.unwrap();
    assert_eq!(status.derivation.map(|one| one.value).as_deref(), Some(CHAIN));
    let signature =
        requests::sign(&world, &stage.name, "request", json!({"keyRef": {"name": "child"}})).await;
    verifies(DECLARED, b"hello", &signature);

    let listed = app.get("/v1/key").await.with_status(200);
    assert_eq!(listed, json!(["declared", "declared/0'/1/2'/2", "wallet", "wallet/0'/1"]));
    stage.end();
}

/// How often the module was asked to sign, and how many parts of its keys are spent.
fn counted(stage: &Stage) -> (usize, usize) {
    let text = std::fs::read_to_string(stage.place.path("store.hss")).unwrap();
    let lines = |what: &str| text.lines().filter(|line| line.starts_with(what)).count();
    (lines("asked "), lines("spent "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_signature_is_lost_with_the_leader_has_no_second_one_made() {
    let world = World::alone().await;
    let stage = Stage::new(&world, "state", "Auto").await;
    stage.make_key(&world, "k", json!({"algorithm": "LMS", "curveOid": null})).await;
    let key = world.ready(&stage.name, "k").await.status.unwrap();
    // The module fails when it is asked to attest one, and attests others.
    assert_eq!(key.attestation.unwrap().mode, "Software");
    let spki = STANDARD.decode(key.public_key.unwrap()).unwrap();
    let lms = json!({"signatureAlgorithm": "LMS"});
    let first = requests::sign(&world, &stage.name, "first", lms.clone()).await;
    assert!(hss::accepts(&spki, b"hello", &first) && !hss::accepts(&spki, b"hallo", &first));
    assert_eq!(counted(&stage), (1, 1));

    // The module cannot sign as long as somebody else has its file.
    let held = File::open(stage.place.path("store.hss")).unwrap();
    held.lock().unwrap();
    requests::create(&stage.name, "lost", &lms, &[]).unwrap();
    let asking = |request: &SigningRequest| {
        let conditions = request.status.as_ref().map(|status| status.conditions.as_slice());
        let ready = conditions.and_then(|conditions| condition::find(conditions, condition::READY));
        ready.is_some_and(|ready| ready.reason == "Signing")
    };
    world.until(&world.api::<SigningRequest>(&stage.name), "lost", "being signed", asking).await;
    let leader = world.kill_leader().await;
    world.leader_after(&leader).await;
    let status = requests::finished(&world, &stage.name, "lost").await.status.unwrap();
    assert_eq!((status.state, &status.signature), (Some(State::Failed), &None));
    let said = &condition::find(&status.conditions, condition::STALLED).unwrap().message;
    for words in ["what it answered is lost", "make another request"] {
        assert!(said.contains(words), "{said}");
    }
    drop(held);

    // Nobody was waiting for the file, and the key goes on where it was.
    let next = requests::sign(&world, &stage.name, "next", lms).await;
    assert!(hss::accepts(&spki, b"hello", &next));
    assert_eq!(counted(&stage), (2, 2));
    // Behind the number of levels.
    assert_ne!(first[4..8], next[4..8], "no part of the key signs twice");
    stage.end();
}
