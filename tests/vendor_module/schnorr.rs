//! Signatures of BIP-340, by its text.

use num_bigint::BigUint;
use sha2::{Digest, Sha256};

use super::curve::{Curve, Domain, Point, bytes};

/// `SHA-256(SHA-256(tag) ‖ SHA-256(tag) ‖ …)`.
fn tagged(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let tag = Sha256::digest(tag);
    let mut hash = Sha256::new();
    hash.update(tag);
    hash.update(tag);
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// `number·G`, and the number that gives the same x with an even y.
fn even(domain: &Domain, number: BigUint) -> Option<(BigUint, BigUint)> {
    let (x, y) = point(domain, &number)?;
    Some((x, if y.bit(0) { &domain.n - number } else { number }))
}

fn point(domain: &Domain, number: &BigUint) -> Point {
    domain.mul(number, &domain.g)
}

/// Signs 32 bytes; `tweak` is what BIP-341 adds to the key, already hashed.
pub fn sign(
    private: &[u8; 32],
    aux: &[u8; 32],
    tweak: Option<&[u8; 32]>,
    message: &[u8],
) -> Option<[u8; 64]> {
    let domain = Curve::Secp256k1.domain()?;
    let (mut x, mut d) = even(&domain, BigUint::from_bytes_be(private))?;
    if let Some(tweak) = tweak {
        let tweak = BigUint::from_bytes_be(tweak);
        if tweak >= domain.n {
            return None;
        }
        (x, d) = even(&domain, (d + tweak) % &domain.n)?;
    }
    let public = bytes(&x);
    let mask = tagged("BIP0340/aux", &[aux]);
    let masked: Vec<u8> = bytes(&d).iter().zip(mask).map(|(one, other)| one ^ other).collect();
    let nonce = BigUint::from_bytes_be(&tagged("BIP0340/nonce", &[&masked, &public, message])) % &domain.n;
    let (r, k) = even(&domain, nonce)?;
    let r = bytes(&r);
    let e = BigUint::from_bytes_be(&tagged("BIP0340/challenge", &[&r, &public, message])) % &domain.n;
    let s = bytes(&((k + e * d) % &domain.n));
    Some([r, s].concat().try_into().expect("two halves"))
}
