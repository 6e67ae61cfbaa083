//! Reads the cluster and the token.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};

use crate::{
    api::{HsmKey, HsmPartition, condition},
    controller::{
        context::{Context, Guarded},
        error::Error,
    },
    gateway::partitions::allows,
    hsm::{
        Hsm,
        protocol::{Find, HsmError, KeyFacts, Kind, Reply, Request},
    },
    model::{KeyId, KeyLabel},
    service::sign::unexpected,
};

/// What was seen.
pub struct Seen {
    /// The partition, if there is one of that name.
    pub partition: Option<Arc<HsmPartition>>,
    /// Whether the partition allows the key's namespace.
    pub allowed: bool,
    /// The token, once it is reached.
    pub hsm: Option<Arc<dyn Hsm>>,
    /// Another object that claims the same label and was there first.
    pub older_claim: Option<String>,
    /// What the token has.
    pub presence: Presence,
}

/// What the token has of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Presence {
    /// It was not asked: there was no reason, or it cannot be asked.
    NotAsked,
    /// The recorded key is there; nothing else was asked.
    Recorded,
    /// A key with the recorded or derived identifier.
    Ours(Vec<KeyFacts>),
    /// None of ours, and these under its label.
    Labelled(Vec<KeyFacts>),
}

impl Seen {
    /// The token.
    pub fn hsm(&self) -> Result<&Arc<dyn Hsm>, Error> {
        self.hsm.as_ref().ok_or_else(|| Error::Hsm {
            operation: "anything",
            source: HsmError::new(Kind::Unavailable, "the token is not reached at the moment"),
        })
    }
}

/// Reads the cluster and, if there is a reason, the token.
pub async fn gather(key: &HsmKey, ctx: &Context) -> Result<Seen, Error> {
    let name = &key.spec.partition_ref.name;
    let partition = ctx
        .partitions
        .get(&ObjectRef::new(name))
        .and_then(|guarded: Arc<Guarded<HsmPartition>>| guarded.0.as_ref().ok().cloned().map(Arc::new));
    let labels = namespace_labels(&key.namespace().unwrap_or_default(), ctx).await?;
    let allowed =
        partition.as_ref().is_some_and(|partition| allows(&partition.spec.allowed_namespaces, &labels));
    let ready = partition
        .as_ref()
        .and_then(|partition| partition.status.as_ref())
        .is_some_and(|status| condition::is_true(&status.conditions, condition::READY));
    let hsm = if ready { ctx.registry.get(name) } else { None };
    let older_claim = older_claim(key, ctx);

    let presence = match (&hsm, allowed, &older_claim) {
        (Some(hsm), true, None) => ask(key, hsm.as_ref(), ctx).await?,
        _ => Presence::NotAsked,
    };
    Ok(Seen { partition, allowed, hsm, older_claim, presence })
}

/// Labels of a namespace. One so new that the watch has not shown it yet is read.
async fn namespace_labels(name: &str, ctx: &Context) -> Result<BTreeMap<String, String>, Error> {
    if let Some(namespace) = ctx.namespaces.get(&ObjectRef::new(name)) {
        return Ok(namespace.labels().clone());
    }
    let read = Api::<Namespace>::all(ctx.client.clone()).get_opt(name).await;
    let namespace =
        read.map_err(|source| Error::ReadNamespace { name: name.into(), source: Box::new(source) })?;
    Ok(namespace.map(|namespace| namespace.labels().clone()).unwrap_or_default())
}

/// Of several objects that claim one label the oldest wins; of the same second, the lower UID.
fn older_claim(key: &HsmKey, ctx: &Context) -> Option<String> {
    let age = |key: &HsmKey| (key.metadata.creation_timestamp.as_ref().map(|time| time.0), key.uid());
    let (label, mine) = (key.label(), age(key));
    let rivals = ctx.keys.state_filter(|guarded| {
        guarded.0.as_ref().is_ok_and(|other| {
            other.spec.partition_ref == key.spec.partition_ref
                && other.label() == label
                && other.uid() != key.uid()
                && age(other) < mine
        })
    });
    let rival = rivals.first()?.0.as_ref().ok()?;
    Some(format!("{}/{}", rival.namespace().unwrap_or_default(), rival.name_any()))
}

async fn ask(key: &HsmKey, hsm: &dyn Hsm, ctx: &Context) -> Result<Presence, Error> {
    let status = key.status.as_ref();
    let recorded = status.and_then(|status| status.key_id.clone()).and_then(|id| KeyId::try_from(id).ok());
    if let Some(id) = &recorded {
        let known = ctx.inventory(&key.spec.partition_ref.name).is_some_and(|seen| seen.private.contains(id));
        if known && status.is_some_and(|status| status.attestation.is_some()) {
            return Ok(Presence::Recorded);
        }
    }
    let id = match recorded {
        Some(id) => id,
        None => super::derived_id(key)?,
    };
    let ours = find(hsm, Find::Id(id.clone())).await?;
    if !ours.is_empty() {
        ctx.saw(&key.spec.partition_ref.name, &id);
        return Ok(Presence::Ours(ours));
    }
    match KeyLabel::new(key.label()) {
        Ok(label) => Ok(Presence::Labelled(find(hsm, Find::Label(label)).await?)),
        Err(_) => Ok(Presence::Labelled(Vec::new())),
    }
}

async fn find(hsm: &dyn Hsm, what: Find) -> Result<Vec<KeyFacts>, Error> {
    match hsm.call(Request::Find(what)).await {
        Ok(Reply::Keys(keys)) => Ok(keys),
        Ok(other) => Err(Error::Hsm { operation: "a search", source: unexpected(&other) }),
        Err(source) => Err(Error::Hsm { operation: "a search", source }),
    }
}
