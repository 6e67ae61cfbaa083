//! What the fake encrypts and decrypts.

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};

use super::{
    super::{
        cipher::Job,
        protocol::{HsmError, Kind},
    },
    keys::{Numbers, Private, broken, mask, unsupported},
};
use crate::model::{CipherAlgorithm, cipher::Mode, digest::Hash};

/// What it has.
pub(super) fn all() -> Vec<CipherAlgorithm> {
    let has = |mode| matches!(mode, Mode::Gcm | Mode::Raw | Mode::Pkcs1 | Mode::Oaep(_));
    CipherAlgorithm::ALL.iter().copied().filter(|one| has(one.row().mode)).collect()
}

const TAG: usize = 16;

fn bad() -> HsmError {
    HsmError::new(Kind::Invalid, "it cannot be decrypted")
}

impl Private {
    /// Encrypts, with a tag as long as the job says.
    pub(super) fn encrypt(&self, job: &Job) -> Result<Vec<u8>, HsmError> {
        match (self, job.cipher.row().mode) {
            (Self::Secret(key), Mode::Gcm) => {
                let mut out = job.input.expose().to_vec();
                let tag = gcm(key)?
                    .seal_in_place_separate_tag(nonce(job)?, Aad::from(&job.aad), &mut out)
                    .map_err(broken)?;
                out.extend_from_slice(&tag.as_ref()[..job.tag_bits as usize / 8]);
                Ok(out)
            }
            _ => Err(unsupported(format_args!("{} to encrypt with this key", job.cipher))),
        }
    }

    /// Decrypts; GCM only with the longest tag.
    pub(super) fn decrypt(&self, job: &Job) -> Result<Vec<u8>, HsmError> {
        match (self, job.cipher.row().mode) {
            (Self::Secret(key), Mode::Gcm) if job.tag_bits as usize == 8 * TAG => {
                let mut out = job.input.expose().to_vec();
                let plain = gcm(key)?.open_in_place(nonce(job)?, Aad::from(&job.aad), &mut out);
                Ok(plain.map_err(|_| bad())?.to_vec())
            }
            (Self::Rsa { numbers, .. }, mode) => numbers.decrypt(mode, job.input.expose()),
            _ => Err(unsupported(format_args!("{} to decrypt with this key", job.cipher))),
        }
    }

    /// HMAC-SHA-256.
    pub(super) fn hmac(&self, payload: &[u8]) -> Result<Vec<u8>, HsmError> {
        let Self::Secret(key) = self else { return Err(unsupported("HMAC with this key")) };
        Ok(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), payload).as_ref().to_vec())
    }
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, HsmError> {
    let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
    Ok(LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(broken)?))
}

fn nonce(job: &Job) -> Result<Nonce, HsmError> {
    Nonce::try_assume_unique_for_key(&job.iv).map_err(broken)
}

impl Numbers {
    fn decrypt(&self, mode: Mode, sealed: &[u8]) -> Result<Vec<u8>, HsmError> {
        let block = self.private(sealed);
        match mode {
            Mode::Raw => Ok(block),
            Mode::Pkcs1 => match block.as_slice() {
                [0, 2, rest @ ..] => {
                    let at = rest.iter().position(|byte| *byte == 0).ok_or_else(bad)?;
                    Ok(rest[at + 1..].to_vec())
                }
                _ => Err(bad()),
            },
            Mode::Oaep(hash) => oaep(hash, &block),
            _ => Err(unsupported("such a cipher of RSA keys")),
        }
    }
}

/// The message in a block of RSAES-OAEP.
fn oaep(hash: Hash, block: &[u8]) -> Result<Vec<u8>, HsmError> {
    let (seed, data) = block.get(1..).ok_or_else(bad)?.split_at(hash.len());
    let unmasked = |bytes: &[u8], by: &[u8]| -> Vec<u8> {
        bytes.iter().zip(mask(hash, by)).map(|(byte, mask)| byte ^ mask).collect()
    };
    let seed = unmasked(seed, data);
    let data = unmasked(data, &seed);
    let (label, message) = data.split_at(hash.len());
    let at = message.iter().position(|byte| *byte != 0).ok_or_else(bad)?;
    if label == hash.digest(b"") && message[at] == 1 { Ok(message[at + 1..].to_vec()) } else { Err(bad()) }
}
