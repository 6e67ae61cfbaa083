//! Encryption, decryption and HMAC with keys of the token.

use cryptoki_sys::*;

use super::{
    mechanism::{self, KeyShape},
    object,
    pool::look_up,
    raw::{Cipher, CipherParameter, Failure, Mechanism, Session},
    token::{SignKey, Token},
};
use crate::{
    hsm::{
        cipher::Job,
        protocol::{HsmError, Kind, Reply},
    },
    model::{CipherAlgorithm, KeyAlgorithm, KeyId, cipher::Mode, secret::Plaintext},
};

/// What is said of whatever cannot be decrypted. Not a word more: from the difference between a wrong padding and
/// anything else, somebody who may ask often enough finds out what a ciphertext says.
pub const NOT_DECRYPTED: &str = "it cannot be decrypted";

/// The mechanism of a cipher.
pub fn kind(cipher: CipherAlgorithm) -> CK_MECHANISM_TYPE {
    use KeyAlgorithm as K;
    let row = cipher.row();
    match (row.mode, row.key) {
        (Mode::Oaep(_), _) => CKM_RSA_PKCS_OAEP,
        (Mode::Pkcs1, _) => CKM_RSA_PKCS,
        (Mode::Raw, _) => CKM_RSA_X_509,
        (Mode::Gcm, _) => CKM_AES_GCM,
        (Mode::Ctr, K::Camellia) => CKM_CAMELLIA_CTR,
        (Mode::Ctr, _) => CKM_AES_CTR,
        (Mode::Ecb, K::Camellia) => CKM_CAMELLIA_ECB,
        (Mode::Ecb, K::Tdea) => CKM_DES3_ECB,
        (Mode::Ecb, _) => CKM_AES_ECB,
        (Mode::Cbc, K::Camellia) => CKM_CAMELLIA_CBC,
        (Mode::Cbc, K::Tdea) => CKM_DES3_CBC,
        (Mode::Cbc, _) => CKM_AES_CBC,
        (Mode::CbcPad, K::Camellia) => CKM_CAMELLIA_CBC_PAD,
        (Mode::CbcPad, K::Tdea) => CKM_DES3_CBC_PAD,
        (Mode::CbcPad, _) => CKM_AES_CBC_PAD,
        (Mode::ChaCha20, _) => CKM_CHACHA20,
        (Mode::ChaCha20Poly1305, _) => CKM_CHACHA20_POLY1305,
    }
}

/// The mechanism with its parameters.
pub fn mechanism<'a>(
    cipher: CipherAlgorithm,
    iv: &'a [u8],
    aad: &'a [u8],
    tag_bits: u32,
) -> Result<Cipher<'a>, HsmError> {
    let invalid = |error: crate::model::cipher::InvalidInput| HsmError::new(Kind::Invalid, error.to_string());
    cipher.check_iv(iv).map_err(invalid)?;
    let parameter = match cipher.row().mode {
        Mode::Pkcs1 | Mode::Raw | Mode::Ecb => CipherParameter::None,
        Mode::Cbc | Mode::CbcPad => CipherParameter::Iv(iv),
        Mode::Ctr => CipherParameter::Counter(iv.try_into().expect("its length was checked")),
        Mode::Gcm => CipherParameter::Gcm { iv, aad, tag_bits: tag_bits.into() },
        Mode::ChaCha20 => CipherParameter::ChaCha20(iv),
        Mode::ChaCha20Poly1305 => CipherParameter::Poly1305 { nonce: iv, aad },
        Mode::Oaep(hash) => {
            let (hash, mgf) = mechanism::parameters(hash)
                .ok_or_else(|| HsmError::new(Kind::Unsupported, "the hash has no number"))?;
            CipherParameter::Oaep { hash, mgf }
        }
    };
    Ok(Cipher { kind: kind(cipher), parameter })
}

/// The contract's word for a key that was looked up.
fn algorithm(shape: KeyShape) -> Option<KeyAlgorithm> {
    match shape {
        KeyShape::Rsa(_) => Some(KeyAlgorithm::Rsa),
        KeyShape::Other(key_type) => object::algorithm(Some(key_type), None, None),
        _ => None,
    }
}

fn fitting(key: &SignKey, wanted: KeyAlgorithm, what: &str) -> Result<(), HsmError> {
    match algorithm(key.shape) {
        Some(found) if found == wanted => Ok(()),
        Some(found) => {
            Err(HsmError::new(Kind::Invalid, format!("{what} does not suit a key of type {found}")))
        }
        None => Err(HsmError::new(Kind::Invalid, format!("{what} does not suit a key of this type"))),
    }
}

/// Does something with a key that is looked up where it is not known. A handle that may have gone bad is forgotten.
pub(super) fn with_key<T>(
    token: &Token,
    session: &Session,
    key: &KeyId,
    act: impl FnOnce(SignKey) -> Result<T, HsmError>,
) -> Result<T, HsmError> {
    let cached = token.cached(key);
    let chosen = match cached {
        Some(chosen) => chosen,
        None => look_up(token, session, key)?,
    };
    act(chosen).map_err(|error| match error.kind {
        Kind::Lost | Kind::Device | Kind::Full => {
            token.forget(key);
            // As with signatures: of a key that is gone, some modules say no more than this.
            let kind = if cached.is_some() { Kind::Lost } else { Kind::Device };
            HsmError { kind, ..error }
        }
        _ => error,
    })
}

/// The error of a cipher's first step, or of the second step of encryption. A cipher that the token does not know, or not
/// with these parameters, is not the caller's mistake.
fn refused(failure: Failure, cipher: CipherAlgorithm) -> HsmError {
    let init = matches!(failure.function, "C_EncryptInit" | "C_DecryptInit");
    let lacks = matches!(
        failure.code,
        CKR_ARGUMENTS_BAD | CKR_MECHANISM_INVALID | CKR_MECHANISM_PARAM_INVALID | CKR_FUNCTION_NOT_SUPPORTED
    );
    let error = HsmError::from(failure);
    if init && lacks {
        let message = format!("the token does not have {cipher} ({})", error.message);
        return HsmError { kind: Kind::Unsupported, message, ..error };
    }
    error
}

/// See [`crate::hsm::protocol::Request::Encrypt`].
pub fn encrypt(token: &Token, session: &Session, job: &Job) -> Result<Reply, HsmError> {
    let Job { key, cipher, input, iv, aad, tag_bits } = job;
    with_key(token, session, key, |chosen| {
        fitting(&chosen, cipher.row().key, cipher.name())?;
        let mechanism = mechanism(*cipher, iv, aad, *tag_bits)?;
        let (ciphertext, iv) = session
            .encrypt(&mechanism, chosen.object, input.expose())
            .map_err(|failure| refused(failure, *cipher))?;
        Ok(Reply::Encrypted { ciphertext: ciphertext.into(), iv: iv.into() })
    })
}

/// See [`crate::hsm::protocol::Request::Decrypt`].
pub fn decrypt(token: &Token, session: &Session, job: &Job) -> Result<Reply, HsmError> {
    let Job { key, cipher, input, iv, aad, tag_bits } = job;
    with_key(token, session, key, |chosen| {
        fitting(&chosen, cipher.row().key, cipher.name())?;
        let mechanism = mechanism(*cipher, iv, aad, *tag_bits)?;
        let opened = session.decrypt(&mechanism, chosen.object, input.expose());
        let mut plain = opened.map_err(|failure| match failure.function {
            "C_Decrypt" if is_of_the_input(token, session, &chosen, &mechanism, failure) => {
                HsmError::new(Kind::Invalid, NOT_DECRYPTED)
            }
            _ => refused(failure, *cipher),
        })?;
        if let (Mode::Raw, KeyShape::Rsa(modulus)) = (cipher.row().mode, chosen.shape) {
            // Some modules leave the zeros on the left away, and no number is longer than the modulus.
            let missing = modulus.saturating_sub(plain.len());
            let mut whole = Vec::with_capacity(plain.len() + missing);
            whole.resize(missing, 0);
            whole.extend_from_slice(&plain);
            plain = whole.into();
        }
        Ok(Reply::Decrypted(Plaintext::from(std::mem::take(&mut *plain))))
    })
}

/// Whether it is the input that could not be decrypted, and not the token that fails. The code does not say: of a wrong tag
/// some modules have nothing to say but `CKR_GENERAL_ERROR`. Then whatever else can go wrong is tried, so that neither a
/// wrong ciphertext has the session, the module and the process started over, nor a broken token is taken for one.
fn is_of_the_input(
    token: &Token,
    session: &Session,
    key: &SignKey,
    cipher: &Cipher<'_>,
    failure: Failure,
) -> bool {
    let error = HsmError::from(failure);
    match error.kind {
        Kind::Invalid => true,
        Kind::Device if session.logged_in() == Ok(true) && token.shows_itself().is_ok() => {
            match session.encrypt(cipher, key.object, &[0; 16]) {
                Ok((good, _)) => session.decrypt(cipher, key.object, &good).is_ok(),
                // A private key, or one that only decrypts: another key has to tell.
                Err(_) => token.canary(None).is_none_or(|canary| {
                    let planned =
                        mechanism::plan(canary.algorithm, canary.key.shape, &token.mechanisms, b"canary");
                    planned.is_ok_and(|(mechanism, data)| {
                        session.sign(&mechanism, canary.key.object, &data).is_ok()
                    })
                }),
            }
        }
        _ => false,
    }
}

/// See [`crate::hsm::protocol::Request::Hmac`].
pub fn hmac(token: &Token, session: &Session, key: &KeyId, payload: &[u8]) -> Result<Reply, HsmError> {
    with_key(token, session, key, |chosen| {
        fitting(&chosen, KeyAlgorithm::HmacSha256, "HMAC-SHA-256")?;
        let mac = session.sign(&Mechanism::plain(CKM_SHA256_HMAC), chosen.object, payload);
        let mac = mac.map_err(|failure| {
            let error = HsmError::from(failure);
            // Of a key that does not sign some modules say that it is of the wrong type, which it is not.
            let mute =
                || matches!(session.attributes(chosen.object, [CKA_SIGN]), Ok([Some(flag)]) if flag == [0]);
            match failure.code {
                CKR_KEY_TYPE_INCONSISTENT if mute() => HsmError::new(
                    Kind::Forbidden,
                    "the key's attribute sign is false, so that it makes no HMAC",
                ),
                _ => error,
            }
        })?;
        Ok(Reply::Hmac(mac.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_has_a_mechanism_of_its_own() {
        let oaep = |cipher: &CipherAlgorithm| matches!(cipher.row().mode, Mode::Oaep(_));
        let mut kinds: Vec<_> =
            CipherAlgorithm::ALL.iter().filter(|one| !oaep(one)).map(|one| kind(*one)).collect();
        kinds.sort_unstable();
        let all = kinds.len();
        kinds.dedup();
        // Two names are the same padding of PKCS #1.
        assert_eq!((kinds.len(), kinds.contains(&CKM_RSA_PKCS_OAEP)), (all - 1, false));
    }

    #[test]
    fn oaep_always_says_both_hashes() {
        for cipher in CipherAlgorithm::ALL {
            let Mode::Oaep(hash) = cipher.row().mode else { continue };
            let CipherParameter::Oaep { hash: number, mgf } =
                mechanism(*cipher, &[], &[], 0).unwrap().parameter
            else {
                panic!()
            };
            assert_eq!(Some((number, mgf)), mechanism::parameters(hash), "{cipher}");
        }
    }

    #[test]
    fn an_initialization_vector_of_another_length_does_not_reach_the_token() {
        for length in [0, 11, 13, 16] {
            let error = mechanism(CipherAlgorithm::AesGcm, &vec![0; length], &[], 128).unwrap_err();
            assert_eq!(error.kind, Kind::Invalid, "{length}");
        }
    }
}
