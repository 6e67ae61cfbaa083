//! Key agreement on the curve that files are encrypted on, and whether the secret can be had.

use super::{curves::specific, *};
use crate::{
    hsm::probe::SHARED_SECRETS,
    model::curve::CURVES,
    token_host::{agreement, public},
};

const MEANS: &str = "files are encrypted for EC keys, and decrypted";
const CURVE: &str = "P-384";

pub fn probe(token: &Token) -> Result<Findings, HsmError> {
    let none =
        |why: &str| Quirk::odd(SHARED_SECRETS, format!("not to be had: {why}"), "files are not encrypted");
    let quirk = if !has(token, CKM_ECDH1_DERIVE) {
        none("no CKM_ECDH1_DERIVE")
    } else if !has(token, CKM_EC_KEY_PAIR_GEN) {
        none("no keys on curves")
    } else {
        match agree(token)? {
            Ok(()) => Quirk::usual(SHARED_SECRETS, "right", MEANS),
            Err(error) if refuses(&error) => none(word(&error)),
            Err(error) => Quirk::not_probed(SHARED_SECRETS, word(&error), MEANS),
        }
    };
    Ok(Findings { quirks: vec![quirk], ..Findings::default() })
}

/// Two keys that have each other's point must come to the same secret.
fn agree(token: &Token) -> Result<Result<(), HsmError>, HsmError> {
    let session = token.session()?;
    let row = CURVES.iter().find(|row| row.name == CURVE).expect("it is in the table");
    let params = public::oid(row.oid).expect("the identifier is well-formed");
    let make = || -> Result<(Object, Vec<u8>), HsmError> {
        let public: Vec<_> = common(CKO_PUBLIC_KEY).into_iter().chain(specific(&params)).collect();
        let private = common(CKO_PRIVATE_KEY).into_iter().chain([
            Attribute::number(CKA_KEY_TYPE, CKK_EC),
            Attribute::bool(CKA_DERIVE, true),
            Attribute::bool(CKA_SENSITIVE, true),
            Attribute::bool(CKA_EXTRACTABLE, false),
        ]);
        let private: Vec<_> = private.collect();
        let generator = Mechanism::plain(CKM_EC_KEY_PAIR_GEN);
        let (public, private) = session.generate_pair(&generator, &public, &private)?;
        let [point] = session.attributes(public, [CKA_EC_POINT])?;
        let spki = public::ec(&params, &point.unwrap_or_default());
        let spki = spki.ok_or_else(|| HsmError::new(Kind::Device, "a point that cannot be read"))?;
        let length = 1 + row.weierstrass.as_ref().map_or(0, |curve| curve.p.len());
        Ok((private, spki[spki.len() - length..].to_vec()))
    };
    let both = || {
        let ((one, its), (other, others)) = (make()?, make()?);
        let same = agreement::secret(&session, one, &others)? == agreement::secret(&session, other, &its)?;
        if same { Ok(()) } else { Err(HsmError::new(Kind::Unsupported, "two keys do not agree")) }
    };
    match both() {
        Err(error) if error.kind == Kind::Lost => Err(error),
        outcome => Ok(outcome),
    }
}
