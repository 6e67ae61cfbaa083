//! Reconciler of HsmKeys: gather, plan, act, report.

mod certificate;
mod derived;
mod gather;
mod plan;
mod publish;
mod report;
#[cfg(test)]
mod taken_over;
#[cfg(test)]
mod unattested;

use std::{sync::Arc, time::Duration};

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{controller::Action, reflector::ObjectRef},
};
use serde_json::json;
use tokio::sync::Semaphore;

pub use self::gather::{name_of, recorded};
use self::{
    gather::{Presence, Seen, gather},
    plan::{AWAITED, NOT_ATTESTED, Refusal, Step, plan},
    report::{Done, report},
};
use super::{
    context::{Context, Guarded},
    error::Error,
    partition::NOT_ATTESTING,
    password,
};
use crate::{
    api::{
        HsmKey, KEY_FINALIZER, MISSED, condition,
        key::{DeletionPolicy, HsmKeyStatus, Source},
    },
    hsm::{
        Hsm,
        protocol::{Find, KeyFacts, KeyTemplate, Kind, Reply, Request},
    },
    model::{KeyAlgorithm, KeyId, curve},
    service::{attest::AttestError, directory::Usable, sign::unexpected},
};

/// Keys that take a token long are made a few at a time, so that none waits longer for its turn than a call may take.
static SLOW: Semaphore = Semaphore::const_new(16);

/// How often it is looked for a key that somebody else brings.
const AWAITED_AGAIN: Duration = Duration::from_secs(30);

/// Brings one key to what its spec asks for.
///
/// # Errors
/// Whatever stopped it; it is tried again.
pub async fn reconcile(key: Arc<Guarded<HsmKey>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let key = match &key.0 {
        Ok(key) => key,
        Err(invalid) => {
            super::malformed::report::<HsmKey>(&ctx, invalid).await;
            return Ok(Action::await_change());
        }
    };
    if key.metadata.deletion_timestamp.is_some() {
        return release(key, &ctx).await;
    }
    if !key.finalizers().iter().any(|one| one == KEY_FINALIZER) {
        set_finalizer(key, &ctx, true).await?;
        // The change of the object wakes us again.
        return Ok(Action::await_change());
    }

    let missed = key.annotations().contains_key(MISSED);
    let seen = gather(key, &ctx).await?;
    let step = plan(key, &seen);
    if seen.soon && matches!(step, Step::Wait(..)) {
        // Nothing to tell anybody about.
        return Ok(Action::requeue(super::jittered(Duration::from_secs(2))));
    }
    let done = match act(&step, key, &seen, &ctx).await {
        Ok(done) => done,
        // The look that told so is remembered, so that the next one sees whose they are.
        Err(Error::LabelTaken) => return Ok(Action::requeue(Duration::ZERO)),
        // What a token refuses for good is said on the object; everything else is tried again.
        Err(error) if let Some(refusal) = refusal(&error) => Done::Refused(refusal),
        Err(error) => {
            let waiting = Done::Waiting(
                match &error {
                    // It is not this key that is missing, for example.
                    Error::Attest(AttestError::NotByHsm(_)) => NOT_ATTESTING,
                    error => error.hsm().map_or("Retrying", |hsm| super::error::reason(hsm.kind)),
                },
                crate::telemetry::logs::chain(&error),
            );
            write(key, &ctx, &step, &waiting).await?;
            return Err(error);
        }
    };
    write(key, &ctx, &step, &done).await?;
    if missed && !matches!(seen.presence, Presence::NotAsked) {
        // Last, so that a controller that is killed before it looks again.
        let answered = json!({ "metadata": { "uid": key.uid(), "annotations": { MISSED: null } } });
        amend(key, &ctx, &answered).await?;
    }
    Ok(match done {
        Done::Complete { .. } => Action::requeue(super::jittered(ctx.resync)),
        // The watch that says that it went may be ahead of the store that is asked.
        // What it waits for wakes nobody.
        Done::Waiting(derived::MASTER_NOT_READY, _) => {
            Action::requeue(super::jittered(Duration::from_secs(5)))
        }
        Done::Refused(_) if seen.rival.is_some_and(|rival| rival.leaving) => {
            Action::requeue(Duration::from_secs(2))
        }
        // Whoever brings it wakes us, unless killed right then.
        Done::Waiting(AWAITED, _) => Action::requeue(super::jittered(AWAITED_AGAIN)),
        // A watch wakes us: on the object, its partition, its namespace. It may be ahead of the stores that are asked.
        _ if matches!(seen.presence, Presence::NotAsked) => {
            Action::requeue(super::jittered(Duration::from_secs(30)))
        }
        // The rest is seen by the resync.
        Done::Refused(_) | Done::Waiting(..) => Action::requeue(super::jittered(Duration::from_secs(300))),
    })
}

/// What a token refuses for good. A key that it does not attest is on it, so that this has a reason of its own.
fn refusal(error: &Error) -> Option<Refusal> {
    match error {
        Error::Hsm { source, .. } if matches!(source.kind, Kind::Unsupported | Kind::Invalid) => {
            Some(Refusal::hsm(source))
        }
        Error::Attest(error) => error.unattested().map(Refusal::not_attested),
        _ => None,
    }
}

async fn write(key: &HsmKey, ctx: &Context, step: &Step, done: &Done) -> Result<(), Error> {
    let old = key.status.clone().unwrap_or_default();
    let new = report(key, &old, step, done, ctx.now());
    if new != old {
        ctx.write_status(&ctx.api_of(key), key, &new, false).await?;
        if let Some(refusal) = done.refusal()
            && condition::find(&old.conditions, condition::STALLED)
                .is_none_or(|stalled| stalled.reason != refusal.reason)
        {
            ctx.event(key, true, refusal.reason, "Refuse", refusal.message.clone()).await;
        }
    }
    Ok(())
}

async fn act(step: &Step, key: &HsmKey, seen: &Seen, ctx: &Context) -> Result<Done, Error> {
    match step {
        Step::Refuse(refusal) => Ok(Done::Refused(refusal.clone())),
        Step::Wait(reason, message) => Ok(Done::Waiting(reason, message.clone())),
        Step::Keep => {
            let status = key.status.clone().unwrap_or_default();
            published(key, seen, ctx, status, "Ready").await
        }
        Step::Generate => {
            let hsm = seen.hsm()?;
            let template = template(key)?;
            let request = match &key.spec.derived_from {
                None => Request::Claim(template),
                Some(from) => match derived::request(key, from, template, ctx) {
                    Ok(request) => request,
                    Err(derived::Unasked::Done(done)) => return Ok(done),
                    Err(derived::Unasked::ByGateway(otherwise)) => {
                        let there = gather::find(hsm.as_ref(), Find::Id(derived_id(key)?)).await?;
                        return match there.as_slice() {
                            [] => Ok(otherwise),
                            [facts] if facts.twins == 1 => complete(key, seen, ctx, facts, "Generated").await,
                            _ => Ok(Done::Refused(Refusal::duplicate(key))),
                        };
                    }
                },
            };
            let facts = claim(hsm.as_ref(), key.spec.algorithm, request).await?;
            if facts.twins > 1 {
                return Ok(Done::Refused(Refusal::duplicate(key)));
            }
            // An interrupted run said so itself, and this one may be repeated.
            if !matches!(seen.presence, Presence::Ours(_)) {
                let note = format!("made {} on the token", describe(&facts));
                ctx.event(key, false, "KeyGenerated", "Generate", note).await;
            }
            complete(key, seen, ctx, &facts, "Generated").await
        }
        Step::Describe(facts) => {
            let changed = plan::hardened(key, facts);
            let done = complete(key, seen, ctx, facts, origin(key)).await?;
            if let Some(changed) = changed {
                let note = format!("the token says otherwise than before: {changed}");
                ctx.event(key, false, "AttributesChanged", "Describe", note).await;
            }
            Ok(done)
        }
        Step::Receive(facts) => {
            let note = format!("{} was brought to the token", describe(facts));
            ctx.event(key, false, "KeyImported", "Import", note).await;
            complete(key, seen, ctx, facts, origin(key)).await
        }
        Step::Adopt(facts) => {
            ctx.event(
                key,
                false,
                "KeyAdopted",
                "Adopt",
                format!("took over {} on the token", describe(facts)),
            )
            .await;
            complete(key, seen, ctx, facts, "Adopted").await
        }
        Step::Recover(facts) => {
            let note = format!("took over {}, made for an earlier object of this name", describe(facts));
            ctx.event(key, false, "KeyRecovered", "Recover", note).await;
            complete(key, seen, ctx, facts, "Recovered").await
        }
    }
}

/// How the key came to be, as a reason.
const fn origin(key: &HsmKey) -> &'static str {
    match key.spec.source {
        Source::Generated => "Generated",
        Source::Imported | Source::ImportedPublic => "Imported",
    }
}

async fn claim(hsm: &dyn Hsm, algorithm: KeyAlgorithm, request: Request) -> Result<KeyFacts, Error> {
    let failed = |source| Error::Hsm { operation: "key generation", source };
    let slow = matches!(algorithm, KeyAlgorithm::Rsa | KeyAlgorithm::Dsa);
    let _turn = if slow { SLOW.acquire().await.ok() } else { None };
    match hsm.call(request).await.map_err(failed)? {
        Reply::Key(facts) => Ok(*facts),
        Reply::Keys(_) => Err(Error::LabelTaken),
        other => Err(failed(unexpected(&other))),
    }
}

/// Attests the key and publishes its public half.
async fn complete(
    key: &HsmKey,
    seen: &Seen,
    ctx: &Context,
    facts: &KeyFacts,
    reason: &'static str,
) -> Result<Done, Error> {
    if let Some(refusal) = plan::differs(key, facts) {
        return Ok(Done::Refused(refusal));
    }
    match key.is_public_only() {
        true => ctx.inventories.saw_public(&key.spec.partition_ref.name, facts).await,
        false => ctx.inventories.saw(&key.spec.partition_ref.name, facts).await,
    }
    let mut status = report::facts(key, facts, ctx.now());
    let partition = seen.partition.as_ref().ok_or(Error::Incomplete("partition"))?;
    let create_time = status.create_time.clone().unwrap_or_default();
    let hsm = seen.hsm()?.as_ref();
    match ctx.attestor.attest(hsm, partition, facts, &key.spec, &create_time, ctx.now()).await {
        Ok(attestation) => status.attestation = Some(attestation),
        // A key that works goes on working, with the statement that it has.
        Err(error)
            if status.attestation.is_some()
                && let Some(why) = error.unattested() =>
        {
            let note = format!("it keeps the attestation of what it was before: {why}");
            ctx.event(key, true, NOT_ATTESTED, "Describe", note).await;
        }
        Err(error) => return Err(error.into()),
    }
    published(key, seen, ctx, status, reason).await
}

/// Certifies the key, where its spec asks for that, and publishes all that is public of it.
async fn published(
    key: &HsmKey,
    seen: &Seen,
    ctx: &Context,
    mut status: HsmKeyStatus,
    reason: &'static str,
) -> Result<Done, Error> {
    let usable = Usable::described(key, &status);
    let certified = certificate::certify(key, usable, &mut status, seen, ctx).await?;
    match publish::secret(key, &status, ctx).await? {
        Some(refusal) => Ok(Done::Refused(refusal)),
        None => Ok(Done::Complete { status: Box::new(status), reason, certified }),
    }
}

fn template(key: &HsmKey) -> Result<KeyTemplate, Error> {
    let bad = |text: String| Error::Hsm {
        operation: "key generation",
        source: crate::hsm::protocol::HsmError::new(Kind::Invalid, text),
    };
    let size = key.spec.key_size.and_then(|size| u32::try_from(size).ok());
    Ok(KeyTemplate {
        id: derived_id(key)?,
        label: plan::label(key).map_err(bad)?,
        algorithm: key.spec.algorithm,
        key_size: size,
        curve_oid: key.spec.curve().and_then(curve::by_oid).map(|curve| curve.oid.to_owned()),
        attributes: key.spec.attributes.resolved(),
    })
}

/// The identifier of the key that is made for an object.
pub fn derived_id(key: &HsmKey) -> Result<KeyId, Error> {
    let uid = key.uid().and_then(|uid| uid.parse().ok()).ok_or(Error::Incomplete("uid"))?;
    let namespace = key.namespace().ok_or(Error::Incomplete("namespace"))?;
    Ok(KeyId::for_object(uid, &namespace, &key.name_any()))
}

fn describe(facts: &KeyFacts) -> String {
    let id = facts.id.as_ref().map_or_else(|| "without id".into(), |id| format!("with id {id}"));
    format!("key '{}' {id}", facts.label)
}

/// The object is being deleted: the token first, then the finalizer.
async fn release(key: &HsmKey, ctx: &Context) -> Result<Action, Error> {
    if !key.finalizers().iter().any(|one| one == KEY_FINALIZER) {
        return Ok(Action::await_change());
    }
    let recorded =
        key.status.as_ref().and_then(|status| status.key_id.clone()).and_then(|id| KeyId::try_from(id).ok());
    let partition = &key.spec.partition_ref.name;
    // A partition goes after its keys, so one that does not exist has never held this key.
    let known = ctx.partitions.get(&ObjectRef::new(partition)).is_some();
    let destroy = known
        && key.spec.deletion_policy == DeletionPolicy::Destroy
        && key.spec.attributes.destroyable == Some(true);
    if destroy {
        // Only what is ours: the recorded key, or one whose making was interrupted before it was recorded. An
        // object that lost a conflict has neither.
        let id = match recorded {
            Some(id) => id,
            None => derived_id(key)?,
        };
        // A restore may have given it to two objects.
        if let Some(other) = gather::who_has(&id, key, ctx) {
            let note = format!("the key with id {id} stays on the token: HsmKey {other} has it, too");
            ctx.event(key, true, "KeyRetained", "Destroy", note).await;
            set_finalizer(key, ctx, false).await?;
            return Ok(Action::await_change());
        }
        let Some(hsm) = ctx.registry.get(partition) else {
            let message = format!("the key is destroyed when partition {partition} is reachable");
            write(
                key,
                ctx,
                &Step::Wait("PartitionNotReady", message.clone()),
                &Done::Waiting("PartitionNotReady", message),
            )
            .await?;
            return Ok(Action::requeue(super::jittered(Duration::from_secs(30))));
        };
        match hsm.call(Request::Destroy(id.clone())).await {
            Ok(_) => {
                match key.is_public_only() {
                    true => ctx.inventories.missed_public(partition, &id).await,
                    false => ctx.inventories.missed(partition, &id).await,
                }
                let note = format!("the token has no key with id {id} any more");
                ctx.event(key, false, "KeyDestroyed", "Destroy", note).await;
            }
            Err(source) if source.kind == Kind::Forbidden => {
                let note = format!("the token refuses to destroy the key, which stays: {source}");
                ctx.event(key, true, "KeyRetained", "Destroy", note).await;
            }
            Err(source) => {
                let waiting = Done::Waiting(
                    super::error::reason(source.kind),
                    format!("cannot destroy the key: {source}"),
                );
                write(key, ctx, &Step::Wait("Destroying", String::new()), &waiting).await?;
                return Err(Error::Hsm { operation: "key destruction", source });
            }
        }
    } else if let Some(id) = recorded {
        ctx.event(key, false, "KeyRetained", "Release", format!("the key with id {id} stays on the token"))
            .await;
    }
    set_finalizer(key, ctx, false).await?;
    Ok(Action::await_change())
}

async fn set_finalizer(key: &HsmKey, ctx: &Context, present: bool) -> Result<(), Error> {
    if !present {
        // While the object is there, none of its name can be.
        password::forget(key, ctx).await?;
    }
    let mut finalizers: Vec<String> =
        key.finalizers().iter().filter(|one| *one != KEY_FINALIZER).cloned().collect();
    if present {
        finalizers.push(KEY_FINALIZER.into());
    }
    // The resourceVersion makes sure that nobody else's finalizer is lost.
    let patch =
        json!({ "metadata": { "finalizers": finalizers, "resourceVersion": key.resource_version() } });
    amend(key, ctx, &patch).await
}

async fn amend(key: &HsmKey, ctx: &Context, patch: &serde_json::Value) -> Result<(), Error> {
    let api: Api<HsmKey> = ctx.api_of(key);
    match api.patch_metadata(&key.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => {
            ctx.metrics.wrote("HsmKey", "patch");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(Error::Write { name: key.name_any(), source: Box::new(source) }),
    }
}
