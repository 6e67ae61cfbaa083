//! Trouble that passes by itself, and that nobody needs to notice or to take for something else.

use std::time::Instant;

use hsm_operator::hsm::{
    Hsm, Supervisor,
    protocol::{Find, Kind, Reply, Request},
};

use crate::{
    common::{faults::Faults, token::Token},
    generate, id, on_both_tokens, p256,
    stage::{HANG, Once, RECOVERY, Stage, play, unnoticed},
};

on_both_tokens! {
    one_error_before_the_first_signature_reaches_nobody,
    one_moment_without_memory_reaches_nobody,
    one_error_in_a_look_reaches_nobody,
    one_error_of_a_slot_is_no_missing_token,
    one_call_that_hangs_fails_no_other,
    a_thread_that_hangs_is_not_lost_for_good,
    a_module_that_makes_no_key_for_a_while_lacks_no_algorithm,
    a_large_certificate_comes_back_or_an_error,
    a_lying_module_is_opened_all_the_same,
}

async fn one_error_before_the_first_signature_reaches_nobody(token: Token) {
    let rows = unnoticed(&[
        &["C_Sign times=1 segv", "C_FindObjectsInit times=1 return=CKR_GENERAL_ERROR"],
        &["C_Sign times=1 segv", "C_GetAttributeValue times=1 return=CKR_DEVICE_ERROR"],
        // The first one is the keeper's.
        &["C_Sign times=1 segv", "C_OpenSession after=1 times=1 return=CKR_GENERAL_ERROR"],
    ]);
    play(token, &rows).await;
}

/// For a signature, the token needs no room that somebody must make.
async fn one_moment_without_memory_reaches_nobody(token: Token) {
    play(token, &unnoticed(&[&["C_SignInit times=1 return=CKR_DEVICE_MEMORY"]])).await;
}

async fn one_error_in_a_look_reaches_nobody(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    generate(&hsm, p256("k")).await.unwrap();
    let mut complaints = Vec::new();
    for (rule, request) in [
        ("C_GenerateRandom times=1 return=CKR_GENERAL_ERROR", Request::Random(8)),
        ("C_FindObjectsInit times=1 return=CKR_GENERAL_ERROR", Request::Find(Find::Id(id("none")))),
        ("C_FindObjects times=1 return=CKR_DEVICE_ERROR", Request::Inventory),
        ("C_GetAttributeValue times=1 return=CKR_FUNCTION_FAILED", Request::Find(Find::Id(id("k")))),
        ("C_FindObjectsFinal times=1 return=CKR_GENERAL_ERROR", Request::GetCertificate(id("none"))),
    ] {
        let numbers = faults.set(&[rule]);
        if let Err(error) = hsm.call(request).await {
            complaints.push(format!("{rule}: {:?} {error}", error.kind));
        }
        assert_eq!(faults.fired(numbers[0]), 1, "{rule}");
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// A token-host that was ready a moment ago and cannot read a slot: nothing that a person must act on.
async fn one_error_of_a_slot_is_no_missing_token(token: Token) {
    let rows = unnoticed(&[&["C_Sign times=1 segv", "C_GetTokenInfo times=1 return=CKR_DEVICE_ERROR"]]);
    play(token, &rows).await;
}

async fn one_call_that_hangs_fails_no_other(token: Token) {
    let stage = Stage::new(token, HANG).await;
    let (tally, wrong) = stage.play((&["C_Sign times=1 hang"], Once, &[Kind::Timeout])).await;
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(tally.failures() <= 1, "{:?}", tally.failed);
}

/// Others that go on signing do not make up for it: with each such call there is a thread less.
async fn a_thread_that_hangs_is_not_lost_for_good(token: Token) {
    let stage = Stage::new(token, HANG).await;
    let load = stage.load();
    load.proven(RECOVERY).await.expect("well before");
    stage.faults.set(&["C_Sign times=1 hang"]);
    let begun = Instant::now();
    while stage.hsm.counters().restarts == 0 {
        assert!(begun.elapsed() < RECOVERY, "{:?}", stage.hsm.counters());
        tokio::time::sleep(HANG / 20).await;
    }
    load.stop().await;
}

async fn a_module_that_makes_no_key_for_a_while_lacks_no_algorithm(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    for code in ["CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED"] {
        faults.set(&[&format!("C_GenerateKeyPair return={code}")]);
        let error = generate(&hsm, p256("k")).await.unwrap_err();
        assert_eq!(error.kind, Kind::Device, "{code}: {error}");
    }
}

/// A certificate larger than two guesses at its size, on a module that lies about it.
async fn a_large_certificate_comes_back_or_an_error(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    let names: Vec<String> =
        (0..200).map(|number| format!("host-{number}.a-long-enough-name.test")).collect();
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&pair).unwrap();
    let der = bytes::Bytes::copy_from_slice(certificate.der());
    let put = Request::PutCertificate { key: id("k"), label: "c".into(), der: der.clone() };
    hsm.call(put).await.unwrap();
    for rules in [[].as_slice(), &["C_GetAttributeValue size-lie"]] {
        faults.set(rules);
        match hsm.call(Request::GetCertificate(id("k"))).await {
            Ok(Reply::Certificate(found)) => {
                assert!(found.as_ref() == Some(&der), "none or another: {rules:?}")
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(!rules.is_empty() && error.kind == Kind::Device, "{error}"),
        }
    }
}

async fn a_lying_module_is_opened_all_the_same(token: Token) {
    let faults = Faults::new(&token);
    let honest = Supervisor::start(faults.config()).ready().await.unwrap();
    let numbers = faults.set(&["* size-lie"]);
    let facts = Supervisor::start(faults.config()).ready().await.unwrap();
    assert!(faults.fired(numbers[0]) > 0);
    assert_eq!((&facts.label, &facts.capabilities), (&honest.label, &honest.capabilities));
}
