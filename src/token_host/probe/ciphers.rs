//! Ciphers. A list of mechanisms says nothing of the hashes that RSAES-OAEP takes, and promises more than is kept
//! elsewhere, too.

use super::*;
use crate::{
    model::{CipherAlgorithm, cipher::Mode},
    token_host::{capability, cipher, raw::Cipher, secret},
};

const BITS: usize = 2048;
const SECRETS: [KeyAlgorithm; 4] =
    [KeyAlgorithm::Aes, KeyAlgorithm::Camellia, KeyAlgorithm::Tdea, KeyAlgorithm::ChaCha20];

pub fn probe(token: &Token) -> Result<Findings, HsmError> {
    let mut findings = Findings::default();
    if !promised(token, KeyAlgorithm::Rsa).is_empty() && has(token, CKM_RSA_PKCS_KEY_PAIR_GEN) {
        rsa(token, &mut findings)?;
    }
    for algorithm in SECRETS {
        let ciphers = promised(token, algorithm);
        let Some(generator) = capability::generator(algorithm).filter(|kind| has(token, *kind)) else {
            continue;
        };
        if !ciphers.is_empty() {
            secret_key(token, algorithm, generator, &ciphers, &mut findings)?;
        }
    }
    if !findings.refuted_ciphers.is_empty() {
        let names: Vec<_> = findings.refuted_ciphers.iter().map(|cipher| cipher.name()).collect();
        let means = "the token's list of mechanisms promises them and the token refuses them";
        findings.quirks.push(Quirk::odd("refusedCiphers", names.join(", "), means));
    }
    Ok(findings)
}

fn promised(token: &Token, algorithm: KeyAlgorithm) -> Vec<CipherAlgorithm> {
    let all = token.facts.capabilities.cipher_algorithms.iter().copied();
    all.filter(|cipher| cipher.fits(algorithm)).collect()
}

fn not_made(findings: &mut Findings, algorithm: KeyAlgorithm, failure: Failure) -> Result<(), HsmError> {
    let means = "which of the ciphers that the token's list promises it has is not known";
    let name = format!("ciphersOf{algorithm}");
    findings.quirks.push(Quirk::not_probed(&name, word(&settled(failure)?), means));
    Ok(())
}

fn rsa(token: &Token, findings: &mut Findings) -> Result<(), HsmError> {
    let session = token.session()?;
    let public = common(CKO_PUBLIC_KEY).into_iter().chain([Attribute::bool(CKA_ENCRYPT, true)]);
    let public: Vec<_> = public.chain(super::rsa::specific()).collect();
    let private = common(CKO_PRIVATE_KEY).into_iter().chain([
        Attribute::number(CKA_KEY_TYPE, CKK_RSA),
        Attribute::bool(CKA_DECRYPT, true),
        Attribute::bool(CKA_SENSITIVE, true),
        Attribute::bool(CKA_EXTRACTABLE, false),
    ]);
    let private: Vec<_> = private.collect();
    let generator = Mechanism::plain(CKM_RSA_PKCS_KEY_PAIR_GEN);
    let (public, private) = match session.generate_pair(&generator, &public, &private) {
        Ok(pair) => pair,
        Err(failure) => return not_made(findings, KeyAlgorithm::Rsa, failure),
    };
    for algorithm in promised(token, KeyAlgorithm::Rsa) {
        let with = cipher::mechanism(algorithm, &[], &[], 0)?;
        let plain = match algorithm.row().mode {
            Mode::Raw => [vec![0], vec![0x5a; BITS / 8 - 1]].concat(),
            _ => vec![0x5a; 16],
        };
        if !opens(token, &with, public, private, &plain)? {
            findings.refuted_ciphers.push(algorithm);
        }
    }
    Ok(())
}

/// Whether what one key encrypts the other one, or the same, decrypts, as far as the token answers at all. Where the token
/// does not encrypt with public keys, which the operator does without it, only whether it begins to decrypt can be told.
fn opens(
    token: &Token,
    cipher: &Cipher<'_>,
    public: Object,
    private: Object,
    plain: &[u8],
) -> Result<bool, HsmError> {
    let refused = |failure: Failure| Ok::<_, HsmError>(!refuses(&settled(failure)?));
    match token.session()?.encrypt(cipher, public, plain) {
        Ok((sealed, _)) => match token.session()?.decrypt(cipher, private, &sealed) {
            Ok(opened) => Ok(opened.ends_with(plain)),
            Err(failure) => refused(failure),
        },
        Err(failure) if public == private => refused(failure),
        Err(_) => match token.session()?.decrypt(cipher, private, &[0x5a; BITS / 8]) {
            Err(failure) if failure.function == "C_DecryptInit" => refused(failure),
            _ => Ok(true),
        },
    }
}

fn secret_key(
    token: &Token,
    algorithm: KeyAlgorithm,
    generator: CK_MECHANISM_TYPE,
    ciphers: &[CipherAlgorithm],
    findings: &mut Findings,
) -> Result<(), HsmError> {
    let session = token.session()?;
    let specific = match algorithm {
        KeyAlgorithm::Aes => {
            vec![vec![Attribute::number(CKA_KEY_TYPE, CKK_AES), Attribute::number(CKA_VALUE_LEN, 32)]]
        }
        other => secret::specifics(other, 256),
    };
    let make = |specific: Vec<Attribute>| {
        let uses = [Attribute::bool(CKA_ENCRYPT, true), Attribute::bool(CKA_DECRYPT, true)];
        let key: Vec<_> = common(CKO_SECRET_KEY).into_iter().chain(uses).chain(specific).collect();
        session.generate_key(&Mechanism::plain(generator), &key)
    };
    let mut made = Err(Failure { code: CKR_TEMPLATE_INCOMPLETE, function: "C_GenerateKey" });
    for specific in specific {
        made = make(specific);
        if made.is_ok() {
            break;
        }
    }
    let key = match made {
        Ok(key) => key,
        Err(failure) => return not_made(findings, algorithm, failure),
    };
    let plain = [0x5a; 48];
    for one in ciphers {
        let iv = vec![0xa5; one.iv_len()];
        let with = cipher::mechanism(*one, &iv, &[], one.tag_bits(0).unwrap_or_default())?;
        if !opens(token, &with, key, key, &plain)? {
            findings.refuted_ciphers.push(*one);
        }
    }
    if ciphers.contains(&CipherAlgorithm::AesGcm)
        && !findings.refuted_ciphers.contains(&CipherAlgorithm::AesGcm)
    {
        findings.quirks.extend(gcm(token, key)?);
    }
    Ok(())
}

/// What of GCM differs between modules.
fn gcm(token: &Token, key: Object) -> Result<[Quirk; 3], HsmError> {
    let iv = [0xa5; 12];
    let with = |bits| cipher::mechanism(CipherAlgorithm::AesGcm, &iv, b"aad", bits);
    let mut refused = Vec::new();
    for bits in [64, 96, 104, 112, 120] {
        if !opens(token, &with(bits)?, key, key, b"probe")? {
            refused.push(bits.to_string());
        }
    }
    let means = "a request with a tag of another length is refused";
    let tags = match refused.as_slice() {
        [] => Quirk::usual("gcmTags", "all", means),
        refused => Quirk::odd("gcmTags", format!("not {} bits", refused.join(", ")), means),
    };
    let whole = with(128)?;
    let (mut sealed, used) = token.session()?.encrypt(&whole, key, b"probe")?;
    let means = "the one that was used is handed out";
    let vector = match used == iv {
        true => Quirk::usual("gcmIv", "as given", means),
        false => Quirk::odd("gcmIv", "the token's own", means),
    };
    *sealed.last_mut().expect("there is a tag") ^= 1;
    let means =
        "a caller is told that it cannot be decrypted; where the code could mean the token, it is tried";
    let wrong = match token.session()?.decrypt(&whole, key, &sealed) {
        Ok(_) => Quirk::odd("wrongTag", "not noticed", "GCM of this token protects nothing"),
        Err(failure) => {
            let error = HsmError::from(failure);
            match error.kind {
                Kind::Invalid => Quirk::usual("wrongTag", word(&error), means),
                _ => Quirk::odd("wrongTag", word(&error), means),
            }
        }
    };
    Ok([tags, vector, wrong])
}
