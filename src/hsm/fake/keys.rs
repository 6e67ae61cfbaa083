//! Private keys of the fake, and what is done with them.

use aws_lc_rs::{
    digest::{self, Digest},
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::{SecureRandom, SystemRandom},
    rsa::{self, KeySize},
    signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair},
};
use der::{
    Decode, Sequence,
    asn1::{AnyRef, OctetStringRef, UintRef},
};
use num_bigint::BigUint;

use super::super::protocol::{HsmError, Kind};
use crate::model::{KeyAlgorithm, SignatureAlgorithm, curve, digest::Hash, signature::Scheme};

pub(super) enum Private {
    Rsa { spki: Vec<u8>, numbers: Box<Numbers> },
    Ec { pair: EcdsaKeyPair, digest: &'static digest::Algorithm },
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

/// An RSA key, for the operations that aws-lc does not offer.
pub(super) struct Numbers {
    n: BigUint,
    p: BigUint,
    q: BigUint,
    dp: BigUint,
    dq: BigUint,
    inverse: BigUint,
}

#[derive(Sequence)]
struct Pkcs8<'a> {
    version: u8,
    algorithm: AnyRef<'a>,
    key: &'a OctetStringRef,
}

#[derive(Sequence)]
struct Pkcs1<'a> {
    version: u8,
    n: UintRef<'a>,
    e: UintRef<'a>,
    d: UintRef<'a>,
    p: UintRef<'a>,
    q: UintRef<'a>,
    dp: UintRef<'a>,
    dq: UintRef<'a>,
    inverse: UintRef<'a>,
}

pub(super) fn unsupported(what: impl std::fmt::Display) -> HsmError {
    HsmError::new(Kind::Unsupported, format!("the fake has no {what}"))
}

pub(super) fn broken(what: impl std::fmt::Display) -> HsmError {
    HsmError::new(Kind::Device, format!("the fake failed: {what}"))
}

pub(super) fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).expect("there is always randomness");
    bytes
}

impl Private {
    pub(super) fn generate(
        algorithm: KeyAlgorithm,
        size: Option<u32>,
        curve_oid: Option<&str>,
    ) -> Result<Self, HsmError> {
        match algorithm {
            KeyAlgorithm::Rsa => {
                let size = match size {
                    Some(2048) => KeySize::Rsa2048,
                    Some(3072) => KeySize::Rsa3072,
                    Some(4096) => KeySize::Rsa4096,
                    other => return Err(unsupported(format_args!("RSA keys of {other:?} bits"))),
                };
                let pair: RsaKeyPair = rsa::KeyPair::generate(size).map_err(broken)?;
                let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(broken)?;
                let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(broken)?;
                let numbers = Numbers::read(pkcs8.as_ref()).map_err(broken)?;
                Ok(Self::Rsa { spki: spki.as_ref().to_vec(), numbers: Box::new(numbers) })
            }
            KeyAlgorithm::Ec => {
                let name = curve_oid.and_then(curve::by_oid).map_or("no", |curve| curve.name);
                let (signing, digest): (&'static EcdsaSigningAlgorithm, _) = match name {
                    "P-256" => (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &digest::SHA256),
                    "P-384" => (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, &digest::SHA384),
                    "P-521" => (&signature::ECDSA_P521_SHA512_FIXED_SIGNING, &digest::SHA512),
                    "secp256k1" => (&signature::ECDSA_P256K1_SHA256_FIXED_SIGNING, &digest::SHA256),
                    other => return Err(unsupported(format_args!("keys on {other} curve"))),
                };
                Ok(Self::Ec { pair: EcdsaKeyPair::generate(signing).map_err(broken)?, digest })
            }
            KeyAlgorithm::Ed => Ok(Self::Ed(Ed25519KeyPair::generate().map_err(broken)?)),
            KeyAlgorithm::Aes => Ok(Self::Secret(random(size.unwrap_or(256) as usize / 8))),
            KeyAlgorithm::HmacSha256 => Ok(Self::Secret(random(32))),
            other => Err(unsupported(format_args!("{other} keys"))),
        }
    }

    /// The public half, DER.
    pub(super) fn spki(&self) -> Result<Option<Vec<u8>>, HsmError> {
        let spki = match self {
            Self::Rsa { spki, .. } => return Ok(Some(spki.clone())),
            Self::Ec { pair, .. } => AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()),
            Self::Ed(pair) => AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()),
            Self::Secret(_) => return Ok(None),
        };
        Ok(Some(spki.map_err(broken)?.as_ref().to_vec()))
    }

    /// Signs as a token does: ECDSA is r‖s.
    pub(super) fn sign(&self, algorithm: SignatureAlgorithm, payload: &[u8]) -> Result<Vec<u8>, HsmError> {
        let input =
            algorithm.prepare(payload).map_err(|error| HsmError::new(Kind::Invalid, error.to_string()))?;
        match (self, algorithm.row().scheme) {
            (Self::Rsa { numbers, .. }, Scheme::RsaPkcs1) => numbers.sign_pkcs1(algorithm.hash(), &input),
            (Self::Rsa { numbers, .. }, Scheme::RsaPss(hash)) => Ok(numbers.sign_pss(hash, &input)),
            (Self::Ec { pair, digest }, Scheme::Ecdsa) => {
                let fitted = fitted(&input, digest.output_len());
                let digest = Digest::import_less_safe(&fitted, digest).map_err(broken)?;
                Ok(pair.sign_digest(&digest).map_err(broken)?.as_ref().to_vec())
            }
            (Self::Ed(pair), Scheme::EdDsa) => Ok(pair.sign(payload).as_ref().to_vec()),
            _ => Err(unsupported(format_args!("{algorithm} with this key"))),
        }
    }
}

/// The digest in another length that means the same number to ECDSA: cut on the right, filled on the left.
fn fitted(digest: &[u8], length: usize) -> Vec<u8> {
    let digest = &digest[..digest.len().min(length)];
    [vec![0; length - digest.len()], digest.to_vec()].concat()
}

impl Numbers {
    fn read(pkcs8: &[u8]) -> Result<Self, der::Error> {
        let outer = Pkcs8::from_der(pkcs8)?;
        let inner = Pkcs1::from_der(outer.key.as_bytes())?;
        let number = |value: UintRef<'_>| BigUint::from_bytes_be(value.as_bytes());
        Ok(Self {
            n: number(inner.n),
            p: number(inner.p),
            q: number(inner.q),
            dp: number(inner.dp),
            dq: number(inner.dq),
            inverse: number(inner.inverse),
        })
    }

    fn len(&self) -> usize {
        usize::try_from(self.n.bits().div_ceil(8)).expect("a few hundred bytes")
    }

    /// RSASP1 of RFC 8017, by the Chinese remainder theorem.
    pub(super) fn private(&self, message: &[u8]) -> Vec<u8> {
        let message = BigUint::from_bytes_be(message);
        let one = message.modpow(&self.dp, &self.p);
        let two = message.modpow(&self.dq, &self.q);
        let difference = (&one + &self.p - (&two % &self.p)) % &self.p;
        let bytes = (&two + difference * &self.inverse % &self.p * &self.q).to_bytes_be();
        [vec![0; self.len() - bytes.len()], bytes].concat()
    }

    /// RSASSA-PKCS1-v1_5, without a `DigestInfo` where there is no hash.
    fn sign_pkcs1(&self, hash: Option<Hash>, input: &[u8]) -> Result<Vec<u8>, HsmError> {
        let info = hash.and_then(Hash::digest_info_prefix).unwrap_or_default();
        let padding = (self.len() - 3)
            .checked_sub(info.len() + input.len())
            .filter(|padding| *padding >= 8)
            .ok_or_else(|| HsmError::new(Kind::Invalid, "CKR_DATA_LEN_RANGE: the payload is too long"))?;
        let encoded = [&[0, 1][..], &vec![0xff; padding], &[0], info, input].concat();
        Ok(self.private(&encoded))
    }

    /// RSASSA-PSS with a salt as long as the digest.
    fn sign_pss(&self, hash: Hash, digest: &[u8]) -> Vec<u8> {
        let salt = random(hash.len());
        let seed = hash.digest(&[&[0; 8][..], digest, &salt].concat());
        // Every size of key here is a multiple of eight bits, so that one bit is cleared.
        let length = self.len() - hash.len() - 1;
        let mut block = [vec![0; length - salt.len() - 1], vec![1], salt].concat();
        for (byte, mask) in block.iter_mut().zip(mask(hash, &seed)) {
            *byte ^= mask;
        }
        block[0] &= 0x7f;
        self.private(&[block, seed, vec![0xbc]].concat())
    }
}

/// MGF1.
pub(super) fn mask(hash: Hash, seed: &[u8]) -> impl Iterator<Item = u8> {
    let seed = seed.to_vec();
    (0_u32..).flat_map(move |count| hash.digest(&[&seed[..], &count.to_be_bytes()].concat()))
}
