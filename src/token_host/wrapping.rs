//! Keys encrypted by other keys, inside of the token.

use std::sync::OnceLock;

use cryptoki_sys::*;

use super::{
    index::Objects,
    lone,
    object::{Group, flag},
    raw::{Attribute, Cipher, CipherParameter, Failure, Object, Session},
    token::Token,
};
use crate::{
    hsm::{
        import::Wrap,
        protocol::{HsmError, Kind},
    },
    model::{KeyAlgorithm, KeyId, WrapMethod, wrap::Wrapping},
};

/// The mechanism of a method.
///
/// # Errors
/// `Unsupported` where the token has none.
pub fn mechanism(token: &Token, session: &Session, method: WrapMethod) -> Result<Cipher<'static>, HsmError> {
    let plain = |kind| Cipher { kind, parameter: CipherParameter::None };
    let lacks = || {
        let message = format!("the token {} does not have {method}", token.facts.label);
        HsmError::new(Kind::Unsupported, message)
    };
    let listed = |kind: CK_MECHANISM_TYPE| token.mechanisms.contains(&kind);
    let cipher = match method.row().wrapping {
        Wrapping::Kw => plain(CKM_AES_KEY_WRAP),
        Wrapping::Kwp if listed(CKM_AES_KEY_WRAP_KWP) => plain(CKM_AES_KEY_WRAP_KWP),
        Wrapping::Kwp if listed(CKM_AES_KEY_WRAP_PAD) && pads_by_rfc_5649(session)? => {
            plain(CKM_AES_KEY_WRAP_PAD)
        }
        Wrapping::Kwp => return Err(lacks()),
        Wrapping::Pkcs1 => plain(CKM_RSA_PKCS),
        Wrapping::Oaep => Cipher {
            kind: CKM_RSA_PKCS_OAEP,
            parameter: CipherParameter::Oaep { hash: CKM_SHA_1, mgf: CKG_MGF1_SHA1 },
        },
    };
    if listed(cipher.kind) { Ok(cipher) } else { Err(lacks()) }
}

/// Whether the mechanism that PKCS #11 named before its third version is RFC 5649, at least for whole blocks, which AES keys
/// are: its text left room for other ways. What openssl makes of a key tells, with keys that end with the session.
///
/// Behind what is no whole number of blocks, SoftHSM 2.6 puts zeros first. PKCS #8 is DER, which tells where it ends.
fn pads_by_rfc_5649(session: &Session) -> Result<bool, HsmError> {
    const KEK: &[u8] = &[0x0b; 24];
    const KEY: &[u8] = &[0x0c; 16];
    const WRAPPED: &[u8] = &[
        0xe3, 0x11, 0xe0, 0xbf, 0x18, 0x7d, 0x90, 0x7b, 0x13, 0xc4, 0x41, 0x47, 0x0c, 0x67, 0xb5, 0xa0, 0x8d,
        0x2d, 0x14, 0x2e, 0xe4, 0x37, 0x65, 0xbf,
    ];
    static KNOWN: OnceLock<bool> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let made = |key_type, value: &[u8], more: &[Attribute]| {
        let key = [
            Attribute::number(CKA_CLASS, CKO_SECRET_KEY),
            Attribute::number(CKA_KEY_TYPE, key_type),
            Attribute::bool(CKA_TOKEN, false),
            // Nobody shall take it for a key that is wanted.
            Attribute::bytes(CKA_ID, KeyId::for_purpose("probe").as_bytes()),
            Attribute::bytes(CKA_LABEL, super::probe::LABEL),
            Attribute::bytes(CKA_VALUE, value),
        ];
        session.create(&[&key[..], more].concat())
    };
    let tried = (|| {
        let by = made(CKK_AES, KEK, &[Attribute::bool(CKA_WRAP, true)])?;
        let wrapped = made(CKK_AES, KEY, &[Attribute::bool(CKA_EXTRACTABLE, true)]).and_then(|key| {
            let with = Cipher { kind: CKM_AES_KEY_WRAP_PAD, parameter: CipherParameter::None };
            let wrapped = session.wrap(&with, by, key);
            let _ = session.end(key);
            wrapped
        });
        let _ = session.end(by);
        wrapped
    })();
    let pads = match tried {
        Ok(wrapped) => wrapped == WRAPPED,
        Err(failure) => {
            let error = HsmError::from(failure);
            if matches!(error.kind, Kind::Lost | Kind::Device) {
                return Err(error);
            }
            tracing::warn!(error = error.message, "AES_KEY_WRAP_PAD cannot be tried, and is not used");
            false
        }
    };
    Ok(*KNOWN.get_or_init(|| pads))
}

/// The one key of an id: its private or secret half, and public halves.
pub fn key(objects: &mut Objects<'_>, id: &KeyId) -> Result<(Object, Vec<Object>), HsmError> {
    let Group { mut whole, public, .. } = Group::find(objects, id)?;
    let token = &objects.token.facts.label;
    match (whole.pop(), whole.len()) {
        (Some(key), 0) => Ok((key.object, public)),
        (None, _) => Err(HsmError::new(Kind::KeyNotFound, format!("token {token} has no key {id}"))),
        (Some(_), others) => Err(HsmError::new(
            Kind::Ambiguous,
            format!("token {token} has {} keys with the id {id}; none of them is used", others + 1),
        )),
    }
}

/// Refuses what an attribute of a key forbids. For some modules such a key is none, and they say that its handle is bad.
pub fn may(session: &Session, key: Object, kind: CK_ATTRIBUTE_TYPE, otherwise: &str) -> Result<(), HsmError> {
    let [value] = session.attributes(key, [kind])?;
    match flag(&value) {
        Some(false) => Err(HsmError::new(Kind::Forbidden, otherwise)),
        _ => Ok(()),
    }
}

/// See [`crate::hsm::protocol::Request::Wrap`].
pub fn wrap(objects: &mut Objects<'_>, job: &Wrap) -> Result<Vec<u8>, HsmError> {
    let (own, mut public) = match &job.alone {
        // What another half left behind, or somebody put there, would wrap for whoever has the private one.
        Some(spki) => {
            let public = lone::of(objects, &job.by, spki)?;
            (public, vec![public])
        }
        None => key(objects, &job.by)?,
    };
    let by = match (job.method.row().by, public.len()) {
        (KeyAlgorithm::Rsa, 1) => public.remove(0),
        (KeyAlgorithm::Rsa, count) => {
            let message = format!(
                "token {} has {count} public keys with the id {}, and one is needed to wrap with",
                objects.token.facts.label, job.by
            );
            return Err(HsmError::new(Kind::Ambiguous, message));
        }
        _ => own,
    };
    let (wrapped, _) = key(objects, &job.key)?;
    let session = objects.session;
    may(session, by, CKA_WRAP, "the key does not wrap others: its attribute wrap is false")?;
    may(session, wrapped, CKA_EXTRACTABLE, "the key does not leave its token: it is not extractable")?;
    let with = mechanism(objects.token, session, job.method)?;
    session.wrap(&with, by, wrapped).map_err(|failure| not_wrapped(failure, job.method))
}

/// Says of a key that a method does not take what would.
fn not_wrapped(failure: Failure, method: WrapMethod) -> HsmError {
    let blocks = method.row().wrapping == Wrapping::Kw;
    let size = matches!(failure.code, CKR_KEY_SIZE_RANGE | CKR_DATA_LEN_RANGE);
    let error = HsmError::from(failure);
    if failure.code == CKR_KEY_NOT_WRAPPABLE {
        // It may leave the token: that was looked at.
        let message = format!("the token does not wrap keys of this kind with {method} ({})", error.message);
        return HsmError { kind: Kind::Unsupported, message, ..error };
    }
    if blocks && size {
        let message = format!(
            "{method} takes a key only if it is whole blocks of eight bytes when it is written down; use the method with \
             _PAD ({})",
            error.message
        );
        return HsmError { kind: Kind::Unsupported, message, ..error };
    }
    error
}
