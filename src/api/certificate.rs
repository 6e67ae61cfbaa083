//! The certificate of an HsmKey.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{
    certificate::{CertificateAlgorithm, ExtendedKeyUsage, KeyUsage, Subject},
    digest::Hash,
};

/// The certificate of a key: one that somebody else made, or how to make one that the key signs itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.pem) || has(self.selfSigned)")
    .message("pem or selfSigned says what the certificate is"))]
pub struct CertificateSpec {
    /// A certificate of this key that is given, in PEM; it goes before `selfSigned`. The certificates of its issuers may follow, each the
    /// issuer of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536), regex(pattern = "-----BEGIN CERTIFICATE-----"))]
    #[x_kube(validation = Rule::new("!self.contains('PRIVATE KEY')")
        .message("pem takes certificates only, never a private key"))]
    pub pem: Option<String>,
    /// A certificate that the key signs itself where `pem` is absent. It is made again when this changes, and when two thirds of its time
    /// are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSigned>,
}

/// What a self-signed certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.subject.commonName) && self.subject.commonName.size() > 0")
    .message("subject.commonName is required"))]
#[x_kube(validation = Rule::new("!has(self.keyUsage) || !('KEY_CERT_SIGN' in self.keyUsage) || self.certificateAuthority")
    .message("keyUsage KEY_CERT_SIGN needs certificateAuthority: true"))]
pub struct SelfSigned {
    /// Whose certificate it is; `commonName` is required.
    pub subject: Subject,
    /// How long it is valid, in days from midnight (UTC). Default: 3650.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 365_000))]
    pub validity_days: Option<i32>,
    /// How it is signed. Default: `SHA256_WITH_RSA`, `EDDSA`, or ECDSA with a hash as strong as the curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_algorithm: Option<CertificateAlgorithm>,
    /// What the key is for. Default: nothing is said; of an authority `KEY_CERT_SIGN` and `CRL_SIGN`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    pub key_usage: Vec<KeyUsage>,
    /// In which protocols the key is used. Default: nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub extended_key_usage: Vec<ExtendedKeyUsage>,
    /// The key signs other certificates.
    #[serde(default)]
    pub certificate_authority: bool,
}

impl SelfSigned {
    /// SHA-256 of all that it says, in hexadecimal: tells whether a certificate was made for it.
    #[must_use]
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).expect("strings, numbers and lists can always be written");
        hex::encode(Hash::Sha256.digest(&text))
    }
}

/// The certificate that a key has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// The certificate, and those of its issuers if they were given: `tls.crt` of the Secret.
    pub pem: String,
    /// Begin of its validity.
    pub not_before: String,
    /// End of its validity.
    pub not_after: String,
    /// SHA-256 of the certificate (DER), in hexadecimal.
    pub fingerprint: String,
    /// Of a self-signed one: SHA-256 of the `selfSigned` that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_for: Option<String>,
}
