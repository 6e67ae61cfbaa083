//! Words of X.509 that manifests and REST bodies share (section 1.6 of the contract).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KeyAlgorithm, SignatureAlgorithm, curve, vocabulary::vocabulary};

/// Longest validity that is given, in days: a thousand years end well before X.509's last year, 9999.
pub const VALIDITY_MAX: u32 = 365_000;
/// Validity where none is asked for, in days.
pub const VALIDITY_DEFAULT: u32 = 3650;

vocabulary! {
    /// How a certificate or a request for one is signed.
    CertificateAlgorithm {
        Sha224WithRsa = "SHA224_WITH_RSA",
        Sha256WithRsa = "SHA256_WITH_RSA",
        Sha384WithRsa = "SHA384_WITH_RSA",
        Sha512WithRsa = "SHA512_WITH_RSA",
        Sha256WithEcdsa = "SHA256_WITH_ECDSA",
        Sha384WithEcdsa = "SHA384_WITH_ECDSA",
        Sha512WithEcdsa = "SHA512_WITH_ECDSA",
        EdDsa = "EDDSA",
    }
}

impl CertificateAlgorithm {
    /// The same among all signature algorithms.
    #[must_use]
    pub const fn signature(self) -> SignatureAlgorithm {
        match self {
            Self::Sha224WithRsa => SignatureAlgorithm::Sha224WithRsa,
            Self::Sha256WithRsa => SignatureAlgorithm::Sha256WithRsa,
            Self::Sha384WithRsa => SignatureAlgorithm::Sha384WithRsa,
            Self::Sha512WithRsa => SignatureAlgorithm::Sha512WithRsa,
            Self::Sha256WithEcdsa => SignatureAlgorithm::Sha256WithEcdsa,
            Self::Sha384WithEcdsa => SignatureAlgorithm::Sha384WithEcdsa,
            Self::Sha512WithEcdsa => SignatureAlgorithm::Sha512WithEcdsa,
            Self::EdDsa => SignatureAlgorithm::EdDsa,
        }
    }

    /// What suits a key best: for EC keys the hash as strong as the curve. `None` for keys that sign no certificates.
    #[must_use]
    pub fn default_for(algorithm: KeyAlgorithm, curve_oid: Option<&str>) -> Option<Self> {
        match algorithm {
            KeyAlgorithm::Rsa => Some(Self::Sha256WithRsa),
            KeyAlgorithm::Ed => Some(Self::EdDsa),
            KeyAlgorithm::Ec => Some(match curve_oid.and_then(curve::by_oid).map(|curve| curve.order_bits) {
                Some(..=256) | None => Self::Sha256WithEcdsa,
                Some(..=384) => Self::Sha384WithEcdsa,
                Some(_) => Self::Sha512WithEcdsa,
            }),
            _ => None,
        }
    }
}

vocabulary! {
    /// What a certified key is for (RFC 5280, 4.2.1.3).
    KeyUsage {
        DigitalSignature = "DIGITAL_SIGNATURE",
        ContentCommitment = "CONTENT_COMMITMENT",
        KeyEncipherment = "KEY_ENCIPHERMENT",
        DataEncipherment = "DATA_ENCIPHERMENT",
        KeyAgreement = "KEY_AGREEMENT",
        KeyCertSign = "KEY_CERT_SIGN",
        CrlSign = "CRL_SIGN",
        EncipherOnly = "ENCIPHER_ONLY",
        DecipherOnly = "DECIPHER_ONLY",
    }
}

vocabulary! {
    /// In which protocols a certified key is used (RFC 5280, 4.2.1.12).
    ExtendedKeyUsage {
        Any = "ANY_EXTENDED_KEY_USAGE",
        ServerAuth = "SERVER_AUTH",
        ClientAuth = "CLIENT_AUTH",
        CodeSigning = "CODE_SIGNING",
        EmailProtection = "EMAIL_PROTECTION",
        TimeStamping = "TIME_STAMPING",
        OcspSigning = "OCSP_SIGNING",
    }
}

/// Whose certificate it is: `standardCertificateAttributes` of the contract. Empty values are as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Common name (CN), at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub common_name: Option<String>,
    /// Country (C): two letters, as in ISO 3166.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([A-Za-z]{2})?$"))]
    pub country: Option<String>,
    /// State or province (ST).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub state_or_province_name: Option<String>,
    /// Locality (L), as a town.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub locality: Option<String>,
    /// Organization (O).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub organization_name: Option<String>,
    /// Registered identifier of the organization (2.5.4.97), as `VATDE-123456789`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub organization_identifier: Option<String>,
    /// Unit of the organization (OU).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub organization_unit_name: Option<String>,
    /// E-mail address, ASCII only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub email: Option<String>,
    /// Title of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub title: Option<String>,
    /// Family name (SN).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub surname: Option<String>,
    /// Given name (GN).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub given_name: Option<String>,
    /// Initials of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub initials: Option<String>,
    /// Pseudonym of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub pseudonym: Option<String>,
    /// What tells generations apart, as `Jr.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub generation_qualifier: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_has_its_name_among_all_signature_algorithms() {
        for algorithm in CertificateAlgorithm::ALL {
            assert_eq!(algorithm.name(), algorithm.signature().name());
        }
    }

    #[test]
    fn the_default_hash_is_as_strong_as_the_curve() {
        let of = |curve| CertificateAlgorithm::default_for(KeyAlgorithm::Ec, Some(curve)).unwrap();
        assert_eq!(of("1.2.840.10045.3.1.7"), CertificateAlgorithm::Sha256WithEcdsa);
        assert_eq!(of("1.3.132.0.34"), CertificateAlgorithm::Sha384WithEcdsa);
        assert_eq!(of("1.3.132.0.35"), CertificateAlgorithm::Sha512WithEcdsa);
        assert_eq!(CertificateAlgorithm::default_for(KeyAlgorithm::Aes, None), None);
    }
}
