//! What a token can do, in the contract's words, from the raw list of its mechanisms.

use cryptoki_sys::*;

use super::{cipher, mechanism, parameter_set, raw::Module};
use crate::{
    hsm::protocol::{Capabilities, KeyCapability},
    model::{CipherAlgorithm, KeyAlgorithm, SignatureAlgorithm},
};

/// Unit of the sizes in `CK_MECHANISM_INFO`.
enum Unit {
    Bits,
    /// By the standard bytes; numbers that cannot be bytes are taken for bits.
    Bytes,
    /// Sizes say nothing that a caller could choose.
    Meaningless,
}

/// How a key algorithm is generated.
struct Row {
    algorithm: KeyAlgorithm,
    generate: CK_MECHANISM_TYPE,
    unit: Unit,
}

#[rustfmt::skip]
static ROWS: &[Row] = {
    use KeyAlgorithm as K;
    use Unit::{Bits, Bytes, Meaningless};
    const fn row(algorithm: KeyAlgorithm, generate: CK_MECHANISM_TYPE, unit: Unit) -> Row {
        Row { algorithm, generate, unit }
    }
    &[
        row(K::Rsa, CKM_RSA_PKCS_KEY_PAIR_GEN, Bits),
        row(K::Ec, CKM_EC_KEY_PAIR_GEN, Bits),
        row(K::Ed, CKM_EC_EDWARDS_KEY_PAIR_GEN, Meaningless),
        row(K::Aes, CKM_AES_KEY_GEN, Bytes),
        row(K::Dsa, CKM_DSA_KEY_PAIR_GEN, Bits),
        row(K::Camellia, CKM_CAMELLIA_KEY_GEN, Bytes),
        row(K::Tdea, CKM_DES3_KEY_GEN, Meaningless),
        row(K::ChaCha20, CKM_CHACHA20_KEY_GEN, Meaningless),
        row(K::HmacSha256, CKM_GENERIC_SECRET_KEY_GEN, Meaningless),
        row(K::Lms, CKM_HSS_KEY_PAIR_GEN, Meaningless),
    ]
};

/// The mechanism that generates keys of an algorithm.
pub fn generator(algorithm: KeyAlgorithm) -> Option<CK_MECHANISM_TYPE> {
    let plain = ROWS.iter().find(|row| row.algorithm == algorithm).map(|row| row.generate);
    plain.or_else(|| parameter_set::of(algorithm).map(|row| row.generate))
}

/// Puts a token's mechanisms into the contract's words.
pub fn of(module: &Module, slot: CK_SLOT_ID, mechanisms: &[CK_MECHANISM_TYPE]) -> Capabilities {
    let generated = ROWS.iter().filter(|row| makes(row, mechanisms)).map(|row| {
        let (min, max) = module.key_sizes(slot, row.generate).unwrap_or_default();
        let (min_bits, max_bits) = bits(&row.unit, min, max);
        KeyCapability { algorithm: row.algorithm, min_bits, max_bits }
    });
    // Which sets it has it does not say: sizes of these mechanisms mean nothing that a caller could choose.
    let signs = |row: &&parameter_set::Row| row.key_type != CKK_XMSS || mechanisms.contains(&CKM_XMSS);
    let sets = parameter_set::ROWS.iter().filter(|row| mechanisms.contains(&row.generate)).filter(signs);
    let sets = sets.map(|row| KeyCapability { algorithm: row.algorithm, min_bits: 0, max_bits: 0 });
    let signed = |algorithm: &SignatureAlgorithm| mechanism::way(*algorithm, mechanisms).is_some();
    let sealed = |cipher: &CipherAlgorithm| mechanisms.contains(&cipher::kind(*cipher));
    Capabilities {
        key_algorithms: generated.chain(sets).collect(),
        signature_algorithms: SignatureAlgorithm::ALL.iter().copied().filter(signed).collect(),
        cipher_algorithms: CipherAlgorithm::ALL.iter().copied().filter(sealed).collect(),
        agreement: mechanisms.contains(&CKM_ECDH1_DERIVE),
        derived: Vec::new(),
        attests: false,
    }
}

fn makes(row: &Row, mechanisms: &[CK_MECHANISM_TYPE]) -> bool {
    let useful = match row.algorithm {
        // Anybody makes 32 random bytes; what they are for is another matter.
        KeyAlgorithm::HmacSha256 => mechanisms.contains(&CKM_SHA256_HMAC),
        // Pairs are made within a group.
        KeyAlgorithm::Dsa => mechanisms.contains(&CKM_DSA_PARAMETER_GEN),
        KeyAlgorithm::Lms => mechanisms.contains(&CKM_HSS),
        _ => true,
    };
    useful && mechanisms.contains(&row.generate)
}

fn bits(unit: &Unit, min: u64, max: u64) -> (u32, u32) {
    let (min, max) = match unit {
        Unit::Bits => (min, max),
        Unit::Bytes if max <= 64 => (min * 8, max * 8),
        Unit::Bytes => (min, max),
        Unit::Meaningless => (0, 0),
    };
    match (u32::try_from(min), u32::try_from(max)) {
        (Ok(min), Ok(max)) if min <= max => (min, max),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_bytes_bits_and_nonsense_are_told_apart() {
        assert_eq!(bits(&Unit::Bytes, 16, 32), (128, 256));
        assert_eq!(bits(&Unit::Bytes, 128, 256), (128, 256));
        assert_eq!(bits(&Unit::Bits, 512, 16384), (512, 16384));
        assert_eq!(bits(&Unit::Bits, 0, u64::MAX), (0, 0));
        assert_eq!(bits(&Unit::Bits, 9, 1), (0, 0));
    }
}
