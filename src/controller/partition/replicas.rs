//! Replicas of a partition's token: which are opened, and how it stands with them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::report::with_recovery;
use crate::{
    api::{
        HsmPartition,
        condition::{self, Report},
        partition::Pkcs11,
        pins::Pins,
        replica::ReplicaStatus,
    },
    controller::{
        context::Context,
        error::{self, Error},
    },
    hsm::{
        Canary, HostState, Kind, PartitionConfig, Wanted,
        health::Cause,
        registry::{Handle, TokenConfig},
        replicas::PRIMARY,
    },
};

/// What is done with one replica.
pub struct Plan {
    name: String,
    wanted: Wanted,
    /// Version of the Secret with its PIN.
    version: Option<String>,
    /// What is written down if the token accepts it.
    accepted: Option<String>,
    /// Why it is not opened.
    refused: Option<(&'static str, String)>,
}

/// Reads the PINs of the replicas, and says which of them are opened: a PIN that the token refused is not tried again.
pub async fn plan(partition: &HsmPartition, ctx: &Context) -> Result<Vec<Plan>, Error> {
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let mut plans = Vec::new();
    for replica in &partition.spec.replicas {
        let reached = replica.reached(&partition.spec.pkcs11);
        let pin_ref = &reached.pin_secret_ref;
        let secret = secrets
            .get_opt(&pin_ref.name)
            .await
            .map_err(|source| Error::ReadSecret { name: pin_ref.name.clone(), source: Box::new(source) })?;
        let pins = secret.map(Pins::of);
        plans.push(one(partition, &replica.name, &reached, pins.as_ref(), &ctx.namespace));
    }
    Ok(plans)
}

fn one(partition: &HsmPartition, name: &str, reached: &Pkcs11, pins: Option<&Pins>, namespace: &str) -> Plan {
    let (pin_ref, before) = (&reached.pin_secret_ref, partition.replica_status(name));
    let place = format!("Secret {namespace}/{}", pin_ref.name);
    let version = pins.map(|pins| pins.version().to_owned());
    let accepted = version.as_ref().map(|version| reached.accepted(version));
    let plan = |wanted, refused| Plan {
        name: name.to_owned(),
        wanted,
        version: version.clone(),
        accepted: accepted.clone(),
        refused,
    };
    let Some(pin) = pins.and_then(|pins| pins.get(&pin_ref.key)).cloned() else {
        let message = format!("{place} does not exist, or has no key '{}' with text in it", pin_ref.key);
        // A token that is logged in stays so: a Secret that is deleted by mistake stops nothing.
        return plan(Wanted::Keep, Some(("PinMissing", message)));
    };
    if let Some(before) = before.filter(|one| one.rejected_pin.is_some() && one.rejected_pin == version) {
        let reason = if before.reason == "PinLocked" { "PinLocked" } else { "PinRejected" };
        return plan(Wanted::Close, Some((reason, before.message.clone())));
    }
    let config = TokenConfig::of(partition, reached, pin, version.clone().unwrap_or_default());
    plan(Wanted::Open(config), None)
}

/// What is to become of a partition's tokens.
pub fn config(partition: &HsmPartition, primary: Wanted, plans: &[Plan]) -> PartitionConfig {
    let replicas = plans.iter().map(|plan| (plan.name.clone(), plan.wanted.clone())).collect();
    PartitionConfig { primary, replicas, canary: Canary::of(partition) }
}

/// How it stands with each of them.
pub fn status(
    partition: &HsmPartition,
    plans: &[Plan],
    handle: Option<&Handle>,
    now: Timestamp,
) -> Vec<ReplicaStatus> {
    let open = handle.map(|handle| handle.members().1).unwrap_or_default();
    let mut all = Vec::new();
    for plan in plans {
        let before = partition.replica_status(&plan.name);
        let member = open.iter().find(|one| one.name() == plan.name);
        let state = member.map(|one| one.hsm().state().borrow().clone());
        let cause = member.map(|one| one.cause());
        let mut status = before.cloned().unwrap_or_else(|| ReplicaStatus {
            name: plan.name.clone(),
            last_change: now.to_string(),
            ..ReplicaStatus::default()
        });
        if let Some(member) = member {
            status.serial = member.hsm().token().map(|token| token.serial.clone()).or(status.serial);
        }
        if plan.refused.is_none() {
            match &state {
                Some(HostState::Ready(_)) => {
                    (status.accepted_pin, status.rejected_pin) = (plan.accepted.clone(), None);
                }
                Some(HostState::Failed(error))
                    if matches!(error.kind, Kind::PinRejected | Kind::PinLocked) =>
                {
                    status.rejected_pin = plan.version.clone();
                }
                _ => {}
            }
        }
        let (healthy, reason, message) = match (&plan.refused, cause) {
            // It signs on with the login that it has.
            (Some((reason, message)), cause) => (matches!(cause, Some(None)), *reason, message.clone()),
            (None, Some(None)) => {
                let recovery = handle.and_then(|handle| handle.replica_recovery(&plan.name));
                (true, "Healthy", with_recovery("it signs", recovery.as_ref()))
            }
            // A controller that was just started does not know better than the one before.
            (None, None | Some(Some(Cause::Unproven | Cause::Starting)))
                if before.is_some_and(|one| one.healthy) =>
            {
                all.push(status);
                continue;
            }
            (None, Some(Some(cause))) => {
                let (reason, message) = words(&cause);
                (false, reason, message)
            }
            (None, None) => (false, "Connecting", "its token-host is being started".to_owned()),
        };
        if before.is_none() || status.healthy != healthy || status.reason != reason {
            (status.healthy, status.reason, status.message) = (healthy, reason.to_owned(), message);
            status.last_change = now.to_string();
        } else if healthy && plan.refused.is_none() {
            // It may have been brought back before anybody saw it out.
            status.message = message;
        }
        all.push(status);
    }
    all
}

/// What is said of a cause: a word and a sentence.
fn words(cause: &Cause) -> (&'static str, String) {
    match cause {
        Cause::Unproven => (
            "Unproven",
            "it signs as soon as it made a signature with the attestation key, which shows that it has the same keys"
                .into(),
        ),
        Cause::Starting => ("Connecting", "its token-host is connecting to the token".into()),
        Cause::Down(error) | Cause::Failing(error) => (error::reason(error.kind), error.message.clone()),
        Cause::OtherKeys(error) => (
            "OtherKeys",
            format!(
                "it does not sign with the attestation key, so that it has not the same keys: replicate the keys of the partition's own token to it ({})",
                error.message
            ),
        ),
        Cause::WrongSignature => (
            "WrongSignature",
            "it answered with a signature that is none: it has other keys of the same id, or is broken".into(),
        ),
    }
}

/// Who signs, of a partition's own token and its replicas.
pub struct Signing {
    /// Why the partition's own token does not; `None` if it does.
    primary: Option<(&'static str, String)>,
    replicas: Vec<ReplicaStatus>,
}

impl Signing {
    /// Who signs now.
    pub fn of(handle: Option<&Handle>, replicas: &[ReplicaStatus]) -> Self {
        let primary = handle.and_then(|handle| handle.members().0);
        let primary = primary.and_then(|one| one.cause()).map(|cause| words(&cause));
        Self { primary, replicas: replicas.to_vec() }
    }

    /// The condition `Signable` of a partition with replicas, whose own token is as `reachable` says.
    pub fn report(&self, reachable: &Report) -> Report {
        let out = match (&self.primary, reachable.status) {
            (None, Some(true)) => None,
            (Some((reason, message)), Some(true)) => Some(format!("{PRIMARY} ({reason}: {message})")),
            _ => Some(format!("{PRIMARY} ({}: {})", reachable.reason, reachable.message)),
        };
        let replicas = self.replicas.iter().filter(|one| !one.healthy);
        let replicas = replicas.map(|one| format!("{} ({}: {})", one.name, one.reason, one.message));
        let out: Vec<_> = out.into_iter().chain(replicas).collect();
        let all = self.replicas.len() + 1;
        let signing = all - out.len();
        if out.is_empty() {
            return Report::new(
                condition::SIGNABLE,
                Some(true),
                "AllHealthy",
                format!("all {all} tokens sign"),
            );
        }
        let said = format!("{signing} of {all} tokens sign; out: {}", out.join("; "));
        match reachable.status {
            _ if signing > 0 => Report::new(condition::SIGNABLE, Some(true), "Degraded", said),
            None => Report::new(condition::SIGNABLE, None, "Connecting", said),
            Some(_) => Report::new(condition::SIGNABLE, Some(false), "NoneHealthy", said),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn partition(status: Value) -> HsmPartition {
        let spec = json!({
            "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}}, "allowedNamespaces": {},
            "replicas": [{"name": "b", "pkcs11": {"tokenLabel": "u"}}],
        });
        let mut partition = HsmPartition::new("p", serde_json::from_value(spec).unwrap());
        partition.status = Some(serde_json::from_value(status).unwrap());
        partition
    }

    fn replica(status: Value) -> HsmPartition {
        partition(json!({"replicas": [status]}))
    }

    fn secret(version: &str, pin: &str) -> Pins {
        let secret = json!({"metadata": {"name": "s", "resourceVersion": version}});
        let mut secret: Secret = serde_json::from_value(secret).unwrap();
        let pin = k8s_openapi::ByteString(pin.as_bytes().to_vec());
        secret.data = Some([("pin".to_owned(), pin)].into());
        Pins::of(secret)
    }

    fn planned(partition: &HsmPartition, secret: Option<&Pins>) -> Plan {
        let reached = partition.spec.replicas[0].reached(&partition.spec.pkcs11);
        one(partition, "b", &reached, secret, "hsm-operator")
    }

    #[test]
    fn a_pin_that_a_replica_refused_is_not_tried_again_and_the_next_one_is() {
        let refused = json!({
            "name": "b", "healthy": false, "reason": "PinLocked", "message": "locked", "lastChange": "", "rejectedPin": "7",
        });
        let partition = replica(refused);
        let same = planned(&partition, Some(&secret("7", "1234")));
        assert!(matches!(same.wanted, Wanted::Close));
        assert_eq!(same.refused, Some(("PinLocked", "locked".to_owned())));
        let next = planned(&partition, Some(&secret("8", "1234")));
        assert!(matches!(next.wanted, Wanted::Open(_)) && next.refused.is_none());
    }

    #[test]
    fn a_replica_without_a_pin_stays_as_it_is() {
        let partition = partition(json!({}));
        for missing in [None, Some(secret("1", ""))] {
            let plan = planned(&partition, missing.as_ref());
            assert!(matches!(plan.wanted, Wanted::Keep));
            assert_eq!(plan.refused.unwrap().0, "PinMissing");
        }
    }

    #[test]
    fn a_controller_that_was_just_started_does_not_say_that_a_replica_is_out() {
        let now = Timestamp::from_second(9).unwrap();
        let healthy = json!({"name": "b", "healthy": true, "reason": "Healthy", "message": "it signs", "lastChange": "1"});
        let known = replica(healthy);
        let plans = [planned(&known, Some(&secret("1", "1234")))];
        assert_eq!(status(&known, &plans, None, now), known.status.as_ref().unwrap().replicas);
        let new = partition(json!({}));
        let all = status(&new, &plans, None, now);
        assert_eq!((all[0].healthy, &*all[0].reason), (false, "Connecting"));
        let again = partition(json!({"replicas": all}));
        let later = status(&again, &plans, None, Timestamp::from_second(99).unwrap());
        assert_eq!(later, all, "nothing changed");
    }

    #[test]
    fn a_partition_is_signable_while_one_token_signs_and_says_which_do_not() {
        let status = |name: &str, healthy| ReplicaStatus {
            name: name.into(),
            healthy,
            reason: "TokenNotFound".into(),
            message: "gone".into(),
            ..ReplicaStatus::default()
        };
        let reachable = |status, reason| Report::new(condition::REACHABLE, status, reason, "why");
        let said = |primary: Option<(&'static str, String)>, replicas: &[bool], reachable: &Report| {
            let replicas =
                replicas.iter().zip(["b", "c"]).map(|(healthy, name)| status(name, *healthy)).collect();
            let report = Signing { primary, replicas }.report(reachable);
            (report.status, report.reason, report.message)
        };
        let (up, down) = (reachable(Some(true), "Connected"), reachable(Some(false), "PinRejected"));
        assert_eq!(said(None, &[true, true], &up), (Some(true), "AllHealthy", "all 3 tokens sign".into()));
        let (is, reason, message) = said(None, &[true, false], &down);
        assert_eq!((is, reason), (Some(true), "Degraded"));
        assert_eq!(message, "1 of 3 tokens sign; out: primary (PinRejected: why); c (TokenNotFound: gone)");
        let (is, _, message) = said(Some(("WrongSignature", "lies".into())), &[true, true], &up);
        assert!(is == Some(true) && message.contains("primary (WrongSignature: lies)"), "{message}");
        let (is, reason, _) = said(None, &[false, false], &down);
        assert_eq!((is, reason), (Some(false), "NoneHealthy"));
        let (is, reason, _) = said(None, &[false, false], &reachable(None, "Connecting"));
        assert_eq!((is, reason), (None, "Connecting"));
    }
}
