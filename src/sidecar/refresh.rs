//! What is kept up to date beside the requests: addresses, token, CA, old connections, readiness.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::address::Resolve;
use super::files::CaFile;
use super::forward::Upstream;

/// Without traffic the addresses are looked up this many times less often: every pod of the cluster asks.
const QUIET: u32 = 5;
/// How long after a request there is "traffic".
const TRAFFIC: Duration = Duration::from_secs(10);
/// How long a request waits for a lookup that it caused.
const LOOKUP: Duration = Duration::from_secs(2);

/// The addresses' lookup as seen by requests: one runs at a time, however many ask for it.
#[derive(Debug)]
pub struct Lookups {
    wanted: Notify,
    done: watch::Sender<Option<String>>,
    started: Instant,
    last_request: AtomicU64,
}

impl Lookups {
    /// Nothing was looked up yet.
    pub fn new() -> Self {
        let (done, _) = watch::channel(Some("no lookup has finished yet".to_owned()));
        Self { wanted: Notify::new(), done, started: Instant::now(), last_request: AtomicU64::new(0) }
    }

    /// Notes that there is traffic.
    pub fn used(&self) {
        self.last_request.store(self.started.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// Asks for a lookup and waits until it is done, for a bounded time.
    pub async fn once_more(&self) {
        let mut done = self.done.subscribe();
        self.wanted.notify_one();
        // Whether it came in time does not matter: what is known then is used.
        drop(tokio::time::timeout(LOOKUP, done.changed()).await);
    }

    /// Why the last lookup failed.
    pub fn problem(&self) -> Option<String> {
        self.done.borrow().clone()
    }

    fn is_quiet(&self) -> bool {
        let last = self.last_request.load(Ordering::Relaxed);
        self.started.elapsed().as_secs().saturating_sub(last) > TRAFFIC.as_secs()
    }
}

/// Looks up the addresses again and again. A lookup is never abandoned, because the system's resolver blocks a
/// thread and abandoned lookups would pile up behind it.
pub async fn addresses(upstream: Arc<Upstream>, resolver: Arc<dyn Resolve>, every: Duration) {
    let lookups = &upstream.lookups;
    loop {
        let problem = match resolver.resolve().await {
            Ok(found) if found.is_empty() => Some("no gateway is ready: its name has no address".to_owned()),
            Ok(found) => {
                upstream.pool.set_addresses(found);
                None
            }
            // The addresses known so far stay: they may still answer while DNS does not.
            Err(error) => Some(error.to_string()),
        };
        let news = lookups.done.send_replace(problem.clone()) != problem;
        match problem {
            Some(error) if news => tracing::warn!(gateway = %upstream.gateway, %error, "lookup failed"),
            _ => {}
        }
        let pause = if lookups.is_quiet() && upstream.is_connected() { every * QUIET } else { every };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lookups.wanted.notified() => {}
        }
    }
}

/// Reads token and CA again and again, and closes connections that nobody used for a while.
pub async fn files(upstream: Arc<Upstream>, mut ca: CaFile, every: Duration) {
    loop {
        if let Some(roots) = ca.changed() {
            tracing::info!(certificates = roots.len(), "trusting the gateways' CA");
            upstream.connector.trust(roots);
            upstream.pool.renew();
        } else if let Some(problem) = ca.problem() {
            upstream.connector.no_trust(problem);
        }
        upstream.token.refresh();
        upstream.pool.sweep();
        tokio::time::sleep(every).await;
    }
}

/// Connects until it worked once: only then is the pod told that its HSM is there.
pub async fn first_connection(upstream: Arc<Upstream>) {
    while !upstream.is_connected() {
        match upstream.probe().await {
            Ok(()) => tracing::info!(gateway = %upstream.gateway, "connected to a gateway"),
            Err(error) => tracing::info!(gateway = %upstream.gateway, %error, "no gateway yet"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
