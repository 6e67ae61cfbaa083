//! Turns what was seen of a token into a status. Pure.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    attesting::{NOT_ATTESTING, attesting, others},
    objects::{Claims, compare},
};
use crate::{
    api::{
        HsmPartition,
        condition::{self, Report},
        partition::{HsmPartitionStatus, Probed, SignatureSpeed, TokenLimits, TokenQuirk, TokenStatus},
    },
    controller::{inventory::Inventory, partition::replicas::Signing, probes},
    hsm::{
        Recovery,
        probe::{Findings, Quirk},
        protocol::{HsmError, TokenFacts},
    },
    service::attest::{Attesting, own_keys},
};

/// Most mechanisms that are listed.
const MECHANISMS_MAX: usize = 200;

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
    /// The token is there, and the HSM does not attest keys, as it is to.
    NotAttesting {
        /// The token.
        token: Arc<TokenFacts>,
        /// Version of the Secret with the PIN that it accepted.
        version: String,
        /// Why not, and what to do.
        message: String,
        /// Whether a person has to do it.
        stalled: bool,
    },
    /// Everything is there.
    Ready {
        /// The token.
        token: Arc<TokenFacts>,
        /// What trying it found out, once it was tried.
        findings: Option<Arc<Findings>>,
        /// What is on it.
        seen: Arc<Inventory>,
        /// How its keys are attested.
        attestation: Box<Attesting>,
        /// What HsmKeys say of it.
        claims: Box<Claims>,
        /// Version of the Secret with the PIN that it accepted.
        version: String,
        /// The last step that brought it back.
        recovery: Option<Recovery>,
    },
    /// It is to be deleted, and keys refer to it.
    InUse(String),
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
        Outcome::NotAttesting { token, version, message, stalled } => {
            status.token = Some(token_status(token, None, old.token.as_ref()));
            status.accepted_pin = Some(partition.spec.pkcs11.accepted(version));
            status.rejected_pin = None;
            let no = |kind, status| Report::new(kind, Some(status), NOT_ATTESTING, message);
            let mut all = vec![
                no(condition::READY, false),
                no(condition::ATTESTING, false),
                Report::new(condition::REACHABLE, Some(true), "Connected", "the token answers"),
            ];
            if *stalled {
                all.push(no(condition::STALLED, true));
            }
            all
        }
        Outcome::Ready { token, findings, seen, attestation, claims, version, recovery } => {
            let about = token_status(token, findings.as_deref(), old.token.as_ref());
            let offers = about.key_algorithms.join(", ");
            status.token = Some(about);
            status.accepted_pin = Some(partition.spec.pkcs11.accepted(version));
            status.rejected_pin = None;
            status.other_attestations = others(old, attestation);
            status.attestation = Some(attestation.current.clone());
            status.key_count = i32::try_from(claims.recorded.len()).ok();
            let own = own_keys(&partition.spec.attestation, Some(&status));
            let (unclaimed, inventory) = compare(seen, claims, &own);
            (status.unclaimed, status.inventory) = (Some(unclaimed), Some(inventory));
            let message = format!("the token '{}' is ready: {offers}", token.label);
            vec![
                Report::new(condition::READY, Some(true), "Ready", message),
                Report::new(
                    condition::REACHABLE,
                    Some(true),
                    "Connected",
                    with_recovery("the token answers", recovery.as_ref()),
                ),
                attesting(partition.spec.attestation.mode, attestation),
            ]
        }
        Outcome::InUse(message) => vec![Report::new("Deletable", Some(false), "InUse", message)],
    };
    if let Some(reachable) = reports.iter().find(|one| one.kind == condition::REACHABLE) {
        let signable = signing.map_or_else(
            || Report { kind: condition::SIGNABLE, ..reachable.clone() },
            |signing| signing.report(reachable),
        );
        // A token that answers is not enough where nobody attests what is made.
        let hindered = reports.iter().find(|one| one.kind == condition::READY && one.status == Some(false));
        let creatable = Report { kind: condition::CREATABLE, ..hindered.unwrap_or(reachable).clone() };
        reports.extend([signable, creatable]);
    }
    status.conditions = condition::apply(&old.conditions, &reports, partition.metadata.generation, now);
    status.observed_generation = partition.metadata.generation;
    status
}

/// What is said of a token that does well, and how it came back if it was gone.
pub fn with_recovery(well: &str, recovery: Option<&Recovery>) -> String {
    let Some(Recovery { rung, cause, at }) = recovery else { return well.to_owned() };
    let at = at.round(jiff::Unit::Second).unwrap_or(*at);
    format!("{well}; it was brought back by {} at {at}, after: {cause}", rung.words())
}

/// The token, and what trying it found out: in this process, or else in the one that wrote the status before.
fn token_status(token: &TokenFacts, findings: Option<&Findings>, old: Option<&TokenStatus>) -> TokenStatus {
    if let (None, Some(old)) = (findings, old.filter(|old| old.probed.is_some() && is_of(old, token))) {
        return old.clone();
    }
    let refuted_keys = findings.map(|found| found.refuted_keys.as_slice()).unwrap_or_default();
    let refuted_signatures = findings.map(|found| found.refuted_signatures.as_slice()).unwrap_or_default();
    let refuted_ciphers = findings.map(|found| found.refuted_ciphers.as_slice()).unwrap_or_default();
    let mut capabilities = token.capabilities.clone();
    capabilities.key_algorithms.retain(|row| !refuted_keys.contains(&row.algorithm));
    capabilities.signature_algorithms.retain(|one| !refuted_signatures.contains(one));
    capabilities.cipher_algorithms.retain(|one| !refuted_ciphers.contains(one));
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
        cipher_algorithms: capabilities.cipher_algorithms.iter().map(ToString::to_string).collect(),
        probed: findings.map(probed),
    }
}

/// Whether a status is about this token.
fn is_of(status: &TokenStatus, token: &TokenFacts) -> bool {
    let TokenFacts { label, manufacturer, model, serial, firmware, library, .. } = token;
    [&status.label, &status.manufacturer, &status.model, &status.serial, &status.firmware, &status.library]
        == [label, manufacturer, model, serial, firmware, library]
}

fn probed(findings: &Findings) -> Probed {
    let number = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
    let limits = findings.limits.unwrap_or_default();
    Probed {
        curves: findings.curves.clone(),
        mechanisms: findings.mechanisms.iter().take(MECHANISMS_MAX).cloned().collect(),
        mechanism_count: i32::try_from(findings.mechanisms.len()).unwrap_or(i32::MAX),
        limits: TokenLimits {
            sessions: number(limits.sessions),
            sessions_max: number(limits.sessions_max),
            rw_sessions_max: number(limits.rw_sessions_max),
            private_memory_free: number(limits.private_memory_free),
            private_memory: number(limits.private_memory),
            pin_min: number(limits.pin_min),
            pin_max: number(limits.pin_max),
        },
        speed: findings.speed.as_ref().map(|speed| SignatureSpeed {
            key: speed.key.clone(),
            microseconds: i32::try_from(speed.microseconds).unwrap_or(i32::MAX),
        }),
        quirks: findings
            .quirks
            .iter()
            .map(|Quirk { name, value, odd, means }| TokenQuirk {
                name: name.clone(),
                value: value.clone(),
                odd: *odd,
                means: means.clone(),
            })
            .collect(),
    }
}

/// Findings of a status that say which probes this token does not bear.
pub fn spared(status: &HsmPartitionStatus, token: &TokenFacts) -> Vec<Quirk> {
    let probed = status.token.as_ref().filter(|old| is_of(old, token)).and_then(|old| old.probed.as_ref());
    let quirk = |TokenQuirk { name, value, odd, means }: TokenQuirk| Quirk { name, value, odd, means };
    probed.into_iter().flat_map(|probed| probed.quirks.clone()).map(quirk).filter(probes::spares).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hsm::{
            Rung,
            protocol::{Capabilities, KeyCapability},
        },
        model::{CipherAlgorithm, KeyAlgorithm, SignatureAlgorithm},
    };

    fn partition() -> HsmPartition {
        let spec = serde_json::json!({
            "pkcs11": {"library": "/x", "tokenLabel": "t", "pinSecretRef": {"name": "s"}}, "allowedNamespaces": {}
        });
        HsmPartition::new("p", serde_json::from_value(spec).unwrap())
    }

    fn ready(version: &str) -> Outcome {
        Outcome::Ready {
            token: Arc::new(TokenFacts::default()),
            findings: None,
            seen: Arc::new(Inventory::new(vec![], Timestamp::UNIX_EPOCH)),
            attestation: Box::default(),
            claims: Box::default(),
            version: version.into(),
            recovery: None,
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
        let status = report(&partition(), &status, &ready("8"), None, now);
        let accepted = partition().spec.pkcs11.accepted("8");
        assert_eq!((status.rejected_pin, status.accepted_pin), (None, Some(accepted)));
        assert!(condition::find(&status.conditions, condition::STALLED).is_none());
    }

    /// The token is there and signs on; it is new keys that nobody would attest.
    #[test]
    fn a_partition_whose_hsm_does_not_attest_is_reached_and_makes_no_keys() {
        let (token, message) = (Arc::new(facts()), "no root key store".to_owned());
        let outcome = Outcome::NotAttesting { token, version: "7".into(), message, stalled: true };
        let now = Timestamp::from_second(1).unwrap();
        let status = report(&partition(), &HsmPartitionStatus::default(), &outcome, None, now);
        let said = |kind| {
            let one = condition::find(&status.conditions, kind).unwrap();
            (one.status.as_str(), one.reason.as_str())
        };
        for kind in [condition::READY, condition::CREATABLE, condition::ATTESTING] {
            assert_eq!(said(kind), ("False", "NotAttesting"), "{kind}");
        }
        assert_eq!(said(condition::STALLED), ("True", "NotAttesting"));
        for kind in [condition::REACHABLE, condition::SIGNABLE] {
            assert_eq!(said(kind), ("True", "Connected"), "{kind}");
        }
        assert_eq!(status.accepted_pin, Some(partition().spec.pkcs11.accepted("7")));
        assert_eq!((status.attestation, status.token.unwrap().label.as_str()), (None, "t"));
        let status = report(&partition(), &status_of(&outcome), &ready("7"), None, now);
        for kind in [condition::READY, condition::CREATABLE, condition::ATTESTING] {
            assert!(condition::is_true(&status.conditions, kind), "{kind}");
        }
        assert!(condition::find(&status.conditions, condition::STALLED).is_none());
    }

    #[test]
    fn an_hsm_whose_trouble_passes_takes_no_person_and_leaves_the_token_reached() {
        let message = String::from("no answer in time");
        let (token, version) = (Arc::new(facts()), "7".into());
        let status = status_of(&Outcome::NotAttesting { token, version, message, stalled: false });
        assert!(condition::is_true(&status.conditions, condition::REACHABLE));
        assert!(condition::is_true(&status.conditions, condition::SIGNABLE));
        assert!(!condition::is_true(&status.conditions, condition::READY));
        assert!(condition::find(&status.conditions, condition::STALLED).is_none());
    }

    fn status_of(outcome: &Outcome) -> HsmPartitionStatus {
        report(&partition(), &HsmPartitionStatus::default(), outcome, None, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn how_a_token_came_back_is_told_where_it_is_reached() {
        let said = |recovered| {
            let mut outcome = ready("1");
            let Outcome::Ready { recovery, .. } = &mut outcome else { panic!() };
            *recovery = recovered;
            let now = Timestamp::from_second(60).unwrap();
            let status = report(&partition(), &HsmPartitionStatus::default(), &outcome, None, now);
            condition::find(&status.conditions, condition::REACHABLE).unwrap().message.clone()
        };
        assert_eq!(said(None), "the token answers");
        let recovery = Recovery {
            rung: Rung::Process,
            cause: "the library hangs (sign)".into(),
            at: Timestamp::from_millisecond(7400).unwrap(),
        };
        assert_eq!(
            said(Some(recovery)),
            "the token answers; it was brought back by a new token-host at 1970-01-01T00:00:07Z, after: the library hangs (sign)"
        );
    }

    fn after_a_probe(findings: Findings, old: &HsmPartitionStatus) -> HsmPartitionStatus {
        let mut outcome = ready("1");
        let Outcome::Ready { token, findings: found, .. } = &mut outcome else { panic!() };
        *token = Arc::new(facts());
        *found = Some(Arc::new(findings));
        report(&partition(), old, &outcome, None, Timestamp::from_second(1).unwrap())
    }

    fn facts() -> TokenFacts {
        let row = |algorithm| KeyCapability { algorithm, min_bits: 0, max_bits: 0 };
        TokenFacts {
            label: "t".into(),
            capabilities: Capabilities {
                key_algorithms: vec![row(KeyAlgorithm::Ec), row(KeyAlgorithm::Ed)],
                signature_algorithms: vec![SignatureAlgorithm::Sha256WithEcdsa, SignatureAlgorithm::EdDsa],
                cipher_algorithms: vec![CipherAlgorithm::RsaOaep, CipherAlgorithm::RsaOaepSha256],
                agreement: true,
                derived: Vec::new(),
                attests: false,
            },
            ..TokenFacts::default()
        }
    }

    #[test]
    fn what_a_token_lists_and_refuses_is_not_offered() {
        let findings = Findings {
            refuted_keys: vec![KeyAlgorithm::Ed],
            refuted_signatures: vec![SignatureAlgorithm::EdDsa],
            refuted_ciphers: vec![CipherAlgorithm::RsaOaepSha256],
            ..Findings::default()
        };
        let status = after_a_probe(findings, &HsmPartitionStatus::default());
        let token = status.token.unwrap();
        assert_eq!(
            (token.key_algorithms, token.signature_algorithms, token.cipher_algorithms),
            (vec!["EC".into()], vec!["SHA256_WITH_ECDSA".into()], vec!["RSA_PADDING_OAEP".into()])
        );
        assert_eq!(
            condition::find(&status.conditions, condition::READY).unwrap().message,
            "the token 't' is ready: EC"
        );
    }

    #[test]
    fn what_another_process_found_out_stays_until_the_token_is_another() {
        let crash = Quirk::not_probed("rsa", "the module crashed", "");
        let odd = Quirk::odd("ecPoint", "bare bytes", "");
        let findings = Findings { quirks: vec![crash.clone(), odd], ..Findings::default() };
        let before = after_a_probe(findings, &HsmPartitionStatus::default());
        assert_eq!(spared(&before, &facts()), [crash]);
        let look = |token: TokenFacts| {
            let mut outcome = ready("1");
            let Outcome::Ready { token: about, .. } = &mut outcome else { panic!() };
            *about = Arc::new(token);
            report(&partition(), &before, &outcome, None, Timestamp::from_second(2).unwrap()).token.unwrap()
        };
        assert_eq!(Some(look(facts())), before.token);
        let newer = TokenFacts { firmware: "2.0".into(), ..facts() };
        assert_eq!(look(newer.clone()).probed, None);
        assert_eq!(spared(&before, &newer), []);
    }

    #[test]
    fn a_token_with_many_mechanisms_does_not_fill_the_status() {
        let mechanisms = (0..1000).map(|number| format!("{number:#x}")).collect();
        let status =
            after_a_probe(Findings { mechanisms, ..Findings::default() }, &HsmPartitionStatus::default());
        let probed = status.token.unwrap().probed.unwrap();
        assert_eq!((probed.mechanisms.len(), probed.mechanism_count), (200, 1000));
    }
}
