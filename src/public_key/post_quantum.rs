//! ML-DSA (FIPS 204), SLH-DSA (FIPS 205) and ML-KEM (FIPS 203): public keys are strings of bytes, and their identifiers
//! have no parameters (RFC 9881, RFC 9909, RFC 9935).

use aws_lc_rs::signature::{self as lc, UnparsedPublicKey};
use slh_dsa::{
    Sha2_128f, Sha2_128s, Sha2_192f, Sha2_192s, Sha2_256f, Sha2_256s, Shake128f, Shake128s, Shake192f,
    Shake192s, Shake256f, Shake256s,
};

use crate::model::KeyAlgorithm;

/// Bytes of a public key.
const fn length(algorithm: KeyAlgorithm) -> Option<usize> {
    use KeyAlgorithm as K;
    Some(match algorithm {
        K::MlKem512 => 800,
        K::MlKem768 => 1184,
        K::MlKem1024 => 1568,
        K::MlDsa44 => 1312,
        K::MlDsa65 => 1952,
        K::MlDsa87 => 2592,
        K::SlhDsaSha2128s | K::SlhDsaSha2128f | K::SlhDsaShake128s | K::SlhDsaShake128f => 32,
        K::SlhDsaSha2192s | K::SlhDsaSha2192f | K::SlhDsaShake192s | K::SlhDsaShake192f => 48,
        K::SlhDsaSha2256s | K::SlhDsaSha2256f | K::SlhDsaShake256s | K::SlhDsaShake256f => 64,
        _ => return None,
    })
}

/// The algorithm of an identifier, and how many bytes its public keys have.
pub(super) fn by_oid(oid: &str) -> Option<(KeyAlgorithm, usize)> {
    let named = KeyAlgorithm::ALL.iter().filter(|algorithm| algorithm.row().oid == oid);
    named.copied().find_map(|algorithm| Some((algorithm, length(algorithm)?)))
}

/// Whether a signature fits, made without a context; `None` where keys do not sign.
pub(super) fn verify(key: KeyAlgorithm, public: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
    use KeyAlgorithm as K;
    let lattice = |algorithm| UnparsedPublicKey::new(algorithm, public).verify(message, signature).is_ok();
    macro_rules! hashes {
        ($set:ty) => {{
            let key = slh_dsa::VerifyingKey::<$set>::try_from(public);
            let signature = slh_dsa::Signature::<$set>::try_from(signature);
            match (key, signature) {
                (Ok(key), Ok(signature)) => {
                    slh_dsa::signature::Verifier::verify(&key, message, &signature).is_ok()
                }
                _ => false,
            }
        }};
    }
    Some(match key {
        K::MlDsa44 => lattice(&lc::ML_DSA_44),
        K::MlDsa65 => lattice(&lc::ML_DSA_65),
        K::MlDsa87 => lattice(&lc::ML_DSA_87),
        K::SlhDsaSha2128s => hashes!(Sha2_128s),
        K::SlhDsaSha2128f => hashes!(Sha2_128f),
        K::SlhDsaSha2192s => hashes!(Sha2_192s),
        K::SlhDsaSha2192f => hashes!(Sha2_192f),
        K::SlhDsaSha2256s => hashes!(Sha2_256s),
        K::SlhDsaSha2256f => hashes!(Sha2_256f),
        K::SlhDsaShake128s => hashes!(Shake128s),
        K::SlhDsaShake128f => hashes!(Shake128f),
        K::SlhDsaShake192s => hashes!(Shake192s),
        K::SlhDsaShake192f => hashes!(Shake192f),
        K::SlhDsaShake256s => hashes!(Shake256s),
        K::SlhDsaShake256f => hashes!(Shake256f),
        _ => return None,
    })
}
