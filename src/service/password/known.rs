//! Records of passwords, kept by a watch, and what this process itself wrote a moment ago.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use moka::sync::Cache;

use super::{Checker, Record, Unreadable};
use crate::api::HsmKey;

/// How long an older version that the watch brings is passed over after this process wrote a newer one. Beyond that, versions
/// may have begun anew: etcd was restored.
const AHEAD: Duration = Duration::from_secs(60);
/// Keys of which this process remembers that it gave them a password: far more than any watch lags behind.
const GIVEN: u64 = 10_000;

struct Kept {
    record: Result<Arc<Record>, Unreadable>,
    version: String,
    wrote: Option<Instant>,
}

/// What is known of passwords.
pub struct Known {
    /// Namespace of the Secrets: the operator's.
    pub namespace: String,
    /// Checks passwords.
    pub checker: Checker,
    records: RwLock<HashMap<String, Kept>>,
    /// Secrets by the UID of keys that got them here and that the watch may not show with them yet. A password's reference is
    /// never taken away, so this is never wrong.
    given: Cache<String, String>,
}

impl Known {
    /// Nothing is known yet; the Secrets are in `namespace`.
    #[must_use]
    pub fn new(namespace: String) -> Self {
        Self {
            namespace,
            checker: Checker::default(),
            records: RwLock::default(),
            given: Cache::builder().max_capacity(GIVEN).build(),
        }
    }

    /// Takes what the watch brings.
    pub fn seen(&self, secret: &Secret) {
        let version = secret.resource_version().unwrap_or_default();
        let mut records = self.records.write().expect("no panic while it is held");
        let name = secret.name_any();
        if let Some(kept) = records.get(&name)
            && kept.wrote.is_some_and(|wrote| wrote.elapsed() < AHEAD)
            && is_older(&version, &kept.version)
        {
            return;
        }
        let record = Record::of(secret).map(Arc::new);
        records.insert(name, Kept { record, version, wrote: None });
    }

    /// Takes what this process wrote, before the watch brings it.
    pub fn wrote(&self, secret: &Secret) {
        let record = Record::of(secret).map(Arc::new);
        let version = secret.resource_version().unwrap_or_default();
        let mut records = self.records.write().expect("no panic while it is held");
        let name = secret.name_any();
        // The watch may have brought what another gateway wrote after this.
        if records.get(&name).is_some_and(|kept| is_older(&version, &kept.version)) {
            return;
        }
        records.insert(name, Kept { record, version, wrote: Some(Instant::now()) });
    }

    /// Takes note that a key has a password now.
    pub fn gave(&self, key: &HsmKey, secret: &str) {
        if let Some(uid) = key.uid() {
            self.given.insert(uid, secret.to_owned());
        }
    }

    /// Forgets a Secret that is gone.
    pub fn gone(&self, name: &str) {
        self.records.write().expect("no panic while it is held").remove(name);
    }

    /// Keeps only these: a new list has no others.
    pub fn retain(&self, named: &HashSet<String>) {
        self.records.write().expect("no panic while it is held").retain(|name, _| named.contains(name));
    }

    /// Name of the Secret with a key's password; `None` for a key that never had any.
    #[must_use]
    pub fn secret_of(&self, key: &HsmKey) -> Option<String> {
        match &key.spec.password {
            Some(reference) => Some(reference.secret_name.clone()),
            None => self.given.get(key.metadata.uid.as_deref()?),
        }
    }

    /// What the Secret of that name says; `None` where the watch did not show it.
    #[must_use]
    pub fn record(&self, name: &str) -> Option<Result<Arc<Record>, Unreadable>> {
        self.records.read().expect("no panic while it is held").get(name).map(|kept| kept.record.clone())
    }
}

/// Versions are numbers that grow, where they are numbers.
fn is_older(one: &str, other: &str) -> bool {
    matches!((one.parse::<u128>(), other.parse::<u128>()), (Ok(one), Ok(other)) if one < other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Password,
        service::password::{Hash, secret},
    };

    fn version(number: &str) -> Secret {
        let hash = Hash::of(&Password::new("x").unwrap());
        let mut secret = secret("s", "shop", "k", &hash);
        secret.metadata.resource_version = Some(number.into());
        secret
    }

    fn known(known: &Known) -> Option<String> {
        known.record("s").map(|record| record.unwrap().version.clone())
    }

    #[test]
    fn what_was_written_here_is_not_undone_by_what_the_watch_brings_late() {
        let all = Known::new("hsm-operator".into());
        all.seen(&version("8"));
        all.wrote(&version("10"));
        all.seen(&version("9"));
        assert_eq!(known(&all).as_deref(), Some("10"));
        all.seen(&version("10"));
        all.seen(&version("11"));
        assert_eq!(known(&all).as_deref(), Some("11"));
        // Another gateway was faster, and this one's answer late.
        all.wrote(&version("10"));
        assert_eq!(known(&all).as_deref(), Some("11"));
        // What comes by the watch alone is in order.
        all.seen(&version("5"));
        assert_eq!(known(&all).as_deref(), Some("5"));
        all.gone("s");
        assert_eq!(known(&all), None);
    }

    #[test]
    fn a_secret_that_cannot_be_read_any_more_is_not_taken_for_the_old_one() {
        let all = Known::new("hsm-operator".into());
        all.seen(&version("8"));
        let mut damaged = version("9");
        damaged.data = None;
        all.seen(&damaged);
        assert_eq!(all.record("s").unwrap().unwrap_err(), Unreadable::Member("key"));
        all.retain(&HashSet::new());
        assert!(all.record("s").is_none());
    }
}
