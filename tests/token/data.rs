//! Data objects on real tokens.

use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        protocol::{DataFacts, Find, HsmError, Kind, Reply, Request},
    },
    model::{
        KeyLabel, SignatureAlgorithm,
        data::{DataAttributes, DataName, DataValue, VALUE_MAX},
    },
};

use crate::{
    common::{
        faults::Faults,
        token::{Module, Token, run},
    },
    find, generate, inventory, on_both_tokens, p256, sign,
};

on_both_tokens! {
    a_data_object_is_read_by_another_process_as_it_was_made,
    a_data_object_is_not_overwritten,
    namespaces_have_data_objects_of_their_own,
    one_that_is_not_destroyable_stays,
    one_that_is_not_private_is_shown_without_a_login_and_others_are_not,
    of_several_that_make_one_at_the_same_time_at_most_one_is_told_that_it_did,
    several_of_one_name_are_not_read_and_go_together,
    one_whose_making_was_interrupted_is_not_made_twice,
    nothing_found_without_a_login_is_not_believed,
    keys_and_their_inventory_know_nothing_of_data_objects,
    data_objects_of_others_are_left_alone,
}

const PRIVATE: DataAttributes = DataAttributes { private: true, modifiable: true, destroyable: true };

fn name(name: &str) -> DataName {
    DataName::new("shop", name).unwrap()
}

fn value(bytes: &[u8]) -> DataValue {
    DataValue::new(bytes.to_vec()).unwrap()
}

async fn put(
    hsm: &Supervisor,
    name: DataName,
    bytes: &[u8],
    attributes: DataAttributes,
) -> Result<Option<DataAttributes>, HsmError> {
    match hsm.call(Request::PutData { name, value: value(bytes), attributes }).await? {
        Reply::DataKept(kept) => Ok(kept),
        other => panic!("{other:?}"),
    }
}

async fn get(hsm: &Supervisor, name: DataName) -> Result<Option<DataFacts>, HsmError> {
    match hsm.call(Request::GetData(name)).await? {
        Reply::Data(facts) => Ok(facts.map(|facts| *facts)),
        other => panic!("{other:?}"),
    }
}

async fn destroy(hsm: &Supervisor, name: DataName) -> Result<bool, HsmError> {
    match hsm.call(Request::DestroyData(name)).await? {
        Reply::DataGone(there) => Ok(there),
        other => panic!("{other:?}"),
    }
}

/// What `pkcs11-tool` says of the token's data objects, with its user's PIN or without.
fn listed(token: &Token, login: bool) -> String {
    let mut tool = token.tool();
    tool.envs(token.environment.clone()).args(["--token-label", &token.label]);
    if login {
        tool.args(["--login", "--pin", "env:TOKEN_PIN"]);
    }
    let output = run(tool.args(["--list-objects", "--type", "data"]));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn a_data_object_is_read_by_another_process_as_it_was_made(token: Token) {
    let hsm = token.supervisor().await;
    let all: Vec<u8> = (0..VALUE_MAX).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let rows: [(&str, &[u8], DataAttributes); 4] = [
        ("one byte", &[0], PRIVATE),
        ("all of it", &all, PRIVATE),
        ("Zürich @ 2/1", b"\0x\0", DataAttributes { modifiable: false, ..PRIVATE }),
        (&"n".repeat(255), b"public", DataAttributes { private: false, ..PRIVATE }),
    ];
    for (text, bytes, attributes) in rows {
        assert_eq!(put(&hsm, name(text), bytes, attributes).await, Ok(Some(attributes)), "{text}");
    }
    hsm.shutdown().await;
    let hsm = token.supervisor().await;
    for (text, bytes, attributes) in rows {
        let facts = DataFacts { value: value(bytes), attributes };
        assert!(get(&hsm, name(text)).await == Ok(Some(facts)), "{text}");
        assert_eq!(destroy(&hsm, name(text)).await, Ok(true), "{text}");
        assert_eq!(get(&hsm, name(text)).await, Ok(None), "{text}");
        assert_eq!(destroy(&hsm, name(text)).await, Ok(false), "{text}");
    }
    assert!(!listed(&token, true).contains("hsm-operator"), "nothing is left of them");
}

async fn a_data_object_is_not_overwritten(token: Token) {
    let (hsm, other) = (token.supervisor().await, token.supervisor().await);
    put(&hsm, name("d"), b"first", PRIVATE).await.unwrap();
    for hsm in [&hsm, &other] {
        for bytes in [b"other", b"first"] {
            assert_eq!(put(hsm, name("d"), bytes, PRIVATE).await, Ok(None));
        }
        assert_eq!(get(hsm, name("d")).await.unwrap().unwrap().value, value(b"first"));
    }
}

async fn namespaces_have_data_objects_of_their_own(token: Token) {
    let hsm = token.supervisor().await;
    let of = |namespace: &str, name: &str| DataName::new(namespace, name).unwrap();
    put(&hsm, of("a", "b/c"), b"one", PRIVATE).await.unwrap();
    assert_eq!(get(&hsm, of("b", "c")).await, Ok(None));
    assert_eq!(get(&hsm, of("a", "b")).await, Ok(None));
    assert_eq!(destroy(&hsm, of("b", "b/c")).await, Ok(false));
    assert!(put(&hsm, of("b", "b/c"), b"two", PRIVATE).await.unwrap().is_some());
    assert_eq!(destroy(&hsm, of("b", "b/c")).await, Ok(true));
    assert_eq!(get(&hsm, of("a", "b/c")).await.unwrap().unwrap().value, value(b"one"));
}

async fn one_that_is_not_destroyable_stays(token: Token) {
    let hsm = token.supervisor().await;
    let kept = DataAttributes { destroyable: false, ..PRIVATE };
    assert_eq!(put(&hsm, name("d"), b"kept", kept).await, Ok(Some(kept)));
    assert_eq!(destroy(&hsm, name("d")).await.unwrap_err().kind, Kind::Forbidden);
    assert_eq!(get(&hsm, name("d")).await.unwrap().unwrap().value, value(b"kept"));
}

async fn one_that_is_not_private_is_shown_without_a_login_and_others_are_not(token: Token) {
    let hsm = token.supervisor().await;
    put(&hsm, name("secret"), b"s", PRIVATE).await.unwrap();
    put(&hsm, name("open"), b"o", DataAttributes { private: false, ..PRIVATE }).await.unwrap();
    let (with, without) = (listed(&token, true), listed(&token, false));
    assert!(with.contains("shop/secret") && with.contains("shop/open"), "{with}");
    assert!(!without.contains("shop/secret") && without.contains("shop/open"), "{without}");
    assert!(with.contains("hsm-operator"), "the application is named: {with}");
}

/// Several gateways that never heard of each other. SoftHSM 2.6 forgets to look for what another process made in the very
/// moment in which it wrote something itself, so that two may be told that theirs is the one. That is never the last word:
/// whoever sees both reads neither.
async fn of_several_that_make_one_at_the_same_time_at_most_one_is_told_that_it_did(token: Token) {
    let hosts = [token.supervisor().await, token.supervisor().await, token.supervisor().await];
    let values: [&[u8]; 3] = [b"a", b"b", b"c"];
    let mut rounds = Vec::new();
    for round in 0..30 {
        let name = name(&format!("d{round}"));
        let calls = hosts.iter().zip(values).map(|(hsm, bytes)| put(hsm, name.clone(), bytes, PRIVATE));
        let (mut made, mut unsure) = (Vec::new(), false);
        for (outcome, bytes) in futures::future::join_all(calls).await.iter().zip(values) {
            match outcome {
                Ok(Some(_)) => made.push(bytes),
                Ok(None) => {}
                // kryoptic has no room, as it says, while another process writes.
                Err(error) => {
                    assert!(matches!(error.kind, Kind::Busy | Kind::Full), "{error}");
                    unsure = true;
                }
            }
        }
        assert!(made.len() <= 1 || token.module == Module::SoftHsm, "{made:?}");
        rounds.push((name, made, unsure));
    }
    let later = token.supervisor().await;
    let (mut none, mut several) = (0, 0);
    for (name, made, unsure) in rounds {
        let there = get(&later, name.clone()).await.map(|facts| facts.map(|facts| facts.value));
        match made.as_slice() {
            // Nor was there room to take back what was made.
            [] if unsure => assert!(there.is_ok(), "{there:?}"),
            [] => assert_eq!(there, Ok(None)),
            [one] => assert_eq!(there, Ok(Some(value(one)))),
            _ => assert_eq!(there.unwrap_err().kind, Kind::Ambiguous),
        }
        (none, several) = (none + usize::from(made.is_empty()), several + usize::from(made.len() > 1));
        let destroyed = destroy(&later, name.clone()).await;
        assert!(destroyed == Ok(!made.is_empty()) || (unsure && destroyed == Ok(true)), "{destroyed:?}");
        assert_eq!(get(&later, name).await, Ok(None));
    }
    println!("of 30 rounds {none} without one, {several} with several");
}

async fn several_of_one_name_are_not_read_and_go_together(token: Token) {
    let hsm = token.supervisor().await;
    put(&hsm, name("d"), b"one", PRIVATE).await.unwrap();
    by_others(&token, "hsm-operator", "shop/d");
    let error = get(&hsm, name("d")).await.unwrap_err();
    assert!(error.kind == Kind::Ambiguous && error.message.contains("'d'"), "{error}");
    assert_eq!(put(&hsm, name("d"), b"three", PRIVATE).await, Ok(None));
    assert_eq!(destroy(&hsm, name("d")).await, Ok(true));
    assert_eq!(get(&hsm, name("d")).await, Ok(None));
}

/// Makes a data object with another program.
fn by_others(token: &Token, application: &str, label: &str) {
    let file = token.path().join("value");
    std::fs::write(&file, b"theirs").unwrap();
    run(token
        .tool()
        .envs(token.environment.clone())
        .args(["--token-label", &token.label, "--login", "--pin", "env:TOKEN_PIN", "--private"])
        .args(["--write-object", &file.display().to_string(), "--type", "data"])
        .args(["--application-label", application, "--label", label]));
}

async fn one_whose_making_was_interrupted_is_not_made_twice(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    // The search that comes after the object was made.
    let numbers = faults.set(&["C_FindObjectsInit after=1 times=1 return=CKR_SESSION_HANDLE_INVALID"]);
    assert_eq!(put(&hsm, name("d"), b"once", PRIVATE).await, Ok(Some(PRIVATE)));
    assert_eq!(faults.fired(numbers[0]), 1);
    faults.clear();
    assert_eq!(get(&hsm, name("d")).await.unwrap().unwrap().value, value(b"once"));
}

async fn nothing_found_without_a_login_is_not_believed(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    put(&hsm, name("d"), b"there", PRIVATE).await.unwrap();
    for _ in 0..2 {
        let numbers = faults.set(&["C_FindObjectsInit times=1 logout"]);
        assert_eq!(get(&hsm, name("d")).await.unwrap().unwrap().value, value(b"there"));
        assert_eq!(faults.fired(numbers[0]), 1);
        let numbers = faults.set(&["C_FindObjectsInit times=1 logout"]);
        assert_eq!(put(&hsm, name("d"), b"another", PRIVATE).await, Ok(None));
        assert_eq!(faults.fired(numbers[0]), 1);
    }
}

async fn keys_and_their_inventory_know_nothing_of_data_objects(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, p256("k")).await.unwrap();
    let before = inventory(&hsm).await;
    put(&hsm, name("k"), b"x", PRIVATE).await.unwrap();
    put(&hsm, name("open"), b"x", DataAttributes { private: false, ..PRIVATE }).await.unwrap();
    // Of another program, under the very label of the key.
    by_others(&token, "hsm-operator", "k");
    assert_eq!(inventory(&hsm).await, before);
    assert_eq!(find(&hsm, Find::Label(KeyLabel::new("k").unwrap())).await.unwrap().len(), 1);
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    crate::destroy(&hsm, "k").await;
    assert_eq!(inventory(&hsm).await, []);
    assert_eq!(get(&hsm, name("k")).await.unwrap().unwrap().value, value(b"x"));
}

async fn data_objects_of_others_are_left_alone(token: Token) {
    let hsm = token.supervisor().await;
    by_others(&token, "another program", "shop/d");
    assert_eq!(get(&hsm, name("d")).await, Ok(None));
    put(&hsm, name("d"), b"ours", PRIVATE).await.unwrap();
    assert_eq!(destroy(&hsm, name("d")).await, Ok(true));
    assert!(listed(&token, true).contains("another program"));
}
