//! A token under a load of signatures, on which faults are played.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use hsm_operator::{
    hsm::{Supervisor, protocol::Kind},
    public_key::PublicKey,
};

use crate::{
    common::{faults::Faults, tally::Tally, token::Token},
    generate,
    load::Load,
    p256,
};

/// The deadline of signatures where nothing hangs: restarts follow each other more slowly here than in real life.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// The deadline of signatures where something hangs.
pub const HANG: Duration = Duration::from_secs(1);
/// How soon everything has to be well again.
pub const RECOVERY: Duration = Duration::from_secs(5);
/// How soon a fault under load has to come true.
const COMES: Duration = Duration::from_secs(5);
/// For so long nothing may fail after the recovery.
const QUIET: Duration = Duration::from_millis(100);

/// How long a fault is there.
#[derive(Clone, Copy)]
pub enum Lasts {
    /// Until its rules are used up.
    Once,
    /// So many milliseconds.
    Millis(u64),
}
pub use Lasts::{Millis, Once};

/// Rules, how long they last, and with which errors calls may fail meanwhile.
pub type Row = (&'static [&'static str], Lasts, &'static [Kind]);

/// A token under faults.
pub struct Stage {
    pub faults: Faults,
    pub hsm: Arc<Supervisor>,
    public: Arc<PublicKey>,
    token: Token,
}

impl Stage {
    /// With `sign` as the deadline of signatures.
    pub async fn new(token: Token, sign: Duration) -> Self {
        let faults = Faults::new(&token);
        let mut config = faults.config();
        config.deadlines.sign = sign;
        let hsm = Supervisor::start(config);
        let facts = generate(&hsm, p256("k")).await.expect("a key");
        let public = PublicKey::from_spki(&facts.public_key.expect("a public key")).expect("it is one");
        Self { faults, hsm, public: Arc::new(public), token }
    }

    /// Callers that sign with its key.
    pub fn load(&self) -> Load {
        Load::start(&self.hsm, "k", &self.public)
    }

    /// Plays one row and says what is not as it should be.
    pub async fn play(&self, (rules, lasts, may): Row) -> (Tally, Vec<String>) {
        let mut wrong = Vec::new();
        let load = self.load();
        if load.proven(RECOVERY).await.is_none() {
            wrong.push("it was not well before".to_owned());
        }
        let restarts = self.hsm.counters().restarts;
        let numbers = self.faults.set(rules);
        match lasts {
            Millis(time) => tokio::time::sleep(Duration::from_millis(time)).await,
            Once => self.used_up(rules, &numbers).await,
        }
        self.faults.clear();
        let recovery = load.proven(RECOVERY).await;
        let failures = load.tally().failures();
        tokio::time::sleep(QUIET).await;
        let tally = load.stop().await;
        let fired: Vec<_> = numbers.iter().map(|number| self.faults.fired(*number)).collect();
        if fired.contains(&0) {
            wrong.push("the fault never came".to_owned());
        }
        if recovery.is_none() {
            wrong.push(format!("not well again within {RECOVERY:?}"));
        }
        if recovery.is_some() && tally.failures() > failures {
            wrong.push(format!("{} failures after the recovery", tally.failures() - failures));
        }
        for (kind, count) in &tally.failed {
            if !may.iter().any(|may| <&str>::from(*may) == *kind) {
                wrong.push(format!("{count} calls failed as {kind}: {}", tally.said[kind]));
            }
        }
        let restarts = self.hsm.counters().restarts - restarts;
        println!("{}", line(&self.token, &rules.join("; "), &tally, recovery, restarts, &fired));
        (tally, wrong)
    }

    /// The file says when, and nothing that could be waited for.
    async fn used_up(&self, rules: &[&str], numbers: &[usize]) {
        let begun = Instant::now();
        let times = |rule: &str| {
            let times = rule.split_whitespace().find_map(|word| word.strip_prefix("times="));
            times.and_then(|times| times.parse().ok()).unwrap_or(1)
        };
        let left =
            || rules.iter().zip(numbers).any(|(rule, number)| self.faults.fired(*number) < times(rule));
        while left() && begun.elapsed() < COMES {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// One line for a person to read.
fn line(
    token: &Token,
    name: &str,
    tally: &Tally,
    recovery: Option<Duration>,
    restarts: u64,
    fired: &[u64],
) -> String {
    let Tally { sent, answered, wrong, failed, stall, .. } = tally;
    let count = tally.failures();
    let recovery = recovery.map_or("never".to_owned(), |time| format!("{} ms", time.as_millis()));
    let mut line = format!(
        "chaos {:?} | {name} | sent {sent} answered {answered} wrong {wrong} failed {count} | stall {} ms | well \
         after {recovery} | restarts {restarts} | fired {fired:?}",
        token.module,
        stall.as_millis(),
    );
    if count > 0 {
        let _ = write!(line, " | {failed:?}");
    }
    line
}

/// Plays rows one after the other; no wrong signature in any of them.
pub async fn play(token: Token, rows: &[Row]) {
    let stage = Stage::new(token, PATIENCE).await;
    let mut complaints = Vec::new();
    for row in rows {
        let (tally, mut wrong) = stage.play(*row).await;
        if tally.wrong > 0 {
            wrong.push(format!("{} wrong signatures", tally.wrong));
        }
        complaints.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", row.0.join("; "))));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Rows for rules that come true once each and must not be noticed.
pub fn unnoticed(rules: &[&'static [&'static str]]) -> Vec<Row> {
    rules.iter().map(|rules| (*rules, Once, [].as_slice())).collect()
}
