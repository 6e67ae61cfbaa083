use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use hsm_operator::{
    hsm::{
        HostState, Hsm, Supervisor, SupervisorConfig,
        protocol::{KeyFacts, KeyTemplate, Kind, Request, TokenSelector},
    },
    model::{KeyAlgorithm, KeyId, SignatureAlgorithm},
};

use crate::{
    common::token::{Module, Token, signal},
    generate, id, inventory, on_both_tokens, p256, sign, template,
};

on_both_tokens! {
    a_kill_while_a_key_is_made_leaves_one_pair_after_the_next_try,
    a_kill_while_a_secret_key_is_made_leaves_one_key,
    no_signature_fails_while_token_hosts_are_killed,
    a_stopped_token_host_is_replaced_in_time,
    a_missing_library_is_said_so_and_found_later,
    an_unknown_token_is_said_so,
    the_pin_is_in_no_command_line_and_no_environment,
    a_token_host_ends_with_its_supervisor,
}

/// Starts to make a key and kills the token-host in the middle: `round` moves the kill through the time that making
/// one was seen to take on this token and machine. True when the kill met the key in the making.
async fn killed_while_made(hsm: &Arc<Supervisor>, key: KeyTemplate, round: u32, usual: Duration) -> bool {
    hsm.ready().await.unwrap();
    // A call that has been answered proves that the next one meets a running token-host.
    hsm.call(Request::Random(1)).await.unwrap();
    let making = tokio::spawn({
        let hsm = Arc::clone(hsm);
        async move { generate(&hsm, key).await }
    });
    tokio::time::sleep(usual * (round % 10) / 10).await;
    if let Some(pid) = hsm.counters().pid {
        signal("KILL", pid);
    }
    match making.await.unwrap() {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind, Kind::Crashed, "{error}");
            true
        }
    }
}

/// The shortest of a few tries: what a kill has to be quicker than.
async fn usual_time(hsm: &Supervisor, key: impl Fn(&str) -> KeyTemplate) -> Duration {
    let mut best = Duration::MAX;
    for name in ["first", "second", "third"] {
        let start = Instant::now();
        generate(hsm, key(name)).await.unwrap();
        best = best.min(start.elapsed());
    }
    best
}

async fn made_after_all(hsm: &Supervisor, key: impl Fn() -> KeyTemplate) -> KeyFacts {
    loop {
        match generate(hsm, key()).await {
            Ok(facts) => break facts,
            // It was sent to the token-host that had been killed a moment ago.
            Err(error) => assert_eq!(error.kind, Kind::Crashed, "{error}"),
        }
    }
}

/// Kills until enough of them met a key in the making: how many that takes is up to the machine's scheduler.
const ENOUGH: u32 = 10;
const ROUNDS: u32 = 200;

async fn a_kill_while_a_key_is_made_leaves_one_pair_after_the_next_try(token: Token) {
    let hsm = token.supervisor().await;
    let usual = usual_time(&hsm, p256).await;
    let (mut interrupted, mut round) = (0, 0);
    while interrupted < ENOUGH {
        assert!(round < ROUNDS, "only {interrupted} of {round} kills met a key in the making");
        let name = format!("k{round}");
        interrupted += u32::from(killed_while_made(&hsm, p256(&name), round, usual).await);
        let facts = made_after_all(&hsm, || p256(&name)).await;
        assert_eq!(facts.twins, 1);
        assert!(facts.public_key.is_some());
        sign(&hsm, &name, SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
        let wanted = id(&name);
        let of_key: Vec<_> =
            inventory(&hsm).await.into_iter().filter(|entry| entry.id == wanted.as_bytes()).collect();
        assert_eq!(of_key.iter().filter(|entry| entry.is_key()).count(), 1, "round {round}: {of_key:?}");
        assert_eq!(of_key.len(), 2, "round {round}: {of_key:?}");
        round += 1;
    }
}

async fn a_kill_while_a_secret_key_is_made_leaves_one_key(token: Token) {
    let hsm = token.supervisor().await;
    let aes = |name: &str| template(name, KeyAlgorithm::Aes, Some(256), None);
    let usual = usual_time(&hsm, aes).await;
    let (mut interrupted, mut round) = (0, 0);
    while interrupted < ENOUGH {
        assert!(round < ROUNDS, "only {interrupted} of {round} kills met a key in the making");
        let name = format!("k{round}");
        interrupted += u32::from(killed_while_made(&hsm, aes(&name), round, usual).await);
        let facts = made_after_all(&hsm, || aes(&name)).await;
        assert_eq!((facts.twins, facts.local, facts.key_size), (1, Some(true), Some(256)), "round {round}");
        assert_eq!(facts.attributes.always_sensitive, Some(true), "round {round}");
        round += 1;
    }
    // What a kill leaves on SoftHSM has no identity yet, or may be a key for all that can be seen: that is kept, under
    // an id of its own, where nothing finds it and the inventory shows it.
    let names: Vec<_> = ["first", "second", "third"]
        .map(Into::into)
        .into_iter()
        .chain((0..round).map(|round| format!("k{round}")))
        .collect();
    let aside: Vec<_> =
        names.iter().map(|name| KeyId::for_purpose(&format!("set-aside/{}", id(name)))).collect();
    let mut left = inventory(&hsm).await;
    left.retain(|entry| {
        let ghost = entry.id.is_empty() && entry.label.is_empty();
        !(ghost || aside.iter().any(|id| id.as_bytes() == entry.id))
    });
    let mut left: Vec<_> = left.into_iter().map(|entry| entry.id).collect();
    left.sort();
    let mut wanted: Vec<_> = names.iter().map(|name| id(name).as_bytes().to_vec()).collect();
    wanted.sort();
    assert_eq!(left, wanted, "one key each");
}

/// SoftHSM finds nothing, without an error, once its storage is gone, and stays so when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_that_was_away_is_used_again_without_help() {
    let token = Token::new(Module::SoftHsm);
    let hsm = token.supervisor().await;
    generate(&hsm, p256("k")).await.unwrap();
    let (here, away) = (token.path().join("tokens"), token.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    for _ in 0..3 {
        let error = sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap_err();
        assert!(error.kind.not_done(), "a key on it is not said to be gone: {:?} {error}", error.kind);
    }
    std::fs::rename(&away, &here).unwrap();
    let mut state = hsm.state();
    let ready = state.wait_for(|state| matches!(state, HostState::Ready(_)));
    drop(tokio::time::timeout(Duration::from_secs(10), ready).await.expect("in time").unwrap());
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
}

async fn signing(hsm: &Arc<Supervisor>, callers: usize, until: Instant) -> usize {
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let hsm = Arc::clone(hsm);
            tokio::spawn(async move {
                let mut made = 0;
                while Instant::now() < until {
                    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
                    made += 1;
                }
                made
            })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += task.await.expect("no call failed");
    }
    made
}

async fn no_signature_fails_while_token_hosts_are_killed(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, p256("k")).await.unwrap();
    let killer = tokio::spawn({
        let hsm = Arc::clone(&hsm);
        async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                signal("KILL", hsm.counters().pid.expect("a token-host runs"));
            }
        }
    });
    let made = signing(&hsm, 16, Instant::now() + Duration::from_secs(2)).await;
    killer.await.unwrap();
    assert_eq!(hsm.counters().restarts, 5);
    assert!(made > 500, "{made}");
}

async fn a_stopped_token_host_is_replaced_in_time(token: Token) {
    let hsm = Supervisor::start(SupervisorConfig {
        ping: (Duration::from_millis(200), Duration::from_millis(600)),
        ..token.config()
    });
    hsm.ready().await.unwrap();
    generate(&hsm, p256("k")).await.unwrap();
    signal("STOP", hsm.counters().pid.unwrap());
    let begun = Instant::now();
    sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(hsm.counters().restarts, 1);
}

async fn a_missing_library_is_said_so_and_found_later(token: Token) {
    let mut config = token.config();
    let later = token.path().join("later.so");
    config.open.library = later.display().to_string();
    let hsm = Supervisor::start(config);
    let error = hsm.ready().await.unwrap_err();
    assert_eq!(error.kind, Kind::LibraryNotLoaded, "{error}");
    assert!(error.message.contains("later.so"), "{error}");
    let error = hsm.call(Request::Inventory).await.unwrap_err();
    assert_eq!(error.kind, Kind::LibraryNotLoaded);
    std::os::unix::fs::symlink(&token.library, later).unwrap();
    let mut state = hsm.state();
    let ready = state.wait_for(|state| matches!(state, HostState::Ready(_)));
    tokio::time::timeout(Duration::from_secs(10), ready).await.expect("in time").unwrap();
    hsm.call(Request::Inventory).await.unwrap();
}

async fn an_unknown_token_is_said_so(token: Token) {
    let mut config = token.config();
    config.open.token = TokenSelector::Label("nobody".into());
    let error = Supervisor::start(config).ready().await.unwrap_err();
    assert_eq!(error.kind, Kind::TokenNotFound, "{error}");
    assert!(error.message.contains("nobody") && error.message.contains(&token.label), "{error}");
}

async fn the_pin_is_in_no_command_line_and_no_environment(token: Token) {
    let hsm = token.supervisor().await;
    for pid in [hsm.counters().pid.unwrap(), std::process::id()] {
        for file in ["cmdline", "environ"] {
            // What may not be read is not disclosed either.
            let content = std::fs::read(PathBuf::from(format!("/proc/{pid}/{file}"))).unwrap_or_default();
            let pin = token.pin.as_bytes();
            assert!(!content.windows(pin.len()).any(|window| window == pin), "{file} of {pid}");
        }
    }
}

async fn a_token_host_ends_with_its_supervisor(token: Token) {
    let gone = async |pid: u32| {
        let begun = Instant::now();
        while PathBuf::from(format!("/proc/{pid}")).exists() {
            assert!(begun.elapsed() < Duration::from_secs(5), "{pid} is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let hsm = token.supervisor().await;
    let pid = hsm.counters().pid.unwrap();
    drop(hsm);
    gone(pid).await;
    let hsm = token.supervisor().await;
    let pid = hsm.counters().pid.unwrap();
    hsm.shutdown().await;
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    assert_eq!(hsm.call(Request::Inventory).await.unwrap_err().kind, Kind::Unavailable);
}
