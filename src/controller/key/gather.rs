//! Reads the cluster and the token.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::OwnedMutexGuard;

use crate::{
    api::{HsmKey, HsmPartition, MISSED, key::Source},
    controller::{
        context::{Context, Guarded},
        error::Error,
    },
    hsm::{
        Hsm,
        protocol::{Find, HsmError, Kept, KeyFacts, Kind, Reply, Request},
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
    /// Whether the token is reached will be known in a moment.
    pub soon: bool,
    /// The token, once it is reached.
    pub hsm: Option<Arc<dyn Hsm>>,
    /// Another object to which the label belongs.
    pub rival: Option<Rival>,
    /// Another object that has the key which is on the token under the label.
    pub holder: Option<String>,
    /// Held while a key may be made or taken over: nobody else does so under this label meanwhile.
    pub _claim: Option<OwnedMutexGuard<()>>,
    /// What the token has.
    pub presence: Presence,
}

#[cfg(test)]
impl Seen {
    /// Of a key that may be there, with nobody in its way.
    pub fn alone(hsm: Option<Arc<dyn Hsm>>, presence: Presence) -> Self {
        let (partition, rival, holder, claim) = (None, None, None, None);
        Self { partition, allowed: true, soon: false, hsm, rival, holder, _claim: claim, presence }
    }
}

/// Another object that claims the same label and was there first.
#[derive(Debug, PartialEq, Eq)]
pub struct Rival {
    /// `namespace/name`.
    pub name: String,
    /// It is about to go.
    pub leaving: bool,
    /// It has its key.
    pub recorded: bool,
}

impl Rival {
    fn new(key: &HsmKey) -> Self {
        Self {
            name: name_of(key),
            leaving: key.metadata.deletion_timestamp.is_some(),
            recorded: recorded(key).is_some(),
        }
    }
}

/// `namespace/name`.
pub fn name_of(key: &impl ResourceExt) -> String {
    format!("{}/{}", key.namespace().unwrap_or_default(), key.name_any())
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
    let allowed = partition.as_ref().is_some_and(|partition| partition.allows(&labels));
    let reached = ctx.reached.get(name);
    let hsm = if reached == Some(true) { ctx.registry.get(name) } else { None };
    let others = others(key, partition.as_deref(), ctx);
    let soon = partition.is_some() && reached.is_none();
    let Look { rival, holder, claim, presence } = match &hsm {
        Some(hsm) if allowed => look(key, &others, hsm.as_ref(), ctx).await?,
        _ => Look::nowhere(first(key, &others).map(Rival::new)),
    };
    Ok(Seen { soon, partition, allowed, hsm, rival, holder, _claim: claim, presence })
}

/// What is to be known of a label.
struct Look {
    rival: Option<Rival>,
    holder: Option<String>,
    claim: Option<OwnedMutexGuard<()>>,
    presence: Presence,
}

impl Look {
    const fn nowhere(rival: Option<Rival>) -> Self {
        Self { rival, holder: None, claim: None, presence: Presence::NotAsked }
    }
}

/// Asks the token, and whoever else claims the label.
async fn look(
    key: &HsmKey,
    others: &[Arc<Guarded<HsmKey>>],
    hsm: &dyn Hsm,
    ctx: &Context,
) -> Result<Look, Error> {
    let mut rival = first(key, others).map(Rival::new);
    // Before one that has no key either comes first, the token tells whose the label's key is.
    if rival.as_ref().is_some_and(|rival| rival.recorded) {
        return Ok(Look::nowhere(rival));
    }
    let recorded = recorded(key);
    // Also where another one comes first: the token may say otherwise, and then this one takes the key.
    let claim = match recorded {
        None => Some(ctx.labels.claim(&key.spec.partition_ref.name, &key.label()).await),
        Some(_) => None,
    };
    let presence = ask(key, recorded, rival.is_none(), hsm, ctx).await?;
    let mut holder = None;
    if let Presence::Labelled(found) | Presence::Ours(found) = &presence
        && let [KeyFacts { id: Some(id), .. }] = found.as_slice()
        && claim.is_some()
    {
        let made_for = |key: &HsmKey| id.is_made_for(&key.namespace().unwrap_or_default(), &key.name_any());
        if key.is_public_only() {
            // Each that claims the label may have a key of its own on the token. Whose the label is, only the objects tell.
        } else if made_for(key) {
            rival = None;
        } else if let Some(other) = others.iter().filter_map(readable).find(|other| made_for(other)) {
            rival = Some(Rival::new(other));
        }
        holder = match who_has(id, key, ctx) {
            None if rival.is_none() => who_just_took(id, others, ctx).await?,
            holder => holder,
        };
    }
    if key.is_public_only() && claim.is_some() && rival.is_none() {
        rival = who_just_came(others, ctx).await?;
    }
    Ok(Look { rival, holder, claim, presence })
}

/// Another claim that took the key a moment ago, before this one had its turn: what it wrote may not be seen yet.
async fn who_just_took(
    id: &KeyId,
    others: &[Arc<Guarded<HsmKey>>],
    ctx: &Context,
) -> Result<Option<String>, Error> {
    for other in others.iter().filter_map(readable) {
        if read_now(other, ctx).await?.as_ref().and_then(recorded).as_ref() == Some(id) {
            return Ok(Some(name_of(other)));
        }
    }
    Ok(None)
}

/// Another claim that got its key a moment ago, before this one had its turn: what was written of it may not be seen yet.
async fn who_just_came(others: &[Arc<Guarded<HsmKey>>], ctx: &Context) -> Result<Option<Rival>, Error> {
    for other in others.iter().filter_map(readable) {
        if let Some(now) = read_now(other, ctx).await?.filter(|now| recorded(now).is_some()) {
            return Ok(Some(Rival::new(&now)));
        }
    }
    Ok(None)
}

/// An object as the API server has it, which may be ahead of what was watched.
async fn read_now(key: &HsmKey, ctx: &Context) -> Result<Option<HsmKey>, Error> {
    let read = ctx.api_of(key).get_opt(&key.name_any()).await;
    read.map_err(|source| Error::ReadKey { name: name_of(key), source: Box::new(source) })
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

/// Other objects that claim the label. Only such count that may have keys on the partition at all, or any namespace
/// could keep labels from others.
fn others(key: &HsmKey, partition: Option<&HsmPartition>, ctx: &Context) -> Vec<Arc<Guarded<HsmKey>>> {
    let label = key.label();
    ctx.keys.state_filter(|guarded| {
        guarded.0.as_ref().is_ok_and(|other| {
            other.spec.partition_ref == key.spec.partition_ref
                && other.label() == label
                && other.uid() != key.uid()
                && partition.is_none_or(|partition| may_be_there(other, partition, ctx))
        })
    })
}

fn readable(guarded: &Arc<Guarded<HsmKey>>) -> Option<&HsmKey> {
    guarded.0.as_ref().ok()
}

/// Who comes first of several that claim one label: who has the key already, then the oldest, and of the same second
/// the lower UID. Always the same one of several, so that what is said of it stays the same.
fn first<'a>(key: &HsmKey, others: &'a [Arc<Guarded<HsmKey>>]) -> Option<&'a HsmKey> {
    let mine = rank(key);
    others.iter().filter_map(readable).filter(|other| rank(other) < mine).min_by_key(|other| rank(other))
}

/// Another object that has a key on record.
pub fn who_has(id: &KeyId, key: &HsmKey, ctx: &Context) -> Option<String> {
    let text = id.to_string();
    let holders = ctx.keys.state_filter(|guarded| {
        guarded.0.as_ref().is_ok_and(|other| {
            other.spec.partition_ref == key.spec.partition_ref
                && other.uid() != key.uid()
                && other.status.as_ref().is_some_and(|status| status.key_id.as_ref() == Some(&text))
        })
    });
    holders.iter().map(|holder| name_of(holder.as_ref())).min()
}

/// Sorts claims: the lowest wins.
fn rank(key: &HsmKey) -> impl Ord + use<> {
    let age = key.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (recorded(key).is_none(), age, key.uid())
}

/// A namespace that is not known yet counts as allowed: it was made a moment ago.
fn may_be_there(key: &HsmKey, partition: &HsmPartition, ctx: &Context) -> bool {
    let namespace = ctx.namespaces.get(&ObjectRef::new(&key.namespace().unwrap_or_default()));
    namespace.is_none_or(|namespace| partition.allows(namespace.labels()))
}

/// The identifier that the object has on record: its key was made or adopted.
pub fn recorded(key: &HsmKey) -> Option<KeyId> {
    key.status.as_ref()?.key_id.clone().and_then(|id| KeyId::try_from(id).ok())
}

/// For so long a gateway is believed to be bringing a key that it said it would: most take less than a second.
const COMES: SignedDuration = SignedDuration::from_secs(10);

/// Whether a gateway is bringing the key, which tells us when it has. A look that is to prove that there is none would be in
/// its way: some tokens have to be started over for that.
fn is_coming(key: &HsmKey, now: Timestamp) -> bool {
    key.importing_since()
        .is_some_and(|since| (SignedDuration::ZERO..COMES).contains(&now.duration_since(since)))
}

async fn ask(
    key: &HsmKey,
    recorded: Option<KeyId>,
    first: bool,
    hsm: &dyn Hsm,
    ctx: &Context,
) -> Result<Presence, Error> {
    let partition = &key.spec.partition_ref.name;
    let by_label = async |what: fn(KeyLabel) -> Find| match super::plan::label(key) {
        Ok(label) => find(hsm, what(label)).await,
        Err(_) => Ok(Vec::new()),
    };
    let coming = recorded.is_none() && is_coming(key, ctx.now());
    if key.is_public_only() {
        return match coming {
            true => Ok(Presence::Labelled(Vec::new())),
            false => ask_public(key, recorded, hsm, ctx).await,
        };
    }
    let Some(id) = recorded else {
        // One look is enough: what this object's interrupted making left has its label, and generation itself finds
        // it by its identifier even where somebody changed the label. That the label is free is proven by whoever
        // makes the key; where none is made, it is proven here.
        let made_here = key.spec.source == Source::Generated && !key.spec.adopt;
        let will_make = first && made_here && !super::plan::was_generated(key);
        let found = by_label(if will_make || coming { Find::Known } else { Find::Label }).await?;
        let ours = super::derived_id(key)?;
        let mine: Vec<_> = found.iter().filter(|facts| facts.id.as_ref() == Some(&ours)).cloned().collect();
        return Ok(if mine.is_empty() { Presence::Labelled(found) } else { Presence::Ours(mine) });
    };
    // An inventory says what was there when it was taken, and nothing of who was missed since.
    let missed = key.annotations().contains_key(MISSED);
    if !missed
        && let Some(kept) = ctx.inventories.of(partition, hsm).await?.kept(&id)
        && let Some(status) = key.status.as_ref().filter(|status| status.attestation.is_some())
        && status.attributes.as_ref().is_none_or(|attributes| Kept::from(attributes) == kept)
    {
        return Ok(Presence::Recorded);
    }
    let ours = find(hsm, Find::Id(id.clone())).await?;
    match ours.first() {
        Some(facts) => {
            ctx.inventories.saw(partition, facts).await;
            Ok(Presence::Ours(ours))
        }
        None => {
            ctx.inventories.missed(partition, &id).await;
            Ok(Presence::Labelled(by_label(Find::Label).await?))
        }
    }
}

/// The same of a public key alone, which is looked for by its identifier only: a public half of the same label is a part of
/// another key, or nobody's.
async fn ask_public(
    key: &HsmKey,
    recorded: Option<KeyId>,
    hsm: &dyn Hsm,
    ctx: &Context,
) -> Result<Presence, Error> {
    let partition = &key.spec.partition_ref.name;
    let attested = key.status.as_ref().is_some_and(|status| status.attestation.is_some());
    let id = match recorded {
        Some(id) => {
            let missed = key.annotations().contains_key(MISSED);
            if !missed && attested && ctx.inventories.of(partition, hsm).await?.has_public(&id) {
                return Ok(Presence::Recorded);
            }
            id
        }
        None => super::derived_id(key)?,
    };
    let found = find(hsm, Find::Public(id.clone())).await?;
    match found.first() {
        Some(facts) => {
            ctx.inventories.saw_public(partition, facts).await;
            Ok(Presence::Ours(found))
        }
        None => {
            ctx.inventories.missed_public(partition, &id).await;
            let label = super::plan::label(key).ok();
            let labelled = match label {
                Some(label) => find(hsm, Find::Label(label)).await?,
                None => Vec::new(),
            };
            Ok(Presence::Labelled(labelled))
        }
    }
}

pub(super) async fn find(hsm: &dyn Hsm, what: Find) -> Result<Vec<KeyFacts>, Error> {
    match hsm.call(Request::Find(what)).await {
        Ok(Reply::Keys(keys)) => Ok(keys),
        Ok(other) => Err(Error::Hsm { operation: "a search", source: unexpected(&other) }),
        Err(source) => Err(Error::Hsm { operation: "a search", source }),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use axum::{
        Json, Router,
        extract::{Path, State},
        response::IntoResponse,
        routing::get,
    };
    use kube::runtime::{
        reflector::{self, store::Writer},
        watcher::Event,
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::IMPORTING,
        hsm::{
            fake::Fake,
            protocol::{KeyTemplate, Request},
        },
        model::{KeyAlgorithm, RequestedAttributes},
    };

    /// What the API server has, by name.
    type Written = Arc<Mutex<BTreeMap<String, HsmKey>>>;

    struct World {
        ctx: Context,
        written: Written,
        seen: Writer<Guarded<HsmKey>>,
        hsm: Fake,
    }

    impl World {
        /// With a key on the token under the label `l`, made for an earlier object of this name.
        async fn new(made_for: &str) -> Self {
            let written = Written::default();
            let api = Router::new()
                .route("/apis/hsm-operator.io/v1alpha1/namespaces/ns/hsmkeys/{name}", get(read))
                .with_state(Arc::clone(&written));
            let client = kube::Client::new(api, "default");
            let (keys, seen) = reflector::store();
            let ctx = Context::alone(client, keys);
            let hsm = Fake::default();
            let template = KeyTemplate {
                id: KeyId::for_object(uuid::Uuid::from_u128(9), "ns", made_for),
                label: KeyLabel::new("l").unwrap(),
                algorithm: KeyAlgorithm::Ed,
                key_size: None,
                curve_oid: None,
                attributes: RequestedAttributes::default().resolved(),
            };
            hsm.call(Request::Generate(template)).await.unwrap();
            Self { ctx, written, seen, hsm }
        }

        /// An object that is written and seen.
        fn apply(&mut self, name: &str, second: u8) -> HsmKey {
            let key = json!({
                "apiVersion": "hsm-operator.io/v1alpha1", "kind": "HsmKey",
                "metadata": {"name": name, "namespace": "ns", "uid": uuid::Uuid::from_u128(second.into()).to_string(),
                    "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
                "spec": {"partitionRef": {"name": "p"}, "label": "l", "algorithm": "ED", "adopt": true},
            });
            self.written.lock().unwrap().insert(name.into(), serde_json::from_value(key.clone()).unwrap());
            self.seen.apply_watcher_event(&Event::Apply(serde_json::from_value(key.clone()).unwrap()));
            serde_json::from_value(key).unwrap()
        }

        async fn look(&self, key: &HsmKey) -> Look {
            look(key, &others(key, None, &self.ctx), &self.hsm, &self.ctx).await.unwrap()
        }

        /// Writes that an object has the key, which no watch shows yet.
        fn record(&self, name: &str, look: &Look) {
            let Presence::Labelled(found) = &look.presence else { panic!("{:?}", look.presence) };
            let mut written = self.written.lock().unwrap();
            let status = written.get_mut(name).unwrap().status.get_or_insert_default();
            status.key_id = found[0].id.as_ref().map(ToString::to_string);
        }
    }

    async fn read(State(written): State<Written>, Path(name): Path<String>) -> impl IntoResponse {
        let written = written.lock().unwrap();
        Json::<Value>(serde_json::to_value(&written[&name]).unwrap())
    }

    #[test]
    fn a_key_is_believed_to_be_coming_for_some_seconds() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let begun = |ago: SignedDuration| {
            let mut key = HsmKey::new(
                "k",
                serde_json::from_value(json!({"partitionRef": {"name": "p"}, "algorithm": "ED"})).unwrap(),
            );
            key.annotations_mut().insert(IMPORTING.into(), (now - ago).to_string());
            is_coming(&key, now)
        };
        assert!(begun(SignedDuration::from_millis(1)) && begun(SignedDuration::from_secs(9)));
        assert!(!begun(COMES) && !begun(SignedDuration::from_secs(-3600)));
    }

    /// The older one asks for the label's key while nobody else does; the key was made for the younger one, which comes
    /// a moment later.
    #[tokio::test]
    async fn of_two_that_may_take_a_key_the_second_waits_for_the_first_and_knows_what_it_did() {
        let mut world = World::new("younger").await;
        let older = world.apply("older", 1);
        let first = world.look(&older).await;
        assert!(first.rival.is_none() && first.holder.is_none(), "it takes the key");
        let younger = world.apply("younger", 2);
        let early = tokio::time::timeout(Duration::from_millis(100), world.look(&younger)).await;
        assert!(early.is_err(), "the first has not done yet");
        world.record("older", &first);
        drop(first);
        let second = world.look(&younger).await;
        assert_eq!((second.rival, second.holder.as_deref()), (None, Some("ns/older")));
    }

    #[tokio::test]
    async fn whom_the_key_was_made_for_takes_it_although_an_older_one_claims_the_label() {
        let mut world = World::new("younger").await;
        let (older, younger) = (world.apply("older", 1), world.apply("younger", 2));
        let look = world.look(&older).await;
        assert_eq!(look.rival.unwrap().name, "ns/younger");
        drop(look.claim);
        let look = world.look(&younger).await;
        assert_eq!((look.rival, look.holder), (None, None));
    }

    /// A token that has a public key under each id.
    struct Both;

    #[async_trait::async_trait]
    impl Hsm for Both {
        async fn call(&self, request: Request) -> Result<Reply, HsmError> {
            let Request::Find(Find::Public(id)) = request else { panic!("{request:?}") };
            Ok(Reply::Keys(vec![KeyFacts {
                id: Some(id),
                label: "l".into(),
                algorithm: Some(KeyAlgorithm::Ed),
                key_size: None,
                curve_oid: None,
                public_key: None,
                attributes: crate::model::KeyAttributes::default(),
                local: Some(false),
                chain_code: None,
                twins: 1,
            }]))
        }

        fn token(&self) -> Option<Arc<crate::hsm::protocol::TokenFacts>> {
            None
        }
    }

    /// Two gateways brought a public key each, at once and under one label, and the token has both.
    #[tokio::test]
    async fn of_two_public_keys_of_one_label_one_is_refused() {
        let mut world = World::new("nobody").await;
        let alone = |key: &HsmKey| {
            let mut key = key.clone();
            (key.spec.source, key.spec.adopt) = (Source::ImportedPublic, false);
            key
        };
        let (older, younger) = (alone(&world.apply("older", 1)), alone(&world.apply("younger", 2)));
        let look = async |world: &World, key: &HsmKey| {
            look(key, &others(key, None, &world.ctx), &Both, &world.ctx).await.unwrap()
        };
        let first = look(&world, &older).await;
        assert!(first.rival.is_none() && matches!(&first.presence, Presence::Ours(keys) if keys.len() == 1));
        drop(first);
        let second = look(&world, &younger).await;
        assert_eq!(second.rival.unwrap().name, "ns/older");
        drop(second.claim);
        // The younger one had its turn before the older one was seen at all, and no watch shows yet that it has its key.
        let id = super::super::derived_id(&younger).unwrap().to_string();
        world.written.lock().unwrap().get_mut("younger").unwrap().status.get_or_insert_default().key_id =
            Some(id);
        let third = look(&world, &older).await;
        assert_eq!(third.rival.unwrap().name, "ns/younger");
    }
}
