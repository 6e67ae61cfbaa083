//! Public keys on a token whose private halves are elsewhere.

use std::process::Command;

use bytes::Bytes;
use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        import::{Import, Origin, Wrap},
        protocol::{Find, HsmError, KeyFacts, KeyTemplate, Kind, ObjectClass, Reply, Request},
    },
    key_material::{self, Key},
    model::{KeyAlgorithm, KeyLabel, RequestedAttributes, SignatureAlgorithm, WrapMethod},
};

use crate::{
    common::token::{Token, run},
    destroy, find, generate, id,
    imports::{EC, RSA, as_template, ask, import, lacks, made, open},
    inventory, on_both_tokens, p256, sign,
};

on_both_tokens! {
    a_public_key_alone_is_kept_once_and_goes,
    public_keys_on_all_curves_are_those_that_were_brought,
    a_label_that_a_public_key_alone_has_is_not_given_to_another,
    what_is_left_of_a_pair_is_no_public_key_alone,
    a_public_key_alone_wraps_and_does_nothing_else,
    a_key_of_another_kind_is_refused_and_leaves_nothing,
}

fn attributes() -> RequestedAttributes {
    RequestedAttributes {
        verify: Some(true),
        encrypt: Some(true),
        wrap: Some(true),
        destroyable: Some(true),
        ..Default::default()
    }
}

fn public_of(name: &str, key: &Key) -> Import {
    let attributes = match key.algorithm {
        KeyAlgorithm::Rsa => attributes(),
        _ => RequestedAttributes { encrypt: None, wrap: None, ..attributes() },
    };
    Import { template: as_template(name, key, attributes), public_key: key.spki(), origin: Origin::Public }
}

async fn bring(hsm: &Supervisor, name: &str, key: &Key) -> KeyFacts {
    match ask(hsm, public_of(name, key)).await {
        Ok(Reply::Key(facts)) => *facts,
        other => panic!("{name}: {other:?}"),
    }
}

fn key(token: &Token, arguments: &[&str]) -> Key {
    key_material::private_key(&made(token, arguments)).unwrap()
}

async fn a_public_key_alone_is_kept_once_and_goes(token: Token) {
    let hsm = token.supervisor().await;
    let all = [
        ("rsa", RSA, SignatureAlgorithm::Sha256WithRsa),
        ("p256", EC[0].1, SignatureAlgorithm::Sha256WithEcdsa),
        ("ed", &["-algorithm", "ED25519"], SignatureAlgorithm::EdDsa),
    ];
    let later = token.supervisor().await;
    for (name, arguments, algorithm) in all {
        let brought = key(&token, arguments);
        let facts = bring(&hsm, name, &brought).await;
        assert_eq!(
            (facts.algorithm, &facts.public_key),
            (Some(brought.algorithm), &brought.spki()),
            "{name}"
        );
        assert_eq!((facts.key_size, &facts.curve_oid), (brought.key_size, &brought.curve_oid), "{name}");
        assert_eq!((facts.id.as_ref(), facts.label.as_str()), (Some(&id(name)), name));
        let attributes = &facts.attributes;
        assert_eq!(
            (attributes.sign, attributes.decrypt, attributes.unwrap),
            (Some(false), Some(false), Some(false))
        );
        assert_eq!((attributes.extractable, attributes.never_extractable), (None, None), "{name}");
        for hsm in [&hsm, &later] {
            assert_eq!(bring(hsm, name, &brought).await, facts, "once");
            let another = ask(hsm, public_of(name, &key(&token, arguments))).await;
            assert!(
                matches!(&another, Ok(Reply::Keys(keys)) if keys.as_slice() == [facts.clone()]),
                "{another:?}"
            );
            // Only whoever knows that it is one finds it.
            assert_eq!(find(hsm, Find::Public(id(name))).await, Ok(vec![facts.clone()]));
            assert_eq!(find(hsm, Find::Id(id(name))).await, Ok(vec![]));
            assert_eq!(find(hsm, Find::Label(KeyLabel::new(name).unwrap())).await, Ok(vec![]));
        }
        assert_eq!(sign(&hsm, name, algorithm, b"x").await.unwrap_err().kind, Kind::KeyNotFound);
    }
    let entries = inventory(&later).await;
    assert!(
        entries.len() == 3 && entries.iter().all(|one| one.class == ObjectClass::PublicKey),
        "{entries:?}"
    );
    for (name, ..) in all {
        destroy(&later, name).await;
        assert_eq!(find(&hsm, Find::Public(id(name))).await, Ok(vec![]));
    }
    assert_eq!(inventory(&hsm).await, []);
}

/// On the curves that the token has, and on no other.
async fn public_keys_on_all_curves_are_those_that_were_brought(token: Token) {
    let hsm = token.supervisor().await;
    let ed448 = ("ed448", ["-algorithm", "ED448"].as_slice());
    let mut kept = 0;
    for (name, arguments) in EC.iter().map(|(name, arguments, _)| (*name, *arguments)).chain([ed448]) {
        let brought = key(&token, arguments);
        match ask(&hsm, public_of(name, &brought)).await {
            Ok(Reply::Key(facts)) => {
                assert_eq!(
                    (&facts.public_key, &facts.curve_oid),
                    (&brought.spki(), &brought.curve_oid),
                    "{name}"
                );
                kept += 1;
            }
            Err(error) => {
                assert_eq!(error.kind, Kind::Unsupported, "{name}: {error}");
                assert!(lacks(&hsm, &brought).await, "{name}: {error}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(kept >= 3, "P-256, P-384 and P-521 at least");
    assert_eq!(inventory(&hsm).await.len(), kept);
}

async fn what_is_left_of_a_pair_is_no_public_key_alone(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, p256("pair")).await.unwrap();
    assert_eq!(find(&hsm, Find::Public(id("pair"))).await, Ok(vec![]));
    // A name that a key has is not taken from it.
    let brought = key(&token, EC[0].1);
    let mut named = public_of("new", &brought);
    named.template.label = KeyLabel::new("pair").unwrap();
    let taken = ask(&hsm, named).await;
    assert!(matches!(&taken, Ok(Reply::Keys(keys)) if keys[0].id == Some(id("pair"))), "{taken:?}");
    assert_eq!(find(&hsm, Find::Public(id("new"))).await, Ok(vec![]));
    // And a key that is made takes its name from no public key alone of another id.
    bring(&hsm, "alone", &brought).await;
    let theirs = KeyTemplate { label: KeyLabel::new("alone").unwrap(), ..p256("made") };
    generate(&hsm, theirs).await.unwrap();
    assert_eq!(find(&hsm, Find::Public(id("alone"))).await.unwrap().len(), 1);
    assert_eq!(inventory(&hsm).await.len(), 5);
}

async fn wrap(hsm: &Supervisor, key: &str, by: &str, method: WrapMethod) -> Result<Bytes, HsmError> {
    let alone = find(hsm, Find::Public(id(by))).await?.first().and_then(|facts| facts.public_key.clone());
    match hsm.call(Request::Wrap(Wrap { by: id(by), key: id(key), method, alone })).await? {
        Reply::Wrapped(wrapped) => Ok(wrapped),
        other => panic!("{other:?}"),
    }
}

/// openssl has the private half.
async fn a_public_key_alone_wraps_and_does_nothing_else(token: Token) {
    let hsm = token.supervisor().await;
    let rsa = key(&token, RSA);
    bring(&hsm, "rsa", &rsa).await;
    let secret = key_material::secret_key(KeyAlgorithm::Aes, vec![7; 32].into()).unwrap();
    import(&hsm, "aes", &secret, open()).await;
    for (method, padding) in [(WrapMethod::RsaWrapPad, "pkcs1"), (WrapMethod::RsaWrapOaep, "oaep")] {
        let wrapped = wrap(&hsm, "aes", "rsa", method).await.unwrap();
        let file = token.path().join("wrapped");
        std::fs::write(&file, &wrapped).unwrap();
        let padding = format!("rsa_padding_mode:{padding}");
        let opened = run(Command::new("openssl")
            .args(["pkeyutl", "-decrypt", "-pkeyopt", &padding, "-inkey"])
            .arg(token.path().join("private.pem"))
            .arg("-in")
            .arg(&file));
        assert_eq!(opened.stdout, [7; 32], "{method}");
    }
    // It is nothing to be wrapped, and no key for AES.
    for (key, by, method) in [("rsa", "aes", WrapMethod::AesWrap), ("aes", "nobody", WrapMethod::RsaWrapOaep)]
    {
        assert_eq!(wrap(&hsm, key, by, method).await.unwrap_err().kind, Kind::KeyNotFound, "{key} {by}");
    }
    // One that was told not to wrap does not.
    let mut mute = public_of("mute", &rsa);
    mute.template.attributes.wrap = false;
    assert!(matches!(ask(&hsm, mute).await, Ok(Reply::Key(_))));
    let refused = wrap(&hsm, "aes", "mute", WrapMethod::RsaWrapOaep).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Forbidden, "{refused}");
}

async fn a_key_of_another_kind_is_refused_and_leaves_nothing(token: Token) {
    let hsm = token.supervisor().await;
    let mut job = public_of("p256", &key(&token, EC[0].1));
    job.template.algorithm = KeyAlgorithm::Dsa;
    assert_eq!(ask(&hsm, job.clone()).await.unwrap_err().kind, Kind::Unsupported);
    job.template.algorithm = KeyAlgorithm::Ec;
    job.public_key = None;
    assert_eq!(ask(&hsm, job.clone()).await.unwrap_err().kind, Kind::Invalid);
    job.public_key = Some(Bytes::from_static(b"no key"));
    assert_eq!(ask(&hsm, job).await.unwrap_err().kind, Kind::Invalid);
    assert_eq!(inventory(&hsm).await, []);
}

/// Whichever process is asked. Of two that bring one at the same moment both may miss the other on SoftHSM, which does not look
/// at what others made while it made something itself: the controller refuses one of them then.
async fn a_label_that_a_public_key_alone_has_is_not_given_to_another(token: Token) {
    let (one, other) = (token.supervisor().await, token.supervisor().await);
    let keys = [key(&token, EC[0].1), key(&token, EC[0].1)];
    let label = KeyLabel::new("one label").unwrap();
    let import = |which: usize| {
        let mut import = public_of(&format!("key {which}"), &keys[which]);
        import.template.label = label.clone();
        import
    };
    let Ok(Reply::Key(kept)) = ask(&one, import(0)).await else { panic!() };
    for hsm in [&one, &other] {
        let taken = ask(hsm, import(1)).await;
        assert!(matches!(&taken, Ok(Reply::Keys(keys)) if keys.as_slice() == [*kept.clone()]), "{taken:?}");
        assert_eq!(inventory(hsm).await.len(), 1, "nothing was made");
    }
    destroy(&other, "key 0").await;
    for hsm in [&one, &other] {
        let now = ask(hsm, import(1)).await;
        assert!(matches!(&now, Ok(Reply::Key(facts)) if facts.id == Some(id("key 1"))), "{now:?}");
    }
}
