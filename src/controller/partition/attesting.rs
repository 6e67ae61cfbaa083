//! Who attests the keys of a partition: what its condition says, and which keys that attested before are remembered. Pure.

use crate::{
    api::{
        HsmPartition,
        condition::{self, Report},
        partition::{AttestationMode, AttestationStatus, HsmPartitionStatus, OTHERS_MAX},
    },
    hsm::protocol::HsmError,
    service::attest::Attesting,
};

/// Reason where nobody attests.
pub const NOT_ATTESTING: &str = "NotAttesting";

/// Who attests.
pub fn attesting(mode: AttestationMode, who: &Attesting) -> Report {
    let name = &who.current.key_name;
    let (reason, message) = match (&who.instead, mode) {
        _ if who.current.is_device() => {
            ("Vendor", format!("the HSM itself attests keys, with its key '{name}'"))
        }
        (Some(why), _) => (
            "SoftwareInstead",
            format!(
                "the operator attests keys in place of the HSM, which offers to: {why}. The HSM is asked again every ten \
                 minutes, and attests once that is set right; if it is not to, set attestation.mode to Software"
            ),
        ),
        (None, AttestationMode::Software) => {
            ("Software", format!("the operator attests keys, with its key '{name}'"))
        }
        (None, AttestationMode::Auto | AttestationMode::Vendor) => (
            "Software",
            format!(
                "the operator attests keys, with its key '{name}': the token offers no attestation of its own"
            ),
        ),
    };
    Report::new(condition::ATTESTING, Some(true), reason, message)
}

/// What is said where the HSM is to attest and does not, and nobody does in its place.
pub fn not_attesting(partition: &HsmPartition, why: &HsmError, stalled: bool) -> String {
    match partition.spec.attestation.mode {
        _ if !stalled => format!(
            "the HSM's own attestation key is not in order: {}; it is tried again by itself, and if that stays, \
             attestation.mode Software does without",
            why.message
        ),
        AttestationMode::Vendor => format!(
            "attestation.mode is Vendor, and the HSM itself does not attest keys: {}; set that right, or choose Auto or Software to \
             have the operator attest",
            why.message
        ),
        AttestationMode::Auto | AttestationMode::Software => format!(
            "the HSM itself attested keys of this partition before, and does not any more: {}; set that right, or choose \
             attestation.mode Software to have the operator attest from now on",
            why.message
        ),
    }
}

/// Attestation keys that are remembered beside the current one: the operator's own, and those that were current before.
pub fn others(old: &HsmPartitionStatus, who: &Attesting) -> Vec<AttestationStatus> {
    let mut all: Vec<AttestationStatus> = Vec::new();
    for one in std::iter::once(&who.software).chain(old.attestations()) {
        if one.chain != who.current.chain && all.iter().all(|other| other.chain != one.chain) {
            all.push(one.clone());
        }
    }
    all.truncate(OTHERS_MAX);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(mode: &str, chain: &str) -> AttestationStatus {
        AttestationStatus { mode: mode.into(), chain: chain.into(), ..AttestationStatus::default() }
    }

    fn chains(all: &[AttestationStatus]) -> Vec<&str> {
        all.iter().map(|one| one.chain.as_str()).collect()
    }

    /// A status after the partition attested in these ways, one after the other.
    fn after(all: &[(&AttestationStatus, &AttestationStatus)]) -> HsmPartitionStatus {
        let mut status = HsmPartitionStatus::default();
        for (current, software) in all {
            let who = Attesting { current: (*current).clone(), software: (*software).clone(), instead: None };
            status.other_attestations = others(&status, &who);
            status.attestation = Some(who.current);
        }
        status
    }

    #[test]
    fn the_certificates_of_keys_that_attested_before_are_kept() {
        let (software, device) = (one("Software", "s"), one("Vendor", "d"));
        let status = after(&[(&software, &software)]);
        assert!(status.other_attestations.is_empty());
        let status = after(&[(&software, &software), (&device, &software)]);
        assert_eq!(chains(&status.other_attestations), ["s"]);
        assert_eq!(status.software_attestation(), Some(&software));
        // There and back again, and again, is no reason to remember more.
        let status = after(&[(&device, &software), (&software, &software), (&device, &software)]);
        assert_eq!(chains(&status.other_attestations), ["s"]);
        let status = after(&[(&device, &software), (&software, &software)]);
        assert_eq!(chains(&status.other_attestations), ["d"]);
    }

    #[test]
    fn the_operators_own_of_today_is_first_and_the_oldest_goes() {
        let many: Vec<_> = (0..20).map(|number| one("Software", &format!("s{number}"))).collect();
        let device = one("Vendor", "d");
        let turns: Vec<_> = many.iter().map(|software| (&device, software)).collect();
        let status = after(&turns);
        assert_eq!(
            chains(&status.other_attestations),
            ["s19", "s18", "s17", "s16", "s15", "s14", "s13", "s12"]
        );
        assert_eq!(status.software_attestation().unwrap().chain, "s19");
    }

    #[test]
    fn the_condition_says_who_attests_and_why_it_is_not_the_hsm() {
        let (software, device) = (one("Software", "s"), one("Vendor", "d"));
        let said = |mode, current: &AttestationStatus, instead: Option<&str>| {
            let instead = instead.map(Into::into);
            let report =
                attesting(mode, &Attesting { current: current.clone(), software: software.clone(), instead });
            assert_eq!((report.kind, report.status), (condition::ATTESTING, Some(true)));
            (report.reason, report.message)
        };
        assert_eq!(said(AttestationMode::Auto, &device, None).0, "Vendor");
        assert_eq!(said(AttestationMode::Software, &software, None).0, "Software");
        let (reason, message) = said(AttestationMode::Auto, &software, None);
        assert!(reason == "Software" && message.contains("offers no attestation"), "{message}");
        let (reason, message) = said(AttestationMode::Auto, &software, Some("CKR_GENERAL_ERROR: no RKS"));
        assert!(reason == "SoftwareInstead" && message.contains("CKR_GENERAL_ERROR"), "{message}");
        assert!(message.contains("attestation.mode to Software"), "{message}");
    }
}
