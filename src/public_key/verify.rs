//! Checks a signature, by aws-lc where it has the algorithm and by our own arithmetic elsewhere.

use super::{Kind, PublicKey, dsa, ecdsa, edwards, encoding, post_quantum, rsa, schnorr};
use crate::model::curve::Curve;
use crate::model::digest::Hash;
use crate::model::signature::{Input, Scheme, WrongDigestLength};
use crate::model::{KeyAlgorithm, SignatureAlgorithm};
use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self as lc, UnparsedPublicKey, VerificationAlgorithm};
use num_bigint::BigUint;

/// Why a signature could not be checked. A signature that does not fit is no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Keys of this algorithm do not sign so.
    #[error("{algorithm} is not a signature algorithm of {key} keys")]
    Mismatch {
        /// Algorithm asked for.
        algorithm: SignatureAlgorithm,
        /// Algorithm of the key.
        key: KeyAlgorithm,
    },
    /// The payload should be a digest.
    #[error(transparent)]
    DigestLength(#[from] WrongDigestLength),
    /// Signatures of this algorithm have no context.
    #[error("signatures of {0} have no context: ML-DSA and SLH-DSA alone have one")]
    Context(SignatureAlgorithm),
    /// The key could sign so, but nothing here can check it.
    #[error("signatures of {0} cannot be checked here")]
    Unsupported(SignatureAlgorithm),
}

impl PublicKey {
    /// Whether `signature` is this key's signature over `payload`.
    ///
    /// `payload` is what is sent to be signed: the message, or the digest where `algorithm` signs a
    /// digest that the caller made. A DSA or ECDSA signature may have any form of the contract: a DER
    /// sequence, `r‖s`, and for `KECCAK256_WITH_ECDSA` on secp256k1 also `r‖s‖v`, whose `v` must be
    /// right then (0 or 27, 1 or 28). DER must be strict, and `r` and `s` in range.
    ///
    /// # Errors
    /// When the question makes no sense: key and algorithm do not fit each other, or the payload is not
    /// a digest of the right length.
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        payload: &[u8],
        signature: &[u8],
    ) -> Result<bool, VerifyError> {
        let (key, row) = (self.algorithm(), algorithm.row());
        if !algorithm.fits(key) {
            return Err(VerifyError::Mismatch { algorithm, key });
        }
        match (&self.kind, row.scheme) {
            (Kind::Rsa(key), Scheme::RsaPkcs1 | Scheme::RsaPss(_)) => {
                if let Some(fast) = fast_rsa(row.scheme, row.input) {
                    return Ok(self.fast(fast).verify(payload, signature).is_ok());
                }
                let prepared = algorithm.prepare(payload)?;
                Ok(match row.scheme {
                    Scheme::RsaPss(hash) => rsa::verify_pss(key, hash, &prepared, signature),
                    _ => rsa::verify_pkcs1(key, algorithm.hash(), &prepared, signature),
                })
            }
            (Kind::Ec { curve, point }, Scheme::Ecdsa | Scheme::EcdsaDeterministic) => {
                let digest = algorithm.prepare(payload)?;
                Ok(self.verify_ecdsa(curve, point, algorithm, &digest, signature))
            }
            (Kind::Dsa(key), Scheme::Dsa) => Ok(dsa::verify(key, &algorithm.prepare(payload)?, signature)),
            (Kind::Ec { curve, point }, Scheme::SchnorrBip340) if curve.name == "secp256k1" => {
                let domain =
                    ecdsa::Domain::of(curve).expect("a key of kind EC has the parameters of its curve");
                Ok(schnorr::verify(domain, point, payload, signature))
            }
            (Kind::Ed448, Scheme::EdDsa) => Ok(edwards::verify_448(&self.bytes, payload, signature)),
            (Kind::Ed25519, Scheme::EdDsa) => Ok(self.fast(&lc::ED25519).verify(payload, signature).is_ok()),
            (Kind::PostQuantum(key), Scheme::Prehashed(hash)) => {
                post_quantum::in_context(Some(hash), b"", payload)
                    .and_then(|message| post_quantum::verify_inner(*key, &self.bytes, &message, signature))
                    .ok_or(VerifyError::Unsupported(algorithm))
            }
            (Kind::PostQuantum(_), Scheme::Native) if algorithm == SignatureAlgorithm::MlDsaMu => {
                Err(VerifyError::Unsupported(algorithm))
            }
            (Kind::PostQuantum(key), Scheme::Native) => {
                post_quantum::verify(*key, &self.bytes, payload, signature)
                    .ok_or(VerifyError::Unsupported(algorithm))
            }
            _ => Err(VerifyError::Unsupported(algorithm)),
        }
    }

    /// The same for a signature that was made in a context, of at most
    /// [`CONTEXT_MAX`](crate::model::context::CONTEXT_MAX) bytes; in an empty one it is the same as without.
    ///
    /// # Errors
    /// As [`Self::verify`], and when the algorithm has no contexts.
    pub fn verify_in_context(
        &self,
        algorithm: SignatureAlgorithm,
        context: &[u8],
        payload: &[u8],
        signature: &[u8],
    ) -> Result<bool, VerifyError> {
        if context.is_empty() {
            return self.verify(algorithm, payload, signature);
        }
        let key = self.algorithm();
        if !algorithm.takes_context() {
            return Err(VerifyError::Context(algorithm));
        }
        if !algorithm.fits(key) {
            return Err(VerifyError::Mismatch { algorithm, key });
        }
        let hash = match algorithm.row().scheme {
            Scheme::Prehashed(hash) => Some(hash),
            _ => None,
        };
        post_quantum::in_context(hash, context, payload)
            .and_then(|message| post_quantum::verify_inner(key, &self.bytes, &message, signature))
            .ok_or(VerifyError::Unsupported(algorithm))
    }

    fn fast(&self, algorithm: &'static dyn VerificationAlgorithm) -> UnparsedPublicKey<&[u8]> {
        UnparsedPublicKey::new(algorithm, &self.bytes)
    }

    fn verify_ecdsa(
        &self,
        curve: Curve,
        point: &ecdsa::Point,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
        signature: &[u8],
    ) -> bool {
        let half = curve.scalar_len();
        // One string of bytes can be both: then it is enough that one reading of it is a signature.
        if let Some((r, s)) = encoding::numbers_of_der(signature)
            && self.verify_numbers(curve, point, digest, &r, &s)
        {
            return true;
        }
        if signature.len() == 2 * half {
            let (r, s) = encoding::numbers_of_raw(signature);
            return self.verify_numbers(curve, point, digest, &r, &s);
        }
        if signature.len() == 2 * half + 1 && encoding::has_eth_form(algorithm, self) {
            let (v, raw) = (signature[2 * half], &signature[..2 * half]);
            let (r, s) = encoding::numbers_of_raw(raw);
            let y_is_odd = matches!(v, 1 | 28);
            return matches!(v, 0 | 1 | 27 | 28)
                && ecdsa::Domain::of(curve)
                    .and_then(|domain| domain.verify(point, digest, &r, &s))
                    .is_some_and(|signer| signer.x == r && signer.y.bit(0) == y_is_odd);
        }
        false
    }

    fn verify_numbers(
        &self,
        curve: Curve,
        point: &ecdsa::Point,
        digest: &[u8],
        r: &BigUint,
        s: &BigUint,
    ) -> bool {
        if let Some((algorithm, name)) = fast_ecdsa(curve, digest.len())
            && let Ok(digest) = Digest::import_less_safe(digest, name)
        {
            let der = encoding::numbers_to_der(r, s);
            return self.fast(algorithm).verify_digest(&digest, &der).is_ok();
        }
        ecdsa::Domain::of(curve).is_some_and(|domain| domain.verify(point, digest, r, s).is_some())
    }
}

/// What aws-lc has for RSA over a message. Prehashed and unusual ones go through the `rsa` crate.
fn fast_rsa(scheme: Scheme, input: Input) -> Option<&'static dyn VerificationAlgorithm> {
    let hash = match input {
        Input::Message(hash) => hash,
        Input::Digest(_) | Input::Bytes => return None,
    };
    Some(match (scheme, hash) {
        (Scheme::RsaPkcs1, Hash::Sha256) => &lc::RSA_PKCS1_2048_8192_SHA256,
        (Scheme::RsaPkcs1, Hash::Sha384) => &lc::RSA_PKCS1_2048_8192_SHA384,
        (Scheme::RsaPkcs1, Hash::Sha512) => &lc::RSA_PKCS1_2048_8192_SHA512,
        (Scheme::RsaPss(Hash::Sha256), Hash::Sha256) => &lc::RSA_PSS_2048_8192_SHA256,
        (Scheme::RsaPss(Hash::Sha384), Hash::Sha384) => &lc::RSA_PSS_2048_8192_SHA384,
        (Scheme::RsaPss(Hash::Sha512), Hash::Sha512) => &lc::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// What aws-lc has for a digest of so many bytes on a curve.
///
/// ECDSA knows nothing of a hash function beyond its length, so SHA3-256, Keccak-256 and a caller's own
/// 32 bytes go the same way as SHA-256.
fn fast_ecdsa(
    curve: Curve,
    digest_len: usize,
) -> Option<(&'static dyn VerificationAlgorithm, &'static digest::Algorithm)> {
    let algorithm: &'static dyn VerificationAlgorithm = match (curve.name, digest_len) {
        ("P-256", 32) => &lc::ECDSA_P256_SHA256_ASN1,
        ("P-256", 48) => &lc::ECDSA_P256_SHA384_ASN1,
        ("P-256", 64) => &lc::ECDSA_P256_SHA512_ASN1,
        ("P-384", 32) => &lc::ECDSA_P384_SHA256_ASN1,
        ("P-384", 48) => &lc::ECDSA_P384_SHA384_ASN1,
        ("P-384", 64) => &lc::ECDSA_P384_SHA512_ASN1,
        ("P-521", 32) => &lc::ECDSA_P521_SHA256_ASN1,
        ("P-521", 48) => &lc::ECDSA_P521_SHA384_ASN1,
        ("P-521", 64) => &lc::ECDSA_P521_SHA512_ASN1,
        ("secp256k1", 32) => &lc::ECDSA_P256K1_SHA256_ASN1,
        _ => return None,
    };
    let name = match digest_len {
        32 => &digest::SHA256,
        48 => &digest::SHA384,
        _ => &digest::SHA512,
    };
    Some((algorithm, name))
}
