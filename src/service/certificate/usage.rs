//! What a certified key is for, as extensions.

use const_oid::db::{rfc5280, rfc5912};
use der::{asn1::ObjectIdentifier, flagset::FlagSet};
use x509_cert::{
    ext::{
        Extension, ToExtension,
        pkix::{self, BasicConstraints, KeyUsages},
    },
    name::Name,
};

use super::Error;
use crate::model::certificate::{ExtendedKeyUsage, KeyUsage};

/// What a certified key is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    /// Key usages; empty means no such extension.
    pub key: Vec<KeyUsage>,
    /// Protocols; empty means no such extension.
    pub extended: Vec<ExtendedKeyUsage>,
    /// The key signs other certificates.
    pub authority: bool,
}

impl Usages {
    /// Checks that they may stand together in one certificate.
    ///
    /// # Errors
    /// `KEY_CERT_SIGN` without being an authority: RFC 5280 forbids it, and some verifiers would take the
    /// certificate for an authority's.
    pub fn check(&self) -> Result<(), Error> {
        if self.key.contains(&KeyUsage::KeyCertSign) && !self.authority {
            return Err(Error::Usage("keyUsage KEY_CERT_SIGN needs certificateAuthority true"));
        }
        Ok(())
    }

    /// The extensions of a request: without basic constraints, which the issuer decides.
    pub(super) fn of_request(&self) -> Result<Vec<Extension>, der::Error> {
        self.usages(&self.key)
    }

    /// The extensions of a certificate.
    pub(super) fn of_certificate(&self) -> Result<Vec<Extension>, der::Error> {
        if !self.authority {
            return self.usages(&self.key);
        }
        let constraints = BasicConstraints { ca: true, path_len_constraint: None };
        let mut all = vec![extension(true, &constraints)?];
        // RFC 5280 wants the extension in every authority's certificate.
        let key =
            if self.key.is_empty() { &[KeyUsage::KeyCertSign, KeyUsage::CrlSign] } else { &self.key[..] };
        all.extend(self.usages(key)?);
        Ok(all)
    }

    /// Both are critical, as the contract has it.
    fn usages(&self, key: &[KeyUsage]) -> Result<Vec<Extension>, der::Error> {
        let mut all = Vec::new();
        if !key.is_empty() {
            let bits = key.iter().fold(FlagSet::default(), |bits, one| bits | bit(*one));
            all.push(extension(true, &pkix::KeyUsage(bits))?);
        }
        if !self.extended.is_empty() {
            let mut purposes: Vec<_> = self.extended.iter().map(|one| purpose(*one)).collect();
            let mut seen = std::collections::HashSet::new();
            purposes.retain(|one| seen.insert(*one));
            all.push(extension(true, &pkix::ExtendedKeyUsage(purposes))?);
        }
        Ok(all)
    }
}

/// An extension of its own criticality, or none.
pub(super) fn extension<T: const_oid::AssociatedOid + der::Encode>(
    critical: bool,
    value: &T,
) -> Result<Extension, der::Error> {
    (critical, value).to_extension(&Name::default(), &[])
}

const fn bit(usage: KeyUsage) -> KeyUsages {
    match usage {
        KeyUsage::DigitalSignature => KeyUsages::DigitalSignature,
        KeyUsage::ContentCommitment => KeyUsages::NonRepudiation,
        KeyUsage::KeyEncipherment => KeyUsages::KeyEncipherment,
        KeyUsage::DataEncipherment => KeyUsages::DataEncipherment,
        KeyUsage::KeyAgreement => KeyUsages::KeyAgreement,
        KeyUsage::KeyCertSign => KeyUsages::KeyCertSign,
        KeyUsage::CrlSign => KeyUsages::CRLSign,
        KeyUsage::EncipherOnly => KeyUsages::EncipherOnly,
        KeyUsage::DecipherOnly => KeyUsages::DecipherOnly,
    }
}

const fn purpose(usage: ExtendedKeyUsage) -> ObjectIdentifier {
    match usage {
        ExtendedKeyUsage::Any => rfc5280::ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsage::ServerAuth => rfc5912::ID_KP_SERVER_AUTH,
        ExtendedKeyUsage::ClientAuth => rfc5912::ID_KP_CLIENT_AUTH,
        ExtendedKeyUsage::CodeSigning => rfc5912::ID_KP_CODE_SIGNING,
        ExtendedKeyUsage::EmailProtection => rfc5912::ID_KP_EMAIL_PROTECTION,
        ExtendedKeyUsage::TimeStamping => rfc5912::ID_KP_TIME_STAMPING,
        ExtendedKeyUsage::OcspSigning => rfc5912::ID_KP_OCSP_SIGNING,
    }
}
