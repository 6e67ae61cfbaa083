//! ECDSA verification on any curve of the table, from the curve's parameters alone.
//!
//! Public data only, so the arithmetic need not run in constant time.

use crate::model::curve::{CURVES, Curve};
use num_bigint::BigUint;
use std::sync::LazyLock;

/// An affine point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) x: BigUint,
    pub(super) y: BigUint,
}

/// Domain parameters as numbers.
#[derive(Debug)]
pub(super) struct Domain {
    p: BigUint,
    a: BigUint,
    b: BigUint,
    g: Point,
    n: BigUint,
    order_bits: u64,
}

/// Jacobian coordinates: `x/z²`, `y/z³`; z = 0 is the point at infinity.
#[derive(Clone)]
struct Jacobian {
    x: BigUint,
    y: BigUint,
    z: BigUint,
}

impl Domain {
    /// The parameters of a curve, read once; `None` for an Edwards curve.
    pub(super) fn of(curve: Curve) -> Option<&'static Self> {
        static READ: LazyLock<Vec<(&'static str, Domain)>> = LazyLock::new(|| {
            CURVES.iter().filter_map(|curve| Some((curve.oid, Domain::read(curve)?))).collect()
        });
        READ.iter().find(|(oid, _)| *oid == curve.oid).map(|(_, domain)| domain)
    }

    fn read(curve: Curve) -> Option<Self> {
        let number = |hex: &str| {
            BigUint::parse_bytes(hex.as_bytes(), 16).expect("a test reads every parameter of the table")
        };
        let row = curve.weierstrass.as_ref()?;
        Some(Self {
            p: number(row.p),
            a: number(row.a),
            b: number(row.b),
            g: Point { x: number(row.gx), y: number(row.gy) },
            n: number(row.n),
            order_bits: u64::from(curve.order_bits),
        })
    }

    /// Order of the generator.
    pub(super) const fn n(&self) -> &BigUint {
        &self.n
    }

    /// Reads an uncompressed point; does not check that it is on the curve.
    pub(super) fn decode_point(&self, bytes: &[u8]) -> Option<Point> {
        let width = usize::try_from(self.p.bits().div_ceil(8)).ok()?;
        let (form, coordinates) = bytes.split_first()?;
        if *form != 4 || coordinates.len() != 2 * width {
            return None;
        }
        let (x, y) = coordinates.split_at(width);
        Some(Point { x: BigUint::from_bytes_be(x), y: BigUint::from_bytes_be(y) })
    }

    /// Whether the point satisfies the curve's equation. Cofactors are 1, so it is of the right order then.
    pub(super) fn contains(&self, point: &Point) -> bool {
        let Point { x, y } = point;
        x < &self.p && y < &self.p && (y * y) % &self.p == ((x * x + &self.a) * x + &self.b) % &self.p
    }

    /// The leftmost bits of a digest, as many as the order has (FIPS 186-5, 6.4.1).
    fn truncate(&self, digest: &[u8]) -> BigUint {
        let bits = digest.len() as u64 * 8;
        BigUint::from_bytes_be(digest) >> bits.saturating_sub(self.order_bits)
    }

    /// Checks a signature and returns the signer's point R, whose x is `r` modulo the order.
    pub(super) fn verify(&self, key: &Point, digest: &[u8], r: &BigUint, s: &BigUint) -> Option<Point> {
        let in_range = |value: &BigUint| value.bits() > 0 && value < &self.n;
        if !in_range(r) || !in_range(s) {
            return None;
        }
        let w = s.modinv(&self.n)?;
        let u1 = self.truncate(digest) * &w % &self.n;
        let u2 = r * &w % &self.n;
        let point = self.affine(&self.combine(&u1, &u2, key))?;
        (&point.x % &self.n == *r).then_some(point)
    }

    /// The key on the other side of the x axis.
    pub(super) fn negated(&self, Point { x, y }: &Point) -> Point {
        Point { x: x.clone(), y: (&self.p - y) % &self.p }
    }

    /// The last steps of BIP-340's verification: whether `s·G − e·P` has the x coordinate `r` and an even y, where P is the
    /// key of this x whose y is even.
    pub(super) fn verify_schnorr(&self, key: &Point, e: &BigUint, r: &BigUint, s: &BigUint) -> bool {
        if r >= &self.p || s >= &self.n {
            return false;
        }
        let key = if key.y.bit(0) { self.negated(key) } else { key.clone() };
        let e = (&self.n - e % &self.n) % &self.n;
        let point = self.affine(&self.combine(s, &e, &key));
        point.is_some_and(|point| point.x == *r && !point.y.bit(0))
    }

    /// `u1·G + u2·Q` in one pass over the bits of both.
    fn combine(&self, u1: &BigUint, u2: &BigUint, key: &Point) -> Jacobian {
        let lift = |point: &Point| Jacobian { x: point.x.clone(), y: point.y.clone(), z: 1_u8.into() };
        let (g, q) = (lift(&self.g), lift(key));
        let both = self.add(&g, &q);
        let mut sum = Jacobian { x: 1_u8.into(), y: 1_u8.into(), z: 0_u8.into() };
        for bit in (0..u1.bits().max(u2.bits())).rev() {
            sum = self.double(&sum);
            match (u1.bit(bit), u2.bit(bit)) {
                (true, true) => sum = self.add(&sum, &both),
                (true, false) => sum = self.add(&sum, &g),
                (false, true) => sum = self.add(&sum, &q),
                (false, false) => {}
            }
        }
        sum
    }

    /// The keys, at most four, whose signature of a digest this may be (SEC 1, 4.1.6).
    pub(super) fn signers(&self, digest: &[u8], r: &BigUint, s: &BigUint) -> Vec<Point> {
        let in_range = |value: &BigUint| value.bits() > 0 && value < &self.n;
        let Some(inverse) = r.modinv(&self.n).filter(|_| in_range(r) && in_range(s)) else {
            return Vec::new();
        };
        let u1 = (&self.n - self.truncate(digest) % &self.n) * &inverse % &self.n;
        let u2 = s * &inverse % &self.n;
        let mut found = Vec::new();
        for x in [r.clone(), r + &self.n] {
            let Some(y) = self.root(&(((&x * &x + &self.a) * &x + &self.b) % &self.p)) else { continue };
            for y in [&self.p - &y, y] {
                let signer = Point { x: x.clone(), y };
                if self.contains(&signer) {
                    found.extend(self.affine(&self.combine(&u1, &u2, &signer)));
                }
            }
        }
        found
    }

    /// A square root modulo p, if there is one: by Tonelli and Shanks, which also suits P-224, whose p leaves 1 when
    /// divided by 4.
    fn root(&self, square: &BigUint) -> Option<BigUint> {
        let one = BigUint::from(1_u8);
        let power = |base: &BigUint, exponent: &BigUint| base.modpow(exponent, &self.p);
        let half = (&self.p - &one) >> 1_u32;
        if power(square, &half) != one {
            return (square.bits() == 0).then(BigUint::default);
        }
        let twos = (&self.p - &one).trailing_zeros()?;
        let odd = (&self.p - &one) >> twos;
        let no_square = (2_u8..).map(BigUint::from).find(|candidate| power(candidate, &half) != one)?;
        let mut rest = twos;
        let mut step = power(&no_square, &odd);
        let mut error = power(square, &odd);
        let mut root = power(square, &((&odd + &one) >> 1_u32));
        while error != one {
            let mut order = 0;
            let mut powered = error.clone();
            while powered != one {
                powered = self.mul(&powered, &powered);
                order += 1;
            }
            let factor = power(&step, &(&one << (rest - order - 1)));
            rest = order;
            step = self.mul(&factor, &factor);
            error = self.mul(&error, &step);
            root = self.mul(&root, &factor);
        }
        Some(root)
    }

    /// A point in uncompressed form.
    pub(super) fn encode_point(&self, point: &Point) -> Vec<u8> {
        let width = usize::try_from(self.p.bits().div_ceil(8)).expect("a curve of the table");
        let mut bytes = vec![4];
        for number in [&point.x, &point.y] {
            let number = number.to_bytes_be();
            bytes.resize(bytes.len() + width - number.len(), 0);
            bytes.extend_from_slice(&number);
        }
        bytes
    }

    fn mul(&self, a: &BigUint, b: &BigUint) -> BigUint {
        a * b % &self.p
    }

    /// `a − b`, both reduced.
    fn sub(&self, a: &BigUint, b: &BigUint) -> BigUint {
        (a + &self.p - b) % &self.p
    }

    fn double(&self, point: &Jacobian) -> Jacobian {
        let Jacobian { x, y, z } = point;
        let yy = self.mul(y, y);
        let s = self.mul(x, &yy) * 4_u8 % &self.p;
        let zz = self.mul(z, z);
        let m = (self.mul(x, x) * 3_u8 + &self.a * self.mul(&zz, &zz)) % &self.p;
        let x3 = self.sub(&self.mul(&m, &m), &((&s + &s) % &self.p));
        let y3 = self.sub(&self.mul(&m, &self.sub(&s, &x3)), &(self.mul(&yy, &yy) * 8_u8 % &self.p));
        let z3 = self.mul(y, z) * 2_u8 % &self.p;
        Jacobian { x: x3, y: y3, z: z3 }
    }

    fn add(&self, one: &Jacobian, two: &Jacobian) -> Jacobian {
        if one.z.bits() == 0 {
            return two.clone();
        }
        if two.z.bits() == 0 {
            return one.clone();
        }
        let z1z1 = self.mul(&one.z, &one.z);
        let z2z2 = self.mul(&two.z, &two.z);
        let u1 = self.mul(&one.x, &z2z2);
        let s1 = self.mul(&one.y, &self.mul(&two.z, &z2z2));
        let h = self.sub(&self.mul(&two.x, &z1z1), &u1);
        let r = self.sub(&self.mul(&two.y, &self.mul(&one.z, &z1z1)), &s1);
        if h.bits() == 0 {
            return match r.bits() {
                0 => self.double(one),
                _ => Jacobian { x: 1_u8.into(), y: 1_u8.into(), z: 0_u8.into() },
            };
        }
        let hh = self.mul(&h, &h);
        let hhh = self.mul(&h, &hh);
        let v = self.mul(&u1, &hh);
        let x3 = self.sub(&self.sub(&self.mul(&r, &r), &hhh), &((&v + &v) % &self.p));
        let y3 = self.sub(&self.mul(&r, &self.sub(&v, &x3)), &self.mul(&s1, &hhh));
        let z3 = self.mul(&self.mul(&one.z, &two.z), &h);
        Jacobian { x: x3, y: y3, z: z3 }
    }

    /// Back to affine coordinates; `None` for the point at infinity.
    fn affine(&self, point: &Jacobian) -> Option<Point> {
        if point.z.bits() == 0 {
            return None;
        }
        let inverse = point.z.modinv(&self.p)?;
        let square = self.mul(&inverse, &inverse);
        Some(Point { x: self.mul(&point.x, &square), y: self.mul(&point.y, &self.mul(&square, &inverse)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::curve::CURVES;

    fn domains() -> impl Iterator<Item = (&'static str, &'static Domain)> {
        CURVES.iter().filter_map(|curve| Some((curve.name, Domain::of(curve)?)))
    }

    #[test]
    fn every_generator_is_on_its_curve_and_has_the_order_that_the_table_says() {
        for (name, domain) in domains() {
            assert!(domain.contains(&domain.g), "{name}");
            assert_eq!(domain.n.bits(), domain.order_bits, "{name}");
            let zero = BigUint::from(0_u8);
            assert!(domain.affine(&domain.combine(&domain.n, &zero, &domain.g)).is_none(), "{name}");
            let last = domain.affine(&domain.combine(&(&domain.n - 1_u8), &zero, &domain.g)).unwrap();
            assert_eq!(last, Point { x: domain.g.x.clone(), y: &domain.p - &domain.g.y }, "{name}");
        }
    }

    #[test]
    fn one_pass_over_two_scalars_meets_equal_and_opposite_points() {
        for (name, domain) in domains() {
            let number = |value: u8| BigUint::from(value);
            let seven = domain.affine(&domain.combine(&number(7), &number(0), &domain.g)).unwrap();
            assert_eq!(domain.affine(&domain.combine(&number(3), &number(4), &domain.g)).unwrap(), seven);
            let opposite = Point { x: domain.g.x.clone(), y: &domain.p - &domain.g.y };
            assert!(domain.affine(&domain.combine(&number(5), &number(5), &opposite)).is_none(), "{name}");
        }
    }

    #[test]
    fn every_square_has_its_roots_and_nothing_else_has_any() {
        for (name, domain) in domains() {
            let mut others = 0;
            for number in 0_u8..40 {
                let number = BigUint::from(number);
                let square = domain.mul(&number, &number);
                let root = domain.root(&square).unwrap();
                assert!(root == number || (&domain.p - &root) % &domain.p == number, "{name} {number}");
                match domain.root(&number) {
                    Some(root) => assert_eq!(domain.mul(&root, &root), number, "{name}"),
                    None => others += 1,
                }
            }
            assert!(others > 0, "{name}");
        }
    }

    #[test]
    fn a_digest_is_cut_to_the_bits_of_the_order() {
        let k1 = domains().find(|(name, _)| *name == "secp224k1").unwrap().1;
        assert_eq!(k1.truncate(&[0xff; 32]).bits(), 225);
        let p521 = domains().find(|(name, _)| *name == "P-521").unwrap().1;
        assert_eq!(p521.truncate(&[0xff; 64]).bits(), 512);
        assert_eq!(p521.truncate(&[]).bits(), 0);
    }
}
