//! Keys with a state: XMSS, and LMS as HSS of one level (PKCS #11 3.2). Each signature spends a part of the key, and
//! the token keeps count.

use cryptoki_sys::*;

use super::{
    cipher::with_key,
    error::in_brief,
    mechanism,
    raw::{Attribute, Failure, Session},
    token::Token,
};
use crate::{
    hsm::protocol::{HsmError, Kind, Reply},
    model::{KeyId, SignatureAlgorithm},
};

/// `LM_SHA256_M32_H5`: a tree of 32 parts.
const LMS_TYPE: CK_ULONG = 5;
/// `LMOTS_SHA256_N32_W1`.
const LMOTS_TYPE: CK_ULONG = 1;

/// What a new key is. The contract has no parameters, and one published length of a signature, 8,688 bytes: with one tree it
/// is that of these two types and of no others, and with several trees there is no such length.
pub fn hss() -> Vec<Attribute> {
    vec![
        Attribute::number(CKA_KEY_TYPE, CKK_HSS),
        Attribute::number(CKA_HSS_LEVELS, 1),
        Attribute::number(CKA_HSS_LMS_TYPES, LMS_TYPE),
        Attribute::number(CKA_HSS_LMOTS_TYPES, LMOTS_TYPE),
    ]
}

/// See [`crate::hsm::protocol::Request::SignStateful`]. The outer error is of what came before the token was asked for the
/// signature, and may be tried again; the inner outcome is the token's answer, and is not.
pub fn sign(
    token: &Token,
    session: &Session,
    key: &KeyId,
    (algorithm, payload): (SignatureAlgorithm, &[u8]),
) -> Result<Result<Reply, HsmError>, HsmError> {
    if !algorithm.is_stateful() {
        return Err(HsmError::new(Kind::Invalid, format!("keys that sign by {algorithm} have no state")));
    }
    with_key(token, session, key, |chosen| {
        let (mechanism, data) = mechanism::plan(algorithm, chosen.shape, &token.mechanisms, payload)?;
        session.begin_to_sign(&mechanism, chosen.object)?;
        let signed = session.sign_once(mechanism.kind, &data).map_err(refused);
        if signed.is_err() {
            token.forget(key);
        }
        Ok(signed.map(|signature| Reply::Signature(signature.into())))
    })
}

/// What the token says of the request for good stays what it is. All else is said of a state of the token, which somebody might
/// wait for and ask again: so it is one kind, that says that the token may have signed.
fn refused(failure: Failure) -> HsmError {
    let error = HsmError::from(failure);
    match error.kind {
        Kind::KeyNotFound | Kind::Unsupported | Kind::Invalid | Kind::Forbidden => error,
        _ => {
            let brief = in_brief(failure);
            let message = format!(
                "{}; whether one of the key's signatures is spent is not known, and nothing is tried again",
                brief.message
            );
            HsmError { kind: Kind::Device, message, ..brief }
        }
    }
}
