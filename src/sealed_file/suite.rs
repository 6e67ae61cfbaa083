//! Which curve goes with which hash and cipher.

use aws_lc_rs::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    agreement, hkdf,
};

use crate::public_key::PublicKey;

/// Goes into the derivation of a file's key, so that the shared secret is of no use for anything else.
const PURPOSE: &[u8] = b"hsm-operator file encryption 1";

/// A curve, the hash of HKDF and AES-256-GCM. The hash follows the curve, as SP 800-56A pairs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// P-256 with HKDF-SHA-256.
    P256,
    /// P-384 with HKDF-SHA-384: the one that the contract names.
    P384,
    /// P-521 with HKDF-SHA-512.
    P521,
}

impl Suite {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// Its number in a header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::P256 => 1,
            Self::P384 => 2,
            Self::P521 => 3,
        }
    }

    /// The one with a number.
    #[must_use]
    pub fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.number() == number)
    }

    /// The one for a key; `None` for keys that files are not encrypted for.
    #[must_use]
    pub fn of(key: &PublicKey) -> Option<Self> {
        match key.curve()?.name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            _ => None,
        }
    }

    /// What audit records call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "ECIES_P256_SHA256_AES256GCM",
            Self::P384 => "ECIES_P384_SHA384_AES256GCM",
            Self::P521 => "ECIES_P521_SHA512_AES256GCM",
        }
    }

    /// Bytes of the shared secret: those of one coordinate.
    #[must_use]
    pub const fn secret_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// Bytes of a point in uncompressed form.
    #[must_use]
    pub const fn point_len(self) -> usize {
        1 + 2 * self.secret_len()
    }

    pub(super) fn agreement(self) -> &'static agreement::Algorithm {
        match self {
            Self::P256 => &agreement::ECDH_P256,
            Self::P384 => &agreement::ECDH_P384,
            Self::P521 => &agreement::ECDH_P521,
        }
    }

    /// The key of one file.
    pub(super) fn key(self, secret: &[u8], header: &[u8]) -> LessSafeKey {
        let hash = match self {
            Self::P256 => hkdf::HKDF_SHA256,
            Self::P384 => hkdf::HKDF_SHA384,
            Self::P521 => hkdf::HKDF_SHA512,
        };
        let extracted = hkdf::Salt::new(hash, &[]).extract(secret);
        let info = [PURPOSE, header];
        let key = extracted.expand(&info, &AES_256_GCM).expect("32 bytes are no more than HKDF gives");
        LessSafeKey::new(UnboundKey::from(key))
    }
}
