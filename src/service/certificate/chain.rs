//! Certificates that somebody else made.

use der::{Decode, Encode};
use jiff::Timestamp;
use x509_cert::{Certificate, TbsCertificate};

use super::{Error, armour};
use crate::{model::digest::Hash, public_key::PublicKey};

/// Most certificates in a chain.
const LENGTH_MAX: usize = 10;

/// A key's certificate, and those of its issuers as far as they were given.
#[derive(Clone, Debug)]
pub struct Chain {
    der: Vec<Vec<u8>>,
    leaf: Certificate,
}

impl Chain {
    /// Reads PEM: the certificate of `key` first, the others each the issuer of the one before.
    ///
    /// # Errors
    /// [`Error::Unreadable`] where it is not PEM of certificates, [`Error::Unfit`] where it is not a chain of this key.
    pub fn from_pem(text: &str, key: &PublicKey) -> Result<Self, Error> {
        let der = armour::read(text, &[armour::CERTIFICATE])
            .map_err(|error| Error::Unreadable(format!("the certificate cannot be read: {error}")))?;
        Self::new(der, key)
    }

    /// Reads one certificate of `key`.
    ///
    /// # Errors
    /// As [`Self::from_pem`].
    pub fn from_der(der: Vec<u8>, key: &PublicKey) -> Result<Self, Error> {
        Self::new(vec![der], key)
    }

    /// The public key that a certificate is of.
    ///
    /// # Errors
    /// [`Error::Unreadable`] where it is no certificate, or of a key that is none.
    pub fn key_of(der: &[u8]) -> Result<PublicKey, Error> {
        let unreadable = |error: &dyn std::fmt::Display| {
            Error::Unreadable(format!("it is not the DER of an X.509 certificate: {error}"))
        };
        let certificate = Certificate::from_der(der).map_err(|error| unreadable(&error))?;
        let spki = certificate.tbs_certificate().subject_public_key_info().to_der()?;
        PublicKey::from_spki(&spki)
            .map_err(|error| Error::Unreadable(format!("the public key of the certificate: {error}")))
    }

    fn new(der: Vec<Vec<u8>>, key: &PublicKey) -> Result<Self, Error> {
        if der.len() > LENGTH_MAX {
            return Err(Error::Unfit(format!(
                "there are {} certificates, at most {LENGTH_MAX} are taken",
                der.len()
            )));
        }
        let all = der.iter().enumerate().map(|(at, der)| {
            Certificate::from_der(der).map_err(|error| {
                Error::Unreadable(format!(
                    "certificate {} is not the DER of an X.509 certificate: {error}",
                    at + 1
                ))
            })
        });
        let all = all.collect::<Result<Vec<_>, _>>()?;
        for (at, pair) in all.windows(2).enumerate() {
            let (subject, issuer) = (pair[0].tbs_certificate(), pair[1].tbs_certificate());
            if subject.issuer() != issuer.subject() {
                let message = format!("certificate {} is not the issuer of the one before it", at + 2);
                return Err(Error::Unfit(message));
            }
        }
        let leaf =
            all.into_iter().next().ok_or_else(|| Error::Unreadable("there is no certificate".into()))?;
        if leaf.tbs_certificate().subject_public_key_info().to_der()? != key.spki() {
            return Err(Error::Unfit("the certificate is of another key".into()));
        }
        Ok(Self { der, leaf })
    }

    /// What the key's certificate says.
    #[must_use]
    pub fn leaf(&self) -> &TbsCertificate {
        self.leaf.tbs_certificate()
    }

    /// The key's certificate, DER.
    #[must_use]
    pub fn leaf_der(&self) -> &[u8] {
        &self.der[0]
    }

    /// All of them, the key's own first.
    ///
    /// # Errors
    /// None: all were read before.
    pub fn certificates(&self) -> Result<Vec<Certificate>, der::Error> {
        self.der.iter().map(|der| Certificate::from_der(der)).collect()
    }

    /// Begin of the certificate's validity.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        moment(self.leaf().validity().not_before)
    }

    /// End of the certificate's validity.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        moment(self.leaf().validity().not_after)
    }

    /// SHA-256 of the certificate in lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(Hash::Sha256.digest(self.leaf_der()))
    }

    /// The chain as everybody reads it.
    #[must_use]
    pub fn pem(&self) -> String {
        armour::certificates(&self.der)
    }
}

fn moment(time: x509_cert::time::Time) -> Timestamp {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}
