//! Public halves, worked out of private keys.

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P256K1_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
        RsaKeyPair,
    },
};
use der::{
    Encode,
    asn1::{AnyRef, BitStringRef, ObjectIdentifier},
};
use pkcs8::PrivateKeyInfoRef;
use spki::{AlgorithmIdentifierRef, EncodePublicKey, SubjectPublicKeyInfo};
use zeroize::Zeroizing;

use super::{Unreadable, read::EC};
use crate::{
    model::curve::{Curve, ED448_OID},
    public_key::PublicKey,
};

/// Of an RSA key, from its PKCS #1 form; aws-lc proves that all eight numbers belong together.
pub(super) fn rsa(pkcs1: &[u8]) -> Result<PublicKey, Unreadable> {
    // What is wrong with the modulus is said in more words than the library has.
    let pair = RsaKeyPair::from_der(pkcs1).map_err(|_| Unreadable::Numbers)?;
    of_library(pair.public_key())
}

/// Of a DSA key: the base to the power of the private number, by the `dsa` crate, which refuses a number that is zero or not
/// below the subprime and a result that is not in the group.
pub(super) fn dsa(info: &PrivateKeyInfoRef<'_>) -> Result<PublicKey, Unreadable> {
    // A public half that came with it would be believed.
    let bare = PrivateKeyInfoRef::new(info.algorithm, info.private_key);
    let key = ::dsa::SigningKey::try_from(bare).map_err(|_| Unreadable::Numbers)?;
    let spki = key.verifying_key().to_public_key_der().map_err(|_| Unreadable::Numbers)?;
    Ok(PublicKey::from_spki(spki.as_bytes())?)
}

/// The curves of which aws-lc knows the arithmetic.
fn library(curve: Curve) -> Option<&'static EcdsaSigningAlgorithm> {
    Some(match curve.name {
        "P-256" => &ECDSA_P256_SHA256_FIXED_SIGNING,
        "P-384" => &ECDSA_P384_SHA384_FIXED_SIGNING,
        "P-521" => &ECDSA_P521_SHA512_FIXED_SIGNING,
        "secp256k1" => &ECDSA_P256K1_SHA256_FIXED_SIGNING,
        _ => return None,
    })
}

/// Of a scalar on a curve over a prime field; `None` where no library here knows the curve.
pub(super) fn ec(curve: Curve, scalar: &[u8]) -> Result<Option<PublicKey>, Unreadable> {
    if scalar.len() != curve.scalar_len() {
        return Err(Unreadable::ScalarLength {
            curve: curve.name,
            length: curve.scalar_len(),
            given: scalar.len(),
        });
    }
    let Some(known) = library(curve) else {
        let order =
            curve.weierstrass.as_ref().and_then(|row| hex::decode(row.n).ok()).ok_or(Unreadable::Numbers)?;
        let in_range = scalar.iter().any(|byte| *byte != 0) && scalar < order.as_slice();
        return if in_range { Ok(None) } else { Err(Unreadable::Numbers) };
    };
    // Without the public half the library works it out, and it refuses a scalar that is zero or not below the order.
    let bare = sec1::EcPrivateKey { private_key: scalar, parameters: None, public_key: None };
    let bare = Zeroizing::new(bare.to_der().map_err(|_| Unreadable::Numbers)?);
    let pair = EcdsaKeyPair::from_private_key_der(known, &bare).map_err(|_| Unreadable::Numbers)?;
    of_library(pair.public_key()).map(Some)
}

/// Of a seed of Ed25519 or Ed448.
pub(super) fn edwards(curve: Curve, seed: &[u8]) -> Result<PublicKey, Unreadable> {
    let length = if curve.oid == ED448_OID { 57 } else { 32 };
    if seed.len() != length {
        return Err(Unreadable::ScalarLength { curve: curve.name, length, given: seed.len() });
    }
    if curve.oid == ED448_OID {
        let key = ed448_goldilocks::SigningKey::try_from(seed).map_err(|_| Unreadable::Numbers)?;
        return of_point(curve, key.verifying_key().as_bytes());
    }
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Unreadable::Numbers)?;
    of_library(pair.public_key())
}

fn of_library<'a, K: AsDer<PublicKeyX509Der<'a>>>(key: &K) -> Result<PublicKey, Unreadable> {
    let spki = key.as_der().map_err(|_| Unreadable::Numbers)?;
    Ok(PublicKey::from_spki(spki.as_ref())?)
}

/// From a point, which is checked to be one of the curve.
pub(super) fn of_point(curve: Curve, point: &[u8]) -> Result<PublicKey, Unreadable> {
    let own: ObjectIdentifier = curve.oid.parse().map_err(|_| Unreadable::Numbers)?;
    let (oid, parameters) = match curve.weierstrass {
        Some(_) => (EC, Some(AnyRef::from(&own))),
        None => (own, None),
    };
    let info = SubjectPublicKeyInfo {
        algorithm: AlgorithmIdentifierRef { oid, parameters },
        subject_public_key: BitStringRef::from_bytes(point).map_err(|_| Unreadable::Numbers)?,
    };
    Ok(PublicKey::from_spki(&info.to_der().map_err(|_| Unreadable::Numbers)?)?)
}
