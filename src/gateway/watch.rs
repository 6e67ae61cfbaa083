//! Keeps the data plane's view of the cluster: keys, partitions, namespaces, PINs and the own certificate.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::watcher::{self, Event},
};
use tokio::sync::watch;

use super::partitions::{Known, Partitions};
use crate::{
    api::{HsmKey, HsmPartition, partition::Pkcs11, pins::Pins},
    hsm::{Canary, PartitionConfig, Registry, Wanted, registry::TokenConfig},
    server::https::Certificate,
    service::{directory::Directory, password},
    watch::changes,
};

/// What is kept up to date.
pub struct View {
    /// Keys.
    pub directory: Arc<Directory>,
    /// Partitions and namespaces.
    pub partitions: Arc<Partitions>,
    /// Tokens.
    pub registry: Arc<Registry>,
    /// The certificate that is served.
    pub certificate: Arc<Certificate>,
    /// Passwords of keys.
    pub passwords: Arc<password::Known>,
    /// Name of the Secret with the certificate.
    pub tls_secret: String,
    objects: Mutex<BTreeMap<String, Arc<HsmPartition>>>,
    pins: Mutex<BTreeMap<String, Pins>>,
    /// Lists that were read to their end at least once.
    complete: watch::Sender<usize>,
}

/// How many lists there are.
const LISTS: usize = 4;

impl View {
    /// A view that knows nothing yet.
    #[must_use]
    pub fn new(
        directory: Arc<Directory>,
        partitions: Arc<Partitions>,
        registry: Arc<Registry>,
        certificate: Arc<Certificate>,
        passwords: Arc<password::Known>,
        tls_secret: String,
    ) -> Self {
        Self {
            directory,
            partitions,
            registry,
            certificate,
            passwords,
            tls_secret,
            objects: Mutex::default(),
            pins: Mutex::default(),
            complete: watch::Sender::new(0),
        }
    }

    /// Whether everything is known that is needed to serve.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn readiness(&self) -> Result<(), String> {
        if *self.complete.borrow() < LISTS {
            return Err("keys and partitions were not all read yet".into());
        }
        if !self.certificate.is_set() {
            return Err(format!(
                "there is no certificate in Secret {} yet: the controller makes it",
                self.tls_secret
            ));
        }
        self.partitions.readiness()
    }

    /// Waits until all lists were read: before that, a key that exists would be said not to.
    pub async fn filled(&self) {
        // The sender lives as long as we.
        let _ = self.complete.subscribe().wait_for(|count| *count >= LISTS).await;
    }

    /// Watches until it is dropped.
    pub async fn run(&self, client: Client, namespace: &str) {
        let keys =
            follow(changes(Api::<DeserializeGuard<HsmKey>>::all(client.clone())), |change| self.key(change));
        let partitions =
            follow(changes(Api::<DeserializeGuard<HsmPartition>>::all(client.clone())), |change| {
                self.partition(change)
            });
        let secrets = follow(changes(Api::<Secret>::namespaced(client.clone(), namespace)), |change| {
            self.secret(change)
        });
        let namespaces = follow(changes(Api::<PartialObjectMeta<Namespace>>::all(client)), |change| {
            self.namespace(change)
        });
        futures::join!(keys, partitions, secrets, namespaces);
    }

    fn listed(&self, first: bool) {
        if first {
            self.complete.send_modify(|count| *count += 1);
        }
    }

    fn key(&self, change: Change<DeserializeGuard<HsmKey>>) {
        match change {
            Change::Put(guarded) => match guarded.0 {
                Ok(mut key) => {
                    // Who wrote which field is much to remember of many keys, and nobody asks.
                    key.managed_fields_mut().clear();
                    self.directory.put(Arc::new(key));
                }
                Err(invalid) => {
                    tracing::warn!(name = invalid.metadata.name, error = invalid.error, "malformed HsmKey")
                }
            },
            Change::Gone(namespace, name) => self.directory.remove(&namespace, &name),
            Change::Listed(named, first) => {
                self.directory.retain(&named);
                self.listed(first);
            }
        }
    }

    fn partition(&self, change: Change<DeserializeGuard<HsmPartition>>) {
        match change {
            Change::Put(guarded) => match guarded.0 {
                Ok(partition) => {
                    let (name, partition) = (partition.name_any(), Arc::new(partition));
                    self.objects
                        .lock()
                        .expect("no panic while it is held")
                        .insert(name, Arc::clone(&partition));
                    self.connect(partition);
                }
                Err(invalid) => {
                    tracing::warn!(
                        name = invalid.metadata.name,
                        error = invalid.error,
                        "malformed HsmPartition"
                    );
                }
            },
            Change::Gone(_, name) => self.forget(&name),
            Change::Listed(named, first) => {
                for name in self.partitions.names() {
                    if !named.contains(&(String::new(), name.clone())) {
                        self.forget(&name);
                    }
                }
                self.listed(first);
            }
        }
    }

    fn forget(&self, name: &str) {
        self.objects.lock().expect("no panic while it is held").remove(name);
        self.partitions.remove(name);
        self.registry.remove(name);
    }

    fn secret(&self, change: Change<Secret>) {
        match change {
            Change::Put(secret) => {
                let name = secret.name_any();
                if name == self.tls_secret {
                    self.certificate(&secret);
                    return;
                }
                if password::is_record(&secret) {
                    self.passwords.seen(&secret);
                    return;
                }
                self.passwords.gone(&name);
                self.pins.lock().expect("no panic while it is held").insert(name.clone(), Pins::of(secret));
                let objects = self.objects.lock().expect("no panic while it is held").clone();
                for partition in objects.into_values() {
                    if partition.has_pin_in(&name) {
                        self.connect(partition);
                    }
                }
            }
            // A token that is logged in stays so: a Secret that is deleted by mistake stops nothing.
            Change::Gone(_, name) => {
                self.pins.lock().expect("no panic while it is held").remove(&name);
                self.passwords.gone(&name);
            }
            Change::Listed(named, first) => {
                // All of one namespace.
                let named: HashSet<String> = named.into_iter().map(|(_, name)| name).collect();
                self.pins.lock().expect("no panic while it is held").retain(|name, _| named.contains(name));
                self.passwords.retain(&named);
                self.listed(first);
            }
        }
    }

    fn certificate(&self, secret: &Secret) {
        let data = secret.data.clone().unwrap_or_default();
        let (Some(chain), Some(key)) = (data.get("tls.crt"), data.get("tls.key")) else { return };
        match self.certificate.set(&chain.0, &key.0) {
            Ok(()) => tracing::info!(secret = self.tls_secret, "serving the certificate"),
            Err(error) => tracing::warn!(secret = self.tls_secret, %error, "the certificate cannot be used"),
        }
    }

    fn namespace(&self, change: Change<PartialObjectMeta<Namespace>>) {
        match change {
            Change::Put(namespace) => {
                self.partitions.namespace(&namespace.name_any(), Some(namespace.labels().clone()));
            }
            Change::Gone(_, name) => self.partitions.namespace(&name, None),
            Change::Listed(named, first) => {
                self.partitions.retain_namespaces(|name| named.contains(&(String::new(), name.to_owned())));
                self.listed(first);
            }
        }
    }

    /// Starts a partition's token-hosts with the PINs that the controller found accepted by these tokens, and with no
    /// others: a wrong PIN is tried once in the whole cluster.
    fn connect(&self, partition: Arc<HsmPartition>) {
        let name = partition.name_any();
        let accepted = partition.status.as_ref().and_then(|status| status.accepted_pin.as_ref());
        let primary = self.wanted(&partition, &partition.spec.pkcs11, accepted);
        let replicas = partition.spec.replicas.iter().map(|replica| {
            let accepted =
                partition.replica_status(&replica.name).and_then(|status| status.accepted_pin.as_ref());
            let reached = replica.reached(&partition.spec.pkcs11);
            (replica.name.clone(), self.wanted(&partition, &reached, accepted))
        });
        let replicas: Vec<_> = replicas.collect();
        let opens = |wanted: &Wanted| matches!(wanted, Wanted::Open(_));
        if opens(&primary) || replicas.iter().any(|(_, one)| opens(one)) || self.registry.get(&name).is_some()
        {
            self.registry
                .ensure(&name, PartitionConfig { primary, replicas, canary: Canary::of(&partition) });
        }
        let hsm = self.registry.get(&name);
        self.partitions.put(Known { object: partition, hsm });
    }

    /// A token is opened with a PIN that was accepted there, and otherwise stays as it is. One that is to be reached in another
    /// way than it was accepted may be another token.
    fn wanted(&self, partition: &HsmPartition, pkcs11: &Pkcs11, accepted: Option<&String>) -> Wanted {
        let pin_ref = &pkcs11.pin_secret_ref;
        let pins = self.pins.lock().expect("no panic while it is held");
        if let (Some(accepted), Some(pins)) = (accepted, pins.get(&pin_ref.name))
            && pkcs11.accepted(pins.version()) == *accepted
            && let Some(pin) = pins.get(&pin_ref.key)
        {
            let config = TokenConfig::of(partition, pkcs11, pin.clone(), accepted.clone());
            return Wanted::Open(config.with_hosts(partition));
        }
        Wanted::Keep
    }
}

/// A change of a list of objects.
enum Change<K> {
    Put(K),
    Gone(String, String),
    /// The list was read to its end: `(namespace, name)` of all it has, and whether for the first time.
    Listed(HashSet<(String, String)>, bool),
}

fn key<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

async fn follow<K, S>(stream: S, mut apply: impl FnMut(Change<K>))
where
    K: Resource,
    S: Stream<Item = Result<Event<K>, watcher::Error>>,
{
    let (mut named, mut first) = (HashSet::new(), true);
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => named.clear(),
            Ok(Event::InitApply(object)) => {
                named.insert(key(&object));
                apply(Change::Put(object));
            }
            Ok(Event::InitDone) => {
                apply(Change::Listed(std::mem::take(&mut named), first));
                first = false;
            }
            Ok(Event::Apply(object)) => apply(Change::Put(object)),
            Ok(Event::Delete(object)) => {
                let (namespace, name) = key(&object);
                apply(Change::Gone(namespace, name));
            }
            Err(error) => {
                tracing::warn!(error = %crate::telemetry::logs::chain(&error), "a watch is interrupted")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;
    use crate::telemetry::Metrics;

    fn view() -> View {
        let registry = Arc::new(Registry::new(Arc::new(Metrics::default())));
        let view = View::new(
            Arc::default(),
            Arc::default(),
            registry,
            Arc::default(),
            Arc::new(password::Known::new("hsm-operator".into())),
            "tls".into(),
        );
        let secret = json!({"metadata": {"name": "s", "resourceVersion": "7"}});
        let mut secret: Secret = serde_json::from_value(secret).unwrap();
        secret.data = Some([("pin".to_owned(), ByteString(b"1234".to_vec()))].into());
        view.secret(Change::Put(secret));
        view
    }

    #[test]
    fn a_pin_is_tried_only_where_and_how_the_controller_found_it_accepted() {
        let view = view();
        let spec = json!({
            "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}}, "allowedNamespaces": {}
        });
        let partition = HsmPartition::new("p", serde_json::from_value(spec).unwrap());
        let pkcs11 = &partition.spec.pkcs11;
        let accepted = pkcs11.accepted("7");
        let opens = |pkcs11: &Pkcs11, accepted: Option<&String>| {
            matches!(view.wanted(&partition, pkcs11, accepted), Wanted::Open(_))
        };
        assert!(opens(pkcs11, Some(&accepted)));
        assert!(!opens(pkcs11, None));
        assert!(!opens(pkcs11, Some(&pkcs11.accepted("6"))), "another version");
        let other = Pkcs11 { token_label: Some("u".into()), ..pkcs11.clone() };
        assert!(!opens(&other, Some(&accepted)), "another token, which the controller has not tried yet");
        assert!(opens(&other, Some(&other.accepted("7"))));
    }
}
