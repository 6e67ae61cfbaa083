//! The certificate that an HsmKey says its key has.

use super::{Chain, Error};
use crate::{
    api::{HsmKey, condition},
    public_key::PublicKey,
};

/// Why the certificate that a key should have is not there.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The spec asks for one that the controller has not made yet.
    #[error("the self-signed certificate of the key is not made yet")]
    NotYet,
    /// The controller cannot make it, and said why.
    #[error("{0}")]
    Refused(String),
    /// The one in the spec is not one of the key.
    #[error(transparent)]
    Bad(#[from] Error),
}

/// The certificate that the spec gives, or that was made for it. What the status says of an earlier spec is not it.
///
/// # Errors
/// [`Missing`] where the spec asks for one and there is none.
pub fn attached(key: &HsmKey, public: &PublicKey) -> Result<Option<Chain>, Missing> {
    let Some(spec) = &key.spec.certificate else { return Ok(None) };
    if let Some(pem) = &spec.pem {
        return Ok(Some(Chain::from_pem(pem, public)?));
    }
    let Some(self_signed) = &spec.self_signed else { return Ok(None) };
    let status = key.status.as_ref().ok_or(Missing::NotYet)?;
    let made = status.certificate.as_ref();
    if let Some(made) = made.filter(|made| made.made_for.as_ref() == Some(&self_signed.digest())) {
        return Ok(Some(Chain::from_pem(&made.pem, public)?));
    }
    let refused = condition::find(&status.conditions, condition::CERTIFIED)
        .filter(|found| found.status == "False" && found.observed_generation == key.metadata.generation);
    Err(refused.map_or(Missing::NotYet, |found| Missing::Refused(found.message.clone())))
}
