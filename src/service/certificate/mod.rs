//! Certificates and requests for them: written here, signed by keys on tokens.
//!
//! X.509 is `x509-cert`'s business. A certificate is made in two steps, because its signature comes from a token: an
//! [`Unsigned`] has the bytes to sign, and becomes a certificate or a request with the signature over them
//! ([`Unsigned::signed`]). What a client or a manifest brings is read by [`request`] and [`chain`].

pub mod armour;
pub mod attached;
pub mod build;
pub mod chain;
mod name;
pub mod request;
mod usage;

pub use self::{
    build::{Authority, Unsigned},
    chain::Chain,
    name::name,
    request::Request,
    usage::Usages,
};
use super::sign::SignError;
use crate::model::certificate::{VALIDITY_DEFAULT, VALIDITY_MAX};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name does not fit a certificate.
    #[error("{0}")]
    Subject(String),
    /// The key usages contradict each other.
    #[error("{0}")]
    Usage(&'static str),
    /// The validity is out of range.
    #[error("the validity must be 1 to {VALIDITY_MAX} days, or 0 for {VALIDITY_DEFAULT}; {0} is not")]
    Validity(i64),
    /// The key does not sign so.
    #[error("{0}")]
    Mismatch(String),
    /// The certificate request is not one, or nobody with its key signed it.
    #[error("{0}")]
    Request(String),
    /// What was given as a certificate is none.
    #[error("{0}")]
    Unreadable(String),
    /// The certificate is one, but not for this.
    #[error("{0}")]
    Unfit(String),
    /// A value that DER has no place for.
    #[error("a value does not fit a certificate")]
    Encode(#[from] der::Error),
    /// The library did not write it.
    #[error("the certificate cannot be written")]
    Write(#[source] x509_cert::builder::Error),
    /// The key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl From<x509_cert::builder::Error> for Error {
    fn from(error: x509_cert::builder::Error) -> Self {
        match error {
            x509_cert::builder::Error::Asn1(error) => Self::Encode(error),
            other => Self::Write(other),
        }
    }
}

/// The validity in days: none and 0, which clients send for none, are the contract's default.
///
/// # Errors
/// When it is out of range.
pub fn days(given: Option<i64>) -> Result<u32, Error> {
    match given {
        None | Some(0) => Ok(VALIDITY_DEFAULT),
        Some(days) => u32::try_from(days)
            .ok()
            .filter(|days| (1..=VALIDITY_MAX).contains(days))
            .ok_or(Error::Validity(days)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_validity_and_zero_are_the_default() {
        assert_eq!(days(None).unwrap(), VALIDITY_DEFAULT);
        assert_eq!(days(Some(0)).unwrap(), VALIDITY_DEFAULT);
        assert_eq!(days(Some(1)).unwrap(), 1);
        for bad in [-1, i64::from(VALIDITY_MAX) + 1, i64::MIN, i64::MAX] {
            assert!(matches!(days(Some(bad)), Err(Error::Validity(_))), "{bad}");
        }
    }
}
