//! Trees of keys: BIP-32 for secp256k1, SLIP-10 for all three curves. Where the two differ, once in 2¹²⁷ keys, it is
//! SLIP-10.

use aws_lc_rs::hmac;
use num_bigint::BigUint;

use super::curve::{self, Curve};

/// Indices from here on are hardened.
const HARDENED: u32 = 1 << 31;

/// A key of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub curve: Curve,
    pub private: [u8; 32],
    pub chain: [u8; 32],
}

fn halves(key: &[u8], parts: &[&[u8]]) -> ([u8; 32], [u8; 32]) {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, key), &parts.concat());
    let (left, right) = tag.as_ref().split_at(32);
    (left.try_into().expect("a half"), right.try_into().expect("a half"))
}

impl Node {
    /// The master of a seed.
    pub fn master(curve: Curve, seed: &[u8]) -> Self {
        let name: &[u8] = match curve {
            Curve::Secp256k1 => b"Bitcoin seed",
            Curve::P256 => b"Nist256p1 seed",
            Curve::Ed25519 => b"ed25519 seed",
        };
        let (mut private, mut chain) = halves(name, &[seed]);
        if let Some(domain) = curve.domain() {
            let good = |private: &[u8; 32]| {
                let number = BigUint::from_bytes_be(private);
                number.bits() > 0 && number < domain.n
            };
            while !good(&private) {
                (private, chain) = halves(name, &[&private, &chain]);
            }
        }
        Self { curve, private, chain }
    }

    /// One step down; `None` where the curve does not have the step.
    pub fn child(&self, index: u32) -> Option<Self> {
        let Self { curve, private, chain } = self;
        let number = index.to_be_bytes();
        let (mut left, mut right) = if index >= HARDENED {
            halves(chain, &[&[0], private, &number])
        } else if *curve == Curve::Ed25519 {
            return None;
        } else {
            halves(chain, &[&curve.compressed(private), &number])
        };
        let Some(domain) = curve.domain() else {
            return Some(Self { curve: *curve, private: left, chain: right });
        };
        loop {
            let added = BigUint::from_bytes_be(&left);
            let sum = (&added + BigUint::from_bytes_be(private)) % &domain.n;
            if added < domain.n && sum.bits() > 0 {
                return Some(Self { curve: *curve, private: curve::bytes(&sum), chain: right });
            }
            (left, right) = halves(chain, &[&[1], &right, &number]);
        }
    }

    /// All steps of a path.
    pub fn at(&self, path: &[u32]) -> Option<Self> {
        path.iter().try_fold(self.clone(), |node, index| node.child(*index))
    }
}
