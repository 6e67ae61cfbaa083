//! Signature algorithms of the REST contract (its section 2.3), as one table.

use super::{KeyAlgorithm, digest::Hash, vocabulary::vocabulary};

vocabulary! {
    /// What is done with a payload to sign it.
    SignatureAlgorithm {
        Sha1WithRsa = "SHA1_WITH_RSA",
        Sha224WithRsa = "SHA224_WITH_RSA",
        Sha256WithRsa = "SHA256_WITH_RSA",
        Sha384WithRsa = "SHA384_WITH_RSA",
        Sha512WithRsa = "SHA512_WITH_RSA",
        Sha1WithRsaPss = "SHA1_WITH_RSA_PSS",
        Sha224WithRsaPss = "SHA224_WITH_RSA_PSS",
        Sha256WithRsaPss = "SHA256_WITH_RSA_PSS",
        Sha384WithRsaPss = "SHA384_WITH_RSA_PSS",
        Sha512WithRsaPss = "SHA512_WITH_RSA_PSS",
        NoneWithRsa = "NONE_WITH_RSA",
        NoneWithRsaPss = "NONE_WITH_RSA_PSS",
        NoneSha1WithRsa = "NONESHA1_WITH_RSA",
        NoneSha224WithRsa = "NONESHA224_WITH_RSA",
        NoneSha256WithRsa = "NONESHA256_WITH_RSA",
        NoneSha384WithRsa = "NONESHA384_WITH_RSA",
        NoneSha512WithRsa = "NONESHA512_WITH_RSA",
        NoneSha224WithRsaPss = "NONESHA224_WITH_RSA_PSS",
        NoneSha256WithRsaPss = "NONESHA256_WITH_RSA_PSS",
        NoneSha384WithRsaPss = "NONESHA384_WITH_RSA_PSS",
        NoneSha512WithRsaPss = "NONESHA512_WITH_RSA_PSS",
        NoneWithDsa = "NONE_WITH_DSA",
        Sha1WithDsa = "SHA1_WITH_DSA",
        Sha224WithDsa = "SHA224_WITH_DSA",
        Sha256WithDsa = "SHA256_WITH_DSA",
        Sha384WithDsa = "SHA384_WITH_DSA",
        Sha512WithDsa = "SHA512_WITH_DSA",
        NoneWithEcdsa = "NONE_WITH_ECDSA",
        Sha1WithEcdsa = "SHA1_WITH_ECDSA",
        Sha224WithEcdsa = "SHA224_WITH_ECDSA",
        Sha256WithEcdsa = "SHA256_WITH_ECDSA",
        Sha384WithEcdsa = "SHA384_WITH_ECDSA",
        Sha512WithEcdsa = "SHA512_WITH_ECDSA",
        Sha3224WithEcdsa = "SHA3224_WITH_ECDSA",
        Sha3256WithEcdsa = "SHA3256_WITH_ECDSA",
        Sha3384WithEcdsa = "SHA3384_WITH_ECDSA",
        Sha3512WithEcdsa = "SHA3512_WITH_ECDSA",
        DoubleSha256WithEcdsa = "DOUBLE_SHA256_WITH_ECDSA",
        Keccak224WithEcdsa = "KECCAK224_WITH_ECDSA",
        Keccak256WithEcdsa = "KECCAK256_WITH_ECDSA",
        Keccak384WithEcdsa = "KECCAK384_WITH_ECDSA",
        Keccak512WithEcdsa = "KECCAK512_WITH_ECDSA",
        Sha256WithEcdsaDeterministic = "SHA256_WITH_ECDSA_DETERMINISTIC",
        NoneWithEcSchnorrBip0340 = "NONE_WITH_EC_SCHNORR_BIP0340",
        EdDsa = "EDDSA",
        Bls = "BLS",
        IssKerl = "ISS_KERL",
        MlDsa = "ML_DSA" | "DILITHIUM",
        SlhDsa = "SLH_DSA" | "SPHINCS_PLUS",
        MlDsaMu = "ML_DSA_M",
        Sha2224WithMlDsa = "SHA2_224_WITH_ML_DSA",
        Sha2256WithMlDsa = "SHA2_256_WITH_ML_DSA",
        Sha2384WithMlDsa = "SHA2_384_WITH_ML_DSA",
        Sha2512WithMlDsa = "SHA2_512_WITH_ML_DSA",
        Sha3224WithMlDsa = "SHA3_224_WITH_ML_DSA",
        Sha3256WithMlDsa = "SHA3_256_WITH_ML_DSA",
        Sha3384WithMlDsa = "SHA3_384_WITH_ML_DSA",
        Sha3512WithMlDsa = "SHA3_512_WITH_ML_DSA",
        Shake128WithMlDsa = "SHAKE_128_WITH_ML_DSA",
        Shake256WithMlDsa = "SHAKE_256_WITH_ML_DSA",
        Sha2224WithSlhDsa = "SHA2_224_WITH_SLH_DSA",
        Sha2256WithSlhDsa = "SHA2_256_WITH_SLH_DSA",
        Sha2384WithSlhDsa = "SHA2_384_WITH_SLH_DSA",
        Sha2512WithSlhDsa = "SHA2_512_WITH_SLH_DSA",
        Sha3224WithSlhDsa = "SHA3_224_WITH_SLH_DSA",
        Sha3256WithSlhDsa = "SHA3_256_WITH_SLH_DSA",
        Sha3384WithSlhDsa = "SHA3_384_WITH_SLH_DSA",
        Sha3512WithSlhDsa = "SHA3_512_WITH_SLH_DSA",
        Shake128WithSlhDsa = "SHAKE_128_WITH_SLH_DSA",
        Shake256WithSlhDsa = "SHAKE_256_WITH_SLH_DSA",
        Lms = "LMS",
        XmssSha2 = "XMSS-SHA256_10_256",
        XmssShake = "XMSS-SHAKE256_10_256",
    }
}

vocabulary! {
    /// How a signature is written.
    #[derive(Default)]
    SignatureType {
        /// The algorithm's native form: a DER sequence for ECDSA and DSA, plain bytes for the others.
        #[default]
        Der = "DER",
        /// DSA and ECDSA: r and s one after the other, both as wide as the order of the group.
        Raw = "RAW",
        /// r, s and a recovery byte of 27 or 28; for `KECCAK256_WITH_ECDSA` on secp256k1 only.
        Eth = "ETH",
    }
}

/// What the payload is to the algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A message, hashed with this function before it is signed.
    Message(Hash),
    /// A digest that this function made; its length is checked.
    Digest(Hash),
    /// Bytes that are signed as they are.
    Bytes,
}

/// What is done with the input. Everything a PKCS#11 token or a verifier needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5; with a `DigestInfo` where the input has a hash, bare otherwise.
    RsaPkcs1,
    /// RSASSA-PSS, MGF1 and salt length by the same hash.
    RsaPss(Hash),
    /// DSA over a digest, cut to the subprime's bits as the standard says.
    Dsa,
    /// ECDSA over a digest, cut to the order's bits as the standard says.
    Ecdsa,
    /// ECDSA with the nonce of RFC 6979: only a token that has it can make it.
    EcdsaDeterministic,
    /// BIP-340 Schnorr.
    SchnorrBip340,
    /// Pure EdDSA.
    EdDsa,
    /// A signature that one named mechanism of the token makes of the message.
    Native,
    /// HashML-DSA and HashSLH-DSA (FIPS 204 and 205): the digest is signed together with the name of its hash, by a
    /// mechanism of the token that hashes, too.
    Prehashed(Hash),
}

/// One signature algorithm.
#[derive(Debug)]
pub struct SignatureRow {
    /// The algorithm.
    pub algorithm: SignatureAlgorithm,
    /// What the payload is.
    pub input: Input,
    /// What is done with it.
    pub scheme: Scheme,
}

impl SignatureAlgorithm {
    /// The algorithm's row of the table.
    #[must_use]
    pub fn row(self) -> &'static SignatureRow {
        ROWS.iter().find(|row| row.algorithm == self).expect("a test proves that every algorithm has its row")
    }

    /// Whether keys of `algorithm` sign with this.
    #[must_use]
    pub fn fits(self, algorithm: KeyAlgorithm) -> bool {
        use KeyAlgorithm as K;
        match self.row().scheme {
            Scheme::RsaPkcs1 | Scheme::RsaPss(_) => algorithm == K::Rsa,
            Scheme::Dsa => algorithm == K::Dsa,
            Scheme::Ecdsa | Scheme::EcdsaDeterministic | Scheme::SchnorrBip340 => algorithm == K::Ec,
            Scheme::EdDsa => algorithm == K::Ed,
            Scheme::Prehashed(_) => {
                let family = if self.name().ends_with("_SLH_DSA") { "SLH-DSA" } else { "ML-DSA" };
                algorithm.name().starts_with(family)
            }
            Scheme::Native => match self {
                Self::Bls => algorithm == K::Bls,
                Self::IssKerl => algorithm == K::Iss,
                Self::MlDsa | Self::MlDsaMu => algorithm.name().starts_with("ML-DSA"),
                Self::SlhDsa => algorithm.name().starts_with("SLH-DSA"),
                Self::Lms => algorithm == K::Lms,
                Self::XmssSha2 => algorithm == K::XmssSha2,
                Self::XmssShake => algorithm == K::XmssShake,
                _ => false,
            },
        }
    }

    /// Whether keys that sign so have a state, see [`KeyAlgorithm::is_stateful`].
    #[must_use]
    pub const fn is_stateful(self) -> bool {
        matches!(self, Self::Lms | Self::XmssSha2 | Self::XmssShake)
    }

    /// Whether it signs a context along with the message: ML-DSA and SLH-DSA, also where they hash first (FIPS 204, FIPS 205).
    #[must_use]
    pub fn takes_context(self) -> bool {
        matches!(self, Self::MlDsa | Self::SlhDsa) || matches!(self.row().scheme, Scheme::Prehashed(_))
    }

    /// Turns a payload into what the scheme signs: a digest, or the bytes themselves.
    ///
    /// # Errors
    /// When the payload should be a digest and has another length.
    pub fn prepare(self, payload: &[u8]) -> Result<Vec<u8>, WrongDigestLength> {
        match self.row().input {
            Input::Message(hash) => Ok(hash.digest(payload)),
            Input::Digest(hash) if payload.len() == hash.len() => Ok(payload.to_vec()),
            Input::Digest(hash) => {
                Err(WrongDigestLength { algorithm: self, expected: hash.len(), given: payload.len() })
            }
            Input::Bytes => Ok(payload.to_vec()),
        }
    }

    /// The hash that made the scheme's input, where the algorithm says.
    #[must_use]
    pub fn hash(self) -> Option<Hash> {
        match self.row().input {
            Input::Message(hash) | Input::Digest(hash) => Some(hash),
            Input::Bytes => None,
        }
    }
}

/// A payload that should be a digest has another length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{algorithm} signs a digest of {expected} bytes, the payload has {given}")]
pub struct WrongDigestLength {
    /// Algorithm asked for.
    pub algorithm: SignatureAlgorithm,
    /// Bytes of the digest it signs.
    pub expected: usize,
    /// Bytes given.
    pub given: usize,
}

/// The table.
#[rustfmt::skip]
static ROWS: &[SignatureRow] = {
    use Hash::{DoubleSha256, Keccak224, Keccak256, Keccak384, Keccak512, Sha1, Sha224, Sha256, Sha3_224, Sha3_256, Sha3_384, Sha3_512, Sha384, Sha512, Shake128, Shake256};
    use Input::{Bytes, Digest, Message};
    use Scheme::{Dsa, Ecdsa, EcdsaDeterministic, EdDsa, Native, Prehashed, RsaPkcs1, RsaPss, SchnorrBip340};
    use SignatureAlgorithm as A;
    const fn row(algorithm: SignatureAlgorithm, input: Input, scheme: Scheme) -> SignatureRow {
        SignatureRow { algorithm, input, scheme }
    }
    &[
        row(A::Sha1WithRsa, Message(Sha1), RsaPkcs1),
        row(A::Sha224WithRsa, Message(Sha224), RsaPkcs1),
        row(A::Sha256WithRsa, Message(Sha256), RsaPkcs1),
        row(A::Sha384WithRsa, Message(Sha384), RsaPkcs1),
        row(A::Sha512WithRsa, Message(Sha512), RsaPkcs1),
        row(A::Sha1WithRsaPss, Message(Sha1), RsaPss(Sha1)),
        row(A::Sha224WithRsaPss, Message(Sha224), RsaPss(Sha224)),
        row(A::Sha256WithRsaPss, Message(Sha256), RsaPss(Sha256)),
        row(A::Sha384WithRsaPss, Message(Sha384), RsaPss(Sha384)),
        row(A::Sha512WithRsaPss, Message(Sha512), RsaPss(Sha512)),
        row(A::NoneWithRsa, Bytes, RsaPkcs1),
        // The hash is not in the contract; its published client signs and verifies SHA-256 digests with it.
        row(A::NoneWithRsaPss, Digest(Sha256), RsaPss(Sha256)),
        row(A::NoneSha1WithRsa, Digest(Sha1), RsaPkcs1),
        row(A::NoneSha224WithRsa, Digest(Sha224), RsaPkcs1),
        row(A::NoneSha256WithRsa, Digest(Sha256), RsaPkcs1),
        row(A::NoneSha384WithRsa, Digest(Sha384), RsaPkcs1),
        row(A::NoneSha512WithRsa, Digest(Sha512), RsaPkcs1),
        row(A::NoneSha224WithRsaPss, Digest(Sha224), RsaPss(Sha224)),
        row(A::NoneSha256WithRsaPss, Digest(Sha256), RsaPss(Sha256)),
        row(A::NoneSha384WithRsaPss, Digest(Sha384), RsaPss(Sha384)),
        row(A::NoneSha512WithRsaPss, Digest(Sha512), RsaPss(Sha512)),
        row(A::NoneWithDsa, Bytes, Dsa),
        row(A::Sha1WithDsa, Message(Sha1), Dsa),
        row(A::Sha224WithDsa, Message(Sha224), Dsa),
        row(A::Sha256WithDsa, Message(Sha256), Dsa),
        row(A::Sha384WithDsa, Message(Sha384), Dsa),
        row(A::Sha512WithDsa, Message(Sha512), Dsa),
        row(A::NoneWithEcdsa, Bytes, Ecdsa),
        row(A::Sha1WithEcdsa, Message(Sha1), Ecdsa),
        row(A::Sha224WithEcdsa, Message(Sha224), Ecdsa),
        row(A::Sha256WithEcdsa, Message(Sha256), Ecdsa),
        row(A::Sha384WithEcdsa, Message(Sha384), Ecdsa),
        row(A::Sha512WithEcdsa, Message(Sha512), Ecdsa),
        row(A::Sha3224WithEcdsa, Message(Sha3_224), Ecdsa),
        row(A::Sha3256WithEcdsa, Message(Sha3_256), Ecdsa),
        row(A::Sha3384WithEcdsa, Message(Sha3_384), Ecdsa),
        row(A::Sha3512WithEcdsa, Message(Sha3_512), Ecdsa),
        row(A::DoubleSha256WithEcdsa, Message(DoubleSha256), Ecdsa),
        row(A::Keccak224WithEcdsa, Message(Keccak224), Ecdsa),
        row(A::Keccak256WithEcdsa, Message(Keccak256), Ecdsa),
        row(A::Keccak384WithEcdsa, Message(Keccak384), Ecdsa),
        row(A::Keccak512WithEcdsa, Message(Keccak512), Ecdsa),
        row(A::Sha256WithEcdsaDeterministic, Message(Sha256), EcdsaDeterministic),
        row(A::NoneWithEcSchnorrBip0340, Bytes, SchnorrBip340),
        row(A::EdDsa, Bytes, EdDsa),
        row(A::Bls, Bytes, Native),
        row(A::IssKerl, Bytes, Native),
        row(A::MlDsa, Bytes, Native),
        row(A::SlhDsa, Bytes, Native),
        row(A::MlDsaMu, Bytes, Native),
        row(A::Sha2224WithMlDsa, Bytes, Prehashed(Sha224)),
        row(A::Sha2256WithMlDsa, Bytes, Prehashed(Sha256)),
        row(A::Sha2384WithMlDsa, Bytes, Prehashed(Sha384)),
        row(A::Sha2512WithMlDsa, Bytes, Prehashed(Sha512)),
        row(A::Sha3224WithMlDsa, Bytes, Prehashed(Sha3_224)),
        row(A::Sha3256WithMlDsa, Bytes, Prehashed(Sha3_256)),
        row(A::Sha3384WithMlDsa, Bytes, Prehashed(Sha3_384)),
        row(A::Sha3512WithMlDsa, Bytes, Prehashed(Sha3_512)),
        row(A::Shake128WithMlDsa, Bytes, Prehashed(Shake128)),
        row(A::Shake256WithMlDsa, Bytes, Prehashed(Shake256)),
        row(A::Sha2224WithSlhDsa, Bytes, Prehashed(Sha224)),
        row(A::Sha2256WithSlhDsa, Bytes, Prehashed(Sha256)),
        row(A::Sha2384WithSlhDsa, Bytes, Prehashed(Sha384)),
        row(A::Sha2512WithSlhDsa, Bytes, Prehashed(Sha512)),
        row(A::Sha3224WithSlhDsa, Bytes, Prehashed(Sha3_224)),
        row(A::Sha3256WithSlhDsa, Bytes, Prehashed(Sha3_256)),
        row(A::Sha3384WithSlhDsa, Bytes, Prehashed(Sha3_384)),
        row(A::Sha3512WithSlhDsa, Bytes, Prehashed(Sha3_512)),
        row(A::Shake128WithSlhDsa, Bytes, Prehashed(Shake128)),
        row(A::Shake256WithSlhDsa, Bytes, Prehashed(Shake256)),
        row(A::Lms, Bytes, Native),
        row(A::XmssSha2, Bytes, Native),
        row(A::XmssShake, Bytes, Native),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_exactly_one_row_and_some_key() {
        for algorithm in SignatureAlgorithm::ALL {
            assert_eq!(ROWS.iter().filter(|row| row.algorithm == *algorithm).count(), 1, "{algorithm}");
            assert!(KeyAlgorithm::ALL.iter().any(|key| algorithm.fits(*key)), "{algorithm}");
        }
    }

    #[test]
    fn algorithms_of_keys_with_a_state_are_the_same_on_both_sides() {
        for algorithm in SignatureAlgorithm::ALL {
            for key in KeyAlgorithm::ALL.iter().filter(|key| algorithm.fits(**key)) {
                assert_eq!(algorithm.is_stateful(), key.is_stateful(), "{algorithm} {key}");
            }
        }
    }

    #[test]
    fn names_of_the_drafts_are_read_and_not_written() {
        assert_eq!("DILITHIUM".parse(), Ok(SignatureAlgorithm::MlDsa));
        assert_eq!("SPHINCS_PLUS".parse::<SignatureAlgorithm>().unwrap().name(), "SLH_DSA");
    }

    #[test]
    fn a_digest_of_another_length_is_refused() {
        assert!(SignatureAlgorithm::NoneSha384WithRsa.prepare(&[0; 48]).is_ok());
        assert_eq!(
            SignatureAlgorithm::NoneSha384WithRsa.prepare(&[0; 32]).unwrap_err().to_string(),
            "NONESHA384_WITH_RSA signs a digest of 48 bytes, the payload has 32"
        );
    }
}
