//! Tokens by partition: their token-hosts, kept running.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Canary, HostState, Hosted, Hosts, Hsm, Member, Recovery, Replicas, Rung, SupervisorConfig,
    protocol::{HsmError, Kind, Open, TokenSelector},
    replicas::PRIMARY,
    supervisor::Deadlines,
};
use crate::{
    api::{HsmPartition, partition::Pkcs11},
    model::secret::Pin,
    telemetry::{
        Metrics,
        metrics::{Call, Function, Partition, Replica, Step},
    },
};

/// Everything that the token-hosts of a token are started with.
#[derive(Clone)]
pub struct TokenConfig {
    open: Open,
    environment: Vec<(String, String)>,
    /// Stands for the PIN where configurations are compared.
    pin_version: String,
    /// Token-hosts.
    hosts: usize,
}

impl TokenConfig {
    /// How a token of a partition is reached, with the PIN of a version of its Secret.
    #[must_use]
    pub fn of(partition: &HsmPartition, pkcs11: &Pkcs11, pin: Pin, pin_version: String) -> Self {
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
                workers: partition.sessions(),
                vendor: Box::new(partition.spec.vendor_mechanisms.numbers()),
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
        let rest = |config: &Self| (config.open.workers, config.hosts, config.pin_version.clone());
        self.same_token(other) && rest(self) == rest(other)
    }

    /// The same but for how many sign, and for the version of the PIN: that of a Secret changes with its labels, too.
    fn same_token(&self, other: &Self) -> bool {
        let plain = |config: &Self| {
            (
                config.open.library.clone(),
                config.open.token.clone(),
                config.open.init_args.clone(),
                *config.open.vendor,
                config.environment.clone(),
            )
        };
        plain(self) == plain(other)
    }
}

/// What is to become of a token.
#[derive(Clone)]
pub enum Wanted {
    /// It is opened, or stays so.
    Open(TokenConfig),
    /// It stays as it is: nobody knows whether its PIN is good.
    Keep,
    /// It is closed.
    Close,
}

/// What is to become of the tokens of a partition.
#[derive(Clone)]
pub struct PartitionConfig {
    /// Its own token.
    pub primary: Wanted,
    /// Its replicas, by name. One that is not named is closed.
    pub replicas: Vec<(String, Wanted)>,
    /// What shows that a replica has the keys.
    pub canary: Option<Canary>,
}

/// An open token.
struct Opened {
    config: TokenConfig,
    hosts: Arc<Hosts>,
}

impl Opened {
    /// Goes on with another configuration, if it is one.
    fn change(&mut self, config: TokenConfig) {
        if !self.config.same(&config) {
            self.hosts.replace(config.open.clone(), config.environment.clone(), config.hosts);
            self.config = config;
        }
    }
}

/// The tokens of a partition.
pub struct Handle {
    tokens: Arc<Replicas>,
    primary: Mutex<Option<Opened>>,
    replicas: Mutex<BTreeMap<String, Opened>>,
}

impl Handle {
    /// The tokens as one.
    #[must_use]
    pub fn hsm(&self) -> &dyn Hsm {
        self.tokens.as_ref()
    }

    /// How it stands with the token-host that opened the partition's own token first.
    #[must_use]
    pub fn state(&self) -> HostState {
        locked(&self.primary).as_ref().map_or_else(closed, |one| one.hosts.state().borrow().clone())
    }

    /// The partition's own token and its replicas, as far as they are open.
    #[must_use]
    pub fn members(&self) -> (Option<Arc<Member>>, Vec<Arc<Member>>) {
        self.tokens.members()
    }

    fn hosts(&self) -> Vec<Arc<Hosts>> {
        let primary = locked(&self.primary);
        let replicas = locked(&self.replicas);
        primary.iter().chain(replicas.values()).map(|one| Arc::clone(&one.hosts)).collect()
    }

    /// The last step that was taken to bring the partition's own token back into use.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        locked(&self.primary).as_ref().and_then(|one| one.hosts.recovery())
    }

    /// The same of a replica.
    #[must_use]
    pub fn replica_recovery(&self, name: &str) -> Option<Recovery> {
        locked(&self.replicas).get(name).and_then(|one| one.hosts.recovery())
    }
}

fn closed() -> HostState {
    HostState::Failed(HsmError::new(Kind::Unavailable, "the token is not opened"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is held")
}

/// Tokens by partition.
pub struct Registry {
    entries: Mutex<HashMap<String, Arc<Handle>>>,
    changes: watch::Sender<u64>,
    metrics: Arc<Metrics>,
    /// A program that token-hosts are, other than this one, for tests.
    program: Option<PathBuf>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { entries: Mutex::default(), changes: watch::Sender::new(0), metrics, program: None }
    }

    /// Changes whenever the state of a token does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The tokens of a partition.
    #[must_use]
    pub fn get(&self, partition: &str) -> Option<Arc<dyn Hsm>> {
        self.handle(partition).map(|handle| Arc::clone(&handle.tokens) as Arc<dyn Hsm>)
    }

    /// The same, for those who look after them.
    #[must_use]
    pub fn handle(&self, partition: &str) -> Option<Arc<Handle>> {
        locked(&self.entries).get(partition).cloned()
    }

    /// Starts token-hosts for a partition, or starts those over whose configuration changed.
    pub fn ensure(&self, partition: &str, config: PartitionConfig) -> Arc<Handle> {
        let mut entries = locked(&self.entries);
        let handle =
            Arc::clone(entries.entry(partition.to_owned()).or_insert_with(|| self.nothing_open(partition)));
        handle.tokens.set_canary(config.canary);
        self.primary(partition, &handle, config.primary);
        self.replicas(partition, &handle, config.replicas);
        let primary = locked(&handle.primary).as_ref().map(|one| Arc::clone(&one.hosts) as Arc<dyn Hosted>);
        let hosted =
            |(name, one): (&String, &Opened)| (name.clone(), Arc::clone(&one.hosts) as Arc<dyn Hosted>);
        let replicas = locked(&handle.replicas).iter().map(hosted).collect();
        handle.tokens.update(primary, replicas);
        if locked(&handle.replicas).is_empty() {
            // Nobody follows the health of one that is alone.
            self.metrics.no_replica(partition, PRIMARY);
        }
        handle
    }

    fn nothing_open(&self, partition: &str) -> Arc<Handle> {
        let (changes, metrics, name) =
            (self.changes.clone(), Arc::clone(&self.metrics), partition.to_owned());
        let on_change = move |replica: &str, healthy: bool| {
            let labels = Replica { partition: name.clone(), replica: replica.to_owned() };
            metrics.replica_healthy.get_or_create(&labels).set(i64::from(healthy));
            changes.send_modify(|count| *count += 1);
        };
        let (metrics, labels) = (Arc::clone(&self.metrics), Partition { partition: partition.to_owned() });
        let on_failover = move || {
            metrics.failovers.get_or_create(&labels).inc();
        };
        let limit = Deadlines::default().sign;
        Arc::new(Handle {
            tokens: Arc::new(Replicas::new(limit, Arc::new(on_change), Box::new(on_failover))),
            primary: Mutex::default(),
            replicas: Mutex::default(),
        })
    }

    fn primary(&self, partition: &str, handle: &Handle, wanted: Wanted) {
        let mut primary = locked(&handle.primary);
        let labels = Partition { partition: partition.to_owned() };
        match &wanted {
            Wanted::Open(config) => {
                self.metrics.sessions.get_or_create(&labels).set(config.open.workers.into());
            }
            Wanted::Keep => {}
            Wanted::Close => drop(self.metrics.sessions.remove(&labels)),
        }
        match (&mut *primary, wanted) {
            (_, Wanted::Keep) => {}
            (_, Wanted::Close) => *primary = None,
            (Some(opened), Wanted::Open(config)) => opened.change(config),
            (None, Wanted::Open(config)) => {
                let hosts = self.start(partition, &config, None);
                self.follow(hosts.state(), Some(partition));
                *primary = Some(Opened { config, hosts });
            }
        }
    }

    fn replicas(&self, partition: &str, handle: &Handle, wanted: Vec<(String, Wanted)>) {
        let mut replicas = locked(&handle.replicas);
        let mut old = std::mem::take(&mut *replicas);
        for (name, wanted) in wanted {
            match (old.remove(&name), wanted) {
                (Some(opened), Wanted::Keep) => drop(replicas.insert(name, opened)),
                (Some(mut opened), Wanted::Open(config)) if opened.config.same_token(&config) => {
                    opened.change(config);
                    replicas.insert(name, opened);
                }
                // Another configuration may be another token, whose keys are not proven.
                (opened, Wanted::Open(config)) => {
                    let hosts = self.start(partition, &config, opened);
                    self.follow(hosts.state(), None);
                    replicas.insert(name, Opened { config, hosts });
                }
                (opened, Wanted::Keep | Wanted::Close) => {
                    if opened.is_some() {
                        self.metrics.no_replica(partition, &name);
                    }
                }
            }
        }
        for name in old.keys() {
            self.metrics.no_replica(partition, name);
        }
    }

    /// Starts token-hosts; after those `before` are gone, whom a call in flight may keep: it may be the same token, and
    /// two with one login do not know of each other.
    fn start(&self, partition: &str, config: &TokenConfig, before: Option<Opened>) -> Arc<Hosts> {
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
        let mut settings = SupervisorConfig {
            environment: config.environment.clone(),
            observer: Some(Arc::new(observer)),
            on_recovery: Some(Arc::new(on_recovery)),
            ..SupervisorConfig::new(config.open.clone())
        };
        if let Some(program) = &self.program {
            settings.exe.clone_from(program);
        }
        let gone = async move {
            if let Some(before) = before {
                before.hosts.shutdown().await;
            }
        };
        Arc::new(Hosts::start_after(gone, settings, config.hosts))
    }

    /// Passes on changes of a token's state until it is dropped; of a partition's own token to its metric, too.
    fn follow(&self, mut state: watch::Receiver<HostState>, partition: Option<&str>) {
        let (changes, metrics) = (self.changes.clone(), Arc::clone(&self.metrics));
        let labels = partition.map(|partition| Partition { partition: partition.to_owned() });
        let tell = move |ready: bool| {
            if let Some(labels) = &labels {
                metrics.partition_ready.get_or_create(labels).set(i64::from(ready));
            }
        };
        tokio::spawn(async move {
            while state.changed().await.is_ok() {
                let ready = matches!(*state.borrow_and_update(), HostState::Ready(_));
                tell(ready);
                changes.send_modify(|count| *count += 1);
            }
            tell(false);
        });
    }

    /// Ends the token-hosts of a partition, if there are any.
    pub fn remove(&self, partition: &str) {
        let Some(handle) = locked(&self.entries).remove(partition) else { return };
        self.metrics.no_replica(partition, PRIMARY);
        self.metrics.sessions.remove(&Partition { partition: partition.to_owned() });
        for name in locked(&handle.replicas).keys() {
            self.metrics.no_replica(partition, name);
        }
    }

    /// Ends every token-host and waits until they are gone.
    pub async fn shutdown(&self) {
        let entries = std::mem::take(&mut *locked(&self.entries));
        for hosts in entries.into_values().flat_map(|handle| handle.hosts()) {
            hosts.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A registry of token-hosts that never say anything.
    fn silent() -> Registry {
        Registry { program: Some("yes".into()), ..Registry::new(Arc::default()) }
    }

    fn replica(registry: &Registry, label: &str, pin_version: &str) -> Arc<Hosts> {
        let spec = serde_json::json!({
            "pkcs11": {"library": "/x", "tokenLabel": label, "pinSecretRef": {"name": "s"}}, "allowedNamespaces": {}
        });
        let partition = HsmPartition::new("p", serde_json::from_value(spec).unwrap());
        let config =
            TokenConfig::of(&partition, &partition.spec.pkcs11, Pin::new("1234"), pin_version.into());
        let replicas = vec![("b".to_owned(), Wanted::Open(config))];
        let config = PartitionConfig { primary: Wanted::Close, replicas, canary: None };
        let handle = registry.ensure("p", config);
        Arc::clone(&locked(&handle.replicas)["b"].hosts)
    }

    async fn process(hosts: &Hosts) -> u32 {
        loop {
            if let Some(id) = hosts.counters()[0].pid {
                return id;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_replica_of_another_configuration_starts_when_the_one_before_is_gone() {
        let registry = silent();
        // As a call in flight does, it keeps the old one.
        let old = replica(&registry, "t", "1");
        process(&old).await;
        let new = replica(&registry, "u", "1");
        process(&new).await;
        assert_eq!(old.counters()[0].pid, None);
        registry.shutdown().await;
    }

    #[tokio::test]
    async fn a_replica_goes_on_when_nothing_but_the_labels_of_its_secret_changed() {
        let registry = silent();
        let old = replica(&registry, "t", "1");
        let before = process(&old).await;
        let new = replica(&registry, "t", "2");
        assert!(Arc::ptr_eq(&old, &new));
        assert_eq!(process(&new).await, before);
        registry.shutdown().await;
    }

    #[test]
    fn a_token_that_is_alone_has_no_health_among_others() {
        let metrics = Arc::new(Metrics::default());
        let registry = Registry::new(Arc::clone(&metrics));
        let labels = Replica { partition: "p".into(), replica: PRIMARY.into() };
        let alone = || PartitionConfig { primary: Wanted::Close, replicas: Vec::new(), canary: None };
        registry.ensure("p", alone());
        // As it was when there were others.
        metrics.replica_healthy.get_or_create(&labels).set(1);
        registry.ensure("p", alone());
        assert!(!metrics.text().contains("replica=\"primary\""));
    }
}
