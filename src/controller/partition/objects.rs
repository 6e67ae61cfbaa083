//! What is on a token against what HsmKeys say: keys that nobody claims, what is left of some, keys that are gone.

use std::collections::{HashMap, HashSet};

use kube::ResourceExt;

use crate::{
    api::{
        HsmKey, condition,
        partition::{Duplicates, Ghost, Ghosts, InventoryStatus, Missing, Unclaimed, UnclaimedKey},
    },
    controller::{
        context::Context,
        inventory::{self, Inventory, Key},
        key::{derived_id, recorded},
    },
    hsm::{
        Hsm,
        protocol::{Find, ObjectClass, Reply, Request},
    },
    model::{KeyId, KeyLabel},
};

/// Most objects of a kind that are listed.
const LISTED: usize = 20;
/// Most keys that are looked for one by one because the inventory lacks them; the rest is told of as they say it.
const LOOKS: usize = 100;

/// What HsmKeys of a partition say of its token.
#[derive(Default)]
pub struct Claims {
    /// HsmKeys that have a key, by its identifier.
    pub recorded: HashMap<KeyId, With>,
    /// Identifiers of keys that are just being made, or would be.
    pub coming: HashSet<KeyId>,
    /// HsmKeys without a key, by the half of an identifier that tells their name.
    pub without: HashMap<[u8; 16], Without>,
    /// HsmKeys whose key is gone, sorted.
    pub missing: Vec<String>,
    /// Every namespace: a key may have been made for an object in one of them.
    pub namespaces: Vec<String>,
}

/// An HsmKey that has a key.
pub struct With {
    /// `namespace/name`.
    pub name: String,
    /// It is about to go, and its key may go before it.
    pub leaving: bool,
    /// Its key is a public one alone.
    pub public_only: bool,
}

/// An HsmKey without a key.
pub struct Without {
    /// `namespace/name`.
    pub name: String,
    /// Its label.
    pub label: String,
}

impl Claims {
    /// Collects what the HsmKeys of a partition say.
    pub fn of<'a>(keys: impl Iterator<Item = &'a HsmKey>, namespaces: Vec<String>) -> Self {
        let mut claims = Self { namespaces, ..Self::default() };
        for key in keys {
            let (namespace, object) = (key.namespace().unwrap_or_default(), key.name_any());
            let name = format!("{namespace}/{object}");
            match recorded(key) {
                Some(id) => {
                    if says_missing(key) {
                        claims.missing.push(name.clone());
                    }
                    let leaving = key.metadata.deletion_timestamp.is_some();
                    let public_only = key.is_public_only();
                    claims.recorded.insert(id, With { name, leaving, public_only });
                }
                None => {
                    claims.coming.extend(derived_id(key).ok());
                    let without = Without { name, label: key.label() };
                    claims.without.insert(KeyId::name_half_of(&namespace, &object), without);
                }
            }
        }
        claims.missing.sort();
        claims
    }

    /// Looks for keys that the inventory lacks and that do not say so themselves: it may be older than they are.
    pub async fn look(&mut self, partition: &str, seen: &Inventory, hsm: &dyn Hsm, ctx: &Context) {
        let known: HashSet<&String> = self.missing.iter().collect();
        let lacking = self.recorded.iter().filter(|(id, with)| {
            let twins = seen.content().twins.contains(*id);
            let there = if with.public_only { seen.has_public(id) } else { seen.kept(id).is_some() };
            !twins && !there && !with.leaving && !known.contains(&with.name)
        });
        let mut gone = Vec::new();
        for (id, With { name, public_only, .. }) in lacking.take(LOOKS) {
            let find = if *public_only { Find::Public(id.clone()) } else { Find::Id(id.clone()) };
            // What fails proves nothing; the key's own next look tells.
            if let Ok(Reply::Keys(found)) = hsm.call(Request::Find(find)).await {
                match found.first() {
                    Some(facts) if *public_only => ctx.inventories.saw_public(partition, facts).await,
                    Some(facts) => ctx.inventories.saw(partition, facts).await,
                    None => gone.push(name.clone()),
                }
            }
        }
        self.missing.extend(gone);
        self.missing.sort();
    }

    fn has(&self, id: &KeyId) -> bool {
        self.recorded.contains_key(id) || self.coming.contains(id)
    }

    /// Whether there is an HsmKey of the label and the name that the key was made for, and it has no key.
    fn awaits(&self, id: &KeyId, label: &str) -> bool {
        let without = id.name_half().and_then(|half| self.without.get(&half));
        without.is_some_and(|without| without.label == label)
    }

    /// The HsmKey that a key was made for: one that is there, or one that would have been called after the label.
    fn made_for(&self, id: &KeyId, label: &str) -> Option<String> {
        let half = id.name_half()?;
        if let Some(without) = self.without.get(&half) {
            return Some(without.name.clone());
        }
        let names = [label.to_owned(), KeyLabel::new(label).ok()?.object_name()];
        self.namespaces.iter().find_map(|namespace| {
            let name = names.iter().find(|name| KeyId::name_half_of(namespace, name) == half)?;
            Some(format!("{namespace}/{name}"))
        })
    }
}

/// Whether a key says that it is gone from the token.
pub fn says_missing(key: &HsmKey) -> bool {
    let conditions = key.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    key.metadata.deletion_timestamp.is_none()
        && condition::find(conditions, condition::STALLED).is_some_and(|one| one.reason == "MissingOnToken")
}

/// Keys that nobody claims, and how the token looks otherwise.
///
/// `own` are the keys of the operator itself.
pub fn compare(seen: &Inventory, claims: &Claims, own: &[KeyId]) -> (Unclaimed, InventoryStatus) {
    let content = seen.content();
    let (mut unclaimed, mut recoverable) = (Vec::new(), 0_usize);
    for key in &content.keys {
        match &key.id {
            Some(id) if claims.has(id) || own.contains(id) => {}
            Some(id) if claims.awaits(id, &key.label) => recoverable += 1,
            _ => unclaimed.push(key),
        }
    }
    let unclaimed_count = count(unclaimed.len());
    unclaimed.sort_by_key(|key| (&key.label, &key.id));
    let listed = unclaimed.into_iter().take(LISTED).map(|key| listed(key, claims));
    let unclaimed = Unclaimed { count: unclaimed_count, keys: listed.collect() };

    let coming = |id: &Option<KeyId>| id.as_ref().is_some_and(|id| claims.coming.contains(id));
    // What is left of a key that is being made goes when it is made.
    let lone = |ghost: &&inventory::Ghost| {
        let claim = ghost.id.as_ref().and_then(|id| claims.recorded.get(id));
        ghost.class == ObjectClass::PublicKey && claim.is_some_and(|claim| claim.public_only)
    };
    let ghosts = content.ghosts.iter().filter(|ghost| !coming(&ghost.id));
    let mut ghosts: Vec<_> = ghosts.filter(|ghost| !lone(ghost)).collect();
    let ghost_count = count(ghosts.len());
    ghosts.sort_by_key(|ghost| (&ghost.label, &ghost.id));
    let objects = ghosts.into_iter().take(LISTED).map(|ghost| {
        let kind: &'static str = ghost.class.into();
        Ghost { id: text(ghost.id.as_ref()), label: cut(&ghost.label), kind: kind.into() }
    });
    let mut twins: Vec<_> = content.twins.iter().map(ToString::to_string).collect();
    twins.sort();
    let inventory = InventoryStatus {
        time: seen.taken().to_string(),
        keys: count(content.keys.len()),
        recoverable: count(recoverable),
        ghosts: Ghosts { count: ghost_count, objects: objects.collect() },
        duplicates: Duplicates { count: count(twins.len()), ids: twins.into_iter().take(LISTED).collect() },
        missing: Missing {
            count: count(claims.missing.len()),
            keys: claims.missing.iter().take(LISTED).cloned().collect(),
        },
    };
    (unclaimed, inventory)
}

fn listed(key: &Key, claims: &Claims) -> UnclaimedKey {
    UnclaimedKey {
        id: text(key.id.as_ref()),
        label: cut(&key.label),
        algorithm: key.algorithm,
        key_size: key.key_size.and_then(|bits| i32::try_from(bits).ok()),
        curve_oid: key.curve.map(str::to_owned),
        made_for: key.id.as_ref().and_then(|id| claims.made_for(id, &key.label)),
    }
}

fn text(id: Option<&KeyId>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

fn cut(label: &str) -> String {
    label.chars().take(255).collect()
}

fn count(of: usize) -> i32 {
    i32::try_from(of).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        api::key::HsmKeyStatus,
        hsm::protocol::{InventoryEntry, Kept, ObjectClass},
        model::KeyAlgorithm,
    };

    fn id(byte: u8) -> KeyId {
        KeyId::from_bytes([byte]).unwrap()
    }

    fn entry(id: Option<KeyId>, label: &str) -> InventoryEntry {
        InventoryEntry {
            id: id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            label: label.into(),
            class: ObjectClass::PrivateKey,
            ghost: false,
            algorithm: Some(KeyAlgorithm::Rsa),
            key_size: Some(2048),
            curve_oid: None,
            kept: Kept::default(),
        }
    }

    fn seen(entries: Vec<InventoryEntry>) -> Inventory {
        Inventory::new(entries, Timestamp::from_second(7).unwrap())
    }

    fn key(name: &str, label: &str, id: Option<&KeyId>, stalled: Option<&'static str>) -> HsmKey {
        let spec = serde_json::json!({
            "partitionRef": {"name": "p"}, "algorithm": "RSA", "keySize": 2048, "label": label
        });
        let mut key = HsmKey::new(name, serde_json::from_value(spec).unwrap());
        key.metadata.namespace = Some("ns".into());
        key.metadata.uid = Some(uuid::Uuid::from_u128(9).to_string());
        let report = stalled.map(|reason| condition::Report::new(condition::STALLED, Some(true), reason, ""));
        key.status = Some(HsmKeyStatus {
            key_id: id.map(ToString::to_string),
            conditions: condition::apply(&[], report.as_slice(), None, Timestamp::UNIX_EPOCH),
            ..Default::default()
        });
        key
    }

    fn labels(unclaimed: &Unclaimed) -> Vec<&str> {
        unclaimed.keys.iter().map(|key| key.label.as_str()).collect()
    }

    #[test]
    fn keys_that_nobody_claims_are_listed_and_our_own_are_not() {
        let seen = seen(vec![
            entry(Some(id(1)), "mine"),
            entry(Some(id(2)), "stray"),
            entry(None, "nameless"),
            entry(Some(id(3)), "attestation-key"),
        ]);
        let claims = Claims::of([key("k", "mine", Some(&id(1)), None)].iter(), vec![]);
        let (unclaimed, inventory) = compare(&seen, &claims, &[id(3)]);
        assert_eq!((labels(&unclaimed), unclaimed.count), (vec!["nameless", "stray"], 2));
        assert_eq!(unclaimed.keys[1].algorithm, Some(KeyAlgorithm::Rsa));
        assert_eq!((inventory.keys, inventory.time.as_str()), (4, "1970-01-01T00:00:07Z"));
    }

    #[test]
    fn a_key_that_waits_for_its_recovery_is_not_unclaimed() {
        let earlier = |name| KeyId::for_object(uuid::Uuid::from_u128(1), "ns", name);
        let on_token =
            seen(vec![entry(Some(earlier("k")), "label"), entry(Some(earlier("other")), "label2")]);
        let claims = Claims::of([key("k", "label", None, Some("Recoverable"))].iter(), vec![]);
        let (unclaimed, inventory) = compare(&on_token, &claims, &[]);
        assert_eq!((labels(&unclaimed), inventory.recoverable), (vec!["label2"], 1));
        // Under another label it is another key.
        let claims = Claims::of([key("k", "renamed", None, None)].iter(), vec![]);
        let (unclaimed, inventory) = compare(&on_token, &claims, &[]);
        assert_eq!((labels(&unclaimed), inventory.recoverable), (vec!["label", "label2"], 0));
        assert_eq!(unclaimed.keys[0].made_for.as_deref(), Some("ns/k"));
    }

    #[test]
    fn whom_a_key_was_made_for_is_told_where_its_label_tells() {
        let earlier = |namespace, name: &str| KeyId::for_object(uuid::Uuid::from_u128(1), namespace, name);
        let made_over_rest = KeyLabel::new("Signing Key").unwrap().object_name();
        let seen = seen(vec![
            entry(Some(earlier("b", "k")), "k"),
            entry(Some(earlier("b", &made_over_rest)), "Signing Key"),
            entry(Some(earlier("gone", "z")), "z"),
        ]);
        let claims = Claims::of([].iter(), vec!["a".into(), "b".into()]);
        let (unclaimed, _) = compare(&seen, &claims, &[]);
        let made_for: Vec<_> = unclaimed.keys.iter().map(|key| key.made_for.clone()).collect();
        assert_eq!(made_for, [Some(format!("b/{made_over_rest}")), Some("b/k".into()), None]);
    }

    /// Nobody shall be told to remove a public key that was brought alone.
    #[test]
    fn a_public_key_alone_is_no_leftover_where_a_key_claims_it() {
        let mut alone = key("k", "k", Some(&id(3)), None);
        alone.spec.source = crate::api::key::Source::ImportedPublic;
        let public = |id| InventoryEntry { class: ObjectClass::PublicKey, ..entry(Some(id), "k") };
        let seen = seen(vec![public(id(3)), public(id(4))]);
        assert!(seen.has_public(&id(3)) && seen.kept(&id(3)).is_none());
        let (unclaimed, inventory) = compare(&seen, &Claims::of([alone].iter(), vec![]), &[]);
        let wanted = Ghost { id: "04".into(), label: "k".into(), kind: "PublicKey".into() };
        assert_eq!((unclaimed.count, inventory.keys), (0, 0));
        assert_eq!((inventory.ghosts.count, inventory.ghosts.objects), (1, vec![wanted]));
        // A key that should have a private half does not hide what is left of it.
        let (_, inventory) =
            compare(&seen, &Claims::of([key("k", "k", Some(&id(3)), None)].iter(), vec![]), &[]);
        assert_eq!(inventory.ghosts.count, 2);
    }

    #[test]
    fn what_is_left_is_told_but_for_what_is_being_made() {
        let claims = Claims::of([key("k", "k", None, None)].iter(), vec![]);
        let coming = claims.coming.iter().next().cloned();
        let ghost = |id, label| InventoryEntry { ghost: true, ..entry(id, label) };
        let seen = seen(vec![
            ghost(coming, "k"),
            ghost(Some(id(3)), ""),
            entry(Some(id(4)), "a"),
            entry(Some(id(4)), "b"),
        ]);
        let (_, inventory) = compare(&seen, &claims, &[]);
        let wanted = Ghost { id: "03".into(), label: String::new(), kind: "PrivateKey".into() };
        assert_eq!((inventory.ghosts.count, inventory.ghosts.objects), (1, vec![wanted]));
        assert_eq!((inventory.duplicates.count, inventory.duplicates.ids), (1, vec!["04".into()]));
    }

    #[test]
    fn a_key_is_missing_when_it_says_so_itself() {
        let keys = [
            key("there", "a", Some(&id(1)), None),
            key("gone", "b", Some(&id(2)), Some("MissingOnToken")),
            key("new", "c", None, Some("Conflict")),
        ];
        let (_, inventory) = compare(&seen(vec![]), &Claims::of(keys.iter(), vec![]), &[]);
        assert_eq!((inventory.missing.count, inventory.missing.keys), (1, vec!["ns/gone".into()]));
    }
}
