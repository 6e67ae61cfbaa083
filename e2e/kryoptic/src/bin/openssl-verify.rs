//! Whether a signature fits, by the OpenSSL that is built for kryoptic: Debian 12's knows no post-quantum algorithms.
//!
//! `openssl-verify PUBLIC.der MESSAGE SIGNATURE` prints the version and ends with 0 where it fits, with 1 where it does not.

use std::{env, fs, process::ExitCode};

use openssl::{pkey::PKey, sign::Verifier};

fn main() -> ExitCode {
    let files: Vec<_> = env::args().skip(1).map(|path| fs::read(path).expect("a file")).collect();
    let [key, message, signature] = &files[..] else { panic!("PUBLIC.der MESSAGE SIGNATURE") };
    let key = PKey::public_key_from_der(key).expect("a SubjectPublicKeyInfo");
    println!("{}", openssl::version::version());
    let mut verifier = Verifier::new_without_digest(&key).expect("a key that signs");
    match verifier.verify_oneshot(signature, message) {
        Ok(true) => ExitCode::SUCCESS,
        // A signature of another length is an error to OpenSSL.
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}
