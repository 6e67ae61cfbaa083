//! A module that goes wrong while a key is made: whatever happened, whoever asks again has one key.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        protocol::{Find, HsmError, KeyFacts, KeyTemplate, Kind, Request},
    },
    model::{KeyAlgorithm, SignatureAlgorithm},
};

use crate::{
    common::{faults::Faults, token::Token},
    find, generate, id, inventory, on_both_tokens, p256, sign, template,
};

on_both_tokens! {
    a_pair_is_made_once_whatever_goes_wrong,
    a_secret_key_is_made_once_whatever_goes_wrong,
    a_key_is_destroyed_whatever_goes_wrong,
    a_key_that_stays_is_not_said_to_be_destroyed,
    a_full_token_says_so_and_takes_keys_again,
    a_key_whose_caller_went_away_before_its_turn_is_not_made,
}

/// How long it may take until the caller has what it asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A rule, and as what the first try may fail; it may also succeed.
type Row = (&'static str, &'static [Kind]);

/// In the call that makes the key, and in those before and after it.
const ROWS: &[Row] = &[
    ("MAKE times=1 segv", &[Kind::Crashed]),
    ("MAKE times=1 abort", &[Kind::Crashed]),
    ("MAKE times=1 hang", &[Kind::Timeout, Kind::Crashed]),
    ("MAKE times=1 delay=200", &[]),
    ("MAKE times=1 return=CKR_GENERAL_ERROR", &[Kind::Device]),
    ("MAKE times=1 return=CKR_DEVICE_ERROR", &[Kind::Device]),
    ("MAKE times=1 full", &[Kind::Full]),
    ("MAKE times=1 return=CKR_DEVICE_REMOVED", &[]),
    ("MAKE times=1 return=CKR_SESSION_HANDLE_INVALID", &[]),
    ("MAKE times=1 logout", &[]),
    ("MAKE times=1 close-sessions", &[]),
    ("C_FindObjectsInit times=1 segv", &[Kind::Crashed]),
    ("C_FindObjectsInit times=1 logout", &[]),
    ("C_FindObjectsInit times=1 return=CKR_GENERAL_ERROR", &[Kind::Device]),
    ("C_FindObjects after=1 times=1 hang", &[Kind::Timeout, Kind::Crashed]),
    ("C_GetAttributeValue times=1 segv", &[Kind::Crashed]),
    ("C_GetAttributeValue times=1 close-sessions", &[]),
    ("C_GetAttributeValue after=1 times=1 stale", &[Kind::Crashed]),
    ("C_GetAttributeValue after=1 times=1 return=CKR_GENERAL_ERROR", &[Kind::Device]),
];

/// Asks for a key until it is there.
async fn persist(hsm: &Supervisor, template: &KeyTemplate) -> (KeyFacts, Vec<HsmError>) {
    let (begun, mut errors) = (Instant::now(), Vec::new());
    loop {
        match generate(hsm, template.clone()).await {
            Ok(facts) => return (facts, errors),
            Err(error) => errors.push(error),
        }
        assert!(begun.elapsed() < PATIENCE, "no key within {PATIENCE:?}: {errors:?}");
        // As who asks again would: not at once.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A token with a key of another name.
async fn stage(token: &Token) -> (Faults, Arc<Supervisor>) {
    let faults = Faults::new(token);
    let hsm = Supervisor::start(faults.config());
    generate(&hsm, p256("other")).await.expect("a key");
    (faults, hsm)
}

async fn made_once(
    token: Token,
    rows: impl Iterator<Item = &Row>,
    make: &str,
    key: impl Fn(&str) -> KeyTemplate,
    check: impl AsyncFn(&Supervisor, &str, &KeyFacts),
) {
    let (faults, hsm) = stage(&token).await;
    let mut complaints = Vec::new();
    for (number, (rule, may)) in rows.enumerate() {
        let rule = rule.replace("MAKE", make);
        let name = format!("k{number}");
        let numbers = faults.set(&[&rule]);
        let begun = Instant::now();
        let (facts, errors) = persist(&hsm, &key(&name)).await;
        let took = begun.elapsed().as_millis();
        let fired = faults.fired(numbers[0]);
        faults.clear();
        let kinds: Vec<_> = errors.iter().map(|error| error.kind).collect();
        println!(
            "chaos {:?} | generate | {rule} | made after {took} ms | fired {fired} | {kinds:?}",
            token.module
        );
        let mut complain = |what: String| complaints.push(format!("{rule}: {what}"));
        if fired != 1 {
            complain(format!("it came true {fired} times"));
        }
        for error in errors.iter().filter(|error| !may.contains(&error.kind)) {
            complain(format!("failed as {:?}: {error}", error.kind));
        }
        let found = find(&hsm, Find::Id(id(&name))).await.expect("it is found");
        if (facts.twins, found.len()) != (1, 1) {
            complain(format!("{} twins, {} found", facts.twins, found.len()));
        }
        check(&hsm, &name, &facts).await;
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

async fn a_pair_is_made_once_whatever_goes_wrong(token: Token) {
    made_once(token, ROWS.iter(), "C_GenerateKeyPair", p256, async |hsm, name, facts| {
        assert!(facts.public_key.is_some(), "{name}");
        sign(hsm, name, SignatureAlgorithm::Sha256WithEcdsa, b"x").await.expect("it signs");
        let mut halves = inventory(hsm).await;
        halves.retain(|entry| entry.id == id(name).as_bytes());
        let private = halves.iter().filter(|entry| entry.is_key()).count();
        assert_eq!((halves.len(), private), (2, 1), "{name}: {halves:?}");
    })
    .await;
}

async fn a_secret_key_is_made_once_whatever_goes_wrong(token: Token) {
    let aes = |name: &str| template(name, KeyAlgorithm::Aes, Some(256), None);
    // Hangs take long and are the same for both.
    let rows = ROWS.iter().filter(|(rule, _)| !rule.ends_with("hang"));
    made_once(token, rows, "C_GenerateKey", aes, async |_, name, facts| {
        assert_eq!((facts.key_size, facts.local), (Some(256), Some(true)), "{name}");
    })
    .await;
}

async fn a_key_is_destroyed_whatever_goes_wrong(token: Token) {
    let (faults, hsm) = stage(&token).await;
    let rules = [
        "C_DestroyObject times=1 segv",
        "C_DestroyObject after=1 times=1 segv",
        "C_DestroyObject times=1 hang",
        "C_DestroyObject times=1 stale",
        "C_DestroyObject after=1 times=1 logout",
        "C_DestroyObject times=1 return=CKR_GENERAL_ERROR",
        // It says that it did, and the object stays.
        "C_DestroyObject times=1 return=0x0",
        "C_DestroyObject after=1 times=1 return=0x0",
    ];
    for (number, rule) in rules.into_iter().enumerate() {
        let name = format!("k{number}");
        generate(&hsm, p256(&name)).await.unwrap();
        let numbers = faults.set(&[rule]);
        let begun = Instant::now();
        let mut kinds = Vec::new();
        while let Err(error) = hsm.call(Request::Destroy(id(&name))).await {
            kinds.push(error.kind);
            assert!(begun.elapsed() < PATIENCE, "{rule}: {kinds:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = begun.elapsed().as_millis();
        println!("chaos {:?} | destroy | {rule} | gone after {took} ms | {kinds:?}", token.module);
        assert_eq!(faults.fired(numbers[0]), 1, "{rule}");
        faults.clear();
        assert_eq!(find(&hsm, Find::Id(id(&name))).await.unwrap(), [], "{rule}");
        assert!(inventory(&hsm).await.iter().all(|entry| entry.id != id(&name).as_bytes()), "{rule}");
        let others = find(&hsm, Find::Id(id("other"))).await.unwrap();
        assert_eq!(others.len(), 1, "{rule}");
    }
}

async fn a_key_that_stays_is_not_said_to_be_destroyed(token: Token) {
    let (faults, hsm) = stage(&token).await;
    generate(&hsm, p256("k")).await.unwrap();
    faults.set(&["C_DestroyObject return=0x0"]);
    let error = hsm.call(Request::Destroy(id("k"))).await.unwrap_err();
    assert!(error.kind == Kind::Device && error.message.contains("still shows it"), "{error}");
    faults.clear();
    hsm.call(Request::Destroy(id("k"))).await.unwrap();
    assert!(inventory(&hsm).await.iter().all(|entry| entry.id != id("k").as_bytes()));
}

async fn a_full_token_says_so_and_takes_keys_again(token: Token) {
    let (faults, hsm) = stage(&token).await;
    faults.set(&["* full"]);
    for _ in 0..3 {
        assert_eq!(generate(&hsm, p256("k")).await.unwrap_err().kind, Kind::Full);
    }
    sign(&hsm, "other", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.expect("signing needs no room");
    faults.clear();
    assert_eq!(generate(&hsm, p256("k")).await.unwrap().twins, 1);
    assert_eq!(hsm.counters().restarts, 0);
}

async fn a_key_whose_caller_went_away_before_its_turn_is_not_made(token: Token) {
    /// As many as the token-host is given at a time.
    const TOGETHER: usize = 2;
    let (faults, hsm) = stage(&token).await;
    let slow = faults.set(&["C_GenerateKeyPair delay=60"]);
    let make = |number: usize| Box::pin(generate(&hsm, p256(&format!("k{number}"))));
    let mut calls: Vec<_> = (0..=TOGETHER).map(make).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    drop(calls.pop());
    for answer in futures::future::join_all(calls).await {
        answer.unwrap();
    }
    // Comes after whatever is still on its way.
    generate(&hsm, p256("last")).await.unwrap();
    assert_eq!(faults.fired(slow[0]), TOGETHER as u64 + 1);
    assert!(find(&hsm, Find::Id(id(&format!("k{TOGETHER}")))).await.unwrap().is_empty());
}
