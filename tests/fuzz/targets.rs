//! What is read of strangers' bytes, as functions of those bytes. Each panics where something is not as it has to be, and
//! returns for everything else. `tests/fuzz/main.rs` runs them in every test, `fuzz/` under libFuzzer.

use std::sync::{LazyLock, OnceLock};

use axum::body::Body;
use hsm_operator::{
    attestation,
    hsm::{
        frame::Frames,
        protocol::{HsmError, Reply, Request},
    },
    key_material,
    model::{
        KeyAlgorithm, KeyId, KeyLabel, Password,
        derivation::{DerivationPath, DerivedName},
        password::PASSWORD_MAX,
        payload::PayloadType,
    },
    public_key::{self, PublicKey},
    sealed_file::{Broken, HEADER_MAX, Header, Opener, SEGMENT, TAG},
    service::{
        certificate::{Chain, Request as CertificateRequest, armour},
        timestamp,
    },
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::world::World;

/// A function of bytes.
pub type Target = fn(&[u8]);

/// All of them, by name. A corpus of the name is in `fuzz/corpus/`; `fuzz/fuzz_targets/` has a file for each.
pub const ALL: &[(&str, Target)] = &[
    ("public_key_der", public_key_der),
    ("public_key_pem", public_key_pem),
    ("certificates", certificates),
    ("derivation", derivation),
    ("label", label),
    ("password", password),
    ("private_key", private_key),
    ("signature", signature),
    ("payload", payload),
    ("attestation", attested),
    ("sealed_file", sealed_file),
    ("frames", frames),
    ("rest_body", rest_body),
    ("rest_path", rest_path),
    ("rest_form", rest_form),
];

/// A key that was read is the key that was written: one key, one encoding.
pub fn public_key_der(data: &[u8]) {
    let Ok(key) = PublicKey::from_spki(data) else { return };
    assert_eq!(key.spki(), data);
    assert_eq!(PublicKey::from_pem(&key.pem()).expect("what was written is read"), key);
    let _ = (key.algorithm(), key.bits(), key.fingerprint(), key.curve());
    // Of whatever key, no signature of zeros is good.
    for algorithm in hsm_operator::model::SignatureAlgorithm::ALL {
        assert_ne!(key.verify(*algorithm, &[7; 32], &[0; 64]), Ok(true), "{algorithm}");
    }
}

pub fn public_key_pem(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = PublicKey::from_pem(text) {
        assert_eq!(PublicKey::from_pem(&key.pem()).expect("what was written is read"), key);
    }
}

/// A key with certificates in the corpus.
static CERTIFIED: LazyLock<PublicKey> = LazyLock::new(|| {
    PublicKey::from_pem(include_str!("../../fuzz/corpus/public_key_pem/p256.pem")).expect("a key")
});

pub fn certificates(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(der) = armour::read(text, &[armour::CERTIFICATE]) {
        let again = armour::certificates(&der);
        assert_eq!(armour::read(&again, &[armour::CERTIFICATE]).expect("what was written is read"), der);
    }
    if let Ok(chain) = Chain::from_pem(text, &CERTIFIED) {
        let again = Chain::from_pem(&chain.pem(), &CERTIFIED).expect("what was written is read");
        assert_eq!(again.fingerprint(), chain.fingerprint());
        let _ = (chain.not_before(), chain.not_after());
    }
    if let Ok(request) = CertificateRequest::from_pem(text) {
        CertificateRequest::from_pem(&armour::request(request.der())).expect("what was written is read");
    }
    let _ = attestation::chain::from_pem(text);
    let _ = timestamp::hash(text);
}

pub fn derivation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(path) = DerivationPath::parse(text) {
        assert_eq!(path.steps().len(), text.split('/').count());
        assert!(path.steps().iter().all(|step| step.index < 1 << 31));
    }
    if DerivedName::parse(text).is_ok() {
        assert!(KeyLabel::new(text).is_err(), "a name is either a label or a path");
    }
}

pub fn label(data: &[u8]) {
    if let Ok(id) = KeyId::from_bytes(data) {
        assert_eq!(id.as_bytes(), data);
        assert_eq!(KeyId::try_from(id.to_string()).expect("what was written is read"), id);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(label) = KeyLabel::new(text) else { return };
    assert_eq!(label.as_str(), text);
    let name = label.object_name();
    // RFC 1123, as the API server has it.
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    assert!((1..=253).contains(&name.len()) && name.bytes().all(plain), "{name}");
    assert!(!name.starts_with(['-', '.']) && !name.ends_with(['-', '.']), "{name}");
}

/// A password is the same in each form in which clients send it.
pub fn password(data: &[u8]) {
    let Ok(password) = serde_json::from_slice::<Password>(data) else { return };
    let bytes = password.expose();
    assert!(bytes.len() <= PASSWORD_MAX);
    assert_eq!(format!("{password:?}"), "Password(…)");
    let text = std::str::from_utf8(bytes).expect("it was a text");
    let characters: Vec<_> = text.chars().map(String::from).collect();
    let entries: Vec<_> = bytes.iter().map(|byte| char::from(*byte).to_string()).collect();
    for form in [serde_json::json!(text), serde_json::json!(characters), serde_json::json!(entries)] {
        let again: Password = serde_json::from_value(form).expect("what was read once is read again");
        assert_eq!(again.expose(), bytes);
    }
}

/// A private key that is taken is whole, and is the one that is written.
pub fn private_key(data: &[u8]) {
    if let Ok(key) = key_material::private_key(data)
        && let Some(public) = &key.public
    {
        let written = key_material::pkcs8(public, &key.material).expect("a whole key is written");
        let again = key_material::private_key(&written).expect("what was written is read");
        assert_eq!((again.public, again.material), (key.public, key.material));
    }
    for algorithm in KeyAlgorithm::ALL {
        if let Ok(key) = key_material::secret_key(*algorithm, data.to_vec().into()) {
            assert_eq!((key.algorithm, key.public), (*algorithm, None));
        }
    }
}

/// The two forms of an ECDSA signature tell the same two numbers.
pub fn signature(data: &[u8]) {
    for half in [28, 32, 48, 66] {
        if let Ok(raw) = public_key::ecdsa_der_to_raw(data, half) {
            assert_eq!(raw.len(), 2 * half);
            let der = public_key::ecdsa_raw_to_der(&raw).expect("it has a form");
            assert_eq!(der, data, "there is one encoding");
        }
    }
    if let Ok(der) = public_key::ecdsa_raw_to_der(data) {
        let raw = public_key::ecdsa_der_to_raw(&der, data.len() / 2).expect("what was written is read");
        assert_eq!(raw, data);
    }
}

pub fn payload(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for kind in [PayloadType::Unspecified, PayloadType::Hex] {
        let _ = kind.decode(text);
    }
}

pub fn attested(data: &[u8]) {
    let (Ok(statements), again) = (attestation::read_unverified(data), attestation::read_unverified(data))
    else {
        return;
    };
    assert_eq!(again.as_ref(), Ok(&statements));
    let _ = statements.protection();
}

/// In whatever pieces a file comes, the outcome is the same, and never more than what was authentic.
pub fn sealed_file(data: &[u8]) {
    let whole = Header::read(data);
    for length in 0..data.len().min(HEADER_MAX + 1) {
        match (Header::read(&data[..length]), &whole) {
            (Ok(None), _) => {}
            (Ok(Some(found)), Ok(Some(all))) => assert_eq!(&found, all),
            (Err(found), Err(all)) => assert_eq!(&found, all),
            (found, all) => panic!("{found:?} of a part and {all:?} of the whole"),
        }
    }
    let Ok(Some((header, length))) = whole else { return };
    assert_eq!(header.encode(), data[..length]);
    let _ = header.check(&CERTIFIED);
    let open = |chunk: usize| {
        let (mut opener, mut out) = (Opener::new(&header, &[7; 32]), Vec::new());
        for piece in data[length..].chunks(chunk) {
            opener.update(piece, &mut out)?;
        }
        opener.finish(&mut out)?;
        Ok::<_, Broken>(out)
    };
    assert_eq!(open(13), open(SEGMENT + TAG));
}

/// In whatever pieces frames come, the same ones are read, up to the first that makes no sense.
pub fn frames(data: &[u8]) {
    fn read<T: serde::de::DeserializeOwned>(data: &[u8], piece: usize) -> Vec<u64> {
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        for piece in data.chunks(piece) {
            frames.push(piece);
            loop {
                match frames.take::<T>() {
                    Ok(Some((id, _))) => seen.push(id),
                    Ok(None) => break,
                    Err(_) => return seen,
                }
            }
        }
        seen
    }
    assert_eq!(read::<Request>(data, 7), read::<Request>(data, usize::MAX));
    type Answer = Result<Reply, HsmError>;
    assert_eq!(read::<Answer>(data, 7), read::<Answer>(data, usize::MAX));
}

/// The gateway with a token in memory and keys of several kinds.
struct Gateway {
    runtime: Runtime,
    world: World,
}

fn gateway() -> &'static Gateway {
    static GATEWAY: OnceLock<Gateway> = OnceLock::new();
    GATEWAY.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let keys = ["rsa", "p256", "k1", "ed", "aes-cipher", "rsa-cipher", "hmac", "ed-waiting"];
        let world = runtime.block_on(World::new(&keys));
        Gateway { runtime, world }
    })
}

/// Whatever is sent, the answer is one of the contract's, and no mistake of ours.
fn ask(method: &str, path: &str, kind: &str, body: Vec<u8>) {
    let Gateway { runtime, world } = gateway();
    let request = axum::http::Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", "Bearer app")
        .header("content-type", kind)
        .body(Body::from(body));
    let Ok(request) = request else { return };
    let answer = runtime.block_on(world.send(request));
    let status = answer.status.as_u16();
    if answer.status.is_success() {
        assert!(status == 200 || status == 201, "{path}: {status}");
        return;
    }
    let error: Value =
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{path}: {status} {error}"));
    let (_, code) = answer.refused();
    // No API server: what would be written there is 103 and no panic.
    let ours = error["message"].as_str().is_some_and(|message| message.contains("made a mistake"));
    assert!(!ours, "{path}: {error}");
    assert!(status < 500 || code == 103 || status == 503, "{path}: {status} {error}");
}

/// Endpoints that take JSON.
const BODIES: &[&str] = &[
    "/v1/key",
    "/v1/key/attributes",
    "/v1/key/deleteKey",
    "/v1/key/keyAttestation",
    "/v1/key/address",
    "/v1/key/changePassword",
    "/v1/key/export/plain",
    "/v1/key/import/plain",
    "/v1/derivedKey",
    "/v1/importedKey",
    "/v1/dataObject",
    "/v1/synchronousSign",
    "/v1/verify",
    "/v1/synchronousHmac",
    "/v1/encrypt",
    "/v1/synchronousDecrypt",
    "/v1/wrap",
    "/v1/synchronousUnwrap",
    "/v1/createRfcTimestamp",
    "/v1/certificate/synchronous/request",
    "/v1/certificate/synchronous/request/download",
    "/v1/certificate/synchronous/selfsign",
    "/v1/certificate/synchronous/sign",
    "/v1/certificate/import/plain",
];

/// The body as each endpoint reads it.
pub fn rest_body(data: &[u8]) {
    for path in BODIES {
        ask("POST", path, "application/json", data.to_vec());
    }
}

/// Names and numbers in paths.
pub fn rest_path(data: &[u8]) {
    let rest = percent_encoding::percent_encode(data, percent_encoding::NON_ALPHANUMERIC).to_string();
    let plain = String::from_utf8_lossy(data);
    for rest in [rest.as_str(), &plain] {
        for (method, prefix) in [
            ("GET", "/v1/key/"),
            ("DELETE", "/v1/key/"),
            ("GET", "/v1/certificate/"),
            ("GET", "/v1/generateRandom/"),
            ("GET", "/v1/dataObject/"),
            ("GET", "/v1/hsm/log/"),
            ("GET", "/v1/"),
        ] {
            ask(method, &format!("{prefix}{rest}"), "application/json", Vec::new());
        }
    }
}

/// Forms with files, whose boundary is `x`.
pub fn rest_form(data: &[u8]) {
    for path in ["/v1/fileEncrypt", "/v1/synchronousFileDecrypt"] {
        ask("POST", path, "multipart/form-data; boundary=x", data.to_vec());
    }
}
