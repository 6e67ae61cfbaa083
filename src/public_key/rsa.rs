//! RSA on top of the `rsa` crate, where aws-lc has no such algorithm.

use super::{ParseError, RSA_MAX_BITS, RSA_MIN_BITS};
use crate::model::digest::Hash;
use der::asn1::UintRef;
use der::{Decode, Sequence};
use rsa::traits::{PublicKeyParts, SignatureScheme};
use rsa::{BoxedUint, Pkcs1v15Sign, Pss, PublicKey};

/// PKCS #1 `RSAPublicKey`.
#[derive(Sequence)]
struct Numbers<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

pub(super) fn read(der: &[u8]) -> Result<PublicKey, ParseError> {
    let numbers = Numbers::from_der(der).map_err(ParseError::Der)?;
    let (modulus, exponent) = (numbers.modulus.as_bytes(), numbers.exponent.as_bytes());
    let bits = bit_length(modulus);
    if !(RSA_MIN_BITS..=RSA_MAX_BITS).contains(&bits) {
        return Err(ParseError::RsaSize(bits));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    if !is_odd(modulus) || !is_odd(exponent) || exponent == [1] || bit_length(exponent) > 33 {
        return Err(ParseError::Rsa);
    }
    let number = |bytes: &[u8]| BoxedUint::from_be_slice_vartime(bytes);
    PublicKey::new(number(modulus), number(exponent)).map_err(|_| ParseError::Rsa)
}

fn bit_length(bytes: &[u8]) -> u32 {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX / 8);
    bytes.first().map_or(0, |first| len * 8 - first.leading_zeros())
}

pub(super) fn bits(key: &PublicKey) -> u32 {
    key.n().bit_width()
}

/// RSASSA-PKCS1-v1_5 over `prepared`, with the `DigestInfo` of `hash` or without one.
pub(super) fn verify_pkcs1(key: &PublicKey, hash: Option<Hash>, prepared: &[u8], signature: &[u8]) -> bool {
    let prefix = hash.and_then(Hash::digest_info_prefix).unwrap_or_default();
    // 3 bytes of framing and at least 8 of padding must fit beside the content.
    if prefix.len() + prepared.len() + 11 > key.size() {
        return false;
    }
    let scheme = Pkcs1v15Sign { hash_len: hash.map(Hash::len), prefix: prefix.into() };
    scheme.verify(key, prepared, signature).is_ok()
}

/// RSASSA-PSS over a digest: one hash for everything and a salt as long as it.
pub(super) fn verify_pss(key: &PublicKey, hash: Hash, digest: &[u8], signature: &[u8]) -> bool {
    let checked = match hash {
        Hash::Sha1 => Pss::<sha1::Sha1>::new().verify(key, digest, signature),
        Hash::Sha224 => Pss::<sha2::Sha224>::new().verify(key, digest, signature),
        Hash::Sha256 => Pss::<sha2::Sha256>::new().verify(key, digest, signature),
        Hash::Sha384 => Pss::<sha2::Sha384>::new().verify(key, digest, signature),
        Hash::Sha512 => Pss::<sha2::Sha512>::new().verify(key, digest, signature),
        // The contract's table has no PSS with these.
        Hash::Sha3_224
        | Hash::Sha3_256
        | Hash::Sha3_384
        | Hash::Sha3_512
        | Hash::Keccak224
        | Hash::Keccak256
        | Hash::Keccak384
        | Hash::Keccak512
        | Hash::Shake128
        | Hash::Shake256
        | Hash::DoubleSha256 => return false,
    };
    checked.is_ok()
}
