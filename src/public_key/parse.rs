//! Reads a SubjectPublicKeyInfo.

use super::{Kind, PublicKey, RSA_MAX_BITS, RSA_MIN_BITS, dsa, ecdsa, edwards, post_quantum, rsa};
use crate::model::KeyAlgorithm;
use crate::model::curve::{CURVES, ED448_OID, ED25519_OID};
use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Encode, Tag, Tagged};
use spki::SubjectPublicKeyInfoRef;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const DSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap(ED25519_OID);
const ED448: ObjectIdentifier = ObjectIdentifier::new_unwrap(ED448_OID);

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
    #[error("Unsupported Curve: '{0}'")]
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
    /// Prime and subprime of DSA that do not go together.
    #[error(
        "a DSA key with a prime of {0} and a subprime of {1} bits is not supported, those of FIPS 186 are"
    )]
    DsaSize(u32, u32),
    /// Numbers that are no DSA key.
    #[error("the numbers of the DSA key are not those of a sound key")]
    Dsa,
    /// A compressed or otherwise unusual point.
    #[error("the point of the key is not in uncompressed form")]
    PointForm,
    /// A point that is not on its curve, or of tiny order.
    #[error("the point of the key is not a sound point of {0}")]
    Point(&'static str),
    /// A string of bytes that is too short or too long.
    #[error("a key of {algorithm} has {length} bytes, this one has {given}")]
    Length {
        /// What it says it is.
        algorithm: KeyAlgorithm,
        /// Bytes that such a key has.
        length: usize,
        /// Bytes given.
        given: usize,
    },
    /// A string of bytes that says something impossible of itself.
    #[error("the key of {0} has parameters that are not supported")]
    Parameter(KeyAlgorithm),
}

pub(super) fn spki(der: &[u8]) -> Result<PublicKey, ParseError> {
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(ParseError::Der)?;
    if info.to_der().map_err(ParseError::Der)? != der {
        return Err(ParseError::Der(der::ErrorKind::Noncanonical { tag: Tag::Sequence }.into()));
    }
    let bytes = info.subject_public_key.as_bytes().ok_or(ParseError::PointForm)?;
    let kind = match info.algorithm.oid {
        RSA => rsa_key(info.algorithm.parameters, bytes)?,
        DSA => Kind::Dsa(Box::new(dsa::read(info.algorithm.parameters, bytes)?)),
        EC => ec_key(info.algorithm.parameters, bytes)?,
        ED25519 => ed25519_key(info.algorithm.parameters, bytes)?,
        ED448 => ed448_key(info.algorithm.parameters, bytes)?,
        other => post_quantum_key(other, info.algorithm.parameters, bytes)?,
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

fn ed448_key(parameters: Option<AnyRef<'_>>, bytes: &[u8]) -> Result<Kind, ParseError> {
    if parameters.is_some() {
        return Err(ParseError::Parameters("Ed448"));
    }
    if !edwards::is_sound_point_of_448(bytes) {
        return Err(ParseError::Point("Ed448"));
    }
    Ok(Kind::Ed448)
}

fn post_quantum_key(
    oid: ObjectIdentifier,
    parameters: Option<AnyRef<'_>>,
    bytes: &[u8],
) -> Result<Kind, ParseError> {
    let (algorithm, length) =
        post_quantum::by_oid(&oid.to_string()).ok_or_else(|| ParseError::Algorithm(oid.to_string()))?;
    if parameters.is_some() {
        return Err(ParseError::Parameters(algorithm.name()));
    }
    if bytes.len() != length {
        return Err(ParseError::Length { algorithm, length, given: bytes.len() });
    }
    post_quantum::told(algorithm, bytes).map(Kind::PostQuantum).ok_or(ParseError::Parameter(algorithm))
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

    fn read(hex: &str) -> Result<PublicKey, ParseError> {
        PublicKey::from_spki(&hex::decode(hex).unwrap())
    }

    #[test]
    fn a_point_off_its_curve_is_refused() {
        assert!(read(P256).is_ok());
        assert_eq!(read(&P256.replace("51f5", "51f4")).unwrap_err(), ParseError::Point("P-256"));
        // The same point, its x written as x + p would not fit; y = p is out of the field.
        let y_is_p =
            format!("{}{}", &P256[..118], "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff");
        assert_eq!(read(&y_is_p).unwrap_err(), ParseError::Point("P-256"));
    }

    #[test]
    fn another_encoding_of_a_good_key_is_refused() {
        let long_form = format!("308159{}", &P256[4..]);
        let unused_bits = P256.replace("03420004", "03420104");
        let trailing = format!("{P256}00");
        for bad in [long_form, unused_bits, trailing, String::new()] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_even_modulus_or_exponent_is_refused() {
        let key = |last_of_modulus: &str, exponent: &str| {
            let numbers = format!("0282010100c0{}{last_of_modulus}{exponent}", "5a".repeat(254));
            let numbers = format!("3082{:04x}{numbers}", numbers.len() / 2);
            let string = format!("0382{:04x}00{numbers}", numbers.len() / 2 + 1);
            let info = format!("300d06092a864886f70d0101010500{string}");
            read(&format!("3082{:04x}{info}", info.len() / 2))
        };
        assert_eq!(key("01", "0203010001").unwrap().bits(), 2048);
        for (modulus, exponent) in
            [("02", "0203010001"), ("01", "020101"), ("01", "0203010000"), ("01", "0206010000000001")]
        {
            assert_eq!(key(modulus, exponent).unwrap_err(), ParseError::Rsa, "{modulus} {exponent}");
        }
    }
}
