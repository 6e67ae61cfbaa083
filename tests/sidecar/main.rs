//! The sidecar against real TLS servers.

mod fixture;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{Authority, Behaviour, Gateway, Setup, get, post, raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_request_reaches_the_gateway_with_the_pods_token_only() {
    let setup = Setup::with_gateways(1).await;
    let answer = raw(
        setup.address,
        "POST /v1/synchronousSign?x=1 HTTP/1.1\r\nHost: localhost:8081\r\nAuthorization: Bearer forged\r\n\
         Connection: close, x-private\r\nX-Private: 1\r\nX-Kept: 1\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = setup.gateways[0].seen();
    let (head, body) = &seen[0];
    assert_eq!(head.uri.to_string(), "/v1/synchronousSign?x=1");
    assert_eq!(head.headers["authorization"], "Bearer one");
    assert_eq!(head.headers["host"], setup.host());
    assert_eq!(head.headers["x-kept"], "1");
    for gone in ["x-private", "connection", "upgrade"] {
        assert!(!head.headers.contains_key(gone), "{gone} was forwarded");
    }
    assert_eq!(body, "{}");
}

#[tokio::test]
async fn a_new_token_is_used_without_a_restart() {
    let setup = Setup::with_gateways(1).await;
    post(setup.address, "{}").await;
    setup.swap("token", "two");
    setup.until(|gateway| gateway.last_token() == "Bearer two").await;
}

#[tokio::test]
async fn a_new_ca_is_trusted_and_the_old_one_no_longer() {
    let setup = Setup::with_gateways(1).await;
    assert_eq!(post(setup.address, "{}").await.status, 200);
    let other = Authority::new();
    setup.swap("ca.crt", &other.pem());
    let refused = setup.until_status(503).await;
    assert!(refused.body.contains("invalid peer certificate"), "{}", refused.body);
    let gateway = Gateway::start(&other).await;
    setup.set_addresses(vec![gateway.address]);
    setup.until_status(200).await;
}

#[tokio::test]
async fn a_dead_address_is_skipped() {
    let mut setup = Setup::with_gateways(2).await;
    setup.gateways[0].kill();
    for _ in 0..20 {
        assert_eq!(post(setup.address, "{}").await.status, 200);
    }
}

#[tokio::test]
async fn what_a_gateway_may_have_seen_is_sent_again_only_if_it_reads() {
    let setup = Setup::with_gateways(2).await;
    for gateway in &setup.gateways {
        gateway.behave(Behaviour::BreakAfterReading);
    }
    let answer = post(setup.address, "{}").await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("it was not sent again"), "{}", answer.body);
    assert_eq!(setup.requests(), 1);

    setup.gateways[0].behave(Behaviour::Answer);
    for _ in 0..4 {
        assert_eq!(get(setup.address, "/v1/licenseInfo").await.status, 200);
    }
}

#[tokio::test]
async fn no_gateway_is_an_error_in_the_contracts_words() {
    let mut setup = Setup::with_gateways(1).await;
    let address = setup.gateways[0].address;
    setup.gateways[0].kill();
    let answer = post(setup.address, "{}").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.header("content-type"), "application/json");
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["errorCode"], 700);
    assert_eq!(body["reason"], "res.error.in.subystem");
    let message = body["message"].as_str().unwrap();
    let start = format!("no gateway could be reached: {address}: ");
    assert!(message.starts_with(&start) && message.contains("refused"), "{message}");
}

#[tokio::test]
async fn a_name_without_addresses_says_so() {
    let setup = Setup::with_gateways(0).await;
    let answer = post(setup.address, "{}").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("no gateway is ready: its name has no address"), "{}", answer.body);
}

#[tokio::test]
async fn a_slow_gateway_is_given_up() {
    let setup = Setup::with_gateways(1).await;
    setup.gateways[0].behave(Behaviour::Hang);
    let answer = post(setup.address, "{}").await;
    assert_eq!(answer.status, 504);
    assert!(answer.body.contains("\"errorCode\":700"), "{}", answer.body);
}

#[tokio::test]
async fn too_large_a_body_is_refused_before_any_gateway_sees_it() {
    let setup = Setup::with_gateways(1).await;
    let answer = post(setup.address, &"x".repeat(1024 * 1024)).await;
    assert_eq!(answer.status, 200);
    let answer = post(setup.address, &"x".repeat(1024 * 1024 + 1)).await;
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains("\"errorCode\":612"), "{}", answer.body);
    assert_eq!(setup.requests(), 1);
}

/// Larger than any body that is held, and never held: each piece is back before the next is sent.
#[tokio::test]
async fn a_file_passes_both_ways_as_it_comes() {
    let setup = Setup::with_gateways(1).await;
    setup.gateways[0].behave(Behaviour::Echo);
    for (path, framing) in [
        ("/v1/fileEncrypt", "Content-Length: 4194304"),
        ("/v1/synchronousFileDecrypt?x=1", "Transfer-Encoding: chunked"),
    ] {
        let mut stream = TcpStream::connect(setup.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (piece, chunked) = (vec![b'x'; 64 * 1024], framing.contains("chunked"));
        let mut back = 0;
        let mut buffer = vec![0; 64 * 1024];
        for sent in 1..=64_usize {
            if chunked {
                stream.write_all(b"10000\r\n").await.unwrap();
            }
            stream.write_all(&piece).await.unwrap();
            if chunked {
                stream.write_all(b"\r\n").await.unwrap();
            }
            while back < sent * piece.len() {
                let count = stream.read(&mut buffer).await.unwrap();
                assert!(count > 0, "the answer ended after {back} bytes");
                back += buffer[..count].iter().filter(|byte| **byte == b'x').count();
            }
        }
        if chunked {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.contains(&b'x'));
    }
    let seen = setup.gateways[0].seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].0.headers["content-length"], "4194304");
    assert!(seen.iter().all(|(head, _)| head.headers["authorization"] == "Bearer one"));
}

#[tokio::test]
async fn a_file_that_a_gateway_may_have_seen_is_not_sent_again() {
    let setup = Setup::with_gateways(2).await;
    for gateway in &setup.gateways {
        gateway.behave(Behaviour::BreakAfterReading);
    }
    let file =
        "POST /v1/fileEncrypt HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfile";
    let answer = raw(setup.address, file).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(setup.requests(), 1);
    // A connection that cannot be opened costs nothing.
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    setup.gateways[1].behave(Behaviour::Answer);
    setup.set_addresses(vec![nobody, setup.gateways[1].address]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..4 {
        let answer = raw(setup.address, file).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_file_may_take_long_as_long_as_it_comes() {
    let setup = Setup::with_gateways(1).await;
    let mut stream = TcpStream::connect(setup.address).await.unwrap();
    let head = "POST /v1/fileEncrypt HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // The deadline for an answer is two seconds here.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut stream = TcpStream::connect(setup.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"xx").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_or_the_refusal() {
    let setup = Setup::with_gateways(1).await;
    let head = |length| {
        format!(
            "POST /v1/sign HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let refused = raw(setup.address, &head(2_000_000)).await;
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
    let accepted = raw(setup.address, &(head(2) + "{}")).await;
    assert!(accepted.starts_with("HTTP/1.1 100 Continue"), "{accepted}");
    assert!(accepted.contains("HTTP/1.1 200 OK"), "{accepted}");
}

#[tokio::test]
async fn connections_are_kept_and_requests_spread() {
    let setup = Setup::with_gateways(2).await;
    for _ in 0..50 {
        assert_eq!(post(setup.address, "{}").await.status, 200);
    }
    for gateway in &setup.gateways {
        assert!(gateway.seen().len() >= 20, "one gateway got {} of 50", gateway.seen().len());
        assert!(gateway.connections() <= 2, "{} connections for 50 requests", gateway.connections());
    }
}

#[tokio::test]
async fn ready_means_that_a_gateway_was_reached_and_the_token_is_there() {
    let setup = Setup::with_gateways(0).await;
    assert_eq!(get(setup.admin, "/livez").await.status, 200);
    assert_eq!(get(setup.admin, "/readyz").await.status, 503);
    let gateway = Gateway::start(&setup.authority).await;
    setup.set_addresses(vec![gateway.address]);
    fixture::eventually("ready", async || get(setup.admin, "/readyz").await.status == 200).await;
    assert!(get(setup.admin, "/metrics").await.body.contains("hsm_operator_sidecar_connects_total 1"));
    setup.remove("token");
    fixture::eventually("unready", async || get(setup.admin, "/readyz").await.status == 503).await;
}

#[tokio::test]
async fn a_running_request_outlives_sigterm() {
    let mut setup = Setup::with_gateways(1).await;
    setup.gateways[0].behave(Behaviour::Slow(Duration::from_millis(400)));
    let address = setup.address;
    let running = tokio::spawn(async move { post(address, "{}").await.status });
    tokio::time::sleep(Duration::from_millis(150)).await;
    setup.stop().await;
    assert_eq!(running.await.unwrap(), 200);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "it still listens");
}

/// Gateways restart one after the other, each with the drain protocol, and four clients never notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_gateways_lose_no_request() {
    let mut setup = Setup::with_gateways(2).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let failures = Arc::new(Mutex::new(Vec::new()));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, done, failures, address) =
                (stop.clone(), done.clone(), failures.clone(), setup.address);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = post(address, "{}").await;
                    done.fetch_add(1, Ordering::Relaxed);
                    if answer.status != 200 {
                        failures.lock().unwrap().push(answer.body);
                    }
                }
            })
        })
        .collect();
    for round in 0..6 {
        let fresh = Gateway::start(&setup.authority).await;
        let old = std::mem::replace(&mut setup.gateways[round % 2], fresh);
        // DNS learns of it late, as in a cluster: the old address is still known while the gateway drains.
        let draining = tokio::spawn(old.drain(Duration::from_millis(500)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        setup.publish();
        draining.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(*failures.lock().unwrap(), Vec::<String>::new());
    assert!(done.load(Ordering::Relaxed) > 200, "only {} requests", done.load(Ordering::Relaxed));
}
