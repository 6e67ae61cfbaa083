//! Return values as people read them.

use hsm_operator::hsm::{Supervisor, protocol::Kind};

use crate::{
    common::{faults::Faults, token::Token},
    generate, on_both_tokens, p256,
};

on_both_tokens! {
    an_error_says_its_cause_and_the_next_step,
    a_vendors_return_value_is_read_with_that_vendors_module_alone,
}

async fn an_error_says_its_cause_and_the_next_step(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    faults.set(&["C_GenerateKeyPair full"]);
    let error = generate(&hsm, p256("k")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Full);
    assert_eq!(
        error.to_string(),
        "CKR_DEVICE_MEMORY: there is no room on the token; destroy keys or enlarge the partition (C_GenerateKeyPair)"
    );
}

async fn a_vendors_return_value_is_read_with_that_vendors_module_alone(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    faults.set(&["C_GenerateKeyPair return=0x8000002a"]);
    let error = generate(&hsm, p256("k")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Device);
    assert!(error.message.starts_with("0x8000002a: a return value of the vendor's own;"), "{error}");

    // One that does not start cannot say whose it is, but its file does.
    faults.set(&["C_Initialize return=0x80005003"]);
    let mut config = faults.config();
    let named = token.path().join("libprimusP11.so");
    std::os::unix::fs::symlink(&config.open.library, &named).unwrap();
    config.open.library = named.display().to_string();
    let error = Supervisor::start(config).ready().await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::LibraryNotLoaded, Some(0x8000_5003)));
    let wanted = "0x80005003 of Securosys Primus: a file of the module's configuration is missing; mount";
    assert!(error.message.contains(wanted), "{error}");
}
