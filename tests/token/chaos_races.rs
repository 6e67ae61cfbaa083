//! A login that is lost in the middle of a look and is there again before its end, because others log in: what a look
//! without a login does not find is not missing.

use hsm_operator::hsm::{
    Hsm,
    protocol::{Find, Kind, Reply, Request},
};

use crate::{
    common::token::Token,
    generate, id, inventory, on_both_tokens, p256,
    stage::{PATIENCE, Stage, play, unnoticed},
};

on_both_tokens! {
    a_lost_session_or_login_reaches_nobody,
    a_login_that_is_lost_again_and_again_reaches_nobody,
    a_key_is_not_missed_by_a_signature,
    a_key_is_not_missed_by_a_look,
    a_key_is_not_missing_in_a_list,
    a_key_is_not_made_twice,
    a_key_is_not_said_to_be_destroyed_while_it_is_there,
}

/// Logs out before a look, and holds it up at its end until the callers that sign have logged in again.
const RACE: &[&str] = &["C_FindObjectsInit times=1 logout", "C_FindObjectsFinal times=1 delay=200"];

async fn a_lost_session_or_login_reaches_nobody(token: Token) {
    let rows = unnoticed(&[
        &["C_SignInit times=1 logout"],
        &["C_Sign times=1 logout"],
        &["C_SignInit times=1 close-sessions"],
        &["C_Sign times=1 close-sessions"],
    ]);
    play(token, &rows).await;
}

/// Every look loses the login of all, until it was lost so often that each thread had more than three of them. Whoever
/// looks next logs in again, so that the token is well whenever it is asked.
async fn a_login_that_is_lost_again_and_again_reaches_nobody(token: Token) {
    let rows = unnoticed(&[
        &["C_SignInit times=1 logout", "C_FindObjectsFinal times=6 logout"],
        &["C_SignInit times=1 close-sessions", "C_FindObjectsFinal times=12 logout"],
        &["C_SignInit times=1 close-sessions", "C_FindObjectsFinal times=12 close-sessions"],
    ]);
    play(token, &rows).await;
}

async fn a_key_is_not_missed_by_a_signature(token: Token) {
    let slowly =
        ["C_SignInit times=1 logout", "C_Login times=1 delay=50", "C_FindObjectsFinal times=1 delay=200"];
    let stage = Stage::new(token, PATIENCE).await;
    let load = stage.load();
    load.proven(PATIENCE).await.expect("well before");
    stage.faults.set(&slowly);
    load.proven(PATIENCE).await.expect("well again");
    let tally = load.stop().await;
    assert_eq!(tally.failures(), 0, "{:?}", tally.said);
}

/// The answer to a request that lost its login on the way.
async fn answer(stage: &Stage, request: Request) -> Reply {
    for _ in 0..5 {
        let load = stage.load();
        load.proven(PATIENCE).await.expect("well before");
        stage.faults.set(RACE);
        let answer = stage.hsm.call(request.clone()).await;
        stage.faults.clear();
        load.stop().await;
        match answer {
            Ok(reply) => return reply,
            // Kryoptic may lock itself up when one thread logs out while another signs.
            Err(error) => assert!(matches!(error.kind, Kind::Timeout | Kind::Crashed), "{error}"),
        }
    }
    panic!("no answer to {}", request.name());
}

async fn a_key_is_not_missed_by_a_look(token: Token) {
    let stage = Stage::new(token, PATIENCE).await;
    match answer(&stage, Request::Find(Find::Id(id("k")))).await {
        Reply::Keys(keys) => assert_eq!(keys.len(), 1),
        other => panic!("{other:?}"),
    }
}

async fn a_key_is_not_missing_in_a_list(token: Token) {
    let stage = Stage::new(token, PATIENCE).await;
    let whole = inventory(&stage.hsm).await.len();
    match answer(&stage, Request::Inventory).await {
        Reply::Inventory(entries) => assert_eq!(entries.len(), whole, "{entries:?}"),
        other => panic!("{other:?}"),
    }
}

async fn a_key_is_not_made_twice(token: Token) {
    let stage = Stage::new(token, PATIENCE).await;
    let before = generate(&stage.hsm, p256("there")).await.unwrap();
    match answer(&stage, Request::Generate(p256("there"))).await {
        Reply::Key(facts) => assert_eq!((facts.twins, facts.public_key), (1, before.public_key)),
        other => panic!("{other:?}"),
    }
    let mut halves = inventory(&stage.hsm).await;
    halves.retain(|entry| entry.id == id("there").as_bytes());
    assert_eq!(halves.len(), 2, "{halves:?}");
}

async fn a_key_is_not_said_to_be_destroyed_while_it_is_there(token: Token) {
    let stage = Stage::new(token, PATIENCE).await;
    generate(&stage.hsm, p256("there")).await.unwrap();
    answer(&stage, Request::Destroy(id("there"))).await;
    assert!(inventory(&stage.hsm).await.iter().all(|entry| entry.id != id("there").as_bytes()));
}
