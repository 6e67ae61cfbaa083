//! Keys that leave a token and come to it encrypted by other keys: by the vectors of the standards, and by others' programs.

use std::process::Command;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use bytes::Bytes;
use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        import::{Import, Origin, Wrap, Wrapped},
        protocol::{Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply, Request},
    },
    key_material,
    model::{
        KeyAlgorithm, KeyLabel, RequestedAttributes, SignatureAlgorithm, WrapMethod, material::Material,
    },
};

use crate::{
    common::{
        faults::Faults,
        openssl,
        token::{Module, Token, run},
    },
    find, id,
    imports::{EC, RSA, ask, export, import, lacks, made, open, signer},
    inventory, on_both_tokens, sign,
};

on_both_tokens! {
    the_vectors_of_rfc_3394,
    the_vectors_of_rfc_5649,
    a_private_key_is_wrapped_as_pkcs_8_and_comes_back,
    rsa_unwraps_what_openssl_wrapped,
    what_is_not_intact_or_another_kind_of_key_leaves_nothing,
    attributes_say_what_is_wrapped_and_by_what,
    a_key_whose_unwrapping_was_interrupted_is_unwrapped_again,
}

/// What the keys here may do that wrap others.
fn wrapping() -> RequestedAttributes {
    RequestedAttributes { unwrap: Some(true), destroyable: Some(true), ..Default::default() }
}

async fn secret(hsm: &Supervisor, name: &str, algorithm: KeyAlgorithm, hex: &str, what: RequestedAttributes) {
    let key = key_material::secret_key(algorithm, hex::decode(hex).unwrap().into()).unwrap();
    import(hsm, name, &key, what).await;
}

async fn wrap(hsm: &Supervisor, key: &str, by: &str, method: WrapMethod) -> Result<Bytes, HsmError> {
    match hsm.call(Request::Wrap(Wrap { by: id(by), key: id(key), method, alone: None })).await? {
        Reply::Wrapped(wrapped) => Ok(wrapped),
        other => panic!("{other:?}"),
    }
}

fn unwrapping(name: &str, by: &str, method: WrapMethod, data: &[u8]) -> Import {
    let template = KeyTemplate {
        id: id(name),
        label: KeyLabel::new(name).unwrap(),
        algorithm: method.row().of,
        key_size: None,
        curve_oid: None,
        attributes: open().resolved(),
    };
    let wrapped = Wrapped { by: id(by), method, data: Bytes::copy_from_slice(data) };
    Import { template, public_key: None, origin: Origin::Wrapped(wrapped) }
}

pub async fn unwrap(
    hsm: &Supervisor,
    name: &str,
    by: &str,
    method: WrapMethod,
    data: &[u8],
) -> Result<KeyFacts, HsmError> {
    let mut job = unwrapping(name, by, method, data);
    let mut reply = ask(hsm, job.clone()).await?;
    if let Reply::Untold(untold) = &reply {
        job.public_key = Some(Bytes::copy_from_slice(signer(untold).spki()));
        reply = ask(hsm, job).await?;
    }
    match reply {
        Reply::Key(facts) => Ok(*facts),
        other => panic!("{other:?}"),
    }
}

/// Unwraps an AES key, unless the token does not tell how long such keys are: then nothing stays.
async fn unwrap_secret(
    hsm: &Supervisor,
    name: &str,
    method: WrapMethod,
    by: &str,
    data: &[u8],
) -> Option<KeyFacts> {
    match unwrap(hsm, name, by, method, data).await {
        Ok(facts) => Some(facts),
        Err(error) => {
            assert_eq!(error.kind, Kind::Unsupported, "{error}");
            assert!(error.message.contains("how long"), "{error}");
            assert_eq!(find(hsm, Find::Id(id(name))).await, Ok(vec![]));
            None
        }
    }
}

/// DER without what may be behind it.
pub fn der(bytes: &[u8]) -> &[u8] {
    let length = match bytes[1] {
        short @ 0..=0x7f => 2 + usize::from(short),
        0x81 => 3 + usize::from(bytes[2]),
        _ => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
    };
    assert!(bytes[length..].iter().all(|byte| *byte == 0) && bytes.len() < length + 8, "{}", bytes.len());
    &bytes[..length]
}

async fn value(hsm: &Supervisor, name: &str) -> Vec<u8> {
    match export(hsm, name).await.unwrap().material {
        Material::Secret(bytes) => bytes.expose().to_vec(),
        other => panic!("{other:?}"),
    }
}

/// RFC 3394, 4.1 to 4.6: KEK, key, wrapped.
const RFC_3394: [(&str, &str, &str); 6] = [
    (
        "000102030405060708090a0b0c0d0e0f",
        "00112233445566778899aabbccddeeff",
        "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5",
    ),
    (
        "000102030405060708090a0b0c0d0e0f1011121314151617",
        "00112233445566778899aabbccddeeff",
        "96778b25ae6ca435f92b5b97c050aed2468ab8a17ad84e5d",
    ),
    (
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "00112233445566778899aabbccddeeff",
        "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7",
    ),
    (
        "000102030405060708090a0b0c0d0e0f1011121314151617",
        "00112233445566778899aabbccddeeff0001020304050607",
        "031d33264e15d33268f24ec260743edce1c6c7ddee725a936ba814915c6762d2",
    ),
    (
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "00112233445566778899aabbccddeeff0001020304050607",
        "a8f9bc1612c68b3ff6e6f4fbe30e71e4769c8b80a32cb8958cd5d17d6b254da1",
    ),
    (
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21",
    ),
];

async fn the_vectors_of_rfc_3394(token: Token) {
    let hsm = token.supervisor().await;
    let mut unwrapped = 0;
    for (number, (kek, key, wrapped)) in RFC_3394.into_iter().enumerate() {
        let [by, of, back] = ["by", "of", "back"].map(|name| format!("{name}-{number}"));
        secret(&hsm, &by, KeyAlgorithm::Aes, kek, wrapping()).await;
        secret(&hsm, &of, KeyAlgorithm::Aes, key, open()).await;
        let method = WrapMethod::AesWrap;
        assert_eq!(hex::encode(wrap(&hsm, &of, &by, method).await.unwrap()), wrapped);
        let data = hex::decode(wrapped).unwrap();
        let Some(facts) = unwrap_secret(&hsm, &back, method, &by, &data).await else { continue };
        unwrapped += 1;
        // The size is found out.
        assert_eq!(facts.key_size, Some(4 * u32::try_from(key.len()).unwrap()));
        assert_eq!((facts.algorithm, facts.local), (Some(KeyAlgorithm::Aes), Some(false)));
        assert_ne!(facts.attributes.never_extractable, Some(true));
        assert_eq!(hex::encode(value(&hsm, &back).await), key);
    }
    assert_eq!(inventory(&hsm).await.len(), 12 + unwrapped, "nothing else stays");
}

async fn the_vectors_of_rfc_5649(token: Token) {
    let hsm = token.supervisor().await;
    let kek = "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8";
    let kek_256 = &"5a".repeat(32);
    secret(&hsm, "by", KeyAlgorithm::Aes, kek, wrapping()).await;
    secret(&hsm, "by-256", KeyAlgorithm::Aes, kek_256, wrapping()).await;
    let method = WrapMethod::AesWrapPad;
    // Lengths that no AES key has: keys for HMAC take any.
    for (name, key, wrapped) in [
        (
            "twenty",
            "c37b7e6492584340bed12207808941155068f738",
            "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
        ),
        ("seven", "466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
    ] {
        secret(&hsm, name, KeyAlgorithm::HmacSha256, key, open()).await;
        let made = hex::encode(wrap(&hsm, name, "by", method).await.unwrap());
        // What SoftHSM puts behind them is not in the vectors; of AES keys, and so over REST, there is nothing to fill.
        let filled = token.module == Module::SoftHsm;
        assert_eq!(made == wrapped, !filled, "{name}: {made}");
        // And none is made of them.
        let error = unwrap(&hsm, "back", "by", method, &hex::decode(wrapped).unwrap()).await.unwrap_err();
        let untold = filled && error.message.contains("how long");
        assert!(untold || error.message == "the wrapped key cannot be unwrapped", "{name}: {error}");
    }
    for (name, length) in [("aes-128", 16), ("aes-192", 24), ("aes-256", 32)] {
        let key = "a7".repeat(length);
        secret(&hsm, name, KeyAlgorithm::Aes, &key, open()).await;
        let wrapped = wrap(&hsm, name, "by-256", method).await.unwrap();
        let back = format!("{name}-back");
        // By another library, which knows nothing of the token.
        let mut room = vec![0; wrapped.len() + 8];
        let other = AesKek::new(&AES_256, &hex::decode(kek_256).unwrap()).unwrap();
        assert_eq!(hex::encode(other.unwrap_with_padding(&wrapped, &mut room).unwrap()), key);
        if unwrap_secret(&hsm, &back, method, "by-256", &wrapped).await.is_some() {
            assert_eq!(hex::encode(value(&hsm, &back).await), key);
        }
    }
}

async fn a_private_key_is_wrapped_as_pkcs_8_and_comes_back(token: Token) {
    let hsm = token.supervisor().await;
    let kek = "11".repeat(32);
    secret(&hsm, "by", KeyAlgorithm::Aes, &kek, wrapping()).await;
    let ed = ("ed", ["-algorithm", "ED25519"].as_slice(), SignatureAlgorithm::EdDsa);
    let rsa = ("rsa", RSA, SignatureAlgorithm::Sha256WithRsa);
    for (name, arguments, algorithm) in EC.into_iter().chain([ed, rsa]) {
        let key = key_material::private_key(&made(&token, arguments)).unwrap();
        if lacks(&hsm, &key).await {
            continue;
        }
        import(&hsm, name, &key, open()).await;
        let method = match key.algorithm {
            KeyAlgorithm::Rsa => WrapMethod::AesWrapPadRsa,
            KeyAlgorithm::Ed => WrapMethod::AesWrapPadEd,
            _ => WrapMethod::AesWrapPadEc,
        };
        let wrapped = match wrap(&hsm, name, "by", method).await {
            Ok(wrapped) => wrapped,
            Err(error) => {
                println!("{:?} does not wrap {name}: {error}", token.module);
                assert_eq!(
                    (key.algorithm, error.kind),
                    (KeyAlgorithm::Ed, Kind::Unsupported),
                    "{name}: {error}"
                );
                continue;
            }
        };
        // Another library opens it and finds the key.
        let mut room = vec![0; wrapped.len() + 8];
        let by = AesKek::new(&AES_256, &hex::decode(&kek).unwrap()).unwrap();
        let opened = by.unwrap_with_padding(&wrapped, &mut room).unwrap();
        let found = key_material::private_key(der(opened)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((found.public, found.material), (key.public.clone(), key.material.clone()), "{name}");
        let back = format!("{name}-back");
        match unwrap(&hsm, &back, "by", method, &wrapped).await {
            Ok(facts) => {
                println!("{:?} unwraps {name}", token.module);
                assert_eq!(facts.public_key, key.spki(), "{name}");
                assert_eq!((facts.key_size, &facts.curve_oid), (key.key_size, &key.curve_oid), "{name}");
                let signature = sign(&hsm, &back, algorithm, b"payload").await.unwrap();
                openssl::verify(token.path(), &key.spki().unwrap(), algorithm, b"payload", &signature);
            }
            // Of EdDSA, no signature tells whose it is.
            Err(error) => {
                println!("{:?} does not unwrap {name}: {error}", token.module);
                assert_eq!(key.algorithm, KeyAlgorithm::Ed);
                assert_eq!(error.kind, Kind::Unsupported, "{name}: {error}");
                assert!(error.message.contains("public half"), "{name}: {error}");
                assert_eq!(find(&hsm, Find::Id(id(&back))).await, Ok(vec![]));
            }
        }
    }
    // What is no whole number of blocks is refused by the method without padding, in words that help, or filled with zeros.
    for (name, ..) in EC {
        match wrap(&hsm, name, "by", WrapMethod::AesWrapEc).await {
            Ok(wrapped) => assert_eq!(wrapped.len() % 8, 0, "{name}"),
            Err(error) if error.kind == Kind::KeyNotFound => {}
            Err(error) => {
                assert_eq!(error.kind, Kind::Unsupported, "{name}: {error}");
                assert!(error.message.contains("_PAD"), "{name}: {error}");
            }
        }
    }
}

async fn rsa_unwraps_what_openssl_wrapped(token: Token) {
    let hsm = token.supervisor().await;
    let key = key_material::private_key(&made(&token, RSA)).unwrap();
    let facts = import(&hsm, "by", &key, wrapping()).await;
    secret(&hsm, "of", KeyAlgorithm::Aes, &"42".repeat(32), open()).await;
    let path = |name: &str| token.path().join(name);
    std::fs::write(path("public.der"), facts.public_key.unwrap()).unwrap();
    std::fs::write(path("key"), [0x42; 32]).unwrap();
    for (method, padding) in [(WrapMethod::RsaWrapPad, "pkcs1"), (WrapMethod::RsaWrapOaep, "oaep")] {
        let wrapped = run(Command::new("openssl")
            .args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey"])
            .arg(path("public.der"))
            .args(["-pkeyopt", &format!("rsa_padding_mode:{padding}"), "-in"])
            .arg(path("key")))
        .stdout;
        let name = format!("from-openssl-{padding}");
        if let Some(facts) = unwrap_secret(&hsm, &name, method, "by", &wrapped).await {
            assert_eq!(facts.key_size, Some(256), "{padding}");
            assert_eq!(value(&hsm, &name).await, [0x42; 32], "{padding}");
        }
        // The token wraps with the public half, and openssl unwraps with the private one.
        let wrapped = wrap(&hsm, "of", "by", method).await.unwrap();
        std::fs::write(path("wrapped"), &wrapped).unwrap();
        let opened = run(Command::new("openssl")
            .args(["pkeyutl", "-decrypt", "-inkey"])
            .arg(path("private.pem"))
            .args(["-pkeyopt", &format!("rsa_padding_mode:{padding}"), "-in"])
            .arg(path("wrapped")));
        assert_eq!(opened.stdout, [0x42; 32], "{padding}");
        // A key of 20 bytes is no AES key, and no more is said.
        std::fs::write(path("short"), [0x42; 20]).unwrap();
        let short = run(Command::new("openssl")
            .args(["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey"])
            .arg(path("public.der"))
            .args(["-pkeyopt", &format!("rsa_padding_mode:{padding}"), "-in"])
            .arg(path("short")))
        .stdout;
        let mut bent = wrapped.to_vec();
        bent[7] ^= 1;
        for data in [&short, &bent] {
            let error = unwrap(&hsm, "none", "by", method, data).await.unwrap_err();
            let untold = error.message.contains("how long");
            assert!(untold || error.message == "the wrapped key cannot be unwrapped", "{padding}: {error}");
        }
    }
    assert_eq!(find(&hsm, Find::Id(id("none"))).await, Ok(vec![]));
}

async fn what_is_not_intact_or_another_kind_of_key_leaves_nothing(token: Token) {
    let hsm = token.supervisor().await;
    secret(&hsm, "by", KeyAlgorithm::Aes, &"11".repeat(32), wrapping()).await;
    secret(&hsm, "of", KeyAlgorithm::Aes, &"22".repeat(32), open()).await;
    let key = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    import(&hsm, "pair", &key, open()).await;
    let before = inventory(&hsm).await.len();
    for method in [WrapMethod::AesWrap, WrapMethod::AesWrapPad] {
        let good = wrap(&hsm, "of", "by", method).await.unwrap().to_vec();
        let mut bent = good.clone();
        bent[9] ^= 1;
        for data in [&bent[..], &good[..good.len() - 8], &good[..7], b"x"] {
            let error = unwrap(&hsm, "back", "by", method, data).await.unwrap_err();
            assert_eq!(error.kind, Kind::Invalid, "{method}: {error}");
            assert_eq!(error.message, "the wrapped key cannot be unwrapped", "{method}");
        }
    }
    let pair = wrap(&hsm, "pair", "by", WrapMethod::AesWrapPadEc).await.unwrap();
    for method in [WrapMethod::AesWrapPadRsa, WrapMethod::AesWrapPad, WrapMethod::AesWrapPadEd] {
        let error = unwrap(&hsm, "back", "by", method, &pair).await.unwrap_err();
        let untold = error.message.contains("how long");
        assert!(error.kind == Kind::Invalid || untold, "{method}: {error}");
    }
    // Of DSA keys, SoftHSM finds out that this is none.
    let dsa = if token.module == Module::SoftHsm { Kind::Invalid } else { Kind::Unsupported };
    for (method, kind) in [(WrapMethod::AesWrapPadBls, Kind::Unsupported), (WrapMethod::AesWrapDsa, dsa)] {
        let error = unwrap(&hsm, "back", "by", method, &pair).await.unwrap_err();
        assert_eq!(error.kind, kind, "{method}: {error}");
    }
    assert_eq!(
        unwrap(&hsm, "back", "none", WrapMethod::AesWrap, &pair).await.unwrap_err().kind,
        Kind::KeyNotFound
    );
    assert_eq!(inventory(&hsm).await.len(), before);
    assert_eq!(hsm.counters().restarts, 0, "it costs nobody anything");
}

async fn attributes_say_what_is_wrapped_and_by_what(token: Token) {
    let hsm = token.supervisor().await;
    secret(&hsm, "by", KeyAlgorithm::Aes, &"11".repeat(32), wrapping()).await;
    secret(&hsm, "mute", KeyAlgorithm::Aes, &"12".repeat(32), open()).await;
    let closed = RequestedAttributes { extractable: Some(false), ..open() };
    secret(&hsm, "closed", KeyAlgorithm::Aes, &"13".repeat(32), closed).await;
    // Sensitive and extractable: it leaves, but not in plain.
    let sensitive = RequestedAttributes { sensitive: Some(true), ..open() };
    secret(&hsm, "sensitive", KeyAlgorithm::Aes, &"14".repeat(32), sensitive).await;
    let method = WrapMethod::AesWrap;
    for (of, by) in [("closed", "by"), ("sensitive", "mute")] {
        let error = wrap(&hsm, of, by, method).await.unwrap_err();
        assert_eq!(error.kind, Kind::Forbidden, "{of} {by}: {error}");
    }
    let wrapped = wrap(&hsm, "sensitive", "by", method).await.unwrap();
    assert_eq!(export(&hsm, "sensitive").await.unwrap_err().kind, Kind::Forbidden);
    let error = unwrap(&hsm, "back", "mute", method, &wrapped).await.unwrap_err();
    assert_eq!(error.kind, Kind::Forbidden, "{error}");
    let error = wrap(&hsm, "sensitive", "by", WrapMethod::RsaWrapOaep).await.unwrap_err();
    assert!(matches!(error.kind, Kind::Invalid | Kind::Ambiguous), "{error}");
    assert_eq!(inventory(&hsm).await.len(), 4);
}

async fn a_key_whose_unwrapping_was_interrupted_is_unwrapped_again(token: Token) {
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    secret(&hsm, "by", KeyAlgorithm::Aes, &"11".repeat(32), wrapping()).await;
    let key = key_material::private_key(&made(&token, RSA)).unwrap();
    import(&hsm, "pair", &key, open()).await;
    let method = WrapMethod::AesWrapPadRsa;
    let wrapped = wrap(&hsm, "pair", "by", method).await.unwrap();
    for after in 0..2 {
        let numbers = faults.set(&[&format!("C_UnwrapKey after={after} times=1 segv")]);
        let error = unwrap(&hsm, "back", "by", method, &wrapped).await.unwrap_err();
        assert_eq!((error.kind, faults.fired(numbers[0])), (Kind::Crashed, 1), "{error}");
        faults.clear();
        assert_eq!(find(&hsm, Find::Id(id("back"))).await, Ok(vec![]));
    }
    let facts = unwrap(&hsm, "back", "by", method, &wrapped).await.unwrap();
    assert_eq!(facts.public_key, key.spki());
    assert_eq!(inventory(&hsm).await.len(), 5);
}
