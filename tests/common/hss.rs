//! Signatures of LMS checked by another library than the operator.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use hbs_lms::{
    Sha256_256, Signature as Theirs, VerifyingKey,
    signature::{Signature as _, Verifier},
};

/// Bytes of the head of a SubjectPublicKeyInfo before the key itself.
const HEAD: usize = 20;

/// Whether a signature is right.
pub fn accepts(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = VerifyingKey::<Sha256_256>::from_bytes(&spki[HEAD..]).expect("a key");
    Theirs::from_bytes(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
}
