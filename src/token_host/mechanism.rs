//! Which mechanism makes a signature, and of what bytes: tables over the contract's signature algorithms.
//!
//! The digest is computed here wherever the token has the bare mechanism: tokens differ most in which hashed
//! mechanisms they have, and hardly in the bare ones.

use std::{borrow::Cow, sync::OnceLock};

use cryptoki_sys::*;

use super::raw::{Mechanism, Pss};
use crate::{
    hsm::protocol::{HsmError, Kind},
    model::{
        KeyAlgorithm, SignatureAlgorithm,
        digest::Hash,
        signature::{Input, Scheme},
    },
};

/// Most bytes that are taken for a digest.
const DIGEST_MAX: usize = 64;

/// Mechanisms of one hash.
struct HashRow {
    hash: Hash,
    /// The hash itself and its mask generation function, as parameters.
    plain: CK_MECHANISM_TYPE,
    mgf: CK_RSA_PKCS_MGF_TYPE,
    /// The token hashes and signs.
    rsa_pkcs: CK_MECHANISM_TYPE,
    rsa_pss: CK_MECHANISM_TYPE,
    ecdsa: CK_MECHANISM_TYPE,
    dsa: CK_MECHANISM_TYPE,
}

macro_rules! hash_rows {
    ($($hash:ident $plain:ident $mgf:ident $pkcs:ident $pss:ident $ecdsa:ident $dsa:ident,)+) => {
        &[$(HashRow { hash: Hash::$hash, plain: $plain, mgf: $mgf, rsa_pkcs: $pkcs, rsa_pss: $pss, ecdsa: $ecdsa, dsa: $dsa },)+]
    };
}

#[rustfmt::skip]
static HASHES: &[HashRow] = hash_rows! {
    Sha1 CKM_SHA_1 CKG_MGF1_SHA1 CKM_SHA1_RSA_PKCS CKM_SHA1_RSA_PKCS_PSS CKM_ECDSA_SHA1 CKM_DSA_SHA1,
    Sha224 CKM_SHA224 CKG_MGF1_SHA224 CKM_SHA224_RSA_PKCS CKM_SHA224_RSA_PKCS_PSS CKM_ECDSA_SHA224 CKM_DSA_SHA224,
    Sha256 CKM_SHA256 CKG_MGF1_SHA256 CKM_SHA256_RSA_PKCS CKM_SHA256_RSA_PKCS_PSS CKM_ECDSA_SHA256 CKM_DSA_SHA256,
    Sha384 CKM_SHA384 CKG_MGF1_SHA384 CKM_SHA384_RSA_PKCS CKM_SHA384_RSA_PKCS_PSS CKM_ECDSA_SHA384 CKM_DSA_SHA384,
    Sha512 CKM_SHA512 CKG_MGF1_SHA512 CKM_SHA512_RSA_PKCS CKM_SHA512_RSA_PKCS_PSS CKM_ECDSA_SHA512 CKM_DSA_SHA512,
    Sha3_224 CKM_SHA3_224 CKG_MGF1_SHA3_224 CKM_SHA3_224_RSA_PKCS CKM_SHA3_224_RSA_PKCS_PSS CKM_ECDSA_SHA3_224 CKM_DSA_SHA3_224,
    Sha3_256 CKM_SHA3_256 CKG_MGF1_SHA3_256 CKM_SHA3_256_RSA_PKCS CKM_SHA3_256_RSA_PKCS_PSS CKM_ECDSA_SHA3_256 CKM_DSA_SHA3_256,
    Sha3_384 CKM_SHA3_384 CKG_MGF1_SHA3_384 CKM_SHA3_384_RSA_PKCS CKM_SHA3_384_RSA_PKCS_PSS CKM_ECDSA_SHA3_384 CKM_DSA_SHA3_384,
    Sha3_512 CKM_SHA3_512 CKG_MGF1_SHA3_512 CKM_SHA3_512_RSA_PKCS CKM_SHA3_512_RSA_PKCS_PSS CKM_ECDSA_SHA3_512 CKM_DSA_SHA3_512,
};

/// Hashes of which a token has no ECDSA mechanism that hashes itself.
pub fn without_hashed_ecdsa(mechanisms: &[CK_MECHANISM_TYPE]) -> Vec<Hash> {
    HASHES.iter().filter(|row| !mechanisms.contains(&row.ecdsa)).map(|row| row.hash).collect()
}

/// The number that the module has for signatures of BIP-340; a process has one module.
static SCHNORR: OnceLock<CK_MECHANISM_TYPE> = OnceLock::new();

/// Says which number the module has for signatures of BIP-340.
pub fn schnorr_is(number: CK_MECHANISM_TYPE) {
    SCHNORR.get_or_init(|| number);
}

/// What has to be known of a key to sign with it; read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyShape {
    /// Bytes of the modulus.
    Rsa(usize),
    /// Bytes of the group order.
    Dsa(usize),
    /// Bits of the group order.
    Ec(u32),
    /// Ed25519.
    Ed,
    /// Ed448.
    Ed448,
    /// An algorithm that has one mechanism to sign.
    Set(KeyAlgorithm),
    /// Anything that does not sign here.
    Other(CK_KEY_TYPE),
}

impl KeyShape {
    fn algorithm(self) -> Option<KeyAlgorithm> {
        match self {
            Self::Rsa(_) => Some(KeyAlgorithm::Rsa),
            Self::Dsa(_) => Some(KeyAlgorithm::Dsa),
            Self::Ec(_) => Some(KeyAlgorithm::Ec),
            Self::Ed | Self::Ed448 => Some(KeyAlgorithm::Ed),
            Self::Set(algorithm) => Some(algorithm),
            Self::Other(_) => None,
        }
    }
}

/// How a signature is made on a certain token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The token signs what was hashed here, or bare bytes.
    Bare(Mechanism),
    /// The token hashes the message itself.
    Hashed(Mechanism),
}

/// The way in which a token with these mechanisms makes a signature, if any.
pub fn way(algorithm: SignatureAlgorithm, mechanisms: &[CK_MECHANISM_TYPE]) -> Option<Way> {
    let row = algorithm.row();
    let hash_row = |hash: Hash| HASHES.iter().find(|row| row.hash == hash);
    let (bare, hashed): (_, fn(&HashRow) -> CK_MECHANISM_TYPE) = match row.scheme {
        Scheme::RsaPkcs1 => (Some(Mechanism::plain(CKM_RSA_PKCS)), |row| row.rsa_pkcs),
        Scheme::RsaPss(hash) => {
            (pss(hash).map(|pss| Mechanism::pss(CKM_RSA_PKCS_PSS, pss)), |row| row.rsa_pss)
        }
        Scheme::Ecdsa => (Some(Mechanism::plain(CKM_ECDSA)), |row| row.ecdsa),
        Scheme::Dsa => (Some(Mechanism::plain(CKM_DSA)), |row| row.dsa),
        Scheme::EdDsa => {
            return mechanisms.contains(&CKM_EDDSA).then_some(Way::Bare(Mechanism::plain(CKM_EDDSA)));
        }
        Scheme::Native => {
            // With no parameters: no context, and with fresh randomness where the module has it.
            let kind = match algorithm {
                SignatureAlgorithm::MlDsa => CKM_ML_DSA,
                SignatureAlgorithm::SlhDsa => CKM_SLH_DSA,
                SignatureAlgorithm::Lms => CKM_HSS,
                SignatureAlgorithm::XmssSha2 | SignatureAlgorithm::XmssShake => CKM_XMSS,
                _ => return None,
            };
            return mechanisms.contains(&kind).then_some(Way::Bare(Mechanism::plain(kind)));
        }
        Scheme::Prehashed(hash) => {
            let slh = algorithm.name().ends_with("_SLH_DSA");
            let kind = prehashing(hash, slh).filter(|kind| mechanisms.contains(kind))?;
            return Some(Way::Bare(Mechanism::plain(kind)));
        }
        Scheme::SchnorrBip340 => {
            let kind = *SCHNORR.get()?;
            return mechanisms.contains(&kind).then_some(Way::Bare(Mechanism::plain(kind)));
        }
        // A row for later: its mechanism is known and not served yet.
        Scheme::EcdsaDeterministic => return None,
    };
    if let Some(mechanism) = bare.filter(|mechanism| mechanisms.contains(&mechanism.kind)) {
        return Some(Way::Bare(mechanism));
    }
    let Input::Message(hash) = row.input else { return None };
    let kind = hashed(hash_row(hash)?);
    let mechanism = match row.scheme {
        Scheme::RsaPss(_) => Mechanism::pss(kind, pss(hash)?),
        _ => Mechanism::plain(kind),
    };
    mechanisms.contains(&kind).then_some(Way::Hashed(mechanism))
}

/// The mechanism of HashML-DSA, or of HashSLH-DSA, that hashes with this.
const fn prehashing(hash: Hash, slh: bool) -> Option<CK_MECHANISM_TYPE> {
    let (lattice, hashes) = match hash {
        Hash::Sha224 => (CKM_HASH_ML_DSA_SHA224, CKM_HASH_SLH_DSA_SHA224),
        Hash::Sha256 => (CKM_HASH_ML_DSA_SHA256, CKM_HASH_SLH_DSA_SHA256),
        Hash::Sha384 => (CKM_HASH_ML_DSA_SHA384, CKM_HASH_SLH_DSA_SHA384),
        Hash::Sha512 => (CKM_HASH_ML_DSA_SHA512, CKM_HASH_SLH_DSA_SHA512),
        Hash::Sha3_224 => (CKM_HASH_ML_DSA_SHA3_224, CKM_HASH_SLH_DSA_SHA3_224),
        Hash::Sha3_256 => (CKM_HASH_ML_DSA_SHA3_256, CKM_HASH_SLH_DSA_SHA3_256),
        Hash::Sha3_384 => (CKM_HASH_ML_DSA_SHA3_384, CKM_HASH_SLH_DSA_SHA3_384),
        Hash::Sha3_512 => (CKM_HASH_ML_DSA_SHA3_512, CKM_HASH_SLH_DSA_SHA3_512),
        Hash::Shake128 => (CKM_HASH_ML_DSA_SHAKE128, CKM_HASH_SLH_DSA_SHAKE128),
        Hash::Shake256 => (CKM_HASH_ML_DSA_SHAKE256, CKM_HASH_SLH_DSA_SHAKE256),
        _ => return None,
    };
    Some(if slh { hashes } else { lattice })
}

/// Numbers of a hash and of its mask generation function.
pub fn parameters(hash: Hash) -> Option<(CK_MECHANISM_TYPE, CK_RSA_PKCS_MGF_TYPE)> {
    HASHES.iter().find(|row| row.hash == hash).map(|row| (row.plain, row.mgf))
}

/// The usual parameters of RSASSA-PSS.
pub fn pss(hash: Hash) -> Option<Pss> {
    let row = HASHES.iter().find(|row| row.hash == hash)?;
    Some(Pss { hash: row.plain, mgf: row.mgf, salt: hash.len() as CK_ULONG })
}

/// The mechanism for a signature and the bytes to give to it.
///
/// # Errors
/// `Invalid` where payload or key do not suit the algorithm, `Unsupported` where the token lacks it.
pub fn plan<'a>(
    algorithm: SignatureAlgorithm,
    shape: KeyShape,
    mechanisms: &[CK_MECHANISM_TYPE],
    payload: &'a [u8],
) -> Result<(Mechanism, Cow<'a, [u8]>), HsmError> {
    let invalid = |message: String| HsmError::new(Kind::Invalid, message);
    match shape.algorithm() {
        Some(key) if algorithm.fits(key) => {}
        Some(key) => return Err(invalid(format!("{algorithm} does not suit a key of type {key}"))),
        None => return Err(invalid(format!("{algorithm} does not suit a key of this type"))),
    }
    let way = way(algorithm, mechanisms)
        .ok_or_else(|| HsmError::new(Kind::Unsupported, format!("the token does not make {algorithm}")))?;
    let (mechanism, data) = match way {
        Way::Hashed(mechanism) => return Ok((mechanism, Cow::Borrowed(payload))),
        Way::Bare(mechanism) => match algorithm.row().input {
            Input::Bytes => (mechanism, Cow::Borrowed(payload)),
            Input::Message(_) | Input::Digest(_) => {
                (mechanism, Cow::Owned(algorithm.prepare(payload).map_err(|e| invalid(e.to_string()))?))
            }
        },
    };
    match (algorithm.row().scheme, shape) {
        (Scheme::RsaPkcs1, KeyShape::Rsa(modulus)) => {
            let data = match algorithm.hash().and_then(Hash::digest_info_prefix) {
                Some(prefix) => Cow::Owned([prefix, &data].concat()),
                None => data,
            };
            let most = modulus.saturating_sub(11);
            if data.len() > most {
                return Err(invalid(format!(
                    "{algorithm} with this key signs at most {most} bytes, there are {}: hash the payload first",
                    data.len()
                )));
            }
            Ok((mechanism, data))
        }
        (Scheme::Ecdsa | Scheme::Dsa, KeyShape::Ec(_) | KeyShape::Dsa(_)) => {
            if data.is_empty() || data.len() > DIGEST_MAX {
                return Err(invalid(format!(
                    "{algorithm} signs a digest of 1 to {DIGEST_MAX} bytes, the payload has {}",
                    data.len()
                )));
            }
            Ok((mechanism, leftmost(data, order_bytes(shape))))
        }
        // PKCS#11 3.0: Ed448 has parameters always, and Ed25519 has none where it is pure.
        (Scheme::EdDsa, KeyShape::Ed448) => Ok((Mechanism::with_context(mechanism.kind, b""), data)),
        _ => Ok((mechanism, data)),
    }
}

fn order_bytes(shape: KeyShape) -> usize {
    match shape {
        KeyShape::Ec(bits) => bits.div_ceil(8) as usize,
        KeyShape::Dsa(bytes) => bytes,
        _ => 0,
    }
}

/// A digest cut to as many bytes as the order has, as X9.62 says. Where the order does not end on a byte, the
/// last bits are the token's to drop: dropped here, it would drop as many again.
fn leftmost(digest: Cow<'_, [u8]>, bytes: usize) -> Cow<'_, [u8]> {
    match digest {
        digest if digest.len() <= bytes => digest,
        Cow::Borrowed(digest) => Cow::Borrowed(&digest[..bytes]),
        Cow::Owned(mut digest) => {
            digest.truncate(bytes);
            Cow::Owned(digest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SignatureAlgorithm as A;

    const SOFTHSM: &[CK_MECHANISM_TYPE] = &[CKM_RSA_PKCS, CKM_RSA_PKCS_PSS, CKM_DSA, CKM_ECDSA, CKM_EDDSA];

    #[test]
    fn a_token_without_hashed_ecdsa_still_makes_every_row() {
        for algorithm in A::ALL {
            let served = matches!(
                algorithm.row().scheme,
                Scheme::RsaPkcs1 | Scheme::RsaPss(_) | Scheme::Dsa | Scheme::Ecdsa | Scheme::EdDsa
            );
            assert_eq!(way(*algorithm, SOFTHSM).is_some(), served, "{algorithm}");
        }
    }

    #[test]
    fn the_hashed_mechanism_is_taken_where_the_bare_one_is_missing() {
        let hashed = way(A::Sha256WithEcdsa, &[CKM_ECDSA_SHA256]);
        assert_eq!(hashed, Some(Way::Hashed(Mechanism::plain(CKM_ECDSA_SHA256))));
        assert_eq!(way(A::NoneWithEcdsa, &[CKM_ECDSA_SHA256]), None);
        assert_eq!(way(A::Keccak256WithEcdsa, &[CKM_ECDSA_SHA256]), None);
        let Some(Way::Hashed(hashed)) = way(A::Sha384WithRsaPss, &[CKM_SHA384_RSA_PKCS_PSS]) else {
            panic!()
        };
        assert_eq!(hashed, Mechanism::pss(CKM_SHA384_RSA_PKCS_PSS, pss(Hash::Sha384).unwrap()));
        assert_eq!(pss(Hash::Sha384).unwrap().salt, 48);
    }

    #[test]
    fn digests_are_cut_to_the_order_and_absurd_ones_refused() {
        let cut = |bits, payload: &[u8]| {
            plan(A::NoneWithEcdsa, KeyShape::Ec(bits), SOFTHSM, payload).map(|(_, data)| data.len())
        };
        assert_eq!(cut(256, &[1; 64]), Ok(32));
        assert_eq!(cut(521, &[1; 64]), Ok(64));
        assert_eq!(cut(225, &[1; 32]), Ok(29));
        assert_eq!(cut(256, &[1; 20]), Ok(20));
        assert_eq!(cut(256, &[]).unwrap_err().kind, Kind::Invalid);
        assert_eq!(cut(256, &[1; 65]).unwrap_err().kind, Kind::Invalid);
    }

    #[test]
    fn bare_rsa_has_room_for_its_padding() {
        let plan = |length| plan(A::NoneWithRsa, KeyShape::Rsa(256), SOFTHSM, &vec![1; length]).map(|_| ());
        assert_eq!(plan(245), Ok(()));
        assert_eq!(plan(246).unwrap_err().kind, Kind::Invalid);
    }

    #[test]
    fn a_key_of_another_type_is_the_callers_mistake() {
        let error = plan(A::EdDsa, KeyShape::Rsa(256), SOFTHSM, b"x").unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (Kind::Invalid, "EDDSA does not suit a key of type RSA")
        );
    }
}
