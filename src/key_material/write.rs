//! Writes PKCS #8, of the first version, as openssl does.

use der::{
    Encode,
    asn1::{AnyRef, ObjectIdentifier, OctetStringRef, UintRef},
};
use pkcs8::PrivateKeyInfoRef;
use sec1::EcPrivateKey;
use spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use super::{
    Unreadable, private_key,
    read::{DSA, EC, Pkcs1, RSA},
};
use crate::{
    model::{
        curve::Curve,
        material::{Material, RsaNumbers},
        secret::Plaintext,
    },
    public_key::PublicKey,
};

/// Why a key cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Unwritable {
    /// A key of this kind has no such form.
    #[error("a key of this kind is not written as PKCS #8")]
    Kind,
    /// What the token gave out is not what it says of the key.
    #[error("what the token gave out does not belong to the key's public half")]
    Other,
    /// A number is too large, or there is none.
    #[error("the numbers of the key cannot be written")]
    Der(#[from] der::Error),
    /// What the token gave out makes no sense.
    #[error("what the token gave out is no key")]
    Unreadable(#[from] Unreadable),
}

/// A private key as its token gave it out, DER. It is proven to be the one of which `public` is the other half.
///
/// # Errors
/// [`Unwritable`].
pub fn pkcs8(public: &PublicKey, material: &Material) -> Result<Zeroizing<Vec<u8>>, Unwritable> {
    let written = match (material, public.curve()) {
        (Material::Rsa(numbers), None) => rsa(numbers)?,
        (Material::Scalar(scalar), Some(curve)) if curve.weierstrass.is_some() => ec(curve, scalar, public)?,
        (Material::Scalar(seed), Some(curve)) => {
            let inside =
                Zeroizing::new(OctetStringRef::new(unwrapped(seed.expose(), seed_len(curve)))?.to_der()?);
            outside(curve.oid.parse().map_err(|_| Unwritable::Kind)?, None, &inside)?
        }
        (Material::Exponent(number), None) => dsa(number, public)?,
        _ => return Err(Unwritable::Kind),
    };
    match private_key(&written) {
        // On curves that no library here knows, nobody can prove it.
        Ok(read) if read.public.as_ref().is_none_or(|own| own == public) => Ok(written),
        Ok(_) => Err(Unwritable::Other),
        Err(error) => Err(error.into()),
    }
}

fn outside(
    oid: ObjectIdentifier,
    parameters: Option<AnyRef<'_>>,
    inside: &[u8],
) -> Result<Zeroizing<Vec<u8>>, der::Error> {
    let algorithm = AlgorithmIdentifierRef { oid, parameters };
    PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(inside)?).to_der().map(Zeroizing::new)
}

fn rsa(numbers: &RsaNumbers) -> Result<Zeroizing<Vec<u8>>, Unwritable> {
    fn number(bytes: &[u8]) -> Result<UintRef<'_>, der::Error> {
        UintRef::new(bytes)
    }
    let inside = Pkcs1 {
        version: 0,
        n: number(&numbers.modulus)?,
        e: number(&numbers.public_exponent)?,
        d: number(numbers.private_exponent.expose())?,
        p: number(numbers.prime1.expose())?,
        q: number(numbers.prime2.expose())?,
        dp: number(numbers.exponent1.expose())?,
        dq: number(numbers.exponent2.expose())?,
        inverse: number(numbers.coefficient.expose())?,
    };
    let inside = Zeroizing::new(inside.to_der()?);
    Ok(outside(RSA, Some(AnyRef::NULL), &inside)?)
}

fn dsa(number: &Plaintext, public: &PublicKey) -> Result<Zeroizing<Vec<u8>>, Unwritable> {
    let half = spki::SubjectPublicKeyInfoRef::try_from(public.spki()).map_err(|_| Unwritable::Kind)?;
    let inside = Zeroizing::new(UintRef::new(number.expose())?.to_der()?);
    Ok(outside(DSA, half.algorithm.parameters, &inside)?)
}

fn ec(curve: Curve, scalar: &Plaintext, public: &PublicKey) -> Result<Zeroizing<Vec<u8>>, Unwritable> {
    let length = curve.scalar_len();
    let given = scalar.expose();
    let zeros = given.iter().take_while(|byte| **byte == 0).count();
    let digits = &given[zeros..];
    let missing = length.checked_sub(digits.len()).ok_or(Unwritable::Other)?;
    // Some tokens leave the zeros on the left away.
    let mut whole = Zeroizing::new(vec![0; length]);
    whole[missing..].copy_from_slice(digits);
    let point = spki::SubjectPublicKeyInfoRef::try_from(public.spki()).map_err(|_| Unwritable::Kind)?;
    let inside = EcPrivateKey {
        private_key: &whole,
        parameters: None,
        public_key: point.subject_public_key.as_bytes(),
    };
    let inside = Zeroizing::new(inside.to_der()?);
    let oid: ObjectIdentifier = curve.oid.parse().map_err(|_| Unwritable::Kind)?;
    Ok(outside(EC, Some((&oid).into()), &inside)?)
}

const fn seed_len(curve: Curve) -> usize {
    if curve.order_bits > 256 { 57 } else { 32 }
}

/// A seed, which some tokens wrap into an OCTET STRING.
fn unwrapped(seed: &[u8], length: usize) -> &[u8] {
    match seed {
        [4, said, rest @ ..] if usize::from(*said) == length && rest.len() == length => rest,
        bare => bare,
    }
}
