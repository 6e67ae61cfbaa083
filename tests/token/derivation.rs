//! Keys of trees on a token that has a vendor's mechanisms, with the public vectors, and on tokens that do not.

use std::sync::Arc;

use bytes::Bytes;
use hsm_operator::{
    hsm::{
        Hsm, Supervisor, SupervisorConfig,
        probe::{Findings, Probe},
        protocol::{DerivedTemplate, Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply, Request},
    },
    model::{
        KeyAlgorithm, KeyLabel, RequestedAttributes, SignatureAlgorithm,
        derivation::{DerivationPath, DerivedName},
        vendor::VendorNumbers,
    },
    public_key::PublicKey,
};

use crate::{
    common::{openssl, token::Token, vendor},
    destroy, find, generate, id, inventory, on_both_tokens, p256, sign, template,
    vendor_module::{ED25519, P256, Row, SECP256K1},
};

on_both_tokens! {
    a_token_without_the_mechanisms_derives_nothing,
}

/// A template for a key of a tree.
pub fn tree(name: &str, algorithm: KeyAlgorithm, curve: &str, derive: bool) -> KeyTemplate {
    let attributes = RequestedAttributes {
        sign: Some(true),
        derive: Some(derive),
        slip10: Some(true),
        destroyable: Some(true),
        ..Default::default()
    };
    KeyTemplate { attributes: attributes.resolved(), ..template(name, algorithm, None, Some(curve)) }
}

/// Masters by name, with the rows of their curves and how they sign.
fn masters() -> [(&'static str, KeyTemplate, &'static [Row], SignatureAlgorithm); 3] {
    let (ec, ed) = (KeyAlgorithm::Ec, KeyAlgorithm::Ed);
    let ecdsa = SignatureAlgorithm::Sha256WithEcdsa;
    [
        ("k1", tree("k1", ec, "1.3.132.0.10", true), &SECP256K1, ecdsa),
        ("p256", tree("p256", ec, "1.2.840.10045.3.1.7", true), &P256, ecdsa),
        ("ed", tree("ed", ed, "1.3.101.112", true), &ED25519, SignatureAlgorithm::EdDsa),
    ]
}

pub fn path(indexes: &[u32]) -> DerivationPath {
    let step = |index: &u32| format!("{}{}", index & 0x7fff_ffff, if index >> 31 == 1 { "'" } else { "" });
    DerivationPath::parse(&indexes.iter().map(step).collect::<Vec<_>>().join("/")).unwrap()
}

pub async fn derived(hsm: &Supervisor, master: &str, path: &DerivationPath) -> Result<KeyFacts, HsmError> {
    match hsm.call(Request::Derived { master: id(master), path: path.clone() }).await? {
        Reply::Key(facts) => Ok(*facts),
        other => panic!("{other:?}"),
    }
}

pub async fn sign_derived(
    hsm: &Supervisor,
    master: &str,
    path: &DerivationPath,
    algorithm: SignatureAlgorithm,
) -> Result<Bytes, HsmError> {
    let (master, path, payload) = (id(master), path.clone(), Bytes::from_static(b"payload"));
    match hsm.call(Request::SignDerived { master, path, algorithm, payload }).await? {
        Reply::Signature(signature) => Ok(signature),
        other => panic!("{other:?}"),
    }
}

/// Derives to keep, under the name of the way.
async fn keep(hsm: &Supervisor, name: &str, master: &KeyTemplate) -> Result<Reply, HsmError> {
    let DerivedName { path, .. } = DerivedName::parse(name).unwrap();
    let attributes = RequestedAttributes { sign: Some(true), destroyable: Some(true), ..Default::default() };
    let template = KeyTemplate {
        id: id(name),
        label: KeyLabel::stored(name).unwrap(),
        attributes: attributes.resolved(),
        ..master.clone()
    };
    let wanted = DerivedTemplate { template, master: master.id.clone(), path };
    hsm.call(Request::Derive(Box::new(wanted))).await
}

/// The public key, compressed as in the vectors.
fn compressed(facts: &KeyFacts) -> String {
    let spki = facts.public_key.as_ref().unwrap();
    match spki.len() {
        44 => format!("00{}", hex::encode(&spki[12..])),
        length => {
            let xy = &spki[length - 64..];
            format!("{:02x}{}", 2 + (xy[63] & 1), hex::encode(&xy[..32]))
        }
    }
}

fn public(facts: &KeyFacts) -> PublicKey {
    PublicKey::from_spki(facts.public_key.as_ref().unwrap()).unwrap()
}

pub fn is_row(facts: &KeyFacts, (path, chain, _, public): &Row) {
    assert_eq!(facts.chain_code.as_deref().map(hex::encode).as_deref(), Some(*chain), "{path:?}");
    assert_eq!(compressed(facts), *public, "{path:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_those_of_the_public_vectors() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let capabilities = hsm.token().unwrap().capabilities.clone();
    assert_eq!(capabilities.derived, [KeyAlgorithm::Ec, KeyAlgorithm::Ed]);
    for (name, master, rows, algorithm) in masters() {
        let facts = generate(&hsm, master.clone()).await.unwrap();
        is_row(&facts, &rows[0]);
        assert_eq!((facts.algorithm, facts.local), (Some(master.algorithm), Some(true)), "{name}");
        assert_eq!(generate(&hsm, master.clone()).await.unwrap(), facts, "made once");
        // A master is a key like others.
        let signature = sign(&hsm, name, algorithm, b"payload").await.unwrap();
        assert_eq!(public(&facts).verify(algorithm, b"payload", &signature), Ok(true), "{name}");
        for row in &rows[1..] {
            let path = path(row.0);
            let facts = derived(&hsm, name, &path).await.unwrap();
            is_row(&facts, row);
            assert_eq!((facts.algorithm, &facts.curve_oid), (Some(master.algorithm), &master.curve_oid));
            assert_eq!(facts.attributes.extractable, Some(false));
            let signature = sign_derived(&hsm, name, &path, algorithm).await.unwrap();
            let spki = facts.public_key.as_ref().unwrap();
            openssl::verify(token.path(), spki, algorithm, b"payload", &signature);
        }
    }
    // Of what was derived for a moment, nothing is left.
    assert_eq!(inventory(&hsm).await.len(), 2 * masters().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_derived_key_is_kept_once_and_is_a_key_like_others() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    for (name, master, rows, algorithm) in masters() {
        generate(&hsm, master.clone()).await.unwrap();
        let label = format!("{name}/{}", path(rows[2].0));
        let Ok(Reply::Key(facts)) = keep(&hsm, &label, &master).await else { panic!("{label}") };
        is_row(&facts, &rows[2]);
        assert_eq!((facts.id.as_ref(), facts.label.as_str()), (Some(&id(&label)), label.as_str()));
        assert_eq!(facts.attributes.derive, Some(false));
        // Whoever was interrupted and asks again gets the same one.
        assert!(matches!(keep(&hsm, &label, &master).await, Ok(Reply::Key(again)) if again == facts));
        let signature = sign(&hsm, &label, algorithm, b"payload").await.unwrap();
        assert_eq!(public(&facts).verify(algorithm, b"payload", &signature), Ok(true), "{label}");
    }
    // What others have under the label is told of, and nothing is made.
    let theirs = KeyTemplate { label: KeyLabel::stored("k1/7").unwrap(), ..p256("theirs") };
    generate(&hsm, theirs).await.unwrap();
    let (_, master, ..) = &masters()[0];
    let before = inventory(&hsm).await.len();
    let taken = keep(&hsm, "k1/7", master).await;
    assert!(matches!(taken, Ok(Reply::Keys(keys)) if keys.len() == 1 && keys[0].id == Some(id("theirs"))));
    assert_eq!(inventory(&hsm).await.len(), before);
    // Another process sees the same, and derives from what is there.
    let later = token.supervisor().await;
    for (name, _, rows, algorithm) in masters() {
        let label = format!("{name}/{}", path(rows[2].0));
        let found = find(&later, Find::Label(KeyLabel::stored(label.as_str()).unwrap())).await.unwrap();
        is_row(&found[0], &rows[2]);
        sign(&later, &label, algorithm, b"payload").await.unwrap();
        is_row(&derived(&later, name, &path(rows[1].0)).await.unwrap(), &rows[1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_derived_is_refused_and_leaves_nothing() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    for (_, master, ..) in masters() {
        generate(&hsm, master).await.unwrap();
    }
    generate(&hsm, tree("hard", KeyAlgorithm::Ec, "1.3.132.0.10", false)).await.unwrap();
    generate(&hsm, p256("plain")).await.unwrap();
    generate(&hsm, template("rsa", KeyAlgorithm::Rsa, Some(2048), None)).await.unwrap();
    let before = inventory(&hsm).await.len();
    for (master, text, kind) in [
        // Ed25519 has hardened steps alone.
        ("ed", "0'/1", Kind::Unsupported),
        // It was made without derive.
        ("hard", "0", Kind::Forbidden),
        ("nobody", "0", Kind::KeyNotFound),
    ] {
        let path = DerivationPath::parse(text).unwrap();
        let error = derived(&hsm, master, &path).await.unwrap_err();
        assert_eq!(error.kind, kind, "{master}/{text}: {error}");
        let error = sign_derived(&hsm, master, &path, SignatureAlgorithm::EdDsa).await.unwrap_err();
        assert_eq!(error.kind, kind, "{master}/{text}: {error}");
    }
    for master in ["plain", "rsa"] {
        let error = derived(&hsm, master, &path(&[0])).await.unwrap_err();
        assert!(error.message.contains("CKR_KEY_TYPE_INCONSISTENT"), "{master}: {error}");
    }
    let mismatch = sign_derived(&hsm, "k1", &path(&[0]), SignatureAlgorithm::EdDsa).await.unwrap_err();
    assert_eq!(mismatch.kind, Kind::Invalid, "{mismatch}");
    // A key that does not sign has no children that do.
    let mut mute = tree("mute", KeyAlgorithm::Ec, "1.3.132.0.10", true);
    mute.attributes.sign = false;
    generate(&hsm, mute).await.unwrap();
    let refused = sign_derived(&hsm, "mute", &path(&[0]), SignatureAlgorithm::Sha256WithEcdsa).await;
    assert_eq!(refused.unwrap_err().kind, Kind::Forbidden);
    // SLIP-10 has no tree on this curve, and the vendor a code for it.
    let p384 = tree("p384", KeyAlgorithm::Ec, "1.3.132.0.34", true);
    let error = generate(&hsm, p384).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unsupported, Some(0x8000_0058)), "{error}");
    assert!(error.message.contains("Securosys Primus"), "{error}");
    assert_eq!(inventory(&hsm).await.len(), before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_deleted_by_somebody_else_is_not_found() {
    let token = vendor::token();
    let (hsm, other) = (token.supervisor().await, token.supervisor().await);
    let (name, master, rows, algorithm) = masters()[0].clone();
    generate(&hsm, master.clone()).await.unwrap();
    let path = path(rows[1].0);
    sign_derived(&hsm, name, &path, algorithm).await.unwrap();
    destroy(&other, name).await;
    assert_eq!(sign_derived(&hsm, name, &path, algorithm).await.unwrap_err().kind, Kind::KeyNotFound);
    assert_eq!(derived(&hsm, name, &path).await.unwrap_err().kind, Kind::KeyNotFound);
    // One that is made anew is found.
    generate(&other, master).await.unwrap();
    is_row(&derived(&hsm, name, &path).await.unwrap(), &rows[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_session_objects_keeps_keys_and_derives_none_for_a_moment() {
    let mut token = vendor::token();
    token.environment.push(("VENDOR_REFUSES".into(), "session-objects".into()));
    let hsm = token.supervisor().await;
    let (name, master, rows, _) = &masters()[0];
    generate(&hsm, master.clone()).await.unwrap();
    let error = derived(&hsm, name, &path(rows[1].0)).await.unwrap_err();
    assert_eq!(error.code, Some(0x8000_005f), "{error}");
    assert!(
        matches!(keep(&hsm, "k1/0'", master).await, Ok(Reply::Key(facts)) if compressed(&facts) == rows[1].3)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_tell_of_trees_and_find_nothing_wrong_with_them() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let mut findings = Findings::default();
    for probe in [Probe::Token, Probe::EllipticCurves, Probe::Edwards] {
        match hsm.call(Request::Probe(probe)).await {
            Ok(Reply::Findings(found)) => findings.absorb(*found),
            other => panic!("{other:?}"),
        }
    }
    let quirk = findings.quirks.iter().find(|quirk| quirk.name == "keyDerivation").expect("the quirk");
    assert_eq!(quirk.value, "SLIP-10 of EC and ED");
    assert!(findings.mechanisms.iter().any(|name| name.contains("80000e01")), "{:?}", findings.mechanisms);
    let schnorr = SignatureAlgorithm::NoneWithEcSchnorrBip0340;
    assert!(hsm.token().unwrap().capabilities.signature_algorithms.contains(&schnorr));
    assert!(!findings.refuted_signatures.contains(&schnorr), "{findings:?}");
    assert!(inventory(&hsm).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_say_what_there_is() {
    let token = vendor::token();
    let with = |vendor: VendorNumbers| {
        let mut config = token.config();
        config.open.vendor = Box::new(vendor);
        Supervisor::start(SupervisorConfig { ..config })
    };
    // Those that are public: the number for Ed25519 is not among them.
    let public = with(VendorNumbers::default());
    public.ready().await.unwrap();
    assert_eq!(public.token().unwrap().capabilities.derived, [KeyAlgorithm::Ec]);
    let ed = tree("ed", KeyAlgorithm::Ed, "1.3.101.112", true);
    assert_eq!(generate(&public, ed).await.unwrap_err().kind, Kind::Unsupported);
    // One that the token does not list.
    let other = with(VendorNumbers { derive: 0x8000_ffff, ..vendor::numbers() });
    other.ready().await.unwrap();
    assert!(other.token().unwrap().capabilities.derived.is_empty());
    let k1 = tree("k1", KeyAlgorithm::Ec, "1.3.132.0.10", true);
    assert_eq!(generate(&other, k1).await.unwrap_err().kind, Kind::Unsupported);
    assert!(inventory(&other).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_derive_at_once_while_keys_are_made() {
    const EACH: usize = 12;
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let (name, master, ..) = masters()[0].clone();
    generate(&hsm, master).await.unwrap();
    let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
    let callers = (0..4_u32).map(|number| {
        let hsm = Arc::clone(&hsm);
        tokio::spawn(async move {
            let path = path(&[number, 1 << 31]);
            let public = public(&derived(&hsm, name, &path).await.unwrap());
            for _ in 0..EACH {
                let signature = sign_derived(&hsm, name, &path, algorithm).await.unwrap();
                assert_eq!(public.verify(algorithm, b"payload", &signature), Ok(true));
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for number in 0..EACH {
        generate(&hsm, p256(&format!("other{number}"))).await.unwrap();
    }
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(inventory(&hsm).await.len(), 2 * (EACH + 1));
    assert_eq!(hsm.counters().restarts, 0);
}

async fn a_token_without_the_mechanisms_derives_nothing(token: Token) {
    let hsm = token.supervisor().await;
    assert!(hsm.token().unwrap().capabilities.derived.is_empty());
    let (name, master, ..) = &masters()[0];
    let error = generate(&hsm, master.clone()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    generate(&hsm, p256(name)).await.unwrap();
    let path = path(&[0]);
    assert_eq!(derived(&hsm, name, &path).await.unwrap_err().kind, Kind::Unsupported);
    let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
    assert_eq!(sign_derived(&hsm, name, &path, algorithm).await.unwrap_err().kind, Kind::Unsupported);
    assert_eq!(keep(&hsm, "k1/0", master).await.unwrap_err().kind, Kind::Unsupported);
    assert_eq!(inventory(&hsm).await.len(), 2);
}
