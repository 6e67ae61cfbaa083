//! Copies of a token, of which one goes wrong while sixteen callers sign.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hsm_operator::{
    api::partition::VerifySignatures,
    hsm::{
        Canary, Hosted, Hosts, Hsm, Replicas,
        protocol::{Find, Kind, Reply, Request},
        supervisor::Deadlines,
    },
    model::{KeyAlgorithm, SignatureAlgorithm, SignatureType},
    public_key::PublicKey,
    service::{
        directory::Usable,
        sign::{Job, Signer},
    },
    telemetry::Metrics,
};
use tokio::task::JoinHandle;

use crate::{
    common::{faults::Faults, token::Token},
    generate, id, on_both_tokens, p256, template,
};

on_both_tokens! {
    whatever_one_of_two_tokens_does_no_caller_notices,
    a_wrong_signature_of_one_token_is_made_again_by_the_other,
    keys_are_made_on_the_primary_alone_and_used_there_until_they_are_replicated,
    a_token_with_other_keys_is_never_used,
    a_request_that_crashes_the_module_crashes_one_token_and_no_caller_notices,
}

const CALLERS: u64 = 16;
/// The deadline of signatures.
const LIMIT: Duration = Duration::from_secs(4);
/// How soon a token has to sign again.
const RECOVERY: Duration = Duration::from_secs(5);

/// A token and a copy of it, both behind the fault module.
struct Pair {
    tokens: [Token; 2],
    faults: [Faults; 2],
    hosts: [Arc<Hosts>; 2],
    replicas: Arc<Replicas>,
    failovers: Arc<AtomicU64>,
    /// How often one of them was found not to sign.
    outs: Arc<AtomicU64>,
    key: Usable,
}

impl Pair {
    /// With the key `k`.
    async fn new(token: Token) -> Self {
        Self::within(token, LIMIT).await
    }

    /// The same, with this deadline of signatures.
    async fn within(token: Token, limit: Duration) -> Self {
        let maker = token.supervisor().await;
        let rsa = template("canary", KeyAlgorithm::Rsa, Some(2048), None);
        let canary = PublicKey::from_spki(&generate(&maker, rsa).await.unwrap().public_key.unwrap()).unwrap();
        let public = generate(&maker, p256("k")).await.unwrap().public_key.unwrap();
        maker.shutdown().await;
        let copy = token.copy();
        let faults = [Faults::new(&token), Faults::new(&copy)];
        let failovers = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&failovers);
        let on_failover = Box::new(move || {
            counted.fetch_add(1, Relaxed);
        });
        let outs = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&outs);
        let on_change = move |_: &str, signs: bool| {
            counted.fetch_add(u64::from(!signs), Relaxed);
        };
        let replicas = Arc::new(Replicas::new(limit, Arc::new(on_change), on_failover));
        replicas.set_canary(Some(Canary::new(id("canary"), canary)));
        let hosts = [&faults[0], &faults[1]].map(|faults| {
            let mut config = faults.config();
            config.deadlines.sign = limit;
            Arc::new(Hosts::start(config, 1))
        });
        let [primary, replica] = hosts.clone().map(|hosts| hosts as Arc<dyn Hosted>);
        replicas.update(Some(primary), vec![("b".into(), replica)]);
        let key = Usable {
            partition: "p".into(),
            id: id("k"),
            algorithm: KeyAlgorithm::Ec,
            public: Some(Arc::new(PublicKey::from_spki(&public).unwrap())),
            public_only: false,
        };
        let pair = Self { tokens: [token, copy], faults, hosts, replicas, failovers, outs, key };
        pair.healthy(2).await;
        pair
    }

    fn signing(&self) -> usize {
        let (primary, replicas) = self.replicas.members();
        primary.iter().chain(&replicas).filter(|one| one.cause().is_none()).count()
    }

    /// Waits until so many of them sign; how long that took.
    async fn healthy(&self, count: usize) -> Duration {
        let begun = Instant::now();
        while self.signing() != count {
            let (primary, replicas) = self.replicas.members();
            let causes: Vec<_> = primary.iter().chain(&replicas).map(|one| one.cause()).collect();
            assert!(begun.elapsed() < 4 * RECOVERY, "{count} do not sign: {causes:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    /// Callers of which none may fail, and whose signatures are checked as a gateway does.
    fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (signer, sent) =
            (Arc::new(Signer::new(Arc::new(Metrics::default()))), Arc::new(AtomicU64::new(0)));
        let slowest = Arc::new(AtomicU64::new(0));
        let one = |_| {
            let (stop, signer, sent, slowest) =
                (Arc::clone(&stop), Arc::clone(&signer), Arc::clone(&sent), Arc::clone(&slowest));
            let (replicas, key) = (Arc::clone(&self.replicas), self.key.clone());
            tokio::spawn(async move {
                let public = key.public.clone().unwrap();
                while !stop.load(Relaxed) {
                    let payload = sent.fetch_add(1, Relaxed).to_be_bytes();
                    let job = Job {
                        algorithm: SignatureAlgorithm::Sha256WithEcdsa,
                        form: SignatureType::Raw,
                        payload: payload.to_vec().into(),
                        context: "".into(),
                        verify: VerifySignatures::Always,
                    };
                    let begun = Instant::now();
                    let signature =
                        signer.sign(replicas.as_ref(), &key, job).await.map_err(|e| format!("{e:?}"))?;
                    let right = public.verify(SignatureAlgorithm::Sha256WithEcdsa, &payload, &signature);
                    if right != Ok(true) {
                        return Err("a wrong signature".to_owned());
                    }
                    slowest.fetch_max(u64::try_from(begun.elapsed().as_millis()).unwrap(), Relaxed);
                }
                Ok(())
            })
        };
        let callers = (0..CALLERS).map(one).collect();
        Load { stop, sent, slowest, callers }
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    slowest: Arc<AtomicU64>,
    callers: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    /// Ends it: how many signatures there were, the slowest in milliseconds, and what callers complain of.
    async fn end(self) -> (u64, u64, Vec<String>) {
        self.stop.store(true, Relaxed);
        let mut complaints = Vec::new();
        for caller in self.callers {
            complaints.extend(caller.await.unwrap().err());
        }
        (self.sent.load(Relaxed), self.slowest.load(Relaxed), complaints)
    }
}

async fn whatever_one_of_two_tokens_does_no_caller_notices(token: Token) {
    let pair = Pair::new(token).await;
    let mut complaints = Vec::new();
    for rule in [
        "C_Sign times=1 segv",
        "C_Sign segv",
        "C_Sign return=CKR_GENERAL_ERROR",
        "C_SignInit stale",
        "C_SignInit logout",
        "* gone",
        "C_Sign times=1 hang",
        "C_Sign hang",
    ] {
        for (which, faults) in ["primary", "replica"].iter().zip(&pair.faults) {
            let (load, before) = (pair.load(), pair.failovers.load(Relaxed));
            tokio::time::sleep(Duration::from_millis(100)).await;
            let numbers = faults.set(&[rule]);
            // Long enough that a call which hangs would be too late.
            let lasts = if rule.ends_with("hang") { LIMIT + LIMIT / 4 } else { Duration::from_millis(700) };
            tokio::time::sleep(lasts).await;
            faults.clear();
            let fired = faults.fired(numbers[0]);
            let recovery = pair.healthy(2).await;
            let (sent, slowest, failed) = load.end().await;
            let failovers = pair.failovers.load(Relaxed) - before;
            println!(
                "{:?} | {rule} on the {which} | sent {sent} failed {} | failovers {failovers} | slowest {slowest} ms | \
                 both sign after {} ms | fired {fired}",
                pair.tokens[0].module,
                failed.len(),
                recovery.as_millis(),
            );
            if fired == 0 {
                complaints.push(format!("{rule} on the {which}: the fault never came"));
            }
            // A thread that hangs ends with its token-host, which is given half of its deadline.
            let patience = if rule.ends_with("hang") { RECOVERY + LIMIT / 2 } else { RECOVERY };
            if recovery > patience {
                complaints.push(format!("{rule} on the {which}: both sign after {recovery:?}"));
            }
            complaints.extend(failed.into_iter().map(|failed| format!("{rule} on the {which}: {failed}")));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

async fn a_wrong_signature_of_one_token_is_made_again_by_the_other(token: Token) {
    let pair = Pair::new(token).await;
    for faults in &pair.faults {
        let load = pair.load();
        let numbers = faults.set(&["C_Sign flip"]);
        pair.healthy(1).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        faults.clear();
        assert!(faults.fired(numbers[0]) > 0);
        let recovery = pair.healthy(2).await;
        let (sent, _, complaints) = load.end().await;
        println!(
            "{:?} | flip | sent {sent} | both sign after {} ms",
            pair.tokens[0].module,
            recovery.as_millis()
        );
        assert!(complaints.is_empty() && recovery < RECOVERY, "{complaints:?} {recovery:?}");
    }
}

async fn keys_are_made_on_the_primary_alone_and_used_there_until_they_are_replicated(token: Token) {
    let pair = Pair::new(token).await;
    pair.faults[0].set(&["* gone"]);
    pair.healthy(1).await;
    let load = pair.load();
    let error = pair.replicas.call(Request::Generate(p256("new"))).await.unwrap_err();
    assert!(matches!(error.kind, Kind::TokenNotFound | Kind::Unavailable | Kind::Timeout), "{error:?}");
    // The replica would know this one; it is not asked.
    pair.replicas.call(Request::Find(Find::Id(id("k")))).await.unwrap_err();
    pair.faults[0].clear();
    pair.healthy(2).await;
    assert!(matches!(pair.replicas.call(Request::Generate(p256("new"))).await, Ok(Reply::Key(_))));
    let (_, _, complaints) = load.end().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    // Whoever is asked, the primary answers: the replica has no such key.
    let request = Request::Sign {
        key: id("new"),
        algorithm: SignatureAlgorithm::Sha256WithEcdsa,
        payload: b"x".as_slice().into(),
    };
    let calls = (0..32).map(|_| pair.replicas.call(request.clone()));
    for answer in futures::future::join_all(calls).await {
        assert!(matches!(answer, Ok(Reply::Signature(_))), "{answer:?}");
    }
    assert_eq!(pair.signing(), 2, "to be behind is no fault");
}

async fn a_token_with_other_keys_is_never_used(token: Token) {
    let pair = Pair::new(token).await;
    let other = Token::new(pair.tokens[0].module);
    let maker = other.supervisor().await;
    generate(&maker, template("canary", KeyAlgorithm::Rsa, Some(2048), None)).await.unwrap();
    generate(&maker, p256("k")).await.unwrap();
    maker.shutdown().await;
    let primary = Arc::clone(pair.replicas.members().0.unwrap().hsm());
    let hosts = Arc::new(Hosts::start(other.config(), 1));
    let replica = Arc::clone(&hosts) as Arc<dyn Hosted>;
    pair.replicas.update(Some(primary), vec![("other".into(), replica)]);
    let load = pair.load();
    let wrong = |cause| cause == Some(hsm_operator::hsm::health::Cause::WrongSignature);
    let begun = Instant::now();
    while !wrong(pair.replicas.members().1[0].cause()) {
        assert!(begun.elapsed() < RECOVERY, "{:?}", pair.replicas.members().1[0].cause());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (_, _, complaints) = load.end().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    assert_eq!(pair.failovers.load(Relaxed), 0);
}

async fn a_request_that_crashes_the_module_crashes_one_token_and_no_caller_notices(token: Token) {
    const POISONED: u64 = 3;
    // Whoever answers nobody for an eighth of it is helped out by the other one, before it is known to crash.
    let pair = Pair::within(token, Deadlines::default().sign).await;
    let load = pair.load();
    for faults in &pair.faults {
        // A SHA-1 digest, which nobody else has signed.
        faults.set(&["C_Sign segv-at=20"]);
    }
    let restarts = || [0, 1].map(|one: usize| pair.hosts[one].counters()[0].restarts);
    let outs = pair.outs.load(Relaxed);
    for _ in 0..POISONED {
        let before = restarts();
        let poison = Request::Sign {
            key: id("k"),
            algorithm: SignatureAlgorithm::Sha1WithEcdsa,
            payload: b"x".as_slice().into(),
        };
        let error = pair.replicas.call(poison).await.unwrap_err();
        assert_eq!(error.kind, Kind::Poisonous, "{error}");
        // Twice, and twice more once the token had signed something else.
        let begun = Instant::now();
        while restarts().iter().sum::<u64>() < before.iter().sum::<u64>() + 4 {
            assert!(begun.elapsed() < RECOVERY, "from {before:?} to {:?} restarts", restarts());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let after = restarts();
        assert!(
            [0, 1]
                .iter()
                .any(|one: &usize| after[*one] == before[*one] + 4 && after[1 - one] == before[1 - one]),
            "from {before:?} to {after:?} restarts, the last ones for {:?}",
            [0, 1].map(|one: usize| pair.hosts[one].recovery())
        );
    }
    let (_, slowest, complaints) = load.end().await;
    println!("{:?} | poisoned | slowest {slowest} ms", pair.tokens[0].module);
    assert!(complaints.is_empty(), "{complaints:?}");
    assert_eq!((pair.signing(), pair.outs.load(Relaxed) - outs), (2, 0), "the tokens are well");
}
