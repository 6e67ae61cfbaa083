//! `POST /v1/importedKey` before a token that has a vendor's mechanisms, with the public vectors of BIP-32 and SLIP-10.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::IMPORTING,
    hsm::{
        Hsm, Supervisor,
        fake::Fake,
        import::{Import, Origin},
        protocol::{KeyTemplate, Reply, Request},
    },
    model::{KeyId, KeyLabel},
};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    common::{
        token::{Module, Token},
        vendor,
    },
    lifecycle::{Fate, Stand, world_before},
    world::{NAMESPACE, World, object},
};

const PATH: &str = "/v1/importedKey";
/// Of the second test vector of BIP-32 and SLIP-10, 64 bytes.
const SEED_2: &str = "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a29f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542";

struct Stage {
    world: World,
    stand: Arc<Stand>,
    hsm: Arc<Supervisor>,
    _token: Token,
}

impl Stage {
    async fn before(token: Token) -> Self {
        let hsm = token.supervisor().await;
        let (world, stand) = world_before(hsm.clone(), Arc::new(Fake::default()), Fate::Ready, &[]).await;
        Self { world, stand, hsm, _token: token }
    }

    async fn objects(&self) -> usize {
        match self.hsm.call(Request::Inventory).await {
            Ok(Reply::Inventory(entries)) => entries.len(),
            other => panic!("{other:?}"),
        }
    }
}

/// As a published client sends it.
fn body(label: &str, seed: &str, curve: &str) -> Value {
    json!({"label": label, "algorithm": "EC", "curveOid": curve, "seed": STANDARD.encode(hex::decode(seed).unwrap()),
        "attributes": {"encrypt": false, "decrypt": false, "verify": true, "sign": true, "wrap": false, "unwrap": false,
            "derive": true, "bip32": false, "slip10": true, "extractable": false, "modifiable": true,
            "destroyable": true, "sensitive": true, "copyable": false}})
}

fn compressed(answer: &Value) -> String {
    let spki = STANDARD.decode(answer["json"]["publicKey"].as_str().unwrap()).unwrap();
    if spki.len() == 44 {
        return format!("00{}", hex::encode(&spki[12..]));
    }
    let xy = &spki[spki.len() - 64..];
    format!("{:02x}{}", 2 + (xy[63] & 1), hex::encode(&xy[..32]))
}

fn chain(answer: &Value) -> String {
    assert_eq!(answer["json"]["derivedAttributes"]["derivationType"], "SLIP-10");
    answer["json"]["derivedAttributes"]["derivationValue"].as_str().unwrap().to_lowercase()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_becomes_a_master_whose_children_are_those_of_the_vectors() {
    let stage = Stage::before(vendor::token()).await;
    let rows = [
        (
            "k1",
            "1.3.132.0.10",
            "60499f801b896d83179a4374aeb7822aaeaceaa0db1f85ee3e904c4defbd9689",
            "03cbcaa9c98c877a26977d00825c956a238e8dddfbd322cce4f74b0b5bd6ace4a7",
            "0",
            "f0909affaa7ee7abe5dd4e100598d4dc53cd709d5a5c2cac40e7412f232f7c9c",
            "02fc9e5af0ac8d9b3cecfe2a888e2117ba3d089d8585886c9c826b6b22a98d12ea",
        ),
        (
            "p256",
            "1.2.840.10045.3.1.7",
            "96cd4465a9644e31528eda3592aa35eb39a9527769ce1855beafc1b81055e75d",
            "02c9e16154474b3ed5b38218bb0463e008f89ee03e62d22fdcc8014beab25b48fa",
            "0",
            "84e9c258bb8557a40e0d041115b376dd55eda99c0042ce29e81ebe4efed9b86a",
            "039b6df4bece7b6c81e2adfeea4bcf5c8c8a6e40ea7ffa3cf6e8494c61a1fc82cc",
        ),
        (
            "ed",
            "1.3.101.112",
            "ef70a74db9c3a5af931b5fe73ed8e1a53464133654fd55e7a66f8570b8e33c3b",
            "008fe9693f8fa62a4305a140b9764c5ee01e455963744fe18204b4fb948249308a",
            "0'",
            "0b78a3226f915c082bf118f83618a618ab6dec793752624cbeb622acb562862d",
            "0086fab68dcb57aa196c77c5f264f215a112c22a912c10d123b0d03c3c28ef1037",
        ),
    ];
    for (label, curve, master_chain, master, path, child_chain, child) in rows {
        stage.world.rules.asked();
        let answer = stage.world.call("POST", PATH, &body(label, SEED_2, curve)).await;
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        let made = answer.ok();
        assert_eq!(stage.world.rules.asked(), ["create hsmkeys shop/"]);
        assert_eq!((compressed(&made), chain(&made)), (master.into(), master_chain.into()), "{label}");
        assert!(made["xml"].as_str().unwrap().contains("creation=\"imported\""));
        let spec = serde_json::to_value(&stage.stand.objects()[label].spec).unwrap();
        assert_eq!((&spec["source"], &spec["attributes"]["slip10"]), (&json!("Imported"), &json!(true)));
        assert!(!spec.to_string().contains(&STANDARD.encode(hex::decode(SEED_2).unwrap())[..16]));
        let derive = json!({"masterKeyLabel": label, "derivationPath": path, "attributes": {"sign": true}});
        let kept = stage.world.call("POST", "/v1/derivedKey", &derive).await.ok();
        assert_eq!((compressed(&kept), chain(&kept)), (child.into(), child_chain.into()), "{label}/{path}");
        let name = format!("{label}/{path}");
        let told = stage.world.call("POST", "/v1/key/attributes", &json!({"label": name})).await.ok();
        assert_eq!(compressed(&told), child);
        // The name is taken now, also for the same seed.
        let again = stage.world.call("POST", PATH, &body(label, SEED_2, curve)).await;
        assert_eq!(again.refused(), (400, 608));
    }
    assert_eq!(stage.objects().await, 2 * 2 * rows.len());
}

/// What belongs to a key with a policy, on a master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_from_a_seed_may_have_a_policy_and_an_address() {
    let stage = Stage::before(vendor::token()).await;
    let mut asked = body("master", vendor::SEED, "1.3.132.0.10");
    asked["policy"] = json!({"keyStatus": {"blocked": false}});
    asked["addressFormat"] = json!({"format": "BTC"});
    let made = stage.world.call("POST", PATH, &asked).await.ok();
    // The identifier of BIP-32's first vector.
    let address = made["json"]["addressTruncated"]["address"].as_str().unwrap();
    assert!(address.starts_with("3442193E"), "{address}");
    assert_eq!(made["json"]["policy"]["keyStatus"], json!({"blocked": false}));
}

/// Whoever made the object died, before or after the key got on the token: the same request completes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_off_is_completed_by_the_same_request() {
    let stage = Stage::before(vendor::token()).await;
    let request = body("master", SEED_2, "1.3.132.0.10");
    let first = stage.world.call("POST", PATH, &request).await.ok();
    let (spec, id) = {
        let objects = stage.stand.objects();
        let key = &objects["master"];
        let id = key.status.as_ref().unwrap().key_id.clone().unwrap();
        (serde_json::to_value(&key.spec).unwrap(), KeyId::try_from(id).unwrap())
    };
    let deleted = stage.world.call("POST", "/v1/key/deleteKey", &json!({"label": "master"})).await;
    assert_eq!(deleted.status, 200, "{:?}", deleted.body);
    // What the controller does.
    assert!(matches!(stage.hsm.call(Request::Destroy(id)).await, Ok(Reply::Done)));
    for there in [false, true] {
        let mut key = object(NAMESPACE, "master", spec.clone());
        key.metadata.resource_version = Some("7".into());
        let since = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(61);
        key.annotations_mut().insert(IMPORTING.into(), since.to_string());
        let uid = key.uid();
        let template = KeyTemplate {
            id: KeyId::for_object(uid.clone().unwrap().parse().unwrap(), NAMESPACE, "master"),
            label: KeyLabel::new("master").unwrap(),
            algorithm: key.spec.algorithm,
            key_size: None,
            curve_oid: key.spec.curve_oid.clone(),
            attributes: key.spec.attributes.resolved(),
        };
        if there {
            let origin = Origin::Seed(hex::decode(SEED_2).unwrap().into());
            let job = Import { template: template.clone(), public_key: None, origin };
            let brought = stage.hsm.call(Request::Import(Box::new(job))).await;
            assert!(matches!(brought, Ok(Reply::Key(_))), "{brought:?}");
        }
        let before = stage.objects().await;
        stage.stand.objects().insert("master".into(), key.clone());
        stage.world.directory.put(Arc::new(key));
        // Another seed is another key.
        if there {
            let other = body("master", vendor::SEED, "1.3.132.0.10");
            assert_eq!(stage.world.call("POST", PATH, &other).await.refused(), (400, 608));
            let mut key = stage.stand.objects()["master"].clone();
            key.annotations_mut().clear();
            stage.stand.objects().insert("master".into(), key.clone());
            stage.world.directory.put(Arc::new(key));
        }
        let answer = stage.world.call("POST", PATH, &request).await;
        assert_eq!(answer.status, 201, "{there}: {:?}", answer.body);
        assert_eq!(compressed(&answer.ok()), compressed(&first));
        assert_eq!(stage.stand.objects()["master"].uid(), uid, "the same object");
        let after = stage.objects().await;
        assert_eq!(after, if there { before } else { before + 2 }, "one key");
        assert!(matches!(stage.hsm.call(Request::Destroy(template.id)).await, Ok(Reply::Done)));
        stage.stand.objects().clear();
        stage.world.directory.remove(NAMESPACE, "master");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_leaves_no_object_anywhere() {
    let stage = Stage::before(vendor::token()).await;
    let good = body("new", SEED_2, "1.3.132.0.10");
    for caller in ["user", "nobody", "stranger"] {
        assert_eq!(stage.world.call_as(caller, "POST", PATH, &good).await.refused(), (403, 400), "{caller}");
    }
    assert_eq!(stage.stand.changes(), [""; 0]);
    // SLIP-10 has no tree on this curve.
    let p384 = stage.world.call("POST", PATH, &body("new", SEED_2, "1.3.132.0.34")).await;
    assert_eq!(p384.refused(), (400, 611));
    assert_eq!(stage.stand.changes(), ["create shop/new", "delete shop/new by uid"]);
    assert_eq!(stage.objects().await, 0);
}

async fn a_token_without_the_mechanisms_takes_no_seed(module: Module) {
    let stage = Stage::before(Token::new(module)).await;
    let answer = stage.world.call("POST", PATH, &body("new", SEED_2, "1.3.132.0.10")).await;
    assert_eq!(answer.refused(), (400, 611));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("does not list the vendor's mechanisms"), "{message}");
    assert_eq!((stage.stand.changes(), stage.objects().await), (vec![], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn softhsm_takes_no_seed() {
    a_token_without_the_mechanisms_takes_no_seed(Module::SoftHsm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kryoptic_takes_no_seed() {
    a_token_without_the_mechanisms_takes_no_seed(Module::Kryoptic).await;
}
