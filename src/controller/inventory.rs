//! What is on the tokens: asked once for many keys, and kept up to date by what the controller does itself.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use moka::future::Cache;
use tokio::sync::OwnedMutexGuard;

use super::error::Error;
use crate::{
    hsm::{
        Hsm,
        protocol::{HsmError, Reply, Request},
    },
    model::KeyId,
    service::sign::unexpected,
};

/// How long an inventory is believed.
pub const LASTS: Duration = Duration::from_secs(6 * 3600);

/// Inventories by partition.
pub struct Inventories(Cache<String, Arc<Inventory>>);

impl Default for Inventories {
    fn default() -> Self {
        Self(Cache::builder().time_to_live(LASTS).build())
    }
}

impl Inventories {
    /// What is on the token of a partition. Of many who ask, one asks the token.
    ///
    /// # Errors
    /// When the token does not answer.
    pub async fn of(&self, partition: &str, hsm: &dyn Hsm) -> Result<Arc<Inventory>, Error> {
        let taken = self.0.try_get_with(partition.to_owned(), async {
            match hsm.call(Request::Inventory).await? {
                Reply::Inventory(entries) => {
                    let keys = entries.into_iter().filter(|entry| entry.private);
                    let keys = keys.map(|entry| (KeyId::from_bytes(entry.id).ok(), entry.label));
                    Ok(Arc::new(Inventory::new(keys)))
                }
                other => Err(unexpected(&other)),
            }
        });
        taken.await.map_err(|source: Arc<HsmError>| Error::Hsm {
            operation: "an inventory",
            source: Arc::unwrap_or_clone(source),
        })
    }

    /// A key was seen on its token.
    pub async fn saw(&self, partition: &str, id: &KeyId, label: &str) {
        if let Some(inventory) = self.0.get(partition).await {
            inventory.add(id, label);
        }
    }

    /// A key was missed on its token, or destroyed: the next look asks the token again.
    pub async fn missed(&self, partition: &str, id: &KeyId) {
        if let Some(inventory) = self.0.get(partition).await {
            inventory.remove(id);
        }
    }

    /// The token may be another one now.
    pub async fn forget(&self, partition: &str) {
        self.0.invalidate(partition).await;
    }
}

/// What is on a token: private and secret keys.
#[derive(Debug, Default)]
pub struct Inventory(Mutex<Content>);

#[derive(Debug, Default)]
struct Content {
    ids: HashSet<KeyId>,
    keys: Vec<(Option<KeyId>, String)>,
}

impl Inventory {
    /// An inventory of these keys.
    pub fn new(keys: impl IntoIterator<Item = (Option<KeyId>, String)>) -> Self {
        let keys: Vec<_> = keys.into_iter().collect();
        let ids = keys.iter().filter_map(|(id, _)| id.clone()).collect();
        Self(Mutex::new(Content { ids, keys }))
    }

    /// Whether a key of this identifier is there.
    #[must_use]
    pub fn has(&self, id: &KeyId) -> bool {
        self.content().ids.contains(id)
    }

    /// Every key, with its label.
    #[must_use]
    pub fn keys(&self) -> Vec<(Option<KeyId>, String)> {
        self.content().keys.clone()
    }

    fn add(&self, id: &KeyId, label: &str) {
        let mut content = self.content();
        if content.ids.insert(id.clone()) {
            content.keys.push((Some(id.clone()), label.to_owned()));
        }
    }

    fn remove(&self, id: &KeyId) {
        let mut content = self.content();
        if content.ids.remove(id) {
            content.keys.retain(|(other, _)| other.as_ref() != Some(id));
        }
    }

    fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.0.lock().expect("no panic while it is held")
    }
}

/// One lock for each label on which a key is being made, there as long as somebody holds or awaits it: between the
/// look whether a label is free and the key that takes it, nobody else may look.
#[derive(Default)]
pub struct Labels(Mutex<HashMap<(String, String), Weak<Lock>>>);

type Lock = tokio::sync::Mutex<()>;

impl Labels {
    /// Waits until nobody else makes a key of this label on this partition.
    pub async fn claim(&self, partition: &str, label: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().expect("no panic while it is held");
            all.retain(|_, lock| lock.strong_count() > 0);
            let name = (partition.to_owned(), label.to_owned());
            let lock = all.get(&name).and_then(Weak::upgrade).unwrap_or_default();
            all.insert(name, Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_follows_what_is_made_and_destroyed() {
        let id = |byte| KeyId::from_bytes([byte]).unwrap();
        let inventory = Inventory::new([(Some(id(1)), "a".to_owned()), (None, "b".to_owned())]);
        inventory.add(&id(2), "c");
        inventory.add(&id(2), "c");
        inventory.remove(&id(1));
        assert!(inventory.has(&id(2)) && !inventory.has(&id(1)));
        assert_eq!(inventory.keys(), [(None, "b".to_owned()), (Some(id(2)), "c".to_owned())]);
    }

    #[tokio::test]
    async fn one_at_a_time_makes_a_key_of_a_label() {
        let labels = Labels::default();
        let first = labels.claim("p", "a").await;
        let _other = labels.claim("p", "b").await;
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, labels.claim("p", "a")).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(short, labels.claim("p", "a")).await.is_ok());
    }
}
