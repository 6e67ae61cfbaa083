//! Sixteen callers of the gateways that sign without end, over TLS, with the token of a ServiceAccount.

use std::{
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    common::tally::{Outcome, Tally},
    http::{Answer, Connection, Gateways},
};

/// How many there are.
pub const CALLERS: usize = 16;
/// A request without an answer for so long is lost.
const LOST: Duration = Duration::from_secs(40);
/// How long a caller waits after a failure, as one would.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a connection may take to be made where gateways go away.
const CONNECT: Duration = Duration::from_secs(1);

/// Whom they ask for what.
#[derive(Clone)]
pub struct Target {
    pub gateways: Gateways,
    /// Label of a P-256 key.
    pub label: String,
    /// Its public point.
    pub point: Vec<u8>,
}

impl Target {
    /// Whether a signature of the key is right, by aws-lc, which has no part in making it.
    pub fn verifies(&self, payload: &[u8], signature: &str) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        STANDARD.decode(signature).is_ok_and(|signature| key.verify(payload, &signature).is_ok())
    }
}

/// How they call.
#[derive(Clone, Copy, Default)]
pub struct Manner {
    /// A request whose connection breaks is asked again elsewhere, as the sidecar does: gateways go away.
    pub elsewhere: bool,
    /// From one request of a caller to its next, at least.
    pub pace: Duration,
}

struct Shared {
    target: Target,
    manner: Manner,
    /// One for each gateway that they keep to; one for all where gateways go away.
    tallies: Vec<Mutex<Tally>>,
    /// How many of these had a good answer to a request begun since they were marked.
    well: watch::Sender<usize>,
    next: AtomicU64,
    /// Whether failures are to be expected.
    excused: AtomicBool,
    unexcused: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn tally(&self, caller: usize) -> MutexGuard<'_, Tally> {
        self.tallies[caller % self.tallies.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(&self) -> Sum {
        let unexcused = self.unexcused.load(Ordering::Relaxed);
        let mut sum = Sum { unexcused, ..Sum::default() };
        for gateway in 0..self.tallies.len() {
            sum.add(&self.tally(gateway));
        }
        sum
    }

    async fn connect(&self, turn: usize) -> std::io::Result<Connection> {
        let mut addresses = self.target.gateways.addresses().await;
        // DNS gives them in another order every time.
        addresses.sort();
        let address = addresses.get(turn % addresses.len().max(1)).copied();
        let address = address.ok_or_else(|| std::io::Error::other("no gateway is ready"))?;
        tokio::time::timeout(CONNECT, self.target.gateways.connect(address)).await?
    }

    /// One request; `None` when there was no answer at all.
    async fn ask(
        &self,
        caller: usize,
        connection: &mut Option<Connection>,
        payload: &[u8],
    ) -> Option<Outcome> {
        let body = format!(
            r#"{{"signRequest":{{"payload":"{}","signKeyName":"{}","signatureAlgorithm":"SHA256_WITH_ECDSA"}}}}"#,
            STANDARD.encode(payload),
            self.target.label
        );
        let tries = async {
            for turn in caller.. {
                let tried = async {
                    let mut open = match connection.take() {
                        Some(open) => open,
                        None => self.connect(turn).await?,
                    };
                    let answer = open.call("POST", "/v1/synchronousSign", body.clone()).await;
                    let answer = answer.map_err(std::io::Error::other)?;
                    Ok::<_, std::io::Error>((open, answer))
                };
                match tried.await {
                    Ok((open, answer)) => {
                        *connection = Some(open);
                        return self.judge(payload, &answer);
                    }
                    Err(_) if self.manner.elsewhere => tokio::time::sleep(PAUSE).await,
                    Err(error) => return Err(("broken", error.to_string())),
                }
            }
            unreachable!("turns do not end")
        };
        tokio::time::timeout(LOST, tries).await.ok()
    }

    fn judge(&self, payload: &[u8], answer: &Answer) -> Outcome {
        if answer.status == 200 {
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            return Ok(self.target.verifies(payload, body["signature"].as_str().unwrap_or_default()));
        }
        let kind = match answer.status {
            500 => "500",
            503 => "503",
            504 => "504",
            _ => "another status",
        };
        Err((kind, format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))))
    }

    async fn call_without_end(&self, caller: usize) {
        let mut connection = None;
        while !self.stop.load(Ordering::Relaxed) {
            // No payload twice: an answer to somebody else's request is a wrong one.
            let payload = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            self.tally(caller).sent += 1;
            let (begun, excused) = (Instant::now(), self.excused.load(Ordering::Relaxed));
            let outcome = self.ask(caller, &mut connection, &payload).await;
            if let Some(outcome) = &outcome {
                let excused = excused || self.excused.load(Ordering::Relaxed);
                self.unexcused.fetch_add(u64::from(outcome.is_err() && !excused), Ordering::Relaxed);
                self.tally(caller).note(caller, begun, outcome);
            }
            let well = (0..self.tallies.len()).filter(|one| self.tally(*one).proven() > 0).count();
            self.well.send_if_modified(|old| std::mem::replace(old, well) != well);
            if !matches!(outcome, Some(Ok(_))) {
                tokio::time::sleep(PAUSE).await;
            }
            tokio::time::sleep_until((begun + self.manner.pace).into()).await;
        }
    }
}

/// Callers at work.
pub struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them. Whoever makes a second load says how many payloads there were before.
    pub async fn start(target: &Target, manner: Manner, payloads: u64) -> Self {
        let gateways = if manner.elsewhere { 1 } else { target.gateways.addresses().await.len().max(1) };
        let shared = Arc::new(Shared {
            target: target.clone(),
            manner,
            tallies: (0..gateways).map(|_| Mutex::new(Tally::new())).collect(),
            well: watch::Sender::new(0),
            next: AtomicU64::new(payloads),
            excused: AtomicBool::new(false),
            unexcused: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let callers = (0..CALLERS).map(|caller| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { shared.call_without_end(caller).await })
        });
        Self { callers: callers.collect(), shared }
    }

    /// Waits until every gateway gave a good answer to a request begun from now on: how long that took, or `None` when
    /// it took too long. Failures of requests begun since then are counted apart.
    pub async fn well(&self, patience: Duration) -> Option<Duration> {
        let mut well = self.shared.well.subscribe();
        let begun = self.mark();
        let gateways = self.shared.tallies.len();
        let all = well.wait_for(|well| *well == gateways);
        tokio::time::timeout(patience, all).await.ok()?.ok()?;
        let took = begun.elapsed();
        self.mark();
        Some(took)
    }

    fn mark(&self) -> Instant {
        let begun = Instant::now();
        for gateway in 0..self.shared.tallies.len() {
            self.shared.tally(gateway).mark();
        }
        self.shared.well.send_replace(0);
        begun
    }

    /// Whether failures are to be expected from now on.
    pub fn excuse(&self, excused: bool) {
        self.shared.excused.store(excused, Ordering::Relaxed);
    }

    /// What became of the requests so far.
    pub fn sum(&self) -> Sum {
        self.shared.sum()
    }

    /// Has them finish what they are doing; what became of it all.
    pub async fn stop(self) -> Sum {
        for gateway in 0..self.shared.tallies.len() {
            self.shared.tally(gateway).stalled();
        }
        // From now on fewer and fewer call, so that time without an answer means nothing.
        let stall = self.sum().stall;
        self.shared.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.expect("no caller panicked");
        }
        let sum = self.shared.sum();
        Sum { stall, lost: sum.sent - sum.answered - sum.failed, ..sum }
    }
}

/// What became of the requests of all callers.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    pub sent: u64,
    pub answered: u64,
    pub wrong: u64,
    /// Without any answer; known when the callers have stopped.
    pub lost: u64,
    pub failed: u64,
    /// Of those that nobody had to expect.
    pub unexcused: u64,
    /// Of those begun after all was well.
    pub failed_since: u64,
    /// The longest time in which a gateway gave no good answer.
    pub stall: Duration,
    /// One error of each kind, in its own words.
    pub said: String,
}

impl Sum {
    fn add(&mut self, tally: &Tally) {
        self.sent += tally.sent;
        self.answered += tally.answered;
        self.wrong += tally.wrong;
        self.failed += tally.failures();
        self.failed_since += tally.failed_since;
        self.stall = self.stall.max(tally.stall);
        for (kind, count) in &tally.failed {
            let _ = write!(self.said, "{count} × {kind} ({}); ", tally.said[kind]);
        }
    }
}
