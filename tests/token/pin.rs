//! The PIN is tried as seldom as possible: tokens lock it after a few wrong ones.

use std::time::Duration;

use hsm_operator::{
    hsm::{
        HostState, Hsm, Supervisor,
        protocol::{Kind, Request},
    },
    model::secret::Pin,
};

use crate::{
    common::token::{Module, Token},
    on_both_tokens,
};

on_both_tokens! {
    a_wrong_pin_is_tried_once_until_it_changes,
    a_last_try_is_left_to_a_person,
}

async fn a_wrong_pin_is_tried_once_until_it_changes(token: Token) {
    let mut config = token.config();
    config.open.pin = Pin::new("0000000000");
    let hsm = Supervisor::start(config);
    let error = hsm.ready().await.unwrap_err();
    assert_eq!(error.kind, Kind::PinRejected, "{error}");
    let left = match token.module {
        Module::SoftHsm => "a wrong PIN was tried since the last login",
        Module::Kryoptic => "does not say how many tries are left",
    };
    assert!(error.message.contains("CKR_PIN_INCORRECT") && error.message.contains(left), "{error}");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for _ in 0..20 {
        let error = hsm.call(Request::Inventory).await.unwrap_err();
        assert_eq!(error.kind, Kind::PinRejected, "{error}");
    }
    assert_eq!((hsm.counters().restarts, hsm.counters().pid), (0, None));
    hsm.replace(token.open(), token.environment.clone());
    hsm.call(Request::Inventory).await.unwrap();
    assert!(matches!(*hsm.state().borrow(), HostState::Ready(_)));
    assert_eq!(hsm.counters().restarts, 1);
}

/// Logs in with another program; whether the token took the PIN.
fn logs_in(token: &Token, pin: &str) -> bool {
    let mut tool = token.tool();
    tool.args(["--token-label", &token.label, "--login", "--pin", "env:PIN", "--list-objects"]);
    tool.envs(token.environment.clone()).env("PIN", pin);
    tool.output().unwrap().status.success()
}

async fn a_last_try_is_left_to_a_person(token: Token) {
    // kryoptic locks the PIN at the tenth; SoftHSM never does.
    for _ in 0..9 {
        assert!(!logs_in(&token, "0000000000"));
    }
    let hsm = Supervisor::start(token.config());
    let opened = hsm.ready().await;
    if token.module == Module::SoftHsm {
        opened.unwrap();
        return;
    }
    // The PIN is right, which nobody here can know.
    let error = opened.unwrap_err();
    assert_eq!(error.kind, Kind::PinFinalTry, "{error}");
    assert_eq!(hsm.call(Request::Inventory).await.unwrap_err().kind, Kind::PinFinalTry);
    assert!(logs_in(&token, &token.pin), "the last try was used up");
    let ready = |state: &HostState| matches!(state, HostState::Ready(_));
    tokio::time::timeout(Duration::from_secs(10), hsm.state().wait_for(ready)).await.unwrap().unwrap();
}
