//! A module that goes wrong while its token is opened, or logged in to again.

use std::time::{Duration, Instant};

use hsm_operator::{
    hsm::{HostState, Supervisor, protocol::Kind, supervisor::Deadlines},
    model::SignatureAlgorithm,
};

use crate::{
    common::{faults::Faults, token::Token},
    generate, on_both_tokens, p256, sign,
    stage::RECOVERY,
};

on_both_tokens! {
    trouble_at_the_start_passes_by_itself,
    a_module_that_hangs_at_the_start_is_replaced,
    one_that_was_open_before_is_not_waited_for_so_long,
    a_refused_pin_is_not_tried_again_after_a_lost_login_either,
}

const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::Sha256WithEcdsa;

/// Starts on a module that goes wrong and waits for a token that is open; how long that took.
async fn opened(token: &Token, faults: &Faults) -> Duration {
    let begun = Instant::now();
    let hsm = Supervisor::start(faults.config());
    let mut state = hsm.state();
    let ready = state.wait_for(|state| matches!(state, HostState::Ready(_)));
    drop(tokio::time::timeout(RECOVERY, ready).await.expect("in time").expect("it runs"));
    let took = begun.elapsed();
    assert_eq!(hsm.ready().await.unwrap().label, token.label);
    hsm.shutdown().await;
    took
}

async fn trouble_at_the_start_passes_by_itself(token: Token) {
    let faults = Faults::new(&token);
    for rule in [
        "C_Initialize times=1 return=CKR_GENERAL_ERROR",
        "C_Initialize times=1 segv",
        "C_GetSlotList times=1 gone",
        "C_GetSlotList after=1 times=1 return=CKR_DEVICE_ERROR",
        "C_GetTokenInfo times=1 return=CKR_TOKEN_NOT_PRESENT",
        "C_GetTokenInfo times=1 abort",
        "C_GetMechanismList times=1 return=CKR_DEVICE_ERROR",
        "C_GetMechanismInfo times=1 return=CKR_DEVICE_ERROR",
        "C_GetInfo times=1 return=CKR_DEVICE_ERROR",
        "C_OpenSession times=1 return=CKR_SESSION_COUNT",
        "C_GetSessionInfo times=1 return=CKR_DEVICE_ERROR",
        "C_Login times=1 return=CKR_GENERAL_ERROR",
        "C_Login times=1 close-sessions",
        "C_Login times=1 segv",
        "C_Login times=1 delay=500",
    ] {
        let numbers = faults.set(&[rule]);
        let took = opened(&token, &faults).await.as_millis();
        println!("chaos {:?} | open | {rule} | open after {took} ms", token.module);
        assert_eq!(faults.fired(numbers[0]), 1, "{rule}");
    }
}

async fn a_module_that_hangs_at_the_start_is_replaced(token: Token) {
    let faults = Faults::new(&token);
    let numbers = faults.set(&["C_Login times=1 hang"]);
    let took = opened(&token, &faults).await;
    println!("chaos {:?} | open | C_Login times=1 hang | open after {} ms", token.module, took.as_millis());
    assert!(took >= faults.config().deadlines.open);
    assert_eq!(faults.fired(numbers[0]), 1);
}

async fn one_that_was_open_before_is_not_waited_for_so_long(token: Token) {
    let faults = Faults::new(&token);
    let mut config = faults.config();
    config.deadlines = Deadlines::default();
    let hsm = Supervisor::start(config);
    generate(&hsm, p256("k")).await.unwrap();
    let numbers = faults.set(&["C_Sign times=1 segv", "C_Login times=1 hang"]);
    sign(&hsm, "k", ALGORITHM, b"x").await.expect("the next one is there before the deadline of a signature");
    assert_eq!(faults.fired(numbers[1]), 1);
}

async fn a_refused_pin_is_not_tried_again_after_a_lost_login_either(token: Token) {
    let faults = Faults::new(&token);
    let config = faults.config();
    let (open, environment) = (config.open.clone(), config.environment.clone());
    let hsm = Supervisor::start(config);
    generate(&hsm, p256("k")).await.unwrap();
    sign(&hsm, "k", ALGORITHM, b"x").await.unwrap();
    let numbers = faults.set(&["C_SignInit times=1 logout", "C_Login return=CKR_PIN_INCORRECT"]);
    for _ in 0..20 {
        assert_eq!(sign(&hsm, "k", ALGORITHM, b"x").await.unwrap_err().kind, Kind::PinRejected);
    }
    let mut state = hsm.state();
    state.wait_for(|state| matches!(state, HostState::Failed(_))).await.unwrap();
    // Three times the longest pause of a token-host that is started again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(faults.fired(numbers[1]), 1, "the PIN was tried once");
    assert_eq!(hsm.counters().pid, None);
    faults.clear();
    hsm.replace(open, environment);
    sign(&hsm, "k", ALGORITHM, b"x").await.unwrap();
}
