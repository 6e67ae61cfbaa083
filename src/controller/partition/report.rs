//! Turns what was seen of a token into a status. Pure.

use std::sync::Arc;

use jiff::Timestamp;

use super::objects::{Claims, compare};
use crate::{
    api::{
        HsmPartition,
        condition::{self, Report},
        partition::{AttestationStatus, HsmPartitionStatus, TokenStatus},
    },
    controller::inventory::Inventory,
    hsm::protocol::{HsmError, TokenFacts},
};

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
        /// What HsmKeys say of it.
        claims: Claims,
        /// Version of the Secret with the PIN that it accepted.
        version: String,
    },
    /// It is to be deleted, and keys refer to it.
    InUse(String),
}

/// The status after a look.
pub fn report(
    partition: &HsmPartition,
    old: &HsmPartitionStatus,
    outcome: &Outcome,
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
    let reports = match outcome {
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
            let (unclaimed, inventory) = compare(seen, claims, &attestation.key_name);
            (status.unclaimed, status.inventory) = (Some(unclaimed), Some(inventory));
            let message = format!("the token '{}' is ready: {}", token.label, token.capabilities.summary());
            vec![
                Report::new(condition::READY, Some(true), "Ready", message),
                Report::new(condition::REACHABLE, Some(true), "Connected", "the token answers"),
            ]
        }
        Outcome::InUse(message) => vec![Report::new("Deletable", Some(false), "InUse", message)],
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> HsmPartition {
        let spec = serde_json::json!({
            "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}}, "allowedNamespaces": {}
        });
        HsmPartition::new("p", serde_json::from_value(spec).unwrap())
    }

    fn ready(version: &str) -> Outcome {
        Outcome::Ready {
            token: Arc::new(TokenFacts::default()),
            seen: Arc::new(Inventory::new(vec![], Timestamp::UNIX_EPOCH)),
            attestation: Box::new(AttestationStatus {
                key_name: "attestation-key".into(),
                ..Default::default()
            }),
            claims: Claims::default(),
            version: version.into(),
        }
    }

    #[test]
    fn a_refused_pin_is_remembered_until_another_is_accepted() {
        let now = Timestamp::from_second(1).unwrap();
        let refused =
            Outcome::PinRejected { version: "7".into(), reason: "PinRejected", message: "no".into() };
        let status = report(&partition(), &HsmPartitionStatus::default(), &refused, now);
        assert_eq!(status.rejected_pin.as_deref(), Some("7"));
        assert!(condition::is_true(&status.conditions, condition::STALLED));
        let status = report(&partition(), &status, &ready("8"), now);
        assert_eq!((status.rejected_pin, status.accepted_pin.as_deref()), (None, Some("8")));
        assert!(condition::find(&status.conditions, condition::STALLED).is_none());
    }
}
