//! Partitions as the data plane sees them: which namespace may use which, and how to reach its token.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use kube::{Resource, ResourceExt};

use super::error::{ApiError, Code};
use crate::{
    api::{HsmPartition, condition, partition::VerifySignatures},
    hsm::{Hsm, probe::SHARED_SECRETS},
};

/// Annotation on the partition that `POST /v1/key` chooses where a namespace may use several.
pub const DEFAULT: &str = "hsm-operator.io/default";

/// One partition.
#[derive(Clone)]
pub struct Known {
    /// The object.
    pub object: Arc<HsmPartition>,
    /// Its token, once there was reason to start one.
    pub hsm: Option<Arc<dyn Hsm>>,
}

/// All partitions, and the labels of all namespaces.
#[derive(Default)]
pub struct Partitions {
    known: RwLock<BTreeMap<String, Known>>,
    namespaces: RwLock<BTreeMap<String, BTreeMap<String, String>>>,
}

impl Partitions {
    /// Takes a new or changed partition.
    pub fn put(&self, known: Known) {
        let name = known.object.name_any();
        self.known.write().expect("no panic while it is held").insert(name, known);
    }

    /// Forgets a deleted partition.
    pub fn remove(&self, name: &str) {
        self.known.write().expect("no panic while it is held").remove(name);
    }

    /// Names of all partitions.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.known.read().expect("no panic while it is held").keys().cloned().collect()
    }

    /// Takes a namespace's labels; `None` forgets the namespace.
    pub fn namespace(&self, name: &str, labels: Option<BTreeMap<String, String>>) {
        let mut namespaces = self.namespaces.write().expect("no panic while it is held");
        match labels {
            Some(labels) => namespaces.insert(name.to_owned(), labels),
            None => namespaces.remove(name),
        };
    }

    /// Keeps only those namespaces that a new list of all has.
    pub fn retain_namespaces(&self, is_there: impl Fn(&str) -> bool) {
        self.namespaces.write().expect("no panic while it is held").retain(|name, _| is_there(name));
    }

    /// The token of a partition.
    ///
    /// # Errors
    /// 503 while it is not reached.
    pub fn hsm(&self, partition: &str) -> Result<Arc<dyn Hsm>, ApiError> {
        self.to_sign_with(partition).map(|(hsm, _)| hsm)
    }

    /// The token of a partition, and which of its signatures are verified.
    ///
    /// # Errors
    /// 503 while it is not reached.
    pub fn to_sign_with(&self, partition: &str) -> Result<(Arc<dyn Hsm>, VerifySignatures), ApiError> {
        let known = self.known.read().expect("no panic while it is held");
        let reached = |known: &Known| Some((known.hsm.clone()?, known.object.spec.verify_signatures));
        known.get(partition).and_then(reached).ok_or_else(|| {
            ApiError::new(
                Code::Busy,
                format!("the token of partition {partition} is not reached at the moment"),
            )
        })
    }

    /// The partition on which a namespace's keys are made: the only one that allows it, or the one annotated as
    /// default.
    ///
    /// # Errors
    /// 403 when none allows it, 400 when several do and none is the default.
    pub fn for_namespace(&self, namespace: &str) -> Result<(String, Arc<dyn Hsm>), ApiError> {
        let name = self.name_for(namespace)?;
        let hsm = self.hsm(&name)?;
        Ok((name, hsm))
    }

    /// The same, whether its token is reached or not.
    ///
    /// # Errors
    /// As [`Self::for_namespace`], but for the token.
    pub fn name_for(&self, namespace: &str) -> Result<String, ApiError> {
        let known = self.known.read().expect("no panic while it is held");
        let namespaces = self.namespaces.read().expect("no panic while it is held");
        let empty = BTreeMap::new();
        let labels = namespaces.get(namespace).unwrap_or(&empty);
        let open: Vec<_> = known
            .iter()
            .filter(|(_, one)| one.object.allows(labels))
            .filter(|(_, one)| one.object.meta().deletion_timestamp.is_none())
            .collect();
        let default = open
            .iter()
            .find(|(_, one)| one.object.annotations().get(DEFAULT).is_some_and(|value| value == "true"));
        match (open.as_slice(), default) {
            ([], _) => Err(ApiError::new(
                Code::NotAllowed,
                format!("no HsmPartition allows the namespace {namespace}: see its allowedNamespaces"),
            )),
            (_, Some((name, _))) | ([(name, _)], None) => Ok((*name).clone()),
            (several, None) => {
                let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
                Err(ApiError::new(
                    Code::Unsupported,
                    format!(
                        "the namespace {namespace} may use several partitions ({}): annotate one with {DEFAULT}: \"true\"",
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    /// The object of a partition.
    #[must_use]
    pub fn object(&self, partition: &str) -> Option<Arc<HsmPartition>> {
        let known = self.known.read().expect("no panic while it is held");
        known.get(partition).map(|one| Arc::clone(&one.object))
    }

    /// Why no keys can be made on a partition at the moment, in the controller's words; `None` if they can, or if that is
    /// not known.
    #[must_use]
    pub fn not_creatable(&self, partition: &str) -> Option<String> {
        let known = self.known.read().expect("no panic while it is held");
        let status = known.get(partition)?.object.status.as_ref()?;
        let creatable = condition::find(&status.conditions, condition::CREATABLE)?;
        (creatable.status == "False").then(|| creatable.message.clone())
    }

    /// Names of the ciphers that the token of a partition was seen to have; `None` before it was tried.
    #[must_use]
    pub fn ciphers(&self, partition: &str) -> Option<Vec<String>> {
        let known = self.known.read().expect("no panic while it is held");
        let token = known.get(partition)?.object.status.as_ref()?.token.as_ref()?;
        // Of an earlier version of the operator, which did not look for any.
        let tried = token.probed.is_some() && !token.cipher_algorithms.is_empty();
        tried.then(|| token.cipher_algorithms.clone())
    }

    /// Whether the token of a partition was seen to hand out the secret of a key agreement; `None` before it was tried, or
    /// where the try said nothing.
    #[must_use]
    pub fn shared_secrets(&self, partition: &str) -> Option<bool> {
        let known = self.known.read().expect("no panic while it is held");
        let token = known.get(partition)?.object.status.as_ref()?.token.as_ref()?;
        let quirk = token.probed.as_ref()?.quirks.iter().find(|quirk| quirk.name == SHARED_SECRETS)?;
        (!quirk.value.starts_with("not probed")).then_some(!quirk.odd)
    }

    /// The certificates of the key that attests keys of a partition now, PEM, leaf first.
    #[must_use]
    pub fn attestation_chain(&self, partition: &str) -> Option<String> {
        let known = self.known.read().expect("no panic while it is held");
        let status = known.get(partition)?.object.status.as_ref()?;
        Some(status.attestation.as_ref()?.chain.clone())
    }

    /// Whether at least one partition can be used, or none can sign anyway: one token that this gateway cannot
    /// reach must not take the others out of service.
    ///
    /// # Errors
    /// Says which partitions are missing.
    pub fn readiness(&self) -> Result<(), String> {
        let known = self.known.read().expect("no panic while it is held");
        let ready = known.iter().filter(|(_, one)| {
            let status = one.object.status.as_ref();
            let is = |kind| status.is_some_and(|status| condition::is_true(&status.conditions, kind));
            is(condition::READY) || is(condition::SIGNABLE)
        });
        let (reached, missing): (Vec<_>, Vec<_>) =
            ready.partition(|(_, one)| one.hsm.as_ref().is_some_and(|hsm| hsm.token().is_some()));
        if reached.is_empty() && !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("no token is reached yet: {}", names.join(", ")));
        }
        Ok(())
    }
}
