//! Forms of a signature: what a token returns, and what a caller of the contract asked for.
//!
//! A PKCS#11 token returns DSA and ECDSA signatures as `r‖s`. The contract's `DER` is a sequence of the two,
//! `RAW` is `r‖s` with both halves as wide as the order, and `ETH` appends a recovery byte. Signatures of
//! other schemes have one form only.

use super::{Kind, PublicKey, dsa, ecdsa};
use crate::model::curve::Curve;
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
    #[error("the {given} bytes are not a signature with two halves of {half} bytes")]
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
    if raw.is_empty() || !raw.len().is_multiple_of(2) || raw.len() > 256 {
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
/// `token_signature` is what `C_Sign` returned: `r‖s` for DSA and ECDSA, with halves of any equal width; the
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
    let (order, half) = match &key.kind {
        Kind::Ec { curve, .. } if algorithm.row().scheme != Scheme::SchnorrBip340 => {
            (domain(curve).n().clone(), curve.scalar_len())
        }
        Kind::Dsa(key) => (dsa::order(key), dsa::half(key)),
        _ => return Ok(token_signature.to_vec()),
    };
    let malformed = EncodeError::Malformed { half, given: token_signature.len() };
    if token_signature.is_empty() || !token_signature.len().is_multiple_of(2) {
        return Err(malformed);
    }
    let (r, mut s) = numbers_of_raw(token_signature);
    let in_range = |value: &BigUint| value.bits() > 0 && *value < order;
    if !in_range(&r) || !in_range(&s) {
        return Err(malformed);
    }
    match form {
        SignatureType::Der => Ok(numbers_to_der(&r, &s)),
        SignatureType::Raw => numbers_to_raw(&r, &s, half).ok_or(malformed),
        SignatureType::Eth => {
            let Kind::Ec { curve, point } = &key.kind else { return Err(malformed) };
            if s > &order >> 1_u32 {
                s = order - s;
            }
            let digest = algorithm.prepare(payload)?;
            let signer = domain(curve).verify(point, &digest, &r, &s).filter(|signer| signer.x == r);
            let y_is_odd = signer.ok_or(EncodeError::NotRecoverable)?.y.bit(0);
            let mut bytes = numbers_to_raw(&r, &s, half).ok_or(malformed)?;
            bytes.push(27 + u8::from(y_is_odd));
            Ok(bytes)
        }
    }
}

fn domain(curve: Curve) -> &'static ecdsa::Domain {
    ecdsa::Domain::of(curve).expect("a key of kind EC was read with the parameters of its curve")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of EIP-155: a transaction of the key 4646…46, and its signature.
    const TRANSACTION: &str =
        "ec098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080018080";
    const R: &str = "28ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276";
    const S: &str = "67cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83";
    const KEY: &str = "3056301006072a8648ce3d020106052b8104000a034200044bc2a31265153f07e70e0bab08724e6b85e217f8cd628ceb62974247bb493382ce28cab79ad7119ee1ad3ebcdb98a16805211530ecc6cfefa1b88e6dff99232a";
    const KECCAK: SignatureAlgorithm = SignatureAlgorithm::Keccak256WithEcdsa;

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    fn key() -> PublicKey {
        PublicKey::from_spki(&bytes(KEY)).unwrap()
    }

    #[test]
    fn the_signature_of_eip_155_gets_its_recovery_byte_from_either_s() {
        let (key, payload) = (key(), bytes(TRANSACTION));
        let n = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        let high = BigUint::parse_bytes(n.as_bytes(), 16).unwrap() - BigUint::from_bytes_be(&bytes(S));
        for s in [bytes(S), high.to_bytes_be()] {
            let raw = [bytes(R), s].concat();
            let eth = encode(&raw, SignatureType::Eth, KECCAK, &key, &payload).unwrap();
            assert_eq!(hex::encode(eth), format!("{R}{S}1b"));
        }
    }

    #[test]
    fn the_ethereum_form_is_refused_for_anything_else() {
        let raw = bytes(&format!("{R}{S}"));
        let error = encode(&raw, SignatureType::Eth, SignatureAlgorithm::Sha256WithEcdsa, &key(), b"");
        assert_eq!(
            error.unwrap_err().to_string(),
            "signatureType ETH is for KECCAK256_WITH_ECDSA with a key on secp256k1 only, not for SHA256_WITH_ECDSA with secp256k1"
        );
        let other_payload = encode(&raw, SignatureType::Eth, KECCAK, &key(), b"something else");
        assert_eq!(other_payload, Err(EncodeError::NotRecoverable));
    }

    #[test]
    fn only_one_der_form_of_a_signature_is_read() {
        assert_eq!(ecdsa_der_to_raw(&bytes("3006020101020102"), 2).unwrap(), [0, 1, 0, 2]);
        assert_eq!(ecdsa_der_to_raw(&bytes("300702020080020101"), 1).unwrap(), [0x80, 1]);
        for bad in [
            "",
            "30",
            "3000",
            "3003020101",             // one number
            "300602010102010200",     // a byte behind it
            "3009020101020102020103", // a third number
            "30810602010102010200",   // long form of a short length
            "308106020101020102",
            "308006020101020102",   // indefinite length
            "30070202000102010200", // leading zero
            "300702020001020102",
            "3006020181020102", // negative
            "30050200020102",   // empty number
            "3106020101020102", // SET
            "3006020101030102", // BIT STRING
        ] {
            let der = bytes(bad);
            assert!(ecdsa_der_to_raw(&der, 32).is_err(), "{bad}");
        }
        assert!(ecdsa_der_to_raw(&bytes("300702020100020101"), 1).is_err());
        assert!(ecdsa_der_to_raw(&bytes("3007020201000201ff"), 2).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_no_signature() {
        let n = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        let zero = "00".repeat(32);
        for raw in [format!("{zero}{S}"), format!("{R}{zero}"), format!("{n}{S}"), format!("{R}{n}")] {
            let raw = bytes(&raw);
            assert_eq!(key().verify(KECCAK, &bytes(TRANSACTION), &raw), Ok(false));
            let encoded = encode(&raw, SignatureType::Der, KECCAK, &key(), b"");
            assert_eq!(encoded, Err(EncodeError::Malformed { half: 32, given: 64 }));
        }
    }
}
