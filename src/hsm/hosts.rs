//! The token-hosts of one partition: one that does everything, and further ones that only sign.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    HostState, Hsm, Supervisor, SupervisorConfig,
    protocol::{HsmError, Lane, Open, Reply, Request, TokenFacts},
    supervisor::Counters,
};

/// Token-hosts with one configuration. The further ones start when the first has logged in, so that a PIN is tried by
/// one process only; and the first alone changes what is on the token.
///
/// Several are worth it where a module has its own threads wait for each other: SoftHSM signs with P-256 no faster from
/// four threads than from one.
pub struct Hosts {
    first: Arc<Supervisor>,
    further: Arc<ArcSwap<Vec<Arc<Supervisor>>>>,
    wanted: watch::Sender<SupervisorConfig>,
    /// Starts the further ones; absent where one is enough.
    recruiter: Option<AbortOnDropHandle<()>>,
}

impl Hosts {
    /// Starts `count` token-hosts, at least one. Calls may be made at once; they wait.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and when the system has no more threads.
    #[must_use]
    pub fn start(config: SupervisorConfig, count: usize) -> Self {
        let first = Supervisor::start(config.clone());
        let further = Arc::default();
        let wanted = watch::Sender::new(config);
        let recruiter = (count > 1).then(|| {
            let recruiting = recruit(first.state(), wanted.subscribe(), Arc::clone(&further), count - 1);
            AbortOnDropHandle::new(tokio::spawn(recruiting))
        });
        Self { first, further, wanted, recruiter }
    }

    /// Starts over with another library, token or PIN, like [`Supervisor::replace`]: first the first, then the others.
    pub fn replace(&self, open: Open, environment: Vec<(String, String)>) {
        // Whoever sees the new configuration sees that the first is not ready with it yet.
        self.first.replace(open.clone(), environment.clone());
        self.wanted.send_modify(|config| (config.open, config.environment) = (open, environment));
        self.further.store(Arc::default());
    }

    /// How it stands with the first, now and whenever it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<HostState> {
        self.first.state()
    }

    /// What is counted, of each; the first one first.
    #[must_use]
    pub fn counters(&self) -> Vec<Counters> {
        let further = self.further.load();
        std::iter::once(&self.first).chain(further.iter()).map(|one| one.counters()).collect()
    }

    /// Ends them and waits until they are gone.
    pub async fn shutdown(&self) {
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

/// Starts further token-hosts with each configuration that the first one got ready with.
async fn recruit(
    mut state: watch::Receiver<HostState>,
    mut wanted: watch::Receiver<SupervisorConfig>,
    further: Arc<ArcSwap<Vec<Arc<Supervisor>>>>,
    count: usize,
) {
    let ready = |state: &HostState| matches!(state, HostState::Ready(_));
    wanted.mark_changed();
    while state.wait_for(ready).await.is_ok() {
        let changed = wanted.has_changed().unwrap_or(false);
        let config = wanted.borrow_and_update().clone();
        if !ready(&state.borrow_and_update()) {
            wanted.mark_changed();
        } else if changed {
            further.store(Arc::new((0..count).map(|_| Supervisor::start(config.clone())).collect()));
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

#[async_trait]
impl Hsm for Hosts {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        if request.lane() == Lane::Sign && self.recruiter.is_some() {
            return self.least_busy().call(request).await;
        }
        self.first.call(request).await
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.first.token()
    }
}
