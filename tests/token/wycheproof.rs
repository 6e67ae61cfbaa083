//! The vectors of Wycheproof with keys that are brought to a token: what is valid has to come out right, and of what is
//! invalid nothing may come out. Those that need no token are in `tests/wycheproof.rs`.
//!
//! Ciphers are asked for as the gateway does it, so that what it refuses before a token sees it counts as refused. What
//! Wycheproof leaves open (`acceptable`) is refused, because the contract has no place for it: OAEP with a label
//! (`EncryptionWithLabel`), and wrapped keys of eight bytes (`ShortKey`), which are no AES keys.

use std::{collections::HashMap, sync::Arc, time::Instant};

use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        import::Wrap,
        protocol::{HsmError, Kind, Reply, Request},
    },
    key_material::{self, Key},
    model::{CipherAlgorithm, KeyAlgorithm, RequestedAttributes, WrapMethod, material::Material},
    service::{
        cipher::{self, CipherError, ToDecrypt},
        directory::Usable,
    },
};
use wycheproof::{HashFunction as Hash, TestResult, aead, cipher as ciphers, keywrap, mac, rsa_oaep};

use crate::{
    common::token::{Module, Token},
    destroy, id,
    imports::{export, import, open},
    on_both_tokens,
    wraps::unwrap,
};

on_both_tokens! {
    aes_gcm,
    aes_cbc,
    hmac,
    rsa_oaep,
    aes_key_wrap,
}

/// What was found, of many.
#[derive(Default)]
struct Tally {
    valid: usize,
    refused: usize,
    /// Keys and modes that the token does not have.
    lacking: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn print(&self, token: &Token, what: &str, begun: Instant) {
        println!(
            "wycheproof {:?} {what}: {} valid, {} refused, {} not served, in {:?}",
            token.module,
            self.valid,
            self.refused,
            self.lacking,
            begun.elapsed()
        );
        assert!(self.wrong.is_empty(), "{} wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }

    /// A ciphertext that was opened or not, which should have been what is valid.
    fn opened(&mut self, what: &str, valid: Option<&[u8]>, answer: Result<Vec<u8>, CipherError>) {
        match (valid, answer) {
            (Some(wanted), Ok(found)) if wanted == found => self.valid += 1,
            (None, Err(CipherError::Hsm(error))) => self.wrong.push(format!("{what}: {error:?}")),
            (None, Err(_)) => self.refused += 1,
            (_, answer) => self.wrong.push(format!("{what}: {answer:?}, not {valid:?}")),
        }
    }
}

/// Secret keys that were brought: many vectors have one in common.
struct Secrets {
    hsm: Arc<Supervisor>,
    algorithm: KeyAlgorithm,
    may: RequestedAttributes,
    known: HashMap<Vec<u8>, (Usable, String)>,
}

impl Secrets {
    fn new(hsm: &Arc<Supervisor>, algorithm: KeyAlgorithm, may: RequestedAttributes) -> Self {
        Self { hsm: hsm.clone(), algorithm, may, known: HashMap::new() }
    }

    /// The key, and its name.
    async fn bring(&mut self, bytes: &[u8]) -> (Usable, String) {
        if let Some(known) = self.known.get(bytes) {
            return known.clone();
        }
        let name = format!("key-{}", self.known.len());
        let key = key_material::secret_key(self.algorithm, bytes.to_vec().into()).unwrap();
        let key = bring_key(&self.hsm, &name, &key, self.may.clone()).await;
        self.known.insert(bytes.to_vec(), (key.clone(), name.clone()));
        (key, name)
    }
}

async fn bring_key(hsm: &Supervisor, name: &str, key: &Key, may: RequestedAttributes) -> Usable {
    import(hsm, name, key, may).await;
    let public = key.public.clone().map(Arc::new);
    Usable { partition: "main".into(), id: id(name), algorithm: key.algorithm, public, public_only: false }
}

async fn decrypt(hsm: &Supervisor, key: &Usable, job: ToDecrypt) -> Result<Vec<u8>, CipherError> {
    cipher::decrypt(hsm, key, job).await.map(|plain| plain.expose().to_vec())
}

async fn aes_gcm(token: Token) {
    let (hsm, begun, mut tally) = (token.supervisor().await, Instant::now(), Tally::default());
    let mut keys = Secrets::new(&hsm, KeyAlgorithm::Aes, open());
    let set = aead::TestSet::load("aes_gcm".parse().unwrap()).unwrap();
    for group in set.test_groups {
        // The contract has vectors of 12 bytes, and every other length is refused before the token sees it.
        let ours = group.nonce_size == 96 && group.tag_size == 128;
        for test in group.tests {
            let what = format!("{} {} {:?}", test.tc_id, test.comment, test.flags);
            let (key, _) = keys.bring(if ours { &test.key } else { &[7; 16] }).await;
            let job = ToDecrypt {
                cipher: CipherAlgorithm::AesGcm,
                ciphertext: [&test.ct[..], &test.tag[..]].concat().into(),
                iv: test.nonce.to_vec().into(),
                aad: test.aad.to_vec().into(),
                tag_length: 0,
            };
            let valid = (ours && test.result == TestResult::Valid).then_some(&test.pt[..]);
            tally.opened(&what, valid, decrypt(&hsm, &key, job).await);
        }
    }
    assert!(tally.valid > 50 && tally.refused > 50);
    tally.print(&token, "AES_GCM", begun);
}

async fn aes_cbc(token: Token) {
    let (hsm, begun, mut tally) = (token.supervisor().await, Instant::now(), Tally::default());
    let mut keys = Secrets::new(&hsm, KeyAlgorithm::Aes, open());
    let set = ciphers::TestSet::load("aes_cbc_pkcs5".parse().unwrap()).unwrap();
    for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
        let what = format!("{} {} {:?}", test.tc_id, test.comment, test.flags);
        let (key, _) = keys.bring(&test.key).await;
        let job = ToDecrypt {
            cipher: CipherAlgorithm::Aes,
            ciphertext: test.ct.to_vec().into(),
            iv: test.nonce.to_vec().into(),
            aad: Vec::new().into(),
            tag_length: 0,
        };
        let valid = (test.result == TestResult::Valid).then_some(&test.pt[..]);
        tally.opened(&what, valid, decrypt(&hsm, &key, job).await);
    }
    assert!(tally.valid > 50 && tally.refused > 50);
    tally.print(&token, "AES", begun);
}

async fn hmac(token: Token) {
    let (hsm, begun, mut tally) = (token.supervisor().await, Instant::now(), Tally::default());
    let mut keys = Secrets::new(&hsm, KeyAlgorithm::HmacSha256, open());
    let set = mac::TestSet::load("hmac_sha256".parse().unwrap()).unwrap();
    for group in set.test_groups {
        for test in group.tests {
            let what = format!("{} {} {:?}", test.tc_id, test.comment, test.flags);
            let (key, _) = keys.bring(&test.key).await;
            // The contract has whole ones: what is cut off is wrong, whatever is left of it.
            let right = test.result == TestResult::Valid && group.tag_size == 256;
            match cipher::verify_hmac(hsm.as_ref(), &key, test.msg.to_vec().into(), &test.tag).await {
                Ok(true) if right => tally.valid += 1,
                Ok(false) if !right => tally.refused += 1,
                // Some tokens use no keys that are shorter than the hash.
                Err(CipherError::Hsm(HsmError { kind: Kind::Unsupported, .. })) if test.key.len() < 32 => {
                    tally.lacking += 1;
                }
                answer => tally.wrong.push(format!("{what}: {answer:?}, and {right} is right")),
            }
        }
    }
    assert!(tally.valid > 20 && tally.refused > 20);
    tally.print(&token, "HMACSHA256", begun);
}

async fn rsa_oaep(token: Token) {
    let (hsm, begun, mut tally) = (token.supervisor().await, Instant::now(), Tally::default());
    let offered = hsm.token().unwrap().capabilities.cipher_algorithms.clone();
    for name in rsa_oaep::TestName::all() {
        for (number, group) in rsa_oaep::TestSet::load(name).unwrap().test_groups.into_iter().enumerate() {
            // The contract's: the same hash for the mask. Others are of other ciphers.
            let cipher = match (group.hash, group.mgf_hash) {
                (Hash::Sha1, Hash::Sha1) => CipherAlgorithm::RsaOaepSha1,
                (Hash::Sha2_224, Hash::Sha2_224) => CipherAlgorithm::RsaOaepSha224,
                (Hash::Sha2_256, Hash::Sha2_256) => CipherAlgorithm::RsaOaepSha256,
                (Hash::Sha2_384, Hash::Sha2_384) => CipherAlgorithm::RsaOaepSha384,
                (Hash::Sha2_512, Hash::Sha2_512) => CipherAlgorithm::RsaOaepSha512,
                _ => continue,
            };
            let what = format!("{name:?} {number}, {} bits", group.key_size);
            let key = match key_material::private_key(&group.pkcs8) {
                Ok(key) => key,
                Err(error) => {
                    assert!(group.key_size < 2048 || group.key_size % 256 != 0, "{what}: {error}");
                    continue;
                }
            };
            let key = bring_key(&hsm, "key", &key, open()).await;
            for test in group.tests {
                let what = format!("{what}: {} {} {:?}", test.tc_id, test.comment, test.flags);
                let job = ToDecrypt {
                    cipher,
                    ciphertext: test.ct.to_vec().into(),
                    iv: Vec::new().into(),
                    aad: Vec::new().into(),
                    tag_length: 0,
                };
                // The contract has no labels: what was encrypted with one cannot be read.
                let valid = test.result == TestResult::Valid && test.label.is_empty();
                match decrypt(&hsm, &key, job).await {
                    Err(CipherError::NotServed(why)) => {
                        assert!(
                            !offered.contains(&cipher) || token.module == Module::SoftHsm,
                            "{what}: {why}"
                        );
                        tally.lacking += 1;
                    }
                    answer => tally.opened(&what, valid.then_some(&test.pt[..]), answer),
                }
            }
            destroy(&hsm, "key").await;
        }
    }
    assert!(tally.valid > 10 && tally.refused > 10);
    tally.print(&token, "RSA_PADDING_OAEP_…", begun);
}

async fn aes_key_wrap(token: Token) {
    let (hsm, begun, mut tally) = (token.supervisor().await, Instant::now(), Tally::default());
    let may = RequestedAttributes { unwrap: Some(true), ..Default::default() };
    let mut keys = Secrets::new(&hsm, KeyAlgorithm::Aes, may);
    for (name, method) in [("aes_wrap", WrapMethod::AesWrap), ("aes_kwp", WrapMethod::AesWrapPad)] {
        let set = keywrap::TestSet::load(name.parse().unwrap()).unwrap();
        for test in set.test_groups.into_iter().flat_map(|group| group.tests) {
            let what = format!("{name} {} {} {:?}", test.tc_id, test.comment, test.flags);
            let (_, by) = keys.bring(&test.key).await;
            // Over REST, AES keys are wrapped and unwrapped so, and nothing else.
            let is_key = matches!(test.pt.len(), 16 | 24 | 32);
            let valid = test.result == TestResult::Valid && is_key;
            if valid {
                let key = key_material::secret_key(KeyAlgorithm::Aes, test.pt.to_vec().into()).unwrap();
                import(&hsm, "inside", &key, open()).await;
                let job = Wrap { by: id(&by), key: id("inside"), method, alone: None };
                match hsm.call(Request::Wrap(job)).await {
                    Ok(Reply::Wrapped(wrapped)) if wrapped[..] == test.ct[..] => tally.valid += 1,
                    other => tally.wrong.push(format!("{what}: wrapped {other:?}")),
                }
                destroy(&hsm, "inside").await;
            }
            match unwrap(&hsm, "back", &by, method, &test.ct).await {
                Ok(_) => {
                    let found = match export(&hsm, "back").await.unwrap().material {
                        Material::Secret(bytes) => bytes.expose().to_vec(),
                        other => panic!("{other:?}"),
                    };
                    if valid && found[..] == test.pt[..] {
                        tally.valid += 1;
                    } else {
                        tally.wrong.push(format!("{what}: unwrapped {found:?}"));
                    }
                    destroy(&hsm, "back").await;
                }
                // A token that does not tell how long an unwrapped AES key is.
                Err(error) if error.kind == Kind::Unsupported && error.message.contains("how long") => {
                    tally.lacking += 1;
                }
                Err(error) if !valid && error.kind == Kind::Invalid => tally.refused += 1,
                Err(error) => tally.wrong.push(format!("{what}: not unwrapped: {error:?}")),
            }
        }
    }
    assert!(tally.valid > 20);
    tally.print(&token, "AES_WRAP and AES_WRAP_PAD", begun);
}
