//! How a token is brought back to use inside of this process: sessions and logins are renewed by who needs them, what
//! comes after that is here. Probes decide and not return values, which say little and differ from module to module.

use std::{sync::mpsc, time::Duration};

use super::{
    inside, mechanism, object,
    pool::EXIT_RESTART,
    raw,
    token::{Canary, Token},
};
use crate::{
    hsm::{Kind, protocol::HsmError, recovery::Rung},
    model::KeyId,
};

/// How long to wait for all threads to come out of the module.
const LEAVE: Duration = Duration::from_secs(1);
/// How long a module may take to be finalised, initialised and logged in to; or so many times what it took to open the token,
/// for modules that read all objects then.
const OVER: (Duration, u32) = (Duration::from_secs(3), 3);
/// So long after a start that failed is the next one.
const AGAIN: Duration = Duration::from_millis(10);
/// Where starting the module over did not help for so long, a new process is next.
const HELPS: Duration = Duration::from_secs(10);

impl Token {
    /// Whether the token shows itself, has its user logged in and signs, to be asked when a request failed twice: then
    /// it is the request that is at fault. Not with the `key` of the request, which might be all that is broken; where no
    /// other is known to work, with one that is made for it.
    pub fn is_well(&self, key: Option<&KeyId>, cause: &str) -> bool {
        self.took(Rung::Canary, cause);
        // Let go after the session, whose end is the end of a key that is made for it.
        let alone;
        let Ok(session) = self.session() else { return false };
        if session.logged_in() != Ok(true) || self.shows_itself().is_err() {
            return false;
        }
        let signs = |Canary { algorithm, key }: Canary| {
            let planned = mechanism::plan(algorithm, key.shape, &self.mechanisms, b"canary");
            planned.is_ok_and(|(mechanism, data)| session.sign(&mechanism, key.object, &data).is_ok())
        };
        // Somebody may have destroyed the key that worked before.
        if self.canary(key).is_some_and(signs) {
            return true;
        }
        // No search may see that key. Who holds the objects for long is making one, or hangs.
        alone = self.objects_within(LEAVE);
        if alone.is_none() {
            return inside::is_making();
        }
        match object::passing_key(self, &session) {
            Ok(Some(passing)) => signs(passing),
            // A token that makes no keys of a usual kind is believed, and so is one that may make none.
            Ok(None) => true,
            Err(error) => !matches!(error.kind, Kind::Lost | Kind::Device),
        }
    }

    /// Starts the module over, with every thread outside of it, unless another thread has just done so. `seen` is the
    /// start under which the trouble was met.
    pub fn start_over(&self, seen: u64, cause: &str) -> Result<(), HsmError> {
        let gone = || HsmError::new(Kind::Device, "the module has to be started in a new process");
        let Some(_alone) = self.gate.try_write_for(LEAVE) else {
            // A key that takes long to make is worth more than this request.
            if !inside::is_making() {
                self.give_up();
            }
            return Err(gone());
        };
        // A refused PIN is not for the next process to try.
        if let Some(error) = self.refused() {
            return Err(error);
        }
        if self.starts() != seen {
            return Ok(());
        }
        if self.is_dead() || self.started_over().is_some_and(|at| at.elapsed() < HELPS) {
            self.give_up();
            return Err(gone());
        }
        self.took(Rung::Initialise, cause);
        self.starts_over();
        self.reopen_in_time(1)
    }

    /// The same for whoever has the gate alone, whatever the reason is, at most so many times. Without success, a new process is
    /// next.
    pub fn reopen_in_time(&self, times: u32) -> Result<(), HsmError> {
        // A module may hang in it, and who hangs cannot be helped.
        let (least, worth) = OVER;
        let limit = least.max(self.opened_in * worth);
        let (done, watch) = mpsc::channel::<std::convert::Infallible>();
        std::thread::spawn(move || {
            if watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                tracing::error!("the module hangs while it is started over");
                raw::exit(EXIT_RESTART);
            }
        });
        let request = raw::working_on(raw::NO_REQUEST);
        let mut outcome = self.reopen();
        for _ in 1..times {
            // That includes whatever came of a PIN that was tried.
            if outcome.is_ok() || self.refused().is_some() || self.is_dead() {
                break;
            }
            std::thread::sleep(AGAIN);
            outcome = self.reopen();
        }
        raw::working_on(request);
        drop(done);
        outcome.inspect_err(|_| {
            if self.refused().is_none() {
                self.give_up();
            }
        })
    }
}
