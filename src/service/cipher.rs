//! Encryption, decryption and HMAC, after the caller's permission was checked.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::Bytes;
use subtle::ConstantTimeEq;

use super::{directory::Usable, sign::unexpected};
use crate::{
    hsm::{
        Hsm,
        cipher::Job,
        protocol::{HsmError, Kind, Reply, Request},
    },
    model::{
        CipherAlgorithm, KeyAlgorithm,
        cipher::{InvalidInput, Mode},
        secret::Plaintext,
    },
    public_key::EncryptError,
};

/// Bytes of an HMAC-SHA-256.
const HMAC_LEN: usize = 32;

/// Something to encrypt.
#[derive(Clone, Debug)]
pub struct ToEncrypt {
    /// How.
    pub cipher: CipherAlgorithm,
    /// What.
    pub plaintext: Plaintext,
    /// Additional data that the tag shall protect.
    pub aad: Bytes,
    /// Bits of the tag as the caller wants them; 0 for the cipher's own length.
    pub tag_length: i64,
}

/// Something to decrypt.
#[derive(Clone, Debug)]
pub struct ToDecrypt {
    /// How.
    pub cipher: CipherAlgorithm,
    /// What, with the tag at its end.
    pub ciphertext: Bytes,
    /// The initialization vector that it was encrypted with.
    pub iv: Bytes,
    /// Additional data that the tag protects.
    pub aad: Bytes,
    /// See [`ToEncrypt::tag_length`].
    pub tag_length: i64,
}

/// What came of encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The ciphertext, with the tag at its end.
    pub ciphertext: Bytes,
    /// How much of its end is the tag.
    pub tag_len: usize,
    /// The initialization vector; empty where the cipher has none.
    pub iv: Bytes,
}

/// Why nothing was encrypted or decrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// Keys of this kind do not do that.
    #[error("{0}")]
    Mismatch(String),
    /// The token does not have the cipher.
    #[error("{0}")]
    NotServed(String),
    /// What came with the payload, or its length, does not fit the cipher.
    #[error("{0}")]
    Input(String),
    /// The tag has a length that is not allowed.
    #[error("{0}")]
    TagLength(String),
    /// It cannot be decrypted. Why, nobody is told.
    #[error("the payload cannot be decrypted with {0} and this key")]
    NotDecrypted(CipherAlgorithm),
    /// The token did not do it.
    #[error(transparent)]
    Hsm(#[from] HsmError),
}

impl From<InvalidInput> for CipherError {
    fn from(error: InvalidInput) -> Self {
        match &error {
            InvalidInput::TagLength { .. } => Self::TagLength(error.to_string()),
            _ => Self::Input(error.to_string()),
        }
    }
}

impl From<EncryptError> for CipherError {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::Input(error) => error.into(),
            EncryptError::Mismatch { .. } => Self::Mismatch(error.to_string()),
            EncryptError::TooLarge(_) => Self::Input(error.to_string()),
            EncryptError::Library => Self::Hsm(HsmError::new(Kind::Device, error.to_string())),
        }
    }
}

/// What is known of a key's token: which ciphers its list has, and which it was seen to have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Names of those that trying the token left, once it was tried.
    pub tried: Option<&'a [String]>,
}

/// Encrypts with the public half of an RSA key, outside of the token, or with a secret key, by the token.
///
/// # Errors
/// [`CipherError`]; what can be refused is refused before the token is asked. For an RSA key this is also what the token was
/// seen not to decrypt: nobody else could.
pub async fn encrypt(
    hsm: Option<&dyn Hsm>,
    key: &Usable,
    job: ToEncrypt,
    known: Known<'_>,
) -> Result<Encrypted, CipherError> {
    let ToEncrypt { cipher, plaintext, aad, tag_length } = job;
    fits(cipher, key)?;
    let tag_bits = cipher.tag_bits(tag_length)?;
    cipher.check_aad(&aad)?;
    if let Some(public) = &key.public {
        served(hsm, cipher, key, known)?;
        let ciphertext = public.encrypt(cipher, plaintext.expose())?.into();
        return Ok(Encrypted { ciphertext, tag_len: 0, iv: Bytes::new() });
    }
    cipher.check_plaintext(plaintext.expose().len(), 0)?;
    served(hsm, cipher, key, Known::default())?;
    let hsm =
        hsm.ok_or_else(|| HsmError::new(Kind::Unavailable, "the token is not reached at the moment"))?;
    let iv = fresh(cipher.iv_len())?;
    let job = Job { key: key.id.clone(), cipher, input: plaintext, iv, aad, tag_bits };
    match hsm.call(Request::Encrypt(Box::new(job))).await {
        Ok(Reply::Encrypted { ciphertext, iv }) => {
            let tag_len = tag_bits as usize / 8;
            if ciphertext.len() < tag_len {
                return Err(HsmError::new(Kind::Device, "the token answered with less than a tag").into());
            }
            Ok(Encrypted { ciphertext, tag_len, iv })
        }
        Ok(other) => Err(unexpected(&other).into()),
        Err(error) => Err(refused(error)),
    }
}

/// Decrypts, by the token.
///
/// # Errors
/// As [`encrypt`]; whatever cannot be decrypted is [`CipherError::NotDecrypted`] and nothing more.
pub async fn decrypt(hsm: &dyn Hsm, key: &Usable, job: ToDecrypt) -> Result<Plaintext, CipherError> {
    let ToDecrypt { cipher, ciphertext, iv, aad, tag_length } = job;
    fits(cipher, key)?;
    let tag_bits = cipher.tag_bits(tag_length)?;
    cipher.check_iv(&iv)?;
    cipher.check_aad(&aad)?;
    let modulus = key.public.as_ref().map_or(0, |public| public.bits().div_ceil(8) as usize);
    cipher.check_ciphertext(ciphertext.len(), modulus, tag_bits)?;
    served(Some(hsm), cipher, key, Known::default())?;
    let input = ciphertext.to_vec().into();
    let job = Job { key: key.id.clone(), cipher, input, iv, aad, tag_bits };
    match hsm.call(Request::Decrypt(Box::new(job))).await {
        Ok(Reply::Decrypted(plaintext)) => Ok(plaintext),
        Ok(other) => Err(unexpected(&other).into()),
        Err(error) if error.kind == Kind::Invalid => Err(CipherError::NotDecrypted(cipher)),
        Err(error) => Err(refused(error)),
    }
}

/// Makes an HMAC-SHA-256, by the token.
///
/// # Errors
/// [`CipherError`].
pub async fn hmac(hsm: &dyn Hsm, key: &Usable, payload: Plaintext) -> Result<Bytes, CipherError> {
    if key.algorithm != KeyAlgorithm::HmacSha256 {
        return Err(CipherError::Mismatch(format!(
            "HMAC needs a key of type {}, and this one is {}",
            KeyAlgorithm::HmacSha256,
            key.algorithm
        )));
    }
    match hsm.call(Request::Hmac { key: key.id.clone(), payload }).await {
        Ok(Reply::Hmac(mac)) if mac.len() == HMAC_LEN => Ok(mac),
        Ok(Reply::Hmac(mac)) => {
            let message = format!("the token answered with an HMAC of {} bytes", mac.len());
            Err(HsmError::new(Kind::Device, message).into())
        }
        Ok(other) => Err(unexpected(&other).into()),
        Err(error) => Err(error.into()),
    }
}

/// Whether `mac` is the HMAC of a payload. It is made once more and compared in constant time: what tokens answer when they
/// compare themselves differs from one to the next.
///
/// # Errors
/// As [`hmac`].
pub async fn verify_hmac(
    hsm: &dyn Hsm,
    key: &Usable,
    payload: Plaintext,
    mac: &[u8],
) -> Result<bool, CipherError> {
    let right = hmac(hsm, key, payload).await?;
    Ok(right.ct_eq(mac).into())
}

/// Random bytes for an initialization vector. From here and not from the token: it costs no call, it is the generator on
/// which TLS relies as well, and the request to the token says all that its answer depends on.
fn fresh(length: usize) -> Result<Bytes, CipherError> {
    let mut iv = vec![0; length];
    SystemRandom::new()
        .fill(&mut iv)
        .map_err(|_| HsmError::new(Kind::Device, "the system has no random numbers"))?;
    Ok(iv.into())
}

fn fits(cipher: CipherAlgorithm, key: &Usable) -> Result<(), CipherError> {
    // A key pair without a public half is of no use to anybody; see the controller.
    let halves = cipher.row().key != KeyAlgorithm::Rsa || key.public.is_some();
    if cipher.fits(key.algorithm) && halves {
        return Ok(());
    }
    let names: Vec<_> =
        CipherAlgorithm::ALL.iter().filter(|one| one.fits(key.algorithm)).map(|one| one.name()).collect();
    let names = if names.is_empty() {
        "there are none".to_owned()
    } else {
        format!("these are: {}", names.join(", "))
    };
    Err(CipherError::Mismatch(format!("{cipher} is not a cipher of {} keys; {names}", key.algorithm)))
}

fn served(
    hsm: Option<&dyn Hsm>,
    cipher: CipherAlgorithm,
    key: &Usable,
    known: Known<'_>,
) -> Result<(), CipherError> {
    let Some(token) = hsm.and_then(Hsm::token) else { return Ok(()) };
    let listed = &token.capabilities.cipher_algorithms;
    let has =
        |one: &CipherAlgorithm| known.tried.is_none_or(|tried| tried.iter().any(|name| name == one.name()));
    if listed.contains(&cipher) && has(&cipher) {
        return Ok(());
    }
    let left = listed.iter().filter(|one| one.fits(key.algorithm) && has(one));
    let left: Vec<_> = left.map(|one| one.name()).collect();
    let left = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
    let why = if listed.contains(&cipher) {
        "it was tried and refused"
    } else {
        match cipher.row().mode {
            Mode::Oaep(_) => "it has no OAEP",
            _ => "its list of mechanisms does not have it",
        }
    };
    Err(CipherError::NotServed(format!(
        "the token '{}' does not have {cipher}: {why}; with {} keys it has {left}",
        token.label, key.algorithm
    )))
}

/// What a token refused.
fn refused(error: HsmError) -> CipherError {
    match error.kind {
        Kind::Unsupported => CipherError::NotServed(error.message),
        Kind::Invalid => CipherError::Input(error.message),
        _ => CipherError::Hsm(error),
    }
}
