//! A request that crashes the module, and those that merely shared the process with it.

use hsm_operator::{hsm::protocol::Kind, model::SignatureAlgorithm};

use crate::{
    common::token::Token,
    on_both_tokens, sign,
    stage::{PATIENCE, Stage},
};

on_both_tokens! {
    a_request_that_crashes_the_module_fails_and_no_other_does,
    a_crash_of_the_modules_own_thread_fails_no_other_request,
    a_crash_while_the_module_is_started_over_is_no_requests_fault,
}

async fn a_request_that_crashes_the_module_fails_and_no_other_does(token: Token) {
    const POISONED: u64 = 5;
    let stage = Stage::new(token, PATIENCE).await;
    let load = stage.load();
    assert!(load.proven(PATIENCE).await.is_some());
    // A SHA-1 digest, which nobody else has signed.
    stage.faults.set(&["C_Sign segv-at=20"]);
    let before = stage.hsm.counters().restarts;
    for _ in 0..POISONED {
        let error = sign(&stage.hsm, "k", SignatureAlgorithm::Sha1WithEcdsa, b"x").await.unwrap_err();
        assert_eq!(error.kind, Kind::Poisonous);
        assert!(error.message.contains("crashed on this request, and again"), "{error}");
    }
    stage.faults.clear();
    assert!(load.proven(PATIENCE).await.is_some());
    let tally = load.stop().await;
    assert_eq!((tally.failures(), tally.wrong), (0, 0), "{:?}", tally.said);
    // None had a third try. A process that did not open the token at once is counted, too.
    let restarts = stage.hsm.counters().restarts - before;
    assert!((2 * POISONED..3 * POISONED).contains(&restarts), "{restarts}");
    sign(&stage.hsm, "k", SignatureAlgorithm::Sha1WithEcdsa, b"x").await.unwrap();
}

async fn a_crash_while_the_module_is_started_over_is_no_requests_fault(token: Token) {
    let stage = Stage::new(token, PATIENCE).await;
    // With a new session, and as a canary: each process starts its module over, and two of them crash of that.
    let numbers = stage.faults.set(&["C_Sign times=6 return=CKR_FUNCTION_FAILED", "C_Finalize times=2 segv"]);
    sign(&stage.hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    assert_eq!(numbers.iter().map(|one| stage.faults.fired(*one)).collect::<Vec<_>>(), [6, 2]);
}

/// Nobody says which request it was.
async fn a_crash_of_the_modules_own_thread_fails_no_other_request(token: Token) {
    let stage = Stage::new(token, PATIENCE).await;
    let load = stage.load();
    assert!(load.proven(PATIENCE).await.is_some());
    stage.faults.set(&["C_Sign segv-beside-at=20"]);
    for _ in 0..2 {
        let before = stage.hsm.counters().restarts;
        let error = sign(&stage.hsm, "k", SignatureAlgorithm::Sha1WithEcdsa, b"x").await.unwrap_err();
        assert_eq!(error.kind, Kind::Poisonous, "{error}");
        assert!(load.proven(PATIENCE).await.is_some());
        // Of all, of all again, of at most five, of two, and alone.
        let crashes = stage.hsm.counters().restarts - before;
        assert!((2..=5).contains(&crashes), "{crashes} crashes");
    }
    let tally = load.stop().await;
    println!("stall {:?}", tally.stall);
    assert_eq!((tally.failures(), tally.wrong), (0, 0), "{:?}", tally.said);
}
