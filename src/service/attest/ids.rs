//! Identifiers of the keys that attest others. Whoever could sign with one, or have the HSM sign with it, could attest
//! anything, so that they are nobody's to use.

use crate::{
    api::partition::{AttestationSettings, HsmPartitionStatus},
    attestation::Role,
    model::KeyId,
};

/// Purpose of each key of the operator's chain: its identifier follows from it, so that whoever comes later finds it.
pub(super) const fn purpose(role: Role) -> &'static str {
    match role {
        Role::Root => "attestation-root",
        Role::Ca => "attestation-ca",
        Role::Leaf => "attestation-key",
    }
}

pub(super) fn software(role: Role, key_name: &str) -> KeyId {
    match role {
        Role::Root | Role::Ca => KeyId::for_purpose(purpose(role)),
        Role::Leaf => KeyId::for_purpose(&format!("{}/{key_name}", purpose(role))),
    }
}

/// The operator's attestation key of a name.
#[must_use]
pub fn leaf(key_name: &str) -> KeyId {
    software(Role::Leaf, key_name)
}

/// The HSM's attestation key of a name, where the operator had it made.
#[must_use]
pub fn device(key_name: &str) -> KeyId {
    KeyId::for_purpose(&format!("attestation-device/{key_name}"))
}

/// All keys that attest others on a partition, or did, the HSM's by whatever id they have.
#[must_use]
pub fn own_keys(settings: &AttestationSettings, status: Option<&HsmPartitionStatus>) -> Vec<KeyId> {
    let mut all: Vec<_> =
        [Role::Root, Role::Ca, Role::Leaf].map(|role| software(role, &settings.key_name.0)).into();
    all.push(device(&settings.device_key_name()));
    for known in status.into_iter().flat_map(HsmPartitionStatus::attestations) {
        match &known.key_id {
            Some(id) => all.extend(KeyId::try_from(id.clone())),
            None => all.push(leaf(&known.key_name)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::partition::AttestationStatus;

    #[test]
    fn keys_that_attested_before_stay_nobodys_whoever_made_them() {
        let settings = AttestationSettings::default();
        let one = |mode: &str, name: &str, id: Option<&str>| AttestationStatus {
            mode: mode.into(),
            key_name: name.into(),
            key_id: id.map(Into::into),
            ..AttestationStatus::default()
        };
        let status = HsmPartitionStatus {
            attestation: Some(one("Vendor", "by-the-vendors-tools", Some("abcd"))),
            other_attestations: vec![one("Software", "earlier", None)],
            ..HsmPartitionStatus::default()
        };
        let own = own_keys(&settings, Some(&status));
        for id in [
            leaf("attestation-key"),
            device("attestation-key-device"),
            KeyId::from_bytes([0xab, 0xcd]).unwrap(),
            leaf("earlier"),
        ] {
            assert!(own.contains(&id), "{id}");
        }
        assert_eq!(own_keys(&settings, None).len(), 4);
    }
}
