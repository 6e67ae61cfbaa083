//! Public keys: reading, writing, checking signatures and encrypting with them, outside any token.
//!
//! A [`PublicKey`] only exists for a key that makes sense: strict DER, an RSA modulus and exponent within
//! bounds, a point that is on its curve. But for encryption everything here works on public data, so nothing needs to
//! take the same time for every input.
//!
//! - [`PublicKey::verify`] checks a signature of any algorithm of the contract that the key can make.
//! - [`PublicKey::encrypt`] encrypts for an RSA key.
//! - [`encoding`] turns what a token returns into what a caller asked for.

mod address;
mod dsa;
mod ecdsa;
mod edwards;
pub mod encoding;
mod encrypt;
mod hss;
mod parse;
mod post_quantum;
mod recover;
mod rsa;
mod schnorr;
mod verify;
mod xmss;

pub use self::address::NoAddress;
pub use self::encoding::{EncodeError, check_form, ecdsa_der_to_raw, ecdsa_raw_to_der, encode};
pub use self::encrypt::EncryptError;
pub use self::parse::ParseError;
pub use self::verify::VerifyError;

use crate::model::{KeyAlgorithm, curve::Curve};

/// Smallest RSA modulus that is read, in bits.
pub const RSA_MIN_BITS: u32 = 2048;
/// Largest RSA modulus that is read, in bits: checking a signature stays cheap.
pub const RSA_MAX_BITS: u32 = 8192;

/// A public key that was checked when it was read.
///
/// Two of them are equal when their SubjectPublicKeyInfo is.
#[derive(Clone, Debug)]
pub struct PublicKey {
    spki: Vec<u8>,
    /// The key's own bytes inside the SubjectPublicKeyInfo.
    bytes: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Rsa(Box<::rsa::PublicKey>),
    Dsa(Box<::dsa::VerifyingKey>),
    Ec {
        curve: Curve,
        point: ecdsa::Point,
    },
    Ed25519,
    Ed448,
    /// A string of bytes, by FIPS 203, 204 or 205, RFC 8554 or RFC 8391.
    PostQuantum(KeyAlgorithm),
}

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo and checks the key in it.
    ///
    /// RSA from 2048 to 8192 bits, DSA of 1024, 2048 and 3072 bits, EC on a named curve of [`crate::model::curve`] with an uncompressed
    /// point, Ed25519 and Ed448, ML-DSA, ML-KEM, SLH-DSA, LMS and XMSS. Only one encoding of a key is accepted, so that its [fingerprint] names the
    /// key and not merely some bytes.
    ///
    /// # Errors
    /// What is wrong with the encoding or the key.
    ///
    /// [fingerprint]: Self::fingerprint
    pub fn from_spki(der: &[u8]) -> Result<Self, ParseError> {
        parse::spki(der)
    }

    /// Reads one `PUBLIC KEY` block of PEM.
    ///
    /// # Errors
    /// As [`Self::from_spki`], and when the text is not exactly such a block.
    pub fn from_pem(text: &str) -> Result<Self, ParseError> {
        match der::pem::decode_vec(text.as_bytes()) {
            Ok(("PUBLIC KEY", der)) => parse::spki(&der),
            _ => Err(ParseError::Pem),
        }
    }

    /// The contract's algorithm of the key.
    #[must_use]
    pub const fn algorithm(&self) -> KeyAlgorithm {
        match self.kind {
            Kind::Rsa(_) => KeyAlgorithm::Rsa,
            Kind::Dsa(_) => KeyAlgorithm::Dsa,
            Kind::Ec { .. } => KeyAlgorithm::Ec,
            Kind::Ed25519 | Kind::Ed448 => KeyAlgorithm::Ed,
            Kind::PostQuantum(algorithm) => algorithm,
        }
    }

    /// The curve of an EC or Ed25519 key.
    #[must_use]
    pub fn curve(&self) -> Option<Curve> {
        match self.kind {
            Kind::Rsa(_) | Kind::Dsa(_) | Kind::PostQuantum(_) => None,
            Kind::Ec { curve, .. } => Some(curve),
            Kind::Ed25519 => crate::model::curve::by_oid(crate::model::curve::ED25519_OID),
            Kind::Ed448 => crate::model::curve::by_oid(crate::model::curve::ED448_OID),
        }
    }

    /// Bits of the RSA modulus, of the prime of DSA, of the order of the curve's generator, or of the bytes that make up any other key.
    #[must_use]
    pub fn bits(&self) -> u32 {
        match &self.kind {
            Kind::Rsa(key) => rsa::bits(key),
            Kind::Dsa(key) => dsa::bits(key),
            Kind::Ec { curve, .. } => curve.order_bits,
            Kind::Ed25519 | Kind::Ed448 => self.curve().map_or(0, |curve| curve.order_bits),
            Kind::PostQuantum(_) => u32::try_from(self.bytes.len() * 8).unwrap_or(u32::MAX),
        }
    }

    /// The SubjectPublicKeyInfo, DER, as it was read.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo in lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(crate::model::digest::Hash::Sha256.digest(&self.spki))
    }

    /// The key as a `PUBLIC KEY` block of PEM with LF line ends.
    #[must_use]
    pub fn pem(&self) -> String {
        der::pem::encode_string("PUBLIC KEY", der::pem::LineEnding::LF, &self.spki)
            .expect("a short label and bytes in memory can always be written")
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}
