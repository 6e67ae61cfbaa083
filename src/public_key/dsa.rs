//! DSA (FIPS 186-4) on top of the `dsa` crate: keys are read as RFC 3279 writes them.

use super::{ParseError, encoding};
use der::asn1::{AnyRef, UintRef};
use der::{Decode, Sequence};
use dsa::signature::hazmat::PrehashVerifier;
use dsa::{BoxedUint, Components, Signature, VerifyingKey};
use num_bigint::BigUint;

/// Sizes of prime and subprime, in bits: those of FIPS 186-4, and the oldest one, which tokens still make.
const SIZES: [(u32, u32); 4] = [(1024, 160), (2048, 224), (2048, 256), (3072, 256)];

/// `Dss-Parms`.
#[derive(Sequence)]
struct Group<'a> {
    prime: UintRef<'a>,
    subprime: UintRef<'a>,
    base: UintRef<'a>,
}

pub(super) fn read(parameters: Option<AnyRef<'_>>, key: &[u8]) -> Result<VerifyingKey, ParseError> {
    let group = parameters.and_then(|any| any.decode_as::<Group<'_>>().ok());
    let Group { prime, subprime, base } = group.ok_or(ParseError::Parameters("DSA"))?;
    let value = UintRef::from_der(key).map_err(ParseError::Der)?;
    let (p, q) = (number(prime.as_bytes()), number(subprime.as_bytes()));
    let size = (p.bit_width_vartime(), q.bit_width_vartime());
    if !SIZES.contains(&size) {
        return Err(ParseError::DsaSize(size.0, size.1));
    }
    let is_odd = |number: &UintRef<'_>| number.as_bytes().last().is_some_and(|byte| byte % 2 == 1);
    if !is_odd(&prime) || !is_odd(&subprime) {
        return Err(ParseError::Dsa);
    }
    let components =
        Components::from_components(p, q, number(base.as_bytes())).map_err(|_| ParseError::Dsa)?;
    // Whether the key is in the group is looked at here.
    VerifyingKey::from_components(components, number(value.as_bytes())).map_err(|_| ParseError::Dsa)
}

fn number(bytes: &[u8]) -> BoxedUint {
    BoxedUint::from_be_slice_vartime(bytes)
}

/// Bits of the prime.
pub(super) fn bits(key: &VerifyingKey) -> u32 {
    key.components().p().bit_width_vartime()
}

/// Bytes of a number below the subprime: half of a signature.
pub(super) fn half(key: &VerifyingKey) -> usize {
    key.components().q().bit_width_vartime().div_ceil(8) as usize
}

/// The subprime.
pub(super) fn order(key: &VerifyingKey) -> BigUint {
    BigUint::from_bytes_be(&key.components().q().to_be_bytes())
}

/// Whether a signature fits a digest. It is a DER sequence, or `r‖s`.
pub(super) fn verify(key: &VerifyingKey, digest: &[u8], signature: &[u8]) -> bool {
    let fits = |(r, s): (BigUint, BigUint)| {
        let [r, s] = [r, s].map(|value| number(&value.to_bytes_be()));
        let signature = Signature::from_components(r, s);
        signature.is_some_and(|signature| key.verify_prehash(digest, &signature).is_ok())
    };
    !digest.is_empty()
        && (encoding::numbers_of_der(signature).is_some_and(fits)
            || (signature.len() == 2 * half(key) && fits(encoding::numbers_of_raw(signature))))
}
