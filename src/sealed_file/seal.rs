//! Encrypts.

use aws_lc_rs::{
    aead::{Aad, LessSafeKey},
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    rand::SystemRandom,
};
use zeroize::Zeroizing;

use super::{SEGMENT, header::Header, nonce, suite::Suite};
use crate::public_key::PublicKey;

/// Why a file is not encrypted for a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotForFiles {
    /// Not a key for it.
    #[error("files are encrypted for EC keys on P-256, P-384 and P-521, and this key is {0}")]
    Key(String),
    /// The library has no random numbers.
    #[error("no key could be made for the file")]
    Library,
}

/// Encrypts one file.
pub struct Sealer {
    key: LessSafeKey,
    number: u64,
    /// Bytes of the file of which it is not known yet whether they are the last.
    pending: Zeroizing<Vec<u8>>,
}

impl Sealer {
    /// Begins a file for whoever has the private half of `key`. The first part of the result is the file's header.
    ///
    /// # Errors
    /// [`NotForFiles`].
    pub fn to(key: &PublicKey) -> Result<(Vec<u8>, Self), NotForFiles> {
        let kind =
            || key.curve().map_or_else(|| key.algorithm().to_string(), |curve| format!("on {}", curve.name));
        let suite = Suite::of(key).ok_or_else(|| NotForFiles::Key(kind()))?;
        let pair = EphemeralPrivateKey::generate(suite.agreement(), &SystemRandom::new());
        let pair = pair.map_err(|_| NotForFiles::Library)?;
        let point = pair.compute_public_key().map_err(|_| NotForFiles::Library)?;
        let header = Header::of(suite, key, point.as_ref().to_vec()).encode();
        let theirs = &key.spki()[key.spki().len() - suite.point_len()..];
        let peer = UnparsedPublicKey::new(suite.agreement(), theirs);
        let key = agree_ephemeral(pair, peer, NotForFiles::Library, |secret| Ok(suite.key(secret, &header)))?;
        Ok((header, Self { key, number: 0, pending: Zeroizing::new(Vec::with_capacity(SEGMENT)) }))
    }

    /// Takes the next bytes of the file, and appends to `out` what is certain.
    pub fn update(&mut self, mut file: &[u8], out: &mut Vec<u8>) {
        while !file.is_empty() {
            if self.pending.len() == SEGMENT {
                self.seal_pending(false, out);
            }
            // What is followed by more is not the last, and need not be kept.
            if self.pending.is_empty() && file.len() > SEGMENT {
                let (segment, rest) = file.split_at(SEGMENT);
                self.seal(segment, false, out);
                file = rest;
                continue;
            }
            let (now, later) = file.split_at(file.len().min(SEGMENT - self.pending.len()));
            self.pending.extend_from_slice(now);
            file = later;
        }
    }

    /// The file is at its end.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.seal_pending(true, out);
    }

    fn seal_pending(&mut self, last: bool, out: &mut Vec<u8>) {
        let mut pending = std::mem::take(&mut self.pending);
        self.seal(&pending, last, out);
        pending.clear();
        self.pending = pending;
    }

    fn seal(&mut self, segment: &[u8], last: bool, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(segment);
        let nonce = nonce(self.number, last);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[start..]);
        out.extend_from_slice(tag.expect("a segment is no longer than the cipher allows").as_ref());
        self.number += 1;
    }
}
