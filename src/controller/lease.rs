//! Leader election on a Lease.
//!
//! Whoever holds the Lease leads. A holder that cannot renew it in time ends its process: its token-host dies
//! with it, so that no key is made by someone who does not lead any more.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio_util::sync::CancellationToken;

/// How long a lease lasts without being renewed.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that did not renew for this long stops leading, well before anyone else may start.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How often it is renewed or asked for.
const PERIOD: Duration = Duration::from_secs(2);

/// A candidate for one lease.
pub struct Candidate {
    leases: Api<Lease>,
    name: &'static str,
    identity: String,
    /// What was last seen of another holder, and when we saw it: clocks of others are not believed.
    observed: Option<(LeaseSpec, Instant)>,
}

impl Candidate {
    /// A candidate called `identity`, unique among all.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &'static str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), name, identity, observed: None }
    }

    /// Waits until this candidate leads; `false` when `end` came first.
    pub async fn lead(&mut self, end: &CancellationToken) -> bool {
        loop {
            match self.attempt().await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(error = %crate::telemetry::logs::chain(&error), "cannot take the lease");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = end.cancelled() => return false,
            }
        }
    }

    /// Renews the lease until `end`, then gives it up. Returns early, with `false`, when it is lost.
    pub async fn keep(&mut self, end: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = end.cancelled() => {
                    self.give_up().await;
                    return true;
                }
            }
            let left = RENEW_WITHIN.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    tracing::error!("another replica holds the lease");
                    return false;
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %crate::telemetry::logs::chain(&error), "cannot renew the lease");
                }
                Err(_) => {}
            }
            if renewed.elapsed() >= RENEW_WITHIN {
                tracing::error!("the lease was not renewed in time");
                return false;
            }
        }
    }

    /// Takes or renews the lease if that is allowed; whether it is ours afterwards.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.leases.get_opt(self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.into()), ..Default::default() },
                spec: Some(self.spec(now, 0)),
            };
            return match self.leases.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(&self.identity);
        if !ours && !self.expired(&spec) {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or(0);
        let mut mine = self.spec(now, if ours { transitions } else { transitions.saturating_add(1) });
        if ours {
            mine.acquire_time = spec.acquire_time;
        }
        lease.spec = Some(mine);
        // The resourceVersion that was read makes this fail when someone else was faster.
        match self.leases.replace(self.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn expired(&mut self, spec: &LeaseSpec) -> bool {
        if spec.holder_identity.as_deref().is_none_or(str::is_empty) {
            return true;
        }
        let lasts = Duration::from_secs(
            spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(15),
        );
        match &self.observed {
            Some((seen, since)) if seen == spec => since.elapsed() > lasts,
            _ => {
                self.observed = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, now: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..Default::default()
        }
    }

    async fn give_up(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(self.name).await else { return };
        if let Some(spec) =
            lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        {
            spec.holder_identity = None;
            if let Err(error) = self.leases.replace(self.name, &PostParams::default(), &lease).await {
                tracing::warn!(error = %crate::telemetry::logs::chain(&error), "cannot give up the lease");
            }
        }
    }
}
