//! Keys are found without a search for each of them.

use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        protocol::{Find, KeyFacts, KeyTemplate, Kind, Reply, Request},
    },
    model::{KeyAlgorithm, KeyLabel, SignatureAlgorithm},
};

use crate::{
    common::{
        faults::Faults,
        token::{Token, run},
    },
    find, generate, id, inventory, on_both_tokens, p256, sign, template,
};

on_both_tokens! {
    one_search_finds_many_keys,
    one_search_proves_many_absent,
    a_key_that_was_seen_is_found_by_one_question,
    what_others_do_to_a_key_that_was_seen_is_seen_at_once,
    what_others_make_is_found_at_once_and_what_they_destroy_is_not,
    one_search_is_enough_to_claim_many_labels,
    a_label_that_others_have_is_not_claimed,
}

/// Counts searches and does nothing else to them.
const COUNT: &str = "C_FindObjectsInit delay=0";

fn label(name: &str) -> Find {
    Find::Label(KeyLabel::new(name).unwrap())
}

async fn one_search_finds_many_keys(token: Token) {
    let names: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    let maker = token.supervisor().await;
    for name in &names {
        generate(&maker, p256(name)).await.unwrap();
    }
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    let counter = faults.set(&[COUNT])[0];
    for name in &names {
        assert_eq!(find(&hsm, label(name)).await.unwrap()[0].id, Some(id(name)));
        assert_eq!(find(&hsm, Find::Id(id(name))).await.unwrap()[0].label, *name);
        sign(&hsm, name, SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    }
    assert_eq!(faults.fired(counter), 1);
}

/// What was read along with everybody's names is not asked for again; the rest is.
async fn a_key_that_was_seen_is_found_by_one_question(token: Token) {
    let maker = token.supervisor().await;
    let made = generate(&maker, p256("pair")).await.unwrap();
    let secret = generate(&maker, template("secret", KeyAlgorithm::Aes, Some(256), None)).await.unwrap();
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    assert_eq!(find(&hsm, label("pair")).await, Ok(vec![made.clone()]), "by what it says itself");
    let counter = faults.set(&["C_GetAttributeValue delay=0"])[0];
    for (number, key) in [&made, &secret].into_iter().enumerate() {
        let id = key.id.clone().unwrap();
        for (again, what) in [label(&key.label), Find::Id(id)].into_iter().enumerate() {
            assert_eq!(find(&hsm, what).await, Ok(vec![key.clone()]));
            assert_eq!(faults.fired(counter), 2 * number as u64 + again as u64 + 1);
        }
    }
}

async fn what_others_do_to_a_key_that_was_seen_is_seen_at_once(token: Token) {
    let maker = token.supervisor().await;
    for name in ["k", "gone", "new"] {
        generate(&maker, p256(name)).await.unwrap();
    }
    let hsm = token.supervisor().await;
    for name in ["k", "gone", "new"] {
        assert_eq!(find(&hsm, label(name)).await.unwrap().len(), 1);
    }
    // The public half stays.
    change(&token, "gone", &["--delete-object"]);
    change(&token, "k", &["--set-id", &id("other").to_string()]);
    for what in [label("gone"), Find::Id(id("gone")), Find::Id(id("k"))] {
        assert_eq!(find(&hsm, what.clone()).await, Ok(vec![]), "{what:?}");
    }
    for what in [label("k"), Find::Id(id("other"))] {
        assert_eq!(find(&hsm, what).await.unwrap()[0].id, Some(id("other")));
    }
    // Another key in the place of the first, with all its names.
    crate::destroy(&maker, "new").await;
    let new = generate(&maker, p256("new")).await.unwrap();
    assert_eq!(find(&hsm, label("new")).await, Ok(vec![new]));
}

/// Somebody else's program does something to the private half of a key.
fn change(token: &Token, name: &str, what: &[&str]) {
    let mut tool = token.tool();
    tool.envs(token.environment.clone()).args(["--token-label", &token.label]);
    tool.args(["--login", "--pin", "env:TOKEN_PIN", "--type", "privkey", "--id", &id(name).to_string()]);
    run(tool.args(what));
}

/// What waits for its turn is answered by the search of whoever comes first.
async fn one_search_proves_many_absent(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    generate(&hsm, p256("k")).await.unwrap();
    let counter = faults.set(&["C_FindObjectsInit delay=100"])[0];
    let names: Vec<String> = (0..40).map(|number| format!("none-{number}")).collect();
    let looks = names.iter().map(|name| find(&hsm, label(name)));
    for found in futures::future::join_all(looks).await {
        assert_eq!(found, Ok(vec![]));
    }
    let searches = faults.fired(counter);
    assert!(searches <= 3, "{searches} searches");
    // Later, it is another question.
    assert_eq!(find(&hsm, label("none-0")).await, Ok(vec![]));
    assert_eq!(faults.fired(counter), searches + 1);
}

async fn what_others_make_is_found_at_once_and_what_they_destroy_is_not(token: Token) {
    let (hsm, other) = (token.supervisor().await, token.supervisor().await);
    assert_eq!(find(&hsm, label("k")).await, Ok(vec![]));
    let made = generate(&other, p256("k")).await.unwrap();
    assert_eq!(find(&hsm, label("k")).await, Ok(vec![made]));
    crate::destroy(&other, "k").await;
    assert_eq!(find(&hsm, label("k")).await, Ok(vec![]));
    generate(&other, p256("k")).await.unwrap();
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    crate::destroy(&other, "k").await;
    let error = sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::KeyNotFound);
}

async fn claim(hsm: &Supervisor, template: KeyTemplate) -> Result<KeyFacts, Vec<KeyFacts>> {
    match hsm.call(Request::Claim(template)).await.unwrap() {
        Reply::Key(made) => Ok(*made),
        Reply::Keys(others) => Err(others),
        other => panic!("{other:?}"),
    }
}

/// That label and identifier are free is proven by the search of whoever comes first, for all who wait.
async fn one_search_is_enough_to_claim_many_labels(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    generate(&hsm, p256("k")).await.unwrap();
    let counter = faults.set(&["C_FindObjectsInit delay=100"])[0];
    let names: Vec<String> = (0..20).map(|number| format!("new-{number}")).collect();
    let claims = names.iter().map(|name| claim(&hsm, p256(name)));
    for (name, made) in names.iter().zip(futures::future::join_all(claims).await) {
        let made = made.unwrap();
        assert_eq!((made.id, made.twins), (Some(id(name)), 1));
    }
    let searches = faults.fired(counter);
    assert!(searches <= 3, "{searches} searches");
}

async fn a_label_that_others_have_is_not_claimed(token: Token) {
    let (hsm, other) = (token.supervisor().await, token.supervisor().await);
    let known = Find::Known(KeyLabel::new("k").unwrap());
    assert_eq!(find(&hsm, known.clone()).await, Ok(vec![]));
    let theirs = generate(&other, KeyTemplate { id: id("theirs"), ..p256("k") }).await.unwrap();
    assert_eq!(find(&hsm, known.clone()).await, Ok(vec![]), "nobody looked");
    let before = inventory(&hsm).await.len();
    assert_eq!(claim(&hsm, p256("k")).await, Err(vec![theirs.clone()]));
    assert_eq!(inventory(&hsm).await.len(), before, "nothing was made");
    assert_eq!(find(&hsm, known).await, Ok(vec![theirs]), "the claim looked");

    let made = claim(&hsm, p256("mine")).await.unwrap();
    assert_eq!(claim(&hsm, p256("mine")).await, Ok(made), "its own");
}
