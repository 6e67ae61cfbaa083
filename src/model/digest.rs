//! Hash functions of the contract, computed here and never on the token.

use digest::{Digest, ExtendableOutput, Update};

/// Prefixes of the SHA-2 family differ in the last OID arc and two lengths only.
macro_rules! sha2_prefix {
    ($arc:literal, $total:literal, $len:literal) => {
        &[
            0x30, $total, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, $arc, 0x05,
            0x00, 0x04, $len,
        ]
    };
}

/// `AlgorithmIdentifier`s of NIST's hash functions differ in the last arc only (2.16.840.1.101.3.4.2).
macro_rules! nist_oid {
    ($arc:literal) => {
        &[0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, $arc]
    };
}

/// A hash function of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hash {
    /// SHA-1, for compatibility only.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SHA3-224.
    Sha3_224,
    /// SHA3-256.
    Sha3_256,
    /// SHA3-384.
    Sha3_384,
    /// SHA3-512.
    Sha3_512,
    /// Keccak-224 with the original padding.
    Keccak224,
    /// Keccak-256 with the original padding, as Ethereum uses it.
    Keccak256,
    /// Keccak-384 with the original padding.
    Keccak384,
    /// Keccak-512 with the original padding.
    Keccak512,
    /// 256 bits of SHAKE128, as FIPS 204 and 205 take for a digest.
    Shake128,
    /// 512 bits of SHAKE256, as FIPS 204 and 205 take for a digest.
    Shake256,
    /// SHA-256 of SHA-256, as Bitcoin uses it.
    DoubleSha256,
}

impl Hash {
    /// Hashes `message`.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        fn one<D: Digest>(message: &[u8]) -> Vec<u8> {
            D::digest(message).to_vec()
        }
        fn extended<D: Default + Update + ExtendableOutput>(message: &[u8], length: usize) -> Vec<u8> {
            let mut digest = vec![0; length];
            D::default().chain(message).finalize_xof_into(&mut digest);
            digest
        }
        match self {
            Self::Sha1 => one::<sha1::Sha1>(message),
            Self::Sha224 => one::<sha2::Sha224>(message),
            Self::Sha256 => one::<sha2::Sha256>(message),
            Self::Sha384 => one::<sha2::Sha384>(message),
            Self::Sha512 => one::<sha2::Sha512>(message),
            Self::Sha3_224 => one::<sha3::Sha3_224>(message),
            Self::Sha3_256 => one::<sha3::Sha3_256>(message),
            Self::Sha3_384 => one::<sha3::Sha3_384>(message),
            Self::Sha3_512 => one::<sha3::Sha3_512>(message),
            Self::Keccak224 => one::<sha3::Keccak224>(message),
            Self::Keccak256 => one::<sha3::Keccak256>(message),
            Self::Keccak384 => one::<sha3::Keccak384>(message),
            Self::Keccak512 => one::<sha3::Keccak512>(message),
            Self::Shake128 => extended::<shake::Shake128>(message, self.len()),
            Self::Shake256 => extended::<shake::Shake256>(message, self.len()),
            Self::DoubleSha256 => one::<sha2::Sha256>(&one::<sha2::Sha256>(message)),
        }
    }

    /// Length of the digest in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no digest is empty")]
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 | Self::Sha3_224 | Self::Keccak224 => 28,
            Self::Sha256 | Self::Sha3_256 | Self::Keccak256 | Self::Shake128 | Self::DoubleSha256 => 32,
            Self::Sha384 | Self::Sha3_384 | Self::Keccak384 => 48,
            Self::Sha512 | Self::Sha3_512 | Self::Keccak512 | Self::Shake256 => 64,
        }
    }

    /// DER of the identifier, of hash functions that NIST has named.
    #[must_use]
    pub const fn oid(self) -> Option<&'static [u8]> {
        Some(match self {
            Self::Sha256 => nist_oid!(1),
            Self::Sha384 => nist_oid!(2),
            Self::Sha512 => nist_oid!(3),
            Self::Sha224 => nist_oid!(4),
            Self::Sha3_224 => nist_oid!(7),
            Self::Sha3_256 => nist_oid!(8),
            Self::Sha3_384 => nist_oid!(9),
            Self::Sha3_512 => nist_oid!(10),
            Self::Shake128 => nist_oid!(11),
            Self::Shake256 => nist_oid!(12),
            _ => return None,
        })
    }

    /// The bytes before the digest in an RFC 8017 `DigestInfo`, where the contract signs one.
    #[must_use]
    pub const fn digest_info_prefix(self) -> Option<&'static [u8]> {
        Some(match self {
            Self::Sha1 => {
                &[0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14]
            }
            Self::Sha224 => sha2_prefix!(4, 0x2d, 28),
            Self::Sha256 => sha2_prefix!(1, 0x31, 32),
            Self::Sha384 => sha2_prefix!(2, 0x41, 48),
            Self::Sha512 => sha2_prefix!(3, 0x51, 64),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let empty = |hash: Hash| hex::encode(hash.digest(b""));
        assert_eq!(
            empty(Hash::Keccak256),
            "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
        );
        assert_eq!(empty(Hash::Shake128), "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26");
        assert_eq!(empty(Hash::Sha3_256), "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a");
        assert_eq!(
            empty(Hash::DoubleSha256),
            "5df6e0e2761359d30a8275058e299fcc0381534545f55cf43e41983f5d4c9456"
        );
    }

    #[test]
    fn a_digest_info_ends_with_the_length_of_its_digest() {
        for hash in [Hash::Sha1, Hash::Sha224, Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            let prefix = hash.digest_info_prefix().unwrap();
            assert_eq!(*prefix.last().unwrap() as usize, hash.len());
            assert_eq!(prefix[1] as usize, prefix.len() - 2 + hash.len());
            assert_eq!(hash.digest(b"x").len(), hash.len());
        }
    }
}
