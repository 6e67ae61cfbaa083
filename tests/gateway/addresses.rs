//! Addresses of keys over REST: computed from the public key that the token reports, on any token.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{attestation, hsm::fake::Fake};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    common::{
        token::{Module, Token},
        vendor,
    },
    lifecycle::{Fate, world, world_before},
    world::{World, office},
};

const K1: &str = "1.3.132.0.10";
const ADDRESS: &str = "/v1/key/address";

/// PKCS #8 of a key on secp256k1.
fn private(scalar: &str) -> String {
    let head = "303e020100301006072a8648ce3d020106052b8104000a042730250201010420";
    STANDARD.encode(hex::decode([head, scalar].concat()).unwrap())
}

fn asks_nobody() -> Value {
    json!({"keyStatus": {"blocked": false}})
}

fn body(label: &str, algorithm: &str, curve: &str, format: &str) -> Value {
    json!({"label": label, "algorithm": algorithm, "curveOid": curve, "policy": asks_nobody(),
        "addressFormat": {"format": format}, "attributes": {"sign": true, "destroyable": true}})
}

/// Both forms of asking for an address, the attributes and the signed document say the same.
async fn is_told(world: &World, created: &Value, format: &str, expected: &str) {
    let label = created["json"]["label"].as_str().unwrap();
    let upper = expected.to_uppercase();
    assert_eq!(created["json"]["addressTruncated"], json!({"address": upper, "format": format}), "{label}");
    let line =
        format!("\t<address_truncated format=\"{format}\">{upper}</address_truncated>\n\t<attributes>\n");
    assert!(created["xml"].as_str().unwrap().contains(&line), "{}", created["xml"]);
    let again = world.call("POST", "/v1/key/attributes", &json!({"label": label})).await.ok();
    assert_eq!(&again, created);
    let told = json!({"address": STANDARD.encode(hex::decode(expected).unwrap())});
    assert_eq!(world.call("POST", ADDRESS, &json!({"label": label, "password": null})).await.ok(), told);
    assert_eq!(world.call("GET", &format!("/v1/key/{label}/address"), &Value::Null).await.ok(), told);
}

/// Keys whose addresses are public: the private key 1 (BIP-173), the sender of EIP-155 and the genesis account of the XRP
/// ledger, whose private key follows from the words `masterpassphrase`.
async fn addresses_of_keys_that_everybody_knows(module: Module) {
    let token = Token::new(module);
    let hsm = token.supervisor().await;
    let (world, stand) = world_before(hsm, Arc::new(Fake::default()), Fate::Ready, &[]).await;
    let one = "0000000000000000000000000000000000000000000000000000000000000001";
    let sender = "4646464646464646464646464646464646464646464646464646464646464646";
    let genesis = "1acaaedece405b2a958212629e16f2eb46b153eee94cdd350fdeff52795525b7";
    for (label, scalar, format, address) in [
        ("bitcoin", one, "BTC", "751e76e8199196d454941c45d1b3a323f1433bd6"),
        ("ethereum", sender, "ETH", "9d8a62f656a8d1615c1294fd71e9cfb3e4855a4f"),
        ("ripple", genesis, "XRP", "b5f762798a53d543a014caf8b297cff8f2f937e8"),
    ] {
        let mut body = body(label, "EC", "", format);
        body["privateKey"] = json!(private(scalar));
        let created = world.call("POST", "/v1/key/import/plain", &body).await;
        if module == Module::Kryoptic {
            // It does not have the curve.
            assert_eq!(created.refused(), (400, 611), "{label}");
            continue;
        }
        assert_eq!(created.status, 201, "{label}: {:?}", created.body);
        is_told(&world, &created.ok(), format, address).await;
        let spec = serde_json::to_value(&stand.objects()[label].spec).unwrap();
        assert_eq!(spec["addressFormat"], json!({"format": format}));
    }
    // A key that the token makes: as openssl computes it.
    for (label, algorithm, curve, format) in
        [("made", "EC", K1, "BTC"), ("made-xrp", "EC", K1, "XRP"), ("made-ed", "ED", "1.3.101.112", "XRP")]
    {
        if module == Module::Kryoptic && curve == K1 {
            continue;
        }
        let created = world.call("POST", "/v1/key", &body(label, algorithm, curve, format)).await.ok();
        let spki = STANDARD.decode(created["json"]["publicKey"].as_str().unwrap()).unwrap();
        let hashed = match algorithm {
            "ED" => [&[0xed], &spki[spki.len() - 32..]].concat(),
            _ => {
                let xy = &spki[spki.len() - 64..];
                [&[2 + (xy[63] & 1)], &xy[..32]].concat()
            }
        };
        let sha256 = openssl_digest("-sha256", &hashed);
        is_told(&world, &created, format, &hex::encode(openssl_digest("-ripemd160", &sha256))).await;
    }
}

fn openssl_digest(which: &str, bytes: &[u8]) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(["dgst", which, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_of_keys_that_everybody_knows_on_softhsm() {
    addresses_of_keys_that_everybody_knows(Module::SoftHsm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_of_keys_that_everybody_knows_on_kryoptic() {
    addresses_of_keys_that_everybody_knows(Module::Kryoptic).await;
}

/// The signature of a document with an address is good, and the document is read.
#[tokio::test]
async fn a_document_with_an_address_is_verified() {
    let (world, _) = world(Fate::Ready, &[]).await;
    let created = world.call("POST", "/v1/key", &body("one", "ED", "1.3.101.112", "XRP")).await.ok();
    let status = office().await.partition.status.as_ref().unwrap();
    let chain = attestation::chain::from_pem(&status.attestation.as_ref().unwrap().chain).unwrap();
    let signature = STANDARD.decode(created["xmlSignature"].as_str().unwrap()).unwrap();
    let xml = created["xml"].as_str().unwrap().as_bytes();
    let evidence = attestation::Evidence { xml, signature: &signature, chain: &chain };
    let root = attestation::fingerprint(chain.last().unwrap());
    assert_eq!(attestation::verify(&evidence, &root, Timestamp::now()).unwrap().label, "one");
}

#[tokio::test]
async fn what_has_no_address_says_so_and_makes_nothing() {
    let (world, stand) = world(Fate::Ready, &["p256"]).await;
    let with = |format: Value, policy: Value| {
        let mut body = body("new", "EC", K1, "BTC");
        (body["addressFormat"], body["policy"]) = (format, policy);
        body
    };
    let of = |word: &str| json!({"format": word});
    let mut p256 = with(of("BTC"), asks_nobody());
    p256["curveOid"] = json!("1.2.840.10045.3.1.7");
    for (body, refusal) in [
        (with(of("BTC"), Value::Null), (400, 630)),
        (with(of("DOGE"), asks_nobody()), (400, 605)),
        (with(of("btc"), asks_nobody()), (400, 605)),
        (with(of("XLM"), asks_nobody()), (400, 605)),
        (with(of("IOTA"), asks_nobody()), (400, 605)),
        (with(json!("BTC"), asks_nobody()), (400, 600)),
        (with(json!({}), asks_nobody()), (400, 600)),
        (p256, (400, 607)),
    ] {
        assert_eq!(world.call("POST", "/v1/key", &body).await.refused(), refusal, "{body}");
        let mut import = body.clone();
        import["privateKey"] = json!(private(&"46".repeat(32)));
        // The curve is the key's own there.
        let refusal = if refusal.1 == 607 { (201, 0) } else { refusal };
        if refusal.0 == 400 {
            let refused = world.call("POST", "/v1/key/import/plain", &import).await.refused();
            assert_eq!(refused, refusal, "{import}");
        }
    }
    assert_eq!(stand.changes(), [""; 0]);
    // A policy alone gives no address.
    let plain = with(Value::Null, asks_nobody());
    let mut plain_ed = plain.clone();
    (plain_ed["algorithm"], plain_ed["curveOid"]) = (json!("ED"), json!("1.3.101.112"));
    let created = world.call("POST", "/v1/key", &plain_ed).await.ok();
    assert_eq!(created["json"]["addressTruncated"], Value::Null);
    assert!(!created["xml"].as_str().unwrap().contains("address_truncated"));
    for label in ["new", "p256"] {
        assert_eq!(world.call("POST", ADDRESS, &json!({"label": label})).await.refused(), (400, 630));
    }
    assert_eq!(
        world.call_as("nobody", "POST", ADDRESS, &json!({"label": "new"})).await.refused(),
        (403, 400)
    );
}

/// Each key of a tree has its own address, in its master's format, whether it is kept or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_tree_have_addresses_of_their_own() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let (world, stand) = world_before(hsm.clone(), Arc::new(Fake::default()), Fate::Ready, &[]).await;
    // The masters come from the seed of BIP-32's first vector.
    let mut master = body("master", "EC", K1, "BTC");
    master["attributes"] = json!({"sign": true, "derive": true, "slip10": true});
    let master = world.call("POST", "/v1/key", &master).await.ok();
    // Its identifier, and that of m/0', in the text of BIP-32's serialization: fingerprints 3442193e and 5c1bd648.
    let begins = |of: &Value, with: &str| {
        let address = of["json"]["addressTruncated"]["address"].as_str().unwrap().to_owned();
        assert!(address.starts_with(with) && address.len() == 40, "{address}");
        address.to_lowercase()
    };
    let address = begins(&master, "3442193E");
    is_told(&world, &master, "BTC", &address).await;
    let asked = world.call("POST", ADDRESS, &json!({"label": "master/0'"})).await.ok();
    let passing = STANDARD.decode(asked["address"].as_str().unwrap()).unwrap();
    assert_eq!(hex::encode(&passing[..4]), "5c1bd648");
    let derive = json!({"masterKeyLabel": "master", "derivationPath": "0'", "attributes": {"sign": true}});
    let kept = world.call("POST", "/v1/derivedKey", &derive).await.ok();
    assert_eq!(begins(&kept, "5C1BD648"), hex::encode(passing));
    assert_eq!(kept["json"]["policy"], master["json"]["policy"], "the master's holds for its children");
    let objects = stand.objects();
    let object = objects.values().find(|key| key.spec.derived_from.is_some()).unwrap();
    assert!(object.spec.address_format.is_some() && object.spec.policy.is_some());
}
