//! Encrypt, decrypt and HMAC over REST, with real tokens behind the gateway and openssl beside it.

use std::{process::Command, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use hsm_operator::{
    api::{
        HsmKey,
        condition::{self, Report},
        key::HsmKeyStatus,
        partition::{Probed, TokenStatus},
    },
    gateway::partitions::Known,
    hsm::{
        Hsm, Supervisor,
        protocol::{KeyTemplate, Reply, Request},
    },
    model::{CipherAlgorithm, KeyAlgorithm, KeyId, KeyLabel},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    common::token::{Module, Token, run},
    real::on_both_tokens,
    world::{NAMESPACE, PARTITION, World, object, office},
};

on_both_tokens! {
    what_is_encrypted_over_rest_is_decrypted_over_rest,
    the_parts_of_gcm_can_be_put_together_as_clients_do,
    what_openssl_encrypts_is_decrypted,
    a_wrong_ciphertext_is_told_apart_by_nobody,
    an_hmac_is_verified,
}

/// A gateway before a real token.
struct Stage {
    world: World,
    hsm: Arc<Supervisor>,
    token: Token,
}

impl Stage {
    async fn new(module: Module) -> Self {
        let (world, token) = (World::new(&[]).await, Token::new(module));
        let hsm = token.supervisor().await;
        let behind: Arc<dyn Hsm> = hsm.clone();
        let object = Arc::new(office().await.partition.clone());
        world.partitions.put(Known { object, hsm: Some(behind) });
        Self { world, hsm, token }
    }

    /// Makes a key on the token and says so in an object.
    async fn make(&self, name: &str, algorithm: KeyAlgorithm, size: Option<u32>) -> Option<Vec<u8>> {
        let mac = algorithm == KeyAlgorithm::HmacSha256;
        // As clients send it: what encrypts follows what decrypts.
        let key = key(
            name,
            json!({"algorithm": algorithm, "keySize": size, "attributes": {"decrypt": !mac, "sign": mac}}),
        );
        let template = KeyTemplate {
            id: KeyId::for_purpose(name),
            label: KeyLabel::new(name).unwrap(),
            algorithm,
            key_size: size,
            curve_oid: None,
            attributes: key.spec.attributes.resolved(),
        };
        let Ok(Reply::Key(facts)) = self.hsm.call(Request::Generate(template)).await else {
            panic!("{name}")
        };
        let public = facts.public_key.map(|spki| spki.to_vec());
        self.world.directory.put(Arc::new(ready(key, public.as_deref())));
        public
    }

    async fn encrypt(&self, key: &str, cipher: CipherAlgorithm, plain: &[u8], more: Value) -> Value {
        let mut request =
            json!({"payload": STANDARD.encode(plain), "encryptKeyName": key, "cipherAlgorithm": cipher});
        request.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.world.call("POST", "/v1/encrypt", &json!({ "encryptRequest": request })).await.ok()
    }

    /// Decrypts with what else is in the answer of an encryption.
    async fn decrypt(&self, key: &str, cipher: CipherAlgorithm, sealed: &Value, more: Value) -> Vec<u8> {
        let mut request = json!({
            "encryptedPayload": sealed["encryptedPayload"], "decryptKeyName": key, "cipherAlgorithm": cipher,
            "initializationVector": sealed["initializationVector"],
        });
        request.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let body = json!({ "decryptRequest": request });
        let answer = self.world.call("POST", "/v1/synchronousDecrypt", &body).await.ok();
        assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
        bytes(&answer["payload"])
    }
}

fn bytes(text: &Value) -> Vec<u8> {
    STANDARD.decode(text.as_str().unwrap_or_else(|| panic!("{text}"))).unwrap()
}

fn key(name: &str, mut spec: Value) -> HsmKey {
    spec["partitionRef"] = json!({"name": PARTITION});
    object(NAMESPACE, name, spec)
}

fn ready(mut key: HsmKey, public: Option<&[u8]>) -> HsmKey {
    let ready = [Report::new(condition::READY, Some(true), "Ready", "the key can be used")];
    key.status = Some(HsmKeyStatus {
        conditions: condition::apply(&[], &ready, Some(1), Timestamp::now()),
        key_id: Some(KeyId::for_purpose(&key.label()).to_string()),
        public_key: public.map(|spki| STANDARD.encode(spki)),
        ..HsmKeyStatus::default()
    });
    key
}

async fn what_is_encrypted_over_rest_is_decrypted_over_rest(stage: &Stage) {
    let offered = stage.hsm.token().unwrap().capabilities.clone();
    let mut tried = 0;
    for (algorithm, size) in [
        (KeyAlgorithm::Rsa, Some(2048)),
        (KeyAlgorithm::Aes, Some(128)),
        (KeyAlgorithm::Tdea, None),
        (KeyAlgorithm::ChaCha20, Some(256)),
    ] {
        if !offered.generates(algorithm, size) {
            continue;
        }
        stage.make(algorithm.name(), algorithm, size).await;
        for cipher in offered.cipher_algorithms.iter().copied().filter(|one| one.fits(algorithm)) {
            let oaep = cipher.name().contains("OAEP_WITH") && !cipher.name().ends_with("SHA1");
            if oaep && stage.token.module == Module::SoftHsm {
                continue;
            }
            // The payload of the published client's own test: 16 bytes.
            let plain = b"sixteen bytes...";
            let sealed = stage.encrypt(algorithm.name(), cipher, plain, json!(null)).await;
            let members: Vec<_> = sealed.as_object().unwrap().keys().map(String::as_str).collect();
            let all = [
                "encryptedPayload",
                "encryptedPayloadWithoutMessageAuthenticationCode",
                "initializationVector",
                "messageAuthenticationCode",
            ];
            assert_eq!(members, all, "{cipher}");
            assert_eq!(sealed[all[1]].is_null(), algorithm == KeyAlgorithm::Rsa, "{cipher}");
            assert_eq!(sealed[all[2]].is_null(), cipher.iv_len() == 0, "{cipher}");
            assert_eq!(sealed[all[3]].is_null(), !cipher.is_aead(), "{cipher}");
            let opened = stage.decrypt(algorithm.name(), cipher, &sealed, json!(null)).await;
            if cipher == CipherAlgorithm::RsaNoPadding {
                assert_eq!(opened, [[0; 240].as_slice(), plain].concat());
            } else {
                assert_eq!(opened, plain, "{cipher}");
            }
            // Never the same twice, but where there is nothing random in it.
            let again = stage.encrypt(algorithm.name(), cipher, plain, json!(null)).await;
            let alike = cipher.name().ends_with("_ECB") || cipher == CipherAlgorithm::RsaNoPadding;
            assert_eq!(again == sealed, alike, "{cipher}");
            tried += 1;
        }
    }
    assert_eq!(tried, if stage.token.module == Module::SoftHsm { 5 + 5 + 3 } else { 9 + 5 + 2 });
}

async fn the_parts_of_gcm_can_be_put_together_as_clients_do(stage: &Stage) {
    stage.make("aes", KeyAlgorithm::Aes, Some(256)).await;
    for (tag, length) in [(json!(128), 16), (json!(0), 16), (json!(null), 16), (json!(96), 12)] {
        let with = json!({"tagLength": tag, "additionalAuthenticationData": STANDARD.encode(b"aad")});
        let sealed = stage.encrypt("aes", CipherAlgorithm::AesGcm, b"a secret of 18 b..", with.clone()).await;
        let iv = bytes(&sealed["initializationVector"]);
        let bare = bytes(&sealed["encryptedPayloadWithoutMessageAuthenticationCode"]);
        let mac = bytes(&sealed["messageAuthenticationCode"]);
        assert_eq!((iv.len(), bare.len(), mac.len()), (12, 18, length), "{tag}");
        assert_eq!([bare, mac].concat(), bytes(&sealed["encryptedPayload"]), "{tag}");
        let opened = stage.decrypt("aes", CipherAlgorithm::AesGcm, &sealed, with).await;
        assert_eq!(opened, b"a secret of 18 b..", "{tag}");
    }
}

async fn what_openssl_encrypts_is_decrypted(stage: &Stage) {
    let spki = stage.make("rsa", KeyAlgorithm::Rsa, Some(2048)).await.unwrap();
    let (public, plain) = (stage.token.path().join("public.der"), stage.token.path().join("plain"));
    std::fs::write(&public, spki).unwrap();
    std::fs::write(&plain, b"Payload").unwrap();
    let sealed = |options: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey"]).arg(&public);
        command.arg("-in").arg(&plain);
        for option in options {
            command.args(["-pkeyopt", option]);
        }
        json!({"encryptedPayload": STANDARD.encode(run(&mut command).stdout), "initializationVector": ""})
    };
    let pkcs1 = sealed(&["rsa_padding_mode:pkcs1"]);
    for cipher in [CipherAlgorithm::Rsa, CipherAlgorithm::RsaPkcs] {
        assert_eq!(stage.decrypt("rsa", cipher, &pkcs1, json!(null)).await, b"Payload");
    }
    let oaep = |hash: &str| {
        sealed(&["rsa_padding_mode:oaep", &format!("rsa_oaep_md:{hash}"), &format!("rsa_mgf1_md:{hash}")])
    };
    for cipher in [CipherAlgorithm::RsaOaep, CipherAlgorithm::RsaOaepSha1] {
        assert_eq!(stage.decrypt("rsa", cipher, &oaep("sha1"), json!(null)).await, b"Payload");
    }
    let (cipher, sealed) = (CipherAlgorithm::RsaOaepSha256, oaep("sha256"));
    if stage.token.module == Module::Kryoptic {
        assert_eq!(stage.decrypt("rsa", cipher, &sealed, json!(null)).await, b"Payload");
        return;
    }
    // Never done outside: the token has to have the hash.
    let request = json!({"encryptedPayload": sealed["encryptedPayload"], "decryptKeyName": "rsa", "cipherAlgorithm": cipher});
    let refused =
        stage.world.call("POST", "/v1/synchronousDecrypt", &json!({ "decryptRequest": request })).await;
    assert_eq!(refused.refused(), (400, 629));
    let message = refused.json()["message"].to_string();
    assert!(message.contains("RSA_PADDING_OAEP_WITH_SHA256") && message.contains("CKR_"), "{message}");
}

async fn a_wrong_ciphertext_is_told_apart_by_nobody(stage: &Stage) {
    let spki = stage.make("rsa", KeyAlgorithm::Rsa, Some(2048)).await.unwrap();
    let public = hsm_operator::public_key::PublicKey::from_spki(&spki).unwrap();
    stage.make("aes", KeyAlgorithm::Aes, Some(256)).await;
    let ask = async |key: &str, cipher: CipherAlgorithm, sealed: Vec<u8>| {
        let request = json!({
            "encryptedPayload": STANDARD.encode(sealed), "decryptKeyName": key, "cipherAlgorithm": cipher,
            "initializationVector": (cipher.iv_len() > 0).then(|| STANDARD.encode(vec![7; cipher.iv_len()])),
        });
        stage.world.call("POST", "/v1/synchronousDecrypt", &json!({ "decryptRequest": request })).await
    };
    let mut bodies = Vec::new();
    for sealed in [
        public.encrypt(CipherAlgorithm::RsaNoPadding, &[7; 250]).unwrap(),
        public.encrypt(CipherAlgorithm::RsaPkcs, b"Payload").unwrap(),
        vec![0xff; 256],
        vec![0; 256],
    ] {
        let answer = ask("rsa", CipherAlgorithm::RsaOaepSha1, sealed).await;
        assert_eq!(answer.refused(), (400, 410));
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    for (cipher, sealed) in [(CipherAlgorithm::AesGcm, vec![7; 32]), (CipherAlgorithm::Aes, vec![7; 32])] {
        let answer = ask("aes", cipher, sealed).await;
        assert_eq!(answer.refused(), (400, 410), "{cipher}");
        let message = format!("the payload cannot be decrypted with {cipher} and this key");
        assert_eq!(answer.json()["message"], message.as_str());
    }
    assert_eq!(stage.hsm.counters().restarts, 0);
}

async fn an_hmac_is_verified(stage: &Stage) {
    stage.make("hmac", KeyAlgorithm::HmacSha256, None).await;
    let request = json!({"hmacRequest": {"keyName": "hmac", "payload": STANDARD.encode(b"Payload")}});
    let made = stage.world.call("POST", "/v1/synchronousHmac", &request).await.ok();
    assert_eq!(made.as_object().unwrap().len(), 1, "{made}");
    let mac = bytes(&made["keyedHash"]);
    assert_eq!(mac.len(), 32);
    let verify = async |payload: &[u8], mac: &[u8]| {
        let request = json!({"keyName": "hmac", "payload": STANDARD.encode(payload), "signature": STANDARD.encode(mac)});
        let answer =
            stage.world.call("POST", "/v1/verify", &json!({ "verifyHmacRequest": request })).await.ok();
        assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
        answer["signatureValid"].as_bool().unwrap()
    };
    assert!(verify(b"Payload", &mac).await);
    assert!(!verify(b"payload", &mac).await);
    assert!(!verify(b"Payload", &mac[..31]).await);
    let mut changed = mac;
    changed[31] ^= 1;
    assert!(!verify(b"Payload", &changed).await);
}

/// A partition whose token was tried, and is not reached now.
async fn tried(world: &World, ciphers: &[CipherAlgorithm], hsm: Option<Arc<dyn Hsm>>) {
    let mut partition = office().await.partition.clone();
    partition.status.as_mut().unwrap().token = Some(TokenStatus {
        cipher_algorithms: ciphers.iter().map(ToString::to_string).collect(),
        probed: Some(Probed::default()),
        ..TokenStatus::default()
    });
    world.partitions.put(Known { object: Arc::new(partition), hsm });
}

fn to_encrypt(cipher: CipherAlgorithm) -> Value {
    json!({"encryptRequest": {"payload": "UGF5bG9hZA==", "encryptKeyName": "rsa-cipher", "cipherAlgorithm": cipher}})
}

#[tokio::test]
async fn nothing_is_encrypted_that_the_token_was_seen_not_to_decrypt() {
    let world = World::new(&["rsa-cipher"]).await;
    let behind: Arc<dyn Hsm> = world.fake.clone();
    tried(&world, &[CipherAlgorithm::RsaOaep, CipherAlgorithm::RsaPkcs], Some(behind)).await;
    let refused = world.call("POST", "/v1/encrypt", &to_encrypt(CipherAlgorithm::RsaOaepSha256)).await;
    assert_eq!(refused.refused(), (400, 629));
    assert_eq!(
        refused.json()["message"],
        "the token 'fake' does not have RSA_PADDING_OAEP_WITH_SHA256: it was tried and refused; with RSA keys it has RSA_PADDING_OAEP, RSA_PADDING_PKCS"
    );
    world.call("POST", "/v1/encrypt", &to_encrypt(CipherAlgorithm::RsaOaep)).await.ok();
}

#[tokio::test]
async fn a_public_key_encrypts_while_the_token_is_away_and_never_asks_it() {
    let world = World::new(&["rsa-cipher"]).await;
    let calls = world.fake.calls().len();
    world.call("POST", "/v1/encrypt", &to_encrypt(CipherAlgorithm::RsaOaepSha256)).await.ok();
    tried(&world, &[CipherAlgorithm::RsaOaepSha256], None).await;
    world.call("POST", "/v1/encrypt", &to_encrypt(CipherAlgorithm::RsaOaepSha256)).await.ok();
    assert_eq!(world.fake.calls().len(), calls);
}

#[tokio::test]
async fn what_the_gateway_encrypts_openssl_decrypts() {
    let (world, directory) = (World::new(&[]).await, tempfile::tempdir().unwrap());
    let file = |name: &str| directory.path().join(name);
    run(Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-out"]).arg(file("private.pem")));
    let spki = run(Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(file("private.pem")));
    let object =
        key("rsa-cipher", json!({"algorithm": "RSA", "keySize": 2048, "attributes": {"decrypt": true}}));
    world.directory.put(Arc::new(ready(object, Some(&spki.stdout))));
    for (cipher, options) in [
        (CipherAlgorithm::RsaPkcs, vec!["rsa_padding_mode:pkcs1"]),
        (CipherAlgorithm::Rsa, vec!["rsa_padding_mode:pkcs1"]),
        (CipherAlgorithm::RsaOaep, vec!["rsa_padding_mode:oaep", "rsa_oaep_md:sha1"]),
        (CipherAlgorithm::RsaOaepSha1, vec!["rsa_padding_mode:oaep", "rsa_oaep_md:sha1"]),
        (
            CipherAlgorithm::RsaOaepSha224,
            vec!["rsa_padding_mode:oaep", "rsa_oaep_md:sha224", "rsa_mgf1_md:sha224"],
        ),
        (
            CipherAlgorithm::RsaOaepSha256,
            vec!["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"],
        ),
        (
            CipherAlgorithm::RsaOaepSha384,
            vec!["rsa_padding_mode:oaep", "rsa_oaep_md:sha384", "rsa_mgf1_md:sha384"],
        ),
        (
            CipherAlgorithm::RsaOaepSha512,
            vec!["rsa_padding_mode:oaep", "rsa_oaep_md:sha512", "rsa_mgf1_md:sha512"],
        ),
        (CipherAlgorithm::RsaNoPadding, vec!["rsa_padding_mode:none"]),
    ] {
        let sealed = world.call("POST", "/v1/encrypt", &to_encrypt(cipher)).await.ok();
        std::fs::write(file("sealed"), bytes(&sealed["encryptedPayload"])).unwrap();
        let mut command = Command::new("openssl");
        command
            .args(["pkeyutl", "-decrypt", "-inkey"])
            .arg(file("private.pem"))
            .arg("-in")
            .arg(file("sealed"));
        for option in options {
            command.args(["-pkeyopt", option]);
        }
        let opened = run(&mut command).stdout;
        assert!(opened.ends_with(b"Payload"), "{cipher}");
        let zeros = if cipher == CipherAlgorithm::RsaNoPadding { 249 } else { 0 };
        assert_eq!(opened[..opened.len() - 7], vec![0; zeros], "{cipher}");
    }
}
