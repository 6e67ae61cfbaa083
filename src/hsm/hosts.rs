//! The token-hosts of one partition: one that does everything, and further ones that only sign.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    HostState, Hosted, Hsm, Recovery, Supervisor, SupervisorConfig,
    protocol::{HsmError, Lane, Open, Reply, Request, TokenFacts},
    supervisor::Counters,
};

/// Token-hosts with one configuration. The further ones start when the first has logged in, and go when the token turns
/// it away, so that a PIN is tried by one process as long as they do not all lose their login at once; and the first
/// alone changes what is on the token.
///
/// Several are worth it where a module has its own threads wait for each other: SoftHSM signs with P-256 no faster from
/// four threads than from one.
pub struct Hosts {
    first: Arc<Supervisor>,
    /// Written by the recruiter alone.
    further: Arc<ArcSwap<Vec<Arc<Supervisor>>>>,
    wanted: watch::Sender<Wanted>,
    recruiter: AbortOnDropHandle<()>,
}

/// What the further ones are started with, and how many there are.
#[derive(Clone)]
struct Wanted {
    config: SupervisorConfig,
    further: usize,
}

impl Hosts {
    /// Starts `count` token-hosts, at least one. Calls may be made at once; they wait.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and when the system has no more threads.
    #[must_use]
    pub fn start(config: SupervisorConfig, count: usize) -> Self {
        Self::start_after(std::future::ready(()), config, count)
    }

    /// The same, once `ready` is.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[must_use]
    pub fn start_after(
        ready: impl Future<Output = ()> + Send + 'static,
        config: SupervisorConfig,
        count: usize,
    ) -> Self {
        let first = Supervisor::start_after(ready, config.clone());
        let further = Arc::default();
        let wanted = watch::Sender::new(Wanted { config, further: count.saturating_sub(1) });
        let recruiting = recruit(first.state(), wanted.subscribe(), Arc::clone(&further));
        let recruiter = AbortOnDropHandle::new(tokio::spawn(recruiting));
        Self { first, further, wanted, recruiter }
    }

    /// Starts over with another library, token or PIN, like [`Supervisor::replace`], first the first, then the others;
    /// or goes on with another number of sessions or of them. With nothing changed, it only tries again what failed.
    pub fn replace(&self, open: Open, environment: Vec<(String, String)>, count: usize) {
        let further = count.saturating_sub(1);
        // Whoever sees the new configuration sees that the first is not ready with it yet.
        let replaced = self.first.replace(open.clone(), environment.clone());
        self.wanted.send_if_modified(|wanted| {
            let other =
                wanted.further != further || further > 0 && wanted.config.open.workers != open.workers;
            let modified = replaced || other;
            (wanted.config.open, wanted.config.environment, wanted.further) = (open, environment, further);
            modified
        });
    }

    /// How it stands with the first, now and whenever it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<HostState> {
        self.first.state()
    }

    /// The last step of recovery of any of them.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        let further = self.further.load();
        let all = std::iter::once(&self.first).chain(further.iter());
        all.filter_map(|one| one.recovery()).max_by_key(|recovery| recovery.at)
    }

    /// What is counted, of each; the first one first.
    #[must_use]
    pub fn counters(&self) -> Vec<Counters> {
        let further = self.further.load();
        std::iter::once(&self.first).chain(further.iter()).map(|one| one.counters()).collect()
    }

    /// Ends them and waits until they are gone.
    pub async fn shutdown(&self) {
        self.recruiter.abort();
        for one in self.further.load_full().iter() {
            one.shutdown().await;
        }
        self.first.shutdown().await;
    }

    /// Who signs next: whoever has a running token-host and least to do.
    fn least_busy(&self) -> Arc<Supervisor> {
        let further = self.further.load();
        let all = std::iter::once(&self.first).chain(further.iter());
        let running = all.filter_map(|one| Some((one.load()?, one)));
        Arc::clone(running.min_by_key(|(load, _)| *load).map_or(&self.first, |(_, one)| one))
    }
}

/// Starts further token-hosts whenever the first is ready with a new configuration, and ends them when it failed.
async fn recruit(
    mut state: watch::Receiver<HostState>,
    mut wanted: watch::Receiver<Wanted>,
    further: Arc<ArcSwap<Vec<Arc<Supervisor>>>>,
) {
    let ready = |state: &HostState| matches!(state, HostState::Ready(_));
    let failed = |state: &HostState| matches!(state, HostState::Failed(_));
    loop {
        further.store(Arc::default());
        if state.wait_for(ready).await.is_err() {
            return;
        }
        let Wanted { config, further: count } = wanted.borrow_and_update().clone();
        // It may have been replaced in between; then the configuration is not the one that it was ready with.
        if !ready(&state.borrow()) {
            continue;
        }
        further.store(Arc::new((0..count).map(|_| Supervisor::start(config.clone())).collect()));
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            failed = state.wait_for(failed) => if failed.is_err() { return },
        }
    }
}

#[async_trait]
impl Hsm for Hosts {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        if request.lane() == Lane::Sign {
            return self.least_busy().call(request).await;
        }
        self.first.call(request).await
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.first.token()
    }
}

impl Hosted for Hosts {
    fn state(&self) -> watch::Receiver<HostState> {
        self.state()
    }

    fn running(&self) -> bool {
        self.first.load().is_some() || self.further.load().iter().any(|one| one.load().is_some())
    }

    fn suspects(&self, request: &Request) -> bool {
        self.first.suspects(request) || self.further.load().iter().any(|one| one.suspects(request))
    }
}
