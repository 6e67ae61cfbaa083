//! A module that goes wrong while sixteen callers sign: who notices, and for how long.

use std::time::{Duration, Instant};

use hsm_operator::{
    hsm::{Supervisor, protocol::Kind},
    model::SignatureAlgorithm,
};

use crate::{
    common::{faults::Faults, token::Token},
    generate, on_both_tokens, p256, sign,
    stage::{HANG, Millis, Once, PATIENCE, RECOVERY, Row, Stage, play, unnoticed},
};

on_both_tokens! {
    one_error_reaches_nobody,
    one_crash_reaches_nobody,
    a_lost_handle_reaches_nobody,
    an_error_while_another_is_repaired_reaches_one_caller_at_most,
    a_slow_or_leaking_module_is_put_up_with,
    a_module_that_keeps_failing_is_used_again_when_it_stops,
    a_token_that_goes_is_used_again_when_it_is_back,
    a_call_that_hangs_is_one_that_is_late,
    a_module_that_hangs_is_replaced,
    a_module_that_is_slow_and_has_much_to_do_is_not_taken_for_one_that_hangs,
    a_module_that_leaks_is_replaced_before_it_takes_all_memory,
    a_wrong_signature_is_passed_on,
}

async fn one_error_reaches_nobody(token: Token) {
    let rows = unnoticed(&[
        &["C_Sign times=1 return=CKR_GENERAL_ERROR"],
        &["C_Sign times=1 return=CKR_FUNCTION_FAILED"],
        &["C_Sign times=1 return=CKR_DEVICE_ERROR"],
        &["C_Sign times=1 return=CKR_HOST_MEMORY"],
        &["C_Sign times=1 return=0x80000123"],
        &["C_Sign times=1 return=CKR_DEVICE_REMOVED"],
        &["C_Sign times=1 return=CKR_TOKEN_NOT_PRESENT"],
        &["C_Sign times=1 return=CKR_SESSION_HANDLE_INVALID"],
        &["C_Sign times=1 return=CKR_OPERATION_NOT_INITIALIZED"],
        &["C_Sign times=1 return=CKR_BUFFER_TOO_SMALL"],
        &["C_SignInit times=1 return=CKR_GENERAL_ERROR"],
        &["C_SignInit times=1 return=CKR_OPERATION_ACTIVE"],
        &["C_SignInit times=1 return=CKR_KEY_HANDLE_INVALID"],
        &["C_SignInit times=1 return=CKR_USER_NOT_LOGGED_IN"],
        &["C_SignInit times=1 return=CKR_CRYPTOKI_NOT_INITIALIZED"],
    ]);
    play(token, &rows).await;
}

async fn one_crash_reaches_nobody(token: Token) {
    let rows = unnoticed(&[
        &["C_Sign times=1 segv"],
        &["C_Sign times=1 abort"],
        &["C_SignInit times=1 segv"],
        // The next one dies before it is ready.
        &["C_Sign times=1 segv", "C_Login times=1 segv"],
        &["C_Sign times=1 segv", "C_Initialize times=2 abort"],
        &["C_Sign times=1 segv", "C_Login times=1 return=CKR_DEVICE_ERROR"],
    ]);
    play(token, &rows).await;
}

async fn a_lost_handle_reaches_nobody(token: Token) {
    play(
        token,
        &unnoticed(&[
            &["C_SignInit times=1 stale"],
            &["C_SignInit times=1 return=CKR_OBJECT_HANDLE_INVALID"],
        ]),
    )
    .await;
}

/// A call is tried twice and not three times, unless a new token-host takes it over.
async fn an_error_while_another_is_repaired_reaches_one_caller_at_most(token: Token) {
    let mut rows = unnoticed(&[
        &["C_SignInit times=1 logout", "C_Login times=1 return=CKR_GENERAL_ERROR"],
        &["C_SignInit times=1 logout", "C_Login times=1 segv"],
        &["C_SignInit times=1 close-sessions", "C_OpenSession times=1 return=CKR_GENERAL_ERROR"],
        &["C_SignInit times=1 close-sessions", "C_OpenSession times=1 return=CKR_SESSION_COUNT"],
        &["C_SignInit times=1 stale", "C_GetAttributeValue times=1 segv"],
    ]);
    rows.extend::<[Row; 5]>([
        (
            &["C_SignInit times=1 logout", "C_FindObjectsInit times=1 return=CKR_GENERAL_ERROR"],
            Once,
            REPAIRED,
        ),
        (&["C_SignInit times=1 logout", "C_FindObjects times=1 return=CKR_DEVICE_ERROR"], Once, REPAIRED),
        (
            &["C_SignInit times=1 logout", "C_FindObjectsFinal times=1 return=CKR_GENERAL_ERROR"],
            Once,
            REPAIRED,
        ),
        (&["C_SignInit times=1 stale", "C_GetAttributeValue times=1 stale"], Once, REPAIRED),
        (&["C_SignInit times=2 stale"], Once, REPAIRED),
    ]);
    let stage = Stage::new(token, PATIENCE).await;
    let mut complaints = Vec::new();
    for row in rows {
        let (tally, wrong) = stage.play(row).await;
        complaints.extend(wrong.into_iter().map(|wrong| format!("{:?}: {wrong}", row.0)));
        if tally.wrong > 0 || tally.failures() > 1 {
            complaints.push(format!("{:?}: {} wrong, {} failures", row.0, tally.wrong, tally.failures()));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

const REPAIRED: &[Kind] = &[Kind::Lost, Kind::Device];

async fn a_slow_or_leaking_module_is_put_up_with(token: Token) {
    play(
        token,
        &[
            (&["C_Sign times=8 delay=100"], Once, &[]),
            (&["C_Sign delay=10"], Millis(500), &[]),
            (&["* leak=4096"], Millis(300), &[]),
            (&["C_GetAttributeValue size-lie", "C_SignInit times=1 stale"], Millis(200), &[]),
        ],
    )
    .await;
}

async fn a_module_that_keeps_failing_is_used_again_when_it_stops(token: Token) {
    play(
        token,
        &[
            (&["C_Sign return=CKR_GENERAL_ERROR"], Millis(400), &[]),
            (&["C_SignInit return=CKR_DEVICE_ERROR"], Millis(400), &[]),
            (&["C_SignInit stale"], Millis(400), &[]),
            (&["C_Sign return=CKR_DEVICE_REMOVED"], Millis(400), &[]),
            // A request that crashes the module twice may be to blame.
            (&["C_Sign segv"], Millis(400), &[Kind::Crashed, Kind::Poisonous]),
        ],
    )
    .await;
}

async fn a_module_that_is_slow_and_has_much_to_do_is_not_taken_for_one_that_hangs(token: Token) {
    let faults = Faults::new(&token);
    let maker = Supervisor::start(faults.config());
    for number in 0..20 {
        generate(&maker, p256(&format!("k{number}"))).await.unwrap();
    }
    maker.shutdown().await;
    let mut config = faults.config();
    config.deadlines.sign = PATIENCE;
    let hsm = Supervisor::start(config);
    hsm.ready().await.unwrap();
    // The first signature reads the names of all objects, one call each, and takes half of its time.
    let numbers = faults.set(&["C_GetAttributeValue delay=50"]);
    sign(&hsm, "k7", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    assert!(faults.fired(numbers[0]) > 40);
    assert_eq!(hsm.counters().restarts, 0);
}

async fn a_module_that_leaks_is_replaced_before_it_takes_all_memory(token: Token) {
    const MOST: u64 = 128 * 1024 * 1024;
    let mut stage = Stage::new(token, PATIENCE).await;
    let mut config = stage.faults.config();
    config.memory = Some(MOST);
    config.ping.0 = Duration::from_millis(50);
    stage.hsm.shutdown().await;
    stage.hsm = Supervisor::start(config);
    let load = stage.load();
    stage.faults.set(&["C_Sign leak=65536"]);
    let begun = Instant::now();
    while stage.hsm.counters().restarts < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", stage.hsm.counters());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.faults.clear();
    assert!(load.proven(RECOVERY).await.is_some());
    let tally = load.stop().await;
    assert_eq!((tally.failures(), tally.wrong), (0, 0), "{tally:?}");
    let recovery = stage.hsm.recovery().unwrap();
    assert!(recovery.cause.contains("MiB of memory"), "{recovery:?}");
}

async fn a_token_that_goes_is_used_again_when_it_is_back(token: Token) {
    play(token, &[(&["* gone"], Millis(300), &[]), (&["* gone"], Millis(1500), &[])]).await;
}

/// Another thread makes the signature, or the next token-host where there is no other thread.
async fn a_call_that_hangs_is_one_that_is_late(token: Token) {
    let others = token.open().workers > 1;
    let stage = Stage::new(token, HANG).await;
    let (tally, wrong) = stage.play((&["C_Sign times=1 hang"], Once, &[])).await;
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(tally.wrong, 0);
    if others {
        assert!(tally.stall < HANG / 2, "{:?}", tally.stall);
    }
}

/// With no thread left, there is no way but a new token-host.
async fn a_module_that_hangs_is_replaced(token: Token) {
    let stage = Stage::new(token, HANG).await;
    for rules in [&["C_Sign hang"], &["C_SignInit hang"]] {
        let (tally, wrong) = stage.play((rules, Millis(400), &[Kind::Timeout, Kind::Busy])).await;
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(tally.wrong, 0);
        assert!(tally.stall < 2 * HANG, "{:?}", tally.stall);
    }
}

/// It is the gateway that checks signatures: see `service::sign`.
async fn a_wrong_signature_is_passed_on(token: Token) {
    let stage = Stage::new(token, PATIENCE).await;
    let (tally, wrong) = stage.play((&["C_Sign times=3 flip"], Once, &[])).await;
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(tally.wrong, 3);
}
