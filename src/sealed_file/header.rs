//! What stands before the segments.

use aws_lc_rs::digest::{SHA256, digest};

use super::suite::Suite;
use crate::public_key::PublicKey;

/// Says what it is, and in which version.
const MAGIC: &[u8; 8] = b"HSMFILE\x01";
/// AES-256-GCM, the only cipher so far.
const AES_256_GCM: u8 = 1;
/// Magic, suite, cipher, two zeros, fingerprint.
const FIXED: usize = 8 + 1 + 1 + 2 + 32;

/// Bytes of the longest header.
pub const HEADER_MAX: usize = FIXED + Suite::P521.point_len();

/// The header of an encrypted file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Curve, hash and cipher.
    pub suite: Suite,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that the file is for.
    pub fingerprint: [u8; 32],
    /// The point of the pair that was made for this file, in uncompressed form.
    pub ephemeral: Vec<u8>,
}

/// Why a file is not one that can be decrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// Something else than an encrypted file.
    #[error("the file does not begin as an encrypted file of this service does")]
    Magic,
    /// One that a later version wrote.
    #[error("the file is of version {0} of the format, and only version 1 is known")]
    Version(u8),
    /// An algorithm that a later version knows.
    #[error("the file's header names an unknown {what} ({number})")]
    Unknown {
        /// What of.
        what: &'static str,
        /// Its number.
        number: u8,
    },
    /// The file ends within it.
    #[error("the file ends within its header")]
    Short,
    /// For another key.
    #[error("the file was encrypted for another key: the SHA-256 of its public key is {0}")]
    OtherKey(String),
    /// Not a point that anybody could have made.
    #[error("the file's header has no sound point of {0}")]
    Point(&'static str),
}

fn fingerprint(key: &PublicKey) -> [u8; 32] {
    digest(&SHA256, key.spki()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl Header {
    /// The header of a file for a key.
    pub(super) fn of(suite: Suite, key: &PublicKey, ephemeral: Vec<u8>) -> Self {
        Self { suite, fingerprint: fingerprint(key), ephemeral }
    }

    /// The bytes in the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let fixed = [self.suite.number(), AES_256_GCM, 0, 0];
        [MAGIC.as_slice(), &fixed, &self.fingerprint, &self.ephemeral].concat()
    }

    /// Reads the header at the beginning of `bytes`, with its length; `None` while more are needed to tell.
    ///
    /// # Errors
    /// [`InvalidHeader`], as soon as it is certain.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, InvalidHeader> {
        let (name, version) = (&MAGIC[..7], MAGIC[7]);
        let seen = bytes.len().min(name.len());
        if bytes[..seen] != name[..seen] {
            return Err(InvalidHeader::Magic);
        }
        match bytes.get(7) {
            Some(number) if *number != version => return Err(InvalidHeader::Version(*number)),
            _ => {}
        }
        let unknown = |what, number: &u8| Err(InvalidHeader::Unknown { what, number: *number });
        let suite = match bytes.get(8) {
            None => return Ok(None),
            Some(number) => match Suite::numbered(*number) {
                Some(suite) => suite,
                None => return unknown("curve", number),
            },
        };
        match bytes.get(9..12) {
            None => return Ok(None),
            Some([AES_256_GCM, 0, 0]) => {}
            Some([AES_256_GCM, 0, option] | [AES_256_GCM, option, _]) => return unknown("option", option),
            Some(cipher) => return unknown("cipher", &cipher[0]),
        }
        let length = FIXED + suite.point_len();
        let Some(whole) = bytes.get(..length) else { return Ok(None) };
        let fingerprint = whole[FIXED - 32..FIXED].try_into().expect("32 bytes");
        Ok(Some((Self { suite, fingerprint, ephemeral: whole[FIXED..].to_vec() }, length)))
    }

    /// Checks that the file is for this key and that its point is a point of the key's curve. Only then may a token be asked:
    /// from what it answers of other points, somebody could learn about the private key.
    ///
    /// # Errors
    /// [`InvalidHeader`].
    pub fn check(&self, key: &PublicKey) -> Result<(), InvalidHeader> {
        let curve = key.curve().map_or("", |curve| curve.name);
        if Suite::of(key) != Some(self.suite) || self.fingerprint != fingerprint(key) {
            return Err(InvalidHeader::OtherKey(hex::encode(self.fingerprint)));
        }
        // The same curve and as many bytes: only the point differs.
        let before = key.spki().len() - self.ephemeral.len();
        let spki = [&key.spki()[..before], &self.ephemeral].concat();
        PublicKey::from_spki(&spki).map(drop).map_err(|_| InvalidHeader::Point(curve))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(suite: u8, length: usize) -> Vec<u8> {
        [MAGIC.as_slice(), &[suite, 1, 0, 0], &[7; 32], &vec![4; length]].concat()
    }

    #[test]
    fn a_header_is_read_when_it_is_there_and_not_before() {
        for (suite, point) in [(1, 65), (2, 97), (3, 133)] {
            let whole = bytes(suite, point);
            for length in 0..whole.len() {
                assert_eq!(Header::read(&whole[..length]), Ok(None), "{suite} {length}");
            }
            let (header, length) = Header::read(&[whole.clone(), vec![9; 10]].concat()).unwrap().unwrap();
            assert_eq!((header.encode(), length), (whole.clone(), whole.len()));
        }
        assert_eq!(bytes(3, 133).len(), HEADER_MAX);
    }

    #[test]
    fn what_is_wrong_is_said_at_once() {
        let with = |at: usize, value: u8| {
            let mut bytes = bytes(2, 97);
            bytes[at] = value;
            bytes.truncate(12);
            Header::read(&bytes).unwrap_err()
        };
        assert_eq!(Header::read(b"PK").unwrap_err(), InvalidHeader::Magic);
        assert_eq!(with(0, b'h'), InvalidHeader::Magic);
        assert_eq!(with(7, 2), InvalidHeader::Version(2));
        assert_eq!(with(8, 0), InvalidHeader::Unknown { what: "curve", number: 0 });
        assert_eq!(with(8, 4), InvalidHeader::Unknown { what: "curve", number: 4 });
        assert_eq!(with(9, 2), InvalidHeader::Unknown { what: "cipher", number: 2 });
        assert_eq!(with(10, 3), InvalidHeader::Unknown { what: "option", number: 3 });
        assert_eq!(with(11, 5), InvalidHeader::Unknown { what: "option", number: 5 });
    }
}
