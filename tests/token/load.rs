//! Callers that sign without end, and what became of their calls.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hsm_operator::{hsm::Supervisor, model::SignatureAlgorithm, public_key::PublicKey};
use tokio::{sync::watch, task::JoinHandle};

use crate::{common::tally::Tally, sign};

const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::Sha256WithEcdsa;
const CALLERS: usize = 16;
/// How long a caller waits after a failure, as one would.
const PAUSE: Duration = Duration::from_millis(5);

struct Shared {
    tally: Mutex<Tally>,
    /// Callers that had a good answer to a call begun after `Tally::mark`.
    proven: watch::Sender<usize>,
    stop: AtomicBool,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("no caller panicked")
    }
}

/// Sixteen callers with one P-256 key.
pub struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them; every signature of `key` is checked with `public`.
    pub fn start(hsm: &Arc<Supervisor>, key: &'static str, public: &Arc<PublicKey>) -> Self {
        let shared = Arc::new(Shared {
            tally: Mutex::new(Tally::new()),
            proven: watch::Sender::new(0),
            stop: AtomicBool::new(false),
        });
        let one = |caller: usize| {
            let (hsm, public, shared) = (Arc::clone(hsm), Arc::clone(public), Arc::clone(&shared));
            tokio::spawn(async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    let number = {
                        let mut tally = shared.tally();
                        tally.sent += 1;
                        tally.sent
                    };
                    // No payload twice: an answer to somebody else's call is a wrong one.
                    let payload = number.to_be_bytes();
                    let begun = Instant::now();
                    let signed = sign(&hsm, key, ALGORITHM, &payload).await;
                    let outcome = signed
                        .map(|it| public.verify(ALGORITHM, &payload, &it) == Ok(true))
                        .map_err(|error| (error.kind.into(), error.message));
                    let proven = {
                        let mut tally = shared.tally();
                        tally.note(caller, begun, &outcome);
                        tally.proven()
                    };
                    shared.proven.send_if_modified(|old| std::mem::replace(old, proven) != proven);
                    if outcome.is_err() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            })
        };
        let callers = (0..CALLERS).map(one).collect();
        Self { shared, callers }
    }

    /// Waits until every caller had a good answer to a call begun from now on: how long that took, or `None` when it
    /// took too long.
    pub async fn proven(&self, patience: Duration) -> Option<Duration> {
        let mut proven = self.shared.proven.subscribe();
        let begun = {
            let begun = self.shared.tally().mark();
            self.shared.proven.send_replace(0);
            begun
        };
        let all = proven.wait_for(|callers| *callers == CALLERS);
        tokio::time::timeout(patience, all).await.ok()?.ok()?;
        Some(begun.elapsed())
    }

    /// What became of the calls that are over.
    pub fn tally(&self) -> Tally {
        self.shared.tally().clone()
    }

    /// Has them finish what they are doing; what became of it all.
    pub async fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.expect("no caller panicked");
        }
        let mut tally = self.shared.tally().clone();
        tally.stalled();
        tally
    }
}
