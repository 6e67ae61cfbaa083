//! ML-DSA (FIPS 204), SLH-DSA (FIPS 205), ML-KEM (FIPS 203), LMS (RFC 8554) and XMSS (RFC 8391): public keys are strings of
//! bytes, and their identifiers have no parameters (RFC 9881, RFC 9909, RFC 9935, RFC 9708, RFC 9802).

use aws_lc_rs::signature::{self as lc, UnparsedPublicKey};
use slh_dsa::{
    Sha2_128f, Sha2_128s, Sha2_192f, Sha2_192s, Sha2_256f, Sha2_256s, Shake128f, Shake128s, Shake192f,
    Shake192s, Shake256f, Shake256s,
};

use super::{hss, xmss};
use crate::model::{KeyAlgorithm, digest::Hash};

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
        K::Lms => hss::LENGTH,
        K::XmssSha2 | K::XmssShake => xmss::LENGTH,
        _ => return None,
    })
}

/// The algorithm of an identifier, and how many bytes its public keys have.
pub(super) fn by_oid(oid: &str) -> Option<(KeyAlgorithm, usize)> {
    let named = KeyAlgorithm::ALL.iter().filter(|algorithm| algorithm.row().oid == oid);
    named.copied().find_map(|algorithm| Some((algorithm, length(algorithm)?)))
}

/// What a public key is that has the identifier of `algorithm` and the right length: one may be that of several, and the bytes
/// say which. `None` where they say something that is not known here.
pub(super) fn told(algorithm: KeyAlgorithm, public: &[u8]) -> Option<KeyAlgorithm> {
    use KeyAlgorithm as K;
    match algorithm {
        K::Lms => hss::is_sound(public).then_some(algorithm),
        K::XmssSha2 | K::XmssShake => Some(match xmss::Set::of(public)? {
            xmss::Set::Sha256 => K::XmssSha2,
            xmss::Set::Shake256 => K::XmssShake,
        }),
        other => Some(other),
    }
}

/// What a macro makes of the parameters of an SLH-DSA key; `None` of any other.
macro_rules! of_hashes {
    ($key:expr, $with:ident) => {
        Some(match $key {
            K::SlhDsaSha2128s => $with!(Sha2_128s),
            K::SlhDsaSha2128f => $with!(Sha2_128f),
            K::SlhDsaSha2192s => $with!(Sha2_192s),
            K::SlhDsaSha2192f => $with!(Sha2_192f),
            K::SlhDsaSha2256s => $with!(Sha2_256s),
            K::SlhDsaSha2256f => $with!(Sha2_256f),
            K::SlhDsaShake128s => $with!(Shake128s),
            K::SlhDsaShake128f => $with!(Shake128f),
            K::SlhDsaShake192s => $with!(Shake192s),
            K::SlhDsaShake192f => $with!(Shake192f),
            K::SlhDsaShake256s => $with!(Shake256s),
            K::SlhDsaShake256f => $with!(Shake256f),
            _ => return None,
        })
    };
}

/// What is signed by the inner algorithm: of HashML-DSA and HashSLH-DSA, which hash (FIPS 204, algorithm 4; FIPS 205,
/// algorithm 23), or of the pure ones (algorithms 2 and 22). `None` where the hash has no identifier or the context is too
/// long.
pub(super) fn in_context(hash: Option<Hash>, context: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let length = [u8::try_from(context.len()).ok()?];
    Some(match hash {
        Some(hash) => [&[1], &length[..], context, hash.oid()?, &hash.digest(message)].concat(),
        None => [&[0], &length[..], context, message].concat(),
    })
}

/// Whether a signature by the inner algorithm fits; `None` where keys do not sign.
pub(super) fn verify_inner(
    key: KeyAlgorithm,
    public: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Option<bool> {
    use KeyAlgorithm as K;
    macro_rules! lattice {
        ($set:ty) => {{
            let key = ml_dsa::EncodedVerifyingKey::<$set>::try_from(public).ok();
            let signature = ml_dsa::Signature::<$set>::try_from(signature).ok();
            key.zip(signature).is_some_and(|(key, signature)| {
                ml_dsa::VerifyingKey::<$set>::decode(&key).verify_internal(message, &signature)
            })
        }};
    }
    macro_rules! hashes {
        ($set:ty) => {{
            let key = slh_dsa::VerifyingKey::<$set>::try_from(public).ok();
            let signature = slh_dsa::Signature::<$set>::try_from(signature).ok();
            key.zip(signature)
                .is_some_and(|(key, signature)| key.slh_verify_internal(&[message], &signature).is_ok())
        }};
    }
    Some(match key {
        K::MlDsa44 => lattice!(ml_dsa::MlDsa44),
        K::MlDsa65 => lattice!(ml_dsa::MlDsa65),
        K::MlDsa87 => lattice!(ml_dsa::MlDsa87),
        other => return of_hashes!(other, hashes),
    })
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
        K::Lms => hss::verify(public, message, signature),
        K::XmssSha2 | K::XmssShake => xmss::verify(public, message, signature),
        other => return of_hashes!(other, hashes),
    })
}
