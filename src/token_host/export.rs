//! A key in plain, of a token that lets it go.

use cryptoki_sys::*;

use super::{
    index::Objects,
    object::{Group, Key},
    raw::{Object, Session},
};
use crate::{
    hsm::{
        import::Exported,
        protocol::{HsmError, Kind},
    },
    model::{
        KeyId,
        material::{Material, RsaNumbers},
        secret::Plaintext,
    },
};

/// See [`crate::hsm::protocol::Request::Export`].
pub fn export(objects: &mut Objects<'_>, id: &KeyId) -> Result<Exported, HsmError> {
    let Group { mut whole, public, .. } = Group::find(objects, id)?;
    let token = &objects.token.facts.label;
    let key = match (whole.pop(), whole.len()) {
        (Some(key), 0) => key,
        (None, _) => {
            return Err(HsmError::new(Kind::KeyNotFound, format!("token {token} has no key {id}")));
        }
        (Some(_), others) => {
            let message =
                format!("token {token} has {} keys with the id {id}; none of them is exported", others + 1);
            return Err(HsmError::new(Kind::Ambiguous, message));
        }
    };
    // Also where the token would give it out: some take one of both for enough.
    if key.attributes.extractable != Some(true) || key.attributes.sensitive != Some(false) {
        let message = "the key does not leave its token in plain: it is not extractable, or sensitive";
        return Err(HsmError::new(Kind::Forbidden, message));
    }
    let material = material(objects.session, &key)?;
    let facts = key.facts(objects.session, &public, 1)?;
    Ok(Exported { facts, material })
}

fn material(session: &Session, key: &Key) -> Result<Material, HsmError> {
    let object = key.object;
    match key.key_type {
        Some(CKK_RSA) => {
            let [modulus, public_exponent] = session
                .attributes(object, [CKA_MODULUS, CKA_PUBLIC_EXPONENT])?
                .map(Option::unwrap_or_default);
            Ok(Material::Rsa(Box::new(RsaNumbers {
                modulus: modulus.into(),
                public_exponent: public_exponent.into(),
                private_exponent: secret(session, object, CKA_PRIVATE_EXPONENT)?,
                prime1: secret(session, object, CKA_PRIME_1)?,
                prime2: secret(session, object, CKA_PRIME_2)?,
                exponent1: secret(session, object, CKA_EXPONENT_1)?,
                exponent2: secret(session, object, CKA_EXPONENT_2)?,
                coefficient: secret(session, object, CKA_COEFFICIENT)?,
            })))
        }
        Some(CKK_DSA) => Ok(Material::Exponent(secret(session, object, CKA_VALUE)?)),
        Some(CKK_EC | CKK_EC_EDWARDS) => Ok(Material::Scalar(secret(session, object, CKA_VALUE)?)),
        Some(CKK_AES | CKK_CAMELLIA | CKK_DES3 | CKK_CHACHA20 | CKK_GENERIC_SECRET | CKK_SHA256_HMAC) => {
            Ok(Material::Secret(secret(session, object, CKA_VALUE)?))
        }
        _ => Err(HsmError::new(Kind::Unsupported, "keys of this type are not exported")),
    }
}

fn secret(session: &Session, object: Object, kind: CK_ATTRIBUTE_TYPE) -> Result<Plaintext, HsmError> {
    let [value] = session.attributes(object, [kind])?;
    let value = value.map(Plaintext::from).filter(|value| !value.expose().is_empty());
    value.ok_or_else(|| {
        HsmError::new(
            Kind::Forbidden,
            "the token keeps a part of the key to itself, although it may leave the token",
        )
    })
}
