//! Decrypts.

use aws_lc_rs::aead::{Aad, LessSafeKey};

use super::{SEGMENT, TAG, header::Header, nonce};

/// A segment was changed, moved, left out or put in, or the file was cut off or continued. Which of these, nobody can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file is not as it was encrypted: it was changed, cut off or continued")]
pub struct Broken;

/// Decrypts one file.
pub struct Opener {
    key: LessSafeKey,
    number: u64,
    /// Bytes of which it is not known yet whether they are the last.
    pending: Vec<u8>,
}

impl Opener {
    /// Begins after a header that was checked, with the secret that the private key and its point have in common.
    #[must_use]
    pub fn new(header: &Header, secret: &[u8]) -> Self {
        let key = header.suite.key(secret, &header.encode());
        Self { key, number: 0, pending: Vec::with_capacity(SEGMENT + TAG) }
    }

    /// Takes the next bytes of the encrypted file, and appends to `out` what of the file is authentic.
    ///
    /// # Errors
    /// [`Broken`]; nothing of this or of what follows may be taken for the file.
    pub fn update(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        while !sealed.is_empty() {
            if self.pending.len() == SEGMENT + TAG {
                self.open_pending(false, out)?;
            }
            // What is followed by more is not the last, and need not be kept.
            if self.pending.is_empty() && sealed.len() > SEGMENT + TAG {
                let (segment, rest) = sealed.split_at(SEGMENT + TAG);
                self.open(segment, false, out)?;
                sealed = rest;
                continue;
            }
            let (now, later) = sealed.split_at(sealed.len().min(SEGMENT + TAG - self.pending.len()));
            self.pending.extend_from_slice(now);
            sealed = later;
        }
        Ok(())
    }

    /// The encrypted file is at its end.
    ///
    /// # Errors
    /// [`Broken`], also where it should not be.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        // Only an empty file ends with nothing.
        if self.number > 0 && self.pending.len() <= TAG {
            return Err(Broken);
        }
        self.open_pending(true, out)
    }

    fn open_pending(&mut self, last: bool, out: &mut Vec<u8>) -> Result<(), Broken> {
        let mut pending = std::mem::take(&mut self.pending);
        let opened = self.open(&pending, last, out);
        pending.clear();
        self.pending = pending;
        opened
    }

    fn open(&mut self, segment: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), Broken> {
        let text = segment.len().checked_sub(TAG).ok_or(Broken)?;
        let start = out.len();
        let (sealed, tag) = segment.split_at(text);
        out.resize(start + text, 0);
        let nonce = nonce(self.number, last);
        let opened = self.key.open_separate_gather(nonce, Aad::empty(), sealed, tag, &mut out[start..]);
        if opened.is_err() {
            out.truncate(start);
            return Err(Broken);
        }
        self.number += 1;
        Ok(())
    }
}
