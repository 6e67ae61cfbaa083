//! What is encrypted or decrypted, and how.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{CipherAlgorithm, KeyId, secret::Plaintext};

/// Something to encrypt or to decrypt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The key.
    pub key: KeyId,
    /// How.
    pub cipher: CipherAlgorithm,
    /// The plaintext, or the ciphertext with the tag at its end.
    pub input: Plaintext,
    /// The initialization vector, as long as the cipher's. Made by who asks and not by the token: then the same request
    /// has the same answer, and may be repeated after a crash.
    pub iv: Bytes,
    /// Additional data that the tag protects.
    pub aad: Bytes,
    /// Bits of the tag; 0 where the cipher has none.
    pub tag_bits: u32,
}
