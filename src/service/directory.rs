//! Keys that can be used, kept ready by a watch: the data plane asks nobody where a key is.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use kube::ResourceExt;
use moka::sync::Cache;
use tokio::sync::watch;

use crate::{
    api::{HsmKey, key::HsmKeyStatus},
    model::{KeyAlgorithm, KeyId},
    public_key::PublicKey,
};

/// A key as the data plane sees it.
#[derive(Debug)]
pub struct Entry {
    /// The object.
    pub object: Arc<HsmKey>,
    /// Its label on the token.
    pub label: String,
    /// What is needed to use it; `None` while it is not Ready.
    pub usable: Option<Usable>,
}

impl Entry {
    /// What an object says of its key.
    #[must_use]
    pub fn of(key: Arc<HsmKey>) -> Self {
        Self { label: key.label(), usable: Usable::of(&key), object: key }
    }
}

/// What is needed to use a key.
#[derive(Clone, Debug)]
pub struct Usable {
    /// Partition that holds it.
    pub partition: String,
    /// Identifier on the token.
    pub id: KeyId,
    /// Algorithm.
    pub algorithm: KeyAlgorithm,
    /// Public half, of asymmetric keys.
    pub public: Option<Arc<PublicKey>>,
    /// There is no other half.
    pub public_only: bool,
}

impl Usable {
    /// Reads what a Ready object says of its key; `None` if it is not Ready or says too little.
    #[must_use]
    pub fn of(key: &HsmKey) -> Option<Self> {
        if !key.is_ready() || key.metadata.deletion_timestamp.is_some() {
            return None;
        }
        Self::described(key, key.status.as_ref()?)
    }

    /// Reads what a status says of a key, Ready or not; `None` if it says too little.
    #[must_use]
    pub fn described(key: &HsmKey, status: &HsmKeyStatus) -> Option<Self> {
        let public = match &status.public_key {
            None => None,
            Some(text) => Some(Arc::new(PublicKey::from_spki(&STANDARD.decode(text).ok()?).ok()?)),
        };
        Some(Self {
            partition: key.spec.partition_ref.name.clone(),
            id: KeyId::try_from(status.key_id.clone()?).ok()?,
            algorithm: key.spec.algorithm,
            public,
            public_only: key.is_public_only(),
        })
    }
}

#[derive(Default)]
struct Tables {
    by_name: HashMap<(String, String), Arc<Entry>>,
    /// namespace → label → object names
    by_label: HashMap<String, HashMap<String, Vec<String>>>,
}

/// All HsmKeys, found by label within a namespace.
pub struct Directory {
    tables: RwLock<Tables>,
    changes: watch::Sender<u64>,
    aside: Cache<(String, String), Arc<Entry>>,
}

/// How long a key that the watch has not shown may be used while the API server cannot be asked for it: as long
/// as callers whom we know are served then.
const ASIDE: Duration = Duration::from_secs(600);

impl Default for Directory {
    fn default() -> Self {
        Self {
            tables: RwLock::default(),
            changes: watch::Sender::new(0),
            aside: Cache::builder().max_capacity(10_000).time_to_live(ASIDE).build(),
        }
    }
}

impl Directory {
    /// Changes whenever an object does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes a new or changed object.
    pub fn put(&self, key: Arc<HsmKey>) {
        let (namespace, name) = (key.namespace().unwrap_or_default(), key.name_any());
        let entry = Arc::new(Entry::of(key));
        let mut tables = self.tables.write().expect("no panic while it is held");
        // The label cannot change, but an object deleted and made again meanwhile may have another.
        Self::forget(&mut tables, &namespace, &name);
        let names =
            tables.by_label.entry(namespace.clone()).or_default().entry(entry.label.clone()).or_default();
        names.push(name.clone());
        tables.by_name.insert((namespace, name), entry);
        drop(tables);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Forgets a deleted object.
    pub fn remove(&self, namespace: &str, name: &str) {
        Self::forget(&mut self.tables.write().expect("no panic while it is held"), namespace, name);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Keeps only the objects named by `(namespace, name)`: those that a new list of all objects has.
    pub fn retain(&self, named: &std::collections::HashSet<(String, String)>) {
        let mut tables = self.tables.write().expect("no panic while it is held");
        let gone: Vec<_> = tables.by_name.keys().filter(|key| !named.contains(*key)).cloned().collect();
        for (namespace, name) in gone {
            Self::forget(&mut tables, &namespace, &name);
        }
        drop(tables);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The entry of an object.
    #[must_use]
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let tables = self.tables.read().expect("no panic while it is held");
        tables.by_name.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn forget(tables: &mut Tables, namespace: &str, name: &str) {
        if let Some(old) = tables.by_name.remove(&(namespace.to_owned(), name.to_owned()))
            && let Some(labels) = tables.by_label.get_mut(namespace)
        {
            if let Some(names) = labels.get_mut(&old.label) {
                names.retain(|other| other != name);
                if names.is_empty() {
                    labels.remove(&old.label);
                }
            }
            if labels.is_empty() {
                tables.by_label.remove(namespace);
            }
        }
    }

    /// The key of a label in a namespace: a usable one if there is one, else the oldest.
    #[must_use]
    pub fn find(&self, namespace: &str, label: &str) -> Option<Arc<Entry>> {
        let tables = self.tables.read().expect("no panic while it is held");
        let names = tables.by_label.get(namespace)?.get(label)?;
        let entries =
            names.iter().filter_map(|name| tables.by_name.get(&(namespace.to_owned(), name.clone())));
        entries
            .min_by_key(|entry| {
                let made = entry.object.metadata.creation_timestamp.as_ref().map(|time| time.0);
                (entry.usable.is_none(), made, entry.object.metadata.uid.clone())
            })
            .cloned()
    }

    /// Labels of a namespace's keys that exist on a token, sorted.
    #[must_use]
    pub fn labels(&self, namespace: &str) -> Vec<String> {
        let tables = self.tables.read().expect("no panic while it is held");
        let mut labels: Vec<String> = tables
            .by_name
            .iter()
            .filter(|((of, _), entry)| of == namespace && entry.usable.is_some())
            .map(|(_, entry)| entry.label.clone())
            .collect();
        labels.sort();
        labels.dedup();
        labels
    }

    /// Remembers what the API server said of a key that the watch has not shown yet.
    pub fn set_aside(&self, namespace: &str, entry: Arc<Entry>) {
        self.aside.insert((namespace.to_owned(), entry.label.clone()), entry);
    }

    /// What the API server last said of a key that the watch has not shown. Only for a moment when it cannot be
    /// asked: the key may have changed since.
    #[must_use]
    pub fn from_aside(&self, namespace: &str, label: &str) -> Option<Arc<Entry>> {
        self.aside.get(&(namespace.to_owned(), label.to_owned()))
    }

    /// Whether any object anywhere claims this label on this partition.
    #[must_use]
    pub fn claimed(&self, partition: &str, label: &str) -> bool {
        let tables = self.tables.read().expect("no panic while it is held");
        tables
            .by_name
            .values()
            .any(|entry| entry.label == label && entry.object.spec.partition_ref.name == partition)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectMeta;

    use super::*;

    fn key(namespace: &str, name: &str, label: Option<&str>) -> Arc<HsmKey> {
        let spec = serde_json::json!({"partitionRef": {"name": "p"}, "algorithm": "ED", "label": label});
        let mut key = HsmKey::new(name, serde_json::from_value(spec).unwrap());
        key.metadata =
            ObjectMeta { namespace: Some(namespace.into()), name: Some(name.into()), ..key.metadata };
        Arc::new(key)
    }

    #[test]
    fn a_key_is_found_by_label_among_its_own_namespace_only() {
        let directory = Directory::default();
        directory.put(key("a", "one", Some("L")));
        directory.put(key("a", "one", Some("L")));
        assert_eq!(directory.find("a", "L").unwrap().object.name_any(), "one");
        assert!(directory.find("b", "L").is_none());
        assert!(directory.claimed("p", "L"));
        directory.remove("a", "one");
        assert!(directory.find("a", "L").is_none());
    }

    #[test]
    fn what_a_new_list_does_not_name_is_forgotten() {
        let directory = Directory::default();
        directory.put(key("a", "one", None));
        directory.put(key("a", "two", None));
        directory.retain(&std::collections::HashSet::from([("a".into(), "two".into())]));
        assert!(directory.find("a", "one").is_none());
        assert!(directory.find("a", "two").is_some());
    }
}
