//! Ed25519: how it is written down, and what of it is there.

use super::*;
use crate::{
    model::curve::ED25519_OID,
    token_host::{public, raw::Parameter},
};

pub fn probe(token: &Token) -> Result<Findings, HsmError> {
    let mut findings = Findings::default();
    if !has(token, CKM_EC_EDWARDS_KEY_PAIR_GEN) || !has(token, CKM_EDDSA) {
        return Ok(findings);
    }
    let session = token.session()?;
    let (pair, curve) = match make(&session) {
        Ok(made) => made,
        Err(failure) => {
            let error = settled(failure)?;
            findings.refuted_keys = refuted_key(token, &error, KeyAlgorithm::Ed);
            let means = "keys of this type are not made";
            findings.quirks.push(Quirk::not_probed(Probe::Edwards.name(), word(&error), means));
            return Ok(findings);
        }
    };
    findings.quirks.push(curve);
    findings.refuted_signatures = refuted(token, &session, pair.private, KeyShape::Ed);
    findings.quirks.extend(refusals(&findings.refuted_signatures));
    let [point] = session.attributes(pair.public, [CKA_EC_POINT])?;
    findings.quirks.push(match point {
        Some(point) if point.len() == 32 => {
            Quirk::usual("edwardsPoint", "bare bytes", "both encodings are read")
        }
        Some(_) => Quirk::odd("edwardsPoint", "OCTET STRING", "both encodings are read"),
        None => Quirk::odd("edwardsPoint", "none", "keys of this type have no public half here"),
    });
    let plain = session.sign(&Mechanism::plain(CKM_EDDSA), pair.private, b"probe")?;
    findings.quirks.push(parts(token, pair.private, &plain)?);
    findings.quirks.push(context(token, pair.private, &plain)?);
    Ok(findings)
}

/// A key, and how its curve had to be named.
fn make(session: &Session) -> Result<(Pair, Quirk), Failure> {
    const NAME: &str = "edwardsCurve";
    const MEANS: &str = "both ways to name the curve are tried";
    let attempt = |params: &[u8]| {
        let specific =
            [Attribute::number(CKA_KEY_TYPE, CKK_EC_EDWARDS), Attribute::bytes(CKA_EC_PARAMS, params)];
        Pair::make(session, CKM_EC_EDWARDS_KEY_PAIR_GEN, &specific)
    };
    let oid = public::oid(ED25519_OID).expect("the table's identifiers are well-formed");
    match attempt(&oid) {
        Ok(pair) => Ok((pair, Quirk::usual(NAME, "by identifier", MEANS))),
        Err(failure) => match attempt(object::EDWARDS25519) {
            Ok(pair) => Ok((pair, Quirk::odd(NAME, "by name only", MEANS))),
            Err(_) => Err(failure),
        },
    }
}

/// Whether a message can be signed in parts.
fn parts(token: &Token, key: Object, plain: &[u8]) -> Result<Quirk, HsmError> {
    let (name, means) = ("edwardsParts", "a message is signed in one piece");
    let signed = token.session()?.sign_parts(&Mechanism::plain(CKM_EDDSA), key, &[b"pro", b"be"]);
    Ok(match signed {
        Ok(signature) if signature == plain => Quirk::usual(name, "signed", means),
        Ok(_) => Quirk::odd(name, "signed wrongly", means),
        Err(_) => Quirk::odd(name, "refused", means),
    })
}

/// Whether the token heeds the parameters of Ed25519ctx: signatures are the same for the same input.
fn context(token: &Token, key: Object, plain: &[u8]) -> Result<Quirk, HsmError> {
    let (name, means) = ("edwardsContext", "no algorithm with a context is offered");
    let with = Mechanism { kind: CKM_EDDSA, parameter: Some(Parameter::Context(b"probe")) };
    Ok(match token.session()?.sign(&with, key, b"probe") {
        Ok(signature) if signature == plain => Quirk::odd(name, "ignored", means),
        Ok(_) => Quirk::usual(name, "heeded", means),
        Err(_) => Quirk::usual(name, "refused", means),
    })
}
