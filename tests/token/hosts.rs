//! Several token-hosts on one token.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hsm_operator::{
    hsm::{
        HostState, Hosts, Hsm, Rung, Supervisor,
        protocol::{Kind, Reply, Request},
    },
    model::{SignatureAlgorithm, secret::Pin},
};

use crate::{common::token::Token, generate, id, on_both_tokens, p256};

on_both_tokens! {
    signatures_go_on_while_token_hosts_are_killed_one_by_one,
    a_wrong_pin_is_tried_by_one_of_them,
    processes_that_start_together_all_find_the_key,
}

async fn processes_that_start_together_all_find_the_key(token: Token) {
    let maker: Arc<Supervisor> = token.supervisor().await;
    generate(&maker, p256("k")).await.unwrap();
    for round in 0..100 {
        let all: Vec<_> = (0..4).map(|_| Supervisor::start(token.config())).collect();
        let calls = all.iter().flat_map(|one| (0..8).map(move |_| one.call(request())));
        for answer in futures::future::join_all(calls).await {
            assert!(matches!(answer, Ok(Reply::Signature(_))), "round {round}: {answer:?}");
        }
    }
}

const HOSTS: usize = 3;

fn request() -> Request {
    Request::Sign {
        key: id("k"),
        algorithm: SignatureAlgorithm::Sha256WithEcdsa,
        payload: b"x".as_slice().into(),
    }
}

/// Waits until so many of them run and have opened the token. SoftHSM empties the token's file at a login and writes it
/// again: it is no token any more, for anybody, if the process is killed in between.
async fn running(hosts: &Hosts, count: usize) -> Vec<u32> {
    let all = async {
        loop {
            let pids: Vec<u32> =
                hosts.counters().iter().filter(|one| one.ready).filter_map(|one| one.pid).collect();
            if pids.len() == count {
                return pids;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("all of them run")
}

async fn signatures_go_on_while_token_hosts_are_killed_one_by_one(token: Token) {
    let maker: Arc<Supervisor> = token.supervisor().await;
    generate(&maker, p256("k")).await.unwrap();
    let hosts = Arc::new(Hosts::start(token.config(), HOSTS));
    let done = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (hosts, done) = (Arc::clone(&hosts), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let answer = hosts.call(request()).await;
                    assert!(matches!(answer, Ok(Reply::Signature(_))), "{answer:?}");
                }
            })
        })
        .collect();
    for number in 0..HOSTS {
        let begun = jiff::Timestamp::now();
        let pid = loop {
            let pid = running(&hosts, HOSTS).await[number];
            // One that could not open the token, because others were opening it, ends by itself.
            if Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success() {
                break pid;
            }
        };
        let replaced = async {
            while running(&hosts, HOSTS).await.contains(&pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), replaced).await.unwrap();
        let last = hosts.recovery().expect("one was replaced");
        assert!(last.at >= begun && last.rung == Rung::Process, "{number}: {last:?}");
    }
    done.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    hosts.shutdown().await;
    assert!(hosts.counters().iter().all(|one| one.pid.is_none()));
}

async fn a_wrong_pin_is_tried_by_one_of_them(token: Token) {
    let mut config = token.config();
    config.open.pin = Pin::new("0000000000");
    let wrong = config.open.clone();
    let hosts = Hosts::start(config, HOSTS);
    let failed = |state: &HostState| matches!(state, HostState::Failed(_));
    hosts.state().wait_for(failed).await.unwrap();
    assert_eq!(hosts.call(request()).await.unwrap_err().kind, Kind::PinRejected);
    assert_eq!(hosts.counters().len(), 1, "others tried it, too");
    hosts.replace(token.open(), token.environment.clone(), HOSTS);
    let before = running(&hosts, HOSTS).await;
    // With nothing changed nothing is done.
    hosts.replace(token.open(), token.environment.clone(), HOSTS);
    assert_eq!(running(&hosts, HOSTS).await, before);
    // Another number.
    hosts.replace(token.open(), token.environment.clone(), 2);
    assert_eq!(running(&hosts, 2).await[0], before[0]);
    // None of them goes on when the first one is turned away.
    hosts.replace(wrong, token.environment.clone(), HOSTS);
    hosts.state().wait_for(failed).await.unwrap();
    running(&hosts, 0).await;
}
