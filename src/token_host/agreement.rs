//! Secrets that EC keys of the token have in common with somebody's point.
//!
//! The token multiplies and keeps its private key; what leaves it is the x coordinate of the product, as the value of an
//! object that lives for this one call. Whoever has it can decrypt what was encrypted with that point, and nothing else.

use cryptoki_sys::*;
use x509_cert::der::{Encode, asn1::OctetStringRef};
use zeroize::Zeroize;

use super::{
    cipher::with_key,
    mechanism::KeyShape,
    raw::{Attribute, Failure, Object, Session},
    token::Token,
};
use crate::{
    hsm::protocol::{HsmError, Kind, Reply},
    model::{KeyId, secret::Plaintext},
};

/// See [`crate::hsm::protocol::Request::Agree`].
pub fn agree(token: &Token, session: &Session, key: &KeyId, point: &[u8]) -> Result<Reply, HsmError> {
    with_key(token, session, key, |chosen| {
        if !matches!(chosen.shape, KeyShape::Ec(_)) {
            return Err(HsmError::new(Kind::Invalid, "key agreement does not suit a key of this type"));
        }
        // Like signing it does without [`Token::objects`]: the secret is an object of this session alone, and nobody looks for
        // it. Whoever makes a large RSA key meanwhile would hold it up for minutes.
        secret(session, chosen.object, point).map(Reply::Agreed)
    })
}

/// The secret itself.
pub fn secret(session: &Session, key: Object, point: &[u8]) -> Result<Plaintext, HsmError> {
    let length = point.len().saturating_sub(1) / 2;
    let template = [
        Attribute::number(CKA_CLASS, CKO_SECRET_KEY),
        Attribute::number(CKA_KEY_TYPE, CKK_GENERIC_SECRET),
        Attribute::bool(CKA_TOKEN, false),
        Attribute::bool(CKA_SENSITIVE, false),
        Attribute::bool(CKA_EXTRACTABLE, true),
        Attribute::number(CKA_VALUE_LEN, length as CK_ULONG),
    ];
    let derived = derive(session, key, point, &template)?;
    let read = session.attributes(derived, [CKA_VALUE]);
    // It ends with the session anyway, which lives for long.
    let destroyed = session.end(derived);
    let [value] = read?;
    let mut value = value.filter(|value| !value.is_empty()).ok_or_else(|| {
        HsmError::new(Kind::Unsupported, "the token keeps the secret of a key agreement to itself")
    })?;
    destroyed?;
    let Some(missing) = length.checked_sub(value.len()) else {
        value.zeroize();
        let message =
            format!("the token answered with more than the {length} bytes of the agreement's secret");
        return Err(HsmError::new(Kind::Device, message));
    };
    // Some modules leave the zeros on the left away.
    let mut whole = Vec::with_capacity(length);
    whole.resize(missing, 0);
    whole.extend_from_slice(&value);
    value.zeroize();
    Ok(whole.into())
}

/// Derives, with the point as bare bytes, which most take, or else in an OCTET STRING, which older ones want.
fn derive(session: &Session, key: Object, point: &[u8], template: &[Attribute]) -> Result<Object, HsmError> {
    let failure = match session.agree(key, point, template) {
        Ok(secret) => return Ok(secret),
        Err(failure) => failure,
    };
    let about_the_point = matches!(
        failure.code,
        CKR_ARGUMENTS_BAD | CKR_DATA_INVALID | CKR_MECHANISM_PARAM_INVALID | CKR_PUBLIC_KEY_INVALID
    );
    let wrapped = || OctetStringRef::new(point).and_then(|string| string.to_der()).ok();
    match about_the_point.then(wrapped).flatten() {
        Some(wrapped) => session.agree(key, &wrapped, template).map_err(|_| refused(failure)),
        None => Err(refused(failure)),
    }
}

/// That the token does not have it, or not in this way, is not the caller's mistake: the point was checked before.
fn refused(failure: Failure) -> HsmError {
    let error = HsmError::from(failure);
    if matches!(error.kind, Kind::Invalid | Kind::Unsupported) {
        let message = format!("the token does not agree on a secret with this key ({})", error.message);
        return HsmError { kind: Kind::Unsupported, message, ..error };
    }
    error
}
