//! Whether a signature fits, by the OpenSSL that is built for kryoptic: Debian 12's knows no post-quantum algorithms.
//!
//! `openssl-verify PUBLIC.der MESSAGE SIGNATURE [CONTEXT]` prints the version and ends with 0 where it fits, with 1 where it
//! does not.

use std::{env, fs, process::ExitCode};

use openssl::{md_ctx::MdCtx, pkey::PKey};

fn main() -> ExitCode {
    let files: Vec<_> = env::args().skip(1).map(|path| fs::read(path).expect("a file")).collect();
    let (key, message, signature, context) = match &files[..] {
        [key, message, signature] => (key, message, signature, None),
        [key, message, signature, context] => (key, message, signature, Some(context)),
        _ => panic!("PUBLIC.der MESSAGE SIGNATURE [CONTEXT]"),
    };
    let key = PKey::public_key_from_der(key).expect("a SubjectPublicKeyInfo");
    println!("{}", openssl::version::version());
    let mut verifier = MdCtx::new().expect("memory");
    let parameters = verifier.digest_verify_init(None, &key).expect("a key that signs");
    if let Some(context) = context {
        parameters.set_context_string(context).expect("an algorithm with contexts");
    }
    match verifier.digest_verify(message, signature) {
        Ok(true) => ExitCode::SUCCESS,
        // A signature of another length is an error to OpenSSL.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}
