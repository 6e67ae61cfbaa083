//! What is encrypted with a token's keys, what is not, and who else understands it.

use std::{
    process::Command,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use hsm_operator::{
    hsm::{
        Hsm, OnRecovery, Rung, Supervisor, SupervisorConfig,
        cipher::Job,
        import::{Import, Origin},
        probe::Probe,
        protocol::{Find, HsmError, KeyTemplate, Kind, Reply, Request},
    },
    model::{CipherAlgorithm, KeyAlgorithm, cipher::Mode, material::Material},
    public_key::PublicKey,
};

use crate::{
    common::{
        faults::Faults,
        token::{Module, Token, run},
        vendor,
    },
    find, generate, id, on_both_tokens, template,
};

on_both_tokens! {
    every_cipher_of_the_list_opens_what_it_sealed,
    ciphers_of_secret_keys_are_those_of_openssl,
    the_other_ciphers_are_those_of_openssl_too,
    chacha20_poly1305_is_that_of_aws_lc,
    gcm_is_that_of_the_standard,
    a_tag_may_have_any_length_of_the_contract,
    what_was_changed_is_not_opened_and_costs_nothing,
    what_has_a_wrong_padding_is_not_opened_and_costs_nothing,
    a_token_in_trouble_is_not_taken_for_a_wrong_ciphertext,
    oaep_of_openssl_is_opened_where_the_token_has_the_hash,
    without_padding_the_whole_block_comes_back,
    a_key_does_what_its_attributes_say,
    a_key_of_another_type_is_refused,
    hmacs_are_those_of_openssl,
    a_key_for_hmac_is_found_as_what_it_is,
}

async fn encrypt(hsm: &Supervisor, job: Job) -> Result<(Bytes, Bytes), HsmError> {
    match hsm.call(Request::Encrypt(Box::new(job))).await? {
        Reply::Encrypted { ciphertext, iv } => Ok((ciphertext, iv)),
        other => panic!("{other:?}"),
    }
}

async fn decrypt(hsm: &Supervisor, job: Job) -> Result<Vec<u8>, HsmError> {
    match hsm.call(Request::Decrypt(Box::new(job))).await? {
        Reply::Decrypted(plaintext) => Ok(plaintext.expose().to_vec()),
        other => panic!("{other:?}"),
    }
}

async fn hmac(hsm: &Supervisor, key: &str, payload: &[u8]) -> Result<Bytes, HsmError> {
    match hsm.call(Request::Hmac { key: id(key), payload: payload.to_vec().into() }).await? {
        Reply::Hmac(mac) => Ok(mac),
        other => panic!("{other:?}"),
    }
}

fn job(key: &str, cipher: CipherAlgorithm, input: &[u8]) -> Job {
    Job {
        key: id(key),
        cipher,
        input: input.to_vec().into(),
        iv: vec![0x5a; cipher.iv_len()].into(),
        aad: Bytes::new(),
        tag_bits: cipher.tag_bits(0).unwrap(),
    }
}

fn key(name: &str, algorithm: KeyAlgorithm) -> KeyTemplate {
    let size = match algorithm {
        KeyAlgorithm::Rsa => Some(2048),
        KeyAlgorithm::Aes | KeyAlgorithm::ChaCha20 => Some(256),
        _ => None,
    };
    let mut key = template(name, algorithm, size, None);
    key.attributes.decrypt = algorithm != KeyAlgorithm::HmacSha256;
    key.attributes.encrypt = key.attributes.decrypt;
    key.attributes.sign = algorithm == KeyAlgorithm::HmacSha256;
    key.attributes.verify = key.attributes.sign;
    key
}

/// Puts a secret key whose value is known on the token.
fn import(token: &Token, name: &str, kind: &str, value: &[u8], usage: &str) {
    let path = token.path().join("secret.bin");
    std::fs::write(&path, value).unwrap();
    run(token
        .tool()
        .envs(token.environment.clone())
        .args(["--token-label", &token.label, "--login", "--pin", "env:TOKEN_PIN", "--type", "secrkey"])
        .args(["--key-type", kind, usage, "--label", name, "--id", &id(name).to_string(), "--write-object"])
        .arg(path));
}

/// The value of a secret key that does not hide it.
fn read(token: &Token, name: &str) -> Vec<u8> {
    let path = token.path().join("value.bin");
    run(token
        .tool()
        .envs(token.environment.clone())
        .args(["--token-label", &token.label, "--login", "--pin", "env:TOKEN_PIN", "--type", "secrkey"])
        .args(["--id", &id(name).to_string(), "--read-object", "--output-file"])
        .arg(&path));
    std::fs::read(path).unwrap()
}

/// What `openssl enc` makes of it.
fn openssl(token: &Token, cipher: &str, key: &[u8], iv: &[u8], pad: bool, plain: &[u8]) -> Vec<u8> {
    let path = token.path().join("plain.bin");
    std::fs::write(&path, plain).unwrap();
    let mut command = Command::new("openssl");
    command.args(["enc", &format!("-{cipher}"), "-e", "-K", &hex::encode(key), "-in"]).arg(path);
    if !iv.is_empty() {
        command.args(["-iv", &hex::encode(iv)]);
    }
    if !pad {
        command.arg("-nopad");
    }
    run(&mut command).stdout
}

async fn every_cipher_of_the_list_opens_what_it_sealed(token: Token) {
    let hsm = token.supervisor().await;
    let offered = hsm.token().unwrap().capabilities.cipher_algorithms.clone();
    let wanted: &[_] = match token.module {
        Module::SoftHsm => &[KeyAlgorithm::Rsa, KeyAlgorithm::Aes, KeyAlgorithm::Tdea],
        Module::Kryoptic => &[KeyAlgorithm::Rsa, KeyAlgorithm::Aes, KeyAlgorithm::ChaCha20],
    };
    let all: Vec<_> =
        CipherAlgorithm::ALL.iter().copied().filter(|one| wanted.contains(&one.row().key)).collect();
    assert_eq!(offered, all);
    let mut refused = Vec::new();
    for algorithm in wanted {
        let made = generate(&hsm, key(algorithm.name(), *algorithm)).await.unwrap();
        assert_eq!(made.algorithm, Some(*algorithm));
        let public = made.public_key.map(|spki| PublicKey::from_spki(&spki).unwrap());
        for cipher in offered.iter().filter(|one| one.fits(*algorithm)) {
            for length in [1, 16, 48] {
                let plain = vec![7; length];
                if cipher.check_plaintext(length, 256).is_err() {
                    continue;
                }
                let work = job(algorithm.name(), *cipher, &plain);
                let sealed = match &public {
                    Some(public) => public.encrypt(*cipher, &plain).unwrap().into(),
                    None => {
                        let (sealed, iv) = encrypt(&hsm, work.clone()).await.unwrap();
                        assert_eq!(iv, work.iv, "{cipher}");
                        sealed
                    }
                };
                let opened = decrypt(&hsm, Job { input: sealed.to_vec().into(), ..work }).await;
                match opened {
                    Ok(opened) => assert!(opened.ends_with(&plain), "{cipher} {length}"),
                    Err(error) if error.kind == Kind::Unsupported => refused.push(*cipher),
                    Err(error) => panic!("{cipher} {length}: {error}"),
                }
            }
        }
    }
    refused.dedup();
    // The list does not say which hashes there are.
    let missing: &[_] = match token.module {
        Module::SoftHsm => &[
            CipherAlgorithm::RsaOaepSha512,
            CipherAlgorithm::RsaOaepSha384,
            CipherAlgorithm::RsaOaepSha256,
            CipherAlgorithm::RsaOaepSha224,
        ],
        Module::Kryoptic => &[],
    };
    assert_eq!(refused, missing);
    assert_eq!(hsm.counters().restarts, 0);
}

async fn ciphers_of_secret_keys_are_those_of_openssl(token: Token) {
    let aes: Vec<u8> = (0x60..0x80).collect();
    import(&token, "aes", "AES:32", &aes, "--usage-decrypt");
    let hsm = token.supervisor().await;
    // A counter that overflows in the last byte, and in all of them.
    for iv in [[0xff; 16], [0x5a; 16]] {
        for (cipher, name) in [
            (CipherAlgorithm::AesCtr, "aes-256-ctr"),
            (CipherAlgorithm::AesEcb, "aes-256-ecb"),
            (CipherAlgorithm::AesCbcNoPadding, "aes-256-cbc"),
            (CipherAlgorithm::Aes, "aes-256-cbc"),
        ] {
            for length in [32, 33, 64] {
                let plain: Vec<u8> = (0..length).collect();
                if cipher.check_plaintext(plain.len(), 0).is_err() {
                    continue;
                }
                let iv = &iv[..cipher.iv_len()];
                let pad = cipher == CipherAlgorithm::Aes;
                let work = Job { iv: iv.to_vec().into(), ..job("aes", cipher, &plain) };
                let sealed = match encrypt(&hsm, work.clone()).await {
                    Ok((sealed, _)) => sealed,
                    // SoftHSM does not let the counter start over.
                    Err(error) if token.module == Module::SoftHsm && name.ends_with("ctr") => {
                        assert!(iv[0] == 0xff && error.kind == Kind::Invalid, "{error}");
                        continue;
                    }
                    Err(error) => panic!("{cipher}: {error}"),
                };
                assert_eq!(sealed, openssl(&token, name, &aes, iv, pad, &plain), "{cipher} {length}");
                let opened = decrypt(&hsm, Job { input: sealed.to_vec().into(), ..work }).await.unwrap();
                assert_eq!(opened, plain, "{cipher} {length}");
            }
        }
    }
}

/// Ciphers that not every token has, with keys that it made and shows.
async fn the_other_ciphers_are_those_of_openssl_too(token: Token) {
    let hsm = token.supervisor().await;
    let (algorithm, name) = match token.module {
        Module::SoftHsm => (KeyAlgorithm::Tdea, "des-ede3"),
        Module::Kryoptic => (KeyAlgorithm::ChaCha20, "chacha20"),
    };
    let mut open = key("k", algorithm);
    (open.attributes.sensitive, open.attributes.extractable) = (false, true);
    let made = generate(&hsm, open).await.unwrap();
    let size = (algorithm == KeyAlgorithm::ChaCha20).then_some(256);
    assert_eq!((made.algorithm, made.key_size), (Some(algorithm), size));
    let value = read(&token, "k");
    let mut tried = 0;
    for cipher in CipherAlgorithm::ALL.iter().copied().filter(|one| one.fits(algorithm) && !one.is_aead()) {
        let name = match cipher.row().mode {
            Mode::Ecb => format!("{name}-ecb"),
            Mode::Cbc | Mode::CbcPad => format!("{name}-cbc"),
            _ => name.to_owned(),
        };
        let pad = cipher == CipherAlgorithm::TdeaCbc;
        let work = job("k", cipher, &[7; 24]);
        // OpenSSL's own has the counter before the nonce.
        let counter = if cipher == CipherAlgorithm::ChaCha20 { vec![0; 4] } else { vec![] };
        let iv = [counter, work.iv.to_vec()].concat();
        let (sealed, _) = encrypt(&hsm, work).await.unwrap();
        assert_eq!(sealed, openssl(&token, &name, &value, &iv, pad, &[7; 24]), "{cipher}");
        tried += 1;
    }
    assert_eq!(tried, if token.module == Module::SoftHsm { 3 } else { 1 });
}

/// A key for Camellia whose value may be read.
fn camellia(name: &str, bits: u32) -> KeyTemplate {
    let mut key = KeyTemplate { key_size: Some(bits), ..key(name, KeyAlgorithm::Camellia) };
    (key.attributes.sensitive, key.attributes.extractable) = (false, true);
    key
}

/// That what is encrypted with a key for Camellia is what openssl makes with this value, and is decrypted.
async fn is_camellia_of_openssl(token: &Token, hsm: &Supervisor, name: &str, value: &[u8]) {
    let bits = value.len() * 8;
    for (cipher, mode) in [
        (CipherAlgorithm::Camellia, "cbc"),
        (CipherAlgorithm::CamelliaCbcNoPadding, "cbc"),
        (CipherAlgorithm::CamelliaEcb, "ecb"),
    ] {
        for length in [0, 16, 20, 48] {
            let plain: Vec<u8> = (0..length).collect();
            if cipher.check_plaintext(plain.len(), 0).is_err() {
                continue;
            }
            let work = job(name, cipher, &plain);
            let (sealed, iv) = encrypt(hsm, work.clone()).await.unwrap();
            assert_eq!(iv, work.iv, "{cipher}");
            let pad = cipher == CipherAlgorithm::Camellia;
            let theirs = openssl(token, &format!("camellia-{bits}-{mode}"), value, &iv, pad, &plain);
            assert_eq!(sealed, theirs, "{cipher} {bits} {length}");
            let opened = decrypt(hsm, Job { input: sealed.to_vec().into(), ..work }).await;
            assert_eq!(opened.unwrap(), plain, "{cipher} {bits} {length}");
        }
    }
}

/// Neither token has it, so that it is one with a vendor's mechanisms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn camellia_is_that_of_openssl_where_the_token_has_it() {
    let token = vendor::token();
    let hsm = token.supervisor().await;
    let capabilities = hsm.token().unwrap().capabilities.clone();
    for cipher in CipherAlgorithm::ALL.iter().filter(|one| one.fits(KeyAlgorithm::Camellia)) {
        assert!(capabilities.cipher_algorithms.contains(cipher), "{cipher}");
    }
    assert!(capabilities.generates(KeyAlgorithm::Camellia, Some(192)));
    for bits in [128, 192, 256] {
        let (made, brought) = (format!("made-{bits}"), format!("brought-{bits}"));
        let facts = generate(&hsm, camellia(&made, bits)).await.unwrap();
        let told = (facts.algorithm, facts.key_size, facts.local);
        assert_eq!(told, (Some(KeyAlgorithm::Camellia), Some(bits), Some(true)));
        is_camellia_of_openssl(&token, &hsm, &made, &read(&token, &made)).await;
        let value: Vec<u8> = (0..32).map(|byte| byte ^ 0x5a).take(bits as usize / 8).collect();
        let import = Import {
            template: camellia(&brought, bits),
            public_key: None,
            origin: Origin::Plain(Material::Secret(value.clone().into())),
        };
        let Ok(Reply::Key(facts)) = hsm.call(Request::Import(Box::new(import))).await else { panic!() };
        let told = (facts.algorithm, facts.key_size, facts.local);
        assert_eq!(told, (Some(KeyAlgorithm::Camellia), Some(bits), Some(false)));
        is_camellia_of_openssl(&token, &hsm, &brought, &value).await;
    }
    let entries = crate::inventory(&hsm).await;
    let known = |entry: &hsm_operator::hsm::protocol::InventoryEntry| {
        entry.algorithm == Some(KeyAlgorithm::Camellia) && entry.key_size.is_some() && !entry.ghost
    };
    assert!(entries.len() == 6 && entries.iter().all(known), "{entries:?}");
    let Ok(Reply::Findings(found)) = hsm.call(Request::Probe(Probe::Ciphers)).await else { panic!() };
    assert!(!found.refuted_ciphers.iter().any(|one| one.fits(KeyAlgorithm::Camellia)), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_for_camellia_does_what_its_attributes_say_and_nothing_else() {
    let token = vendor::token();
    let (hsm, steps) = watched(&token).await;
    let mut seals = camellia("seals", 256);
    seals.attributes.decrypt = false;
    generate(&hsm, seals).await.unwrap();
    generate(&hsm, camellia("both", 256)).await.unwrap();
    let (sealed, _) = encrypt(&hsm, job("seals", CipherAlgorithm::Camellia, b"x")).await.unwrap();
    let error = decrypt(&hsm, job("seals", CipherAlgorithm::Camellia, &sealed)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    let (sealed, _) =
        encrypt(&hsm, job("both", CipherAlgorithm::CamelliaCbcNoPadding, &[0; 16])).await.unwrap();
    let error = decrypt(&hsm, job("both", CipherAlgorithm::Camellia, &sealed)).await.unwrap_err();
    assert_eq!(error, HsmError::new(Kind::Invalid, "it cannot be decrypted"));
    let error = encrypt(&hsm, job("both", CipherAlgorithm::AesEcb, &[0; 16])).await.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    took_none(&hsm, &steps).await;
}

/// RFC 8439 by another library, where the token has it.
async fn chacha20_poly1305_is_that_of_aws_lc(token: Token) {
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    let hsm = token.supervisor().await;
    let mut open = key("k", KeyAlgorithm::ChaCha20);
    (open.attributes.sensitive, open.attributes.extractable) = (false, true);
    if token.module == Module::SoftHsm {
        let error = generate(&hsm, open).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported, "{error}");
        return;
    }
    generate(&hsm, open).await.unwrap();
    let other = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &read(&token, "k")).unwrap());
    let work = Job { aad: "aad".into(), ..job("k", CipherAlgorithm::ChaCha20Aead, b"Payload") };
    let (sealed, _) = encrypt(&hsm, work.clone()).await.unwrap();
    let nonce = Nonce::try_assume_unique_for_key(&work.iv).unwrap();
    assert_eq!(other.open_in_place(nonce, Aad::from(b"aad"), &mut sealed.to_vec()).unwrap(), b"Payload");
    let good = Job { input: sealed.to_vec().into(), ..work };
    assert_eq!(decrypt(&hsm, good.clone()).await.unwrap(), b"Payload");
    let error = decrypt(&hsm, Job { aad: "aae".into(), ..good }).await.unwrap_err();
    assert_eq!(error, HsmError::new(Kind::Invalid, "it cannot be decrypted"));
}

/// Test case 16 of the specification of GCM.
async fn gcm_is_that_of_the_standard(token: Token) {
    let bytes = |text: &str| hex::decode(text).unwrap();
    let key = "feffe9928665731c6d6a8f9467308308".repeat(2);
    import(&token, "gcm", "AES:32", &bytes(&key), "--usage-decrypt");
    let plain = bytes(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let sealed = bytes(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
    );
    let work = Job {
        iv: bytes("cafebabefacedbaddecaf888").into(),
        aad: bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2").into(),
        ..job("gcm", CipherAlgorithm::AesGcm, &plain)
    };
    let hsm = token.supervisor().await;
    assert_eq!(encrypt(&hsm, work.clone()).await.unwrap().0, sealed);
    assert_eq!(decrypt(&hsm, Job { input: sealed.into(), ..work }).await.unwrap(), plain);
}

async fn a_tag_may_have_any_length_of_the_contract(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, key("k", KeyAlgorithm::Aes)).await.unwrap();
    for bits in [64_u32, 96, 104, 112, 120, 128] {
        for plain in [b"".as_slice(), b"Payload"] {
            let work = Job { tag_bits: bits, ..job("k", CipherAlgorithm::AesGcm, plain) };
            let (sealed, _) = encrypt(&hsm, work.clone()).await.unwrap();
            assert_eq!(sealed.len(), plain.len() + bits as usize / 8);
            let opened = decrypt(&hsm, Job { input: sealed.to_vec().into(), ..work }).await;
            assert_eq!(opened.unwrap(), plain, "{bits}");
        }
    }
}

async fn what_was_changed_is_not_opened_and_costs_nothing(token: Token) {
    let (hsm, steps) = watched(&token).await;
    generate(&hsm, key("k", KeyAlgorithm::Aes)).await.unwrap();
    let sealing = Job { aad: "aad".into(), ..job("k", CipherAlgorithm::AesGcm, b"Payload") };
    let (sealed, _) = encrypt(&hsm, sealing.clone()).await.unwrap();
    let good = Job { input: sealed.to_vec().into(), ..sealing };
    let flipped = |at: usize| {
        let mut sealed = sealed.to_vec();
        sealed[at] ^= 1;
        Job { input: sealed.into(), ..good.clone() }
    };
    let bad = [
        flipped(0),
        flipped(sealed.len() - 1),
        Job { aad: "aae".into(), ..good.clone() },
        Job { aad: Bytes::new(), ..good.clone() },
        Job { iv: vec![0x5b; 12].into(), ..good.clone() },
        Job { tag_bits: 96, ..good.clone() },
        Job { input: sealed[1..].to_vec().into(), ..good.clone() },
    ];
    for _ in 0..3 {
        for one in &bad {
            let error = decrypt(&hsm, one.clone()).await.unwrap_err();
            assert_eq!(error, HsmError::new(Kind::Invalid, "it cannot be decrypted"), "{one:?}");
        }
    }
    assert_eq!(decrypt(&hsm, good).await.unwrap(), b"Payload");
    // Nobody took it for trouble with the token.
    took_none(&hsm, &steps).await;
}

/// A token-host and the steps that it takes to bring the token back to use.
async fn watched(token: &Token) -> (Arc<Supervisor>, Arc<Mutex<Vec<Rung>>>) {
    let steps: Arc<Mutex<Vec<Rung>>> = Arc::default();
    let notes = Arc::clone(&steps);
    let on_recovery: OnRecovery = Arc::new(move |step| notes.lock().unwrap().push(step));
    let hsm = Supervisor::start(SupervisorConfig { on_recovery: Some(on_recovery), ..token.config() });
    hsm.ready().await.unwrap();
    (hsm, steps)
}

async fn took_none(hsm: &Supervisor, steps: &Mutex<Vec<Rung>>) {
    // Steps are told over the same socket as this, so that none can still be under way.
    find(hsm, Find::Id(id("none"))).await.unwrap();
    assert_eq!((hsm.counters().restarts, steps.lock().unwrap().as_slice()), (0, &[][..]));
}

async fn what_has_a_wrong_padding_is_not_opened_and_costs_nothing(token: Token) {
    let (hsm, steps) = watched(&token).await;
    let made = generate(&hsm, key("rsa", KeyAlgorithm::Rsa)).await.unwrap();
    let public = PublicKey::from_spki(&made.public_key.unwrap()).unwrap();
    generate(&hsm, key("aes", KeyAlgorithm::Aes)).await.unwrap();
    let not = HsmError::new(Kind::Invalid, "it cannot be decrypted");
    // A block that is not padded at all, one of another padding, and a number that is larger than the modulus.
    let raw = public.encrypt(CipherAlgorithm::RsaNoPadding, &[0x5a; 200]).unwrap();
    let pkcs1 = public.encrypt(CipherAlgorithm::RsaPkcs, b"Payload").unwrap();
    let oaep = public.encrypt(CipherAlgorithm::RsaOaepSha1, b"Payload").unwrap();
    for (cipher, other) in [(CipherAlgorithm::RsaPkcs, oaep), (CipherAlgorithm::RsaOaep, pkcs1)] {
        for sealed in [raw.clone(), other, vec![0xff; 256]] {
            match decrypt(&hsm, job("rsa", cipher, &sealed)).await {
                Err(error) => assert_eq!(error, not, "{cipher}"),
                // OpenSSL answers with random bytes in place of an error, so that nobody learns of the padding.
                Ok(random) => assert!(
                    token.module == Module::Kryoptic && cipher == CipherAlgorithm::RsaPkcs,
                    "{cipher} {random:?}"
                ),
            }
        }
    }
    let (sealed, _) = encrypt(&hsm, job("aes", CipherAlgorithm::Aes, &[7; 20])).await.unwrap();
    let mut changed = sealed.to_vec();
    changed[15] ^= 0x80;
    let error = decrypt(&hsm, job("aes", CipherAlgorithm::Aes, &changed)).await.unwrap_err();
    assert_eq!(error, not);
    took_none(&hsm, &steps).await;
    let sealed = public.encrypt(CipherAlgorithm::RsaPkcs, b"Payload").unwrap();
    assert_eq!(decrypt(&hsm, job("rsa", CipherAlgorithm::RsaPkcs, &sealed)).await.unwrap(), b"Payload");
}

async fn a_token_in_trouble_is_not_taken_for_a_wrong_ciphertext(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    generate(&hsm, key("k", KeyAlgorithm::Aes)).await.unwrap();
    let work = job("k", CipherAlgorithm::AesGcm, b"Payload");
    let (sealed, _) = encrypt(&hsm, work.clone()).await.unwrap();
    let good = Job { input: sealed.to_vec().into(), ..work };
    // It fails twice, the second time in the answer to whether it is well, and is tried again then.
    faults.set(&["C_Decrypt times=2 return=CKR_GENERAL_ERROR"]);
    assert_eq!(decrypt(&hsm, good.clone()).await.unwrap(), b"Payload");
    faults.set(&["C_Decrypt return=CKR_DEVICE_ERROR"]);
    let error = decrypt(&hsm, good.clone()).await.unwrap_err();
    assert_ne!(error.kind, Kind::Invalid, "{error}");
    faults.set(&[]);
    assert_eq!(decrypt(&hsm, good).await.unwrap(), b"Payload");
}

async fn oaep_of_openssl_is_opened_where_the_token_has_the_hash(token: Token) {
    let hsm = token.supervisor().await;
    let made = generate(&hsm, key("k", KeyAlgorithm::Rsa)).await.unwrap();
    let (public, plain) = (token.path().join("public.der"), token.path().join("plain"));
    std::fs::write(&public, made.public_key.unwrap()).unwrap();
    std::fs::write(&plain, b"Payload").unwrap();
    for (cipher, hash) in [
        (CipherAlgorithm::RsaOaep, "sha1"),
        (CipherAlgorithm::RsaOaepSha1, "sha1"),
        (CipherAlgorithm::RsaOaepSha224, "sha224"),
        (CipherAlgorithm::RsaOaepSha256, "sha256"),
        (CipherAlgorithm::RsaOaepSha384, "sha384"),
        (CipherAlgorithm::RsaOaepSha512, "sha512"),
    ] {
        let sealed = run(Command::new("openssl")
            .args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey"])
            .arg(&public)
            .arg("-in")
            .arg(&plain)
            .args(["-pkeyopt", "rsa_padding_mode:oaep"])
            .args(["-pkeyopt", &format!("rsa_oaep_md:{hash}"), "-pkeyopt", &format!("rsa_mgf1_md:{hash}")]));
        let opened = decrypt(&hsm, job("k", cipher, &sealed.stdout)).await;
        if token.module == Module::SoftHsm && hash != "sha1" {
            let error = opened.unwrap_err();
            assert_eq!(error.kind, Kind::Unsupported, "{error}");
            assert!(error.message.contains(cipher.name()), "{error}");
        } else {
            assert_eq!(opened.unwrap(), b"Payload", "{cipher}");
        }
    }
}

async fn without_padding_the_whole_block_comes_back(token: Token) {
    let hsm = token.supervisor().await;
    let made = generate(&hsm, key("k", KeyAlgorithm::Rsa)).await.unwrap();
    let public = PublicKey::from_spki(&made.public_key.unwrap()).unwrap();
    for plain in [b"Payload".as_slice(), &[1], &[0; 3]] {
        let sealed = public.encrypt(CipherAlgorithm::RsaNoPadding, plain).unwrap();
        let block = decrypt(&hsm, job("k", CipherAlgorithm::RsaNoPadding, &sealed)).await.unwrap();
        assert_eq!(block, [vec![0; 256 - plain.len()], plain.to_vec()].concat());
    }
}

async fn a_key_does_what_its_attributes_say(token: Token) {
    let (hsm, steps) = watched(&token).await;
    let aes = |name: &str, encrypt, decrypt| {
        let mut key = key(name, KeyAlgorithm::Aes);
        (key.attributes.encrypt, key.attributes.decrypt) = (encrypt, decrypt);
        key
    };
    generate(&hsm, aes("both", true, true)).await.unwrap();
    generate(&hsm, aes("seals", true, false)).await.unwrap();
    generate(&hsm, aes("opens", false, true)).await.unwrap();
    let work = |name: &str| job(name, CipherAlgorithm::AesGcm, b"Payload");
    encrypt(&hsm, work("seals")).await.unwrap();
    let error = encrypt(&hsm, work("opens")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    let (sealed, _) = encrypt(&hsm, work("both")).await.unwrap();
    let error = decrypt(&hsm, job("seals", CipherAlgorithm::AesGcm, &sealed)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    // A key that only opens cannot be asked to seal something: that the tag is wrong is found out all the same.
    let error = decrypt(&hsm, job("opens", CipherAlgorithm::AesGcm, &sealed)).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (Kind::Invalid, "it cannot be decrypted"));
    took_none(&hsm, &steps).await;
}

async fn a_key_of_another_type_is_refused(token: Token) {
    let hsm = token.supervisor().await;
    generate(&hsm, key("aes", KeyAlgorithm::Aes)).await.unwrap();
    generate(&hsm, key("hmac", KeyAlgorithm::HmacSha256)).await.unwrap();
    for (name, cipher) in [("aes", CipherAlgorithm::TdeaEcb), ("hmac", CipherAlgorithm::AesEcb)] {
        let error = encrypt(&hsm, job(name, cipher, &[0; 16])).await.unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{error}");
        assert!(error.message.contains("does not suit a key of type"), "{error}");
    }
    assert_eq!(hmac(&hsm, "aes", b"x").await.unwrap_err().kind, Kind::Invalid);
    let error = encrypt(&hsm, job("none", CipherAlgorithm::AesEcb, &[0; 16])).await.unwrap_err();
    assert_eq!(error.kind, Kind::KeyNotFound, "{error}");
    // One whose length would overrun what a mechanism takes.
    let long = Job { iv: vec![0; 13].into(), ..job("aes", CipherAlgorithm::AesGcm, b"x") };
    assert_eq!(encrypt(&hsm, long).await.unwrap_err().kind, Kind::Invalid);
}

async fn hmacs_are_those_of_openssl(token: Token) {
    let hsm = token.supervisor().await;
    let mut open = key("own", KeyAlgorithm::HmacSha256);
    (open.attributes.sensitive, open.attributes.extractable) = (false, true);
    generate(&hsm, open).await.unwrap();
    let value = read(&token, "own");
    assert_eq!(value.len(), 32);
    for payload in [b"".as_slice(), b"Payload", &[7; 65_536]] {
        let path = token.path().join("payload");
        std::fs::write(&path, payload).unwrap();
        let key = format!("hexkey:{}", hex::encode(&value));
        let wanted = run(Command::new("openssl")
            .args(["dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-binary"])
            .arg(path));
        assert_eq!(hmac(&hsm, "own", payload).await.unwrap(), wanted.stdout);
    }
}

async fn a_key_for_hmac_is_found_as_what_it_is(token: Token) {
    let hsm = token.supervisor().await;
    assert!(hsm.token().unwrap().capabilities.generates(KeyAlgorithm::HmacSha256, None));
    let made = generate(&hsm, key("k", KeyAlgorithm::HmacSha256)).await.unwrap();
    assert_eq!(
        (made.algorithm, made.key_size, made.local),
        (Some(KeyAlgorithm::HmacSha256), None, Some(true))
    );
    assert_eq!((made.attributes.sign, made.attributes.sensitive), (Some(true), Some(true)));
    assert_eq!(find(&hsm, Find::Id(id("k"))).await.unwrap(), [made]);
    let mac = hmac(&hsm, "k", b"x").await.unwrap();
    assert_eq!((mac.len(), hmac(&hsm, "k", b"x").await.unwrap()), (32, mac.clone()));
    assert_ne!(hmac(&hsm, "k", b"y").await.unwrap(), mac);
    let mut mute = key("mute", KeyAlgorithm::HmacSha256);
    mute.attributes.sign = false;
    generate(&hsm, mute).await.unwrap();
    let error = hmac(&hsm, "mute", b"x").await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    let entries = crate::inventory(&hsm).await;
    let known = |entry: &hsm_operator::hsm::protocol::InventoryEntry| {
        entry.algorithm == Some(KeyAlgorithm::HmacSha256) && !entry.ghost
    };
    assert!(entries.len() == 2 && entries.iter().all(known), "{entries:?}");
}

/// Only the modes of a list that were looked at on purpose.
#[test]
fn no_mode_is_forgotten_here() {
    for cipher in CipherAlgorithm::ALL {
        match cipher.row().mode {
            Mode::Oaep(_) | Mode::Pkcs1 | Mode::Raw => assert_eq!(cipher.row().key, KeyAlgorithm::Rsa),
            Mode::Gcm | Mode::Ctr => assert_eq!(cipher.row().key, KeyAlgorithm::Aes),
            Mode::ChaCha20 | Mode::ChaCha20Poly1305 => assert_eq!(cipher.row().key, KeyAlgorithm::ChaCha20),
            Mode::Ecb | Mode::Cbc | Mode::CbcPad => assert!(!cipher.row().key.row().asymmetric),
        }
    }
}
