//! Reads a SubjectPublicKeyInfo.

use super::{Kind, PublicKey, RSA_MAX_BITS, RSA_MIN_BITS, ecdsa, edwards, rsa};
use crate::model::curve::{CURVES, ED25519_OID};
use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Encode, Tag, Tagged};
use spki::SubjectPublicKeyInfoRef;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap(ED25519_OID);

/// Why a public key is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not one `PUBLIC KEY` block.
    #[error("the text is not a PEM block 'PUBLIC KEY'")]
    Pem,
    /// Not the DER of a SubjectPublicKeyInfo.
    #[error("the bytes are not a DER SubjectPublicKeyInfo")]
    Der(#[source] der::Error),
    /// An algorithm that is not read here.
    #[error("public keys of algorithm {0} are not supported")]
    Algorithm(String),
    /// A curve that the contract does not have.
    #[error("unsupported curve: '{0}'")]
    Curve(String),
    /// Algorithm parameters that do not belong to the algorithm.
    #[error("the parameters of an {0} key are not as its standard demands")]
    Parameters(&'static str),
    /// An RSA modulus outside the bounds.
    #[error("an RSA key of {0} bits is not supported, {RSA_MIN_BITS} to {RSA_MAX_BITS} are")]
    RsaSize(u32),
    /// An even or absurd RSA modulus or exponent.
    #[error("the RSA modulus or exponent is not that of a sound key")]
    Rsa,
    /// A compressed or otherwise unusual point.
    #[error("the point of the key is not in uncompressed form")]
    PointForm,
    /// A point that is not on its curve, or of tiny order.
    #[error("the point of the key is not a sound point of {0}")]
    Point(&'static str),
}

pub(super) fn spki(der: &[u8]) -> Result<PublicKey, ParseError> {
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(ParseError::Der)?;
    if info.to_der().map_err(ParseError::Der)? != der {
        return Err(ParseError::Der(der::ErrorKind::Noncanonical { tag: Tag::Sequence }.into()));
    }
    let bytes = info.subject_public_key.as_bytes().ok_or(ParseError::PointForm)?;
    let kind = match info.algorithm.oid {
        RSA => rsa_key(info.algorithm.parameters, bytes)?,
        EC => ec_key(info.algorithm.parameters, bytes)?,
        ED25519 => ed25519_key(info.algorithm.parameters, bytes)?,
        other => return Err(ParseError::Algorithm(other.to_string())),
    };
    Ok(PublicKey { spki: der.to_vec(), bytes: bytes.to_vec(), kind })
}

fn rsa_key(parameters: Option<AnyRef<'_>>, bytes: &[u8]) -> Result<Kind, ParseError> {
    if !parameters.is_some_and(|any| any.tag() == Tag::Null && any.value().is_empty()) {
        return Err(ParseError::Parameters("RSA"));
    }
    rsa::read(bytes).map(|key| Kind::Rsa(Box::new(key)))
}

fn ec_key(parameters: Option<AnyRef<'_>>, bytes: &[u8]) -> Result<Kind, ParseError> {
    let oid = parameters
        .and_then(|any| any.decode_as::<ObjectIdentifier>().ok())
        .ok_or(ParseError::Parameters("EC"))?
        .to_string();
    // Not `by_oid`: an alias of the contract may mean another curve to everybody else.
    let curve = CURVES.iter().find(|row| row.oid == oid).ok_or(ParseError::Curve(oid))?;
    let domain = ecdsa::Domain::of(curve).ok_or(ParseError::Curve(curve.oid.into()))?;
    let point = domain.decode_point(bytes).ok_or(ParseError::PointForm)?;
    if !domain.contains(&point) {
        return Err(ParseError::Point(curve.name));
    }
    Ok(Kind::Ec { curve, point })
}

fn ed25519_key(parameters: Option<AnyRef<'_>>, bytes: &[u8]) -> Result<Kind, ParseError> {
    if parameters.is_some() {
        return Err(ParseError::Parameters("Ed25519"));
    }
    if !edwards::is_sound_point(bytes) {
        return Err(ParseError::Point("Ed25519"));
    }
    Ok(Kind::Ed25519)
}
