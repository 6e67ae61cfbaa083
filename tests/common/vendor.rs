//! A real token that has a vendor's mechanisms: SoftHSM behind the module of `vendor_module`.
#![allow(dead_code, reason = "every test program uses its own part of this")]

#[path = "../vendor_module/curve.rs"]
pub mod curve;
#[path = "../vendor_module/lms.rs"]
pub mod lms;
#[path = "../vendor_module/numbers.rs"]
pub mod numbers;
#[path = "../vendor_module/schnorr.rs"]
pub mod schnorr;
#[path = "../vendor_module/tree.rs"]
pub mod tree;
#[path = "../vendor_module/xmss.rs"]
pub mod xmss;

use std::path::{Path, PathBuf};

use hsm_operator::model::vendor::{TreeNumbers, VendorNumbers};

use super::token::{Module, Token};

/// The seed of the first test vector of BIP-32 and SLIP-10.
pub const SEED: &str = "000102030405060708090a0b0c0d0e0f";

/// The vendor module. One that is missing fails the test.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    let profile = program.parent().and_then(Path::parent).expect("it is in target/PROFILE/deps");
    let library = profile.join("examples/libvendor_module.so");
    assert!(library.exists(), "no {}: run `cargo build --example vendor_module`", library.display());
    library
}

/// The numbers that the module has and that are not public.
pub fn numbers() -> VendorNumbers {
    let ed = TreeNumbers {
        generate: numbers::CKM_EC_EDWARDS_SLIP10_KEY_PAIR_GEN,
        key_type: numbers::CKK_EC_EDWARDS_SLIP10,
    };
    VendorNumbers { ed: Some(ed), schnorr: Some(numbers::CKM_SCHNORR_BIP340), ..VendorNumbers::default() }
}

/// A fresh token whose masters come from [`SEED`].
pub fn token() -> Token {
    let mut token = Token::new(Module::SoftHsm);
    let text = |path: &Path| path.display().to_string();
    token.environment.extend([
        ("VENDOR_LIBRARY".to_owned(), text(&token.library)),
        ("VENDOR_STORE".to_owned(), text(&token.path().join("store"))),
        ("VENDOR_SEED".to_owned(), SEED.to_owned()),
    ]);
    token.library = library();
    token.vendor = numbers();
    token
}
