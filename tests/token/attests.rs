//! Attestation by the HSM itself, on a token that has it, and on tokens that do not.

use std::process::Command;

use hsm_operator::{
    attestation::{Evidence, EvidenceError, Protection, Statements, chain, fingerprint, verify},
    hsm::{
        Hsm, Supervisor,
        probe::Probe,
        protocol::{AttestationKey, Attested, Find, HsmError, KeyFacts, Kind, Reply, Request},
    },
    model::{KeyAlgorithm, KeyLabel, SignatureAlgorithm, vendor::RksNumbers},
};
use jiff::Timestamp;

use crate::{
    common::{
        token::{Token, run},
        vendor,
    },
    derivation::tree,
    find, generate, id, inventory, on_both_tokens, p256, sign, template,
};

on_both_tokens! {
    a_token_without_the_call_attests_nothing,
}

const NAME: &str = "attestation-key";

async fn ask(hsm: &Supervisor, name: &str) -> Result<Reply, HsmError> {
    let label = KeyLabel::new(NAME).unwrap();
    hsm.call(Request::AttestationKey { id: id(name), label }).await
}

async fn attestation_key(hsm: &Supervisor) -> AttestationKey {
    match ask(hsm, NAME).await.unwrap() {
        Reply::AttestationKey(key) => *key,
        other => panic!("{other:?}"),
    }
}

async fn attest(hsm: &Supervisor, by: &str, key: &str) -> Result<Attested, HsmError> {
    match hsm.call(Request::Attest { by: id(by), key: id(key) }).await? {
        Reply::Attested(attested) => Ok(*attested),
        other => panic!("{other:?}"),
    }
}

/// What a document says, once our own reader has checked everything about it.
fn read(key: &AttestationKey, attested: &Attested) -> Result<Statements, EvidenceError> {
    let chain = chain::from_pem(&key.chain).unwrap();
    let evidence = Evidence { xml: &attested.xml, signature: &attested.signature, chain: &chain };
    verify(&evidence, &fingerprint(chain.last().unwrap()), Timestamp::now())
}

/// That the document and the token say the same of a key.
fn agree(said: &Statements, facts: &KeyFacts) {
    assert_eq!(said.label, facts.label);
    assert_eq!(said.public_key.as_deref(), facts.public_key.as_deref());
    // A document has none where the algorithm's own identifier says it.
    let curve = facts.curve_oid.as_ref().filter(|_| facts.algorithm == Some(KeyAlgorithm::Ec));
    assert_eq!(said.curve_oid.as_ref(), curve);
    assert_eq!(said.key_size, facts.key_size);
    let own = serde_json::to_value(&facts.attributes).unwrap();
    for name in ["decrypt", "sign", "unwrap", "sensitive", "extractable"] {
        assert_eq!(own[name].as_bool(), said.attributes.get(name).copied(), "{name}");
    }
    let creation = if facts.local == Some(true) { "generated" } else { "imported" };
    assert_eq!(said.root.get("creation").map(String::as_str), Some(creation));
    // It is not ours, and does not look as if it were.
    assert!(!said.is_software(), "{:?}", said.root);
}

/// openssl's word on chain and signature, by the published steps; what the HSM made with PSS is checked as that.
fn openssl_agrees(token: &Token, key: &AttestationKey, attested: &Attested) {
    let path = |name: &str| token.path().join(name).display().to_string();
    let write = |name: &str, content: &[u8]| std::fs::write(path(name), content).unwrap();
    let chain = chain::from_pem(&key.chain).unwrap();
    write("attestation.crt", key.chain.as_bytes());
    write("root.pem", chain::to_pem(&chain[chain.len() - 1..]).as_bytes());
    write("leaf.pem", chain::to_pem(&chain[..1]).as_bytes());
    write("key.xml", &attested.xml);
    write("key.sig", &attested.signature);
    let (root, bundle, leaf) = (path("root.pem"), path("attestation.crt"), path("leaf.pem"));
    run(Command::new("openssl").args(["verify", "-CAfile", &root, "-untrusted", &bundle, &leaf]));
    let shown =
        run(Command::new("openssl").args(["x509", "-in", &leaf, "-noout", "-pubkey", "-ext", "keyUsage"]));
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("Digital Signature, Non Repudiation"), "{shown}");
    let pem = &shown[shown.find("-----BEGIN PUBLIC KEY").unwrap()..];
    let end = pem.find("-----END PUBLIC KEY-----").unwrap() + "-----END PUBLIC KEY-----".len();
    write("attestation.pem", &pem.as_bytes()[..end]);
    let (public, signature, xml) = (path("attestation.pem"), path("key.sig"), path("key.xml"));
    let check = |options: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-verify", &public, "-signature", &signature]);
        command.args(options).arg(&xml).output().unwrap().status.success()
    };
    assert!(check(&["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]));
    assert!(!check(&[]), "it is no signature of PKCS #1 v1.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hsm_says_what_its_keys_are() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    assert!(hsm.token().unwrap().capabilities.attests);
    let key = attestation_key(&hsm).await;
    assert_eq!((key.facts.id.clone(), key.facts.label.as_str()), (Some(id(NAME)), NAME));
    assert_eq!(key.facts.key_size, Some(3072));
    let chain = chain::from_pem(&key.chain).unwrap();
    assert!(chain.len() == 3 && !chain::names_operator(&chain));
    let wanted = [
        p256("p256"),
        template("rsa", KeyAlgorithm::Rsa, Some(2048), None),
        template("ed", KeyAlgorithm::Ed, None, Some("1.3.101.112")),
        tree("tree", KeyAlgorithm::Ec, "1.3.132.0.10", true),
        template("it's <a> & \"b\"", KeyAlgorithm::Ec, None, Some("1.3.132.0.34")),
    ];
    for template in wanted {
        let name = template.label.as_str().to_owned();
        let facts = generate(&hsm, template).await.unwrap();
        let attested = attest(&hsm, NAME, &name).await.unwrap();
        assert_eq!(attested.algorithm, SignatureAlgorithm::Sha256WithRsaPss);
        assert!(attested.xml.ends_with(b"</private_key>\n\n"));
        let said = read(&key, &attested).unwrap();
        agree(&said, &facts);
        if facts.chain_code.is_none() {
            assert_eq!(said.protection(), Protection::NeverOutside, "{name}");
        }
        openssl_agrees(&token, &key, &attested);
        // One other byte is another document.
        let mut xml = attested.xml.to_vec();
        xml[60] ^= 1;
        let changed = Attested { xml: xml.into(), ..attested };
        assert_eq!(read(&key, &changed).unwrap_err(), EvidenceError::Signature);
    }
    let aes = generate(&hsm, template("aes", KeyAlgorithm::Aes, Some(256), None)).await.unwrap();
    let said = read(&key, &attest(&hsm, NAME, "aes").await.unwrap()).unwrap();
    assert_eq!((said.kind.as_str(), said.public_key.clone()), ("secret_key", None));
    agree(&said, &aes);
    assert_eq!(hsm.counters().restarts, 0);
    let Reply::Findings(findings) = hsm.call(Request::Probe(Probe::Token)).await.unwrap() else { panic!() };
    assert!(findings.quirks.iter().any(|quirk| quirk.name == "keyAttestation" && !quirk.odd), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attestation_key_is_made_once_and_signs_nothing_else() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    generate(&hsm, p256("p256")).await.unwrap();
    let key = attestation_key(&hsm).await;
    let many = futures::future::join_all((0..4).map(|_| attestation_key(&hsm))).await;
    assert!(many.iter().all(|other| *other == key));
    // Somebody who would give it another id finds it by its label.
    let Reply::AttestationKey(other) = ask(&hsm, "another id").await.unwrap() else { panic!() };
    assert_eq!(*other, key);
    // So does whoever comes later.
    drop(hsm);
    let hsm = token.supervisor().await;
    assert_eq!(attestation_key(&hsm).await, key);
    assert_eq!(inventory(&hsm).await.len(), 4);
    let error = sign(&hsm, NAME, SignatureAlgorithm::Sha256WithRsaPss, b"anything").await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    // It still attests, and an ordinary key does not.
    read(&key, &attest(&hsm, NAME, "p256").await.unwrap()).unwrap();
    let error = attest(&hsm, "p256", NAME).await.unwrap_err();
    assert!(matches!(error.kind, Kind::Forbidden | Kind::Unsupported), "{error}");
    let error = attest(&hsm, NAME, "nothing").await.unwrap_err();
    assert_eq!(error.kind, Kind::KeyNotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_that_others_have_is_not_taken() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let facts = generate(&hsm, template(NAME, KeyAlgorithm::Rsa, Some(2048), None)).await.unwrap();
    let Reply::Keys(found) = ask(&hsm, "another id").await.unwrap() else { panic!() };
    assert_eq!(found, [facts]);
    // An ordinary key with the id that was meant for it is not one either.
    let error = ask(&hsm, NAME).await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    assert!(error.message.contains(NAME), "{error}");
    assert_eq!(inventory(&hsm).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_gets_the_room_that_it_needs() {
    for (room, fits) in [("200000", true), ("4194305", false)] {
        let mut token = vendor::token();
        token.environment.push(("VENDOR_ATTEST_ROOM".to_owned(), room.to_owned()));
        let hsm = token.supervisor().await;
        generate(&hsm, p256("p256")).await.unwrap();
        let key = attestation_key(&hsm).await;
        match attest(&hsm, NAME, "p256").await {
            Ok(attested) => {
                assert!(fits, "{room}");
                read(&key, &attested).unwrap();
            }
            Err(error) => {
                assert!(!fits, "{room}: {error}");
                assert!(error.message.contains("C_RKSAttestKey"), "{error}");
            }
        }
        assert_eq!(hsm.counters().restarts, 0, "{room}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_root_key_store_nothing_is_made() {
    let mut token = vendor::token();
    token.environment.push(("VENDOR_REFUSES".to_owned(), "rks".to_owned()));
    let hsm = token.supervisor().await;
    // It cannot be known before.
    assert!(hsm.token().unwrap().capabilities.attests);
    let error = ask(&hsm, NAME).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    for part in ["RKS", "C_GenerateKeyPair", "CKR_GENERAL_ERROR"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    assert!(inventory(&hsm).await.is_empty());
    generate(&hsm, p256("p256")).await.unwrap();
    sign(&hsm, "p256", SignatureAlgorithm::Sha256WithEcdsa, b"payload").await.unwrap();
    assert_eq!(hsm.counters().restarts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_turns_out_to_be_an_ordinary_key_goes_again() {
    let mut token = vendor::token();
    token.environment.push(("VENDOR_PASSES_OVER".to_owned(), "rks".to_owned()));
    let hsm = token.supervisor().await;
    let error = ask(&hsm, NAME).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    assert!(error.message.contains("it was destroyed again"), "{error}");
    assert!(inventory(&hsm).await.is_empty());
    // Nothing is in the way of one that is made as it should be.
    drop(hsm);
    token.environment.pop();
    let hsm = token.supervisor().await;
    attestation_key(&hsm).await;
    assert_eq!(inventory(&hsm).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_while_the_key_is_made_leaves_no_second_one() {
    let mut token = vendor::token();
    token.environment.push(("VENDOR_DIES".to_owned(), "rks".to_owned()));
    let hsm = token.supervisor().await;
    let error = ask(&hsm, NAME).await.unwrap_err();
    assert_eq!(error.kind, Kind::Crashed, "{error}");
    hsm.ready().await.unwrap();
    let key = attestation_key(&hsm).await;
    assert_eq!(inventory(&hsm).await.len(), 2);
    generate(&hsm, p256("p256")).await.unwrap();
    read(&key, &attest(&hsm, NAME, "p256").await.unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_the_token_does_not_confirm_are_not_believed() {
    let usual = vendor::numbers().rks;
    // One of a mechanism: it is known before.
    let mut token = vendor::token();
    token.vendor.rks = RksNumbers { generate: 0x8000_2299, ..usual };
    let hsm = token.supervisor().await;
    assert!(!hsm.token().unwrap().capabilities.attests);
    assert_eq!(ask(&hsm, NAME).await.unwrap_err().kind, Kind::Unsupported);
    assert!(inventory(&hsm).await.is_empty());
    // One of an attribute: the token has to be asked for a key.
    token.vendor.rks = RksNumbers { attestation_sign: 0x8000_0099, ..usual };
    let hsm = token.supervisor().await;
    ask(&hsm, NAME).await.unwrap_err();
    assert!(inventory(&hsm).await.is_empty());
    token.vendor.rks = RksNumbers { certificate_chain: 0x8000_0099, ..usual };
    let hsm = token.supervisor().await;
    let error = ask(&hsm, NAME).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    assert!(error.message.contains("certificates"), "{error}");
    // With the right ones the key that was made is found.
    token.vendor.rks = usual;
    let hsm = token.supervisor().await;
    attestation_key(&hsm).await;
    assert_eq!(inventory(&hsm).await.len(), 2);
}

async fn a_token_without_the_call_attests_nothing(token: Token) {
    let hsm = token.supervisor().await;
    assert!(!hsm.token().unwrap().capabilities.attests);
    generate(&hsm, p256("p256")).await.unwrap();
    let error = ask(&hsm, NAME).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    let error = attest(&hsm, "p256", "p256").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    assert!(find(&hsm, Find::Label(KeyLabel::new(NAME).unwrap())).await.unwrap().is_empty());
}
