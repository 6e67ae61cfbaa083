//! Signatures checked by the `openssl` program.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::{path::Path, process::Command};

use hsm_operator::model::{
    SignatureAlgorithm,
    digest::Hash,
    signature::{Input, Scheme},
};

use super::token::{Module, run};

/// Checks a signature in the token's form (r‖s for ECDSA) over `payload`; panics if it is not good.
pub fn verify(
    directory: &Path,
    spki: &[u8],
    algorithm: SignatureAlgorithm,
    payload: &[u8],
    signature: &[u8],
) {
    let pair = matches!(algorithm.row().scheme, Scheme::Ecdsa | Scheme::Dsa);
    let native = if pair { ecdsa_der(signature) } else { signature.to_vec() };
    verify_native(directory, spki, algorithm, payload, &native);
}

/// Checks a signature by the OpenSSL that is built for kryoptic, which knows more algorithms than the system's; says
/// whether it is good.
pub fn newer_accepts(directory: &Path, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    newer(directory, &[("newer.der", spki), ("newer.message", message), ("newer.signature", signature)])
}

/// The same for a signature in a context.
pub fn newer_accepts_in_context(
    directory: &Path,
    spki: &[u8],
    context: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let files = [("newer.der", spki), ("newer.message", message), ("newer.signature", signature)];
    newer(directory, &[files[0], files[1], files[2], ("newer.context", context)])
}

/// Has it read a key for which it has no signatures, as those of ML-KEM; panics if it cannot.
pub fn newer_reads(directory: &Path, spki: &[u8]) {
    assert!(newer(directory, &[("newer.der", spki)]));
}

fn newer(directory: &Path, files: &[(&str, &[u8])]) -> bool {
    let program = Module::Kryoptic.library().with_file_name("openssl-verify");
    let files = files.iter().map(|(name, content)| {
        let path = directory.join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path
    });
    let output = Command::new(program).args(files).output().expect("run e2e/kryoptic/build.sh");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("OpenSSL 3."), "{said}{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

/// Checks a signature in the form that openssl reads (DER for DSA and ECDSA); panics if it is not good.
pub fn verify_native(
    directory: &Path,
    spki: &[u8],
    algorithm: SignatureAlgorithm,
    payload: &[u8],
    signature: &[u8],
) {
    let file = |name: &str, content: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, content).expect("a file can be written");
        path
    };
    let key = file("public.der", spki);
    let row = algorithm.row();
    let input = match row.input {
        Input::Message(hash) => hash_of(directory, hash, payload),
        Input::Digest(_) | Input::Bytes => payload.to_vec(),
    };
    let input = file("input", &input);
    let signature = file("signature", signature);
    let mut command = Command::new("openssl");
    command.args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"]).arg(key);
    command.arg("-in").arg(input).arg("-sigfile").arg(signature);
    match row.scheme {
        Scheme::RsaPkcs1 => {
            command.args(["-pkeyopt", "rsa_padding_mode:pkcs1"]);
            if let Some(hash) = algorithm.hash() {
                command.args(["-pkeyopt", &format!("digest:{}", name(hash).expect("openssl has it"))]);
            }
        }
        Scheme::RsaPss(hash) => {
            command.args(["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"]);
            command.args(["-pkeyopt", &format!("digest:{}", name(hash).expect("openssl has it"))]);
        }
        Scheme::EdDsa => {
            command.arg("-rawin");
        }
        Scheme::Ecdsa | Scheme::Dsa => {}
        other => panic!("openssl does not check {other:?}"),
    }
    let output = command.output().expect("openssl runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("Signature Verified Successfully"),
        "{algorithm}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn name(hash: Hash) -> Option<&'static str> {
    Some(match hash {
        Hash::Sha1 => "sha1",
        Hash::Sha224 => "sha224",
        Hash::Sha256 => "sha256",
        Hash::Sha384 => "sha384",
        Hash::Sha512 => "sha512",
        Hash::Sha3_224 => "sha3-224",
        Hash::Sha3_256 => "sha3-256",
        Hash::Sha3_384 => "sha3-384",
        Hash::Sha3_512 => "sha3-512",
        _ => return None,
    })
}

/// The digest by openssl, and by us where openssl does not have the hash.
fn hash_of(directory: &Path, hash: Hash, message: &[u8]) -> Vec<u8> {
    let Some(name) = name(hash) else { return hash.digest(message) };
    let path = directory.join("message");
    std::fs::write(&path, message).expect("a file can be written");
    run(Command::new("openssl").args(["dgst", &format!("-{name}"), "-binary"]).arg(path)).stdout
}

/// r‖s as the DER sequence that openssl reads.
pub fn ecdsa_der(raw: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let bytes = &bytes[zeros..];
        let sign: &[u8] = if bytes.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
        let length = u8::try_from(sign.len() + bytes.len()).expect("at most 67 bytes");
        [&[2, length], sign, bytes].concat()
    };
    let (r, s) = raw.split_at(raw.len() / 2);
    let content = [integer(r), integer(s)].concat();
    let length = u8::try_from(content.len()).expect("at most 138 bytes");
    let head: &[u8] = if length < 0x80 { &[0x30, length] } else { &[0x30, 0x81, length] };
    [head, &content].concat()
}
