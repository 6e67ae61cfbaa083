//! Ciphers of the REST contract (its section 2.6), as one table.

use super::{KeyAlgorithm, digest::Hash, vocabulary::vocabulary};

vocabulary! {
    /// How a payload is encrypted.
    CipherAlgorithm {
        RsaOaepSha512 = "RSA_PADDING_OAEP_WITH_SHA512",
        RsaOaepSha384 = "RSA_PADDING_OAEP_WITH_SHA384",
        RsaOaepSha256 = "RSA_PADDING_OAEP_WITH_SHA256",
        RsaOaepSha224 = "RSA_PADDING_OAEP_WITH_SHA224",
        RsaOaepSha1 = "RSA_PADDING_OAEP_WITH_SHA1",
        RsaOaep = "RSA_PADDING_OAEP",
        Rsa = "RSA",
        RsaPkcs = "RSA_PADDING_PKCS",
        RsaNoPadding = "RSA_NO_PADDING",
        AesGcm = "AES_GCM",
        AesCtr = "AES_CTR",
        AesEcb = "AES_ECB",
        AesCbcNoPadding = "AES_CBC_NO_PADDING",
        Aes = "AES",
        ChaCha20 = "CHACHA20",
        ChaCha20Aead = "CHACHA20_AEAD",
        Camellia = "CAMELLIA",
        CamelliaCbcNoPadding = "CAMELLIA_CBC_NO_PADDING",
        CamelliaEcb = "CAMELLIA_ECB",
        TdeaCbc = "TDEA_CBC",
        TdeaCbcNoPadding = "TDEA_CBC_NO_PADDING",
        TdeaEcb = "TDEA_ECB",
    }
}

/// Lengths of a tag in bits that the contract has; 0 leaves it to the cipher.
pub const TAG_LENGTHS: [u32; 7] = [0, 64, 96, 104, 112, 120, 128];

/// The longest tag, and what 0 stands for.
const TAG_DEFAULT: u32 = 128;

/// What a cipher does with the payload. Everything a PKCS#11 token or somebody with the public key needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// RSAES-OAEP, MGF1 by the same hash, no label.
    Oaep(Hash),
    /// RSAES-PKCS1-v1_5.
    Pkcs1,
    /// The number itself, without any padding.
    Raw,
    /// Galois/counter mode.
    Gcm,
    /// Counter mode; the whole first block is the initialization vector.
    Ctr,
    /// Electronic codebook, no padding.
    Ecb,
    /// Cipher block chaining, no padding.
    Cbc,
    /// Cipher block chaining with the padding of PKCS #7.
    CbcPad,
    /// ChaCha20 with a nonce of 12 bytes and a counter that starts at 0.
    ChaCha20,
    /// ChaCha20-Poly1305 of RFC 8439.
    ChaCha20Poly1305,
}

/// One cipher.
#[derive(Debug)]
pub struct CipherRow {
    /// The cipher.
    pub cipher: CipherAlgorithm,
    /// Keys that it takes.
    pub key: KeyAlgorithm,
    /// What it does.
    pub mode: Mode,
}

/// Why what came with a payload does not suit its cipher.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// A tag length that the contract or the cipher does not have.
    #[error("tagLength {given} does not fit {cipher}: allowed are {allowed}")]
    TagLength {
        /// The cipher.
        cipher: CipherAlgorithm,
        /// What was given, in bits.
        given: i64,
        /// What would be accepted.
        allowed: String,
    },
    /// No initialization vector, or one of another length.
    #[error("{cipher} needs an initializationVector of {wanted} bytes, there are {given}")]
    Iv {
        /// The cipher.
        cipher: CipherAlgorithm,
        /// Bytes that it needs.
        wanted: usize,
        /// Bytes that were given.
        given: usize,
    },
    /// An initialization vector that nothing would be done with.
    #[error("{0} takes no initializationVector")]
    NoIv(CipherAlgorithm),
    /// Additional data that nothing would protect.
    #[error("{0} does not authenticate: additionalAuthenticationData is for AES_GCM and CHACHA20_AEAD")]
    NoAad(CipherAlgorithm),
    /// The payload has a length that the cipher cannot have.
    #[error("{cipher} {verb} {wanted}, there are {given} bytes")]
    Length {
        /// The cipher.
        cipher: CipherAlgorithm,
        /// `encrypts` or `decrypts`.
        verb: &'static str,
        /// Lengths that it takes, in words.
        wanted: String,
        /// Bytes that were given.
        given: usize,
    },
}

impl CipherAlgorithm {
    /// The cipher's row of the table.
    #[must_use]
    pub fn row(self) -> &'static CipherRow {
        ROWS.iter().find(|row| row.cipher == self).expect("a test proves that every cipher has its row")
    }

    /// Whether keys of `algorithm` encrypt with this.
    #[must_use]
    pub fn fits(self, algorithm: KeyAlgorithm) -> bool {
        self.row().key == algorithm
    }

    /// Bytes of the initialization vector, or nonce; 0 where there is none.
    #[must_use]
    pub fn iv_len(self) -> usize {
        match self.row().mode {
            Mode::Oaep(_) | Mode::Pkcs1 | Mode::Raw | Mode::Ecb => 0,
            Mode::Gcm | Mode::ChaCha20 | Mode::ChaCha20Poly1305 => 12,
            Mode::Ctr | Mode::Cbc | Mode::CbcPad => self.block_len(),
        }
    }

    /// Bytes of a block of the key's algorithm; 1 where it has none.
    fn block_len(self) -> usize {
        match self.row().key {
            KeyAlgorithm::Aes | KeyAlgorithm::Camellia => 16,
            KeyAlgorithm::Tdea => 8,
            _ => 1,
        }
    }

    /// Whether it notices changes, of the additional data too.
    #[must_use]
    pub fn is_aead(self) -> bool {
        matches!(self.row().mode, Mode::Gcm | Mode::ChaCha20Poly1305)
    }

    /// Bits of the tag for what a caller asked for; 0 for a cipher that has no tag.
    ///
    /// # Errors
    /// [`InvalidInput::TagLength`].
    pub fn tag_bits(self, asked: i64) -> Result<u32, InvalidInput> {
        let allowed: &[u32] = match self.row().mode {
            Mode::ChaCha20Poly1305 => &[0, TAG_DEFAULT],
            _ => &TAG_LENGTHS,
        };
        let given = u32::try_from(asked).ok().filter(|bits| allowed.contains(bits));
        let bits = given.ok_or_else(|| {
            let allowed = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            InvalidInput::TagLength { cipher: self, given: asked, allowed }
        })?;
        Ok(match (self.is_aead(), bits) {
            (false, _) => 0,
            (true, 0) => TAG_DEFAULT,
            (true, bits) => bits,
        })
    }

    /// Checks an initialization vector that came with a ciphertext.
    ///
    /// # Errors
    /// [`InvalidInput::Iv`] and [`InvalidInput::NoIv`].
    pub fn check_iv(self, iv: &[u8]) -> Result<(), InvalidInput> {
        match (self.iv_len(), iv.len()) {
            (wanted, given) if wanted == given => Ok(()),
            (0, _) => Err(InvalidInput::NoIv(self)),
            (wanted, given) => Err(InvalidInput::Iv { cipher: self, wanted, given }),
        }
    }

    /// Checks additional data.
    ///
    /// # Errors
    /// [`InvalidInput::NoAad`]: whoever sends some relies on it being protected.
    pub fn check_aad(self, aad: &[u8]) -> Result<(), InvalidInput> {
        if aad.is_empty() || self.is_aead() { Ok(()) } else { Err(InvalidInput::NoAad(self)) }
    }

    /// Checks the length of a payload that a key with blocks of `modulus` bytes, if it is an RSA key, shall encrypt.
    ///
    /// # Errors
    /// [`InvalidInput::Length`] says which lengths are possible.
    pub fn check_plaintext(self, given: usize, modulus: usize) -> Result<(), InvalidInput> {
        let most = |overhead: usize| {
            let most = modulus.saturating_sub(overhead);
            (given <= most, format!("at most {most} bytes with this key"))
        };
        let (fits, wanted) = match self.row().mode {
            Mode::Oaep(hash) => most(2 * hash.len() + 2),
            Mode::Pkcs1 => most(11),
            Mode::Raw => most(0),
            Mode::Ecb | Mode::Cbc => self.whole_blocks(given),
            Mode::Ctr | Mode::ChaCha20 => (given > 0, "at least one byte".to_owned()),
            Mode::Gcm | Mode::CbcPad | Mode::ChaCha20Poly1305 => return Ok(()),
        };
        let verb = "encrypts";
        if fits { Ok(()) } else { Err(InvalidInput::Length { cipher: self, verb, wanted, given }) }
    }

    /// The same of a ciphertext, with a tag of so many bits.
    ///
    /// # Errors
    /// As [`Self::check_plaintext`].
    pub fn check_ciphertext(self, given: usize, modulus: usize, tag_bits: u32) -> Result<(), InvalidInput> {
        let (fits, wanted) = match self.row().mode {
            Mode::Oaep(_) | Mode::Pkcs1 | Mode::Raw => {
                (given == modulus, format!("{modulus} bytes with this key"))
            }
            Mode::Ecb | Mode::Cbc | Mode::CbcPad => self.whole_blocks(given),
            Mode::Ctr | Mode::ChaCha20 => (given > 0, "at least one byte".to_owned()),
            Mode::Gcm | Mode::ChaCha20Poly1305 => {
                let tag = tag_bits as usize / 8;
                (given >= tag, format!("a ciphertext with its tag of {tag} bytes at the end"))
            }
        };
        let verb = "decrypts";
        if fits { Ok(()) } else { Err(InvalidInput::Length { cipher: self, verb, wanted, given }) }
    }

    fn whole_blocks(self, given: usize) -> (bool, String) {
        let block = self.block_len();
        (given > 0 && given.is_multiple_of(block), format!("whole blocks of {block} bytes, at least one"))
    }
}

/// The table. Where the contract does not name padding or hash, it is what Java's names of the same ciphers stand for.
#[rustfmt::skip]
static ROWS: &[CipherRow] = {
    use CipherAlgorithm as C;
    use KeyAlgorithm as K;
    use Mode::{Cbc, CbcPad, ChaCha20, ChaCha20Poly1305, Ctr, Ecb, Gcm, Oaep, Pkcs1, Raw};
    const fn row(cipher: CipherAlgorithm, key: KeyAlgorithm, mode: Mode) -> CipherRow {
        CipherRow { cipher, key, mode }
    }
    &[
        row(C::RsaOaepSha512, K::Rsa, Oaep(Hash::Sha512)),
        row(C::RsaOaepSha384, K::Rsa, Oaep(Hash::Sha384)),
        row(C::RsaOaepSha256, K::Rsa, Oaep(Hash::Sha256)),
        row(C::RsaOaepSha224, K::Rsa, Oaep(Hash::Sha224)),
        row(C::RsaOaepSha1, K::Rsa, Oaep(Hash::Sha1)),
        row(C::RsaOaep, K::Rsa, Oaep(Hash::Sha1)),
        row(C::Rsa, K::Rsa, Pkcs1),
        row(C::RsaPkcs, K::Rsa, Pkcs1),
        row(C::RsaNoPadding, K::Rsa, Raw),
        row(C::AesGcm, K::Aes, Gcm),
        row(C::AesCtr, K::Aes, Ctr),
        row(C::AesEcb, K::Aes, Ecb),
        row(C::AesCbcNoPadding, K::Aes, Cbc),
        row(C::Aes, K::Aes, CbcPad),
        row(C::ChaCha20, K::ChaCha20, ChaCha20),
        row(C::ChaCha20Aead, K::ChaCha20, ChaCha20Poly1305),
        row(C::Camellia, K::Camellia, CbcPad),
        row(C::CamelliaCbcNoPadding, K::Camellia, Cbc),
        row(C::CamelliaEcb, K::Camellia, Ecb),
        row(C::TdeaCbc, K::Tdea, CbcPad),
        row(C::TdeaCbcNoPadding, K::Tdea, Cbc),
        row(C::TdeaEcb, K::Tdea, Ecb),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use CipherAlgorithm as C;

    #[test]
    fn every_cipher_has_exactly_one_row() {
        for cipher in C::ALL {
            assert_eq!(ROWS.iter().filter(|row| row.cipher == *cipher).count(), 1, "{cipher}");
        }
        assert_eq!(ROWS.len(), C::ALL.len());
    }

    #[test]
    fn initialization_vectors_have_one_length() {
        let lengths =
            |cipher: C| (0..40).filter(|len| cipher.check_iv(&vec![0; *len]).is_ok()).collect::<Vec<_>>();
        for (cipher, length) in [
            (C::AesGcm, 12),
            (C::AesCtr, 16),
            (C::AesEcb, 0),
            (C::Aes, 16),
            (C::CamelliaCbcNoPadding, 16),
            (C::TdeaCbc, 8),
            (C::TdeaEcb, 0),
            (C::ChaCha20, 12),
            (C::ChaCha20Aead, 12),
            (C::RsaOaepSha256, 0),
        ] {
            assert_eq!(lengths(cipher), [length], "{cipher}");
        }
        assert_eq!(
            C::AesGcm.check_iv(&[]).unwrap_err().to_string(),
            "AES_GCM needs an initializationVector of 12 bytes, there are 0"
        );
    }

    #[test]
    fn tag_lengths_are_those_of_the_contract() {
        let taken = |cipher: C| (-8..=300).filter_map(move |bits| Some((bits, cipher.tag_bits(bits).ok()?)));
        let gcm = [(0, 128), (64, 64), (96, 96), (104, 104), (112, 112), (120, 120), (128, 128)];
        assert_eq!(taken(C::AesGcm).collect::<Vec<_>>(), gcm);
        assert_eq!(taken(C::ChaCha20Aead).collect::<Vec<_>>(), [(0, 128), (128, 128)]);
        // Where there is no tag its length means nothing, and must be one all the same.
        assert_eq!(taken(C::AesCtr).collect::<Vec<_>>(), gcm.map(|(asked, _)| (asked, 0)));
        assert_eq!(
            C::AesGcm.tag_bits(32).unwrap_err().to_string(),
            "tagLength 32 does not fit AES_GCM: allowed are 0, 64, 96, 104, 112, 120, 128"
        );
    }

    #[test]
    fn additional_data_is_for_who_protects_it() {
        for cipher in C::ALL {
            assert!(cipher.check_aad(&[]).is_ok());
            assert_eq!(
                cipher.check_aad(b"x").is_ok(),
                [C::AesGcm, C::ChaCha20Aead].contains(cipher),
                "{cipher}"
            );
        }
    }

    #[test]
    fn lengths_are_checked_by_the_padding() {
        let plain = |cipher: C, len| cipher.check_plaintext(len, 256).is_ok();
        for (cipher, most) in
            [(C::RsaOaepSha256, 190), (C::RsaOaepSha1, 214), (C::Rsa, 245), (C::RsaNoPadding, 256)]
        {
            assert!(plain(cipher, 0) && plain(cipher, most) && !plain(cipher, most + 1), "{cipher}");
            let sealed = |len| cipher.check_ciphertext(len, 256, 0).is_ok();
            assert!(sealed(256) && !sealed(255) && !sealed(257), "{cipher}");
        }
        assert!(plain(C::AesEcb, 32) && !plain(C::AesEcb, 33) && !plain(C::AesEcb, 0));
        assert!(plain(C::TdeaCbcNoPadding, 24) && !plain(C::TdeaCbcNoPadding, 12));
        assert!(plain(C::Aes, 0) && plain(C::Aes, 7) && plain(C::AesGcm, 0) && !plain(C::AesCtr, 0));
        let sealed = |cipher: C, len, tag| cipher.check_ciphertext(len, 0, tag).is_ok();
        assert!(sealed(C::AesGcm, 16, 128) && !sealed(C::AesGcm, 15, 128) && sealed(C::AesGcm, 8, 64));
        assert!(sealed(C::Aes, 16, 0) && !sealed(C::Aes, 0, 0) && !sealed(C::Aes, 17, 0));
    }
}
