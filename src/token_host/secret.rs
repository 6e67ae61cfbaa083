//! Templates of secret keys other than AES.

use cryptoki_sys::*;

use super::raw::Attribute;
use crate::{hsm::protocol::HsmError, model::KeyAlgorithm};

/// Bytes of a key for HMAC-SHA-256: as many as the hash has, and no token asks for more.
const HMAC_LEN: CK_ULONG = 32;

/// What is particular to the algorithm, in the order of trying; nothing for algorithms of other files. `size` is in bits.
pub fn specifics(algorithm: KeyAlgorithm, size: CK_ULONG) -> Vec<Vec<Attribute>> {
    let kind = |kind| Attribute::number(CKA_KEY_TYPE, kind);
    let length = |bytes| Attribute::number(CKA_VALUE_LEN, bytes);
    match algorithm {
        KeyAlgorithm::Camellia => vec![vec![kind(CKK_CAMELLIA), length(size / 8)]],
        // Their length cannot be chosen, and there are tokens that refuse to be told.
        KeyAlgorithm::ChaCha20 => vec![vec![kind(CKK_CHACHA20)], vec![kind(CKK_CHACHA20), length(32)]],
        KeyAlgorithm::Tdea => vec![vec![kind(CKK_DES3)]],
        // The type that says what the key is for, where the token has it.
        KeyAlgorithm::HmacSha256 => vec![
            vec![kind(CKK_SHA256_HMAC), length(HMAC_LEN)],
            vec![kind(CKK_GENERIC_SECRET), length(HMAC_LEN)],
        ],
        _ => Vec::new(),
    }
}

/// Whether a token does not take such a template, so that the next one is worth a try.
pub fn refused(algorithm: KeyAlgorithm, error: &HsmError) -> bool {
    matches!(algorithm, KeyAlgorithm::ChaCha20 | KeyAlgorithm::HmacSha256)
        && matches!(
            error.code,
            Some(
                CKR_ATTRIBUTE_VALUE_INVALID
                    | CKR_ATTRIBUTE_TYPE_INVALID
                    | CKR_TEMPLATE_INCONSISTENT
                    | CKR_TEMPLATE_INCOMPLETE
                    | CKR_KEY_TYPE_INCONSISTENT
                    | CKR_MECHANISM_INVALID
                    | CKR_ARGUMENTS_BAD
            )
        )
}
