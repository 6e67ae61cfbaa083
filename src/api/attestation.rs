//! Who attests the keys of a partition: what its spec asks for, and what its status says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::partition::HsmPartitionStatus;
use crate::model::vocabulary_enum as vocabulary;

/// Most attestation keys that a status remembers beside the current one.
pub const OTHERS_MAX: usize = 8;

/// How keys are attested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttestationSettings {
    /// Label of the operator's attestation key on the token, made at first use.
    #[serde(default = "default_attestation_key")]
    #[schemars(length(min = 1, max = 64))]
    pub key_name: AttestationKeyName,
    /// Label of the key that the HSM itself attests others with, made at first use, or by the vendor's tools before. Default:
    /// `keyName` with `-device` behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub device_key_name: Option<AttestationKeyName>,
    /// Who attests: the HSM itself where its library offers it, or the operator.
    #[serde(default)]
    pub mode: AttestationMode,
}

impl AttestationSettings {
    /// Whether a label is one of those of the two keys: no other key may have it.
    #[must_use]
    pub fn is_name(&self, label: &str) -> bool {
        label == self.key_name.0 || label == self.device_key_name()
    }

    /// Label of the key that the HSM itself attests others with.
    #[must_use]
    pub fn device_key_name(&self) -> String {
        match &self.device_key_name {
            Some(name) => name.0.clone(),
            None => format!("{}-device", self.key_name.0),
        }
    }
}

/// Label of an attestation key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct AttestationKeyName(pub String);

impl Default for AttestationKeyName {
    fn default() -> Self {
        Self("attestation-key".into())
    }
}

fn default_attestation_key() -> AttestationKeyName {
    AttestationKeyName::default()
}

vocabulary! {
    /// Who attests keys.
    #[derive(Default)]
    AttestationMode {
        /// The HSM itself where the library offers it, the operator otherwise.
        #[default]
        Auto = "Auto",
        /// The HSM itself, or nobody.
        Vendor = "Vendor",
        /// The operator.
        Software = "Software",
    }
}

/// A key that attests others, and its certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttestationStatus {
    /// Who attests: `Vendor`, the HSM itself, or `Software`, the operator.
    pub mode: String,
    /// Label of the attestation key.
    pub key_name: String,
    /// Identifier (CKA_ID) of the HSM's attestation key, in hexadecimal. The vendor's tools may have made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// SHA-256 of the root certificate, in upper-case hexadecimal with colons: the one thing to pin.
    pub root_fingerprint: String,
    /// Certificates, PEM, leaf first, root last.
    pub chain: String,
}

impl AttestationStatus {
    /// Whether it is the HSM itself that attests with this key.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.mode == AttestationMode::Vendor.name()
    }
}

impl HsmPartitionStatus {
    /// All attestation keys that are known of, the current one first.
    pub fn attestations(&self) -> impl Iterator<Item = &AttestationStatus> {
        self.attestation.iter().chain(&self.other_attestations)
    }

    /// The operator's own, which is there whoever attests.
    #[must_use]
    pub fn software_attestation(&self) -> Option<&AttestationStatus> {
        self.attestations().find(|one| !one.is_device())
    }
}
