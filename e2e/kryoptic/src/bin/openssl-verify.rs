//! Whether a signature fits, by the OpenSSL that is built for kryoptic: Debian 12's knows no post-quantum algorithms.
//!
//! `openssl-verify PUBLIC.der MESSAGE SIGNATURE [CONTEXT]` prints the version and ends with 0 where it fits, with 1 where it
//! does not. `openssl-verify PUBLIC.der` ends with 0 where it can read the key.

use std::{env, fs, process::ExitCode};

use openssl::{md_ctx::MdCtx, pkey::PKey};

fn main() -> ExitCode {
    let files: Vec<_> = env::args().skip(1).map(|path| fs::read(path).expect("a file")).collect();
    let [key, signed @ ..] = &files[..] else { panic!("PUBLIC.der [MESSAGE SIGNATURE [CONTEXT]]") };
    let key = PKey::public_key_from_der(key).expect("a SubjectPublicKeyInfo");
    println!("{}", openssl::version::version());
    let (message, signature, context) = match signed {
        [] => return ExitCode::SUCCESS,
        [message, signature] => (message, signature, None),
        [message, signature, context] => (message, signature, Some(context)),
        _ => panic!("PUBLIC.der [MESSAGE SIGNATURE [CONTEXT]]"),
    };
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
