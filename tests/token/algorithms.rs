use hsm_operator::{
    hsm::{
        Hsm,
        protocol::{KeyTemplate, Kind},
    },
    model::{KeyAlgorithm, SignatureAlgorithm, curve::CURVES, signature::Input},
    public_key::PublicKey,
};

use crate::{
    common::{
        openssl,
        token::{Module, Token},
    },
    generate, on_both_tokens, sign, template,
};

on_both_tokens! {
    every_rsa_signature_is_good,
    every_curve_is_served_or_refused_with_the_reason,
    dsa_keys_are_made_in_groups_of_their_own,
    keys_on_edwards_curves_sign_whole_messages,
    post_quantum_keys_are_made_and_sign_where_the_token_has_them,
    an_aes_key_is_made_and_described,
    a_payload_that_makes_no_sense_is_the_callers_fault,
    a_token_says_what_it_can_do,
}

/// Makes the key, and has openssl check a signature by each algorithm that fits it.
async fn every_signature(token: &Token, template: KeyTemplate) -> usize {
    let hsm = token.supervisor().await;
    let (name, algorithm) = (template.label.to_string(), template.algorithm);
    let offered = hsm.token().unwrap().capabilities.signature_algorithms.clone();
    let facts = generate(&hsm, template.clone()).await.unwrap();
    assert_eq!(facts.algorithm, Some(algorithm));
    assert_eq!(
        (facts.key_size, facts.curve_oid.as_deref()),
        (template.key_size, template.curve_oid.as_deref())
    );
    assert_eq!((facts.label.as_str(), facts.id, facts.twins), (name.as_str(), Some(template.id), 1));
    assert_eq!(facts.local, Some(true));
    let attributes = facts.attributes;
    assert_eq!(
        (attributes.sign, attributes.sensitive, attributes.extractable),
        (Some(true), Some(true), Some(false))
    );
    assert_eq!((attributes.always_sensitive, attributes.never_extractable), (Some(true), Some(true)));
    assert_eq!((attributes.destroyable, attributes.derive), (Some(true), Some(false)));
    let spki = facts.public_key.expect("a public key");
    let mut checked = 0;
    for signature_algorithm in SignatureAlgorithm::ALL.iter().filter(|a| a.fits(algorithm)) {
        let payload = match signature_algorithm.row().input {
            Input::Digest(hash) => hash.digest(b"message"),
            Input::Message(_) => b"a message of no particular length".to_vec(),
            Input::Bytes => vec![0x5a; 32],
        };
        let signed = sign(&hsm, &name, *signature_algorithm, &payload).await;
        if offered.contains(signature_algorithm) {
            let signature = signed.unwrap_or_else(|e| panic!("{signature_algorithm}: {e}"));
            openssl::verify(token.path(), &spki, *signature_algorithm, &payload, &signature);
            let public = PublicKey::from_spki(&spki).unwrap();
            assert_eq!(public.verify(*signature_algorithm, &payload, &signature), Ok(true));
            checked += 1;
        } else {
            assert_eq!(signed.unwrap_err().kind, Kind::Unsupported, "{signature_algorithm}");
        }
    }
    hsm.shutdown().await;
    checked
}

async fn every_rsa_signature_is_good(token: Token) {
    for bits in [2048, 3072] {
        let template = template(&format!("rsa-{bits}"), KeyAlgorithm::Rsa, Some(bits), None);
        assert_eq!(every_signature(&token, template).await, 21);
    }
}

async fn every_curve_is_served_or_refused_with_the_reason(token: Token) {
    let hsm = token.supervisor().await;
    let mut served = Vec::new();
    for curve in CURVES.iter().filter(|curve| curve.weierstrass.is_some()) {
        let template = template(curve.name, KeyAlgorithm::Ec, None, Some(curve.oid));
        match generate(&hsm, template.clone()).await {
            Ok(_) => {
                assert!(every_signature(&token, template).await == 15);
                served.push(curve.name);
            }
            Err(error) => {
                assert_eq!(error.kind, Kind::Unsupported, "{}: {error}", curve.name);
                let text = error.to_string();
                assert!(text.contains(&token.label) && text.contains(curve.name), "{text}");
                assert!(text.contains("it offers RSA"), "{text}");
            }
        }
    }
    let must: &[&str] = match token.module {
        Module::SoftHsm => &[
            "P-224",
            "P-256",
            "P-384",
            "P-521",
            "secp224k1",
            "secp256k1",
            "brainpool224r1",
            "brainpool256r1",
            "brainpool320r1",
            "brainpool384r1",
            "brainpool512r1",
            "prime239v1",
            "prime239v2",
            "prime239v3",
        ],
        Module::Kryoptic => &["P-256", "P-384", "P-521"],
    };
    for name in must {
        assert!(served.contains(name), "{name} is missing in {served:?}");
    }
}

async fn dsa_keys_are_made_in_groups_of_their_own(token: Token) {
    if token.module == Module::Kryoptic {
        let hsm = token.supervisor().await;
        let refused = generate(&hsm, template("dsa", KeyAlgorithm::Dsa, Some(2048), None));
        assert_eq!(refused.await.unwrap_err().kind, Kind::Unsupported);
        return;
    }
    assert_eq!(every_signature(&token, template("dsa", KeyAlgorithm::Dsa, Some(1024), None)).await, 6);
    // SoftHSM's list says that it makes no larger ones.
    let hsm = token.supervisor().await;
    let larger = generate(&hsm, template("larger", KeyAlgorithm::Dsa, Some(2048), None)).await;
    assert_eq!(larger.unwrap_err().kind, Kind::Unsupported);
}

async fn keys_on_edwards_curves_sign_whole_messages(token: Token) {
    for (name, oid) in [("ed25519", "1.3.101.112"), ("ed448", "1.3.101.113")] {
        let template = template(name, KeyAlgorithm::Ed, None, Some(oid));
        assert_eq!(every_signature(&token, template).await, 1);
    }
}

async fn post_quantum_keys_are_made_and_sign_where_the_token_has_them(token: Token) {
    let hsm = token.supervisor().await;
    let post_quantum =
        |algorithm: &&KeyAlgorithm| ["ML-", "SLH-"].iter().any(|family| algorithm.name().starts_with(family));
    let mut checked = Vec::new();
    for algorithm in KeyAlgorithm::ALL.iter().copied().filter(|one| post_quantum(&one)) {
        let made = generate(&hsm, template(algorithm.name(), algorithm, None, None)).await;
        if token.module == Module::SoftHsm {
            assert_eq!(made.unwrap_err().kind, Kind::Unsupported, "{algorithm}");
            continue;
        }
        let facts = made.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!((facts.algorithm, facts.key_size, facts.twins), (Some(algorithm), None, 1));
        let public = PublicKey::from_spki(&facts.public_key.expect("a public key")).unwrap();
        assert_eq!(public.algorithm(), algorithm);
        openssl::newer_reads(token.path(), public.spki());
        let offered = hsm.token().unwrap().capabilities.signature_algorithms.clone();
        for signs in SignatureAlgorithm::ALL.iter().filter(|one| one.fits(algorithm)) {
            let signed = sign(&hsm, algorithm.name(), *signs, b"a message").await;
            if !offered.contains(signs) {
                assert_eq!(signed.unwrap_err().kind, Kind::Unsupported, "{signs}");
                continue;
            }
            let signature = signed.unwrap_or_else(|error| panic!("{algorithm} {signs}: {error}"));
            assert_eq!(public.verify(*signs, b"a message", &signature), Ok(true), "{algorithm} {signs}");
            assert_eq!(public.verify(*signs, b"another", &signature), Ok(false), "{algorithm} {signs}");
            // It knows no HashML-DSA and no HashSLH-DSA.
            if matches!(signs, SignatureAlgorithm::MlDsa | SignatureAlgorithm::SlhDsa) {
                let accepts =
                    |message| openssl::newer_accepts(token.path(), public.spki(), message, &signature);
                assert!(accepts(b"a message".as_slice()), "{algorithm} {signs}");
                assert!(!accepts(b"another".as_slice()), "{algorithm} {signs}");
            }
            // One whole round of the slow ones is enough.
            if algorithm.name().starts_with("SLH-") && algorithm != KeyAlgorithm::SlhDsaSha2128f {
                break;
            }
            checked.push(*signs);
        }
    }
    if token.module == Module::Kryoptic {
        use SignatureAlgorithm as A;
        for must in [A::MlDsa, A::SlhDsa, A::Sha2512WithMlDsa, A::Sha3256WithMlDsa, A::Sha2256WithSlhDsa] {
            assert!(checked.contains(&must), "{must} is missing");
        }
    }
}

async fn an_aes_key_is_made_and_described(token: Token) {
    let hsm = token.supervisor().await;
    for bits in [128, 192, 256] {
        let facts =
            generate(&hsm, template(&format!("aes{bits}"), KeyAlgorithm::Aes, Some(bits), None)).await;
        let facts = facts.unwrap();
        assert_eq!((facts.algorithm, facts.key_size), (Some(KeyAlgorithm::Aes), Some(bits)));
        assert_eq!((facts.public_key, facts.attributes.decrypt), (None, Some(true)));
    }
    let error = generate(&hsm, template("bls", KeyAlgorithm::Bls, None, None)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    let error = sign(&hsm, "aes128", SignatureAlgorithm::EdDsa, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
}

async fn a_payload_that_makes_no_sense_is_the_callers_fault(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, crate::p256("ec")).await.unwrap();
    generate(&hsm, template("rsa", KeyAlgorithm::Rsa, Some(2048), None)).await.unwrap();
    for (key, algorithm, length) in [
        ("ec", SignatureAlgorithm::NoneWithEcdsa, 0),
        ("ec", SignatureAlgorithm::NoneWithEcdsa, 65),
        ("ec", SignatureAlgorithm::Sha256WithRsa, 32),
        ("rsa", SignatureAlgorithm::NoneWithRsa, 246),
        ("rsa", SignatureAlgorithm::NoneSha256WithRsaPss, 31),
    ] {
        let error = sign(&hsm, key, algorithm, &vec![1; length]).await.unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{algorithm} {length}: {error}");
    }
    sign(&hsm, "ec", SignatureAlgorithm::NoneWithEcdsa, &[1; 64]).await.unwrap();
    sign(&hsm, "rsa", SignatureAlgorithm::NoneWithRsa, &[1; 245]).await.unwrap();
}

async fn a_token_says_what_it_can_do(token: Token) {
    let hsm = token.supervisor().await;
    let facts = hsm.token().unwrap();
    assert_eq!(facts.label, token.label);
    assert!(!facts.manufacturer.is_empty() && !facts.serial.is_empty());
    let capabilities = &facts.capabilities;
    assert!(capabilities.generates(KeyAlgorithm::Rsa, Some(4096)));
    assert!(capabilities.generates(KeyAlgorithm::Aes, Some(256)));
    assert!(!capabilities.generates(KeyAlgorithm::Aes, Some(512)));
    assert!(capabilities.generates(KeyAlgorithm::Ed, None));
    assert!(!capabilities.signature_algorithms.contains(&SignatureAlgorithm::NoneWithEcSchnorrBip0340));
}
