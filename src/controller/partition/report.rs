//! Turns what was seen of a token into a status. Pure.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;

use crate::{
    api::{
        HsmPartition,
        condition::{self, Report},
        partition::{AttestationStatus, HsmPartitionStatus, TokenStatus, Unclaimed, UnclaimedKey},
    },
    controller::{inventory::Inventory, partition::replicas::Signing},
    hsm::protocol::{HsmError, TokenFacts},
    model::KeyId,
    service::attest::own_keys,
};

/// Most unclaimed keys that are listed.
const UNCLAIMED_MAX: usize = 20;

/// What was seen.
pub enum Outcome {
    /// The token-host has not answered yet.
    Connecting,
    /// There is no PIN to log in with.
    PinMissing(String),
    /// The token refused this version of the PIN.
    PinRejected {
        /// Version of the Secret.
        version: String,
        /// `PinRejected` or `PinLocked`.
        reason: &'static str,
        /// What to do.
        message: String,
    },
    /// The token is not reached.
    Failed(HsmError),
    /// Everything is there.
    Ready {
        /// The token.
        token: Arc<TokenFacts>,
        /// What is on it.
        seen: Arc<Inventory>,
        /// How its keys are attested.
        attestation: Box<AttestationStatus>,
        /// Identifiers that HsmKeys claim.
        claims: Claims,
        /// Version of the Secret with the PIN that it accepted.
        version: String,
    },
    /// It is to be deleted, and keys refer to it.
    InUse(String),
}

/// Identifiers that HsmKeys of a partition claim.
#[derive(Default)]
pub struct Claims {
    /// Of keys that are on the token.
    pub recorded: HashSet<KeyId>,
    /// Of keys that are just being made, or would be.
    pub coming: HashSet<KeyId>,
}

impl Claims {
    fn has(&self, id: &KeyId) -> bool {
        self.recorded.contains(id) || self.coming.contains(id)
    }
}

/// The status after a look; `signing` is there if there are replicas.
pub fn report(
    partition: &HsmPartition,
    old: &HsmPartitionStatus,
    outcome: &Outcome,
    signing: Option<&Signing>,
    now: Timestamp,
) -> HsmPartitionStatus {
    let mut status = old.clone();
    let both = |reason: &'static str, message: &str, person: bool| {
        let mut all = vec![
            Report::new(condition::READY, Some(false), reason, message),
            Report::new(condition::REACHABLE, Some(false), reason, message),
        ];
        if person {
            all.push(Report::new(condition::STALLED, Some(true), reason, message));
        }
        all
    };
    let mut reports = match outcome {
        Outcome::Connecting => {
            let message = "the token-host is connecting to the token";
            vec![
                Report::new(condition::READY, None, "Connecting", message),
                Report::new(condition::REACHABLE, None, "Connecting", message),
            ]
        }
        Outcome::PinMissing(message) => both("PinMissing", message, true),
        Outcome::PinRejected { version, reason, message } => {
            status.rejected_pin = Some(version.clone());
            both(reason, message, true)
        }
        Outcome::Failed(error) => {
            both(crate::controller::error::reason(error.kind), &error.message, error.kind.needs_person())
        }
        Outcome::Ready { token, seen, attestation, claims, version } => {
            status.token = Some(token_status(token));
            status.accepted_pin = Some(version.clone());
            status.rejected_pin = None;
            status.attestation = Some((**attestation).clone());
            status.key_count = i32::try_from(claims.recorded.len()).ok();
            status.unclaimed = unclaimed(seen, claims, &attestation.key_name);
            let message = format!("the token '{}' is ready: {}", token.label, token.capabilities.summary());
            vec![
                Report::new(condition::READY, Some(true), "Ready", message),
                Report::new(condition::REACHABLE, Some(true), "Connected", "the token answers"),
            ]
        }
        Outcome::InUse(message) => vec![Report::new("Deletable", Some(false), "InUse", message)],
    };
    if let Some(reachable) = reports.iter().find(|one| one.kind == condition::REACHABLE) {
        let signable = signing.map_or_else(
            || Report { kind: condition::SIGNABLE, ..reachable.clone() },
            |signing| signing.report(reachable),
        );
        let creatable = Report { kind: condition::CREATABLE, ..reachable.clone() };
        reports.extend([signable, creatable]);
    }
    status.conditions = condition::apply(&old.conditions, &reports, partition.metadata.generation, now);
    status.observed_generation = partition.metadata.generation;
    status
}

fn token_status(token: &TokenFacts) -> TokenStatus {
    let capabilities = &token.capabilities;
    TokenStatus {
        label: token.label.clone(),
        manufacturer: token.manufacturer.clone(),
        model: token.model.clone(),
        serial: token.serial.clone(),
        firmware: token.firmware.clone(),
        library: token.library.clone(),
        key_algorithms: capabilities
            .summary()
            .split(", ")
            .filter(|one| !one.is_empty())
            .map(str::to_owned)
            .collect(),
        signature_algorithms: capabilities.signature_algorithms.iter().map(ToString::to_string).collect(),
    }
}

/// What is on the token and claimed by nobody.
fn unclaimed(seen: &Inventory, claims: &Claims, attestation_key: &str) -> Option<Unclaimed> {
    let own = own_keys(attestation_key);
    let mut keys: Vec<UnclaimedKey> = seen
        .keys()
        .into_iter()
        .filter(|(id, _)| id.as_ref().is_none_or(|id| !claims.has(id) && !own.contains(id)))
        .map(|(id, label)| UnclaimedKey {
            id: id.as_ref().map(ToString::to_string).unwrap_or_default(),
            label: label.chars().take(255).collect(),
        })
        .collect();
    let count = i32::try_from(keys.len()).ok()?;
    keys.sort_by(|a, b| (&a.label, &a.id).cmp(&(&b.label, &b.id)));
    keys.truncate(UNCLAIMED_MAX);
    Some(Unclaimed { count, keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> HsmPartition {
        let spec = serde_json::json!({
            "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}}, "allowedNamespaces": {}
        });
        HsmPartition::new("p", serde_json::from_value(spec).unwrap())
    }

    fn ready(version: &str, keys: Vec<(Option<KeyId>, String)>, claims: Vec<KeyId>) -> Outcome {
        Outcome::Ready {
            token: Arc::new(TokenFacts::default()),
            seen: Arc::new(Inventory::new(keys)),
            attestation: Box::new(AttestationStatus {
                key_name: "attestation-key".into(),
                ..Default::default()
            }),
            claims: Claims { recorded: claims.into_iter().collect(), ..Default::default() },
            version: version.into(),
        }
    }

    #[test]
    fn a_refused_pin_is_remembered_until_another_is_accepted() {
        let now = Timestamp::from_second(1).unwrap();
        let refused =
            Outcome::PinRejected { version: "7".into(), reason: "PinRejected", message: "no".into() };
        let status = report(&partition(), &HsmPartitionStatus::default(), &refused, None, now);
        assert_eq!(status.rejected_pin.as_deref(), Some("7"));
        assert!(condition::is_true(&status.conditions, condition::STALLED));
        let status = report(&partition(), &status, &ready("8", vec![], vec![]), None, now);
        assert_eq!((status.rejected_pin, status.accepted_pin.as_deref()), (None, Some("8")));
        assert!(condition::find(&status.conditions, condition::STALLED).is_none());
    }

    #[test]
    fn keys_that_nobody_claims_are_listed_and_our_own_are_not() {
        let id = |byte| KeyId::from_bytes([byte]).unwrap();
        let on_token = vec![
            (Some(id(1)), "mine".into()),
            (Some(id(2)), "stray".into()),
            (None, "nameless".into()),
            (Some(own_keys("attestation-key")[2].clone()), "attestation-key".into()),
        ];
        let now = Timestamp::from_second(1).unwrap();
        let status = report(
            &partition(),
            &HsmPartitionStatus::default(),
            &ready("1", on_token, vec![id(1)]),
            None,
            now,
        );
        let labels: Vec<_> = status.unclaimed.unwrap().keys.into_iter().map(|key| key.label).collect();
        assert_eq!(labels, ["nameless", "stray"]);
    }
}
