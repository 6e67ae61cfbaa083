//! Whether 32 bytes are a point of Ed25519 that a key may have (RFC 8032, 5.1.3).

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

#[cfg(test)]
mod tests {
    use super::is_sound_point;

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
}
