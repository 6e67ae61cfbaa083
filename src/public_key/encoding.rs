//! Forms of a signature: what a token returns, and what a caller of the contract asked for.
//!
//! A PKCS#11 token returns ECDSA signatures as `r‖s`. The contract's `DER` is a sequence of the two,
//! `RAW` is `r‖s` with both halves as wide as the order, and `ETH` appends a recovery byte. Signatures of
//! other schemes have one form only.

use super::{Kind, PublicKey, ecdsa};
use crate::model::signature::{Scheme, WrongDigestLength};
use crate::model::{KeyAlgorithm, SignatureAlgorithm, SignatureType};
use der::asn1::UintRef;
use der::{Decode, Encode, Sequence};
use num_bigint::BigUint;

/// Why a signature cannot be given the form asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// ETH for something else than Ethereum's signatures.
    #[error(
        "signatureType ETH is for KECCAK256_WITH_ECDSA with a key on secp256k1 only, not for {algorithm} with {key}"
    )]
    EthForm {
        /// Algorithm asked for.
        algorithm: SignatureAlgorithm,
        /// The key's curve, or its algorithm where it has none.
        key: String,
    },
    /// Keys of this algorithm do not sign so.
    #[error("{algorithm} is not a signature algorithm of {key} keys")]
    Mismatch {
        /// Algorithm asked for.
        algorithm: SignatureAlgorithm,
        /// Algorithm of the key.
        key: KeyAlgorithm,
    },
    /// Not two numbers in range.
    #[error("the {given} bytes are not an ECDSA signature with two halves of {half} bytes")]
    Malformed {
        /// Bytes that one half has.
        half: usize,
        /// Bytes given.
        given: usize,
    },
    /// No recovery byte leads from the signature to the key.
    #[error("the token's signature is not one of this key over this payload, so it has no recovery byte")]
    NotRecoverable,
    /// The payload should be a digest.
    #[error(transparent)]
    DigestLength(#[from] WrongDigestLength),
}

#[derive(Sequence)]
struct DerSignature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// Reads a strict DER signature: shortest form, no negative numbers, nothing behind it.
pub(super) fn numbers_of_der(der: &[u8]) -> Option<(BigUint, BigUint)> {
    let signature = DerSignature::from_der(der).ok()?;
    let number = |value: UintRef<'_>| BigUint::from_bytes_be(value.as_bytes());
    Some((number(signature.r), number(signature.s)))
}

pub(super) fn numbers_to_der(r: &BigUint, s: &BigUint) -> Vec<u8> {
    let (r, s) = (r.to_bytes_be(), s.to_bytes_be());
    let number = |bytes| UintRef::new(bytes).expect("a few hundred bytes fit an INTEGER");
    DerSignature { r: number(&r), s: number(&s) }.to_der().expect("two short INTEGERs fit a SEQUENCE")
}

/// Reads `r‖s`, two halves of equal length.
pub(super) fn numbers_of_raw(raw: &[u8]) -> (BigUint, BigUint) {
    let (r, s) = raw.split_at(raw.len() / 2);
    (BigUint::from_bytes_be(r), BigUint::from_bytes_be(s))
}

fn numbers_to_raw(r: &BigUint, s: &BigUint, half: usize) -> Option<Vec<u8>> {
    let mut raw = vec![0; 2 * half];
    for (number, place) in [r, s].into_iter().zip(raw.chunks_exact_mut(half)) {
        let bytes = number.to_bytes_be();
        let start = half.checked_sub(bytes.len())?;
        place[start..].copy_from_slice(&bytes);
    }
    Some(raw)
}

pub(super) fn has_eth_form(algorithm: SignatureAlgorithm, key: &PublicKey) -> bool {
    algorithm == SignatureAlgorithm::Keccak256WithEcdsa
        && key.curve().is_some_and(|curve| curve.name == "secp256k1")
}

/// Writes `r‖s`, two halves of equal length, as a DER sequence.
///
/// # Errors
/// When the length is zero or odd, or so large that no curve has it.
pub fn ecdsa_raw_to_der(raw: &[u8]) -> Result<Vec<u8>, EncodeError> {
    if raw.is_empty() || raw.len() % 2 != 0 || raw.len() > 256 {
        return Err(EncodeError::Malformed { half: raw.len() / 2, given: raw.len() });
    }
    let (r, s) = numbers_of_raw(raw);
    Ok(numbers_to_der(&r, &s))
}

/// Writes a strict DER sequence as `r‖s` with halves of `half` bytes ([`scalar_len`] of the curve).
///
/// # Errors
/// When the bytes are not strict DER of two numbers that fit.
///
/// [`scalar_len`]: crate::model::curve::CurveRow::scalar_len
pub fn ecdsa_der_to_raw(der: &[u8], half: usize) -> Result<Vec<u8>, EncodeError> {
    let malformed = EncodeError::Malformed { half, given: der.len() };
    if half == 0 {
        return Err(malformed);
    }
    numbers_of_der(der).and_then(|(r, s)| numbers_to_raw(&r, &s, half)).ok_or(malformed)
}

/// Gives a token's signature the form that was asked for.
///
/// `token_signature` is what `C_Sign` returned: `r‖s` for ECDSA, with halves of any equal width; the
/// signature itself otherwise, which is returned unchanged for `DER` and `RAW`.
///
/// For `ETH` the larger of the two equivalent values of `s` is replaced by the smaller one, because
/// Ethereum refuses the larger (EIP-2), and the recovery byte is 27 or 28 by the parity of the y
/// coordinate of the signature's point, after that replacement. It is found with the public key, so a
/// signature that does not verify is an error here.
///
/// # Errors
/// When the form does not exist for the algorithm, or the bytes are no signature.
pub fn encode(
    token_signature: &[u8],
    form: SignatureType,
    algorithm: SignatureAlgorithm,
    key: &PublicKey,
    payload: &[u8],
) -> Result<Vec<u8>, EncodeError> {
    if !algorithm.fits(key.algorithm()) {
        return Err(EncodeError::Mismatch { algorithm, key: key.algorithm() });
    }
    check_form(form, algorithm, key)?;
    let Kind::Ec { curve, point } = &key.kind else { return Ok(token_signature.to_vec()) };
    if algorithm.row().scheme == Scheme::SchnorrBip340 {
        return Ok(token_signature.to_vec());
    }
    let domain =
        ecdsa::Domain::of(curve).expect("a key of kind EC was read with the parameters of its curve");
    let half = curve.scalar_len();
    let malformed = EncodeError::Malformed { half, given: token_signature.len() };
    if token_signature.is_empty() || token_signature.len() % 2 != 0 {
        return Err(malformed);
    }
    let (r, mut s) = numbers_of_raw(token_signature);
    let in_range = |value: &BigUint| value.bits() > 0 && value < domain.n();
    if !in_range(&r) || !in_range(&s) {
        return Err(malformed);
    }
    match form {
        SignatureType::Der => Ok(numbers_to_der(&r, &s)),
        SignatureType::Raw => numbers_to_raw(&r, &s, half).ok_or(malformed),
        SignatureType::Eth => {
            if s > domain.n() >> 1_u32 {
                s = domain.n() - s;
            }
            let digest = algorithm.prepare(payload)?;
            let signer = domain.verify(point, &digest, &r, &s).filter(|signer| signer.x == r);
            let y_is_odd = signer.ok_or(EncodeError::NotRecoverable)?.y.bit(0);
            let mut bytes = numbers_to_raw(&r, &s, half).ok_or(malformed)?;
            bytes.push(27 + u8::from(y_is_odd));
            Ok(bytes)
        }
    }
}

/// Whether a signature can have a form; to be asked before anything is signed.
///
/// # Errors
/// `ETH` for anything but `KECCAK256_WITH_ECDSA` on secp256k1.
pub fn check_form(
    form: SignatureType,
    algorithm: SignatureAlgorithm,
    key: &PublicKey,
) -> Result<(), EncodeError> {
    match form {
        SignatureType::Eth if !has_eth_form(algorithm, key) => Err(EncodeError::EthForm {
            algorithm,
            key: key.curve().map_or_else(|| key.algorithm().to_string(), |curve| curve.name.to_owned()),
        }),
        SignatureType::Der | SignatureType::Raw | SignatureType::Eth => Ok(()),
    }
}
