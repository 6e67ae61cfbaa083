//! The steps by which a token comes back into use, one after the other and none too many.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hsm_operator::{
    hsm::{HostState, Rung, Supervisor, protocol::Kind},
    model::SignatureAlgorithm,
};

use crate::{
    common::{faults::Faults, token::Token},
    generate, on_both_tokens, p256, sign,
};

on_both_tokens! {
    one_step_after_the_other,
    a_request_that_fails_by_itself_brings_nothing_down,
    a_refused_pin_is_tried_once,
    a_login_that_went_with_its_sessions_is_made_again,
}

const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::Sha256WithEcdsa;

/// A token with two keys that signed, and the steps that are taken for it.
async fn stage(faults: &Faults) -> (Arc<Supervisor>, Arc<Mutex<Vec<Rung>>>) {
    let steps: Arc<Mutex<Vec<Rung>>> = Arc::default();
    let mut config = faults.config();
    // Nobody else meets the fault, and a retry is not in time for the deadline of a test.
    config.open.workers = 1;
    config.deadlines.sign = Duration::from_secs(4);
    config.on_recovery = Some(Arc::new({
        let steps = Arc::clone(&steps);
        move |rung| steps.lock().unwrap().push(rung)
    }));
    let hsm = Supervisor::start(config);
    for name in ["a", "b"] {
        generate(&hsm, p256(name)).await.unwrap();
        sign(&hsm, name, ALGORITHM, b"x").await.unwrap();
    }
    (hsm, steps)
}

/// Waits until these steps were told: they come another way than the answer.
pub async fn told(steps: &Mutex<Vec<Rung>>, taken: &[Rung]) {
    let begun = Instant::now();
    while *steps.lock().unwrap() != taken && begun.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(*steps.lock().unwrap(), taken);
}

async fn one_step_after_the_other(token: Token) {
    use Rung::{Canary, Initialise, Login, Process, Session};
    let faults = Faults::new(&token);
    let (hsm, steps) = stage(&faults).await;
    for (rules, taken) in [
        (&["C_Sign times=1 return=CKR_GENERAL_ERROR"][..], &[Session][..]),
        (&["C_SignInit times=1 logout"], &[Session, Login]),
        (&["C_SignInit times=1 close-sessions"], &[Session, Login]),
        // The third one is the canary.
        (&["C_Sign times=3 return=CKR_FUNCTION_FAILED"], &[Session, Canary, Initialise]),
        // What did not help a moment ago is left out.
        (&["C_Sign times=3 return=CKR_DEVICE_REMOVED"], &[Session, Canary, Process]),
        (&["C_Sign times=1 segv"], &[Process]),
    ] {
        steps.lock().unwrap().clear();
        let numbers = faults.set(rules);
        sign(&hsm, "a", ALGORITHM, b"x").await.unwrap_or_else(|error| panic!("{rules:?}: {error}"));
        assert!(faults.fired(numbers[0]) > 0, "{rules:?}");
        faults.clear();
        told(&steps, taken).await;
    }
    let last = hsm.recovery().expect("there was one");
    assert_eq!((last.rung, last.cause.as_str()), (Rung::Process, "the token-host ended"));
}

/// It fails thrice, and in between the canary sings: the token goes on as it is.
async fn a_request_that_fails_by_itself_brings_nothing_down(token: Token) {
    let faults = Faults::new(&token);
    let (hsm, steps) = stage(&faults).await;
    faults
        .set(&["C_Sign times=2 return=CKR_GENERAL_ERROR", "C_Sign after=1 times=1 return=CKR_GENERAL_ERROR"]);
    let error = sign(&hsm, "a", ALGORITHM, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Device, "{error}");
    faults.clear();
    told(&steps, &[Rung::Session, Rung::Canary]).await;
    assert_eq!(hsm.counters().restarts, 0);
    sign(&hsm, "a", ALGORITHM, b"x").await.unwrap();
}

/// Also where the first sessions that are opened after that fail.
async fn a_login_that_went_with_its_sessions_is_made_again(token: Token) {
    let faults = Faults::new(&token);
    let (hsm, _) = stage(&faults).await;
    let numbers = faults.set(&[
        "C_SignInit times=1 close-sessions",
        "C_OpenSession times=2 return=CKR_GENERAL_ERROR",
        "C_Login return=CKR_PIN_INCORRECT",
    ]);
    let outcome = sign(&hsm, "a", ALGORITHM, b"x").await;
    assert_eq!(outcome.unwrap_err().kind, Kind::PinRejected);
    let fired: Vec<_> = numbers.iter().map(|number| faults.fired(*number)).collect();
    assert_eq!(fired, [1, 2, 1], "the login was made, and once");
}

/// Neither the next step nor a new process tries it again.
async fn a_refused_pin_is_tried_once(token: Token) {
    let faults = Faults::new(&token);
    let (hsm, _) = stage(&faults).await;
    let numbers = faults.set(&["C_SignInit times=1 logout", "C_Login return=CKR_PIN_INCORRECT"]);
    let error = sign(&hsm, "a", ALGORITHM, b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::PinRejected, "{error}");
    let mut state = hsm.state();
    let refused =
        |state: &HostState| matches!(state, HostState::Failed(error) if error.kind == Kind::PinRejected);
    let told = tokio::time::timeout(Duration::from_secs(5), state.wait_for(refused)).await;
    assert!(told.is_ok_and(|told| told.is_ok()));
    assert_eq!(faults.fired(numbers[1]), 1);
}
