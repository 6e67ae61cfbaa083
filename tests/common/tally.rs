//! What became of calls that were made without end.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Whether the answer was right; or the kind of the error, and its own words.
pub type Outcome = Result<bool, (&'static str, String)>;

/// What became of calls.
#[derive(Clone, Debug)]
pub struct Tally {
    pub sent: u64,
    pub answered: u64,
    /// Answered with a signature that is not one.
    pub wrong: u64,
    /// Failed, by the kind of the error.
    pub failed: BTreeMap<&'static str, u64>,
    /// One error of each kind, in its own words.
    pub said: BTreeMap<&'static str, String>,
    /// The longest time in which nobody got a good answer.
    pub stall: Duration,
    /// Failures of calls begun after [`Tally::mark`].
    pub failed_since: u64,
    last_good: Instant,
    /// From when on good answers prove something.
    since: Instant,
    proven: BTreeSet<usize>,
}

impl Tally {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            sent: 0,
            answered: 0,
            wrong: 0,
            failed: BTreeMap::new(),
            said: BTreeMap::new(),
            stall: Duration::ZERO,
            failed_since: 0,
            last_good: now,
            since: now,
            proven: BTreeSet::new(),
        }
    }

    /// Calls that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Callers that had a good answer to a call begun after [`Tally::mark`].
    pub fn proven(&self) -> usize {
        self.proven.len()
    }

    /// From now on, calls prove something.
    pub fn mark(&mut self) -> Instant {
        self.since = Instant::now();
        self.proven.clear();
        self.failed_since = 0;
        self.since
    }

    /// Counts the time since the last good answer, too.
    pub fn stalled(&mut self) {
        self.stall = self.stall.max(self.last_good.elapsed());
    }

    pub fn note(&mut self, caller: usize, begun: Instant, outcome: &Outcome) {
        match outcome {
            Ok(right) => {
                self.answered += 1;
                self.wrong += u64::from(!right);
                if *right {
                    self.stalled();
                    self.last_good = Instant::now();
                    if begun >= self.since {
                        self.proven.insert(caller);
                    }
                }
            }
            Err((kind, message)) => {
                *self.failed.entry(kind).or_default() += 1;
                self.said.entry(kind).or_insert_with(|| message.clone());
                self.failed_since += u64::from(begun >= self.since);
            }
        }
    }
}
