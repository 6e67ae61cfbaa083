//! Keys on curves, how they are written down, and how fast one signs.

use super::*;
use crate::{
    model::curve::{CURVES, CurveRow},
    token_host::public,
};

/// Digests that no hash makes.
const ABSURD: [&[u8]; 2] = [b"", &[0x5a; 200]];

pub fn probe(token: &Token) -> Result<Findings, HsmError> {
    let mut findings = Findings::default();
    if !has(token, CKM_EC_KEY_PAIR_GEN) || !has(token, CKM_ECDSA) {
        return Ok(findings);
    }
    let session = token.session()?;
    let (mut made, mut last) = (Vec::new(), None);
    for row in CURVES.iter().filter(|row| row.weierstrass.is_some()) {
        let Some(params) = public::oid(row.oid) else { continue };
        match Pair::make(&session, CKM_EC_KEY_PAIR_GEN, &specific(&params)) {
            Ok(pair) => made.push((row, params, pair)),
            Err(failure) => last = Some(HsmError::from(failure)),
        }
    }
    let usual = made.iter().find(|(row, ..)| row.name == "P-256").or(made.first());
    let Some((row, params, pair)) = usual else {
        return Err(last.unwrap_or_else(|| HsmError::new(Kind::Unsupported, "no curve was tried")));
    };
    findings.curves = made.iter().map(|(row, ..)| row.name.to_owned()).collect();
    let (ecdsa, digest) = (Mechanism::plain(CKM_ECDSA), [0x5a; 32]);
    findings.speed = speed(&session, &ecdsa, pair.private, &digest, row.name);
    findings.refuted_signatures = refuted(token, &session, pair.private, KeyShape::Ec(row.order_bits));
    findings.quirks.extend(refusals(&findings.refuted_signatures));
    findings.quirks.extend(written(&session, row, params, pair)?);
    findings.quirks.push(signature_size(token, &ecdsa, pair.private, &digest)?);
    findings.quirks.push(absurd(token, &ecdsa, pair.private)?);
    Ok(findings)
}

pub fn specific(params: &[u8]) -> [Attribute; 2] {
    [Attribute::number(CKA_KEY_TYPE, CKK_EC), Attribute::bytes(CKA_EC_PARAMS, params)]
}

/// How the public key is written down.
fn written(session: &Session, row: &CurveRow, params: &[u8], pair: &Pair) -> Result<[Quirk; 3], HsmError> {
    let [point] = session.attributes(pair.public, [CKA_EC_POINT])?;
    let point = point.unwrap_or_default();
    let encoding = {
        let (name, means) = ("ecPoint", "both encodings are read");
        let bare = row.weierstrass.as_ref().is_some_and(|curve| point.len() == 1 + curve.p.len());
        match public::ec(params, &point) {
            None => Quirk::odd(name, "cannot be read", "keys of this token have no public half here"),
            Some(_) if bare => Quirk::odd(name, "bare bytes", means),
            Some(_) => Quirk::usual(name, "OCTET STRING", means),
        }
    };
    let size = {
        let (name, means) = ("attributeSizes", "room is made for more than is said");
        match session.attribute_size(pair.public, CKA_EC_POINT)? {
            Some(said) if said == point.len() => Quirk::usual(name, "right", means),
            Some(said) => Quirk::odd(name, format!("says {said} for {}", point.len()), means),
            None => Quirk::odd(name, "not told", means),
        }
    };
    let info = {
        let (name, means) = ("publicKeyInfo", "the public key is put together from the public half");
        let [info] = session.attributes(pair.private, [CKA_PUBLIC_KEY_INFO])?;
        match info {
            None => Quirk::odd(name, "none", means),
            Some(info) if info.is_empty() => Quirk::odd(name, "empty", means),
            Some(info) if Some(&info) == public::ec(params, &point).as_ref() => {
                Quirk::usual(name, "right", means)
            }
            Some(_) => Quirk::odd(name, "written in another way", means),
        }
    };
    Ok([encoding, size, info])
}

/// Whether the token looks at what it is given for a digest.
fn absurd(token: &Token, ecdsa: &Mechanism, key: Object) -> Result<Quirk, HsmError> {
    let (name, means) = ("digestLength", "the operator refuses digests that no hash makes");
    for digest in ABSURD {
        if token.session()?.sign(ecdsa, key, digest).is_ok() {
            return Ok(Quirk::odd(name, "not checked", means));
        }
    }
    Ok(Quirk::usual(name, "checked", means))
}
