//! That the module of the chaos tests does what its rules say: a fault that never comes would prove anything.

use hsm_operator::{hsm::Supervisor, model::SignatureAlgorithm, public_key::PublicKey};

use crate::{
    common::{
        faults::{
            Faults,
            control::Control,
            rule::{Action, Rule},
        },
        token::Token,
    },
    generate, on_both_tokens, p256, sign,
};

on_both_tokens! {
    without_rules_everything_passes,
    a_flipped_bit_arrives,
}

#[test]
fn a_rule_is_read() {
    let rule = Rule::parse(7, "C_Sign after=10 times=2 return=CKR_GENERAL_ERROR").unwrap();
    assert_eq!((rule.number, rule.after, rule.times, rule.action), (7, 10, Some(2), Action::Return(5)));
    assert!(rule.covers("C_Sign") && !rule.covers("C_SignInit"));
    assert_eq!(Rule::parse(1, "C_Sign return=0x80000001").unwrap().action, Action::Return(0x8000_0001));
}

#[test]
fn a_rule_for_everything_covers_what_its_action_suits() {
    let gone = Rule::parse(1, "* gone").unwrap();
    assert!(gone.covers("C_Sign") && gone.covers("C_GetSlotList") && !gone.covers("C_Initialize"));
    let logout = Rule::parse(1, "* logout").unwrap();
    assert!(logout.covers("C_CloseSession") && logout.covers("C_Sign") && !logout.covers("C_OpenSession"));
}

#[test]
fn a_rule_that_could_do_nothing_is_refused() {
    for (line, why) in [
        ("C_Sgin hang", "nothing that can be done to C_Sgin"),
        ("C_Login flip", "nothing that can be done to C_Login"),
        ("C_Sign explode", "no such action"),
        ("C_Sign return=CKR_WHATEVER", "no such return value"),
        ("C_Sign times=x hang", "not a number"),
        ("C_Sign often=3 hang", "no such limit"),
        ("hang", "no function"),
    ] {
        let error = Rule::parse(1, line).unwrap_err();
        assert!(error.contains(why), "{line}: {error}");
    }
}

#[test]
fn a_count_outlives_the_process_and_not_the_rule() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let decide = || Control::new(path.clone()).decide("C_Sign").unwrap();
    assert_eq!(decide(), None);
    std::fs::write(&path, "C_Sign after=1 times=2 abort\n").unwrap();
    assert_eq!(
        [decide(), decide(), decide(), decide()],
        [None, Some(Action::Abort), Some(Action::Abort), None]
    );
    std::fs::write(&path, "\nC_Sign times=1 hang\n").unwrap();
    assert_eq!([decide(), decide()], [Some(Action::Hang), None]);
    let control = Control::new(path.clone());
    assert_eq!([control.count(1, "fired"), control.count(1, "passed"), control.count(2, "fired")], [2, 1, 1]);
}

#[test]
fn a_changed_file_counts_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let control = Control::new(path.clone());
    for (text, action) in
        [("C_Sign hang", Some(Action::Hang)), ("", None), ("C_Sign segv", Some(Action::Segv))]
    {
        std::fs::write(&path, text).unwrap();
        assert_eq!(control.decide("C_Sign").unwrap(), action);
    }
    std::fs::write(&path, "nonsense").unwrap();
    assert!(control.decide("C_Sign").is_err());
}

async fn without_rules_everything_passes(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    let facts = hsm.ready().await.unwrap();
    assert_eq!(facts.label, token.label);
    generate(&hsm, p256("k")).await.unwrap();
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    assert_eq!(hsm.counters().restarts, 0);
}

async fn a_flipped_bit_arrives(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    let facts = generate(&hsm, p256("k")).await.unwrap();
    let public = PublicKey::from_spki(&facts.public_key.unwrap()).unwrap();
    let rules = faults.set(&["C_Sign times=1 flip"]);
    for right in [false, true] {
        let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
        let signature = sign(&hsm, "k", algorithm, b"x").await.unwrap();
        assert_eq!(public.verify(algorithm, b"x", &signature), Ok(right));
    }
    assert_eq!(faults.fired(rules[0]), 1);
}
