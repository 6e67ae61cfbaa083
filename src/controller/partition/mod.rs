//! Reconciler of HsmPartitions: gather, plan, act, report.

mod attesting;
pub mod objects;
mod replicas;
mod report;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

pub use self::attesting::NOT_ATTESTING;
use self::{
    objects::Claims,
    replicas::{Plan, Signing},
    report::{Outcome, report},
};
use super::{
    context::{Context, Guarded},
    error::Error,
    inventory,
};
use crate::{
    api::{
        HsmPartition, PARTITION_FINALIZER, TAKE_INVENTORY, condition, partition::HsmPartitionStatus,
        pins::Pins,
    },
    hsm::{
        HostState, Hsm, Wanted,
        protocol::{HsmError, Kind},
        registry::TokenConfig,
    },
    service::attest::AttestError,
    telemetry::logs::chain,
};

/// Brings one partition to what its spec asks for.
///
/// # Errors
/// Whatever stopped it; it is tried again.
pub async fn reconcile(partition: Arc<Guarded<HsmPartition>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let partition = match &partition.0 {
        Ok(partition) => partition,
        Err(invalid) => {
            super::malformed::report::<HsmPartition>(&ctx, invalid).await;
            return Ok(Action::await_change());
        }
    };
    if partition.metadata.deletion_timestamp.is_some() {
        return release(partition, &ctx).await;
    }
    if !partition.finalizers().iter().any(|one| one == PARTITION_FINALIZER) {
        set_finalizer(partition, &ctx, true).await?;
        return Ok(Action::await_change());
    }
    let asked = partition.annotations().contains_key(TAKE_INVENTORY);
    if asked {
        ctx.inventories.forget(&partition.name_any()).await;
    }
    let plans = replicas::plan(partition, &ctx).await?;
    let (mut outcome, mut action) = connect(partition, &plans, &ctx).await?;
    // Before the status, whose change wakes the keys.
    let reached = match &outcome {
        Outcome::Ready { .. } => Some(true),
        Outcome::Connecting => None,
        Outcome::PinMissing(_)
        | Outcome::PinRejected { .. }
        | Outcome::Failed(_)
        | Outcome::NotAttesting { .. }
        | Outcome::InUse(_) => Some(false),
    };
    ctx.reached.set(&partition.name_any(), reached);
    let old = partition.status.clone().unwrap_or_default();
    let handle = ctx.registry.handle(&partition.name_any());
    let replicas = replicas::status(partition, &plans, handle.as_deref(), ctx.now());
    let signing = (!replicas.is_empty()).then(|| Signing::of(handle.as_deref(), &replicas));
    let mut new = report(partition, &old, &outcome, signing.as_ref(), ctx.now());
    new.replicas = replicas;
    new.sessions = ctx.sessions.status(partition, new.token.as_ref());
    if new != old {
        let api: Api<HsmPartition> = Api::all(ctx.client.clone());
        ctx.write_status(&api, partition, &new, false).await?;
        for replica in &new.replicas {
            let before = old.replicas.iter().find(|one| one.name == replica.name);
            if replica.healthy != before.is_some_and(|one| one.healthy) {
                let reason = if replica.healthy { "ReplicaIn" } else { "ReplicaOut" };
                let note = format!("replica {} ({}): {}", replica.name, replica.reason, replica.message);
                ctx.event(partition, !replica.healthy, reason, "Replicate", note).await;
            }
        }
        let before = condition::find(&old.conditions, condition::READY).map(|ready| ready.reason.clone());
        let after = condition::find(&new.conditions, condition::READY);
        if let Some(after) = after.filter(|after| before.as_ref() != Some(&after.reason)) {
            let warning = after.status != "True" && after.reason != "Connecting";
            if warning || after.status == "True" {
                let reason = if warning { after.reason.as_str() } else { "Connected" };
                ctx.event(partition, warning, reason, "Connect", after.message.clone()).await;
            }
        }
    }
    if asked && matches!(outcome, Outcome::Ready { .. }) {
        // Last, so that a controller that is killed before it has answered takes another one.
        let answered =
            json!({ "metadata": { "uid": partition.uid(), "annotations": { TAKE_INVENTORY: null } } });
        amend(partition, &ctx, &answered).await?;
    }
    // After it is told that the token is there: nobody waits for this.
    if let Outcome::Ready { token, findings, .. } = &mut outcome
        && let Some(hsm) = ctx.registry.get(&partition.name_any())
    {
        if findings.is_none() {
            let spared = report::spared(&new, token);
            *findings = ctx.probes.learn(&partition.name_any(), token, hsm.as_ref(), &spared).await;
            let mut learned = report(partition, &new, &outcome, signing.as_ref(), ctx.now());
            learned.sessions = ctx.sessions.status(partition, learned.token.as_ref());
            if learned != new {
                let api: Api<HsmPartition> = Api::all(ctx.client.clone());
                ctx.write_status(&api, partition, &learned, false).await?;
                new = learned;
            }
        }
        if let Some(again) = measure(partition, new, hsm.as_ref(), &ctx).await? {
            action = Action::requeue(super::jittered(again));
        }
    }
    Ok(action)
}

/// Measures how many sessions of the token are worth it, if that is wanted and not known. Returns when to try again.
async fn measure(
    partition: &HsmPartition,
    mut status: HsmPartitionStatus,
    hsm: &dyn Hsm,
    ctx: &Context,
) -> Result<Option<Duration>, Error> {
    let Some(token) = &status.token else { return Ok(None) };
    let Some((sessions, again)) = ctx.sessions.measure(partition, token, hsm, ctx.now()).await else {
        return Ok(None);
    };
    if status.sessions.as_ref() != Some(&sessions) {
        let note = format!("{} sessions: {}", sessions.chosen, sessions.message);
        let (warning, reason) = (sessions.measured.is_empty(), sessions.reason.clone());
        status.sessions = Some(sessions);
        let api: Api<HsmPartition> = Api::all(ctx.client.clone());
        ctx.write_status(&api, partition, &status, false).await?;
        let reason = format!("Sessions{reason}");
        ctx.event(partition, warning, &reason, "Measure", note).await;
    }
    Ok(again)
}

/// Reaches the token and sees what is on it.
async fn connect(
    partition: &HsmPartition,
    plans: &[Plan],
    ctx: &Context,
) -> Result<(Outcome, Action), Error> {
    let name = partition.name_any();
    // Replicas sign on without it.
    let without = |primary: Wanted| {
        if !plans.is_empty() {
            ctx.registry.ensure(&name, replicas::config(partition, primary, plans));
        } else if matches!(primary, Wanted::Close) {
            ctx.registry.remove(&name);
        }
    };
    let wait = |outcome| Ok((outcome, Action::requeue(super::jittered(Duration::from_secs(60)))));
    let pin_ref = &partition.spec.pkcs11.pin_secret_ref;
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let read = |source| Error::ReadSecret { name: pin_ref.name.clone(), source: Box::new(source) };
    let secret = secrets.get_opt(&pin_ref.name).await.map_err(read)?;
    let place = format!("Secret {}/{}", ctx.namespace, pin_ref.name);
    let Some(secret) = secret else {
        without(Wanted::Keep);
        return wait(Outcome::PinMissing(format!(
            "{place} does not exist: make it, with the PIN under '{}'",
            pin_ref.key
        )));
    };
    let pins = Pins::of(secret);
    let Some(pin) = pins.get(&pin_ref.key).cloned() else {
        without(Wanted::Keep);
        return wait(Outcome::PinMissing(format!("{place} has no key '{}' with text in it", pin_ref.key)));
    };
    let version = pins.version().to_owned();
    if partition.status.as_ref().and_then(|status| status.rejected_pin.as_ref()) == Some(&version) {
        // What the token said then is worth more than that it said no.
        let said = partition.status.as_ref().and_then(|status| {
            let ready = condition::find(&status.conditions, condition::READY)?;
            let reason = ["PinRejected", "PinLocked"].into_iter().find(|one| *one == ready.reason)?;
            Some((reason, ready.message.clone()))
        });
        let (reason, message) = said.unwrap_or_else(|| {
            let message = format!(
                "the token refused the PIN in {place}, and it is not tried again: correct the Secret"
            );
            ("PinRejected", message)
        });
        // A process that was started before must not be left with the refused PIN either.
        without(Wanted::Close);
        return wait(Outcome::PinRejected { version, reason, message });
    }
    let primary = TokenConfig::of(partition, &partition.spec.pkcs11, pin, version.clone());
    let config = replicas::config(partition, Wanted::Open(primary), plans);
    let handle = ctx.registry.ensure(&name, config);
    match handle.state() {
        HostState::Starting => Ok((Outcome::Connecting, Action::requeue(Duration::from_secs(30)))),
        HostState::Failed(error) => {
            ctx.attestor.forget(&name);
            ctx.inventories.forget(&name).await;
            let pin_trouble = matches!(error.kind, Kind::PinRejected | Kind::PinLocked);
            let outcome = if pin_trouble {
                let reason = super::error::reason(error.kind);
                Outcome::PinRejected { version, reason, message: error.message }
            } else {
                Outcome::Failed(error)
            };
            wait(outcome)
        }
        HostState::Ready(token) => {
            let seen = match ctx.inventories.of(&name, handle.hsm()).await {
                Ok(seen) => seen,
                Err(error) => {
                    let failed =
                        HsmError::new(error.hsm().map_or(Kind::Device, |hsm| hsm.kind), chain(&error));
                    return wait(Outcome::Failed(failed));
                }
            };
            let attestation = match ctx.attestor.ensure(handle.hsm(), partition, ctx.now()).await {
                Ok(attestation) => attestation,
                Err(error) => {
                    if let AttestError::NotByHsm(why) = &error {
                        let stalled = error.refusal().is_some();
                        let message = attesting::not_attesting(partition, why, stalled);
                        return wait(Outcome::NotAttesting { token, version, message, stalled });
                    }
                    let kind = error.hsm().map_or(Kind::Device, |hsm| hsm.kind);
                    let message = format!("the attestation keys are not in order: {}", chain(&error));
                    return wait(Outcome::Failed(HsmError::new(kind, message)));
                }
            };
            let mut claims = claims(&name, ctx);
            claims.look(&name, &seen, handle.hsm(), ctx).await;
            let findings = ctx.probes.of(&name, &token);
            let (attestation, claims, recovery) =
                (Box::new(attestation), Box::new(claims), handle.recovery());
            let outcome = Outcome::Ready { token, findings, seen, attestation, claims, version, recovery };
            Ok((outcome, Action::requeue(super::jittered(inventory::LASTS.min(ctx.resync)))))
        }
    }
}

/// What the HsmKeys of a partition say of its token.
fn claims(partition: &str, ctx: &Context) -> Claims {
    let keys = ctx
        .keys
        .state_filter(|guarded| guarded.0.as_ref().is_ok_and(|key| key.spec.partition_ref.name == partition));
    let namespaces = ctx.namespaces.state().iter().map(|namespace| namespace.name_any()).collect();
    Claims::of(keys.iter().filter_map(|guarded| guarded.0.as_ref().ok()), namespaces)
}

/// The object is being deleted: not while keys refer to it.
async fn release(partition: &HsmPartition, ctx: &Context) -> Result<Action, Error> {
    if !partition.finalizers().iter().any(|one| one == PARTITION_FINALIZER) {
        return Ok(Action::await_change());
    }
    let name = partition.name_any();
    let users = ctx
        .keys
        .state_filter(|guarded| guarded.0.as_ref().is_ok_and(|key| key.spec.partition_ref.name == name));
    if !users.is_empty() {
        let mut names: Vec<_> = users
            .iter()
            .map(|key| format!("{}/{}", key.namespace().unwrap_or_default(), key.name_any()))
            .collect();
        names.sort();
        let outcome = Outcome::InUse(format!(
            "it is deleted when no HsmKey refers to it; {} do: {}",
            names.len(),
            names.iter().take(10).cloned().collect::<Vec<_>>().join(", ")
        ));
        let old = partition.status.clone().unwrap_or_default();
        let new = report(partition, &old, &outcome, None, ctx.now());
        if new != old {
            let api: Api<HsmPartition> = Api::all(ctx.client.clone());
            ctx.write_status(&api, partition, &new, false).await?;
            if let Outcome::InUse(message) = outcome {
                ctx.event(partition, true, "InUse", "Delete", message).await;
            }
        }
        return Ok(Action::requeue(Duration::from_secs(30)));
    }
    ctx.registry.remove(&name);
    ctx.reached.set(&name, None);
    ctx.attestor.forget(&name);
    ctx.inventories.forget(&name).await;
    ctx.probes.forget(&name);
    ctx.sessions.forget(&name);
    set_finalizer(partition, ctx, false).await?;
    Ok(Action::await_change())
}

async fn set_finalizer(partition: &HsmPartition, ctx: &Context, present: bool) -> Result<(), Error> {
    let mut finalizers: Vec<String> =
        partition.finalizers().iter().filter(|one| *one != PARTITION_FINALIZER).cloned().collect();
    if present {
        finalizers.push(PARTITION_FINALIZER.into());
    }
    let patch =
        json!({ "metadata": { "finalizers": finalizers, "resourceVersion": partition.resource_version() } });
    amend(partition, ctx, &patch).await
}

async fn amend(partition: &HsmPartition, ctx: &Context, patch: &serde_json::Value) -> Result<(), Error> {
    let api: Api<HsmPartition> = Api::all(ctx.client.clone());
    match api.patch_metadata(&partition.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => {
            ctx.metrics.wrote("HsmPartition", "patch");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(Error::Write { name: partition.name_any(), source: Box::new(source) }),
    }
}
