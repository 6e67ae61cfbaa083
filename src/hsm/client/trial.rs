//! Finding out which request the token-host crashes of, where nobody said.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Lane, Table};

/// Several token-hosts crashed, and nobody said of what: what was on its way each time is sent a few at a time, and nothing
/// else meanwhile, until it is answered or the culprit is alone.
pub(super) struct Trial {
    suspects: VecDeque<u64>,
    /// Suspects that are sent together.
    together: usize,
    /// The others wait for no longer.
    until: Instant,
}

/// After so many crashes that nobody is named for there is a trial. One alone is mostly a kill from outside.
pub(super) const UNEXPLAINED: u8 = 2;

impl Table {
    /// Begins a trial if some of those that wait, in their order, were there at several crashes: of those that were there
    /// at the most. A quarter of them at a time: one by one would take a slow token too long, and by halves it would crash
    /// more often.
    pub(super) fn try_suspects(&mut self, waiting: &[u64], patience: Duration) {
        let crashes = |id: &u64| self.calls.get(id).map_or(0, |call| call.crashes);
        let most = waiting.iter().map(crashes).max().unwrap_or(0).max(UNEXPLAINED);
        let suspects: VecDeque<u64> = waiting.iter().filter(|id| crashes(id) == most).copied().collect();
        let together = suspects.len().div_ceil(4);
        self.trial = (together > 0).then(|| Trial { suspects, together, until: Instant::now() + patience });
    }

    /// Whether it waits for others to be tried before it.
    pub(super) fn waits_for_trial(&self, id: u64) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.suspects.contains(&id))
    }

    /// The next of the suspects, once those before them are answered.
    pub(super) fn go_on_with_trial(&mut self) {
        while let Some(trial) = &mut self.trial
            && self.turns.iter().all(|turns| turns.under_way == 0)
        {
            let count = trial.together.min(trial.suspects.len());
            if count == 0 {
                return self.end_trial();
            }
            let some: Vec<u64> = trial.suspects.drain(..count).collect();
            some.into_iter().for_each(|id| self.send(id));
        }
    }

    /// What takes this long does not crash, or the token is too slow for a trial.
    pub(super) fn keep_trial_short(&mut self) {
        if self.trial.as_ref().is_some_and(|trial| trial.until <= Instant::now()) {
            self.end_trial();
        }
    }

    fn end_trial(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        trial.suspects.into_iter().for_each(|id| self.submit(id));
        Lane::ALL.into_iter().for_each(|lane| self.fill(lane));
    }
}
