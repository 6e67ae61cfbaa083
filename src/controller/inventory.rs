//! What is on the tokens: asked once for many keys, and kept up to date by what the controller does itself.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use jiff::Timestamp;
use moka::future::Cache;
use tokio::sync::OwnedMutexGuard;

use super::error::Error;
use crate::{
    hsm::{
        Hsm,
        protocol::{HsmError, InventoryEntry, Kept, KeyFacts, ObjectClass, Reply, Request},
    },
    model::{KeyAlgorithm, KeyId, curve},
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
                Reply::Inventory(entries) => Ok(Arc::new(Inventory::new(entries, Timestamp::now()))),
                other => Err(unexpected(&other)),
            }
        });
        taken.await.map_err(|source: Arc<HsmError>| Error::Hsm {
            operation: "an inventory",
            source: Arc::unwrap_or_clone(source),
        })
    }

    /// A key was seen on its token.
    pub async fn saw(&self, partition: &str, facts: &KeyFacts) {
        if let Some(inventory) = self.0.get(partition).await {
            inventory.add(facts);
        }
    }

    /// A public key alone was seen on its token.
    pub async fn saw_public(&self, partition: &str, facts: &KeyFacts) {
        if let Some(inventory) = self.0.get(partition).await {
            inventory.content().lone.extend(facts.id.clone());
        }
    }

    /// A public key alone was missed on its token, or destroyed.
    pub async fn missed_public(&self, partition: &str, id: &KeyId) {
        if let Some(inventory) = self.0.get(partition).await {
            let mut content = inventory.content();
            content.lone.remove(id);
            content.ghosts.retain(|ghost| ghost.id.as_ref() != Some(id));
        }
    }

    /// A key was missed on its token, or destroyed: the next look asks the token again.
    pub async fn missed(&self, partition: &str, id: &KeyId) {
        if let Some(inventory) = self.0.get(partition).await {
            inventory.remove(id);
        }
    }

    /// The token may be another one now, or somebody wants to know how it looks today.
    pub async fn forget(&self, partition: &str) {
        self.0.invalidate(partition).await;
    }
}

/// What is on a token.
#[derive(Debug)]
pub struct Inventory {
    taken: Timestamp,
    content: Mutex<Content>,
}

/// Private and secret keys, and what is left of some.
#[derive(Debug, Default)]
pub struct Content {
    ids: HashMap<KeyId, Kept>,
    /// Complete keys.
    pub keys: Vec<Key>,
    /// What a process that was killed may have left: keys that are not complete, public halves of no key, and objects
    /// that the token does not describe.
    pub ghosts: Vec<Ghost>,
    /// Identifiers that several keys have.
    pub twins: HashSet<KeyId>,
    /// Identifiers of public keys that have no private half. Whether they were brought so or are left over, HsmKeys tell.
    pub lone: HashSet<KeyId>,
}

/// A key on a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Identifier, where it has one.
    pub id: Option<KeyId>,
    /// Label.
    pub label: String,
    /// Algorithm, where the contract has it.
    pub algorithm: Option<KeyAlgorithm>,
    /// Bits, where the algorithm has sizes.
    pub key_size: Option<u32>,
    /// Curve, where the contract has it.
    pub curve: Option<&'static str>,
}

/// What is left of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ghost {
    /// Identifier, where it has one.
    pub id: Option<KeyId>,
    /// Label.
    pub label: String,
    /// What it is.
    pub class: ObjectClass,
}

impl Inventory {
    /// An inventory of these objects.
    pub fn new(entries: Vec<InventoryEntry>, taken: Timestamp) -> Self {
        let mut content = Content::default();
        let mut halves = Vec::new();
        for entry in entries {
            let id = KeyId::from_bytes(entry.id).ok();
            let (label, class) = (entry.label, entry.class);
            match class {
                _ if entry.ghost => content.ghosts.push(Ghost { id, label, class }),
                ObjectClass::PublicKey => halves.push(Ghost { id, label, class }),
                ObjectClass::PrivateKey | ObjectClass::SecretKey => {
                    if let Some(id) = id.clone()
                        && content.ids.insert(id.clone(), entry.kept).is_some()
                    {
                        content.twins.insert(id);
                    }
                    let curve = entry.curve_oid.as_deref().and_then(curve::by_oid).map(|row| row.oid);
                    content.keys.push(Key {
                        id,
                        label,
                        algorithm: entry.algorithm,
                        key_size: entry.key_size,
                        curve,
                    });
                }
                ObjectClass::Certificate | ObjectClass::Unreadable => {}
            }
        }
        let alone = |half: &Ghost| half.id.as_ref().is_none_or(|id| !content.ids.contains_key(id));
        let lone: Vec<_> = halves.into_iter().filter(alone).collect();
        let mut seen = HashSet::new();
        for id in lone.iter().filter_map(|half| half.id.clone()) {
            // Of several, none is known to be the one.
            if seen.insert(id.clone()) {
                content.lone.insert(id);
            } else {
                content.lone.remove(&id);
            }
        }
        content.ghosts.extend(lone);
        // A status has whole seconds.
        let taken = Timestamp::from_second(taken.as_second()).unwrap_or(taken);
        Self { taken, content: Mutex::new(content) }
    }

    /// When it was taken.
    #[must_use]
    pub const fn taken(&self) -> Timestamp {
        self.taken
    }

    /// How the key of this identifier is kept, if there is one, and one only.
    #[must_use]
    pub fn kept(&self, id: &KeyId) -> Option<Kept> {
        let content = self.content();
        content.ids.get(id).copied().filter(|_| !content.twins.contains(id))
    }

    /// Whether a public key of this identifier is there, and no private one.
    #[must_use]
    pub fn has_public(&self, id: &KeyId) -> bool {
        self.content().lone.contains(id)
    }

    fn add(&self, facts: &KeyFacts) {
        let Some(id) = &facts.id else { return };
        let mut content = self.content();
        if facts.twins < 2 {
            content.twins.remove(id);
        } else {
            content.twins.insert(id.clone());
        }
        content.ghosts.retain(|ghost| ghost.id.as_ref() != Some(id));
        content.lone.remove(id);
        if content.ids.insert(id.clone(), Kept::from(&facts.attributes)).is_none() {
            content.keys.push(Key {
                id: Some(id.clone()),
                label: facts.label.clone(),
                algorithm: facts.algorithm,
                key_size: facts.key_size,
                curve: facts.curve_oid.as_deref().and_then(curve::by_oid).map(|row| row.oid),
            });
        }
    }

    fn remove(&self, id: &KeyId) {
        let mut content = self.content();
        content.twins.remove(id);
        if content.ids.remove(id).is_some() {
            content.keys.retain(|key| key.id.as_ref() != Some(id));
        }
    }

    /// All of it. Nothing may be awaited while it is held.
    pub fn content(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().expect("no panic while it is held")
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

    fn id(byte: u8) -> KeyId {
        KeyId::from_bytes([byte]).unwrap()
    }

    fn entry(id: u8, class: ObjectClass) -> InventoryEntry {
        InventoryEntry {
            id: if id == 0 { Vec::new() } else { vec![id] },
            label: format!("k{id}"),
            class,
            ghost: false,
            algorithm: Some(KeyAlgorithm::Ec),
            key_size: None,
            curve_oid: Some("1.2.840.10045.3.1.7".into()),
            kept: Kept { sensitive: Some(false), extractable: Some(true) },
        }
    }

    fn facts(byte: u8, twins: u32) -> KeyFacts {
        KeyFacts {
            id: Some(id(byte)),
            label: format!("k{byte}"),
            algorithm: Some(KeyAlgorithm::Ec),
            key_size: None,
            curve_oid: None,
            public_key: None,
            attributes: crate::model::KeyAttributes::default(),
            local: None,
            chain_code: None,
            twins,
        }
    }

    fn taken(entries: Vec<InventoryEntry>) -> Inventory {
        Inventory::new(entries, Timestamp::UNIX_EPOCH)
    }

    fn labels(inventory: &Inventory) -> Vec<String> {
        inventory.content().keys.iter().map(|key| key.label.clone()).collect()
    }

    #[test]
    fn an_inventory_follows_what_is_made_and_destroyed() {
        let inventory = taken(vec![entry(1, ObjectClass::PrivateKey), entry(0, ObjectClass::SecretKey)]);
        inventory.add(&facts(2, 1));
        inventory.add(&facts(2, 1));
        inventory.remove(&id(1));
        assert!(inventory.kept(&id(2)).is_some() && inventory.kept(&id(1)).is_none());
        assert_eq!(labels(&inventory), ["k0", "k2"]);
    }

    #[test]
    fn what_is_left_of_a_key_is_no_key_and_is_told_until_the_key_is_there() {
        let inventory = taken(vec![
            InventoryEntry { ghost: true, ..entry(1, ObjectClass::PrivateKey) },
            entry(2, ObjectClass::PublicKey),
            entry(3, ObjectClass::PublicKey),
            entry(3, ObjectClass::PrivateKey),
            entry(4, ObjectClass::Certificate),
            InventoryEntry { ghost: true, ..entry(0, ObjectClass::Unreadable) },
        ]);
        let ghosts = |inventory: &Inventory| {
            let content = inventory.content();
            content.ghosts.iter().map(|ghost| (ghost.label.clone(), ghost.class)).collect::<Vec<_>>()
        };
        let (one, two) = (("k1".into(), ObjectClass::PrivateKey), ("k2".into(), ObjectClass::PublicKey));
        let unreadable = ("k0".into(), ObjectClass::Unreadable);
        assert_eq!(ghosts(&inventory), [one, unreadable.clone(), two.clone()]);
        assert!(inventory.kept(&id(1)).is_none() && inventory.kept(&id(3)).is_some());
        inventory.add(&facts(1, 1));
        assert_eq!(ghosts(&inventory), [unreadable, two]);
    }

    #[tokio::test]
    async fn a_public_key_alone_is_there_as_such_until_it_is_missed() {
        let inventories = Inventories::default();
        let hsm = crate::hsm::fake::Fake::default();
        let inventory = inventories.of("p", &hsm).await.unwrap();
        inventories.saw_public("p", &facts(1, 1)).await;
        assert!(inventory.has_public(&id(1)) && inventory.kept(&id(1)).is_none());
        assert_eq!(labels(&inventory), [""; 0], "it is none of the keys");
        // What is told of a private one says nothing of it.
        inventories.missed("p", &id(1)).await;
        assert!(inventory.has_public(&id(1)));
        inventories.missed_public("p", &id(1)).await;
        assert!(!inventory.has_public(&id(1)));
        // A half whose key came is no half alone.
        let inventory = taken(vec![entry(2, ObjectClass::PublicKey)]);
        assert!(inventory.has_public(&id(2)));
        inventory.add(&facts(2, 1));
        assert!(!inventory.has_public(&id(2)) && inventory.kept(&id(2)).is_some());
    }

    #[test]
    fn of_several_keys_with_one_id_none_is_there_until_one_is_left() {
        let inventory = taken(vec![entry(1, ObjectClass::PrivateKey), entry(1, ObjectClass::SecretKey)]);
        assert!(inventory.kept(&id(1)).is_none() && inventory.content().twins.contains(&id(1)));
        inventory.add(&facts(1, 2));
        assert!(inventory.kept(&id(1)).is_none());
        inventory.add(&facts(1, 1));
        assert!(inventory.kept(&id(1)).is_some() && inventory.content().twins.is_empty());
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
