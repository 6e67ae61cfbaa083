//! How many sessions of a token are worth it, and going on with another number of them.

use std::{sync::Arc, time::Duration};

use hsm_operator::{
    hsm::{
        Hosts, Hsm, Supervisor,
        knee::{End, Measured},
        probe::Probe,
        protocol::{HsmError, Kind, Open, Reply, Request},
    },
    model::SignatureAlgorithm,
    public_key::PublicKey,
};

use crate::{
    common::{faults::Faults, token::Token},
    generate, id, inventory,
    load::Load,
    on_both_tokens, p256, sign,
};

on_both_tokens! {
    a_token_is_measured_while_others_sign_and_nothing_is_left_on_it,
    a_token_that_answers_late_gets_many_sessions,
    no_more_sessions_are_chosen_than_a_token_allows,
    a_module_that_crashes_while_it_is_measured_is_known_to_have,
    signing_goes_on_with_another_number_of_sessions,
    further_token_hosts_get_another_number_of_sessions,
}

async fn measure(hsm: &Supervisor) -> Result<Measured, HsmError> {
    match hsm.call(Request::Probe(Probe::Sessions)).await? {
        Reply::Findings(findings) => Ok(findings.sessions.expect("that is what was asked for")),
        other => panic!("{other:?}"),
    }
}

/// A supervisor of a token with rules, whose looks may take as long as measuring does.
async fn supervisor(faults: &Faults) -> Arc<Supervisor> {
    let mut config = faults.config();
    config.deadlines.look = Duration::from_secs(30);
    let hsm = Supervisor::start(config);
    // The thread that measures has its own session by then.
    inventory(&hsm).await;
    hsm
}

/// Callers that sign with the key `k`.
async fn load(hsm: &Arc<Supervisor>) -> Load {
    let public = generate(hsm, p256("k")).await.unwrap().public_key.unwrap();
    let load = Load::start(hsm, "k", &Arc::new(PublicKey::from_spki(&public).unwrap()));
    load.proven(Duration::from_secs(10)).await.expect("it is well");
    load
}

async fn a_token_is_measured_while_others_sign_and_nothing_is_left_on_it(token: Token) {
    let hsm = token.supervisor().await;
    let measured = measure(&hsm).await.unwrap();
    println!("alone: {} of {measured:?}", measured.choice());
    let load = load(&hsm).await;
    let before = inventory(&hsm).await;
    let measured = measure(&hsm).await.unwrap();
    println!("under load: {} of {measured:?}", measured.choice());
    assert_eq!(inventory(&hsm).await, before);
    let tally = load.stop().await;
    assert_eq!((tally.wrong, tally.failures()), (0, 0), "{tally:?}");
    let tried: Vec<_> = measured.levels.iter().map(|level| level.sessions).collect();
    assert!(tried.starts_with(&[1, 2, 4]) && tried.len() <= 7, "{tried:?}");
    assert!(tried.contains(&measured.choice()));
    for level in &measured.levels {
        let keys: Vec<_> = level.speeds.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["P-256", "RSA-2048"]);
        assert!(level.speeds.iter().all(|(_, speed)| *speed > 0), "{level:?}");
    }
    assert_eq!(hsm.counters().restarts, 0);
}

async fn a_token_that_answers_late_gets_many_sessions(token: Token) {
    let faults = Faults::new(&token);
    let hsm = supervisor(&faults).await;
    faults.set(&["C_Sign delay=50"]);
    let measured = measure(&hsm).await.unwrap();
    println!("{measured:?}");
    assert!(measured.choice() >= 16, "{measured:?}");
}

async fn no_more_sessions_are_chosen_than_a_token_allows(token: Token) {
    let faults = Faults::new(&token);
    let hsm = supervisor(&faults).await;
    // One for the keys, and two.
    faults.set(&["C_Sign delay=50", "C_OpenSession after=3 return=CKR_SESSION_COUNT"]);
    let measured = measure(&hsm).await.unwrap();
    assert_eq!(measured.end, End::Refused("CKR_SESSION_COUNT".into()));
    assert_eq!((measured.levels.len(), measured.choice()), (2, 2));
    // What was open is closed again, and more than are usual are never taken from a token that refuses some.
    faults.set(&["C_Sign delay=50", "C_OpenSession after=30 return=CKR_SESSION_COUNT"]);
    let measured = measure(&hsm).await.unwrap();
    assert_eq!((measured.levels.len(), measured.choice()), (5, 4), "{measured:?}");
    faults.set(&["C_OpenSession return=CKR_SESSION_COUNT"]);
    assert_eq!(measure(&hsm).await.unwrap_err().kind, Kind::Full);
    faults.set(&["C_GenerateKeyPair full"]);
    assert_eq!(measure(&hsm).await.unwrap_err().kind, Kind::Full);
    faults.clear();
    generate(&hsm, p256("k")).await.unwrap();
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    assert_eq!(hsm.counters().restarts, 0);
}

async fn a_module_that_crashes_while_it_is_measured_is_known_to_have(token: Token) {
    let faults = Faults::new(&token);
    let hsm = supervisor(&faults).await;
    // Each key signs once before there are several threads.
    let numbers = faults.set(&["C_Sign after=20 times=1 segv"]);
    let error = measure(&hsm).await.unwrap_err();
    assert_eq!((error.kind, faults.fired(numbers[0])), (Kind::Crashed, 1));
    assert!(error.message.contains("crashed on this request"), "{error}");
    measure(&hsm).await.unwrap();
    assert_eq!(hsm.counters().restarts, 1);
}

/// Threads that sign, of a token-host.
fn signing(pid: u32) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
    // One may have just ended.
    let names = threads.filter_map(|thread| name(thread.ok()?).ok());
    names.filter(|name| name.trim_end() == "sign").count()
}

async fn until_signing(pid: u32, count: usize) {
    let so_many = async {
        while signing(pid) != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), so_many).await.expect("so many sign");
}

async fn signing_goes_on_with_another_number_of_sessions(token: Token) {
    let with = |workers| Open { workers, ..token.open() };
    let hsm = token.supervisor().await;
    let load = load(&hsm).await;
    let pid = hsm.counters().pid.unwrap();
    for workers in [1, 16, 2, 64, 3] {
        assert!(!hsm.replace(with(workers), token.environment.clone()), "it does not start over");
        until_signing(pid, workers.into()).await;
        load.proven(Duration::from_secs(10)).await.expect("it is well");
    }
    assert_eq!((hsm.counters().pid, hsm.counters().restarts), (Some(pid), 0));
    let tally = load.stop().await;
    assert_eq!((tally.wrong, tally.failures()), (0, 0), "{tally:?}");
    // The next one starts with as many.
    crate::common::token::signal("KILL", pid);
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    until_signing(hsm.counters().pid.unwrap(), 3).await;
}

async fn further_token_hosts_get_another_number_of_sessions(token: Token) {
    let maker = token.supervisor().await;
    generate(&maker, p256("k")).await.unwrap();
    let hosts = Arc::new(Hosts::start(token.config(), 2));
    let request = || Request::Sign {
        key: id("k"),
        algorithm: SignatureAlgorithm::Sha256WithEcdsa,
        payload: b"x".as_slice().into(),
    };
    let signs = async || {
        let answers = futures::future::join_all((0..16).map(|_| hosts.call(request()))).await;
        assert!(answers.iter().all(|one| matches!(one, Ok(Reply::Signature(_)))), "{answers:?}");
    };
    for workers in [6, 2] {
        hosts.replace(Open { workers, ..token.open() }, token.environment.clone(), 2);
        let resized = async {
            loop {
                // Somebody signs all the time, and those that are too many leave.
                signs().await;
                let pids: Vec<_> = hosts.counters().iter().filter_map(|one| one.pid).collect();
                if pids.len() == 2 && pids.iter().all(|pid| signing(*pid) == usize::from(workers)) {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), resized).await.expect("both have so many");
    }
    assert_eq!(hosts.counters()[0].restarts, 0);
}
