//! One of several tokens with the same keys, and the task that follows its health.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    HostState, Hsm, Source,
    canary::{Canary, Sung},
    health::{Cause, Health, Standing},
    protocol::{HsmError, Kind, Reply, Request},
};

/// A token that nobody uses is asked for a canary so often.
const IDLE: Duration = Duration::from_secs(5);
/// One that has something to make up for.
const PROBATION: Duration = Duration::from_secs(1);
/// However many calls fail, canaries follow each other no faster.
const GAP: Duration = Duration::from_millis(200);

/// A token that tells how it stands.
pub trait Hosted: Hsm {
    /// How it stands, now and whenever it changes.
    fn state(&self) -> watch::Receiver<HostState>;

    /// Whether a call would be sent at once.
    fn running(&self) -> bool;

    /// Whether this signature is on its way and brought the token-host down, as far as is known.
    fn suspects(&self, request: &Request) -> bool;
}

/// Told of every change: name of the token, and whether it signs.
pub type OnChange = Arc<dyn Fn(&str, bool) + Send + Sync>;

/// A token.
pub struct Member {
    core: Arc<Core>,
    _watch: Option<AbortOnDropHandle<()>>,
}

struct Core {
    source: Source,
    name: String,
    hsm: Arc<dyn Hosted>,
    health: Mutex<Health>,
    /// Of `health`, for those who choose.
    standing: AtomicU8,
    /// Of `health`, for those who are answered.
    spotless: AtomicBool,
    in_flight: AtomicUsize,
    answered: AtomicU64,
    /// Something went wrong: a canary is due.
    nudge: Notify,
    /// `None` where there is nobody to compare it with.
    canary: Option<watch::Receiver<Option<Canary>>>,
    on_change: OnChange,
}

/// What a member's health is followed with.
pub(super) struct Following {
    pub canary: watch::Receiver<Option<Canary>>,
    /// How long a canary may take.
    pub limit: Duration,
    pub on_change: OnChange,
}

impl Member {
    /// The partition's own token, with nobody to compare it with.
    pub(super) fn alone(source: Source, name: &str, hsm: Arc<dyn Hosted>) -> Self {
        let core = Core::new(source, name, hsm, Health::trusted(), None, Arc::new(|_: &str, _| ()));
        Self { core: Arc::new(core), _watch: None }
    }

    /// One of several, whose health is followed. `trusted` is the one that says what the keys are.
    pub(super) fn followed(
        source: Source,
        name: &str,
        hsm: Arc<dyn Hosted>,
        trusted: bool,
        following: Following,
    ) -> Self {
        let Following { canary, limit, on_change } = following;
        let health = if trusted { Health::trusted() } else { Health::unproven() };
        let core = Arc::new(Core::new(source, name, hsm, health, Some(canary.clone()), on_change));
        core.tell();
        let watch = tokio::spawn(Arc::clone(&core).follow(canary, limit, trusted));
        Self { core, _watch: Some(AbortOnDropHandle::new(watch)) }
    }

    /// Who it is.
    pub(super) fn source(&self) -> Source {
        self.core.source
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// The token.
    #[must_use]
    pub fn hsm(&self) -> &Arc<dyn Hosted> {
        &self.core.hsm
    }

    /// Why it does not sign; `None` while it does.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.core.health().cause().cloned()
    }

    /// How willingly it is given work.
    pub(super) fn standing(&self) -> Standing {
        let standing = self.core.standing.load(Ordering::Relaxed);
        [Standing::In, Standing::Slow, Standing::Out, Standing::Barred][usize::from(standing)]
    }

    /// Calls that it has not answered yet.
    pub(super) fn in_flight(&self) -> usize {
        self.core.in_flight.load(Ordering::Relaxed)
    }

    /// Counts its answers.
    pub(super) fn answers(&self) -> u64 {
        self.core.answered.load(Ordering::Relaxed)
    }

    /// Makes a call that changes nothing, until `deadline`, and takes note of how it ended.
    pub(super) async fn attempt(&self, request: Request, deadline: Instant) -> Result<Reply, HsmError> {
        let _turn = Turn::of(&self.core.in_flight);
        let (name, before) = (request.name(), self.answers());
        let outcome = timeout_at(deadline, self.core.hsm.call(request)).await.unwrap_or_else(|_| {
            let message = format!("no answer to {name} from {} in time", self.name());
            Err(HsmError::new(Kind::Timeout, message))
        });
        match &outcome {
            Ok(_) => self.core.answered(),
            Err(error) => match error.kind {
                Kind::KeyNotFound | Kind::Ambiguous | Kind::Unsupported | Kind::Forbidden | Kind::Invalid => {
                    self.core.answered();
                }
                Kind::Busy | Kind::Poisonous => {}
                // A token that is only slow answers others meanwhile.
                Kind::Timeout if self.answers() > before => {}
                _ => self.core.failed(error),
            },
        }
        outcome
    }

    /// Makes a call again that brought the token-host down, which everything may have done at that time: once the token
    /// signs something else. If it brings it down again, the fault is the call's: it is not held against the token, and no
    /// matter for the next one, which would go down as well.
    pub(super) async fn attempt_again(&self, request: Request, deadline: Instant) -> Result<Reply, HsmError> {
        let now = Instant::now();
        if self.core.sings(now + deadline.saturating_duration_since(now) / 2).await {
            return self.attempt(request, deadline).await;
        }
        let error = HsmError::new(Kind::Crashed, "the PKCS#11 library crashes, and not on one request alone");
        self.core.failed(&error);
        Err(error)
    }

    /// It keeps somebody waiting: others first, until it answers.
    pub(super) fn slow(&self) {
        self.core.judge(Health::slow);
        self.core.nudge.notify_one();
    }

    /// It answered with a signature that is none: a canary is due, to tell whether it is so with every key.
    pub(super) fn wrong(&self) {
        self.core.judge(Health::doubted);
        self.core.nudge.notify_one();
    }
}

impl Core {
    fn new(
        source: Source,
        name: &str,
        hsm: Arc<dyn Hosted>,
        health: Health,
        canary: Option<watch::Receiver<Option<Canary>>>,
        on_change: OnChange,
    ) -> Self {
        Self {
            source,
            name: name.to_owned(),
            hsm,
            standing: AtomicU8::new(health.standing() as u8),
            spotless: AtomicBool::new(health.spotless()),
            health: Mutex::new(health),
            in_flight: AtomicUsize::new(0),
            answered: AtomicU64::new(0),
            nudge: Notify::new(),
            canary,
            on_change,
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        (self.on_change)(&self.name, self.health().cause().is_none());
    }

    /// Changes what is held of it.
    fn judge(&self, change: impl FnOnce(&mut Health)) {
        let (before, after) = {
            let mut health = self.health();
            let before = health.cause().cloned();
            change(&mut health);
            self.standing.store(health.standing() as u8, Ordering::Relaxed);
            self.spotless.store(health.spotless(), Ordering::Relaxed);
            (before, health.cause().cloned())
        };
        if before == after {
            return;
        }
        match &after {
            None => tracing::info!(token = self.name, "it signs"),
            Some(cause) => tracing::warn!(token = self.name, ?cause, "it does not sign"),
        }
        self.tell();
    }

    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if !self.spotless.load(Ordering::Relaxed) {
            self.judge(Health::answered);
        }
    }

    fn failed(&self, error: &HsmError) {
        self.judge(|health| health.failed(error));
        self.nudge.notify_one();
    }

    /// Whether it makes a canary signature, as far as one is known.
    async fn sings(&self, deadline: Instant) -> bool {
        let known = self.canary.as_ref().and_then(|canary| canary.borrow().clone());
        let Some(known) = known else { return false };
        let sung = timeout_at(deadline, known.sing(self.hsm.as_ref())).await.unwrap_or_else(|_| too_late());
        let right = matches!(sung, Sung::Right);
        self.heard(sung);
        right
    }

    /// Follows the token-host's state, and asks for canaries, until it is dropped.
    async fn follow(
        self: Arc<Self>,
        mut canary: watch::Receiver<Option<Canary>>,
        limit: Duration,
        trusted: bool,
    ) {
        let mut state = self.hsm.state();
        let mut seen = canary.borrow_and_update().clone();
        let mut answers = 0;
        loop {
            let down = match &*state.borrow_and_update() {
                HostState::Ready(_) => None,
                HostState::Starting => Some(Cause::Starting),
                HostState::Failed(error) => Some(Cause::Down(error.clone())),
            };
            if let Some(cause) = down {
                self.judge(|health| health.down(cause));
                if state.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let known = canary.borrow_and_update().clone();
            if known != seen {
                // What was proven with another key says nothing of this one.
                self.judge(|health| *health = if trusted { Health::trusted() } else { Health::unproven() });
                seen.clone_from(&known);
            }
            let spotless = self.spotless.load(Ordering::Relaxed);
            let used = self.answered.load(Ordering::Relaxed) != answers;
            if let Some(known) = known
                && !(spotless && used)
            {
                tokio::select! {
                    sung = timeout(limit, known.sing(self.hsm.as_ref())) => self.heard(sung.unwrap_or_else(|_| too_late())),
                    gone = state.changed() => if gone.is_err() { return } else { continue },
                }
            }
            answers = self.answered.load(Ordering::Relaxed);
            let pause = if self.spotless.load(Ordering::Relaxed) { IDLE } else { PROBATION };
            tokio::select! {
                () = sleep(pause) => {}
                () = async { self.nudge.notified().await; sleep(GAP).await } => {}
                changed = state.changed() => if changed.is_err() { return },
                changed = canary.changed() => if changed.is_err() { return },
            }
        }
    }

    fn heard(&self, sung: Sung) {
        self.judge(|health| match sung {
            Sung::Right => health.proved(Instant::now()),
            Sung::Wrong => health.wrong(Cause::WrongSignature),
            Sung::Failed(error) => match error.kind {
                Kind::KeyNotFound | Kind::Ambiguous | Kind::Unsupported | Kind::Forbidden | Kind::Invalid => {
                    health.wrong(Cause::OtherKeys(error));
                }
                Kind::Busy => {}
                _ => health.failed(&error),
            },
        });
    }
}

fn too_late() -> Sung {
    Sung::Failed(HsmError::new(Kind::Timeout, "no canary signature in time"))
}

/// A call in flight.
struct Turn<'a>(&'a AtomicUsize);

impl<'a> Turn<'a> {
    fn of(in_flight: &'a AtomicUsize) -> Self {
        in_flight.fetch_add(1, Ordering::Relaxed);
        Self(in_flight)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
