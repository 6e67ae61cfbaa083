//! Encryption for the holder of an RSA key, by aws-lc where it has the padding.

use super::{Kind, PublicKey};
use crate::model::{
    CipherAlgorithm, KeyAlgorithm,
    cipher::{InvalidInput, Mode},
    digest::Hash,
};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512,
    OaepAlgorithm, OaepPublicEncryptingKey, Pkcs1PublicEncryptingKey, PublicEncryptingKey,
};
use rsa::BoxedUint;
use rsa::traits::PublicKeyParts;

/// Why something was not encrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    /// Keys of this algorithm do not encrypt so.
    #[error("{cipher} is not a cipher of {key} keys")]
    Mismatch {
        /// Cipher asked for.
        cipher: CipherAlgorithm,
        /// Algorithm of the key.
        key: KeyAlgorithm,
    },
    /// The plaintext is too long for the padding.
    #[error(transparent)]
    Input(#[from] InvalidInput),
    /// Without padding, the plaintext is a number, and it is not below the key's modulus.
    #[error("{0} encrypts a number below the key's modulus, and this one is not")]
    TooLarge(CipherAlgorithm),
    /// The library failed, which no input explains.
    #[error("the plaintext cannot be encrypted")]
    Library,
}

impl PublicKey {
    /// Encrypts `plaintext` for the holder of the private half, with an RSA cipher.
    ///
    /// OAEP has no label and makes its mask with the same hash. Without padding the result is the number itself: who
    /// knows what it may be can check it, and two equal ones look equal.
    ///
    /// # Errors
    /// [`EncryptError`].
    pub fn encrypt(&self, cipher: CipherAlgorithm, plaintext: &[u8]) -> Result<Vec<u8>, EncryptError> {
        let Kind::Rsa(key) = &self.kind else {
            return Err(EncryptError::Mismatch { cipher, key: self.algorithm() });
        };
        if !cipher.fits(KeyAlgorithm::Rsa) {
            return Err(EncryptError::Mismatch { cipher, key: KeyAlgorithm::Rsa });
        }
        cipher.check_plaintext(plaintext.len(), key.size())?;
        let mut out = vec![0; key.size()];
        let fast = || PublicEncryptingKey::from_der(&self.spki).map_err(|_| EncryptError::Library);
        match cipher.row().mode {
            Mode::Oaep(hash) => match fast_oaep(hash) {
                Some(oaep) => {
                    let key = OaepPublicEncryptingKey::new(fast()?).map_err(|_| EncryptError::Library)?;
                    key.encrypt(oaep, plaintext, &mut out, None).map_err(|_| EncryptError::Library)?;
                }
                None => out = slow_oaep(key, hash, plaintext)?,
            },
            Mode::Pkcs1 => {
                let key = Pkcs1PublicEncryptingKey::new(fast()?).map_err(|_| EncryptError::Library)?;
                key.encrypt(plaintext, &mut out).map_err(|_| EncryptError::Library)?;
            }
            Mode::Raw => {
                let number = BoxedUint::from_be_slice(plaintext, key.n_bits_precision())
                    .map_err(|_| EncryptError::TooLarge(cipher))?;
                if number >= *key.n().as_ref() {
                    return Err(EncryptError::TooLarge(cipher));
                }
                let sealed = rsa::hazmat::rsa_encrypt(key.as_ref(), &number)
                    .map_err(|_| EncryptError::Library)?
                    .to_be_bytes();
                let zeros = sealed.len().saturating_sub(out.len());
                let sealed = &sealed[zeros..];
                let start = out.len() - sealed.len();
                out[start..].copy_from_slice(sealed);
            }
            Mode::Gcm
            | Mode::Ctr
            | Mode::Ecb
            | Mode::Cbc
            | Mode::CbcPad
            | Mode::ChaCha20
            | Mode::ChaCha20Poly1305 => {
                return Err(EncryptError::Mismatch { cipher, key: KeyAlgorithm::Rsa });
            }
        }
        Ok(out)
    }
}

/// What aws-lc has.
fn fast_oaep(hash: Hash) -> Option<&'static OaepAlgorithm> {
    Some(match hash {
        Hash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        Hash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        Hash::Sha384 => &OAEP_SHA384_MGF1SHA384,
        Hash::Sha512 => &OAEP_SHA512_MGF1SHA512,
        _ => return None,
    })
}

fn slow_oaep(key: &rsa::PublicKey, hash: Hash, plaintext: &[u8]) -> Result<Vec<u8>, EncryptError> {
    match hash {
        Hash::Sha224 => key.oaep_encrypt::<sha2::Sha224>(plaintext).map_err(|_| EncryptError::Library),
        // The contract's table has no OAEP with any other.
        _ => Err(EncryptError::Library),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CipherAlgorithm as C;
    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rsa::{KeySize, OaepPrivateDecryptingKey, Pkcs1PrivateDecryptingKey, PrivateDecryptingKey},
    };

    fn pair() -> (PrivateDecryptingKey, PublicKey) {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(&private.public_key()).unwrap();
        (private, PublicKey::from_spki(spki.as_ref()).unwrap())
    }

    #[test]
    fn what_is_encrypted_is_decrypted_by_another_library() {
        let (private, public) = pair();
        let oaep = OaepPrivateDecryptingKey::new(private.clone()).unwrap();
        for (cipher, algorithm) in [
            (C::RsaOaep, &OAEP_SHA1_MGF1SHA1),
            (C::RsaOaepSha1, &OAEP_SHA1_MGF1SHA1),
            (C::RsaOaepSha256, &OAEP_SHA256_MGF1SHA256),
            (C::RsaOaepSha384, &OAEP_SHA384_MGF1SHA384),
            (C::RsaOaepSha512, &OAEP_SHA512_MGF1SHA512),
        ] {
            let sealed = public.encrypt(cipher, b"Payload").unwrap();
            let mut out = [0; 256];
            assert_eq!(oaep.decrypt(algorithm, &sealed, &mut out, None).unwrap(), b"Payload", "{cipher}");
        }
        let pkcs1 = Pkcs1PrivateDecryptingKey::new(private).unwrap();
        for cipher in [C::Rsa, C::RsaPkcs] {
            let sealed = public.encrypt(cipher, b"Payload").unwrap();
            let mut out = [0; 256];
            assert_eq!(pkcs1.decrypt(&sealed, &mut out).unwrap(), b"Payload", "{cipher}");
        }
        assert_eq!(public.encrypt(C::RsaOaepSha224, b"Payload").unwrap().len(), 256);
    }

    #[test]
    fn without_padding_it_is_the_power_of_the_number() {
        let (_, public) = pair();
        let Kind::Rsa(key) = &public.kind else { panic!() };
        let number = num_bigint::BigUint::from(0x1234_5678_u32);
        let power = |number: &num_bigint::BigUint| {
            let modulus = num_bigint::BigUint::from_bytes_be(&key.n().to_be_bytes());
            number.modpow(&num_bigint::BigUint::from(65537_u32), &modulus)
        };
        let sealed = public.encrypt(C::RsaNoPadding, &number.to_bytes_be()).unwrap();
        assert_eq!((sealed.len(), num_bigint::BigUint::from_bytes_be(&sealed)), (256, power(&number)));
        // 0 and 1 are their own powers, and as wide as the modulus.
        assert_eq!(public.encrypt(C::RsaNoPadding, &[]).unwrap(), [0; 256]);
        assert_eq!(public.encrypt(C::RsaNoPadding, &[1]).unwrap(), [[0; 255].as_slice(), &[1]].concat());
        let modulus = key.n().to_be_bytes();
        let error = public.encrypt(C::RsaNoPadding, &modulus).unwrap_err();
        assert_eq!(error, EncryptError::TooLarge(C::RsaNoPadding));
        let most = [&modulus[..255], &[modulus[255] - 1]].concat();
        assert_eq!(public.encrypt(C::RsaNoPadding, &most).unwrap(), most);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (_, public) = pair();
        for (cipher, most) in [(C::RsaOaepSha512, 126), (C::RsaOaepSha224, 198), (C::Rsa, 245)] {
            assert!(public.encrypt(cipher, &vec![1; most]).is_ok(), "{cipher}");
            let error = public.encrypt(cipher, &vec![1; most + 1]).unwrap_err();
            assert!(matches!(error, EncryptError::Input(_)), "{error}");
        }
        let error = public.encrypt(C::AesGcm, b"x").unwrap_err();
        assert_eq!(error.to_string(), "AES_GCM is not a cipher of RSA keys");
    }
}
