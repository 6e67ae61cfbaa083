//! What is found out about a token by trying it.

use std::time::{Duration, Instant};

use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        probe::{Findings, Probe},
        protocol::{HsmError, Kind, Reply, Request},
        supervisor::Deadlines,
    },
    model::{CipherAlgorithm, SignatureAlgorithm},
};

use crate::{
    common::{
        faults::Faults,
        token::{Module, Token},
    },
    generate, inventory, on_both_tokens, p256, sign,
};

on_both_tokens! {
    what_is_odd_about_a_token_is_found_out,
    a_probe_leaves_nothing_behind,
    a_lie_about_sizes_is_found_out,
    what_a_token_lists_and_refuses_is_found_out,
    a_cipher_that_is_listed_and_refused_is_found_out,
    a_module_that_dies_of_a_probe_is_there_again_for_everybody_else,
}

async fn probe(hsm: &Supervisor, probe: Probe) -> Result<Findings, HsmError> {
    match hsm.call(Request::Probe(probe)).await? {
        Reply::Findings(findings) => Ok(*findings),
        other => panic!("{other:?}"),
    }
}

async fn everything(hsm: &Supervisor) -> Findings {
    let mut findings = Findings::default();
    for one in Probe::ALL {
        let begun = Instant::now();
        findings.absorb(probe(hsm, one).await.unwrap());
        println!("{one:?}: {:?}", begun.elapsed());
    }
    findings
}

fn value<'a>(findings: &'a Findings, name: &str) -> &'a str {
    let quirk = findings.quirks.iter().find(|quirk| quirk.name == name);
    &quirk.unwrap_or_else(|| panic!("no {name}: {findings:?}")).value
}

async fn what_is_odd_about_a_token_is_found_out(token: Token) {
    let hsm = token.supervisor().await;
    let findings = everything(&hsm).await;
    let quirk = |odd| {
        let all = findings.quirks.iter().filter(move |quirk| quirk.odd == odd);
        all.map(|quirk| (quirk.name.as_str(), quirk.value.as_str())).collect::<Vec<_>>()
    };
    match token.module {
        Module::SoftHsm => {
            let odd = [
                ("handles", "new after a login"),
                ("threads", "wait for each other"),
                ("changes", "of others are overlooked"),
                ("listings", "spoil keys in the making"),
                ("hashedEcdsa", "none"),
                ("publicKeyInfo", "empty"),
                ("digestLength", "not checked"),
                ("edwardsPoint", "OCTET STRING"),
                ("edwardsParts", "refused"),
                ("edwardsContext", "ignored"),
                ("pssMask", "the message's hash only"),
                ("hmacKey", "at least 32 bytes"),
                ("wrongTag", "CKR_GENERAL_ERROR"),
                (
                    "refusedCiphers",
                    "RSA_PADDING_OAEP_WITH_SHA512, RSA_PADDING_OAEP_WITH_SHA384, RSA_PADDING_OAEP_WITH_SHA256, RSA_PADDING_OAEP_WITH_SHA224",
                ),
            ];
            let usual = [
                ("ecPoint", "OCTET STRING"),
                ("attributeSizes", "right"),
                ("signatureSizes", "right"),
                ("edwardsCurve", "by identifier"),
                ("pssSalt", "any length"),
                ("dsa", "works"),
                ("gcmTags", "all"),
                ("gcmIv", "as given"),
                ("sharedSecrets", "right"),
            ];
            assert_eq!((quirk(true).as_slice(), quirk(false).as_slice()), (&odd[..], &usual[..]));
            assert!(findings.curves.contains(&"secp256k1".to_owned()), "{findings:?}");
        }
        Module::Kryoptic => {
            let odd = [("threads", "wait for each other"), ("digestLength", "not checked")];
            let usual = [
                ("handles", "outlive a login"),
                ("hashedEcdsa", "all"),
                ("ecPoint", "OCTET STRING"),
                ("attributeSizes", "right"),
                ("publicKeyInfo", "right"),
                ("signatureSizes", "right"),
                ("edwardsCurve", "by identifier"),
                ("edwardsPoint", "bare bytes"),
                ("edwardsParts", "signed"),
                ("edwardsContext", "heeded"),
                ("pssSalt", "any length"),
                ("pssMask", "any hash"),
                ("hmacKey", "any length"),
                ("gcmTags", "all"),
                ("gcmIv", "as given"),
                ("wrongTag", "CKR_ENCRYPTED_DATA_INVALID"),
                ("sharedSecrets", "right"),
            ];
            assert_eq!((quirk(true).as_slice(), quirk(false).as_slice()), (&odd[..], &usual[..]));
            assert_eq!(findings.curves, ["P-256", "P-384", "P-521"]);
        }
    }
    assert!(findings.refuted_keys.is_empty() && findings.refuted_signatures.is_empty(), "{findings:?}");
    let speed = findings.speed.clone().expect("it was measured");
    assert_eq!(speed.key, "P-256");
    assert!((5..50_000).contains(&speed.microseconds), "{speed:?}");
    for name in ["RSA_PKCS_KEY_PAIR_GEN", "ECDSA", "AES_GCM"] {
        assert!(findings.mechanisms.contains(&name.to_owned()), "{findings:?}");
    }
    assert!(findings.mechanisms.is_sorted());
    assert!(findings.limits.unwrap().pin_min.is_some(), "{findings:?}");
}

async fn a_probe_leaves_nothing_behind(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, p256("k")).await.unwrap();
    let before = inventory(&hsm).await;
    everything(&hsm).await;
    assert_eq!(inventory(&hsm).await, before);
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
}

async fn a_lie_about_sizes_is_found_out(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    faults.set(&["C_Sign size-lie", "C_GetAttributeValue size-lie"]);
    let findings = probe(&hsm, Probe::EllipticCurves).await.unwrap();
    assert_eq!(value(&findings, "signatureSizes"), "says 32 for 64");
    assert!(value(&findings, "attributeSizes").starts_with("says 3"), "{findings:?}");
}

async fn what_a_token_lists_and_refuses_is_found_out(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    faults.set(&["C_GenerateKeyPair return=0x00000130"]);
    let findings = probe(&hsm, Probe::Edwards).await.unwrap();
    assert_eq!(findings.refuted_keys, [hsm_operator::model::KeyAlgorithm::Ed]);
    assert_eq!(value(&findings, "edwards"), "not probed: CKR_DOMAIN_PARAMS_INVALID");
    // Nothing is made at all: that says nothing about this type of key.
    faults.set(&["C_GenerateKeyPair return=0x00000130", "C_GenerateKey return=0x00000070"]);
    assert_eq!(probe(&hsm, Probe::Edwards).await.unwrap().refuted_keys, []);
    faults.set(&["C_SignInit return=0x00000070"]);
    let findings = probe(&hsm, Probe::EllipticCurves).await.unwrap();
    assert!(findings.refuted_signatures.contains(&SignatureAlgorithm::Sha256WithEcdsa), "{findings:?}");
    assert!(value(&findings, "refusedSignatures").contains("SHA256_WITH_ECDSA"));
    // A token in trouble refuses nothing.
    faults.set(&["C_SignInit return=CKR_DEVICE_ERROR"]);
    let findings = probe(&hsm, Probe::EllipticCurves).await.unwrap();
    assert_eq!(findings.refuted_signatures, []);
}

async fn a_cipher_that_is_listed_and_refused_is_found_out(token: Token) {
    let faults = Faults::new(&token);
    let mut config = faults.config();
    // It makes a key of RSA, which takes long where others make theirs: nothing hangs here.
    config.deadlines = Deadlines::default();
    let hsm = Supervisor::start(config);
    hsm.ready().await.unwrap();
    // Of a cipher of RSA it counts what is decrypted: with public keys the operator encrypts itself.
    faults.set(&["C_EncryptInit return=0x00000070"]);
    let findings = probe(&hsm, Probe::Ciphers).await.unwrap();
    let refuted = |cipher| findings.refuted_ciphers.contains(&cipher);
    assert!(!refuted(CipherAlgorithm::RsaPkcs) && !refuted(CipherAlgorithm::RsaOaep), "{findings:?}");
    faults.set(&["C_DecryptInit return=0x00000070"]);
    let findings = probe(&hsm, Probe::Ciphers).await.unwrap();
    assert_eq!(findings.refuted_ciphers, hsm.token().unwrap().capabilities.cipher_algorithms);
    assert!(value(&findings, "refusedCiphers").contains("AES_GCM"), "{findings:?}");
    // Keys that are not made say nothing of what could be done with them, and a token in trouble says nothing at all.
    faults.set(&["C_GenerateKey return=0x00000070", "C_GenerateKeyPair return=0x00000070"]);
    let findings = probe(&hsm, Probe::Ciphers).await.unwrap();
    assert_eq!(findings.refuted_ciphers, []);
    assert_eq!(value(&findings, "ciphersOfAES"), "not probed: CKR_MECHANISM_INVALID");
}

async fn a_module_that_dies_of_a_probe_is_there_again_for_everybody_else(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    generate(&hsm, p256("k")).await.unwrap();
    for rule in ["C_GenerateKeyPair times=1 segv", "C_GenerateKeyPair times=1 abort"] {
        let numbers = faults.set(&[rule]);
        let error = probe(&hsm, Probe::EllipticCurves).await.unwrap_err();
        assert_eq!((error.kind, faults.fired(numbers[0])), (Kind::Crashed, 1), "{rule}");
        let begun = Instant::now();
        sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{rule}: {:?}", begun.elapsed());
    }
    // One that hangs is replaced when the time for looking is over.
    faults.set(&["C_GenerateKeyPair times=1 hang"]);
    probe(&hsm, Probe::EllipticCurves).await.unwrap_err();
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    assert_eq!(hsm.counters().restarts, 3);
}
