//! Tokens by partition: their token-hosts, kept running.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{
    HostState, Hosts, Hsm, Recovery, Rung, SupervisorConfig,
    protocol::{HsmError, Open, Reply, Request, TokenFacts, TokenSelector},
};
use crate::{
    api::HsmPartition,
    model::secret::Pin,
    telemetry::{
        Metrics,
        metrics::{Call, Function, Partition, Step},
    },
};

/// Everything that a token-host is started with.
#[derive(Clone)]
pub struct PartitionConfig {
    open: Open,
    environment: Vec<(String, String)>,
    /// Stands for the PIN where configurations are compared.
    pin_version: String,
    /// Token-hosts.
    hosts: usize,
}

impl PartitionConfig {
    /// What a partition's spec asks for, with the PIN of a version of its Secret.
    #[must_use]
    pub fn of(partition: &HsmPartition, pin: Pin, pin_version: String) -> Self {
        let pkcs11 = &partition.spec.pkcs11;
        let token = match (&pkcs11.token_label, &pkcs11.serial, pkcs11.slot) {
            (Some(label), _, _) => TokenSelector::Label(label.clone()),
            (None, Some(serial), _) => TokenSelector::Serial(serial.clone()),
            (None, None, slot) => {
                TokenSelector::Slot(slot.and_then(|slot| u64::try_from(slot).ok()).unwrap_or(0))
            }
        };
        Self {
            open: Open {
                library: pkcs11.library.clone(),
                token,
                pin,
                init_args: pkcs11.init_args.clone(),
                workers: u16::try_from(partition.spec.sessions).unwrap_or(4),
            },
            environment: pkcs11.environment.iter().map(|one| (one.name.clone(), one.value.clone())).collect(),
            pin_version,
            hosts: 1,
        }
    }

    /// With as many token-hosts as the partition's spec wants where many sign.
    #[must_use]
    pub fn with_hosts(mut self, partition: &HsmPartition) -> Self {
        self.hosts = usize::try_from(partition.spec.token_hosts).unwrap_or(1).max(1);
        self
    }

    fn same(&self, other: &Self) -> bool {
        let plain = |config: &Self| {
            (
                config.open.library.clone(),
                config.open.token.clone(),
                config.open.init_args.clone(),
                config.open.workers,
                config.hosts,
                config.environment.clone(),
                config.pin_version.clone(),
            )
        };
        plain(self) == plain(other)
    }
}

struct Entry {
    config: PartitionConfig,
    handle: Arc<Handle>,
}

/// A partition's token.
pub struct Handle {
    hosts: Hosts,
}

impl Handle {
    /// How it stands with the token-host that opened the token first.
    #[must_use]
    pub fn state(&self) -> HostState {
        self.hosts.state().borrow().clone()
    }

    /// The last step that was taken to bring its token back into use.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        self.hosts.recovery()
    }
}

#[async_trait]
impl Hsm for Handle {
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        self.hosts.call(request).await
    }

    fn token(&self) -> Option<Arc<TokenFacts>> {
        self.hosts.token()
    }
}

/// Tokens by partition.
pub struct Registry {
    entries: Mutex<HashMap<String, Entry>>,
    changes: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { entries: Mutex::default(), changes: watch::Sender::new(0), metrics }
    }

    /// Changes whenever the state of a token does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The token of a partition.
    #[must_use]
    pub fn get(&self, partition: &str) -> Option<Arc<dyn Hsm>> {
        let entries = self.entries.lock().expect("no panic while it is held");
        entries.get(partition).map(|entry| Arc::clone(&entry.handle) as Arc<dyn Hsm>)
    }

    /// Starts a token-host for a partition, or starts it over if its configuration changed.
    pub fn ensure(&self, partition: &str, config: PartitionConfig) -> Arc<Handle> {
        let mut entries = self.entries.lock().expect("no panic while it is held");
        if let Some(entry) = entries.get_mut(partition) {
            if !entry.config.same(&config) {
                entry.handle.hosts.replace(config.open.clone(), config.environment.clone(), config.hosts);
                entry.config = config;
            }
            return Arc::clone(&entry.handle);
        }
        let (metrics, name) = (Arc::clone(&self.metrics), partition.to_owned());
        let observer = move |function: &'static str, result: &'static str, elapsed: Duration| {
            metrics.hsm_calls.get_or_create(&Call { partition: name.clone(), function, result }).inc();
            let labels = Function { partition: name.clone(), function };
            metrics.hsm_call_duration.get_or_create(&labels).observe(elapsed.as_secs_f64());
        };
        let (metrics, name, changes) =
            (Arc::clone(&self.metrics), partition.to_owned(), self.changes.clone());
        let on_recovery = move |rung: Rung| {
            metrics.recoveries.get_or_create(&Step { partition: name.clone(), rung: rung.into() }).inc();
            changes.send_modify(|count| *count += 1);
        };
        let settings = SupervisorConfig {
            environment: config.environment.clone(),
            observer: Some(Arc::new(observer)),
            on_recovery: Some(Arc::new(on_recovery)),
            ..SupervisorConfig::new(config.open.clone())
        };
        let handle = Arc::new(Handle { hosts: Hosts::start(settings, config.hosts) });
        self.follow(partition, handle.hosts.state());
        entries.insert(partition.to_owned(), Entry { config, handle: Arc::clone(&handle) });
        handle
    }

    /// Passes on changes of a token's state until it is dropped.
    fn follow(&self, partition: &str, mut state: watch::Receiver<HostState>) {
        let (changes, metrics) = (self.changes.clone(), Arc::clone(&self.metrics));
        let labels = Partition { partition: partition.to_owned() };
        tokio::spawn(async move {
            while state.changed().await.is_ok() {
                let ready = matches!(*state.borrow_and_update(), HostState::Ready(_));
                metrics.partition_ready.get_or_create(&labels).set(i64::from(ready));
                changes.send_modify(|count| *count += 1);
            }
            metrics.partition_ready.get_or_create(&labels).set(0);
        });
    }

    /// Ends the token-host of a partition, if there is one.
    pub fn remove(&self, partition: &str) {
        self.entries.lock().expect("no panic while it is held").remove(partition);
    }

    /// Ends every token-host and waits until they are gone.
    pub async fn shutdown(&self) {
        let entries = std::mem::take(&mut *self.entries.lock().expect("no panic while it is held"));
        for entry in entries.into_values() {
            entry.handle.hosts.shutdown().await;
        }
    }
}
