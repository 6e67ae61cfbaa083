//! Secrets that EC keys of a token have in common with somebody's point, compared with openssl's.

use std::{process::Command, sync::Arc};

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey};
use bytes::Bytes;
use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        protocol::{HsmError, KeyTemplate, Kind, Reply, Request},
    },
    model::KeyAlgorithm,
};

use crate::{
    common::token::{Token, run},
    destroy, generate, id, inventory, on_both_tokens, p256, template,
};

on_both_tokens! {
    a_key_agrees_with_openssl_and_nothing_is_left,
    a_key_that_is_not_for_it_does_not_agree,
    many_agree_while_keys_come_and_go,
}

async fn agree(hsm: &Supervisor, key: &str, point: &[u8]) -> Result<Vec<u8>, HsmError> {
    let request = Request::Agree { key: id(key), point: Bytes::copy_from_slice(point) };
    match hsm.call(request).await? {
        Reply::Agreed(secret) => Ok(secret.expose().to_vec()),
        other => panic!("{other:?}"),
    }
}

fn deriving(name: &str, curve: &str) -> KeyTemplate {
    let mut template = template(name, KeyAlgorithm::Ec, None, Some(curve));
    template.attributes.derive = true;
    template
}

async fn a_key_agrees_with_openssl_and_nothing_is_left(token: Token) {
    let hsm = token.supervisor().await;
    let openssl = |arguments: &[&str]| run(Command::new("openssl").current_dir(token.path()).args(arguments));
    for (name, curve, length) in
        [("P-256", "1.2.840.10045.3.1.7", 32), ("P-384", "1.3.132.0.34", 48), ("P-521", "1.3.132.0.35", 66)]
    {
        let facts = generate(&hsm, deriving(name, curve)).await.unwrap();
        assert_eq!(facts.attributes.derive, Some(true), "{name}");
        std::fs::write(token.path().join("token.der"), facts.public_key.unwrap()).unwrap();
        let before = inventory(&hsm).await.len();
        for _ in 0..3 {
            let curve = format!("ec_paramgen_curve:{name}");
            openssl(&[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                &curve,
                "-outform",
                "DER",
                "-out",
                "ours.der",
            ]);
            let spki =
                openssl(&["pkey", "-inform", "DER", "-in", "ours.der", "-pubout", "-outform", "DER"]).stdout;
            let point = &spki[spki.len() - 1 - 2 * length..];
            let secret = agree(&hsm, name, point).await.unwrap();
            let theirs = openssl(&[
                "pkeyutl",
                "-derive",
                "-keyform",
                "DER",
                "-inkey",
                "ours.der",
                "-peerform",
                "DER",
                "-peerkey",
                "token.der",
            ]);
            assert_eq!(hex::encode(secret), hex::encode(theirs.stdout), "{name}");
        }
        assert_eq!(inventory(&hsm).await.len(), before, "{name}");
    }
    // One in 256 secrets begins with a zero, which some modules leave away: of so many, two or three.
    let peer = {
        let facts = generate(&hsm, deriving("P-256", "")).await.unwrap();
        let spki = facts.public_key.unwrap();
        spki[spki.len() - 65..].to_vec()
    };
    for _ in 0..600 {
        let pair = PrivateKey::generate(&ECDH_P256).unwrap();
        let point = pair.compute_public_key().unwrap();
        let ours =
            aws_lc_rs::agreement::agree(&pair, UnparsedPublicKey::new(&ECDH_P256, &peer), (), |secret| {
                Ok(secret.to_vec())
            });
        assert_eq!(agree(&hsm, "P-256", point.as_ref()).await.unwrap(), ours.unwrap());
    }
    assert_eq!(hsm.counters().restarts, 0);
}

async fn a_key_that_is_not_for_it_does_not_agree(token: Token) {
    let hsm = token.supervisor().await;
    let mut generated = generate(&hsm, p256("mute")).await.unwrap();
    let spki = generated.public_key.take().unwrap();
    let point = &spki[spki.len() - 65..];
    let error = agree(&hsm, "mute", point).await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    generate(&hsm, template("rsa", KeyAlgorithm::Rsa, Some(2048), None)).await.unwrap();
    assert_eq!(agree(&hsm, "rsa", point).await.unwrap_err().kind, Kind::Invalid);
    assert_eq!(agree(&hsm, "nobody", point).await.unwrap_err().kind, Kind::KeyNotFound);
    // A point off the curve never comes here from a caller; should it, the token must not work with it.
    generate(&hsm, deriving("good", "1.2.840.10045.3.1.7")).await.unwrap();
    let mut off = point.to_vec();
    off[64] ^= 1;
    assert!(agree(&hsm, "good", &off).await.is_err());
    assert!(agree(&hsm, "good", point).await.is_ok());
    assert_eq!(hsm.counters().restarts, 0);
}

/// The secret is an object, so that threads could get in each other's way.
async fn many_agree_while_keys_come_and_go(token: Token) {
    let hsm = token.supervisor().await;
    let facts = generate(&hsm, deriving("shared", "1.2.840.10045.3.1.7")).await.unwrap();
    let spki = facts.public_key.unwrap();
    let peer = Bytes::copy_from_slice(&spki[spki.len() - 65..]);
    let agreeing: Vec<_> = (0..8)
        .map(|_| {
            let (hsm, peer) = (Arc::clone(&hsm), peer.clone());
            tokio::spawn(async move {
                for _ in 0..60 {
                    let pair = PrivateKey::generate(&ECDH_P256).unwrap();
                    let point = pair.compute_public_key().unwrap();
                    let peer = UnparsedPublicKey::new(&ECDH_P256, &peer);
                    let ours = aws_lc_rs::agreement::agree(&pair, peer, (), |secret| Ok(secret.to_vec()));
                    assert_eq!(agree(&hsm, "shared", point.as_ref()).await.unwrap(), ours.unwrap());
                }
            })
        })
        .collect();
    for number in 0..20 {
        let name = format!("key{number}");
        let made = generate(&hsm, p256(&name)).await.unwrap();
        assert!(made.label == name && made.public_key.is_some(), "{made:?}");
        assert!(inventory(&hsm).await.iter().all(|entry| !entry.ghost));
        if number % 2 == 0 {
            destroy(&hsm, &name).await;
        }
    }
    for one in agreeing {
        one.await.unwrap();
    }
    assert_eq!(hsm.counters().restarts, 0);
}
