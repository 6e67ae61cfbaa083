//! What is on a token, whatever state it is in.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use hsm_operator::{
    hsm::{
        Supervisor,
        protocol::{Find, Kept, ObjectClass},
    },
    model::{KeyAlgorithm, KeyId, KeyLabel, SignatureAlgorithm},
};

use crate::{
    common::{
        faults::Faults,
        token::{Module, Token, run},
    },
    find, generate, id, inventory, on_both_tokens, p256, sign, template,
};

on_both_tokens! {
    keys_are_told_apart,
    it_tells_how_a_key_is_kept,
    the_half_of_a_pair_is_listed_as_what_it_is,
    what_cannot_be_read_hides_nothing_and_is_never_taken_for_nothing,
    a_key_that_is_made_for_a_canary_is_seen_by_no_search,
}

async fn keys_are_told_apart(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, p256("ec")).await.unwrap();
    generate(&hsm, template("rsa", KeyAlgorithm::Rsa, Some(2048), None)).await.unwrap();
    generate(&hsm, template("ed", KeyAlgorithm::Ed, None, None)).await.unwrap();
    generate(&hsm, template("aes", KeyAlgorithm::Aes, Some(256), None)).await.unwrap();
    let entries = inventory(&hsm).await;
    assert!(entries.iter().all(|entry| !entry.ghost), "{entries:?}");
    assert_eq!(entries.len(), 7, "{entries:?}");
    let mut keys: Vec<_> = entries.into_iter().filter(|entry| entry.is_key()).collect();
    keys.sort_by(|a, b| a.label.cmp(&b.label));
    let told = keys.iter().map(|key| (key.label.as_str(), key.class, key.algorithm, key.key_size));
    let private = ObjectClass::PrivateKey;
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("aes", ObjectClass::SecretKey, Some(KeyAlgorithm::Aes), Some(256)),
            ("ec", private, Some(KeyAlgorithm::Ec), None),
            ("ed", private, Some(KeyAlgorithm::Ed), None),
            ("rsa", private, Some(KeyAlgorithm::Rsa), Some(2048)),
        ]
    );
    assert_eq!(keys[1].curve_oid.as_deref(), Some("1.2.840.10045.3.1.7"));
    assert!(keys.iter().all(|key| key.id == id(&key.label).as_bytes()));
}

async fn it_tells_how_a_key_is_kept(token: Token) {
    let hsm = token.supervisor().await;
    for (name, extractable) in [("may leave", true), ("stays", false)] {
        let mut template = template(name, KeyAlgorithm::Aes, Some(256), None);
        template.attributes.extractable = extractable;
        let facts = generate(&hsm, template).await.unwrap();
        let entries = inventory(&hsm).await;
        let entry = entries.iter().find(|entry| entry.label == name).unwrap();
        let kept = Kept { sensitive: Some(true), extractable: Some(extractable) };
        assert_eq!((entry.kept, Kept::from(&facts.attributes)), (kept, kept));
    }
}

async fn the_half_of_a_pair_is_listed_as_what_it_is(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, p256("k")).await.unwrap();
    run(token
        .tool()
        .envs(token.environment.clone())
        .args(["--token-label", &token.label, "--login", "--pin", "env:TOKEN_PIN"])
        .args(["--delete-object", "--type", "privkey", "--id", &id("k").to_string()]));
    let left: Vec<_> = inventory(&hsm).await.into_iter().map(|entry| (entry.class, entry.ghost)).collect();
    assert_eq!(left, [(ObjectClass::PublicKey, false)]);
}

async fn what_cannot_be_read_hides_nothing_and_is_never_taken_for_nothing(token: Token) {
    let maker = token.supervisor().await;
    generate(&maker, p256("k")).await.unwrap();
    generate(&maker, p256("spoilt")).await.unwrap();
    maker.shutdown().await;
    let faults = Faults::new(&token);
    faults.set(&["C_GetAttributeValue spoilt=0x80001234"]);
    let hsm = Supervisor::start(faults.config());
    let label = |name: &str| Find::Label(KeyLabel::new(name).unwrap());
    assert_eq!(find(&hsm, label("k")).await.unwrap().len(), 1);
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    for what in [label("none"), Find::Id(id("none"))] {
        assert_eq!(find(&hsm, what).await, Ok(vec![]), "the token says that it is not what cannot be read");
    }
    generate(&hsm, p256("new")).await.unwrap();
    for what in [label("spoilt"), Find::Id(id("spoilt"))] {
        let error = find(&hsm, what).await.unwrap_err();
        assert!(error.code == Some(0x8000_1234) && error.message.contains("cannot be read"), "{error}");
    }
    assert!(generate(&hsm, p256("spoilt")).await.is_err(), "a second one is made");
    let entries = inventory(&hsm).await;
    let unreadable = entries.iter().filter(|entry| entry.class == ObjectClass::Unreadable).count();
    assert_eq!((unreadable, entries.iter().filter(|entry| entry.is_key()).count()), (2, 2), "{entries:?}");
    faults.clear();
    assert_eq!(find(&hsm, label("spoilt")).await.unwrap().len(), 1);
}

/// It goes with its session, and what is seen of it meanwhile looks like what a crash left.
async fn a_key_that_is_made_for_a_canary_is_seen_by_no_search(token: Token) {
    let faults = Faults::new(&token);
    let mut config = faults.config();
    (config.deadlines.sign, config.deadlines.look) = (Duration::from_secs(6), Duration::from_secs(6));
    let hsm = Supervisor::start(config);
    generate(&hsm, p256("k")).await.unwrap();
    // No other key has signed yet, so that one is made; its signature is the third.
    let rules = ["C_Sign times=2 return=CKR_GENERAL_ERROR", "C_Sign times=1 delay=1500"];
    let numbers = faults.set(&rules);
    let signing = tokio::spawn({
        let hsm = Arc::clone(&hsm);
        async move { sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await }
    });
    let begun = Instant::now();
    while faults.fired(numbers[1]) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "no canary");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let entries = inventory(&hsm).await;
    assert!(entries.iter().all(|entry| !entry.ghost), "{entries:?}");
    signing.await.unwrap().unwrap();
}

/// What SoftHSM may leave when it is killed while it makes a key: an object of a class, and little or nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_module_leaves_is_listed_as_a_ghost_and_hides_no_key() {
    let token = Token::new(Module::SoftHsm);
    {
        let hsm = token.supervisor().await;
        generate(&hsm, p256("k")).await.unwrap();
        hsm.shutdown().await;
    }
    let folder = objects(&token);
    // Its file format: a generation, and attributes as type, kind and value, all of them 64-bit numbers.
    let number =
        |kind: u64, value: u64| [kind.to_be_bytes(), 2_u64.to_be_bytes(), value.to_be_bytes()].concat();
    let flag = |kind: u64, value: u8| [&kind.to_be_bytes()[..], &1_u64.to_be_bytes(), &[value]].concat();
    let (class, token_object, private) = (0x0, 0x1, 0x2);
    let generation = 1_u64.to_be_bytes().to_vec();
    let bare = [generation.clone(), number(class, 3), flag(token_object, 1), flag(private, 0)].concat();
    let only_class = [generation, number(class, 4)].concat();
    for (name, content) in [("bare", bare), ("class", only_class), ("empty", Vec::new())] {
        std::fs::write(folder.join(format!("{name}.object")), content).unwrap();
        std::fs::write(folder.join(format!("{name}.lock")), "").unwrap();
    }
    let hsm = token.supervisor().await;
    let (ghosts, whole): (Vec<_>, Vec<_>) = inventory(&hsm).await.into_iter().partition(|entry| entry.ghost);
    assert_eq!(whole.len(), 2, "{whole:?}");
    assert!(ghosts.iter().any(|ghost| ghost.class == ObjectClass::PrivateKey), "{ghosts:?}");
    assert!(
        ghosts.iter().all(|ghost| ghost.label.is_empty() && KeyId::from_bytes(ghost.id.clone()).is_err())
    );
    println!("{ghosts:?}");
    assert_eq!(find(&hsm, Find::Id(id("k"))).await.unwrap().len(), 1);
}

/// The folder in which SoftHSM keeps the token's objects.
fn objects(token: &Token) -> PathBuf {
    let mut folders = std::fs::read_dir(token.path().join("tokens")).unwrap();
    folders.next().expect("one token").unwrap().path()
}
