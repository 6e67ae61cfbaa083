//! What the process boundary costs: token-hosts beside the same library in this process, on a SoftHSM token of their
//! own. No cluster. Both sides of a figure are measured in turn, several times, in one run.

mod calls;
mod calm;
#[path = "../../tests/common/mod.rs"]
mod common;
mod crowd;
mod files;
mod floor;
mod gateway;
mod pool;
#[path = "../raw.rs"]
mod raw;
#[path = "../table.rs"]
mod table;
#[path = "../wrk.rs"]
mod wrk;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::token::{Module, Token, signal};
use hsm_operator::{
    hsm::{
        Hosts, Hsm,
        protocol::{KeyTemplate, Request},
    },
    model::{KeyAlgorithm, KeyId, KeyLabel, RequestedAttributes, SignatureAlgorithm},
};
use pool::Pool;
use raw::Raw;
use table::{Must, Row, median};

/// Measurements per figure.
const REPEATS: usize = 5;
/// Length of one measurement.
const TIME: Duration = Duration::from_secs(2);
/// Sessions, and threads in this process.
const THREADS: usize = 4;

/// Who signs.
#[derive(Clone)]
enum Side {
    Pool(Arc<Pool>),
    Hosts(Arc<Hosts>, Request),
}

impl Side {
    async fn sign(&self) -> bool {
        match self {
            Self::Pool(pool) => !pool.sign(Bytes::from_static(b"Payload")).await.is_empty(),
            Self::Hosts(hosts, request) => {
                let answer = hosts.call(request.clone()).await;
                answer.inspect_err(|error| eprintln!("  {error}")).is_ok()
            }
        }
    }

    /// Signatures per second with so many callers.
    async fn rate(&self, in_flight: usize) -> f64 {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let started = Instant::now();
        let callers: Vec<_> = (0..in_flight)
            .map(|_| {
                let (side, stop, count) = (self.clone(), Arc::clone(&stop), Arc::clone(&count));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        assert!(side.sign().await, "a signature");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        tokio::time::sleep(TIME).await;
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.expect("a caller that found signatures");
        }
        #[expect(clippy::cast_precision_loss, reason = "a few million at most")]
        let signatures = count.load(Ordering::Relaxed) as f64;
        signatures / started.elapsed().as_secs_f64()
    }

    /// Median time of a signature with one caller, in microseconds.
    async fn latency(&self) -> f64 {
        let side = self.clone();
        // As a task, which is what callers are: the thread that blocks on the runtime would have to be woken up by it.
        let caller = tokio::spawn(async move {
            let mut times = Vec::new();
            let end = Instant::now() + TIME;
            while Instant::now() < end {
                let begun = Instant::now();
                assert!(side.sign().await, "a signature");
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            median(&times)
        });
        caller.await.expect("a caller that found signatures")
    }
}

fn main() {
    if floor::be_child() || crowd::be_child() || gateway::be_child() {
        return;
    }
    // `cargo bench` passes flags of its own; `FIGURES` chooses.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads");
    let mut rows = Vec::new();
    if table::chosen("hosts") {
        rows.append(&mut hosts(&runtime));
    }
    if table::chosen("kill") {
        rows.append(&mut kills(&runtime));
    }
    if table::chosen("calm") {
        rows.extend([Module::SoftHsm, Module::Kryoptic].map(|module| runtime.block_on(calm::row(module))));
    }
    if table::chosen("crowd") {
        rows.append(&mut runtime.block_on(crowd::rows()));
    }
    if table::chosen("files") {
        rows.append(&mut files::rows());
    }
    if table::chosen("calls") {
        rows.append(&mut calls::rows());
    }
    table::print(&rows);
    table::write("boundary", &rows);
    // Threads in a library of C are not to be torn down while they wait.
    std::process::exit(0);
}

/// A token-host that is killed while others wait for it.
fn kills(runtime: &tokio::runtime::Runtime) -> Vec<Row> {
    let (token, key) = (Token::new(Module::SoftHsm), KeyId::for_purpose("p256"));
    let request = Request::Sign {
        key: key.clone(),
        algorithm: SignatureAlgorithm::Sha256WithEcdsa,
        payload: Bytes::from_static(b"Payload"),
    };
    let (failed, stalls) = runtime.block_on(async {
        make(&token, &key, KeyAlgorithm::Ec).await;
        let hosts = Arc::new(Hosts::start(token.config(), 1));
        killed(&Side::Hosts(hosts, request)).await
    });
    vec![
        Row::less("kill/failed requests", "", &[failed], &[]).must(Some(Must::AtMost(0.0))),
        Row::less("kill/longest stall", "ms", &stalls, &[]).must(Some(Must::AtMost(50.0))),
    ]
}

/// Signatures beside the same in this process.
fn hosts(runtime: &tokio::runtime::Runtime) -> Vec<Row> {
    let token = Token::new(Module::SoftHsm);
    let (rsa, p256) = (KeyId::for_purpose("rsa"), KeyId::for_purpose("p256"));
    runtime.block_on(make(&token, &rsa, KeyAlgorithm::Rsa));
    runtime.block_on(make(&token, &p256, KeyAlgorithm::Ec));
    let here = Raw::open(&token.library, &token.environment, &token.label, &token.pin);
    let mut rows = Vec::new();
    for (name, id, algorithm) in [
        ("rsa2048", &rsa, SignatureAlgorithm::Sha256WithRsa),
        ("p256", &p256, SignatureAlgorithm::Sha256WithEcdsa),
    ] {
        let is_rsa = name == "rsa2048";
        let request = Request::Sign { key: id.clone(), algorithm, payload: Bytes::from_static(b"Payload") };
        let pool = Side::Pool(Pool::start(&here, id, is_rsa, THREADS));
        let hosts = |count| {
            let _inside = runtime.enter();
            let mut config = token.config();
            // In all as many sessions as the other side has threads.
            config.open.workers = u16::try_from(THREADS / count).expect("a few");
            Side::Hosts(Arc::new(Hosts::start(config, count)), request.clone())
        };
        let one = hosts(1);
        for in_flight in [16, 64] {
            let (ours, theirs) =
                in_turn(runtime, name, (&one, &pool), async |side| side.rate(in_flight).await);
            let must = Must::RatioAtLeast(if is_rsa { 0.97 } else { 0.95 });
            rows.push(Row::rate(format!("host/{name}/{in_flight}"), &ours, &theirs).must(Some(must)));
        }
        if is_rsa {
            continue;
        }
        let (ours, theirs) = in_turn(runtime, name, (&one, &pool), async |side| side.latency().await);
        rows.push(Row::less("host/p256/1 p50", "us", &ours, &theirs).must(Some(Must::MoreByAtMost(25.0))));
        let bare: Vec<f64> = theirs.iter().map(|work| floor::round_trip(*work, TIME)).collect();
        rows.push(Row::less("bare sockets there and back p50", "us", &bare, &[]));
        let two = hosts(2);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..=REPEATS {
            let (raw, with_two) =
                (here.loops(id.as_bytes(), is_rsa, THREADS, TIME), runtime.block_on(two.rate(64)));
            eprintln!("  two token-hosts {round}/{REPEATS}: raw {raw:.0}/s, ours {with_two:.0}/s");
            if round > 0 {
                ours.push(with_two);
                theirs.push(raw);
            }
        }
        let must = Some(Must::RatioAtLeast(1.0));
        rows.push(Row::rate("two hosts/p256/64".into(), &ours, &theirs).must(must));
    }
    rows
}

/// Both sides, in turn; the first round warms them up and is thrown away.
fn in_turn(
    runtime: &tokio::runtime::Runtime,
    name: &str,
    (ours, theirs): (&Side, &Side),
    measure: impl AsyncFn(&Side) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..=REPEATS {
        let (there, here) = (runtime.block_on(measure(ours)), runtime.block_on(measure(theirs)));
        eprintln!("  {name} {round}/{REPEATS}: token-host {there:.1}, this process {here:.1}");
        if round > 0 {
            a.push(there);
            b.push(here);
        }
    }
    (a, b)
}

async fn make(token: &Token, id: &KeyId, algorithm: KeyAlgorithm) {
    let hosts = Hosts::start(token.config(), 1);
    let size = (algorithm == KeyAlgorithm::Rsa).then_some(2048);
    let template = KeyTemplate { id: id.clone(), ..template(&algorithm.to_string(), algorithm, size) };
    hosts.call(Request::Generate(template)).await.expect("a key");
    hosts.shutdown().await;
}

/// A key that signs, under the id of its name; P-256 where it is an EC key.
fn template(name: &str, algorithm: KeyAlgorithm, key_size: Option<u32>) -> KeyTemplate {
    let curve = (algorithm == KeyAlgorithm::Ec).then(|| "1.2.840.10045.3.1.7".into());
    KeyTemplate {
        id: KeyId::for_purpose(name),
        label: KeyLabel::new(name).expect("a label"),
        algorithm,
        key_size,
        curve_oid: curve,
        attributes: RequestedAttributes { sign: Some(true), ..Default::default() }.resolved(),
    }
}

/// Failed requests, and the longest time without an answer in milliseconds, over kills under 16 callers.
async fn killed(side: &Side) -> (f64, Vec<f64>) {
    let Side::Hosts(hosts, _) = side else { unreachable!("only token-hosts are killed") };
    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let answers: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (side, stop, failed, answers) =
                (side.clone(), Arc::clone(&stop), Arc::clone(&failed), Arc::clone(&answers));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if !side.sign().await {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    answers.lock().expect("no panic while it is held").push(Instant::now());
                }
            })
        })
        .collect();
    let mut stalls = Vec::new();
    for round in 0..=REPEATS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        answers.lock().expect("no panic while it is held").clear();
        signal("KILL", hosts.counters()[0].pid.expect("it runs"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut answers = std::mem::take(&mut *answers.lock().expect("no panic while it is held"));
        // A stall that goes on counts, too.
        answers.push(Instant::now());
        let longest = answers.windows(2).map(|pair| pair[1] - pair[0]).max().expect("answers");
        if round > 0 {
            stalls.push(longest.as_secs_f64() * 1e3);
        }
        eprintln!("  kill {round}/{REPEATS}: {:.0} ms without an answer", longest.as_secs_f64() * 1e3);
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("callers do not panic");
    }
    #[expect(clippy::cast_precision_loss, reason = "a few at most")]
    let failed = failed.load(Ordering::Relaxed) as f64;
    (failed, stalls)
}
