//! Turns what was done into a status. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;

use super::{
    certificate::Certified,
    plan::{Refusal, Step},
};
use crate::{
    api::{
        HsmKey,
        condition::{self, Report},
        key::{Attestation, Derivation, HsmKeyStatus},
    },
    hsm::protocol::KeyFacts,
    model::derivation::SLIP10,
    public_key::PublicKey,
    service::address,
};

/// What came of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// The key is on the token, attested and published.
    Complete {
        /// The status, conditions aside.
        status: Box<HsmKeyStatus>,
        /// Reason of Ready and Generated.
        reason: &'static str,
        /// How it stands with the certificate, which the key can do without.
        certified: Certified,
    },
    /// Something passes by itself.
    Waiting(&'static str, String),
    /// A person must act.
    Refused(Refusal),
}

impl Done {
    /// What a person must act on.
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) | Self::Complete { certified: Certified::Refused(refusal), .. } => {
                Some(refusal)
            }
            Self::Complete { .. } | Self::Waiting(..) => None,
        }
    }
}

/// What the token says of a key, as a status.
pub fn facts(key: &HsmKey, facts: &KeyFacts, now: Timestamp) -> HsmKeyStatus {
    let old = key.status.clone().unwrap_or_default();
    let public = facts.public_key.as_deref();
    let read = public.and_then(|spki| PublicKey::from_spki(spki).ok());
    HsmKeyStatus {
        key_id: facts.id.as_ref().map(ToString::to_string),
        label: Some(facts.label.clone()),
        public_key: public.map(|spki| STANDARD.encode(spki)),
        // A key that has none is refused before, see `plan::differs`.
        address: read.as_ref().and_then(|public| address::of(&key.spec, public).ok().flatten()),
        fingerprint: read.map(|public| public.fingerprint()),
        algorithm_oid: Some(key.spec.algorithm.oid(facts.curve_oid.as_deref()).into()),
        key_size: facts.key_size.and_then(|size| i32::try_from(size).ok()),
        curve_oid: facts.curve_oid.clone(),
        attributes: Some(facts.attributes.clone()),
        derivation: facts
            .chain_code
            .as_deref()
            .map(|code| Derivation { kind: SLIP10.into(), value: hex::encode_upper(code) }),
        create_time: old.create_time.clone().or_else(|| Some(now.to_string())),
        ..old
    }
}

/// The status after a step.
pub fn report(key: &HsmKey, old: &HsmKeyStatus, step: &Step, done: &Done, now: Timestamp) -> HsmKeyStatus {
    let generation = key.metadata.generation;
    let mut status = match done {
        Done::Complete { status, .. } => (**status).clone(),
        Done::Waiting(..) | Done::Refused(_) => old.clone(),
    };
    let was_ready = condition::is_true(&old.conditions, condition::READY);
    let reports = match done {
        Done::Complete { reason, certified, .. } => {
            // A later look at the same key says again how it came to be.
            let again = matches!(step, Step::Keep | Step::Describe(_));
            let reason = match condition::find(&old.conditions, condition::GENERATED) {
                Some(before) if again && before.reason == "Adopted" => "Adopted",
                Some(before) if again && before.reason == "Imported" => "Imported",
                Some(before) if again && before.reason == "Recovered" => "Recovered",
                _ if *reason == "Ready" => "Generated",
                _ => reason,
            };
            let (usable, there) = if key.is_public_only() {
                (
                    "the public key can be used",
                    "the public key is on the token, and its private half is elsewhere",
                )
            } else {
                ("the key can be used", "the key is on the token")
            };
            let attested = if status.attestation.as_ref().is_some_and(Attestation::is_device) {
                "the HSM's own attestation is in status and Secret"
            } else {
                "the attestation is in status and Secret"
            };
            let mut all = vec![
                Report::new(condition::READY, Some(true), "Ready", usable),
                Report::new(condition::GENERATED, Some(true), reason, there),
                Report::new(condition::ATTESTED, Some(true), "Attested", attested),
                Report::new(
                    condition::PUBLISHED,
                    Some(true),
                    "Published",
                    format!("Secret {} carries the public half", key.public_secret()),
                ),
            ];
            match certified {
                Certified::NotAsked => {}
                Certified::Yes => {
                    let message = format!("Secret {} carries the certificate", key.public_secret());
                    all.push(Report::new(condition::CERTIFIED, Some(true), "Certified", message));
                }
                Certified::Refused(Refusal { reason, message }) => {
                    all.push(Report::new(condition::CERTIFIED, Some(false), reason, message));
                    all.push(Report::new(condition::STALLED, Some(true), reason, message));
                }
            }
            all
        }
        // A key that works goes on working for the data plane while the controller cannot reach its token. A change of
        // its spec is not observed before it is carried out.
        Done::Waiting(..) if was_ready && key.metadata.deletion_timestamp.is_none() => return status,
        Done::Waiting(reason, message) => vec![Report::new(condition::READY, Some(false), reason, message)],
        Done::Refused(refusal) => {
            let mut all = vec![
                Report::new(condition::READY, Some(false), refusal.reason, &refusal.message),
                Report::new(condition::STALLED, Some(true), refusal.reason, &refusal.message),
            ];
            match refusal.reason {
                "MissingOnToken" | "DuplicateObject" => {
                    all.push(Report::new(condition::GENERATED, Some(true), refusal.reason, &refusal.message));
                }
                "SecretConflict" => {
                    all.push(Report::new(
                        condition::PUBLISHED,
                        Some(false),
                        refusal.reason,
                        &refusal.message,
                    ));
                }
                _ => {}
            }
            all
        }
    };
    status.conditions = condition::apply(&old.conditions, &reports, generation, now);
    if key.spec.certificate.is_none() {
        status.conditions.retain(|one| one.type_ != condition::CERTIFIED);
    }
    status.observed_generation = generation;
    status
}
