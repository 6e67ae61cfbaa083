//! How long signatures take while keys are made that take long.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hsm_operator::{
    hsm::{Hsm, Supervisor, protocol::Request},
    model::{KeyAlgorithm, KeyId, SignatureAlgorithm},
};
use tokio_util::sync::CancellationToken;

use crate::{
    REPEATS, TIME,
    common::token::{Module, Token},
    table::{Must, Row},
    template,
};

const CALLERS: usize = 4;
/// From one signature of a caller to its next: some 400 a second of all of them.
const PACE: Duration = Duration::from_millis(10);
/// RSA-4096 keys that are made in a round: 20 in all.
const KEYS: usize = 4;

/// The 99th percentile with and without.
pub async fn row(module: Module) -> Row {
    let token = Token::new(module);
    let hsm = token.supervisor().await;
    hsm.call(Request::Generate(template("p256", KeyAlgorithm::Ec, None))).await.expect("a key");
    let (mut calm, mut busy) = (Vec::new(), Vec::new());
    // The first round warms up and is thrown away.
    for round in 0..=REPEATS {
        let without = p99(&hsm, tokio::time::sleep(TIME)).await;
        if round == 0 {
            continue;
        }
        let keys = (0..KEYS).map(|key| {
            let name = format!("rsa-{round}-{key}");
            hsm.call(Request::Generate(template(&name, KeyAlgorithm::Rsa, Some(4096))))
        });
        let begun = Instant::now();
        let making = async {
            for made in futures::future::join_all(keys).await {
                made.expect("a key");
            }
        };
        let with = p99(&hsm, making).await;
        eprintln!(
            "  {module:?} {round}/{REPEATS}: p99 {without:.2} ms, {with:.2} ms while {KEYS} keys were made in {:.1} s",
            begun.elapsed().as_secs_f32()
        );
        calm.push(without);
        busy.push(with);
    }
    hsm.shutdown().await;
    let (name, must) = match module {
        Module::SoftHsm => ("p99 beside rsa4096", Some(Must::RatioAtMost(3.0))),
        // Whatever is done there waits for the one lock that the module has.
        Module::Kryoptic => ("the same, kryoptic's lock", None),
    };
    Row::less(name, "ms", &busy, &calm).must(must)
}

/// The 99th percentile of signatures, in milliseconds, while something else happens.
async fn p99(hsm: &Arc<Supervisor>, meanwhile: impl Future<Output = ()>) -> f64 {
    let stop = CancellationToken::new();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (hsm, stop) = (Arc::clone(hsm), stop.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while !stop.is_cancelled() {
                    let begun = Instant::now();
                    let sign = Request::Sign {
                        key: KeyId::for_purpose("p256"),
                        algorithm: SignatureAlgorithm::Sha256WithEcdsa,
                        payload: Bytes::from_static(b"Payload"),
                    };
                    hsm.call(sign).await.expect("a signature");
                    times.push(begun.elapsed().as_secs_f64() * 1e3);
                    tokio::time::sleep_until((begun + PACE).into()).await;
                }
                times
            })
        })
        .collect();
    meanwhile.await;
    stop.cancel();
    let mut times = Vec::new();
    for caller in callers {
        times.append(&mut caller.await.expect("callers do not panic"));
    }
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}
