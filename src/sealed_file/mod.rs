//! Encrypted files: the container that `docs/file-format.md` describes to the byte.
//!
//! A file is encrypted for the public half of an EC key with a key of its own: ECDH with a pair made for this one file,
//! HKDF, and AES-256-GCM in segments that are numbered and of which the last says so (the STREAM construction). Nothing
//! here knows of tokens or sockets: [`Sealer`] and [`Opener`] take bytes and give bytes, and hold a segment or two.
//!
//! The key that a file is encrypted with depends on the whole header, so that a header cannot be changed or put before
//! another file.

mod header;
mod open;
mod seal;
mod suite;

pub use header::{HEADER_MAX, Header, InvalidHeader};
pub use open::{Broken, Opener};
pub use seal::{NotForFiles, Sealer};
pub use suite::Suite;

/// Bytes of the file in every segment but the last.
pub const SEGMENT: usize = 64 * 1024;
/// Bytes that a segment has beyond those of the file.
pub const TAG: usize = 16;

/// Bytes of an encrypted file beyond the header, of a file of so many bytes.
#[must_use]
pub const fn sealed_len(plain: u64) -> u64 {
    let segments = plain.div_ceil(SEGMENT as u64);
    plain + TAG as u64 * if segments == 0 { 1 } else { segments }
}

/// The nonce of a segment: its number and whether it is the last.
fn nonce(number: u64, last: bool) -> aws_lc_rs::aead::Nonce {
    let mut bytes = [0; 12];
    bytes[3..11].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(last);
    aws_lc_rs::aead::Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        agreement::{self, UnparsedPublicKey},
        encoding::{AsDer, PublicKeyX509Der},
    };

    use super::*;
    use crate::public_key::PublicKey;

    /// A key that is not on a token.
    struct Recipient {
        private: agreement::PrivateKey,
        public: PublicKey,
    }

    impl Recipient {
        fn new(suite: Suite) -> Self {
            let private = agreement::PrivateKey::generate(suite.agreement()).unwrap();
            let spki: PublicKeyX509Der<'_> = private.compute_public_key().unwrap().as_der().unwrap();
            let public = PublicKey::from_spki(spki.as_ref()).unwrap();
            Self { private, public }
        }

        fn secret(&self, header: &Header) -> Vec<u8> {
            let peer = UnparsedPublicKey::new(header.suite.agreement(), &header.ephemeral);
            agreement::agree(&self.private, peer, (), |secret| Ok(secret.to_vec())).unwrap()
        }

        fn seal(&self, file: &[u8], chunk: usize) -> Vec<u8> {
            let (mut sealed, mut sealer) = Sealer::to(&self.public).unwrap();
            for chunk in file.chunks(chunk) {
                sealer.update(chunk, &mut sealed);
            }
            sealer.finish(&mut sealed);
            sealed
        }

        fn open(&self, sealed: &[u8], chunk: usize) -> Result<Vec<u8>, String> {
            let (header, length) =
                Header::read(sealed).map_err(|error| error.to_string())?.ok_or("no whole header")?;
            header.check(&self.public).map_err(|error| error.to_string())?;
            let (mut opener, mut file) = (Opener::new(&header, &self.secret(&header)), Vec::new());
            for chunk in sealed[length..].chunks(chunk) {
                opener.update(chunk, &mut file).map_err(|error| error.to_string())?;
            }
            opener.finish(&mut file).map_err(|error| error.to_string())?;
            Ok(file)
        }
    }

    fn file(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn a_file_of_any_length_comes_back_in_whatever_pieces_it_goes() {
        for suite in Suite::ALL {
            let recipient = Recipient::new(suite);
            for length in [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 3 * SEGMENT + 7] {
                let file = file(length);
                for (there, back) in [(1000, 777), (SEGMENT, SEGMENT + TAG), (usize::MAX, usize::MAX)] {
                    let sealed = recipient.seal(&file, there);
                    let header = Header::read(&sealed).unwrap().unwrap().1;
                    assert_eq!(sealed.len() as u64, header as u64 + sealed_len(length as u64), "{length}");
                    assert_eq!(recipient.open(&sealed, back).unwrap(), file, "{suite:?} {length}");
                }
            }
        }
    }

    #[test]
    fn a_file_is_never_encrypted_the_same_way_twice() {
        let recipient = Recipient::new(Suite::P384);
        assert_ne!(recipient.seal(b"file", 4), recipient.seal(b"file", 4));
    }

    #[test]
    fn whatever_is_changed_is_found_out() {
        let recipient = Recipient::new(Suite::P384);
        let whole = recipient.seal(&file(2 * SEGMENT + 100), usize::MAX);
        let header = Header::read(&whole).unwrap().unwrap().1;
        let piece = SEGMENT + TAG;
        let part =
            |number: usize| &whole[header + number * piece..whole.len().min(header + (number + 1) * piece)];
        let (head, first, second, last) = (&whole[..header], part(0), part(1), part(2));
        for (what, changed) in [
            ("swapped", [head, second, first, last].concat()),
            ("twice", [head, first, first, second, last].concat()),
            ("left out", [head, first, last].concat()),
            ("cut off at a segment", [head, first, second].concat()),
            ("cut off within a segment", whole[..whole.len() - 1].to_vec()),
            ("cut off after the header", head.to_vec()),
            ("less than a tag", whole[..header + 15].to_vec()),
            ("a byte more", [&whole, &[0][..]].concat()),
            ("another file behind it", [&whole[..], &whole[header..]].concat()),
            ("an empty end", [&whole[..], &[0; TAG]].concat()),
        ] {
            let error = recipient.open(&changed, 4096).unwrap_err();
            assert_eq!(error, Broken.to_string(), "{what}");
        }
        // Every byte of the header counts, and of the segments all that were tried.
        for at in (0..header).chain([header, header + piece - 1, header + piece, whole.len() - 1]) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(recipient.open(&changed, usize::MAX).is_err(), "byte {at}");
        }
        let other = recipient.seal(&file(2 * SEGMENT + 100), usize::MAX);
        assert!(recipient.open(&[&other[..header], &whole[header..]].concat(), 4096).is_err());
    }

    #[test]
    fn a_header_for_another_key_says_so() {
        let (mine, other) = (Recipient::new(Suite::P256), Recipient::new(Suite::P256));
        let error = other.open(&mine.seal(b"file", 4), 100).unwrap_err();
        assert!(error.contains(&mine.public.fingerprint()), "{error}");
        let larger = Recipient::new(Suite::P384);
        assert!(larger.open(&mine.seal(b"file", 4), 100).unwrap_err().contains("another key"));
    }

    #[test]
    fn a_point_off_the_curve_reaches_no_token() {
        let recipient = Recipient::new(Suite::P256);
        let mut sealed = recipient.seal(b"file", 4);
        let header = Header::read(&sealed).unwrap().unwrap().1;
        sealed[header - 1] ^= 1;
        let (header, _) = Header::read(&sealed).unwrap().unwrap();
        assert_eq!(header.check(&recipient.public), Err(InvalidHeader::Point("P-256")));
    }

    #[test]
    fn other_keys_get_no_files() {
        // secp256k1, from openssl.
        let k1 = "3056301006072a8648ce3d020106052b8104000a0342000479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8";
        let public = PublicKey::from_spki(&hex::decode(k1).unwrap()).unwrap();
        assert!(matches!(Sealer::to(&public), Err(NotForFiles::Key(_))));
    }
}
