//! Random sequences of right and wrong calls to a gateway before a real token, each compared with what a model of the
//! contract has to say, and with what is there afterwards: in the cluster and on the token.
//!
//! The same calls in every run; `MODEL_SEED=n` and `MODEL_CASES=n` have others and more. A sequence that fails is made
//! shorter, as far as that goes in a bounded number of tries, and is printed.

mod calls;
mod check;
mod state;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::hsm::{
    Hsm, Supervisor,
    protocol::{Reply, Request},
};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use self::{
    calls::{Call, Kind, Who},
    state::{Expected, Model, Supply},
};
use crate::{
    cluster::Cluster,
    common::token::{Module, Token, run},
    world::{Answer, World},
};

const SEED: u64 = 5;
/// Sequences, and calls in each at most.
const CASES: u32 = 8;
const CALLS: usize = 100;
/// How often a sequence that fails is tried with something left out.
const SHORTER: u32 = 16;

/// What some call has to have done, and in how many ways calls have to have been refused.
const DONE: &str = "Create Import List Describe Attest Sign Verify Encrypt Decrypt Mac VerifyMac Export Wrap Change Delete \
                    SelfSign Certificate Uncertify Keep Read Forget";
const REFUSALS: usize = 60;

/// A token and keys for it.
struct Place {
    token: Token,
    hsm: Arc<Supervisor>,
    supplies: Vec<Supply>,
}

/// A private key by openssl.
fn made(kind: Kind, token: &Token, arguments: &[&str]) -> Supply {
    let path = token.path().join("supply.pem");
    run(Command::new("openssl").args(["genpkey", "-out"]).arg(&path).args(arguments));
    let written = |arguments: &[&str]| {
        let output = run(Command::new("openssl").args(arguments).args(["-outform", "DER", "-in"]).arg(&path));
        STANDARD.encode(output.stdout)
    };
    let private = written(&["pkcs8", "-topk8", "-nocrypt"]);
    let size = (kind == Kind::Rsa).then_some(2048);
    Supply { kind, size, private, public: Some(written(&["pkey", "-pubout"])) }
}

fn secret(kind: Kind, value: &[u8]) -> Supply {
    let bits = u32::try_from(value.len() * 8).unwrap();
    let size = (kind == Kind::Aes).then_some(bits);
    Supply { kind, size, private: STANDARD.encode(value), public: None }
}

impl Place {
    async fn new(module: Module) -> Self {
        let token = Token::new(module);
        let p256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
        let rsa = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let supplies = vec![
            made(Kind::Ec, &token, &p256),
            made(Kind::Ec, &token, &p256),
            made(Kind::Ed, &token, &["-algorithm", "ED25519"]),
            made(Kind::Rsa, &token, &rsa),
            secret(Kind::Aes, &[0x5a; 32]),
            secret(Kind::Aes, &[0xa5; 16]),
            secret(Kind::Mac, &[0x77; 40]),
            secret(Kind::Mac, &[0x99; 64]),
        ];
        let hsm = token.supervisor().await;
        Self { token, hsm, supplies }
    }

    /// Everything that the token lists.
    async fn inventory(&self) -> BTreeSet<String> {
        match self.hsm.call(Request::Inventory).await {
            Ok(Reply::Inventory(entries)) => entries.iter().map(|entry| format!("{entry:?}")).collect(),
            other => panic!("{other:?}"),
        }
    }
}

async fn send(world: &World, who: Who, method: &str, path: &str, body: Option<Vec<u8>>) -> Answer {
    let token = match who {
        Who::App => Some("app"),
        Who::Reader => Some("reader"),
        Who::User => Some("user"),
        Who::Nobody => Some("nobody"),
        Who::Neighbour => Some("stranger"),
        Who::Unknown => Some("stolen"),
        Who::Silent => None,
    };
    let mut request = hyper::Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    world.send(request.body(body.map_or_else(Body::empty, Body::from)).unwrap()).await
}

/// What is there: in the cluster, and on the token.
type There = (BTreeSet<String>, BTreeSet<String>);

/// One sequence in a cluster of its own.
struct Course<'a> {
    place: &'a Place,
    outcomes: &'a Mutex<BTreeMap<String, usize>>,
    world: World,
    cluster: Arc<Cluster>,
    model: Model,
}

impl<'a> Course<'a> {
    async fn new(place: &'a Place, outcomes: &'a Mutex<BTreeMap<String, usize>>, number: usize) -> Self {
        let (world, cluster) = Cluster::before(place.hsm.clone(), Arc::default(), &[]).await;
        world.partitions.namespace("elsewhere", Some([("hsm".to_owned(), "yes".to_owned())].into()));
        let model = Model::new(place.token.module, number, place.supplies.clone());
        Self { place, outcomes, world, cluster, model }
    }

    async fn there(&self) -> There {
        (self.cluster.objects(), self.place.inventory().await)
    }

    /// One call; `before` is what was there. What is wrong with the answer. What is seen only, is not looked for: it changes
    /// nothing, and the next refusal would find it if it did.
    async fn step(&mut self, call: Call, before: &mut There) -> Result<(), String> {
        let plan = self.model.plan(call);
        let what = format!("{:?}", call.what);
        let (what, _) = what.split_once(' ').unwrap_or((&what, ""));
        let outcome = match &plan.expected {
            Expected::Refused(status, code) => format!("{what} {status} {code}"),
            Expected::Done(..) => format!("{what} done"),
        };
        *self.outcomes.lock().unwrap().entry(outcome).or_default() += 1;
        let answer = send(&self.world, call.who, plan.method, &plan.path, plan.body.clone()).await;
        let shown = || {
            let body = plan.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let answered = String::from_utf8_lossy(&answer.body);
            let sent: String = format!("{} {} {body}", plan.method, plan.path).chars().take(600).collect();
            format!("{sent}\nanswered by {} {answered}", answer.status.as_u16())
        };
        let wrong = |what: String| Err(format!("{what}\n{call:?}\n{}", shown()));
        match plan.expected {
            Expected::Refused(status, code) => {
                if answer.status.is_success() || answer.refused() != (status, code) {
                    return wrong(format!("{status} with {code} was expected"));
                }
                let there = self.there().await;
                if there != *before {
                    let changed =
                        (there.0.symmetric_difference(&before.0), there.1.symmetric_difference(&before.1));
                    return wrong(format!("it was refused, and changed what is there: {changed:?}"));
                }
            }
            Expected::Done(..) if answer.status == 204 => return wrong("204 is never answered".into()),
            Expected::Done(_, state::Effect::Garbled(_)) if !answer.status.is_success() => {
                if answer.refused() != (400, 410) {
                    return wrong("400 with 410 was expected, if anything is refused".into());
                }
            }
            Expected::Done(status, effect) => {
                if answer.status.as_u16() != status {
                    return wrong(format!("{status} was expected"));
                }
                let (neighbours, changes) = (call.who == Who::Neighbour, effect.changes());
                let learnt = self.model.learn(effect, neighbours, &answer, self.place.token.path());
                if let Err(what) = learnt {
                    return wrong(what);
                }
                if changes {
                    *before = self.there().await;
                }
            }
        }
        Ok(())
    }

    /// Whether the whole is as the model has it: lists, keys, passwords, data, and the token.
    async fn whole(&self) -> Result<(), String> {
        for (who, neighbours) in [(Who::App, false), (Who::Neighbour, true)] {
            let listed = send(&self.world, who, "GET", "/v1/key", None).await.ok();
            let expected = self.model.labels(neighbours);
            if listed != serde_json::json!(expected) {
                return Err(format!("in the end {listed} is listed, and {expected:?} expected"));
            }
        }
        for (label, key) in &self.model.keys {
            let who = if key.neighbours { Who::Neighbour } else { Who::App };
            let body = serde_json::json!({"label": self.model.label(*label)}).to_string();
            let described =
                send(&self.world, who, "POST", "/v1/key/attributes", Some(body.into_bytes())).await.ok();
            if Some(&described) != key.told.as_ref() {
                return Err(format!("in the end the key {key:?} is {described}"));
            }
        }
        for ((neighbours, name), (value, _)) in &self.model.data {
            let who = if *neighbours { Who::Neighbour } else { Who::App };
            let name = self.model.label(*name);
            let name = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
            let read = send(&self.world, who, "GET", &format!("/v1/dataObject/{name}"), None).await.ok();
            if read["value"] != STANDARD.encode(value) {
                return Err(format!("in the end the data object {name} is {read}"));
            }
        }
        let Ok(Reply::Inventory(entries)) = self.place.hsm.call(Request::Inventory).await else {
            return Err("the token does not answer".into());
        };
        let prefix = self.model.label(0).replace('a', "");
        let own = entries.iter().filter(|entry| entry.is_key() && entry.label.starts_with(&prefix));
        let mut own: Vec<_> = own.map(|entry| entry.label.clone()).collect();
        own.sort();
        let mut expected: Vec<_> = self.model.keys.keys().map(|label| self.model.label(*label)).collect();
        expected.sort();
        if own != expected {
            return Err(format!("in the end the token has {own:?}, and {expected:?} is expected"));
        }
        Ok(())
    }
}

async fn sequence(
    place: &Place,
    outcomes: &Mutex<BTreeMap<String, usize>>,
    number: usize,
    calls: &[Call],
) -> Result<(), String> {
    let mut course = Course::new(place, outcomes, number).await;
    let mut outcome = Ok(());
    let mut there = course.there().await;
    for (at, call) in calls.iter().enumerate() {
        if let Err(what) = course.step(*call, &mut there).await {
            outcome = Err(format!("call {at}: {what}"));
            break;
        }
    }
    if outcome.is_ok() {
        outcome = course.whole().await;
    }
    course.cluster.clear().await;
    outcome
}

fn as_the_model_has_it(module: Module) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (seed, cases) = (number("MODEL_SEED").unwrap_or(SEED), number("MODEL_CASES"));
    let config = Config {
        cases: cases.map_or(CASES, |cases| u32::try_from(cases).expect("a number of cases")),
        max_shrink_iters: SHORTER,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let place = runtime.block_on(Place::new(module));
    let (runs, sent, begun) = (Cell::new(0_usize), Cell::new(0_usize), Instant::now());
    let outcomes = Mutex::default();
    let sequences = calls::sequence(CALLS);
    let outcome = TestRunner::new(config).run(&sequences, |calls| {
        runs.set(runs.get() + 1);
        sent.set(sent.get() + calls.len());
        // Every sequence ends: nothing in it takes longer than a key of RSA.
        let outcome = runtime.block_on(async {
            let course = sequence(&place, &outcomes, runs.get(), &calls);
            tokio::time::timeout(Duration::from_secs(300), course).await
        });
        let outcome = outcome.unwrap_or_else(|_| Err("it does not end".into()));
        outcome.map_err(TestCaseError::fail)
    });
    println!(
        "model {module:?}: seed {seed}, {} sequences with {} calls in {:?}",
        runs.get(),
        sent.get(),
        begun.elapsed()
    );
    if let Err(error) = outcome {
        panic!("seed {seed}: {error}");
    }
    let outcomes = outcomes.into_inner().unwrap();
    println!("model {module:?}: {outcomes:?}");
    if seed != SEED || cases.is_some() {
        return;
    }
    // Sequences of which nothing comes prove nothing.
    let missing: Vec<_> =
        DONE.split(' ').filter(|what| !outcomes.contains_key(&format!("{what} done"))).collect();
    assert!(missing.is_empty(), "no call did these: {missing:?}");
    let refusals = outcomes.keys().filter(|outcome| !outcome.ends_with(" done")).count();
    assert!(refusals >= REFUSALS, "only {refusals} ways to be refused");
}

#[test]
fn softhsm_answers_every_sequence_as_the_model_has_it() {
    as_the_model_has_it(Module::SoftHsm);
}

#[test]
fn kryoptic_answers_every_sequence_as_the_model_has_it() {
    as_the_model_has_it(Module::Kryoptic);
}
