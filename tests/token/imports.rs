//! Keys that openssl made, brought to tokens, used there, and given back.

use std::{path::PathBuf, process::Command};

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use bytes::Bytes;
use hsm_operator::{
    hsm::{
        Hsm, Supervisor,
        cipher::Job,
        import::{Exported, Import, Origin, SIGNED, Untold, Wrap, Wrapped},
        protocol::{Find, HsmError, KeyFacts, KeyTemplate, Kind, Reply, Request},
    },
    key_material::{self, Key},
    model::{
        CipherAlgorithm, KeyAlgorithm, KeyLabel, RequestedAttributes, SignatureAlgorithm, WrapMethod, curve,
        material::Material,
    },
    public_key::PublicKey,
};

use crate::{
    common::{
        faults::Faults,
        openssl,
        token::{Module, Token, run},
    },
    destroy, find, generate, id, inventory, on_both_tokens, p256, sign,
};

on_both_tokens! {
    keys_of_openssl_sign_on_the_token,
    keys_on_other_curves_tell_their_public_half_by_signatures,
    secret_keys_do_what_openssl_does_with_them,
    the_token_says_that_a_key_was_imported,
    a_key_that_may_leave_comes_back_as_it_was,
    dsa_keys_come_and_go_where_the_token_has_them,
    a_key_that_may_not_leave_stays,
    a_generated_key_that_may_leave_does,
    importing_twice_gives_one_key_and_another_one_is_told,
    a_label_of_others_is_left_to_them,
    what_a_death_in_between_left_is_replaced,
    a_key_that_the_token_refuses_leaves_nothing,
}

/// A private key by openssl, as PKCS #8.
pub fn made(token: &Token, arguments: &[&str]) -> Vec<u8> {
    let path = token.path().join("private.pem");
    run(Command::new("openssl").args(["genpkey", "-out"]).arg(&path).args(arguments));
    run(Command::new("openssl").args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"]).arg(path))
        .stdout
}

pub const EC: [(&str, &[&str], SignatureAlgorithm); 4] = [
    (
        "p256",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        SignatureAlgorithm::Sha256WithEcdsa,
    ),
    (
        "p384",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        SignatureAlgorithm::Sha384WithEcdsa,
    ),
    (
        "p521",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
        SignatureAlgorithm::Sha512WithEcdsa,
    ),
    (
        "k1",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
        SignatureAlgorithm::Sha256WithEcdsa,
    ),
];
pub const RSA: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

/// How a key is to be there.
pub fn as_template(name: &str, key: &Key, attributes: RequestedAttributes) -> KeyTemplate {
    KeyTemplate {
        id: id(name),
        label: KeyLabel::new(name).unwrap(),
        algorithm: key.algorithm,
        key_size: key.key_size,
        curve_oid: key.curve_oid.clone(),
        attributes: attributes.resolved(),
    }
}

/// What most keys here are for: everything, and they may leave the token.
pub fn open() -> RequestedAttributes {
    RequestedAttributes {
        sign: Some(true),
        decrypt: Some(true),
        extractable: Some(true),
        sensitive: Some(false),
        destroyable: Some(true),
        ..Default::default()
    }
}

fn import_of(name: &str, key: &Key, attributes: RequestedAttributes) -> Import {
    Import {
        template: as_template(name, key, attributes),
        public_key: key.spki(),
        origin: Origin::Plain(key.material.clone()),
    }
}

pub async fn ask(hsm: &Supervisor, import: Import) -> Result<Reply, HsmError> {
    hsm.call(Request::Import(Box::new(import))).await
}

pub async fn import(hsm: &Supervisor, name: &str, key: &Key, attributes: RequestedAttributes) -> KeyFacts {
    match ask(hsm, import_of(name, key, attributes)).await {
        Ok(Reply::Key(facts)) => *facts,
        other => panic!("{name}: {other:?}"),
    }
}

pub async fn export(hsm: &Supervisor, name: &str) -> Result<Exported, HsmError> {
    match hsm.call(Request::Export(id(name))).await? {
        Reply::Exported(exported) => Ok(*exported),
        other => panic!("{other:?}"),
    }
}

/// Whether the token does not make such keys either.
pub async fn lacks(hsm: &Supervisor, key: &Key) -> bool {
    let made = generate(hsm, as_template("not there", key, open())).await;
    if made.is_ok() {
        destroy(hsm, "not there").await;
    }
    made.is_err_and(|error| error.kind == Kind::Unsupported)
}

/// Brings private keys of each type that both tokens take.
async fn pairs(token: &Token, hsm: &Supervisor) -> Vec<(&'static str, Vec<u8>, Key, SignatureAlgorithm)> {
    let ed = ("ed", ["-algorithm", "ED25519"].as_slice(), SignatureAlgorithm::EdDsa);
    let rsa = ("rsa", RSA, SignatureAlgorithm::Sha256WithRsaPss);
    let mut all = Vec::new();
    for (name, arguments, algorithm) in EC.into_iter().chain([ed, rsa]) {
        let der = made(token, arguments);
        let key = key_material::private_key(&der).unwrap_or_else(|error| panic!("{name}: {error}"));
        let facts = match ask(hsm, import_of(name, &key, open())).await {
            Ok(Reply::Key(facts)) => *facts,
            Err(error) if lacks(hsm, &key).await => {
                assert_eq!(error.kind, Kind::Unsupported, "{name}: {error}");
                continue;
            }
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(facts.algorithm, Some(key.algorithm), "{name}");
        assert_eq!(facts.public_key, key.spki(), "{name}");
        assert_eq!((facts.key_size, &facts.curve_oid), (key.key_size, &key.curve_oid), "{name}");
        all.push((name, der, key, algorithm));
    }
    all
}

async fn keys_of_openssl_sign_on_the_token(token: Token) {
    let hsm = token.supervisor().await;
    let all = pairs(&token, &hsm).await;
    for (name, _, key, algorithm) in &all {
        let signature = sign(&hsm, name, *algorithm, b"payload").await.unwrap();
        openssl::verify(token.path(), &key.spki().unwrap(), *algorithm, b"payload", &signature);
    }
    // Two objects each, all with the same id and label, for another process, too.
    let later = token.supervisor().await;
    let entries = inventory(&later).await;
    assert_eq!(entries.len(), 2 * all.len(), "{entries:?}");
    for (name, _, key, algorithm) in &all {
        let found = find(&later, Find::Label(KeyLabel::new(*name).unwrap())).await.unwrap();
        assert!(matches!(found.as_slice(), [facts] if facts.public_key == key.spki()), "{found:?}");
        sign(&later, name, *algorithm, b"payload").await.unwrap();
        destroy(&later, name).await;
    }
    assert_eq!(inventory(&later).await, []);
}

async fn keys_on_other_curves_tell_their_public_half_by_signatures(token: Token) {
    let hsm = token.supervisor().await;
    for (curve, algorithm) in [
        ("brainpoolP256r1", SignatureAlgorithm::Sha256WithEcdsa),
        ("brainpoolP512r1", SignatureAlgorithm::Sha512WithEcdsa),
        ("secp224r1", SignatureAlgorithm::Sha224WithEcdsa),
        ("secp224k1", SignatureAlgorithm::Sha224WithEcdsa),
    ] {
        let option = format!("ec_paramgen_curve:{curve}");
        let key =
            key_material::private_key(&made(&token, &["-algorithm", "EC", "-pkeyopt", &option])).unwrap();
        assert_eq!(key.public, None, "{curve}");
        let mut job = import_of(curve, &key, open());
        let untold = match ask(&hsm, job.clone()).await {
            Ok(Reply::Untold(untold)) => untold,
            Err(error) if lacks(&hsm, &key).await => {
                assert_eq!(error.kind, Kind::Unsupported, "{curve}: {error}");
                continue;
            }
            other => panic!("{curve}: {other:?}"),
        };
        assert_eq!(find(&hsm, Find::Id(id(curve))).await, Ok(vec![]), "nothing is made before");
        let public = signer(&untold);
        assert_eq!(key.claimed.as_ref(), Some(&public), "{curve}");
        job.public_key = Some(Bytes::copy_from_slice(public.spki()));
        let Ok(Reply::Key(facts)) = ask(&hsm, job).await else { panic!("{curve}") };
        assert_eq!(facts.public_key.as_deref(), Some(public.spki()), "{curve}");
        let signature = sign(&hsm, curve, algorithm, b"payload").await.unwrap();
        openssl::verify(token.path(), public.spki(), algorithm, b"payload", &signature);
        let exported = export(&hsm, curve).await.unwrap();
        let written = key_material::pkcs8(&public, &exported.material).unwrap();
        let again = key_material::private_key(&written).unwrap();
        assert_eq!((again.claimed, again.material), (key.claimed, key.material), "{curve}");
        println!("{:?} takes {curve}", token.module);
    }
    assert_eq!(inventory(&hsm).await.len() % 2, 0);
}

/// Whose the signatures are.
pub fn signer(untold: &Untold) -> PublicKey {
    let signatures = untold.signatures.iter().map(|signature| &signature[..]);
    let all: Vec<_> = SIGNED.iter().map(|text| &text[..]).zip(signatures).collect();
    PublicKey::of_signer(curve::by_oid(&untold.curve_oid).unwrap(), &all).expect("one key")
}

async fn secret_keys_do_what_openssl_does_with_them(token: Token) {
    let hsm = token.supervisor().await;
    let path = |name: &str| token.path().join(name);
    let tool =
        |arguments: &[&str], file: PathBuf| run(Command::new("openssl").args(arguments).arg(file)).stdout;
    for (bytes, name) in [(16, "aes-128"), (24, "aes-192"), (32, "aes-256")] {
        let value: Vec<u8> = (0..bytes).map(|at| at * 7 + 1).collect();
        let key = key_material::secret_key(KeyAlgorithm::Aes, value.clone().into()).unwrap();
        let facts = import(&hsm, name, &key, open()).await;
        assert_eq!((facts.key_size, facts.public_key), (Some(8 * u32::from(bytes)), None));
        let cipher = CipherAlgorithm::AesCbcNoPadding;
        let job = Job {
            key: id(name),
            cipher,
            input: vec![0x42; 32].into(),
            iv: vec![0x5a; 16].into(),
            aad: Bytes::new(),
            tag_bits: 0,
        };
        let Ok(Reply::Encrypted { ciphertext, .. }) = hsm.call(Request::Encrypt(Box::new(job))).await else {
            panic!("{name} does not encrypt")
        };
        std::fs::write(path("plain"), [0x42; 32]).unwrap();
        let (cipher, key, iv) = (format!("-{name}-cbc"), hex::encode(value), "5a".repeat(16));
        let theirs = tool(&["enc", &cipher, "-K", &key, "-iv", &iv, "-nopad", "-in"], path("plain"));
        assert_eq!(ciphertext, theirs, "{name}");
    }
    let tdea = key_material::secret_key(KeyAlgorithm::Tdea, (0..24).collect::<Vec<u8>>().into()).unwrap();
    match ask(&hsm, import_of("tdea", &tdea, open())).await {
        Ok(Reply::Key(facts)) => {
            assert_eq!(facts.algorithm, Some(KeyAlgorithm::Tdea));
            let job = Job {
                key: id("tdea"),
                cipher: CipherAlgorithm::TdeaCbcNoPadding,
                input: vec![0x42; 32].into(),
                iv: vec![0x5a; 8].into(),
                aad: Bytes::new(),
                tag_bits: 0,
            };
            let Ok(Reply::Encrypted { ciphertext, .. }) = hsm.call(Request::Encrypt(Box::new(job))).await
            else {
                panic!("TDEA does not encrypt")
            };
            let key: String = (0..24).map(|byte| format!("{byte:02x}")).collect();
            let iv = "5a".repeat(8);
            let theirs =
                tool(&["enc", "-des-ede3-cbc", "-K", &key, "-iv", &iv, "-nopad", "-in"], path("plain"));
            assert_eq!(ciphertext, theirs);
        }
        Err(error) if lacks(&hsm, &tdea).await => assert_eq!(error.kind, Kind::Unsupported, "{error}"),
        other => panic!("{other:?}"),
    }
    for length in [14, 20, 32, 64, 65, 131] {
        let name = format!("hmac-{length}");
        let value = vec![0x0b; length];
        let key = key_material::secret_key(KeyAlgorithm::HmacSha256, value.clone().into()).unwrap();
        let facts = import(&hsm, &name, &key, open()).await;
        assert_eq!(facts.algorithm, Some(KeyAlgorithm::HmacSha256));
        let job = Request::Hmac { key: id(&name), payload: b"Hi There".to_vec().into() };
        let mac = match hsm.call(job).await {
            Ok(Reply::Hmac(mac)) => mac,
            // Shorter than the hash, which some tokens do not use.
            Err(error) if length < 32 => {
                assert_eq!(error.kind, Kind::Unsupported, "{name}: {error}");
                continue;
            }
            other => panic!("{name}: {other:?}"),
        };
        std::fs::write(path("message"), b"Hi There").unwrap();
        let option = format!("hexkey:{}", hex::encode(value));
        let arguments = ["dgst", "-sha256", "-mac", "HMAC", "-macopt", &option, "-binary"];
        assert_eq!(mac, tool(&arguments, path("message")), "{name}");
    }
}

async fn the_token_says_that_a_key_was_imported(token: Token) {
    let hsm = token.supervisor().await;
    let attributes = RequestedAttributes { sign: Some(true), destroyable: Some(true), ..Default::default() };
    let key = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    let secret = key_material::secret_key(KeyAlgorithm::Aes, vec![7; 32].into()).unwrap();
    for (name, key) in [("pair", key), ("secret", secret)] {
        let facts = import(&hsm, name, &key, attributes.clone()).await;
        let KeyFacts { attributes, local, .. } = facts;
        assert_eq!(local, Some(false), "{name}");
        assert_eq!((attributes.always_sensitive, attributes.never_extractable), (Some(false), Some(false)));
        assert_eq!((attributes.sensitive, attributes.extractable), (Some(true), Some(false)), "{name}");
        assert_eq!((attributes.sign, attributes.decrypt), (Some(true), Some(false)), "{name}");
    }
}

async fn a_key_that_may_leave_comes_back_as_it_was(token: Token) {
    let hsm = token.supervisor().await;
    for (name, der, key, _) in pairs(&token, &hsm).await {
        let Exported { facts, material } = export(&hsm, name).await.unwrap();
        assert_eq!(facts.public_key, key.spki(), "{name}");
        let public = PublicKey::from_spki(&facts.public_key.unwrap()).unwrap();
        let written = key_material::pkcs8(&public, &material).unwrap();
        // To the byte what openssl wrote.
        assert_eq!(hex::encode(&*written), hex::encode(&der), "{name}");
        std::fs::write(token.path().join("back.der"), &*written).unwrap();
        run(Command::new("openssl")
            .args(["pkey", "-check", "-noout", "-inform", "DER", "-in"])
            .arg(token.path().join("back.der")));
    }
    let value: Vec<u8> = (0..32).collect();
    for (name, algorithm) in [("aes", KeyAlgorithm::Aes), ("hmac", KeyAlgorithm::HmacSha256)] {
        let key = key_material::secret_key(algorithm, value.clone().into()).unwrap();
        import(&hsm, name, &key, open()).await;
        let Material::Secret(back) = export(&hsm, name).await.unwrap().material else { panic!("{name}") };
        assert_eq!(back.expose(), value, "{name}");
    }
}

async fn a_key_that_may_not_leave_stays(token: Token) {
    let hsm = token.supervisor().await;
    let key = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    let secret = key_material::secret_key(KeyAlgorithm::Aes, vec![7; 32].into()).unwrap();
    let mut number = 0;
    for (extractable, sensitive) in [(true, true), (false, true), (false, false)] {
        let closed =
            RequestedAttributes { extractable: Some(extractable), sensitive: Some(sensitive), ..open() };
        for key in [&key, &secret] {
            number += 1;
            let name = format!("closed-{number}");
            import(&hsm, &name, key, closed.clone()).await;
            let error = export(&hsm, &name).await.unwrap_err();
            assert_eq!(error.kind, Kind::Forbidden, "{extractable} {sensitive}: {error}");
        }
    }
    assert_eq!(export(&hsm, "none").await.unwrap_err().kind, Kind::KeyNotFound);
}

async fn a_generated_key_that_may_leave_does(token: Token) {
    let hsm = token.supervisor().await;
    let mut template = p256("made");
    template.attributes = open().resolved();
    let facts = generate(&hsm, template).await.unwrap();
    let public = PublicKey::from_spki(&facts.public_key.unwrap()).unwrap();
    let exported = export(&hsm, "made").await.unwrap();
    let written = key_material::pkcs8(&public, &exported.material).unwrap();
    assert_eq!(key_material::private_key(&written).unwrap().public, Some(public));
    assert_eq!(exported.facts.local, Some(true));
}

async fn importing_twice_gives_one_key_and_another_one_is_told(token: Token) {
    let hsm = token.supervisor().await;
    let key = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    let first = import(&hsm, "k", &key, open()).await;
    assert_eq!(import(&hsm, "k", &key, open()).await, first);
    // By a process that did not see it made, too.
    let other = token.supervisor().await;
    assert_eq!(import(&other, "k", &key, open()).await, first);
    let another = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    match ask(&other, import_of("k", &another, open())).await {
        Ok(Reply::Keys(found)) => assert_eq!(found, [first]),
        answer => panic!("{answer:?}"),
    }
    assert_eq!(inventory(&other).await.len(), 2);
    // A secret key does not tell whether it is the same.
    let secret = key_material::secret_key(KeyAlgorithm::Aes, vec![7; 32].into()).unwrap();
    import(&hsm, "s", &secret, open()).await;
    assert!(matches!(ask(&hsm, import_of("s", &secret, open())).await, Ok(Reply::Keys(_))));
    assert_eq!(inventory(&hsm).await.len(), 3);
}

async fn a_label_of_others_is_left_to_them(token: Token) {
    let hsm = token.supervisor().await;
    let theirs = generate(&hsm, p256("k")).await.unwrap();
    let key = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    let mut job = import_of("k", &key, open());
    job.template.id = id("another");
    match ask(&hsm, job).await {
        Ok(Reply::Keys(found)) => assert_eq!(found, [theirs]),
        answer => panic!("{answer:?}"),
    }
    assert_eq!(inventory(&hsm).await.len(), 2);
}

/// A process that is killed between the two halves leaves the public one, which is of no use to anybody.
async fn what_a_death_in_between_left_is_replaced(token: Token) {
    let key = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    let numbers = faults.set(&["C_CreateObject after=1 times=1 segv"]);
    let error = ask(&hsm, import_of("k", &key, open())).await.unwrap_err();
    assert_eq!((error.kind, faults.fired(numbers[0])), (Kind::Crashed, 1), "{error}");
    faults.clear();
    assert_eq!(find(&hsm, Find::Id(id("k"))).await, Ok(vec![]), "half a key is none");
    // Another key under the same id: the half of the first must not stay beside it.
    let another = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    let facts = import(&hsm, "k", &another, open()).await;
    assert_eq!(facts.public_key, another.spki());
    assert_eq!(inventory(&hsm).await.len(), 2);
    let signature = sign(&hsm, "k", SignatureAlgorithm::Sha256WithEcdsa, b"x").await.unwrap();
    let algorithm = SignatureAlgorithm::Sha256WithEcdsa;
    openssl::verify(token.path(), &another.spki().unwrap(), algorithm, b"x", &signature);
}

async fn a_key_that_the_token_refuses_leaves_nothing(token: Token) {
    let key = key_material::private_key(&made(&token, EC[0].1)).unwrap();
    let faults = Faults::new(&token);
    let hsm = Supervisor::start(faults.config());
    hsm.ready().await.unwrap();
    let numbers = faults.set(&["C_CreateObject after=1 times=1 return=0xd1"]);
    let error = ask(&hsm, import_of("k", &key, open())).await.unwrap_err();
    assert_eq!((error.kind, faults.fired(numbers[0])), (Kind::Unsupported, 1), "{error}");
    assert!(error.message.contains("does not take EC keys"), "{error}");
    faults.clear();
    assert_eq!(inventory(&hsm).await, []);
    assert_eq!(import(&hsm, "k", &key, open()).await.public_key, key.spki());
}

/// DSA keys by openssl, as PKCS #8.
fn dsa(token: &Token, bits: u32) -> Vec<u8> {
    let group = token.path().join("group.pem");
    let (bits, subprime) = (format!("dsa_paramgen_bits:{bits}"), if bits == 1024 { 160 } else { 256 });
    let subprime = format!("dsa_paramgen_q_bits:{subprime}");
    run(Command::new("openssl")
        .args(["genpkey", "-genparam", "-algorithm", "DSA", "-pkeyopt", &bits, "-pkeyopt", &subprime, "-out"])
        .arg(&group));
    made(token, &["-paramfile", group.to_str().unwrap()])
}

/// The public half, by openssl.
fn public_of(token: &Token, der: &[u8]) -> Vec<u8> {
    let path = token.path().join("one.der");
    std::fs::write(&path, der).unwrap();
    run(Command::new("openssl")
        .args(["pkey", "-inform", "DER", "-pubout", "-outform", "DER", "-in"])
        .arg(path))
    .stdout
}

async fn dsa_keys_come_and_go_where_the_token_has_them(token: Token) {
    let hsm = token.supervisor().await;
    let kek = || AesKek::new(&AES_256, &[0x11; 32]).unwrap();
    let by = RequestedAttributes { unwrap: Some(true), ..open() };
    import(&hsm, "by", &key_material::secret_key(KeyAlgorithm::Aes, vec![0x11; 32].into()).unwrap(), by)
        .await;
    for bits in [1024, 2048] {
        let (name, der) = (format!("dsa-{bits}"), dsa(&token, bits));
        let key = key_material::private_key(&der).unwrap();
        assert_eq!((key.algorithm, key.key_size), (KeyAlgorithm::Dsa, Some(bits)));
        assert_eq!(key.spki().unwrap(), public_of(&token, &der), "worked out by openssl, too");
        let before = inventory(&hsm).await;
        let mut room = vec![0; der.len() + 16];
        let wrapped = kek().wrap_with_padding(&der, &mut room).unwrap().to_vec();
        let arriving = Import {
            origin: Origin::Wrapped(Wrapped {
                by: id("by"),
                method: WrapMethod::AesWrapPadDsa,
                data: wrapped.into(),
            }),
            public_key: None,
            ..import_of("unwrapped", &key, open())
        };
        // Nobody could check the signatures of a key without its public half, which no token tells and no signature.
        let error = ask(&hsm, arriving).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported, "{error}");
        assert_eq!(inventory(&hsm).await, before, "it leaves nothing");
        if token.module == Module::Kryoptic {
            assert!(error.message.contains("has no DSA keys"), "{error}");
            let error = ask(&hsm, import_of(&name, &key, open())).await.unwrap_err();
            assert_eq!(error.kind, Kind::Unsupported, "{error}");
            assert_eq!(inventory(&hsm).await, before, "it leaves nothing");
            continue;
        }
        assert!(error.message.contains("public half of DSA keys"), "{error}");
        let facts = import(&hsm, &name, &key, open()).await;
        assert_eq!((facts.algorithm, facts.key_size), (Some(KeyAlgorithm::Dsa), Some(bits)));
        assert_eq!((facts.public_key, facts.local), (key.spki(), Some(false)));
        let signature = sign(&hsm, &name, SignatureAlgorithm::Sha256WithDsa, b"payload").await.unwrap();
        openssl::verify(
            token.path(),
            &key.spki().unwrap(),
            SignatureAlgorithm::Sha256WithDsa,
            b"payload",
            &signature,
        );
        // To the byte what openssl wrote.
        let material = export(&hsm, &name).await.unwrap().material;
        let written = key_material::pkcs8(key.public.as_ref().unwrap(), &material).unwrap();
        assert_eq!(hex::encode(&*written), hex::encode(&der), "{name}");
        // It leaves its token encrypted, too, and another library finds the same key.
        let wrap = Wrap { by: id("by"), key: id(&name), method: WrapMethod::AesWrapPadDsa, alone: None };
        let Ok(Reply::Wrapped(wrapped)) = hsm.call(Request::Wrap(wrap)).await else { panic!("{name}") };
        let mut room = vec![0; wrapped.len() + 8];
        let opened = kek().unwrap_with_padding(&wrapped, &mut room).unwrap();
        let found = key_material::private_key(crate::wraps::der(opened)).unwrap();
        assert_eq!((found.public, found.material), (key.public.clone(), key.material.clone()), "{name}");
        // Of another key it is not.
        let other = key_material::private_key(&dsa(&token, bits)).unwrap();
        assert!(key_material::pkcs8(other.public.as_ref().unwrap(), &material).is_err(), "{name}");
        let closed = RequestedAttributes { extractable: Some(false), sensitive: Some(true), ..open() };
        let name = format!("closed-{bits}");
        import(&hsm, &name, &other, closed).await;
        assert_eq!(export(&hsm, &name).await.unwrap_err().kind, Kind::Forbidden, "{name}");
    }
    if token.module == Module::SoftHsm {
        // One that the token made.
        let mut template = crate::template("made", KeyAlgorithm::Dsa, Some(1024), None);
        template.attributes = open().resolved();
        let facts = generate(&hsm, template).await.unwrap();
        let public = PublicKey::from_spki(&facts.public_key.unwrap()).unwrap();
        let written = key_material::pkcs8(&public, &export(&hsm, "made").await.unwrap().material).unwrap();
        assert_eq!(public_of(&token, &written), public.spki());
    }
}
