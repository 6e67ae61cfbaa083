//! Points of Ed25519 and Ed448 that a key may have (RFC 8032, 5.1.3 and 5.2.3), and Ed448, which aws-lc does not have.

use ed448_goldilocks::VerifyingKey;
use num_bigint::BigUint;

/// y coordinates of the points whose order divides 8, beside 0, 1 and p − 1, little-endian.
const ORDER_EIGHT: [&str; 2] = [
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
];

/// A canonical encoding of a point on the curve that is not of small order: with a key of small order a
/// signature fits almost any message.
pub(super) fn is_sound_point(bytes: &[u8]) -> bool {
    let Ok(mut y) = <[u8; 32]>::try_from(bytes) else { return false };
    y[31] &= 0x7f;
    if ORDER_EIGHT.contains(&hex::encode(y).as_str()) {
        return false;
    }
    let y = BigUint::from_bytes_le(&y);
    let one = BigUint::from(1_u8);
    let p = (&one << 255_u32) - 19_u8;
    if y <= one || y >= &p - 1_u8 {
        return false;
    }
    let inverse = |value: BigUint| value.modpow(&(&p - 2_u8), &p);
    // d = −121665 / 121666 and x² = (y² − 1) / (dy² + 1)
    let d = (&p - 121_665_u32) * inverse(BigUint::from(121_666_u32)) % &p;
    let square = &y * &y % &p;
    let x_squared = (&square - &one) * inverse((d * &square + &one) % &p) % &p;
    x_squared.modpow(&((&p - 1_u8) >> 1_u32), &p) == one
}

/// A point of Ed448 in the group of prime order, and not its neutral element.
pub(super) fn is_sound_point_of_448(bytes: &[u8]) -> bool {
    key_of_448(bytes).is_some_and(|key| bool::from(key.to_edwards().is_torsion_free()))
}

/// Bytes of a point of Ed448.
const POINT_448: usize = 57;

/// The one way to write a point of Ed448 (RFC 8032, 5.2.2): y below p, and no bit beside it but the sign of x. The library
/// reads others as well, so that a key or a signature would have several forms.
fn is_canonical_448(point: &[u8]) -> bool {
    let Some((last, y)) = point.split_last().filter(|_| point.len() == POINT_448) else { return false };
    let one = BigUint::from(1_u8);
    let p = (&one << 448_u32) - (&one << 224_u32) - one;
    last & 0x7f == 0 && BigUint::from_bytes_le(y) < p
}

/// Whether a signature of pure Ed448 with an empty context fits.
pub(super) fn verify_448(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    if !signature.get(..POINT_448).is_some_and(is_canonical_448) {
        return false;
    }
    let signature = ed448_goldilocks::Signature::try_from(signature);
    match (key_of_448(public), signature) {
        (Some(key), Ok(signature)) => key.verify_raw(&signature, message).is_ok(),
        _ => false,
    }
}

fn key_of_448(bytes: &[u8]) -> Option<VerifyingKey> {
    let bytes = <[u8; POINT_448]>::try_from(bytes).ok().filter(|bytes| is_canonical_448(bytes))?;
    VerifyingKey::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{is_sound_point, is_sound_point_of_448, verify_448};

    fn sound(hex: &str) -> bool {
        is_sound_point(&hex::decode(hex).unwrap())
    }

    #[test]
    fn a_key_of_rfc_8032_is_sound() {
        assert!(sound("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"));
        assert!(sound("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"));
    }

    #[test]
    fn points_of_small_order_off_the_curve_or_written_otherwise_are_refused() {
        for bad in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000080",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            // y = 2 has no x
            "0200000000000000000000000000000000000000000000000000000000000000",
            // y = p + 3, the second way to write 3
            "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "d75a98",
        ] {
            assert!(!sound(bad), "{bad}");
        }
    }

    #[test]
    fn the_vectors_of_rfc_8032_for_ed448_fit() {
        let bytes = |hex: &str| hex::decode(hex).unwrap();
        // 7.4, "1 octet"
        let key = bytes(
            "43ba28f430cdff456ae531545f7ecd0ac834a55d9358c0372bfa0c6c6798c0866aea01eb00742802b8438ea4cb82169c235160627b4c3a9480",
        );
        let signature = bytes(concat!(
            "26b8f91727bd62897af15e41eb43c377efb9c610d48f2335cb0bd0087810f4352541b143c4b981b7e18f62de8ccdf633fc1bf037ab7cd77980",
            "5e0dbcc0aae1cbcee1afb2e027df36bc04dcecbf154336c19f0af7e0a6472905e799f1953d2a0ff3348ab21aa4adafd1d234441cf807c03a00",
        ));
        assert!(is_sound_point_of_448(&key));
        assert!(verify_448(&key, &[3], &signature));
        assert!(!verify_448(&key, &[4], &signature));
        assert!(!verify_448(&key, &[3], &signature[..113]));
        for at in [56, 113] {
            for bit in 0..8 {
                let mut other = signature.clone();
                other[at] ^= 1 << bit;
                assert!(!verify_448(&key, &[3], &other), "bit {bit} of byte {at}");
            }
        }
        for bit in 0..7 {
            let mut other = key.clone();
            other[56] ^= 1 << bit;
            assert!(!is_sound_point_of_448(&other), "bit {bit}");
        }
        // The neutral element, and a point of order two.
        let halves = format!("fe{0}fe{0}", "ff".repeat(27));
        for low in ["01", &halves] {
            let mut point = bytes(low);
            point.resize(57, 0);
            assert!(!is_sound_point_of_448(&point), "{low}");
        }
    }
}
