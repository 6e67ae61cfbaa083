//! Timestamps by RFC 3161: a digest and the time, signed by a key on a token whose certificate is for nothing else.
//!
//! CMS is the `cms` crate's business; what RFC 3161 adds to it is in [`token`]. The signature comes from the token.

mod token;

use const_oid::{ObjectIdentifier, db::rfc5912};
use der::{Decode, Encode};
use jiff::Timestamp;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage};

pub use token::{Accuracy, EssCertIdV2, MessageImprint, SigningCertificateV2, TstInfo};

use super::{
    certificate::Chain,
    directory::Usable,
    sign::{Job, SignError, Signer},
};
use crate::{
    api::partition::VerifySignatures,
    hsm::Hsm,
    model::{KeyAlgorithm, SignatureType, certificate::CertificateAlgorithm, digest::Hash},
};

/// Who makes timestamps.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The certificate of the key, and those of its issuers.
    chain: Chain,
    /// The policy that timestamps are made under.
    policy: ObjectIdentifier,
    /// How far the clock may be off.
    accuracy_seconds: u32,
    algorithm: CertificateAlgorithm,
}

/// Why there is no timestamp.
#[derive(Debug, thiserror::Error)]
pub enum TimestampError {
    /// The key or its certificate is not for timestamps.
    #[error("{0}")]
    Unfit(String),
    /// The policy is no object identifier.
    #[error("the policy '{0}' of the partition's spec.timestamp is not an object identifier")]
    Policy(String),
    /// A value that DER has no place for.
    #[error("the timestamp cannot be written")]
    Encode(#[from] der::Error),
    /// The system has no random numbers.
    #[error("the system has no random numbers")]
    Random,
    /// The key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// The hash that a name of the contract's stands for, with and without its hyphen.
#[must_use]
pub fn hash(name: &str) -> Option<Hash> {
    match name {
        "SHA256" | "SHA-256" => Some(Hash::Sha256),
        "SHA384" | "SHA-384" => Some(Hash::Sha384),
        "SHA512" | "SHA-512" => Some(Hash::Sha512),
        _ => None,
    }
}

impl Authority {
    /// One with this key and certificate.
    ///
    /// # Errors
    /// Where nobody would accept its timestamps now.
    pub fn new(
        key: &Usable,
        chain: Chain,
        policy: &str,
        accuracy_seconds: u32,
        now: Timestamp,
    ) -> Result<Self, TimestampError> {
        let unfit = |message: &str| Err(TimestampError::Unfit(message.to_owned()));
        let policy = policy.parse().map_err(|_| TimestampError::Policy(policy.to_owned()))?;
        let curve = key.public.as_ref().and_then(|public| public.curve()).map(|curve| curve.oid);
        let algorithm = match key.algorithm {
            KeyAlgorithm::Rsa | KeyAlgorithm::Ec => CertificateAlgorithm::default_for(key.algorithm, curve),
            _ => None,
        };
        let Some(algorithm) = algorithm else {
            let message =
                format!("timestamps are signed with RSA and EC keys, and this one is {}", key.algorithm);
            return Err(TimestampError::Unfit(message));
        };
        let leaf = chain.leaf();
        match leaf.get_extension::<ExtendedKeyUsage>()? {
            Some((true, usage)) if usage.0 == [rfc5912::ID_KP_TIME_STAMPING] => {}
            _ => {
                return unfit(
                    "the certificate of the timestamp key must have the extended key usage TIME_STAMPING, critical and nothing else (RFC 3161, 2.3)",
                );
            }
        }
        if let Some((_, usage)) = leaf.get_extension::<KeyUsage>()?
            && !(usage.digital_signature() || usage.non_repudiation())
        {
            return unfit("the key usage of the timestamp key's certificate does not allow signatures");
        }
        if now < chain.not_before() || now >= chain.not_after() {
            let (from, to) = (chain.not_before(), chain.not_after());
            let message =
                format!("the certificate of the timestamp key is valid from {from} to {to}, and it is {now}");
            return Err(TimestampError::Unfit(message));
        }
        Ok(Self { chain, policy, accuracy_seconds, algorithm })
    }

    /// What the signature is called in audit records.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.algorithm.signature().name()
    }

    /// Stamps a payload: a TimeStampToken, DER.
    ///
    /// # Errors
    /// [`TimestampError`].
    pub async fn stamp(
        &self,
        signer: &Signer,
        hsm: &dyn Hsm,
        key: &Usable,
        hash: Hash,
        payload: &[u8],
        now: Timestamp,
    ) -> Result<Vec<u8>, TimestampError> {
        let serial = token::serial().ok_or(TimestampError::Random)?;
        let info = TstInfo {
            version: 1,
            policy: self.policy,
            message_imprint: MessageImprint::of(hash, payload)?,
            serial_number: serial,
            gen_time: token::time(now)?,
            accuracy: Some(Accuracy { seconds: Some(self.accuracy_seconds) }),
        };
        let info = info.to_der()?;
        let certificate = x509_cert::Certificate::from_der(self.chain.leaf_der())?;
        let attributes =
            token::signed_attributes(&info, &certificate, self.chain.leaf_der(), self.hash(), now)?;
        let job = Job {
            algorithm: self.algorithm.signature(),
            form: SignatureType::Der,
            payload: attributes.to_der()?.into(),
            context: "".into(),
            // Somebody may look at it for the first time in ten years.
            verify: VerifySignatures::Always,
        };
        let signature = signer.sign(hsm, key, job).await?;
        let chain = self.chain.certificates()?;
        Ok(token::assemble(info, attributes, &certificate, chain, self.hash(), self.algorithm, &signature)?)
    }

    /// The hash of the signature, and of the attribute that it covers.
    fn hash(&self) -> Hash {
        self.algorithm.signature().hash().unwrap_or(Hash::Sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_have_the_names_of_the_contract() {
        for (name, found) in [
            ("SHA256", Some(Hash::Sha256)),
            ("SHA-384", Some(Hash::Sha384)),
            ("SHA512", Some(Hash::Sha512)),
            ("SHA1", None),
            ("SHA-224", None),
            ("sha256", None),
            ("", None),
        ] {
            assert_eq!(hash(name), found, "{name}");
        }
    }
}
