//! Masters that a token makes from a seed that is brought to it, with the public vectors of BIP-32 and SLIP-10.

use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        import::{Import, Origin},
        protocol::{Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply, Request},
    },
    model::{KeyAlgorithm, KeyLabel, SignatureAlgorithm},
};

use crate::{
    common::{openssl, token::Token, vendor},
    derivation::{derived, is_row, path, sign_derived, tree},
    destroy, find, generate, id, inventory, on_both_tokens, p256, sign,
    vendor_module::Row,
};

on_both_tokens! {
    a_token_without_the_mechanisms_takes_no_seed,
}

const H: u32 = 1 << 31;
/// Seeds of the second, third and fourth test vectors of BIP-32; SLIP-10 has the second, too.
const SEED_2: &str = "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a29f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542";
const SEED_3: &str = "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4acba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be";
const SEED_4: &str = "3ddd5602285899a946114506157c7997e5444528f3003f6134712147db19b678";

struct Vector {
    name: &'static str,
    algorithm: KeyAlgorithm,
    curve: &'static str,
    seed: &'static str,
    /// The master and a child. Their private keys, which do not leave the token, are left out.
    rows: [Row; 2],
}

/// BIP-32 prints chain codes and public keys inside of its extended public keys.
fn vectors() -> [Vector; 6] {
    let (ec, ed) = (KeyAlgorithm::Ec, KeyAlgorithm::Ed);
    let (k1, p256) = ("1.3.132.0.10", "1.2.840.10045.3.1.7");
    [
        Vector {
            name: "k1 1",
            algorithm: ec,
            curve: k1,
            seed: vendor::SEED,
            rows: [crate::vendor_module::SECP256K1[0], crate::vendor_module::SECP256K1[2]],
        },
        Vector {
            name: "k1 2",
            algorithm: ec,
            curve: k1,
            seed: SEED_2,
            rows: [
                (
                    &[],
                    "60499f801b896d83179a4374aeb7822aaeaceaa0db1f85ee3e904c4defbd9689",
                    "",
                    "03cbcaa9c98c877a26977d00825c956a238e8dddfbd322cce4f74b0b5bd6ace4a7",
                ),
                (
                    &[0],
                    "f0909affaa7ee7abe5dd4e100598d4dc53cd709d5a5c2cac40e7412f232f7c9c",
                    "",
                    "02fc9e5af0ac8d9b3cecfe2a888e2117ba3d089d8585886c9c826b6b22a98d12ea",
                ),
            ],
        },
        // Zeros on the left of private keys.
        Vector {
            name: "k1 3",
            algorithm: ec,
            curve: k1,
            seed: SEED_3,
            rows: [
                (
                    &[],
                    "01d28a3e53cffa419ec122c968b3259e16b65076495494d97cae10bbfec3c36f",
                    "",
                    "03683af1ba5743bdfc798cf814efeeab2735ec52d95eced528e692b8e34c4e5669",
                ),
                (
                    &[H],
                    "e5fea12a97b927fc9dc3d2cb0d1ea1cf50aa5a1fdc1f933e8906bb38df3377bd",
                    "",
                    "026557fdda1d5d43d79611f784780471f086d58e8126b8c40acb82272a7712e7f2",
                ),
            ],
        },
        Vector {
            name: "k1 4",
            algorithm: ec,
            curve: k1,
            seed: SEED_4,
            rows: [
                (
                    &[],
                    "d0c8a1f6edf2500798c3e0b54f1b56e45f6d03e6076abd36e5e2f54101e44ce6",
                    "",
                    "026f6fedc9240f61daa9c7144b682a430a3a1366576f840bf2d070101fcbc9a02d",
                ),
                (
                    &[H],
                    "cdc0f06456a14876c898790e0b3b1a41c531170aec69da44ff7b7265bfe7743b",
                    "",
                    "039382d2b6003446792d2917f7ac4b3edf079a1a94dd4eb010dc25109dda680a9d",
                ),
            ],
        },
        Vector {
            name: "p256 2",
            algorithm: ec,
            curve: p256,
            seed: SEED_2,
            rows: [
                (
                    &[],
                    "96cd4465a9644e31528eda3592aa35eb39a9527769ce1855beafc1b81055e75d",
                    "",
                    "02c9e16154474b3ed5b38218bb0463e008f89ee03e62d22fdcc8014beab25b48fa",
                ),
                (
                    &[0],
                    "84e9c258bb8557a40e0d041115b376dd55eda99c0042ce29e81ebe4efed9b86a",
                    "",
                    "039b6df4bece7b6c81e2adfeea4bcf5c8c8a6e40ea7ffa3cf6e8494c61a1fc82cc",
                ),
            ],
        },
        Vector {
            name: "ed 2",
            algorithm: ed,
            curve: "1.3.101.112",
            seed: SEED_2,
            rows: [
                (
                    &[],
                    "ef70a74db9c3a5af931b5fe73ed8e1a53464133654fd55e7a66f8570b8e33c3b",
                    "",
                    "008fe9693f8fa62a4305a140b9764c5ee01e455963744fe18204b4fb948249308a",
                ),
                (
                    &[H],
                    "0b78a3226f915c082bf118f83618a618ab6dec793752624cbeb622acb562862d",
                    "",
                    "0086fab68dcb57aa196c77c5f264f215a112c22a912c10d123b0d03c3c28ef1037",
                ),
            ],
        },
    ]
}

impl Vector {
    fn template(&self) -> KeyTemplate {
        tree(self.name, self.algorithm, self.curve, true)
    }

    async fn bring(&self, hsm: &Supervisor) -> KeyFacts {
        match bring(hsm, self.template(), self.seed).await {
            Ok(Reply::Key(facts)) => *facts,
            other => panic!("{}: {other:?}", self.name),
        }
    }
}

async fn bring(hsm: &Supervisor, template: KeyTemplate, seed: &str) -> Result<Reply, HsmError> {
    let origin = Origin::Seed(hex::decode(seed).unwrap().into());
    hsm.call(Request::Import(Box::new(Import { template, public_key: None, origin }))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_and_children_are_those_of_the_public_vectors() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    for vector in vectors() {
        let facts = vector.bring(&hsm).await;
        is_row(&facts, &vector.rows[0]);
        assert_eq!((facts.algorithm, facts.local), (Some(vector.algorithm), Some(false)), "{}", vector.name);
        assert_eq!((facts.attributes.sensitive, facts.attributes.extractable), (Some(true), Some(false)));
        let algorithm = match vector.algorithm {
            KeyAlgorithm::Ed => SignatureAlgorithm::EdDsa,
            _ => SignatureAlgorithm::Sha256WithEcdsa,
        };
        let signature = sign(&hsm, vector.name, algorithm, b"payload").await.unwrap();
        let spki = facts.public_key.as_ref().unwrap();
        openssl::verify(token.path(), spki, algorithm, b"payload", &signature);
        let path = path(vector.rows[1].0);
        let child = derived(&hsm, vector.name, &path).await.unwrap();
        is_row(&child, &vector.rows[1]);
        let signature = sign_derived(&hsm, vector.name, &path, algorithm).await.unwrap();
        openssl::verify(token.path(), child.public_key.as_ref().unwrap(), algorithm, b"payload", &signature);
    }
    // Two halves each, and nothing else: no object of any seed.
    let entries = inventory(&hsm).await;
    assert_eq!(entries.len(), 2 * vectors().len(), "{entries:?}");
    for vector in vectors() {
        destroy(&hsm, vector.name).await;
    }
    assert_eq!(inventory(&hsm).await, []);
}

/// Whoever was cut off and asks again gets the same key, also from another process; whoever has another seed does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_seed_completes_what_was_cut_off_and_makes_no_second_key() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let vector = &vectors()[0];
    let facts = vector.bring(&hsm).await;
    let later = token.supervisor().await;
    for hsm in [&hsm, &later] {
        assert_eq!(vector.bring(hsm).await, facts);
        let other = bring(hsm, vector.template(), SEED_2).await;
        assert!(matches!(&other, Ok(Reply::Keys(keys)) if keys.as_slice() == [facts.clone()]), "{other:?}");
    }
    assert_eq!(inventory(&later).await.len(), 2);
    // Somebody else's key of the label.
    let theirs = KeyTemplate { label: KeyLabel::new("k1 2").unwrap(), ..p256("theirs") };
    generate(&hsm, theirs).await.unwrap();
    let taken = bring(&hsm, vectors()[1].template(), SEED_2).await;
    assert!(matches!(&taken, Ok(Reply::Keys(keys)) if keys[0].id == Some(id("theirs"))), "{taken:?}");
    assert_eq!(inventory(&later).await.len(), 4);
}

/// Whoever was killed while the token made the pair left half of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_death_in_between_left_is_replaced() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    for vector in &vectors()[..2] {
        let facts = vector.bring(&hsm).await;
        destroy(&hsm, vector.name).await;
        let before = inventory(&hsm).await.len();
        let (template, public_key) = (vector.template(), facts.public_key.clone());
        let half = Import { template, public_key, origin: Origin::Public };
        assert!(matches!(hsm.call(Request::Import(Box::new(half))).await, Ok(Reply::Key(_))));
        assert_eq!(find(&hsm, Find::Id(id(vector.name))).await, Ok(vec![]), "half of a key is none");
        assert_eq!(vector.bring(&hsm).await, facts);
        assert_eq!(inventory(&hsm).await.len(), before + 2);
    }
}

/// Without keys for a moment nobody can tell whether a key is the seed's: then it is not said to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_session_objects_takes_seeds_and_does_not_say_whose_key_is_there() {
    let mut token = vendor::token();
    token.environment.push(("VENDOR_REFUSES".into(), "session-objects".into()));
    let hsm = token.supervisor().await;
    let vector = &vectors()[0];
    let facts = vector.bring(&hsm).await;
    is_row(&facts, &vector.rows[0]);
    let again = bring(&hsm, vector.template(), vector.seed).await;
    assert!(matches!(&again, Ok(Reply::Keys(keys)) if keys.as_slice() == [facts]), "{again:?}");
    assert_eq!(inventory(&hsm).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_leaves_nothing() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let p384 = tree("p384", KeyAlgorithm::Ec, "1.3.132.0.34", true);
    let error = bring(&hsm, p384, SEED_2).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unsupported, Some(0x8000_0058)), "{error}");
    for seed in ["00".repeat(15), "00".repeat(65)] {
        let error = bring(&hsm, vectors()[0].template(), &seed).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported, "{error}");
        assert!(!error.message.contains(&seed));
    }
    let mut plain = vectors()[0].template();
    plain.attributes.tree = false;
    assert_eq!(bring(&hsm, plain, SEED_2).await.unwrap_err().kind, Kind::Invalid);
    assert_eq!(inventory(&hsm).await, []);
    // A partition that takes no keys from elsewhere.
    let mut closed = vendor::token();
    closed.environment.push(("VENDOR_REFUSES".into(), "import".into()));
    let hsm = closed.supervisor().await;
    let error = bring(&hsm, vectors()[0].template(), SEED_2).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Forbidden, Some(0x8000_002a)), "{error}");
    assert_eq!(inventory(&hsm).await, []);
    generate(&hsm, vectors()[0].template()).await.unwrap();
}

async fn a_token_without_the_mechanisms_takes_no_seed(token: Token) {
    let hsm = token.supervisor().await;
    let error = bring(&hsm, vectors()[0].template(), SEED_2).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    assert_eq!(find(&hsm, Find::Id(id(vectors()[0].name))).await, Ok(vec![]));
    assert_eq!(inventory(&hsm).await, []);
}
