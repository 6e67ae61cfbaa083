//! Keys are found without a search for each of them.

use hsm_operator::{
    hsm::{
        Supervisor,
        protocol::{Find, Kind},
    },
    model::{KeyLabel, SignatureAlgorithm},
};

use crate::{
    common::{faults::Faults, token::Token},
    find, generate, id, on_both_tokens, p256, sign,
};

on_both_tokens! {
    one_search_finds_many_keys,
    one_search_proves_many_absent,
    what_others_make_is_found_at_once_and_what_they_destroy_is_not,
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
