//! Public keys worked out of signatures, for keys of which a token tells nothing else.

use super::{PublicKey, ecdsa::Domain, encoding::numbers_of_raw};
use crate::model::curve::Curve;
use der::{
    Encode,
    asn1::{AnyRef, BitStringRef, ObjectIdentifier},
};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfo};

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

impl PublicKey {
    /// The one key on a curve that may have made all these signatures, each `r‖s` over the digest beside it. One leaves two
    /// possibilities or four, two of them only one.
    ///
    /// `None` where they are not of one key, or too few.
    #[must_use]
    pub fn of_signer(curve: Curve, signatures: &[(&[u8], &[u8])]) -> Option<Self> {
        let domain = Domain::of(curve)?;
        let signers = |(digest, signature): &(&[u8], &[u8])| {
            let (r, s) = numbers_of_raw(signature);
            domain.signers(digest, &r, &s)
        };
        let (first, others) = signatures.split_first()?;
        let mut possible = signers(first);
        for other in others {
            let known = signers(other);
            possible.retain(|point| known.contains(point));
        }
        possible.dedup();
        let [point] = possible.as_slice() else { return None };
        let oid: ObjectIdentifier = curve.oid.parse().ok()?;
        let point = domain.encode_point(point);
        let info = SubjectPublicKeyInfo {
            algorithm: AlgorithmIdentifierRef { oid: EC, parameters: Some(AnyRef::from(&oid)) },
            subject_public_key: BitStringRef::from_bytes(&point).ok()?,
        };
        Self::from_spki(&info.to_der().ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rand::SystemRandom,
        signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        },
    };

    use super::*;
    use crate::model::{curve::CURVES, digest::Hash};

    #[test]
    fn two_signatures_tell_the_key_and_one_does_not() {
        for (name, algorithm, hash) in [
            ("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING, Hash::Sha256),
            ("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING, Hash::Sha512),
        ] {
            let curve = CURVES.iter().find(|row| row.name == name).unwrap();
            let pair = EcdsaKeyPair::generate(algorithm).unwrap();
            let signed = |text: &[u8]| {
                let signature = pair.sign(&SystemRandom::new(), text).unwrap().as_ref().to_vec();
                (hash.digest(text), signature)
            };
            let (one, two) = (signed(b"one"), signed(b"two"));
            let of = |all: &[&(Vec<u8>, Vec<u8>)]| {
                let all: Vec<_> = all.iter().map(|(digest, made)| (&digest[..], &made[..])).collect();
                PublicKey::of_signer(curve, &all)
            };
            let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
            let key = PublicKey::from_spki(spki.as_ref()).unwrap();
            assert_eq!(of(&[&one, &two]), Some(key), "{name}");
            assert_eq!(of(&[&one]), None, "{name}");
            let other = (two.0.clone(), one.1.clone());
            assert_eq!(of(&[&one, &other]), None, "{name}");
            assert_eq!(of(&[]), None, "{name}");
        }
    }
}
