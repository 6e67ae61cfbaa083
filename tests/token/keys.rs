use std::process::Command;

use bytes::Bytes;
use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        protocol::{Find, Kind, Reply, Request},
    },
    model::{KeyAlgorithm, KeyLabel, SignatureAlgorithm},
    public_key::PublicKey,
};
use tokio_util::sync::CancellationToken;

use crate::{
    common::{
        faults::Faults,
        token::{Token, run},
    },
    find, generate, id, inventory, on_both_tokens, p256, sign, template,
};

on_both_tokens! {
    making_a_key_twice_gives_one_pair,
    keys_are_found_by_id_and_label_and_nothing_is_nothing,
    destroying_takes_both_halves_and_may_be_repeated,
    a_key_that_is_not_destroyable_stays,
    a_certificate_is_kept_and_replaced,
    a_key_deleted_by_somebody_else_is_not_found,
    two_keys_with_one_id_are_never_used,
    a_second_key_of_an_id_is_noticed_by_whoever_looks_and_then_by_who_signs,
    the_public_half_alone_is_not_a_key,
    a_leftover_that_stays_is_not_taken_for_the_public_key,
    of_two_public_halves_none_is_guessed,
    a_secret_key_of_doubtful_origin_is_never_destroyed,
    random_bytes_differ,
    keys_made_while_others_look_and_sign_are_whole,
}

/// A module may call itself safe for threads and still spoil an object that one thread makes while another goes
/// through all of them (SoftHSM 2.6 does). What is really on the token is seen by a process that comes later.
async fn keys_made_while_others_look_and_sign_are_whole(token: Token) {
    const KEYS: usize = 60;
    let (maker, other) = (token.supervisor().await, token.supervisor().await);
    let names: Vec<String> = (0..KEYS).map(|number| format!("k{number}")).collect();
    generate(&maker, p256("first")).await.unwrap();
    let done = CancellationToken::new();
    let look = async |hsm: &Supervisor| {
        while !done.is_cancelled() {
            assert_eq!(find(hsm, Find::Id(id("none"))).await, Ok(vec![]));
        }
    };
    let use_it = async |hsm: &Supervisor| {
        while !done.is_cancelled() {
            sign(hsm, "first", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
        }
    };
    let make = async {
        for name in &names {
            let made = generate(&maker, p256(name)).await.unwrap();
            // At once, by several threads of another process, none of which knew the key.
            let at_once = [(); 4].map(|()| sign(&other, name, SignatureAlgorithm::Sha256WithEcdsa, b"x"));
            for signed in futures::future::join_all(at_once).await {
                signed.unwrap_or_else(|error| panic!("{name}: {error}, made as {made:?}"));
            }
        }
        done.cancel();
    };
    tokio::join!(make, look(&maker), look(&other), use_it(&maker), use_it(&other));
    let later = token.supervisor().await;
    for name in &names {
        let found = find(&later, Find::Id(id(name))).await.unwrap();
        assert!(
            matches!(found.as_slice(), [facts] if facts.public_key.is_some() && facts.label == *name),
            "{found:?}"
        );
        sign(&later, name, SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    }
    assert_eq!(inventory(&later).await.len(), 2 * (KEYS + 1));
}

async fn making_a_key_twice_gives_one_pair(token: Token) {
    let hsm = token.supervisor().await;
    let first = generate(&hsm, p256("k")).await.unwrap();
    assert_eq!(generate(&hsm, p256("k")).await.unwrap(), first);
    let entries = inventory(&hsm).await;
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries.iter().filter(|entry| entry.is_key()).count(), 1);
    assert!(entries.iter().all(|entry| entry.label == "k" && entry.id == id("k").as_bytes()));
}

async fn keys_are_found_by_id_and_label_and_nothing_is_nothing(token: Token) {
    let hsm = token.supervisor().await;
    let made = generate(&hsm, p256("Signing key")).await.unwrap();
    assert_eq!(find(&hsm, Find::Id(id("Signing key"))).await.unwrap(), std::slice::from_ref(&made));
    let label = |text: &str| Find::Label(KeyLabel::new(text).unwrap());
    assert_eq!(find(&hsm, label("Signing key")).await.unwrap(), [made]);
    assert_eq!(find(&hsm, label("another")).await.unwrap(), []);
    assert_eq!(find(&hsm, Find::Id(id("another"))).await.unwrap(), []);
    let error = sign(&hsm, "another", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::KeyNotFound);
}

async fn destroying_takes_both_halves_and_may_be_repeated(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, p256("k")).await.unwrap();
    generate(&hsm, p256("other")).await.unwrap();
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    put(&hsm, "k", &certificate(&token, "first")).await;
    for _ in 0..2 {
        assert!(matches!(hsm.call(Request::Destroy(id("k"))).await, Ok(Reply::Done)));
    }
    let entries = inventory(&hsm).await;
    assert!(entries.len() == 2 && entries.iter().all(|entry| entry.label == "other"), "{entries:?}");
    let error = sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::KeyNotFound);
}

async fn a_key_that_is_not_destroyable_stays(token: Token) {
    let hsm = token.supervisor().await;
    let mut template = p256("k");
    template.attributes.destroyable = false;
    let facts = generate(&hsm, template).await.unwrap();
    assert_eq!(facts.attributes.destroyable, Some(false));
    let error = hsm.call(Request::Destroy(id("k"))).await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    assert_eq!(inventory(&hsm).await.len(), 2);
}

fn certificate(token: &Token, name: &str) -> Bytes {
    let path = token.path().join("certificate.der");
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-keyout", "/dev/null", "-outform", "DER", "-subj", &format!("/CN={name}"), "-out"])
        .arg(&path));
    std::fs::read(path).unwrap().into()
}

async fn put(hsm: &Supervisor, key: &str, der: &Bytes) {
    let request = Request::PutCertificate { key: id(key), label: key.into(), der: der.clone() };
    assert!(matches!(hsm.call(request).await.unwrap(), Reply::Done));
}

async fn a_certificate_is_kept_and_replaced(token: Token) {
    let hsm = token.supervisor().await;
    let get = async || match hsm.call(Request::GetCertificate(id("k"))).await.unwrap() {
        Reply::Certificate(certificate) => certificate,
        other => panic!("{other:?}"),
    };
    assert_eq!(get().await, None);
    let (first, second) = (certificate(&token, "first"), certificate(&token, "second"));
    put(&hsm, "k", &first).await;
    put(&hsm, "k", &first).await;
    assert_eq!(get().await, Some(first));
    put(&hsm, "k", &second).await;
    assert_eq!(get().await, Some(second));
    assert_eq!(inventory(&hsm).await.len(), 1);
    let nonsense = Request::PutCertificate { key: id("k"), label: "k".into(), der: b"x".as_slice().into() };
    assert_eq!(hsm.call(nonsense).await.unwrap_err().kind, Kind::Invalid);
}

async fn a_key_deleted_by_somebody_else_is_not_found(token: Token) {
    let (hsm, other) = (token.supervisor().await, token.supervisor().await);
    generate(&hsm, p256("k")).await.unwrap();
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    other.call(Request::Destroy(id("k"))).await.unwrap();
    let error = sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::KeyNotFound, "{error}");
    generate(&other, p256("k")).await.unwrap();
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    assert_eq!(hsm.counters().restarts, 0);
}

/// Makes a key pair with the id of another, as no part of the operator does.
fn make_twin(token: &Token, name: &str) {
    run(token
        .tool()
        .envs(token.environment.clone())
        .args(["--token-label", &token.label, "--login", "--pin", "env:TOKEN_PIN", "--keypairgen"])
        .args(["--key-type", "EC:prime256v1", "--usage-sign", "--label", "twin"])
        .args(["--id", &id(name).to_string()]));
}

async fn two_keys_with_one_id_are_never_used(token: Token) {
    let hsm = token.supervisor().await;
    make_twin(&token, "k");
    let only = find(&hsm, Find::Id(id("k"))).await.unwrap();
    assert_eq!((only.len(), only[0].twins, only[0].label.as_str()), (1, 1, "twin"));
    assert_eq!(generate(&hsm, p256("k")).await.unwrap(), only[0], "a key with this id is there already");
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    make_twin(&token, "k");
    assert_eq!(generate(&hsm, p256("k")).await.unwrap().twins, 2);
    let found = find(&hsm, Find::Id(id("k"))).await.unwrap();
    assert_eq!(found.iter().map(|key| key.twins).collect::<Vec<_>>(), [2, 2]);
    let error = sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Ambiguous, "{error}");
}

async fn a_second_key_of_an_id_is_noticed_by_whoever_looks_and_then_by_who_signs(token: Token) {
    let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
    let hsm = token.supervisor().await;
    for (name, look) in [
        ("inventory", Request::Inventory),
        ("label", Request::Find(Find::Label(KeyLabel::new("none").unwrap()))),
        ("id", Request::Find(Find::Id(id("none")))),
    ] {
        generate(&hsm, p256(name)).await.unwrap();
        sign(&hsm, name, algorithm, b"x").await.unwrap();
        make_twin(&token, name);
        // Whatever was looked for.
        hsm.call(look).await.unwrap();
        let error = sign(&hsm, name, algorithm, b"x").await.unwrap_err();
        assert_eq!(error.kind, Kind::Ambiguous, "{name}: {error}");
        assert_eq!(find(&hsm, Find::Id(id(name))).await.unwrap().len(), 2);
    }
    assert_eq!(hsm.counters().restarts, 0);
}

/// Deletes an object of a key by another program.
fn delete(token: &Token, name: &str, class: &str) {
    run(token
        .tool()
        .envs(token.environment.clone())
        .args(["--token-label", &token.label, "--login", "--pin", "env:TOKEN_PIN"])
        .args(["--delete-object", "--type", class, "--id", &id(name).to_string()]));
}

/// Leaves the public half of a key that was never finished.
fn leave_public_half(token: &Token, name: &str) {
    make_twin(token, name);
    delete(token, name, "privkey");
}

async fn a_leftover_that_stays_is_not_taken_for_the_public_key(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    leave_public_half(&token, "k");
    // The token says that it destroyed it, and did nothing.
    faults.set(&["C_DestroyObject return=0x0", "C_SetAttributeValue return=0x10"]);
    let refused = generate(&hsm, p256("k")).await.unwrap_err();
    assert!(refused.kind == Kind::Ambiguous && refused.message.contains(&id("k").to_string()), "{refused}");
    assert_eq!(find(&hsm, Find::Id(id("k"))).await.unwrap(), [], "no key was made");

    faults.set(&["C_DestroyObject return=0x0"]);
    let made = generate(&hsm, p256("k")).await.unwrap();
    let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
    let signature = sign(&hsm, "k", algorithm, b"x").await.unwrap();
    let public = PublicKey::from_spki(&made.public_key.unwrap()).unwrap();
    public.verify(algorithm, b"x", &signature).unwrap();
    faults.clear();
    assert_eq!(inventory(&hsm).await.len(), 3, "the leftover is there under another id");
    assert_eq!(generate(&hsm, p256("k")).await.unwrap().twins, 1);
}

async fn of_two_public_halves_none_is_guessed(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, p256("k")).await.unwrap();
    leave_public_half(&token, "k");
    match find(&hsm, Find::Id(id("k"))).await {
        Err(refused) => {
            assert!(refused.kind == Kind::Ambiguous && refused.message.contains("2 different"), "{refused}");
        }
        // Some tokens have the public key with the private half, too.
        Ok(found) => {
            let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
            let signature = sign(&hsm, "k", algorithm, b"x").await.unwrap();
            let public = PublicKey::from_spki(found[0].public_key.as_ref().unwrap()).unwrap();
            public.verify(algorithm, b"x", &signature).unwrap();
        }
    }
}

async fn the_public_half_alone_is_not_a_key(token: Token) {
    let hsm = token.supervisor().await;
    leave_public_half(&token, "k");
    assert_eq!(find(&hsm, Find::Id(id("k"))).await.unwrap(), []);
    let made = generate(&hsm, p256("k")).await.unwrap();
    assert_eq!(inventory(&hsm).await.len(), 2);
    // The other way round the key still signs, and says what its public key is where its token tells.
    delete(&token, "k", "pubkey");
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    let left = generate(&hsm, p256("k")).await.unwrap();
    assert!(left.public_key.is_none() || left.public_key == made.public_key);
}

async fn a_secret_key_of_doubtful_origin_is_never_destroyed(token: Token) {
    let hsm = token.supervisor().await;
    let value = token.path().join("aes.bin");
    std::fs::write(&value, [7; 32]).unwrap();
    run(token
        .tool()
        .envs(token.environment.clone())
        .args(["--token-label", &token.label, "--login", "--pin", "env:TOKEN_PIN", "--type", "secrkey"])
        .args(["--key-type", "AES:32", "--label", "imported", "--id", &id("k").to_string(), "--write-object"])
        .arg(value));
    let made = generate(&hsm, template("k", KeyAlgorithm::Aes, Some(256), None)).await.unwrap();
    assert_eq!(made.twins, 1);
    assert!(inventory(&hsm).await.iter().any(|entry| entry.label == "imported"));
    assert!(made.label == "imported" || made.local == Some(true), "{made:?}");
}

async fn random_bytes_differ(token: Token) {
    let hsm = token.supervisor().await;
    let random = async |count| match hsm.call(Request::Random(count)).await.unwrap() {
        Reply::Random(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    let (first, second) = (random(32).await, random(32).await);
    assert_eq!(first.len(), 32);
    assert_ne!(first, second);
}
