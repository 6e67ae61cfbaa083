//! Curves of trees, as slowly and plainly as their definitions. For tests: nothing here runs in constant time.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use num_bigint::BigUint;

/// Curves on which SLIP-10 has trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    Secp256k1,
    P256,
    Ed25519,
}

/// A point; `None` at infinity.
pub type Point = Option<(BigUint, BigUint)>;

/// `y² = x³ + ax + b` over `GF(p)`.
pub struct Domain {
    pub p: BigUint,
    a: BigUint,
    pub n: BigUint,
    pub g: Point,
}

impl Curve {
    /// DER of its object identifier.
    pub const fn params(self) -> &'static [u8] {
        match self {
            Self::Secp256k1 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a],
            Self::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::Ed25519 => &[0x06, 0x03, 0x2b, 0x65, 0x70],
        }
    }

    /// The curve that `CKA_EC_PARAMS` names.
    pub fn of(params: &[u8]) -> Option<Self> {
        [Self::Secp256k1, Self::P256, Self::Ed25519].into_iter().find(|curve| curve.params() == params)
    }

    /// Domain parameters (SEC 2 v2); none for Ed25519.
    pub fn domain(self) -> Option<Domain> {
        let [p, a, n, x, y] = match self {
            Self::Secp256k1 => [
                "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f",
                "0",
                "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
                "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
                "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
            ],
            Self::P256 => [
                "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
                "ffffffff00000001000000000000000000000000fffffffffffffffffffffffc",
                "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
                "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
                "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
            ],
            Self::Ed25519 => return None,
        }
        .map(|hex| BigUint::parse_bytes(hex.as_bytes(), 16).expect("a number"));
        Some(Domain { p, a, n, g: Some((x, y)) })
    }

    /// The public key of a private one: an uncompressed point, or the 32 bytes of Ed25519.
    pub fn public(self, private: &[u8; 32]) -> Vec<u8> {
        let Some(domain) = self.domain() else {
            let pair = Ed25519KeyPair::from_seed_unchecked(private).expect("32 bytes");
            return pair.public_key().as_ref().to_vec();
        };
        let (x, y) = domain.mul(&BigUint::from_bytes_be(private), &domain.g).expect("not a multiple of n");
        [&[4][..], &bytes(&x), &bytes(&y)].concat()
    }

    /// The same in the form that is hashed: compressed, or the 32 bytes behind a zero.
    pub fn compressed(self, private: &[u8; 32]) -> Vec<u8> {
        let public = self.public(private);
        match public.as_slice() {
            [4, xy @ ..] => [&[2 + (xy[63] & 1)][..], &xy[..32]].concat(),
            ed => [&[0][..], ed].concat(),
        }
    }
}

impl Domain {
    pub fn add(&self, one: &Point, other: &Point) -> Point {
        let ((x1, y1), (x2, y2)) = match (one, other) {
            (None, point) | (point, None) => return point.clone(),
            (Some(one), Some(other)) => (one, other),
        };
        let p = &self.p;
        let over = |number: BigUint| (number % p).modinv(p).expect("p is prime");
        let slope = if x1 != x2 {
            (y2 + p - y1) * over(x2 + p - x1) % p
        } else if y1 == y2 && y1.bits() > 0 {
            (x1 * x1 * 3_u8 + &self.a) * over(y1 * 2_u8) % p
        } else {
            return None;
        };
        let x = (&slope * &slope + p + p - x1 - x2) % p;
        let y = (slope * (x1 + p - &x) + p - y1) % p;
        Some((x, y))
    }

    pub fn mul(&self, number: &BigUint, point: &Point) -> Point {
        let mut sum = None;
        for bit in (0..number.bits()).rev() {
            sum = self.add(&sum, &sum);
            if number.bit(bit) {
                sum = self.add(&sum, point);
            }
        }
        sum
    }
}

/// Thirty-two bytes, big-endian.
pub fn bytes(number: &BigUint) -> [u8; 32] {
    let digits = number.to_bytes_be();
    let mut all = [0; 32];
    all[32 - digits.len()..].copy_from_slice(&digits);
    all
}
